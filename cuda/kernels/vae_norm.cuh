// The autoencoder's norm of a pixel, piece by piece: what vae_norm.cu and the ends of the convolutions share, so that a norm in
// a convolution's end gives the bits of a pass of its own.
//
// `lanes` neighbouring lanes share a pixel; each has chunks {lane + i * lanes} of 8 channels. sum_of_squares adds one chunk's,
// the lane adds its chunks in their order, and sum_of_pixel its lanes.
#pragma once
#include "ptx.cuh"

namespace {

TW_DEVICE float sum_of_squares(uint4 chunk) {
  const float v[8] = {low_bf16(chunk.x), high_bf16(chunk.x), low_bf16(chunk.y), high_bf16(chunk.y),
                      low_bf16(chunk.z), high_bf16(chunk.z), low_bf16(chunk.w), high_bf16(chunk.w)};
  return ((v[0] * v[0] + v[1] * v[1]) + (v[2] * v[2] + v[3] * v[3])) + ((v[4] * v[4] + v[5] * v[5]) + (v[6] * v[6] + v[7] * v[7]));
}

TW_DEVICE float sum_of_pixel(float sum, int lanes TW_AT) {
  for (int mask = lanes / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask TW_PASS_AT);
  return sum;
}

// 1 / max(bf16(sqrt(sum)), 1e-12)
TW_DEVICE float inverse_length(float sum) {
  constexpr float LEAST = 1e-12f;
  float length = low_bf16(pack_bf16(square_root(sum), 0.0f));
  if (length < LEAST) length = low_bf16(pack_bf16(LEAST, 0.0f));  // not a maximum, which would hide a NaN
  return divide(1.0f, length);
}

TW_DEVICE float silu(float y) {
  constexpr float LOG2_E = 1.442695041f;
  return divide_fast(y, 1.0f + exp2_fast(-y * LOG2_E));
}

// Two values, normed.
template <bool HAS_SILU>
TW_DEVICE uint32_t normed(uint32_t pair, uint32_t gamma, float inverse, float root) {
  uint32_t y = pack_bf16(low_bf16(pair) * inverse, high_bf16(pair) * inverse);
  y = pack_bf16(low_bf16(y) * root, high_bf16(y) * root);
  y = pack_bf16(low_bf16(y) * low_bf16(gamma), high_bf16(y) * high_bf16(gamma));
  return HAS_SILU ? pack_bf16(silu(low_bf16(y)), silu(high_bf16(y))) : y;
}

// A chunk.
template <bool HAS_SILU>
TW_DEVICE uint4 normed(uint4 x, uint4 gamma, float inverse, float root) {
  return make_uint4(normed<HAS_SILU>(x.x, gamma.x, inverse, root), normed<HAS_SILU>(x.y, gamma.y, inverse, root),
                    normed<HAS_SILU>(x.z, gamma.z, inverse, root), normed<HAS_SILU>(x.w, gamma.w, inverse, root));
}

}  // namespace
