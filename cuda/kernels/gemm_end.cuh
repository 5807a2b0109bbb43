// What happens to a product before it is stored: the ends that every GEMM shares.
//
//   y = round(product) + bias, rounded                  the first rounding only with EndRounds::Twice
//
//   end_store       y as bf16, and if asked for the sums of y^2 over each row of a tile
//   end_store_f32   y as f32, without any rounding
//   end_quantise    gelu(y), rounded, as int8 with a scale for each row and 128 columns (the rule of quant_block_1x128)
//   end_add_gated   x = round(x + round(gate * y)), in place
//
// A block ends a tile of 128 x 128 that lies in the registers of its warps as mma.sync and wgmma leave it: ROW_TILES
// tiles of 16 rows, COLUMN_TILES tiles of 8 columns. Rounded to 16 or 8 bits the tile goes through shared memory, whose
// rows are padded so that neither the pairs written nor the chunks read meet on a bank, and leaves in chunks of 16 bytes:
// half a warp has a row. Rows past the end, and columns, are computed and not stored. Where the width is no multiple of a
// chunk's values, rows start between chunks, and values are stored one by one.
#pragma once
#include "params.h"
#include "ptx.cuh"
#include "tile.cuh"

namespace {

constexpr int GEMM_TILE = 128;     // rows and columns of a block's tile
constexpr int GEMM_THREADS = 256;  // that end it
constexpr int END_LANES = 16;      // threads that store a row: 16-byte chunks of bf16
constexpr int END_PASS_ROWS = GEMM_THREADS / END_LANES;
constexpr uint32_t BF16_PITCH = GEMM_TILE * 2 + CHUNK_BYTES;
constexpr uint32_t S8_PITCH = GEMM_TILE + CHUNK_BYTES;
constexpr int END_BYTES = GEMM_TILE * BF16_PITCH;  // of shared memory, at the start of the dynamic part
constexpr int END_CHUNK = 8;                       // values of bf16 in a chunk

// Where the tile lies, and which part of it a thread's fragments are.
struct EndPlace {
  int64_t first_row, first_column;  // of the tile
  int row, column;                  // of the thread's first value, in the tile
  int column_warp;                  // which of the warps that share a row
};

// Row of a fragment in the tile: `half` is 0 for c0, c1 and 1 for c2, c3.
TW_DEVICE int end_row(const EndPlace& at, int row_tile, int half) { return at.row + row_tile * 16 + half * 8; }

// Two values to bf16 and back.
TW_DEVICE void round_pair(float& first, float& second) {
  const uint32_t pair = pack_bf16(first, second);
  first = low_bf16(pair);
  second = high_bf16(pair);
}

// What is rounded to bf16: nothing, y, or also the product, where the official code stores it before it adds the bias.
enum class EndRounds { Never, Once, Twice };

// product -> y
template <EndRounds ROUNDS, int ROW_TILES, int COLUMN_TILES, class P>
TW_DEVICE void add_bias(const P& p, const EndPlace& at, float (&y)[ROW_TILES][COLUMN_TILES][4]) {
  const Global<const tw_bf16> bias = global(p.bias);
#pragma unroll
  for (int j = 0; j < COLUMN_TILES; j++) {
    const int64_t column = at.first_column + at.column + j * 8;  // even, so a pair is one load
    float first = 0.0f, second = 0.0f;
    if (p.bias != nullptr) {
      if (column + 1 < p.columns) {
        const uint32_t pair = load_vector_readonly<uint32_t>(bias + column);
        first = low_bf16(pair);
        second = high_bf16(pair);
      } else if (column < p.columns) {
        const tw_bf16 last = bias[column];
        first = low_bf16(last);
      }
    }
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float &low = y[i][j][2 * half], &high = y[i][j][2 * half + 1];
        if (p.bias != nullptr) {
          if (ROUNDS == EndRounds::Twice) round_pair(low, high);
          low += first;
          high += second;
        }
        if (ROUNDS != EndRounds::Never) round_pair(low, high);
      }
    }
  }
}

// Writes the tile's pairs of bf16 to shared memory; a barrier follows.
template <int ROW_TILES, int COLUMN_TILES>
TW_DEVICE void stage_bf16(const EndPlace& at, const float (&y)[ROW_TILES][COLUMN_TILES][4]) {
  const Shared<uint32_t> pairs = dynamic_shared<uint32_t>(0, END_BYTES / 4);
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const Shared<uint32_t> row = pairs + (end_row(at, i, half) * (BF16_PITCH / 4) + at.column / 2);
#pragma unroll
      for (int j = 0; j < COLUMN_TILES; j++) row[j * 4] = pack_bf16(y[i][j][2 * half], y[i][j][2 * half + 1]);
    }
  }
}

// A 16-byte chunk of a row of the staged tile.
TW_DEVICE uint4 staged_chunk(int row, int lane) {
  const Shared<const uint8_t> bytes = dynamic_shared<uint8_t>(0, END_BYTES);
  return load_vector<uint4>(bytes + (row * BF16_PITCH + lane * CHUNK_BYTES));
}

// The same values one by one.
TW_DEVICE Shared<const tw_bf16> staged_values(int row, int lane) {
  return dynamic_shared<tw_bf16>(row * BF16_PITCH + lane * CHUNK_BYTES, END_CHUNK);
}

// Sums over each row of the tile, in a fixed order, for the first thread of the row's lanes in each of the warps that
// share it: `partial` holds WARPS x 128 values.
template <int WARPS, int ROW_TILES, int COLUMN_TILES, class P>
TW_DEVICE void store_row_sums(const P& p, const EndPlace& at, const float (&y)[ROW_TILES][COLUMN_TILES][4], Shared<float> partial) {
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < COLUMN_TILES; j++) {
        const float first = y[i][j][2 * half], second = y[i][j][2 * half + 1];
        sum = fmaf(second, second, fmaf(first, first, sum));
      }
      sum = row_sum(sum);
      if (lane_index() % 4 == 0) partial[at.column_warp * GEMM_TILE + end_row(at, i, half)] = sum;
    }
  }
  block_sync();
  const int row = static_cast<int>(threadIdx.x);
  if (row < GEMM_TILE && at.first_row + row < p.rows) {
    float sum = partial[row];
#pragma unroll
    for (int warp = 1; warp < WARPS; warp++) sum += static_cast<float>(partial[warp * GEMM_TILE + row]);
    const int64_t tiles = (p.columns + GEMM_TILE - 1) / GEMM_TILE;
    const Global<float> sums = global(p.row_sums);
    sums[(at.first_row + row) * tiles + at.first_column / GEMM_TILE] = sum;
  }
}

// The staged tile to `out_bf16`.
template <class P>
TW_DEVICE void store_bf16(const P& p, const EndPlace& at) {
  const Global<tw_bf16> out = global(p.out_bf16);
  const int lane = static_cast<int>(threadIdx.x) % END_LANES;
  const int64_t column = at.first_column + lane * END_CHUNK;
  const bool is_whole = p.columns % END_CHUNK == 0;
#pragma unroll
  for (int row = static_cast<int>(threadIdx.x) / END_LANES, pass = 0; pass < GEMM_TILE / END_PASS_ROWS; row += END_PASS_ROWS, pass++) {
    if (at.first_row + row >= p.rows || column >= p.columns) continue;
    const Global<tw_bf16> to = out + ((at.first_row + row) * p.columns + column);
    if (is_whole) {
      store_vector(to, staged_chunk(row, lane));
    } else {
      const Shared<const tw_bf16> values = staged_values(row, lane);
      for (int i = 0; i < END_CHUNK && column + i < p.columns; i++) {
        const tw_bf16 value = values[i];
        to[i] = value;
      }
    }
  }
}

template <EndRounds ROUNDS, int WARPS, int ROW_TILES, int COLUMN_TILES, class P>
TW_DEVICE void end_store(const P& p, const EndPlace& at, float (&y)[ROW_TILES][COLUMN_TILES][4], Shared<float> partial) {
  add_bias<ROUNDS>(p, at, y);
  if (p.row_sums != nullptr) store_row_sums<WARPS>(p, at, y, partial);
  stage_bf16(at, y);
  block_sync();
  store_bf16(p, at);
}

// f32 leaves as it lies: four lanes fill 32 bytes of a row.
template <int ROW_TILES, int COLUMN_TILES, class P>
TW_DEVICE void end_store_f32(const P& p, const EndPlace& at, float (&y)[ROW_TILES][COLUMN_TILES][4]) {
  add_bias<EndRounds::Never>(p, at, y);
  const Global<float> out = global(p.out_f32);
  const bool are_pairs_aligned = p.columns % 2 == 0;
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int64_t row = at.first_row + end_row(at, i, half);
      if (row >= p.rows) continue;
#pragma unroll
      for (int j = 0; j < COLUMN_TILES; j++) {
        const int64_t column = at.first_column + at.column + j * 8;
        const Global<float> to = out + (row * p.columns + column);
        const float first = y[i][j][2 * half], second = y[i][j][2 * half + 1];
        if (are_pairs_aligned && column < p.columns) {
          store_vector(to, make_float2(first, second));
        } else {
          if (column < p.columns) to[0] = first;
          if (column + 1 < p.columns) to[1] = second;
        }
      }
    }
  }
}

// GELU in its tanh form, as x * sigmoid(2 u).
TW_DEVICE float gelu(float x) {
  constexpr float TWO_SQRT_2_OVER_PI = 1.5957692f, LOG2_E = 1.442695041f;
  const float u = TWO_SQRT_2_OVER_PI * (x + 0.044715f * x * x * x);
  return divide_fast(x, 1.0f + exp2_fast(-u * LOG2_E));
}

template <EndRounds ROUNDS, int WARPS, int ROW_TILES, int COLUMN_TILES, class P>
TW_DEVICE void end_quantise(const P& p, const EndPlace& at, float (&y)[ROW_TILES][COLUMN_TILES][4], Shared<float> partial) {
  constexpr float LEVELS = 127, AMAX_FLOOR = 1e-8f;
  add_bias<ROUNDS>(p, at, y);

  // the activation, and the largest magnitude of each row
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float amax = AMAX_FLOOR;
#pragma unroll
      for (int j = 0; j < COLUMN_TILES; j++) {
        float &first = y[i][j][2 * half], &second = y[i][j][2 * half + 1];
        first = gelu(first);
        second = gelu(second);
        round_pair(first, second);
        amax = fmaxf(amax, fmaxf(fabsf(first), fabsf(second)));
      }
      amax = row_max(amax);
      if (lane_index() % 4 == 0) partial[at.column_warp * GEMM_TILE + end_row(at, i, half)] = amax;
    }
  }
  block_sync();

  // int8 through shared memory
  const Shared<uint16_t> pairs = dynamic_shared<uint16_t>(0, GEMM_TILE * S8_PITCH / 2);
  const Global<float> scales = global(p.out_scales);
  const int64_t blocks = p.columns / GEMM_TILE;
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = end_row(at, i, half);
      float amax = partial[row];
#pragma unroll
      for (int warp = 1; warp < WARPS; warp++) {
        const float other = partial[warp * GEMM_TILE + row];
        amax = fmaxf(amax, other);
      }
      const float factor = divide(LEVELS, amax);
#pragma unroll
      for (int j = 0; j < COLUMN_TILES; j++) {
        const uint32_t first = static_cast<uint32_t>(to_s8(y[i][j][2 * half] * factor));
        const uint32_t second = static_cast<uint32_t>(to_s8(y[i][j][2 * half + 1] * factor));
        pairs[row * (S8_PITCH / 2) + (at.column + j * 8) / 2] = static_cast<uint16_t>(permute_bytes(first, second, 0x0040));
      }
      if (at.column == 0 && at.first_row + row < p.rows) {
        scales[(at.first_row + row) * blocks + at.first_column / GEMM_TILE] = divide(amax, LEVELS);
      }
    }
  }
  block_sync();

  const Shared<const uint16_t> staged = pairs;
  const Global<int8_t> values = global(p.out_values);
  constexpr int LANES = GEMM_TILE / CHUNK_BYTES, PASS_ROWS = GEMM_THREADS / LANES;
  const int lane = static_cast<int>(threadIdx.x) % LANES;
#pragma unroll
  for (int row = static_cast<int>(threadIdx.x) / LANES, pass = 0; pass < GEMM_TILE / PASS_ROWS; row += PASS_ROWS, pass++) {
    if (at.first_row + row >= p.rows) continue;
    const uint4 chunk = load_vector<uint4>(staged + (row * (S8_PITCH / 2) + lane * (CHUNK_BYTES / 2)));
    store_vector(values + ((at.first_row + row) * p.columns + at.first_column + lane * CHUNK_BYTES), chunk);
  }
}

// x + gate * y, each step rounded to bf16; the bits of a pair.
TW_DEVICE uint32_t add_gated_pair(uint32_t x, uint32_t y, float gate_low, float gate_high) {
  const uint32_t product = pack_bf16(low_bf16(y) * gate_low, high_bf16(y) * gate_high);
  return pack_bf16(low_bf16(x) + low_bf16(product), high_bf16(x) + high_bf16(product));
}

template <EndRounds ROUNDS, int ROW_TILES, int COLUMN_TILES, class P>
TW_DEVICE void end_add_gated(const P& p, const EndPlace& at, float (&y)[ROW_TILES][COLUMN_TILES][4]) {
  add_bias<ROUNDS>(p, at, y);
  stage_bf16(at, y);
  block_sync();

  const Global<tw_bf16> out = global(p.out_bf16);
  const Global<const float> gates = global(p.gate);
  const int lane = static_cast<int>(threadIdx.x) % END_LANES;
  const int64_t column = at.first_column + lane * END_CHUNK;
  const bool is_whole = p.columns % END_CHUNK == 0;
#pragma unroll 2
  for (int row = static_cast<int>(threadIdx.x) / END_LANES; row < GEMM_TILE; row += END_PASS_ROWS) {
    if (at.first_row + row >= p.rows || column >= p.columns) continue;
    const Global<tw_bf16> x = out + ((at.first_row + row) * p.columns + column);
    const Global<const float> gate = gates + ((at.first_row + row) / p.rows_per_gate * p.columns + column);
    if (is_whole) {
      const uint4 staged = staged_chunk(row, lane);
      const uint4 old = load_vector<uint4>(x);
      const float4 g0 = load_vector_readonly<float4>(gate), g1 = load_vector_readonly<float4>(gate + 4);
      store_vector(x, make_uint4(add_gated_pair(old.x, staged.x, g0.x, g0.y), add_gated_pair(old.y, staged.y, g0.z, g0.w),
                                 add_gated_pair(old.z, staged.z, g1.x, g1.y), add_gated_pair(old.w, staged.w, g1.z, g1.w)));
    } else {
      const Shared<const tw_bf16> values = staged_values(row, lane);
      for (int i = 0; i < END_CHUNK && column + i < p.columns; i++) {
        const tw_bf16 old = x[i], value = values[i];
        const float factor = gate[i];
        x[i] = static_cast<tw_bf16>(add_gated_pair(old, value, factor, 0.0f));
      }
    }
  }
}

}  // namespace
