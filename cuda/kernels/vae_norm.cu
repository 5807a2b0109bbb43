// The autoencoder's norm over the channels of a pixel, and SiLU.
//
//   length = max(bf16(|x|_2), 1e-12)
//   y      = bf16(bf16(bf16(x / length) * sqrt(channels)) * gamma)         each step stored as bf16, as the official code does
//   out    = y                          vae_norm
//            bf16(y / (1 + exp(-y)))    vae_norm_silu
//
//   x, out   [pixels, stored]  bf16, channels padded with zeros to whole chunks of 8
//   gamma    [stored]          bf16, zero past the channels, so that what was padded stays zero
//
//   tile    `lanes` neighbouring lanes a pixel, as many as leave at most CHUNKS chunks to each: 4 for 96 channels, 8 for 192,
//           16 for 384; a block has THREADS / lanes pixels
//   lane    owns chunks {lane + i * lanes}: 16-byte loads, side by side
//   sum     f32, over a lane's values, then a butterfly over the pixel's lanes; x stays in registers, so it is read once
//   edge    lanes past the last pixel or chunk take part with zeros and store nothing
//
// As the host twin (src/ops/norm.rs) but for the order of the sum, which seldom moves a length to the next bf16. The product
// with 1 / length is a division's: a quotient of two bf16 lies 2^-17 of itself or more from the middle of two others.
//
// Bytes: 2 read and 2 written a value; of operations about 20 a value, two of them on the function unit.
//
// sass: all LDG.E.128 STG.E.128 MUFU.EX2
#include "conv3d_params.h"
#include "kernel.cuh"
#include "quant_chunk.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int CHUNKS = 4;
static_assert(WARP * CHUNKS * CHUNK == 1024, "the launcher counts on it");

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

template <bool HAS_SILU>
TW_DEVICE void norm_pixels(const VaeNormParams& p) {
  const int lanes = p.lanes, lane = static_cast<int>(threadIdx.x) % lanes;
  const int chunks = static_cast<int>(p.stored) / CHUNK;
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * (THREADS / lanes) + static_cast<int>(threadIdx.x) / lanes;
  const Global<const tw_bf16> x = global(p.x) + pixel * p.stored;
  const Global<const tw_bf16> gamma = global(p.gamma);
  const Global<tw_bf16> out = global(p.out) + pixel * p.stored;

  // load the pixel once
  uint4 held[CHUNKS];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    const int chunk = lane + i * lanes;
    held[i] = pixel < p.pixels && chunk < chunks ? load_vector<uint4>(x + chunk * CHUNK) : make_uint4(0, 0, 0, 0);
  }

  // its length
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    float v[CHUNK];
    unpack(held[i], v);
#pragma unroll
    for (int j = 0; j < CHUNK; j++) v[j] *= v[j];
    sum += ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
  }
  for (int mask = lanes / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  constexpr float LEAST = 1e-12f;
  float length = low_bf16(pack_bf16(square_root(sum), 0.0f));
  if (length < LEAST) length = low_bf16(pack_bf16(LEAST, 0.0f));  // not a maximum, which would hide a NaN
  const float inverse = divide(1.0f, length), root = square_root(static_cast<float>(p.channels));

  // scale, store
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    const int chunk = lane + i * lanes;
    if (pixel < p.pixels && chunk < chunks) {
      const uint4 weight = load_vector_readonly<uint4>(gamma + chunk * CHUNK);
      const auto pair = [inverse, root](uint32_t x, uint32_t gamma) { return normed<HAS_SILU>(x, gamma, inverse, root); };
      store_vector(out + chunk * CHUNK, make_uint4(pair(held[i].x, weight.x), pair(held[i].y, weight.y), pair(held[i].z, weight.z),
                                                   pair(held[i].w, weight.w)));
    }
  }
}

}  // namespace

TW_KERNEL(vae_norm, VaeNormParams, THREADS) { norm_pixels<false>(p); }
TW_KERNEL(vae_norm_silu, VaeNormParams, THREADS) { norm_pixels<true>(p); }
