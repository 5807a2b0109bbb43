// The rows of exact attention forward, as a warp has them: the online softmax in base 2, and their way out.
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

  // Scores become probabilities in place.
  template <int TILES>
  __device__ __forceinline__ void soften(float (&s)[TILES][4], float factor) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
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

// Divides a warp's rows, and stores them by way of 16 rows of a tile of ROWS in shared memory, 16 bytes a lane side by side.
template <int ROWS, int TILES>
TW_DEVICE void store_rows(const AttendParams& p, const Softmax& softmax, const float (&out)[TILES][4], Shared<uint8_t> area,
                          int64_t problem, int64_t first_row, int lane) {
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
