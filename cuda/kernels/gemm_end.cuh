// What happens to a product before it is stored: the ends that every GEMM shares.
//
//   y = round(product) + bias, rounded                  the first rounding only with EndRounds::Twice
//
//   end_store       y as bf16, and if asked for the sums of y^2 over each row of a tile
//   end_store_f32   y as f32, without any rounding
//   end_quantise    gelu(y), rounded, as int8 with a scale for each row and 128 columns (the rule of quant_block_1x128);
//                   columns past the end are the zeros that fill a row of int8 up to a whole block
//   end_add_gated   x = round(x + round(gate * y)), in place
//
// A team of threads ends a tile of 128 columns that lies in the registers of its warps as mma.sync and wgmma leave it:
// ROW_TILES tiles of 16 rows, COLUMN_TILES tiles of 8 columns. Rounded to 16 or 8 bits the tile goes through shared memory,
// whose rows are padded so that neither the pairs written nor the chunks read meet on a bank, and leaves in chunks of 16
// bytes: half a warp has a row. Rows past the end, and columns, are computed and not stored. Where the width is no multiple
// of a chunk's values, rows start between chunks, and values are stored one by one.
//
// A Team is a type that says
//
//   ROWS            of its tile
//   THREADS         of it
//   COLUMN_WARPS    of its warps that share a row: 1 or 2
//   sync(at)        a barrier of them
//   staging(at)     where in dynamic shared memory its tile goes through: end_bytes<Team>() bytes
#pragma once
#include "params.h"
#include "ptx.cuh"
#include "tile.cuh"

namespace {

constexpr int GEMM_TILE = 128;  // columns of a tile
constexpr int END_LANES = 16;   // threads that store a row: 16-byte chunks of bf16
constexpr uint32_t BF16_PITCH = GEMM_TILE * 2 + CHUNK_BYTES;
constexpr uint32_t S8_PITCH = GEMM_TILE + CHUNK_BYTES;
constexpr int END_CHUNK = 8;  // values of bf16 in a chunk
constexpr int SUM_TILES = 8;  // tiles of 8 columns whose squares are summed first: half of a row

template <class Team>
constexpr uint32_t end_bytes() {
  return Team::ROWS * BF16_PITCH;
}

// Where the tile lies, and which part of it a thread's fragments are.
struct EndPlace {
  int64_t first_row, first_column;  // of the tile
  int row, column;                  // of the thread's first value, in the tile
  int column_warp;                  // which of the warps that share a row
  int team, thread;                 // which team of the block, and which thread of the team
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
  if (p.bias != nullptr) {
    const Global<const tw_bf16> bias = global(p.bias);
    uint32_t pairs[COLUMN_TILES];  // all on their way before the first is used
#pragma unroll
    for (int j = 0; j < COLUMN_TILES; j++) {
      const int64_t column = at.first_column + at.column + j * 8;  // even, so a pair is one load
      pairs[j] = 0;
      if (column + 1 < p.columns) {
        pairs[j] = load_vector_readonly<uint32_t>(bias + column);
      } else if (column < p.columns) {
        const tw_bf16 last = bias[column];
        pairs[j] = last;
      }
    }
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
      for (int j = 0; j < COLUMN_TILES; j++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float &low = y[i][j][2 * half], &high = y[i][j][2 * half + 1];
          if (ROUNDS == EndRounds::Twice) round_pair(low, high);
          low += low_bf16(pairs[j]);
          high += high_bf16(pairs[j]);
        }
      }
    }
  }
  if constexpr (ROUNDS != EndRounds::Never) {
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
      for (int j = 0; j < COLUMN_TILES; j++) {
#pragma unroll
        for (int half = 0; half < 2; half++) round_pair(y[i][j][2 * half], y[i][j][2 * half + 1]);
      }
    }
  }
}

// Writes the tile's pairs of bf16 to shared memory; a barrier follows.
template <class Team, int ROW_TILES, int COLUMN_TILES>
TW_DEVICE void stage_bf16(const EndPlace& at, const float (&y)[ROW_TILES][COLUMN_TILES][4]) {
  const Shared<uint32_t> pairs = dynamic_shared<uint32_t>(Team::staging(at), end_bytes<Team>() / 4);
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
template <class Team>
TW_DEVICE uint4 staged_chunk(const EndPlace& at, int row, int lane) {
  const Shared<const uint8_t> bytes = dynamic_shared<uint8_t>(Team::staging(at), end_bytes<Team>());
  return load_vector<uint4>(bytes + (row * BF16_PITCH + lane * CHUNK_BYTES));
}

// The same values one by one.
template <class Team>
TW_DEVICE Shared<const tw_bf16> staged_values(const EndPlace& at, int row, int lane) {
  return dynamic_shared<tw_bf16>(Team::staging(at) + row * BF16_PITCH + lane * CHUNK_BYTES, END_CHUNK);
}

// Sums of squares over each row of the tile, in one order whoever sums: each half of the columns, then both. `partial`
// holds two values for each row where two warps share one; a warp that has a row needs none.
template <class Team, int ROW_TILES, int COLUMN_TILES, class P>
TW_DEVICE void store_row_sums(const P& p, const EndPlace& at, const float (&y)[ROW_TILES][COLUMN_TILES][4], Shared<float> partial) {
  constexpr int HALVES = COLUMN_TILES / SUM_TILES;
  static_assert(HALVES * Team::COLUMN_WARPS == 2 && COLUMN_TILES % SUM_TILES == 0, "a row is two halves");
  const int64_t tiles = (p.columns + GEMM_TILE - 1) / GEMM_TILE;
  const Global<float> sums = global(p.row_sums) + at.first_column / GEMM_TILE;
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float of_half[HALVES];
#pragma unroll
      for (int k = 0; k < HALVES; k++) {
        float sum = 0.0f;
#pragma unroll
        for (int j = k * SUM_TILES; j < (k + 1) * SUM_TILES; j++) {
          const float first = y[i][j][2 * half], second = y[i][j][2 * half + 1];
          sum = fmaf(second, second, fmaf(first, first, sum));
        }
        of_half[k] = row_sum(sum);
      }
      const int row = end_row(at, i, half);
      if (lane_index() % 4 != 0) continue;
      if constexpr (HALVES == 1) {
        partial[at.column_warp * Team::ROWS + row] = of_half[0];
      } else {
        if (at.first_row + row < p.rows) sums[(at.first_row + row) * tiles] = of_half[0] + of_half[1];
      }
    }
  }
  if constexpr (HALVES == 1) {
    Team::sync(at);
    const int row = at.thread;
    if (row < Team::ROWS && at.first_row + row < p.rows) {
      const float first = partial[row], second = partial[Team::ROWS + row];
      sums[(at.first_row + row) * tiles] = first + second;
    }
  }
}

// The staged tile to `out_bf16`.
template <class Team, class P>
TW_DEVICE void store_bf16(const P& p, const EndPlace& at) {
  constexpr int PASS_ROWS = Team::THREADS / END_LANES;
  const Global<tw_bf16> out = global(p.out_bf16);
  const int lane = at.thread % END_LANES;
  const int64_t column = at.first_column + lane * END_CHUNK;
  const bool is_whole = p.columns % END_CHUNK == 0;
#pragma unroll
  for (int row = at.thread / END_LANES, pass = 0; pass < Team::ROWS / PASS_ROWS; row += PASS_ROWS, pass++) {
    if (at.first_row + row >= p.rows || column >= p.columns) continue;
    const Global<tw_bf16> to = out + ((at.first_row + row) * p.columns + column);
    if (is_whole) {
      store_vector(to, staged_chunk<Team>(at, row, lane));
    } else {
      const Shared<const tw_bf16> values = staged_values<Team>(at, row, lane);
      for (int i = 0; i < END_CHUNK && column + i < p.columns; i++) {
        const tw_bf16 value = values[i];
        to[i] = value;
      }
    }
  }
}

template <class Team, EndRounds ROUNDS, int ROW_TILES, int COLUMN_TILES, class P>
TW_DEVICE void end_store(const P& p, const EndPlace& at, float (&y)[ROW_TILES][COLUMN_TILES][4], Shared<float> partial) {
  add_bias<ROUNDS>(p, at, y);
  if (p.row_sums != nullptr) store_row_sums<Team>(p, at, y, partial);
  stage_bf16<Team>(at, y);
  Team::sync(at);
  store_bf16<Team>(p, at);
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

template <class Team, EndRounds ROUNDS, int ROW_TILES, int COLUMN_TILES, class P>
TW_DEVICE void end_quantise(const P& p, const EndPlace& at, float (&y)[ROW_TILES][COLUMN_TILES][4], Shared<float> partial) {
  constexpr float LEVELS = 127, AMAX_FLOOR = 1e-8f;
  add_bias<ROUNDS>(p, at, y);

  // the activation, and the largest magnitude of each row: of the warp's columns, then of all
  float amax[ROW_TILES][2];
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float most = AMAX_FLOOR;
#pragma unroll
      for (int j = 0; j < COLUMN_TILES; j++) {
        float &first = y[i][j][2 * half], &second = y[i][j][2 * half + 1];
        first = gelu(first);
        second = gelu(second);
        round_pair(first, second);
        most = fmaxf(most, fmaxf(fabsf(first), fabsf(second)));
      }
      amax[i][half] = row_max(most);
      if (Team::COLUMN_WARPS > 1 && lane_index() % 4 == 0) partial[at.column_warp * Team::ROWS + end_row(at, i, half)] = amax[i][half];
    }
  }
  if constexpr (Team::COLUMN_WARPS > 1) {
    Team::sync(at);
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float other = partial[(1 - at.column_warp) * Team::ROWS + end_row(at, i, half)];
        amax[i][half] = fmaxf(amax[i][half], other);
      }
    }
  }

  // int8 through shared memory
  const Shared<uint16_t> pairs = dynamic_shared<uint16_t>(Team::staging(at), Team::ROWS * S8_PITCH / 2);
  const Global<float> scales = global(p.out_scales);
  const int64_t blocks = (p.columns + GEMM_TILE - 1) / GEMM_TILE;
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = end_row(at, i, half);
      const float factor = divide(LEVELS, amax[i][half]);
#pragma unroll
      for (int j = 0; j < COLUMN_TILES; j++) {
        const uint32_t first = static_cast<uint32_t>(to_s8(y[i][j][2 * half] * factor));
        const uint32_t second = static_cast<uint32_t>(to_s8(y[i][j][2 * half + 1] * factor));
        pairs[row * (S8_PITCH / 2) + (at.column + j * 8) / 2] = static_cast<uint16_t>(permute_bytes(first, second, 0x0040));
      }
      if (at.column == 0 && at.first_row + row < p.rows) {
        scales[(at.first_row + row) * blocks + at.first_column / GEMM_TILE] = divide(amax[i][half], LEVELS);
      }
    }
  }
  Team::sync(at);

  const Shared<const uint16_t> staged = pairs;
  const Global<int8_t> values = global(p.out_values);
  constexpr int LANES = GEMM_TILE / CHUNK_BYTES, PASS_ROWS = Team::THREADS / LANES;
  const int lane = at.thread % LANES;
#pragma unroll
  for (int row = at.thread / LANES, pass = 0; pass < Team::ROWS / PASS_ROWS; row += PASS_ROWS, pass++) {
    if (at.first_row + row >= p.rows) continue;
    const uint4 chunk = load_vector<uint4>(staged + (row * (S8_PITCH / 2) + lane * (CHUNK_BYTES / 2)));
    store_vector(values + ((at.first_row + row) * blocks * GEMM_TILE + at.first_column + lane * CHUNK_BYTES), chunk);
  }
}

// x + gate * y, each step rounded to bf16; the bits of a pair.
TW_DEVICE uint32_t add_gated_pair(uint32_t x, uint32_t y, float gate_low, float gate_high) {
  const uint32_t product = pack_bf16(low_bf16(y) * gate_low, high_bf16(y) * gate_high);
  return pack_bf16(low_bf16(x) + low_bf16(product), high_bf16(x) + high_bf16(product));
}

template <class Team, EndRounds ROUNDS, int ROW_TILES, int COLUMN_TILES, class P>
TW_DEVICE void end_add_gated(const P& p, const EndPlace& at, float (&y)[ROW_TILES][COLUMN_TILES][4]) {
  add_bias<ROUNDS>(p, at, y);
  stage_bf16<Team>(at, y);
  Team::sync(at);

  constexpr int PASS_ROWS = Team::THREADS / END_LANES;
  const Global<tw_bf16> out = global(p.out_bf16);
  const Global<const float> gates = global(p.gate);
  const int lane = at.thread % END_LANES;
  const int64_t column = at.first_column + lane * END_CHUNK;
  const bool is_whole = p.columns % END_CHUNK == 0;
#pragma unroll 4
  for (int row = at.thread / END_LANES; row < Team::ROWS; row += PASS_ROWS) {
    if (at.first_row + row >= p.rows || column >= p.columns) continue;
    const Global<tw_bf16> x = out + ((at.first_row + row) * p.columns + column);
    const Global<const float> gate = gates + ((at.first_row + row) / p.rows_per_gate * p.columns + column);
    if (is_whole) {
      const uint4 staged = staged_chunk<Team>(at, row, lane);
      const uint4 old = load_vector<uint4>(x);
      const float4 g0 = load_vector_readonly<float4>(gate), g1 = load_vector_readonly<float4>(gate + 4);
      store_vector(x, make_uint4(add_gated_pair(old.x, staged.x, g0.x, g0.y), add_gated_pair(old.y, staged.y, g0.z, g0.w),
                                 add_gated_pair(old.z, staged.z, g1.x, g1.y), add_gated_pair(old.w, staged.w, g1.z, g1.w)));
    } else {
      const Shared<const tw_bf16> values = staged_values<Team>(at, row, lane);
      for (int i = 0; i < END_CHUNK && column + i < p.columns; i++) {
        const tw_bf16 old = x[i], value = values[i];
        const float factor = gate[i];
        x[i] = static_cast<tw_bf16>(add_gated_pair(old, value, factor, 0.0f));
      }
    }
  }
}

}  // namespace
