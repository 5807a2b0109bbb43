// The rows of exact attention forward, as a warp has them: the online softmax in base 2, and their way out.
//
//   norm    queries of which the root mean square over all heads is to be taken away are multiplied as they are, and their
//           scores by 1 / sqrt(sum x^2 / width + eps): a factor of a row commutes with the product. A weight of the channels
//           is in the keys already. The sums come in parts, from the product that made the rows.
//   int8    rows of D = 128 rounded to bf16, then by the rule of quant_block_1x128: the bytes of quantising the bf16 output
//             amax = max(1e-8, max |x|)   q = saturate(round_half_even(x * (127 / amax)))   scale = amax / 127
//
// A warp has 16 rows; a lane has parts of two of them, half h being row 8 h + lane / 4 (Fragment, tile.cuh).
#pragma once
#include "attend_tiles.cuh"

namespace {

// What the largest score is before any key: far below every score, yet finite, so that differences are.
constexpr float LOWEST = -1e30f;

struct Softmax {
  float most[2] = {LOWEST, LOWEST};  // largest score so far, times factor
  float sum[2] = {0.0f, 0.0f};       // of this lane's probabilities
  float rescale[2];                  // what the output so far is multiplied by
  float factors[2];                  // what makes products base-2 logarithms

  // From the 16 rows that begin at `first_row` of a problem.
  __device__ __forceinline__ Softmax(const AttendParams& p, int64_t problem, int64_t first_row, int lane) {
    factors[0] = factors[1] = p.factor;
    if (p.squares != nullptr) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t row = first_row + half * 8 + lane / 4;
        float squares = 0.0f;
        if (row < p.query_len) {
          const Global<const float> parts = global(p.squares) + (problem / p.heads * p.query_len + row) * p.parts;
#pragma unroll 1
          for (int64_t part = lane % 4; part < p.parts; part += 4) {
            const float value = parts[part];
            squares += value;
          }
        }
        factors[half] *= divide(1.0f, square_root(divide(row_sum(squares), p.width) + p.eps));
      }
    }
  }

  // Scores become probabilities in place.
  template <int TILES>
  __device__ __forceinline__ void soften(float (&s)[TILES][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float factor = factors[half];
      float top = s[0][half * 2];
#pragma unroll
      for (int i = 1; i < TILES * 2; ++i) top = fmaxf(top, s[i / 2][half * 2 + i % 2]);
      const float now = fmaxf(most[half], row_max(top) * factor);
      rescale[half] = exp2_fast(most[half] - now);
      most[half] = now;
      float added = 0.0f;
#pragma unroll
      for (int i = 0; i < TILES * 2; ++i) {
        float& value = s[i / 2][half * 2 + i % 2];
        value = exp2_fast(fmaf(value, factor, -now));
        added += value;
      }
      sum[half] = fmaf(sum[half], rescale[half], added);
    }
  }

  template <int TILES>
  __device__ __forceinline__ void rescale_rows(float (&out)[TILES][4]) const {
#pragma unroll
    for (int i = 0; i < TILES * 4; ++i) out[i / 4][i % 4] *= rescale[i % 4 / 2];
  }
};

// Probabilities as the A operands of their products with the values: 16 keys each.
template <int TILES>
TW_DEVICE void pack_weights(uint32_t (&weights)[TILES / 2][4], const float (&s)[TILES][4]) {
#pragma unroll
  for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) weights[tile / 2][tile % 2 * 2 + half] = pack_bf16(s[tile][half * 2], s[tile][half * 2 + 1]);
  }
}

// Divides a warp's rows of 128 values, and stores them as int8 by way of 16 rows of 128 bytes in shared memory.
template <int TILES>
TW_DEVICE void store_rows_int8(const AttendParams& p, const Softmax& softmax, const float (&out)[TILES][4], Shared<uint8_t> area,
                               int64_t problem, int64_t first_row, int lane) {
  constexpr float LEVELS = 127.0f, AMAX_FLOOR = 1e-8f;
  static_assert(TILES * 8 == PART_BYTES, "a row is one part");
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = row_sum(softmax.sum[half]);
    const float share = sum == 0.0f ? 0.0f : divide(1.0f, sum);
    const int row = half * 8 + lane / 4;
    float amax = AMAX_FLOOR;
    uint32_t pairs[TILES];
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
      pairs[tile] = pack_bf16(out[tile][half * 2] * share, out[tile][half * 2 + 1] * share);
      amax = fmaxf(amax, fmaxf(fabsf(low_bf16(pairs[tile])), fabsf(high_bf16(pairs[tile]))));
    }
    amax = row_max(amax);
    const float factor = divide(LEVELS, amax);
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
      const uint32_t first = static_cast<uint32_t>(to_s8(low_bf16(pairs[tile]) * factor));
      const uint32_t second = static_cast<uint32_t>(to_s8(high_bf16(pairs[tile]) * factor));
      store_vector(area + TileRows::byte(row, tile * 8 + lane % 4 * 2), static_cast<uint16_t>(permute_bytes(first, second, 0x0040)));
    }
    if (lane % 4 == 0 && first_row + row < p.query_len) {
      const Global<float> scales = global(p.out_scales);
      scales[(problem / p.heads * p.query_len + first_row + row) * p.heads + problem % p.heads] = divide(amax, LEVELS);
    }
  }
  warp_sync();
  constexpr int CHUNKS = PART_BYTES / CHUNK_BYTES;
  const int chunk = lane % CHUNKS;
  const Global<int8_t> to = global(p.out_values) + (query_start(p, problem) + chunk * CHUNK_BYTES);
#pragma unroll
  for (int row = lane / CHUNKS; row < 16; row += WARP / CHUNKS) {
    if (first_row + row >= p.query_len) break;
    const uint4 values = load_vector<uint4>(area + TileRows::chunk(row, chunk));
    store_vector(to + (first_row + row) * p.query_row, values);
  }
}

// Divides a warp's rows, and stores them by way of 16 rows of a tile of ROWS in shared memory, 16 bytes a lane side by side.
template <int ROWS, int TILES>
TW_DEVICE void store_rows(const AttendParams& p, const Softmax& softmax, const float (&out)[TILES][4], Shared<uint8_t> area,
                          int64_t problem, int64_t first_row, int lane) {
  if constexpr (TILES == 16) {
    if (p.out_values != nullptr) return store_rows_int8(p, softmax, out, area, problem, first_row, lane);
  }
  const Global<float> lse = global(p.lse) + problem * p.query_len;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = row_sum(softmax.sum[half]);
    const int row = half * 8 + lane / 4;
    if (p.lse != nullptr && lane % 4 == 0 && first_row + row < p.query_len) lse[first_row + row] = softmax.most[half] + log2_fast(sum);
    const float share = sum == 0.0f ? 0.0f : divide(1.0f, sum);
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
      const int column = tile * 8 + lane % 4 * 2;
      const uint32_t pair = pack_bf16(out[tile][half * 2] * share, out[tile][half * 2 + 1] * share);
      store_vector(area + (column / 64 * (ROWS * PART_BYTES) + TileRows::byte(row, column % 64 * 2)), pair);
    }
  }
  warp_sync();
  constexpr int CHUNKS = TILES * 8 * 2 / CHUNK_BYTES;
  const int chunk = lane % CHUNKS;
  const Global<tw_bf16> to = global(p.out) + (query_start(p, problem) + chunk * 8);
#pragma unroll 4
  for (int row = lane / CHUNKS; row < 16; row += WARP / CHUNKS) {
    if (first_row + row >= p.query_len) break;
    const uint4 values = load_vector<uint4>(area + (chunk / 8 * (ROWS * PART_BYTES) + TileRows::chunk(row, chunk % 8)));
    store_vector(to + (first_row + row) * p.query_row, values);
  }
}

}  // namespace
