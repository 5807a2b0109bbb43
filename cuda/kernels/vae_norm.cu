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
#include "vae_norm.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int CHUNK = 8;  // channels of one 16-byte load
constexpr int CHUNKS = 4;
static_assert(WARP * CHUNKS * CHUNK == 1024, "the launcher counts on it");

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
  for (int i = 0; i < CHUNKS; i++) sum += sum_of_squares(held[i]);
  const float inverse = inverse_length(sum_of_pixel(sum, lanes)), root = square_root(static_cast<float>(p.channels));

  // scale, store
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    const int chunk = lane + i * lanes;
    if (pixel < p.pixels && chunk < chunks) {
      const uint4 weight = load_vector_readonly<uint4>(gamma + chunk * CHUNK);
      store_vector(out + chunk * CHUNK, normed<HAS_SILU>(held[i], weight, inverse, root));
    }
  }
}

}  // namespace

TW_KERNEL(vae_norm, VaeNormParams, THREADS) { norm_pixels<false>(p); }
TW_KERNEL(vae_norm_silu, VaeNormParams, THREADS) { norm_pixels<true>(p); }
