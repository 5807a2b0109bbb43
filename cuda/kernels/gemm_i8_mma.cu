// int8 GEMM with block scales (W8A8) on mma.sync.
//
//   y[r, c] = sum_b a_scale[r, b] * w_scale[c, b] * ( sum_{k in b} a[r, k] * w[c, k] )      b: 128 consecutive k
//
//   a  [rows, depth] int8, scales [ceil(rows / a_block_rows), depth / 128]       a_block_rows: 128 (official) or 1
//   w  [columns, depth] int8, scales [ceil(columns / 128), depth / 128]          depth a multiple of 128
//
// What follows the sum is gemm_end.cuh; each end is a kernel:
//
//   gemm_i8_mma_store_*       y + bias as bf16, and the squares of each row
//   gemm_i8_mma_store_f32_*   y + bias as f32
//   gemm_i8_mma_quantise_*    gelu(y + bias) as int8 with 1 x 128 scales
//   gemm_i8_mma_add_gated_*   x += gate * (y + bias)
//
//   tile    128 x 128 a block; eight warps, four down and two across, of 32 x 64
//   stages  four, of 128 deep (128 KB, *_k128) or of 64 deep (64 KB, *_k64, for chips with 99 KB); cp.async, 16 bytes
//   shared  a tile's rows are one stage deep and swizzled: copies and ldmatrix are free of conflicts
//   order   tiles of BAND rows of tiles go down before they go across, so that what runs at once shares both operands
//   edge    rows past the end of either operand are zeros in shared memory; nothing past the end is stored
//
// The inner sum is an exact integer below 2^21 in magnitude. It starts from the bits of 1.5 * 2^23, so that its bits are
// those of the f32 number 1.5 * 2^23 + sum: a subtraction converts it, where a conversion has a quarter of the rate. The
// outer sum is one fused multiply-add a block, in the order of the blocks: the bits of the host twin (src/ops/gemm_int8).
//
// Bytes: of a and w each tile once from L2; 32 KB and 2^22 operations for a tile of 128 deep.
//
// sass: all LDGSTS.E.BYPASS.128 LDSM.16.M88.4 IMMA.16832.S8.S8 LDG.E.128 STG.E.128
#include "kernel.cuh"
#include "params.h"
#include "ptx.cuh"
#include "tile.cuh"

#include "gemm_end.cuh"

namespace {

constexpr int BLOCK = 128;  // depth of a scale
constexpr int STAGES = 4;
constexpr int BAND = 16;    // rows of tiles that go down together
constexpr int ROW_WARPS = 4, COLUMN_WARPS = 2;
constexpr int ROW_TILES = GEMM_TILE / ROW_WARPS / 16, COLUMN_TILES = GEMM_TILE / COLUMN_WARPS / 8;
static_assert(ROW_WARPS * COLUMN_WARPS * WARP == GEMM_THREADS, "every warp has its part of the tile");

constexpr int32_t SUM_START = 0x4b400000;  // the bits of SUM_START_VALUE
constexpr float SUM_START_VALUE = 12582912.0f;
static_assert(BLOCK * 128 * 128 <= 1 << 21, "a sum leaves the range in which its bits are a number");

// One operand on its way to shared memory: a thread copies one chunk of every PASS_ROWS rows of a stage.
template <int DEPTH>
struct Feed {
  using Rows = Swizzled<DEPTH>;
  static constexpr int PASS_ROWS = GEMM_THREADS / Rows::CHUNKS;
  static constexpr int PASSES = GEMM_TILE / PASS_ROWS;
  static constexpr uint32_t BYTES = GEMM_TILE * DEPTH;
  static_assert(PASS_ROWS * DEPTH % Rows::PATTERN_BYTES == 0, "each pass would have a swizzle of its own");

  Global<const int8_t> source;
  int64_t step;        // between the rows of two passes
  int32_t rows_left;   // from the thread's first row to the end of the matrix
  uint32_t place;

  __device__ __forceinline__ Feed(Global<const int8_t> matrix, int64_t first_row, int64_t rows, int64_t depth) {
    const uint32_t row = threadIdx.x / Rows::CHUNKS, chunk = threadIdx.x % Rows::CHUNKS;
    source = matrix + ((first_row + row) * depth + chunk * CHUNK_BYTES);
    step = PASS_ROWS * depth;
    rows_left = static_cast<int32_t>(min(rows - first_row, int64_t{GEMM_TILE})) - static_cast<int32_t>(row);
    place = Rows::chunk(row, chunk);
  }

  // Copies the next DEPTH columns to the stage at `target`.
  __device__ __forceinline__ void copy(uint32_t target) {
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
      const uint32_t bytes = pass * PASS_ROWS < rows_left ? CHUNK_BYTES : 0;
      cp_async_zero_fill<CHUNK_BYTES>(target + place + pass * PASS_ROWS * DEPTH, source + pass * step, bytes);
    }
    source += DEPTH;
  }
};

// Adds the products of one stage. `a` and `w` are the warp's rows of both tiles, `lane_*` this lane's part of ldmatrix.
template <int DEPTH>
TW_DEVICE void multiply(uint32_t a, uint32_t w, int lane, int32_t (&dots)[ROW_TILES][COLUMN_TILES][4]) {
  using Rows = Swizzled<DEPTH>;
#pragma unroll
  for (int k = 0; k < DEPTH / 32; k++) {
    const uint32_t a_lane = a + Rows::chunk(LoadMatrix::a_row(lane), k * 2 + LoadMatrix::a_chunk(lane));
    const uint32_t w_lane = w + Rows::chunk(LoadMatrix::b_column(lane), k * 2 + LoadMatrix::b_chunk(lane));
    uint32_t a_fragments[ROW_TILES][4];
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) ldmatrix_x4(a_fragments[i], a_lane + i * 16 * DEPTH);
#pragma unroll
    for (int j = 0; j < COLUMN_TILES; j += 2) {
      uint32_t w_fragments[4];
      ldmatrix_x4(w_fragments, w_lane + j * 8 * DEPTH);
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++) {
        mma_m16n8k32_s8(dots[i][j], a_fragments[i], w_fragments[0], w_fragments[1]);
        mma_m16n8k32_s8(dots[i][j + 1], a_fragments[i], w_fragments[2], w_fragments[3]);
      }
    }
  }
}

// Which tile block `index` has.
struct TileIndex {
  int64_t row, column;
  __device__ __forceinline__ TileIndex(uint32_t index, int64_t rows, int64_t columns) {
    const uint32_t row_tiles = static_cast<uint32_t>((rows + GEMM_TILE - 1) / GEMM_TILE);  // their product is the grid
    const uint32_t column_tiles = static_cast<uint32_t>((columns + GEMM_TILE - 1) / GEMM_TILE);
    const uint32_t band = index / (BAND * column_tiles), inside = index % (BAND * column_tiles);
    const uint32_t band_rows = min(row_tiles - band * BAND, static_cast<uint32_t>(BAND));
    row = band * BAND + inside % band_rows;
    column = inside / band_rows;
  }
};

// The sums of the block's tile, each thread's fragments of them.
template <int DEPTH>
TW_DEVICE EndPlace gemm(const GemmI8Params& p, float (&sums)[ROW_TILES][COLUMN_TILES][4]) {
  using Operand = Feed<DEPTH>;
  constexpr uint32_t STAGE_BYTES = 2 * Operand::BYTES;
  static_assert(END_BYTES <= STAGES * STAGE_BYTES, "the end has no room");
  const uint32_t stages = shared_address(dynamic_shared<int8_t>(0, STAGES * STAGE_BYTES));

  const int lane = lane_index(), warp = warp_index();
  const int row_warp = warp / COLUMN_WARPS, column_warp = warp % COLUMN_WARPS;
  const TileIndex tile(blockIdx.x, p.rows, p.columns);
  EndPlace at;
  at.first_row = tile.row * GEMM_TILE;
  at.first_column = tile.column * GEMM_TILE;
  at.row = row_warp * ROW_TILES * 16 + Fragment::c_row(lane, 0);
  at.column = column_warp * COLUMN_TILES * 8 + Fragment::c_column(lane, 0);
  at.column_warp = column_warp;

  Operand a(global(p.a), at.first_row, p.rows, p.depth), w(global(p.w), at.first_column, p.columns, p.depth);
  const uint32_t a_warp = stages + row_warp * ROW_TILES * 16 * DEPTH;
  const uint32_t w_warp = stages + Operand::BYTES + column_warp * COLUMN_TILES * 8 * DEPTH;

  // scales: of the thread's rows, a row past the end taking those of the last one
  const int64_t blocks = p.depth / BLOCK;
  const Global<const float> w_scales = global(p.w_scales) + tile.column * blocks;
  Global<const float> a_scales[ROW_TILES][2];
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int64_t row = min(at.first_row + end_row(at, i, half), p.rows - 1);
      a_scales[i][half] = global(p.a_scales) + (p.a_block_rows == 1 ? row : row / BLOCK) * blocks;
    }
  }

  const int64_t steps = p.depth / DEPTH;
#pragma unroll
  for (int step = 0; step < STAGES - 1; step++) {
    if (step < steps) {
      a.copy(stages + step * STAGE_BYTES);
      w.copy(stages + step * STAGE_BYTES + Operand::BYTES);
    }
    cp_async_commit();
  }

#pragma unroll
  for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
    for (int j = 0; j < COLUMN_TILES; j++) {
#pragma unroll
      for (int c = 0; c < 4; c++) sums[i][j][c] = 0.0f;
    }
  }

  int64_t step = 0;
  for (int64_t block = 0; block < blocks; block++) {
    // asked for now, used after the products
    const float w_scale = w_scales[block];
    float scales[ROW_TILES][2];
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
      for (int half = 0; half < 2; half++) scales[i][half] = a_scales[i][half][block];
    }

    int32_t dots[ROW_TILES][COLUMN_TILES][4];
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
      for (int j = 0; j < COLUMN_TILES; j++) {
#pragma unroll
        for (int c = 0; c < 4; c++) dots[i][j][c] = SUM_START;
      }
    }

#pragma unroll
    for (int part = 0; part < BLOCK / DEPTH; part++, step++) {
      cp_async_wait_group<STAGES - 2>();
      block_sync();  // all copies of this step are there, and the stage of the step before it is free
      if (step + STAGES - 1 < steps) {
        const uint32_t next = stages + static_cast<uint32_t>(step + STAGES - 1) % STAGES * STAGE_BYTES;
        a.copy(next);
        w.copy(next + Operand::BYTES);
      }
      cp_async_commit();
      const uint32_t offset = static_cast<uint32_t>(step) % STAGES * STAGE_BYTES;
      multiply<DEPTH>(a_warp + offset, w_warp + offset, lane, dots);
    }

#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
      const float scale[2] = {scales[i][0] * w_scale, scales[i][1] * w_scale};
#pragma unroll
      for (int j = 0; j < COLUMN_TILES; j++) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
          const float dot = float_of(static_cast<uint32_t>(dots[i][j][c])) - SUM_START_VALUE;
          sums[i][j][c] = fmaf(dot, scale[c / 2], sums[i][j][c]);
        }
      }
    }
  }
  cp_async_wait_group<0>();
  block_sync();  // the stages are free for the end
  return at;
}

template <int DEPTH>
TW_DEVICE void gemm_store(const GemmI8Params& p) {
  TW_SHARED(float, partial, COLUMN_WARPS * GEMM_TILE);
  float sums[ROW_TILES][COLUMN_TILES][4];
  const EndPlace at = gemm<DEPTH>(p, sums);
  end_store<EndRounds::Twice, COLUMN_WARPS>(p, at, sums, partial);
}

template <int DEPTH>
TW_DEVICE void gemm_store_f32(const GemmI8Params& p) {
  float sums[ROW_TILES][COLUMN_TILES][4];
  const EndPlace at = gemm<DEPTH>(p, sums);
  end_store_f32(p, at, sums);
}

template <int DEPTH>
TW_DEVICE void gemm_quantise(const GemmI8Params& p) {
  TW_SHARED(float, partial, COLUMN_WARPS * GEMM_TILE);
  float sums[ROW_TILES][COLUMN_TILES][4];
  const EndPlace at = gemm<DEPTH>(p, sums);
  end_quantise<EndRounds::Twice, COLUMN_WARPS>(p, at, sums, partial);
}

template <int DEPTH>
TW_DEVICE void gemm_add_gated(const GemmI8Params& p) {
  float sums[ROW_TILES][COLUMN_TILES][4];
  const EndPlace at = gemm<DEPTH>(p, sums);
  end_add_gated<EndRounds::Twice>(p, at, sums);
}

}  // namespace

TW_KERNEL(gemm_i8_mma_store_k128, GemmI8Params, GEMM_THREADS) { gemm_store<128>(p); }
TW_KERNEL(gemm_i8_mma_store_k64, GemmI8Params, GEMM_THREADS) { gemm_store<64>(p); }
TW_KERNEL(gemm_i8_mma_store_f32_k128, GemmI8Params, GEMM_THREADS) { gemm_store_f32<128>(p); }
TW_KERNEL(gemm_i8_mma_store_f32_k64, GemmI8Params, GEMM_THREADS) { gemm_store_f32<64>(p); }
TW_KERNEL(gemm_i8_mma_quantise_k128, GemmI8Params, GEMM_THREADS) { gemm_quantise<128>(p); }
TW_KERNEL(gemm_i8_mma_quantise_k64, GemmI8Params, GEMM_THREADS) { gemm_quantise<64>(p); }
TW_KERNEL(gemm_i8_mma_add_gated_k128, GemmI8Params, GEMM_THREADS) { gemm_add_gated<128>(p); }
TW_KERNEL(gemm_i8_mma_add_gated_k64, GemmI8Params, GEMM_THREADS) { gemm_add_gated<64>(p); }
