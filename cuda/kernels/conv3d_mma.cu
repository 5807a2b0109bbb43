// Causal convolution of channels-last frames on mma.sync: a matrix product without the matrix.
//
//   y[t, h, w, o] = bias[o] + sum_{i, j, k, c} x[t st + i, over(h, j), over(w, k), c] * weight[o, i, j, k, c]
//
//   x        a window of frames [height, width, channels] bf16, each wherever it lies: the frames that a causal kernel
//            looks back at are read in place, and absent ones cost nothing
//   weight   packed, see conv3d_tile.cuh, as is where (h, j) and (w, k) fall: `over`
//   y        bf16, see conv3d_end.cuh
//
// A pixel's channels are stored in whole chunks of 8, those past the last as zeros: no copy is narrower than 16 bytes.
//
//   conv3d_mma           3 x 3             in space, any number of frames in time; 96 output channels a block
//   conv3d_mma_point     1 x 1
//   conv3d_mma_halve     3 x 3, stride 2
//   conv3d_mma_double    3 x 3 over the doubled frame
//   conv3d_mma_narrow    3 x 3             16 output channels a block
//   conv3d_mma_narrow_point    1 x 1
//   conv3d_mma_pixels    3 x 3             the first three channels, as video
//
//   tile    8 x 16 pixels x 96 channels, the width of every stage of the network or a divisor of it; eight warps, four down
//           and two across, of 2 lines x 48. Narrow: 16 channels, a line a warp
//   step    one tap of 32 channels: 24 mma.sync a warp, and ten ldmatrix at addresses that differ by constants
//   stages  four of the weight (three for one pixel), 6 KB each; as many patches as they reach over: two for nine taps. 47 KB
//           for 3 x 3, so that every chip holds two blocks; 97 KB for the stride of 2, which every chip can hold once
//   edge    pixels past the frame and channels past the last are zero fill of cp.async
//
// Bytes: from L2, a block of 3 x 3 fetches 67 KB for 7.1 MFLOP: 83 % of it the weight. The sum is in f32, the frames, then
// the channels in steps of 32, then the taps, 16 products at a time as the tensor core adds them.
//
// The norm and SiLU that a convolution reads belong to the end of the one before it, where a block has all channels (96, the
// widest frames of the network): 2 bytes read and 2 written a value less. Elsewhere they are a pass (vae_norm.cu). In the load
// they would be worked out for each of 3 frames, 1.4 times for the halo and once a panel: at 96 channels 4.2 times the
// exponentials, by count 0.15 ms of the function unit and the ALUs for a frame of 480 x 832 on an H200, against 0.03 ms of
// memory traffic.
//
// sass: all LDGSTS.E.BYPASS.128 LDSM.16.M88.4 HMMA.16816.F32.BF16 STG.E.128
#include "conv3d_end.cuh"
#include "conv3d_tile.cuh"

namespace {

constexpr int THREADS = 256, WARPS = THREADS / WARP;
constexpr int TILE_LINES = 8;

// Which part of the tile a warp has: lines, then channels.
template <int LINE_WARPS, int CHANNEL_WARPS, int COLUMN_TILES_>
struct Tile {
  static constexpr int LINES = TILE_LINES / LINE_WARPS;  // of a warp, each a tile of 16 rows
  static constexpr int COLUMN_TILES = COLUMN_TILES_;     // of a warp, each of 8 channels
  static constexpr int PANEL = CHANNEL_WARPS * COLUMN_TILES * 8;
  static constexpr uint32_t PLANE_BYTES = PANEL * CHUNK_BYTES;
  static constexpr uint32_t STAGE_BYTES = PLANES * PLANE_BYTES;
  static constexpr int CHUNKS = STAGE_BYTES / CHUNK_BYTES;
  static_assert(LINE_WARPS * CHANNEL_WARPS == WARPS && TILE_COLUMNS == 16, "every warp has its part of the tile");

  static constexpr __host__ __device__ int first_line(int warp) { return warp / CHANNEL_WARPS * LINES; }
  static constexpr __host__ __device__ int first_channel(int warp) { return warp % CHANNEL_WARPS * COLUMN_TILES * 8; }
};
using Wide = Tile<4, 2, 6>;
using Narrow = Tile<8, 1, 2>;

template <class S, class T>
struct Stages {
  static constexpr int WEIGHTS = S::TAPS == 1 ? 3 : 4;
  // A patch is filled WEIGHTS - 1 steps ahead, when every patch that is still read has one of its own.
  static constexpr int PATCHES = 1 + (WEIGHTS - 1 + S::TAPS - 1) / S::TAPS;
  static constexpr uint32_t WEIGHTS_AT = PATCHES * S::PATCH_BYTES;
  static constexpr uint32_t BYTES = WEIGHTS_AT + WEIGHTS * T::STAGE_BYTES;
  static_assert(STAGED_BYTES<T::PANEL, TILE_LINES> <= BYTES, "the end has no room");
};
template <class S, class T>
constexpr uint32_t BYTES = Stages<S, T>::BYTES;
static_assert(BYTES<Same<8>, Wide> == 47616 && BYTES<Point<8>, Wide> == 43008 && BYTES<Halve<8>, Wide> == 96384 &&
                  BYTES<Double<8>, Wide> == 32256 && BYTES<Same<8>, Narrow> == 27136 && BYTES<Point<8>, Narrow> == 27648,
              "the launcher counts on it");

// The products of one tap with the DEPTH channels of a step. `patch` is the lane's address of the first tap of the warp's
// first line, `weight` that of the warp's first channels in a stage.
template <class S, class T>
TW_DEVICE void multiply_tap(uint32_t patch, uint32_t weight, int lane, int line_tap, int column_tap,
                            float (&sums)[T::LINES][T::COLUMN_TILES][4]) {
  // from the first tap's column: the same for all lanes, but where a doubled frame gives two pixels one column
  const int column = LoadMatrix::a_row(lane);
  const int shift = S::DOUBLED ? S::under(column, column_tap) - S::under(column, 0) : column_tap;
#pragma unroll
  for (int k = 0; k < DEPTH / 16; k++) {
    uint32_t pixels[T::LINES][4];
#pragma unroll
    for (int i = 0; i < T::LINES; i++) {
      const int down = (S::under(i, line_tap) - S::under(0, 0)) * S::COLUMNS;
      ldmatrix_x4(pixels[i], patch + shift * CHUNK_BYTES + down * CHUNK_BYTES + 2 * k * S::PLANE_BYTES);
    }
#pragma unroll
    for (int j = 0; j < T::COLUMN_TILES; j += 2) {
      uint32_t weights[4];
      ldmatrix_x4(weights, weight + 2 * k * T::PLANE_BYTES + j * 8 * CHUNK_BYTES);
#pragma unroll
      for (int i = 0; i < T::LINES; i++) {
        mma_m16n8k16_bf16(sums[i][j], pixels[i], weights[0], weights[1]);
        mma_m16n8k16_bf16(sums[i][j + 1], pixels[i], weights[2], weights[3]);
      }
    }
  }
}

// The block's tile, rounded and staged for its end.
template <class S, class T>
TW_DEVICE Place convolve(const Conv3dParams& p) {
  using Shape = Stages<S, T>;
  constexpr int AHEAD = Shape::WEIGHTS - 1;
  const uint32_t patches = shared_address(dynamic_shared<uint8_t>(0, Shape::BYTES)), stages = patches + Shape::WEIGHTS_AT;
  const int thread = static_cast<int>(threadIdx.x), lane = lane_index(), warp = warp_index();
  const Place at = place_of<TILE_LINES>(p, blockIdx.x);
  const Extent extent = extent_of(p, at);

  PatchFeed<S, THREADS> feed(at, extent, thread);
  Global<const tw_bf16> weight = global(p.weight) + (first_weight<T::PANEL>(p, at, extent, S::TAPS) + thread * CHUNK);
  int patches_left = extent.patches, steps_left = extent.patches * S::TAPS;  // to be fetched
  uint32_t patch_to = patches, stage_to = stages;
  // Fetches the next step's weights, and with the first tap of a patch the patch.
  const auto fetch = [&](bool is_first_tap) {
    if (is_first_tap && patches_left > 0) {
      feed.copy(p, at, patch_to);
      patches_left--;
      patch_to = patch_to == patches + (Shape::PATCHES - 1) * S::PATCH_BYTES ? patches : patch_to + S::PATCH_BYTES;
    }
    if (steps_left > 0) {
#pragma unroll
      for (int first = 0; first < T::CHUNKS; first += THREADS) {
        if (first + THREADS <= T::CHUNKS || first + thread < T::CHUNKS) {
          cp_async<CHUNK_BYTES>(stage_to + (first + thread) * CHUNK_BYTES, weight + first * CHUNK);
        }
      }
      weight += T::PANEL * DEPTH;
      steps_left--;
      stage_to = stage_to == stages + AHEAD * T::STAGE_BYTES ? stages : stage_to + T::STAGE_BYTES;
    }
    cp_async_commit();
  };
#pragma unroll
  for (int step = 0; step < AHEAD; step++) fetch(step % S::TAPS == 0);

  float sums[T::LINES][T::COLUMN_TILES][4];
#pragma unroll
  for (int i = 0; i < T::LINES; i++) {
#pragma unroll
    for (int j = 0; j < T::COLUMN_TILES; j++) {
#pragma unroll
      for (int c = 0; c < 4; c++) sums[i][j][c] = 0.0f;
    }
  }

  const int first_pixel = S::under(T::first_line(warp), 0) * S::COLUMNS + S::under(LoadMatrix::a_row(lane), 0);
  const uint32_t patch_lane = first_pixel * CHUNK_BYTES + LoadMatrix::a_chunk(lane) * S::PLANE_BYTES;
  const uint32_t weight_lane = LoadMatrix::b_chunk(lane) * T::PLANE_BYTES + (T::first_channel(warp) + LoadMatrix::b_column(lane)) * CHUNK_BYTES;
  uint32_t patch = patches, stage = stages;  // to be read
  for (int left = extent.patches; left > 0; left--) {
#pragma unroll
    for (int tap = 0; tap < S::TAPS; tap++) {
      cp_async_wait_group<AHEAD - 1>();
      block_sync();  // this step is there for all, and what the step before it read is free
      fetch((tap + AHEAD) % S::TAPS == 0);
      multiply_tap<S, T>(patch + patch_lane, stage + weight_lane, lane, tap / S::SIDE, tap % S::SIDE, sums);
      stage = stage == stages + AHEAD * T::STAGE_BYTES ? stages : stage + T::STAGE_BYTES;
    }
    patch = patch == patches + (Shape::PATCHES - 1) * S::PATCH_BYTES ? patches : patch + S::PATCH_BYTES;
  }
  cp_async_wait_group<0>();
  block_sync();  // shared memory is free for the end

  const int row = Fragment::c_row(lane, 0), column = Fragment::c_column(lane, 0);
#pragma unroll
  for (int i = 0; i < T::LINES; i++) {
    const int pixel = (T::first_line(warp) + i) * TILE_COLUMNS + row;
#pragma unroll
    for (int j = 0; j < T::COLUMN_TILES; j++) {
      const float(&y)[4] = sums[i][j];
      stage_values<T::PANEL, TILE_LINES>(p, at, pixel, pixel + 8, T::first_channel(warp) + j * 8 + column, y[0], y[1], y[2], y[3]);
    }
  }
  block_sync();
  return at;
}

template <class S, class T>
TW_DEVICE void convolve_frames(const Conv3dParams& p) {
  const Place at = convolve<S, T>(p);
  end_frames<T::PANEL, TILE_LINES, THREADS>(p, at, [] { block_sync(); });
}

}  // namespace

TW_KERNEL(conv3d_mma, Conv3dParams, THREADS, 2) { convolve_frames<Same<TILE_LINES>, Wide>(p); }
TW_KERNEL(conv3d_mma_point, Conv3dParams, THREADS, 2) { convolve_frames<Point<TILE_LINES>, Wide>(p); }
TW_KERNEL(conv3d_mma_halve, Conv3dParams, THREADS, 2) { convolve_frames<Halve<TILE_LINES>, Wide>(p); }
TW_KERNEL(conv3d_mma_double, Conv3dParams, THREADS, 2) { convolve_frames<Double<TILE_LINES>, Wide>(p); }
TW_KERNEL(conv3d_mma_narrow, Conv3dParams, THREADS, 2) { convolve_frames<Same<TILE_LINES>, Narrow>(p); }
TW_KERNEL(conv3d_mma_narrow_point, Conv3dParams, THREADS, 2) { convolve_frames<Point<TILE_LINES>, Narrow>(p); }

TW_KERNEL(conv3d_mma_pixels, Conv3dParams, THREADS, 2) {
  const Place at = convolve<Same<TILE_LINES>, Narrow>(p);
  end_pixels<Narrow::PANEL, TILE_LINES, THREADS>(p, at);
}
