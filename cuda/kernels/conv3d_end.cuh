// What happens to a convolution's sums before they are stored: the ends that every convolution shares.
//
//   y = bf16(sum + bias)
//
//   end_frames   y, or bf16(y + residual), as bf16 pixels. With two parts the channels of a pixel become the pixels of two
//                frames that follow one another: the upsampling in time without a pass of its own
//                With a norm, also or only bf16(silu(norm(that))), as vae_norm_silu gives it, where a block has all channels of
//                its pixels: what the next convolution reads then never makes a pass of its own
//   end_pixels   the first three channels as f32 clamped to +-limit, or as bytes: trunc(clamp((1 + y) / 2) 255 + 0.5)
//
// The tile lies in the registers of the warps as mma.sync and wgmma leave it. Rounded to bf16 it goes through shared
// memory, whose pixels are padded so that neither the pairs written nor the chunks read meet on a bank, and leaves in
// chunks of 16 bytes. Pixels past the frame and channels past the last are computed and not stored.
#pragma once
#include "conv3d_tile.cuh"
#include "vae_norm.cuh"

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

// A chunk of the staged tile, and where it goes.
struct StagedChunk {
  int pixel;       // of the tile
  uint32_t place;  // of its bytes
  int64_t offset;  // of its first value in `out`
  bool is_there;   // in the frame, and among the channels
};

template <int PANEL>
TW_DEVICE StagedChunk staged_chunk(const Conv3dParams& p, const Place& at, int index) {
  constexpr int CHUNKS = PANEL / CHUNK;
  const int height = static_cast<int>(p.out_height), width = static_cast<int>(p.out_width);
  const int pixel_chunks = static_cast<int>(p.out_channels) / CHUNK;
  StagedChunk staged;
  staged.pixel = index / CHUNKS;
  staged.place = staged.pixel * PITCH<PANEL> + index % CHUNKS * CHUNK_BYTES;
  const int line = at.line + staged.pixel / TILE_COLUMNS, column = at.column + staged.pixel % TILE_COLUMNS;
  int chunk = at.panel * CHUNKS + index % CHUNKS;
  staged.is_there = line < height && column < width && chunk < pixel_chunks * p.parts;
  int64_t frame = static_cast<int64_t>(at.frame) * p.parts;
  if (chunk >= pixel_chunks) {
    chunk -= pixel_chunks;
    frame++;
  }
  // whole chunks, so that the compiler sees that a store is one
  staged.offset = ((frame * height + line) * width + column) * pixel_chunks + chunk;
  return staged;
}

// The staged tile to `out` and `normed`, by the first THREADS threads of the block, which meet at `sync`.
template <int PANEL, int TILE_LINES, int THREADS, class Sync>
TW_DEVICE void end_frames(const Conv3dParams& p, const Place& at, Sync sync) {
  constexpr int PIXELS = TILE_LINES * TILE_COLUMNS, CHUNKS = PANEL / CHUNK;
  const Shared<uint8_t> bytes = dynamic_shared<uint8_t>(0, STAGED_BYTES<PANEL, TILE_LINES>);
  const Global<const tw_bf16> residual = global(p.residual);
  const Global<tw_bf16> out = global(p.out);
  const int thread = static_cast<int>(threadIdx.x);
  const bool has_norm = p.normed != nullptr;
#pragma unroll 2
  for (int index = thread; index < PIXELS * CHUNKS; index += THREADS) {
    const StagedChunk staged = staged_chunk<PANEL>(p, at, index);
    if (!staged.is_there) continue;
    const Global<tw_bf16> to = out + staged.offset * CHUNK;
    const uint4 y = load_vector<uint4>(bytes + staged.place);
    if (p.residual != nullptr) {
      const uint4 x = load_vector<uint4>(residual + staged.offset * CHUNK);
      const uint4 sum = make_uint4(add_pairs(y.x, x.x), add_pairs(y.y, x.y), add_pairs(y.z, x.z), add_pairs(y.w, x.w));
      if (p.out != nullptr) store_vector(to, sum);
      if (has_norm) store_vector(bytes + staged.place, sum);
    } else if (p.out != nullptr) {
      store_vector(to, y);
    }
  }
  if (!has_norm) return;

  // the length of every pixel
  TW_SHARED(float, inverses, PIXELS);
  sync();
  const int lanes = p.norm_lanes, pixel_chunks = static_cast<int>(p.out_channels) / CHUNK;
  for (int first = 0; first < PIXELS; first += THREADS / lanes) {
    const int pixel = first + thread / lanes;
    float sum = 0;
    if (pixel < PIXELS) {
      for (int chunk = thread % lanes; chunk < pixel_chunks; chunk += lanes) {
        sum += sum_of_squares(load_vector<uint4>(bytes + (pixel * PITCH<PANEL> + chunk * CHUNK_BYTES)));
      }
    }
    sum = sum_of_pixel(sum, lanes);
    if (pixel < PIXELS && thread % lanes == 0) inverses[pixel] = inverse_length(sum);
  }
  sync();

  // scale, store
  const Global<const tw_bf16> gamma = global(p.gamma);
  const Global<tw_bf16> normed_out = global(p.normed);
  const float root = square_root(static_cast<float>(p.norm_channels));
#pragma unroll 2
  for (int index = thread; index < PIXELS * CHUNKS; index += THREADS) {
    const StagedChunk staged = staged_chunk<PANEL>(p, at, index);
    if (!staged.is_there) continue;
    const uint4 weight = load_vector_readonly<uint4>(gamma + index % CHUNKS * CHUNK);
    const float inverse = inverses[staged.pixel];
    store_vector(normed_out + staged.offset * CHUNK, normed<true>(load_vector<uint4>(bytes + staged.place), weight, inverse, root));
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
