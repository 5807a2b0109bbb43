// A linear layer whose rows stay in f32: the embedding of time, which has a row a sample, and the head, which is narrow.
//
//   out[r, n] = sum_k x[r, k] * w[n, k] + bias[n]
//
//   x     [rows, depth]       f32
//   w     [columns, depth]    bf16
//   bias  [columns]           bf16, or null
//   out   [rows, columns]     f32
//
//   tile     ROWS rows, a warp COLUMNS columns of them; grid.x = row tiles * column tiles, columns fastest
//   lane     every 32nd group of four along the depth, of all rows and columns of its warp
//   sum      f32, fused, over a lane's groups, then a butterfly over the lanes: always the same order
//   edge     rows and columns past the end are read as the last one and not stored
//
// Tensor cores would round the rows. Rows come from L1 for all warps but the first.
//
// sass: all LDG.E.128 LDG.E.64 FFMA SHFL.BFLY
#include "kernel.cuh"
#include "ptx.cuh"
#include "rows_params.h"

namespace {

constexpr int THREADS = 256;
constexpr int ROWS = 4;
constexpr int COLUMNS = 4;
constexpr int COLUMN_TILE = THREADS / WARP * COLUMNS;
constexpr int GROUP = 4;

}  // namespace

TW_KERNEL(linear_f32, LinearF32Params, THREADS) {
  const int64_t column_tiles = (p.columns + COLUMN_TILE - 1) / COLUMN_TILE;
  const int64_t first_row = blockIdx.x / column_tiles * ROWS;
  const int64_t first_column = blockIdx.x % column_tiles * COLUMN_TILE + threadIdx.x / WARP * COLUMNS;
  if (first_column >= p.columns) return;
  const int lane = lane_index();

  Global<const float> x[ROWS];
  Global<const tw_bf16> w[COLUMNS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) x[r] = global(p.x) + (first_row + r < p.rows ? first_row + r : p.rows - 1) * p.depth;
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) w[c] = global(p.w) + (first_column + c < p.columns ? first_column + c : p.columns - 1) * p.depth;

  // the lane's share of the depth
  float sums[ROWS][COLUMNS] = {};
  for (int64_t at = lane * GROUP; at < p.depth; at += WARP * GROUP) {
    float4 rows[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) rows[r] = load_vector_readonly<float4>(x[r] + at);
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      const uint2 four = load_vector_readonly<uint2>(w[c] + at);
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        float sum = fmaf(rows[r].x, low_bf16(four.x), sums[r][c]);
        sum = fmaf(rows[r].y, high_bf16(four.x), sum);
        sum = fmaf(rows[r].z, low_bf16(four.y), sum);
        sums[r][c] = fmaf(rows[r].w, high_bf16(four.y), sum);
      }
    }
  }

  // of all lanes, bias, store: result i by lane i
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      float sum = sums[r][c];
#pragma unroll
      for (int mask = WARP / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
      if (lane != r * COLUMNS + c || first_row + r >= p.rows || first_column + c >= p.columns) continue;
      if (p.bias != nullptr) {
        const tw_bf16 bias = global(p.bias)[first_column + c];
        sum += low_bf16(bias);
      }
      global(p.out)[(first_row + r) * p.columns + first_column + c] = sum;
    }
  }
}
