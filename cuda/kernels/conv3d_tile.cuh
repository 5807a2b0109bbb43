// What the convolutions share: which output pixels a block has, what lies under them, and how both operands reach shared
// memory.
//
// A block has the output pixels of a tile, 8 or 16 lines of 16 columns of one frame, and a panel of output channels. Under a
// tile lies a patch of the input frame, border included. The sum over a frame's channels goes in steps of DEPTH: the
// patch's pixels with these channels come to shared memory once, and all taps of the kernel read them there, shifted.
// So a tap costs no addresses of its own, and a pixel is fetched about 1.4 times for nine taps instead of 9 times.
//
//     sampling     patch of 8 lines        output pixel (y, x), tap (j, k) reads patch pixel
//       Point      as the tile             (y, x)                                    1 x 1 kernel
//       Same       10 x 18                 (y + j, x + k)                            3 x 3, a border of zeros
//       Halve      17 x 33                 (2 y + j, 2 x + k)                        3 x 3, zeros below and on the right
//       Double     6 x 10                  ((y + j + 1) / 2, (x + k + 1) / 2)        3 x 3 over the frame doubled by nearest
//
// Shared memory holds both operands as planes: plane c has the c-th eight channels (16 bytes) of every pixel, or of every
// output channel, side by side. Eight neighbours are 128 bytes without a gap: no conflict for ldmatrix, nor for the core
// matrices of wgmma without a swizzle, wherever the first of them lies, which is what lets a tap be an offset.
//
//   patch    [DEPTH / 8, patch pixels, 8]
//   weight   [panels, kernel frames, channel steps, taps, DEPTH / 8, PANEL, 8]: a block reads its panel from end to end;
//            channels past the last are zeros, of the weight and, by the zero fill of the copies, of the patch
#pragma once
#include "conv3d_params.h"
#include "kernel.cuh"
#include "ptx.cuh"
#include "tile.cuh"

namespace {

constexpr int TILE_COLUMNS = 16;
constexpr int CHUNK = CHUNK_BYTES / 2;  // channels of a copy
constexpr int DEPTH = 32;               // channels of a step
constexpr int PLANES = DEPTH / CHUNK;

// How output pixels lie over input pixels, with a kernel of SIDE x SIDE and a tile of TILE_LINES.
template <int SIDE_, int STRIDE_, bool IS_DOUBLED_, int TILE_LINES_>
struct Sampling {
  static constexpr int TILE_LINES = TILE_LINES_;
  static constexpr int SIDE = SIDE_, STRIDE = STRIDE_, TAPS = SIDE * SIDE;
  static constexpr int DOUBLED = IS_DOUBLED_ ? 1 : 0;
  static constexpr int BORDER = SIDE == 3 && STRIDE == 1 ? 1 : 0;  // above, and on the left
  static_assert(SIDE == 1 || SIDE == 3, "kernels of one pixel or of three by three");
  static_assert(!IS_DOUBLED_ || (SIDE == 3 && STRIDE == 1), "a doubled frame is seen by three by three");

  static constexpr int extent(int pixels) { return IS_DOUBLED_ ? pixels / 2 + 2 : (pixels - 1) * STRIDE + SIDE; }
  // Patch line of an output line's tap, or column of an output column's.
  static constexpr __host__ __device__ int under(int pixel, int tap) { return (pixel * STRIDE + tap + DOUBLED) >> DOUBLED; }
  // Input line or column of the patch's first, from the tile's.
  static constexpr __host__ __device__ int origin(int pixel) { return IS_DOUBLED_ ? pixel / 2 - 1 : pixel * STRIDE - BORDER; }

  static constexpr int LINES = extent(TILE_LINES), COLUMNS = extent(TILE_COLUMNS), PIXELS = LINES * COLUMNS;
  static constexpr uint32_t PLANE_BYTES = PIXELS * CHUNK_BYTES;
  static constexpr uint32_t PATCH_BYTES = PLANES * PLANE_BYTES;
};
template <int TILE_LINES>
using Point = Sampling<1, 1, false, TILE_LINES>;
template <int TILE_LINES>
using Same = Sampling<3, 1, false, TILE_LINES>;
template <int TILE_LINES>
using Halve = Sampling<3, 2, false, TILE_LINES>;
template <int TILE_LINES>
using Double = Sampling<3, 1, true, TILE_LINES>;

// Every tap of a tile falls on its patch, where the formula of the sampling says.
template <class S>
constexpr bool patch_is_sound() {
  const int tile = 4 * TILE_COLUMNS;  // somewhere even
  for (int tap = 0; tap < S::SIDE; tap++) {
    for (int pixel = 0; pixel < TILE_COLUMNS; pixel++) {
      const int wanted = S::DOUBLED ? (tile + pixel + tap - 1) / 2 : (tile + pixel) * S::STRIDE + tap - S::BORDER;
      if (S::origin(tile) + S::under(pixel, tap) != wanted) return false;
      if (S::under(pixel, tap) >= S::COLUMNS || (pixel < S::TILE_LINES && S::under(pixel, tap) >= S::LINES)) return false;
    }
  }
  return true;
}
static_assert(patch_is_sound<Point<8>>() && patch_is_sound<Same<8>>() && patch_is_sound<Halve<8>>() && patch_is_sound<Double<8>>() &&
                  patch_is_sound<Same<16>>() && patch_is_sound<Double<16>>(),
              "a tap falls beside its patch");

// Which part of the output a block has. Neighbouring blocks have the panels of one tile, then tiles of a line: what runs
// at once shares patches and halos.
struct Place {
  int panel, frame, line, column;  // of the tile: its output frame, its first line and column
};

template <int TILE_LINES>
TW_DEVICE Place place_of(const Conv3dParams& p, uint32_t index) {
  const uint32_t across = (static_cast<uint32_t>(p.out_width) + TILE_COLUMNS - 1) / TILE_COLUMNS;
  const uint32_t down = (static_cast<uint32_t>(p.out_height) + TILE_LINES - 1) / TILE_LINES;
  const uint32_t panels = static_cast<uint32_t>(p.panels);
  const uint32_t tile = index / panels, strip = tile / across;
  Place at;
  at.panel = static_cast<int>(index % panels);
  at.column = static_cast<int>(tile % across) * TILE_COLUMNS;
  at.line = static_cast<int>(strip % down) * TILE_LINES;
  at.frame = static_cast<int>(strip / down);
  return at;
}

// The part of the sum that a block has to do: the first frames of its window may be absent.
struct Extent {
  int first_frame;    // of the kernel
  int channel_steps;  // of a frame
  int patches;        // in all
};

TW_DEVICE Extent extent_of(const Conv3dParams& p, const Place& at) {
  Extent extent;
  extent.first_frame = min(max(p.absent - at.frame * p.time_stride, 0), p.kernel_frames);
  extent.channel_steps = (static_cast<int>(p.channels) + DEPTH - 1) / DEPTH;
  extent.patches = (p.kernel_frames - extent.first_frame) * extent.channel_steps;
  return extent;
}

// The patches of a block on their way to shared memory. COPIERS threads take part; eight neighbouring lanes copy a plane's
// chunks of eight pixels, so that a warp reads 64 bytes of each.
template <class S, int COPIERS>
struct PatchFeed {
  static constexpr int OCTETS = (S::PIXELS + 7) / 8, WARPS = COPIERS / WARP, PASSES = (OCTETS + WARPS - 1) / WARPS;

  int first_line, first_column;  // of the patch, in the input frame
  int first_pixel;               // of this thread, in the patch
  int plane;
  int frame, channel;            // of the next patch
  int channel_steps;

  __device__ __forceinline__ PatchFeed(const Place& at, const Extent& extent, int thread) {
    first_line = S::origin(at.line);
    first_column = S::origin(at.column);
    first_pixel = thread / WARP * 8 + thread % 8;
    plane = thread % WARP / 8;
    frame = extent.first_frame;
    channel = 0;
    channel_steps = extent.channel_steps;
  }

  // Copies the next patch to the one at `target`.
  __device__ __forceinline__ void copy(const Conv3dParams& p, const Place& at, uint32_t target) {
    const Global<const tw_bf16> source = global(p.frames[at.frame * p.time_stride + frame]);
    const int first_channel = channel * DEPTH + plane * CHUNK;
    const bool has_channels = first_channel < static_cast<int>(p.channels);
    const int height = static_cast<int>(p.height), width = static_cast<int>(p.width);
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
      const int pixel = first_pixel + pass * WARPS * 8;
      const int line = first_line + pixel / S::COLUMNS, column = first_column + pixel % S::COLUMNS;
      const bool is_there = has_channels && static_cast<uint32_t>(line) < static_cast<uint32_t>(height) &&
                            static_cast<uint32_t>(column) < static_cast<uint32_t>(width);
      const int64_t offset = is_there ? static_cast<int64_t>(line * width + column) * p.channels + first_channel : 0;
      if (S::PIXELS % (WARPS * 8) == 0 || pixel < S::PIXELS) {
        cp_async_zero_fill<CHUNK_BYTES>(target + plane * S::PLANE_BYTES + pixel * CHUNK_BYTES, source + offset, is_there ? CHUNK_BYTES : 0);
      }
    }
    channel++;
    if (channel == channel_steps) {
      channel = 0;
      frame++;
    }
  }
};

// First weight of a block's panel and of its first frame.
template <int PANEL>
TW_DEVICE int64_t first_weight(const Conv3dParams& p, const Place& at, const Extent& extent, int taps) {
  const int64_t frame_values = static_cast<int64_t>(extent.channel_steps) * taps * PANEL * DEPTH;
  return (static_cast<int64_t>(at.panel) * p.kernel_frames + extent.first_frame) * frame_values;
}

}  // namespace
