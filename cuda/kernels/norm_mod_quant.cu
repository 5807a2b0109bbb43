// Layer norm, what scales and shifts its result, and the int8 rows that a linear layer takes, in one pass.
//
//   mean = sum x / width
//   var  = (sum (x - mean)^2 + padding mean^2) / width        padding 0, or next_pow2(width) - width (the official rule)
//   y    = (x - mean) / sqrt(var + eps)
//   z    = bf16(bf16(y) * (1 + scale) + shift)                modulation, by the group of the row
//          bf16(y * weight + bias)                            affine
//   amax, q, scale of 128 values as quant_block_1x128
//
//   x            [rows, width]            bf16, row-major, 16-byte aligned, width a multiple of 8 and at most WIDTH_LIMIT
//   scale, shift [groups, width]          f32; row r is of group r / rows_per_group. Affine: weight, bias [width]
//   out          [rows, width]            bf16, or null
//   values       [rows, blocks * 128]     int8, zeros past the width, or null; blocks = ceil(width / 128)
//   scales       [rows, blocks]           f32
//
//   tile    one row a CTA, which has a thread for every CHUNKS * 8 values; grid.x = rows
//   thread  CHUNKS chunks of 8 values, a block's width apart, in registers from the load to the store
//   order   a sum runs over a thread's values, then the lanes of a warp, then the warps: always the same one
//   edge    a chunk past the row takes part in the sums and the shuffles with zeros, and stores nothing but the zeros of its block
//
// IEEE f32 with true divisions, and each product rounded before it is added: as the host twin (src/ops/norm.rs) but for
// the order of the sums.
//
// Bytes: 2 read and 1 (int8) or 2 (bf16) written a value. The tables, 8 bytes a value, come from L1 and L2: the rows that
// a multiprocessor works on share them.
//
// sass: all LDG.E.128 STG.E.64 STG.E.128 F2I.S8
#include "kernel.cuh"
#include "params.h"
#include "quant_chunk.cuh"

constexpr int THREADS = 320;
constexpr int CHUNKS = 2;
constexpr int WIDTH_LIMIT = THREADS * CHUNKS * CHUNK;
static_assert(WIDTH_LIMIT == 5120, "the launcher counts on it");
static_assert(WARP * CHUNKS * CHUNK % BLOCK == 0, "threads for a row are threads for its last block");

// Two values of the row: normed, scaled and shifted.
TW_DEVICE uint32_t shifted(uint32_t pair, float mean, float inverse, bool is_modulation, float factor_low, float factor_high,
                           float offset_low, float offset_high) {
  float low = (low_bf16(pair) - mean) * inverse, high = (high_bf16(pair) - mean) * inverse;
  if (is_modulation) {
    const uint32_t rounded = pack_bf16(low, high);
    low = low_bf16(rounded);
    high = high_bf16(rounded);
    factor_low = 1.0f + factor_low;
    factor_high = 1.0f + factor_high;
  }
  return pack_bf16(low * factor_low + offset_low, high * factor_high + offset_high);
}

TW_KERNEL(norm_mod_quant, NormModQuantParams, THREADS, 4) {
  const Global<const tw_bf16> x = global(p.x);
  const Global<const float> factors = global(p.factors);
  const Global<const float> offsets = global(p.offsets);
  const Global<tw_bf16> out = global(p.out);
  const Global<int8_t> values = global(p.values);
  const Global<float> scales = global(p.scales);
  TW_SHARED(float, warp_sums, THREADS / WARP);
  TW_SHARED(float, warp_squares, THREADS / WARP);

  const int width = static_cast<int>(p.width);  // at most WIDTH_LIMIT
  const int64_t stored = row_blocks(p.width) * BLOCK;
  const int64_t row = blockIdx.x;
  const int64_t start = row * p.width;
  const int first = static_cast<int>(threadIdx.x) * CHUNK;
  const int step = static_cast<int>(blockDim.x) * CHUNK;

  // load the row once
  uint4 chunks[CHUNKS];
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    const int column = first + i * step;
    chunks[i] = column < width ? load_vector_readonly<uint4>(x + (start + column)) : make_uint4(0, 0, 0, 0);
  }

  // its mean, then its variance
  float sum = 0;
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    float v[CHUNK];
    unpack(chunks[i], v);
    sum += ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
  }
  const float mean = divide(sum_of_block(sum, warp_sums), static_cast<float>(width));
  float squares = 0;
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    if (first + i * step < width) {
      float v[CHUNK];
      unpack(chunks[i], v);
#pragma unroll
      for (int j = 0; j < CHUNK; j++) v[j] = (v[j] - mean) * (v[j] - mean);
      squares += ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    }
  }
  squares = sum_of_block(squares, warp_squares) + p.padding * mean * mean;
  const float inverse = divide(1.0f, square_root(divide(squares, static_cast<float>(width)) + p.eps));

  // scale, shift, quantise, store
  const bool is_modulation = p.is_modulation != 0;
  const int64_t table = row / p.rows_per_group * p.width;
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    const int column = first + i * step;
    uint4 z = make_uint4(0, 0, 0, 0);
    if (column < width) {
      const uint32_t words[4] = {chunks[i].x, chunks[i].y, chunks[i].z, chunks[i].w};
      uint32_t results[4];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float4 factor = load_vector_readonly<float4>(factors + (table + column + half * 4));
        const float4 offset = load_vector_readonly<float4>(offsets + (table + column + half * 4));
        results[half * 2] = shifted(words[half * 2], mean, inverse, is_modulation, factor.x, factor.y, offset.x, offset.y);
        results[half * 2 + 1] = shifted(words[half * 2 + 1], mean, inverse, is_modulation, factor.z, factor.w, offset.z, offset.w);
      }
      z = make_uint4(results[0], results[1], results[2], results[3]);
      if (p.out != nullptr) store_vector(out + (start + column), z);
    }
    if (p.values != nullptr) {
      constexpr float LEVELS = 127;
      const float amax = max_over_lanes(amax_of(z, AMAX_FLOOR), BLOCK / CHUNK);
      if (column < stored) {
        const int64_t place = row * stored + column;
        store_vector(values + place, quantised(z, divide(LEVELS, amax)));
        if (column % BLOCK == 0) scales[place / BLOCK] = divide(amax, LEVELS);
      }
    }
  }
}
