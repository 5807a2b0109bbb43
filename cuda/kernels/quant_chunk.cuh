// Eight bf16 values in a register quad, and what the quantisers do with them.
//
// Int8 rows are stored in whole blocks of 128 columns: a row of another width is followed by zeros up to the next block.
#pragma once
#include "ptx.cuh"

constexpr int CHUNK = 8;             // values of one 16-byte load
constexpr int BLOCK = 128;           // columns of a block, and rows of an official one
constexpr float AMAX_FLOOR = 1e-8f;  // the largest magnitude of a block is never taken to be smaller

// Blocks in a row of `width` values, the last one perhaps ragged.
TW_DEVICE int64_t row_blocks(int64_t width) { return (width + BLOCK - 1) / BLOCK; }

// The largest magnitude among eight values and `amax`; a NaN is passed over.
TW_DEVICE float amax_of(uint4 chunk, float amax) {
  const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    amax = fmaxf(amax, fabsf(low_bf16(words[i])));
    amax = fmaxf(amax, fabsf(high_bf16(words[i])));
  }
  return amax;
}

// round(x * factor) of eight values as int8.
TW_DEVICE uint2 quantised(uint4 chunk, float factor) {
  const auto four = [factor](uint32_t first, uint32_t second) {
    return pack_s8(low_bf16(first) * factor, high_bf16(first) * factor, low_bf16(second) * factor, high_bf16(second) * factor);
  };
  return make_uint2(four(chunk.x, chunk.y), four(chunk.z, chunk.w));
}

// The largest among `span` neighbouring lanes, a power of two.
TW_DEVICE float max_over_lanes(float value, int span TW_AT) {
#pragma unroll
  for (int distance = 1; distance < span; distance *= 2) value = fmaxf(value, shuffle_xor(value, distance TW_PASS_AT));
  return value;
}

// A chunk as eight f32, and back, rounded.
TW_DEVICE void unpack(uint4 chunk, float (&values)[CHUNK]) {
  const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    values[2 * i] = low_bf16(words[i]);
    values[2 * i + 1] = high_bf16(words[i]);
  }
}

TW_DEVICE uint4 pack(const float (&values)[CHUNK]) {
  return make_uint4(pack_bf16(values[0], values[1]), pack_bf16(values[2], values[3]), pack_bf16(values[4], values[5]),
                    pack_bf16(values[6], values[7]));
}

// Eight f32 that nobody writes while the kernel runs, at a multiple of 16 bytes.
TW_DEVICE void load_eight(Global<const float> from, float (&values)[CHUNK] TW_AT) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const float4 four = load_vector_readonly<float4>(from + 4 * i TW_PASS_AT);
    values[4 * i] = four.x;
    values[4 * i + 1] = four.y;
    values[4 * i + 2] = four.z;
    values[4 * i + 3] = four.w;
  }
}

// The sum over the threads of a block of whole warps, the same in all and in a fixed order. `partial` holds a value a
// warp, and is free again after the next block_sync.
TW_DEVICE float sum_of_block(float value, Shared<float> partial TW_AT) {
#pragma unroll
  for (int mask = WARP / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask TW_PASS_AT);
  if (lane_index() == 0) partial[threadIdx.x / WARP] = value;
  block_sync(TW_PASS_AT_ONLY);
  float sum = partial[0];
  for (uint32_t warp = 1; warp < blockDim.x / WARP; warp++) {
    const float other = partial[warp];
    sum += other;
  }
  return sum;
}
