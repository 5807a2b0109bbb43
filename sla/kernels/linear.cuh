// What the kernels of the linear branch share: features, and rows of a head as the operands of a warp's products.
//
// A row has D channels. A head's matrix F [D, D] lies in global memory as [D + 1, D] bf16: row n is what every channel of a
// row of features gives to channel n of the result, row D is z, which the features of the denominator are multiplied with.
// In shared memory it stands in rows of D + 8 values, 16 bytes more than a multiple of 128, so that eight rows at one depth
// lie on different banks.
//
// A product may take channels in any order that both of its operands know. Position p of a row's operand holds channel
// `channel_of(p)`, so that the four lanes of a row have eight neighbouring channels each: rows are loaded and stored in
// chunks of 16 bytes, and what a lane multiplies, sums and stores are always the same channels.
//
//     channels of 32          0 .. 7      8 .. 15     16 .. 23    24 .. 31
//     lane t of the row       0           1           2           3
//     their positions         0 1 8 9     2 3 10 11   4 5 12 13   6 7 14 15      and 16 more of each
#pragma once
#include "linear_params.h"
#include "ptx.cuh"
#include "tile.cuh"

constexpr int CHUNK = 8;  // values of 16 bytes
constexpr float LOG2_E = 1.44269504088896f;
// What the official code adds to a denominator.
constexpr float DENOMINATOR_FLOOR = 1e-5f;

constexpr int SOFTMAX = 0, ELU = 1;  // relu is the third

constexpr __host__ __device__ int position_of(int channel) {
  const int lane = channel % 32 / 8, step = channel % 8 / 4, half = channel % 4 / 2;
  return channel / 32 * 32 + step * 16 + half * 8 + lane * 2 + channel % 2;
}
constexpr __host__ __device__ int channel_of(int position) {
  const int lane = position % 8 / 2, step = position % 32 / 16, half = position % 16 / 8;
  return position / 32 * 32 + lane * 8 + step * 4 + half * 2 + position % 2;
}
constexpr bool positions_are_an_order() {
  for (int channel = 0; channel < 128; ++channel) {
    if (channel_of(position_of(channel)) != channel) return false;
  }
  return true;
}
static_assert(positions_are_an_order(), "a channel would be lost");

// Where ldmatrix_x4_transposed finds A when its depth is what runs down the tile: a0 .. a3 as Fragment has them.
struct LoadTransposed {
  static constexpr __host__ __device__ int a_depth(int lane) { return lane % 8 + lane / 16 * 8; }
  static constexpr __host__ __device__ int a_chunk(int lane) { return lane / 8 % 2; }
};
constexpr bool transposed_loads_give_fragments() {
  for (int lane = 0; lane < WARP; ++lane) {
    for (int reg = 0; reg < 4; ++reg) {
      // register reg of a lane is made of rows 2 (lane % 4), + 1 of matrix reg, at column lane / 4
      const int giver = 8 * reg + lane % 4 * 2;
      if (LoadTransposed::a_depth(giver) * 2 != Fragment::a_byte(lane, reg)) return false;
      if (LoadTransposed::a_chunk(giver) * 8 + lane / 4 != Fragment::a_row(lane, reg)) return false;
    }
  }
  return true;
}
static_assert(transposed_loads_give_fragments(), "a transposed load would need a shuffle");

// Two rows of 16 as a warp's A operand: registers 0 and 2 of each depth are row lane / 4, 1 and 3 row lane / 4 + 8.
template <int D>
using RowOperand = uint32_t[D / 16][4];
// The same rows of results: value i of tile j is at position 8 j + 2 (lane % 4) + i % 2 of row lane / 4 + i / 2 * 8.
template <int D>
using RowSums = float[D / 8][4];

// Loads rows `row` and `row + 8` of a head, this lane's channels of both; rows from `len` on are zeros.
template <int D>
TW_DEVICE void load_rows(RowOperand<D>& rows, Global<const tw_bf16> head, int64_t row_stride, int64_t row, int64_t len, int lane TW_AT) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool is_there = row + half * 8 < len;
    const Global<const tw_bf16> from = head + ((row + half * 8) * row_stride + lane % 4 * CHUNK);
#pragma unroll
    for (int c = 0; c < D / 32; ++c) {
      const uint4 words = is_there ? load_vector_readonly<uint4>(from + c * 32 TW_PASS_AT) : make_uint4(0, 0, 0, 0);
      rows[2 * c][half] = words.x;
      rows[2 * c][2 + half] = words.y;
      rows[2 * c + 1][half] = words.z;
      rows[2 * c + 1][2 + half] = words.w;
    }
  }
}

// phi of one value that needs no other.
TW_DEVICE float feature_of(float x, int features) {
  if (features == ELU) return x > 0.0f ? x + 1.0f : exp2_fast(x * LOG2_E);
  return x <= 0.0f ? 0.0f : x;  // what is no number stays so
}

// Rows become their features, rounded to bf16.
template <int D>
TW_DEVICE void become_features(RowOperand<D>& rows, int features TW_AT) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float v[D / 4];
#pragma unroll
    for (int i = 0; i < D / 8; ++i) {
      const uint32_t pair = rows[i / 2][i % 2 * 2 + half];
      v[2 * i] = low_bf16(pair);
      v[2 * i + 1] = high_bf16(pair);
    }
    if (features == SOFTMAX) {
      float most = v[0];
#pragma unroll
      for (int i = 1; i < D / 4; ++i) most = fmaxf(most, v[i]);
      most = row_max(most TW_PASS_AT);
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < D / 4; ++i) {
        v[i] = exp2_fast((v[i] - most) * LOG2_E);
        sum += v[i];
      }
      const float share = divide(1.0f, row_sum(sum TW_PASS_AT));
#pragma unroll
      for (int i = 0; i < D / 4; ++i) v[i] *= share;
    } else {
#pragma unroll
      for (int i = 0; i < D / 4; ++i) v[i] = feature_of(v[i], features);
    }
#pragma unroll
    for (int i = 0; i < D / 8; ++i) rows[i / 2][i % 2 * 2 + half] = pack_bf16(v[2 * i], v[2 * i + 1]);
  }
}

// The first D rows of a head's matrix to shared memory, rows and columns at their positions.
template <int D, int THREADS>
TW_DEVICE void load_matrix(Shared<tw_bf16> tile, Global<const tw_bf16> matrix) {
  constexpr int PITCH = D + 8, CHUNKS = D / CHUNK;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < D * CHUNKS; i += THREADS) {
    const int row = i / CHUNKS, chunk = i % CHUNKS;
    const uint4 words = load_vector_readonly<uint4>(matrix + (row * D + chunk * CHUNK));
    const Shared<tw_bf16> place = tile + (position_of(row) * PITCH + position_of(chunk * CHUNK));
    store_vector(place, words.x);
    store_vector(place + 8, words.y);
    store_vector(place + 16, words.z);
    store_vector(place + 24, words.w);
  }
}

// Value i of row `half` of what a lane has, in the order of its channels: of chunk i / 8, channel i % 8.
template <int D>
__device__ __forceinline__ float value_of(const RowOperand<D>& rows, int half, int i) {
  const uint32_t pair = rows[i / 8 * 2 + i % 8 / 4][i % 4 / 2 * 2 + half];
  return i % 2 == 0 ? low_bf16(pair) : high_bf16(pair);
}
template <int D>
__device__ __forceinline__ float& value_of(RowSums<D>& sums, int half, int i) {
  return sums[i / 2][half * 2 + i % 2];
}

// Four values of a vector over the channels, f32, those that go with values i .. i + 3; `own` is where the lane's begin.
template <int D>
TW_DEVICE void load_four(float (&four)[4], Shared<float> own, int i TW_AT) {
  const float4 values = load_vector<float4>(own + (i / 8 * 32 + i % 8) TW_PASS_AT);
  four[0] = values.x;
  four[1] = values.y;
  four[2] = values.z;
  four[3] = values.w;
}

// phi . z + 1e-5 of a row, in f32.
template <int D>
TW_DEVICE float denominator_of(const RowOperand<D>& phi, int half, Shared<float> own_z TW_AT) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < D / 4; i += 4) {
    float z[4];
    load_four<D>(z, own_z, i TW_PASS_AT);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum = fmaf(value_of<D>(phi, half, i + j), z[j], sum);
  }
  return DENOMINATOR_FLOOR + row_sum(sum TW_PASS_AT);
}

// sums[n] = sum over m of rows[m] matrix[m, n].
template <int D>
TW_DEVICE void multiply_down(RowSums<D>& sums, const RowOperand<D>& rows, uint32_t matrix, int lane TW_AT) {
  constexpr int PITCH_BYTES = (D + 8) * 2;
  const uint32_t place = matrix + LoadMatrix::b_transposed_depth(lane) * PITCH_BYTES + LoadMatrix::b_transposed_chunk(lane) * CHUNK_BYTES;
#pragma unroll
  for (int j = 0; j < D / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[j][i] = 0.0f;
  }
#pragma unroll
  for (int depth = 0; depth < D / 16; ++depth) {
#pragma unroll
    for (int j = 0; j < D / 8; j += 2) {
      uint32_t b[4];
      ldmatrix_x4_transposed(b, place + depth * 16 * PITCH_BYTES + j * CHUNK_BYTES TW_PASS_AT);
      mma_m16n8k16_bf16(sums[j], rows[depth], b[0], b[1] TW_PASS_AT);
      mma_m16n8k16_bf16(sums[j + 1], rows[depth], b[2], b[3] TW_PASS_AT);
    }
  }
}

// sums[n] = sum over m of rows[m] matrix[n, m].
template <int D>
TW_DEVICE void multiply_across(RowSums<D>& sums, const RowOperand<D>& rows, uint32_t matrix, int lane TW_AT) {
  constexpr int PITCH_BYTES = (D + 8) * 2;
  const uint32_t place = matrix + LoadMatrix::b_column(lane) * PITCH_BYTES + LoadMatrix::b_chunk(lane) * CHUNK_BYTES;
#pragma unroll
  for (int j = 0; j < D / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[j][i] = 0.0f;
  }
#pragma unroll
  for (int depth = 0; depth < D / 16; ++depth) {
#pragma unroll
    for (int j = 0; j < D / 8; j += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, place + j * 8 * PITCH_BYTES + depth * 2 * CHUNK_BYTES TW_PASS_AT);
      mma_m16n8k16_bf16(sums[j], rows[depth], b[0], b[1] TW_PASS_AT);
      mma_m16n8k16_bf16(sums[j + 1], rows[depth], b[2], b[3] TW_PASS_AT);
    }
  }
}

// Where a head of a strided operand begins.
TW_DEVICE int64_t head_offset(int64_t problem, int64_t heads, int64_t sample_stride, int64_t head_stride) {
  return problem / heads * sample_stride + problem % heads * head_stride;
}
