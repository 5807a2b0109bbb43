// What happens to a convolution's sums before they are stored: the ends that every convolution shares.
//
//   y = bf16(sum + bias)
//
//   end_frames   y, or bf16(y + residual), as bf16 pixels. With two parts the channels of a pixel become the pixels of two
//                frames that follow one another: the upsampling in time without a pass of its own
//   end_pixels   the first three channels as f32 clamped to +-limit, or as bytes: trunc(clamp((1 + y) / 2) 255 + 0.5)
//
// The tile lies in the registers of the warps as mma.sync and wgmma leave it. Rounded to bf16 it goes through shared
// memory, whose pixels are padded so that neither the pairs written nor the chunks read meet on a bank, and leaves in
// chunks of 16 bytes. Pixels past the frame and channels past the last are computed and not stored.
#pragma once
#include "conv3d_tile.cuh"

namespace {

constexpr int COLORS = 3;

// Bytes from a staged pixel to the next.
template <int PANEL>
constexpr uint32_t PITCH = PANEL * 2 + CHUNK_BYTES;
template <int PANEL, int TILE_LINES>
constexpr uint32_t STAGED_BYTES = TILE_LINES * TILE_COLUMNS * PITCH<PANEL>;

// Bias and rounding of a fragment's four values, which become pairs of two pixels; `channel` is that of the first.
template <int PANEL, int TILE_LINES>
TW_DEVICE void stage_values(const Conv3dParams& p, const Place& at, int first_pixel, int second_pixel, int channel, float y0, float y1,
                            float y2, float y3) {
  const Shared<uint32_t> pairs = dynamic_shared<uint32_t>(0, STAGED_BYTES<PANEL, TILE_LINES> / 4);
  const Global<const tw_bf16> biases = global(p.bias);
  const uint32_t bias = load_vector_readonly<uint32_t>(biases + (static_cast<int64_t>(at.panel) * PANEL + channel));
  const float low = low_bf16(bias), high = high_bf16(bias);
  pairs[first_pixel * (PITCH<PANEL> / 4) + channel / 2] = pack_bf16(y0 + low, y1 + high);
  pairs[second_pixel * (PITCH<PANEL> / 4) + channel / 2] = pack_bf16(y2 + low, y3 + high);
}

TW_DEVICE uint32_t add_pairs(uint32_t a, uint32_t b) { return pack_bf16(low_bf16(a) + low_bf16(b), high_bf16(a) + high_bf16(b)); }

// The staged tile to `out`, by the first THREADS threads.
template <int PANEL, int TILE_LINES, int THREADS>
TW_DEVICE void end_frames(const Conv3dParams& p, const Place& at) {
  constexpr int CHUNKS = PANEL / CHUNK;
  const Shared<const uint8_t> staged = dynamic_shared<uint8_t>(0, STAGED_BYTES<PANEL, TILE_LINES>);
  const Global<const tw_bf16> residual = global(p.residual);
  const Global<tw_bf16> out = global(p.out);
  const int height = static_cast<int>(p.out_height), width = static_cast<int>(p.out_width);
  const int64_t frame_pixels = p.out_height * p.out_width;
  const int pixel_chunks = static_cast<int>(p.out_channels) / CHUNK;
#pragma unroll 2
  for (int index = static_cast<int>(threadIdx.x); index < TILE_LINES * TILE_COLUMNS * CHUNKS; index += THREADS) {
    const int pixel = index / CHUNKS;
    const int line = at.line + pixel / TILE_COLUMNS, column = at.column + pixel % TILE_COLUMNS;
    int chunk = at.panel * CHUNKS + index % CHUNKS;
    if (line >= height || column >= width || chunk >= pixel_chunks * p.parts) continue;
    int64_t frame = static_cast<int64_t>(at.frame) * p.parts;
    if (chunk >= pixel_chunks) {
      chunk -= pixel_chunks;
      frame++;
    }
    // whole chunks, so that the compiler sees that a store is one
    const int64_t offset = ((frame * frame_pixels + line * width + column) * pixel_chunks + chunk) * CHUNK;
    const uint4 y = load_vector<uint4>(staged + (pixel * PITCH<PANEL> + index % CHUNKS * CHUNK_BYTES));
    if (p.residual != nullptr) {
      const uint4 x = load_vector<uint4>(residual + offset);
      store_vector(out + offset, make_uint4(add_pairs(y.x, x.x), add_pairs(y.y, x.y), add_pairs(y.z, x.z), add_pairs(y.w, x.w)));
    } else {
      store_vector(out + offset, y);
    }
  }
}

// The first channels of the staged tile to `out_f32` and `out_bytes`, whichever there are.
template <int PANEL, int TILE_LINES, int THREADS>
TW_DEVICE void end_pixels(const Conv3dParams& p, const Place& at) {
  const Shared<const tw_bf16> staged = dynamic_shared<tw_bf16>(0, STAGED_BYTES<PANEL, TILE_LINES> / 2);
  const Global<float> values = global(p.out_f32);
  const Global<uint8_t> bytes = global(p.out_bytes);
  const int height = static_cast<int>(p.out_height), width = static_cast<int>(p.out_width);
  for (int index = static_cast<int>(threadIdx.x); index < TILE_LINES * TILE_COLUMNS * COLORS; index += THREADS) {
    const int pixel = index / COLORS, color = index % COLORS;
    const int line = at.line + pixel / TILE_COLUMNS, column = at.column + pixel % TILE_COLUMNS;
    if (line >= height || column >= width) continue;
    const tw_bf16 rounded = staged[pixel * (PITCH<PANEL> / 2) + color];
    const float y = low_bf16(rounded);
    const int64_t offset = (at.frame * p.out_height * p.out_width + line * width + column) * COLORS + color;
    // a value that is not a number stays one
    if (p.out_f32 != nullptr) values[offset] = y > p.limit ? p.limit : y < -p.limit ? -p.limit : y;
    if (p.out_bytes != nullptr) {
      constexpr float LEVELS = 255;
      const float clamped = fminf(fmaxf(y, -1.0f), 1.0f);
      bytes[offset] = static_cast<uint8_t>((1.0f + clamped) / 2.0f * LEVELS + 0.5f);
    }
  }
}

}  // namespace
