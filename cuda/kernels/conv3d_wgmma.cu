// The causal convolutions of 3 x 3 on wgmma: as conv3d_mma.cu, with a tile of twice the lines and warps that only fetch.
//
//   conv3d_wgmma          3 x 3 in space, any number of frames in time; 96 output channels a block
//   conv3d_wgmma_double   3 x 3 over the doubled frame
//
// Operands, packing, ends and the order of the sum are those of conv3d_mma.cu, and so are the results but for the way in
// which the tensor core adds sixteen products.
//
//   tile       16 x 16 pixels x 96 channels; two warpgroups multiply, each two products of 64 pixels x 96, 96 sums a thread
//   rows       of a product are 8 x 8 pixels, eight of a line being one core matrix and the lines a stride apart. That is what
//              lets a descriptor name any tap of a patch in place. Of a doubled frame they are the pixels of one parity, of
//              which neighbours see neighbours:
//
//                same     warpgroup g has lines 8 g .. 8 g + 7, product i columns 8 i .. 8 i + 7
//                double   warpgroup g has lines g, g + 2, ..    product i columns i, i + 2, ..
//
//   copiers    three warps of the third warpgroup gather the patches (cp.async; border and padding are zero fill), a thread of
//              the fourth fetches the weight, 6 KB at a time, in one bulk copy
//   stages     three patches (20 KB each for 3 x 3) and eight of the weight (6 KB each): 110 KB, one block a multiprocessor
//   barriers   an mbarrier for each patch and stage says that it is full, another that all eight warps have done with it
//
// The step of one tap and 32 channels is eight wgmma of 48 clocks on the four tensor cores; they read 5 KB each from shared
// memory, 40 clocks. The weight's way into it adds 48 to these 320, the patch's 18: shared memory and tensor cores are about
// equally loaded, which is what a panel of 96 channels costs.
//
// chips: 90a
// sass: 90a HGMMA.64x96x16.F32.BF16 LDGSTS.E.BYPASS.128 UBLKCP STG.E.128
#include "conv3d_end.cuh"
#include "conv3d_tile.cuh"

namespace {

constexpr int CONSUMERS = 256, COPIERS = 96, THREADS = 384;
constexpr int CONSUMER_WARPS = CONSUMERS / WARP;
constexpr int TILE_LINES = 16;
constexpr int PANEL = 96;
constexpr int PRODUCTS = 2;  // of 64 pixels, a warpgroup
constexpr int PATCHES = 3, STAGES = 8;
constexpr uint32_t PLANE_BYTES = PANEL * CHUNK_BYTES;
constexpr uint32_t STAGE_BYTES = PLANES * PLANE_BYTES;
constexpr uint32_t MBARRIER_BYTES = 8;
constexpr uint32_t CONSUMERS_ONLY = 1;  // the named barrier of those that multiply

template <class S>
constexpr uint32_t BYTES = PATCHES * S::PATCH_BYTES + STAGES * STAGE_BYTES;
static_assert(BYTES<Same<16>> == 111360 && BYTES<Double<16>> == 68352, "the launcher counts on it");
static_assert(STAGED_BYTES<PANEL, TILE_LINES> <= BYTES<Double<16>>, "the end has no room");

// Which output pixels a warpgroup's product has, from its first; a row is eight pixels further in its group of eight.
template <class S>
struct Rows {
  static constexpr int STEP = S::DOUBLED ? 2 : 1;  // between neighbouring lines, and columns
  static constexpr __host__ __device__ int first(int part) { return S::DOUBLED ? part : part * 8; }
  static constexpr __host__ __device__ int line(int group, int row) { return first(group) + row / 8 * STEP; }
  static constexpr __host__ __device__ int column(int product, int row) { return first(product) + row % 8 * STEP; }
};

// The rows are the tile, each pixel once, and neighbouring rows see neighbouring pixels of the patch.
template <class S>
constexpr bool rows_are_sound() {
  bool seen[TILE_LINES * TILE_COLUMNS] = {};
  for (int group = 0; group < 2; group++) {
    for (int product = 0; product < PRODUCTS; product++) {
      for (int row = 0; row < 64; row++) {
        const int line = Rows<S>::line(group, row), column = Rows<S>::column(product, row);
        if (seen[line * TILE_COLUMNS + column]) return false;
        seen[line * TILE_COLUMNS + column] = true;
        for (int tap = 0; tap < S::SIDE; tap++) {
          if (S::under(line, tap) != S::under(Rows<S>::first(group), tap) + row / 8) return false;
          if (S::under(column, tap) != S::under(Rows<S>::first(product), tap) + row % 8) return false;
        }
      }
    }
  }
  return true;
}
static_assert(rows_are_sound<Same<16>>() && rows_are_sound<Double<16>>(), "rows that no descriptor can name");

// Goes round a ring of COUNT places; the parity of a barrier's phase turns with every round.
template <int COUNT>
struct Ring {
  uint32_t place = 0, parity = 0;

  __device__ __forceinline__ void advance() {
    place++;
    if (place == COUNT) {
      place = 0;
      parity ^= 1;
    }
  }
};

// The mbarriers of a ring, full ones first.
template <int COUNT>
TW_DEVICE uint32_t full(uint32_t barriers, uint32_t place) { return barriers + place * MBARRIER_BYTES; }
template <int COUNT>
TW_DEVICE uint32_t empty(uint32_t barriers, uint32_t place) { return barriers + (COUNT + place) * MBARRIER_BYTES; }

// One for each warp that has done with what was read.
TW_DEVICE void release(uint32_t mbarrier, int lane) {
  if (lane == 0) mbarrier_arrive(mbarrier);
}

template <class S>
TW_DEVICE void convolve_frames(const Conv3dParams& p) {
  TW_SHARED(uint64_t, mbarriers, 2 * (PATCHES + STAGES));
  const uint32_t patch_barriers = shared_address(mbarriers), stage_barriers = patch_barriers + 2 * PATCHES * MBARRIER_BYTES;
  const uint32_t patches = shared_address(dynamic_shared<uint8_t>(0, BYTES<S>)), stages = patches + PATCHES * S::PATCH_BYTES;
  const int thread = static_cast<int>(threadIdx.x), lane = lane_index(), warp = warp_index();
  const Place at = place_of<TILE_LINES>(p, blockIdx.x);
  const Extent extent = extent_of(p, at);

  if (thread == 0) {
    for (uint32_t i = 0; i < PATCHES; i++) {
      mbarrier_init(full<PATCHES>(patch_barriers, i), COPIERS);
      mbarrier_init(empty<PATCHES>(patch_barriers, i), CONSUMER_WARPS);
    }
    for (uint32_t i = 0; i < STAGES; i++) {
      mbarrier_init(full<STAGES>(stage_barriers, i), 1);
      mbarrier_init(empty<STAGES>(stage_barriers, i), CONSUMER_WARPS);
    }
    fence_mbarrier_init();
  }
  block_sync();

  if (thread >= CONSUMERS + COPIERS) {
    // the weight
    if (thread == CONSUMERS + COPIERS) {
      Global<const tw_bf16> weight = global(p.weight) + first_weight<PANEL>(p, at, extent, S::TAPS);
      Ring<STAGES> ring;
      for (int step = 0; step < extent.patches * S::TAPS; step++) {
        mbarrier_wait(empty<STAGES>(stage_barriers, ring.place), ring.parity ^ 1);
        mbarrier_arrive_expect(full<STAGES>(stage_barriers, ring.place), STAGE_BYTES);
        bulk_copy_to_shared(stages + ring.place * STAGE_BYTES, weight, STAGE_BYTES, full<STAGES>(stage_barriers, ring.place));
        weight += PANEL * DEPTH;
        ring.advance();
      }
    }
    return;
  }

  if (thread >= CONSUMERS) {
    // the patches, the next one on its way while one arrives
    PatchFeed<S, COPIERS> feed(at, extent, thread - CONSUMERS);
    Ring<PATCHES> ring, arrived;
    for (int patch = 0; patch < extent.patches; patch++) {
      mbarrier_wait(empty<PATCHES>(patch_barriers, ring.place), ring.parity ^ 1);
      feed.copy(p, at, patches + ring.place * S::PATCH_BYTES);
      cp_async_commit();
      ring.advance();
      if (patch > 0) {
        cp_async_wait_group<1>();
        fence_proxy_async();
        mbarrier_arrive(full<PATCHES>(patch_barriers, arrived.place));
        arrived.advance();
      }
    }
    if (extent.patches > 0) {
      cp_async_wait_group<0>();
      fence_proxy_async();
      mbarrier_arrive(full<PATCHES>(patch_barriers, arrived.place));
    }
    return;
  }

  // the products
  const int group = warp / 4;
  float sums[PRODUCTS][PANEL / 2];
#pragma unroll
  for (int i = 0; i < PRODUCTS; i++) {
#pragma unroll
    for (int j = 0; j < PANEL / 2; j++) sums[i][j] = 0.0f;
  }
  Ring<PATCHES> patch_ring;
  Ring<STAGES> stage_ring;
  uint32_t patch_before = 0, stage_before = 0;
  for (int patch = 0; patch < extent.patches; patch++) {
    mbarrier_wait(full<PATCHES>(patch_barriers, patch_ring.place), patch_ring.parity);
    const uint32_t pixels = patches + patch_ring.place * S::PATCH_BYTES;
#pragma unroll
    for (int tap = 0; tap < S::TAPS; tap++) {
      mbarrier_wait(full<STAGES>(stage_barriers, stage_ring.place), stage_ring.parity);
      const uint32_t weight = stages + stage_ring.place * STAGE_BYTES;
      const int line = S::under(Rows<S>::first(group), tap / S::SIDE);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < DEPTH / 16; k++) {
        const uint64_t b = matrix_descriptor(weight + 2 * k * PLANE_BYTES, PLANE_BYTES, 8 * CHUNK_BYTES, Swizzle::None);
#pragma unroll
        for (int i = 0; i < PRODUCTS; i++) {
          const int first = line * S::COLUMNS + S::under(Rows<S>::first(i), tap % S::SIDE);
          const uint64_t a = matrix_descriptor(pixels + first * CHUNK_BYTES + 2 * k * S::PLANE_BYTES, S::PLANE_BYTES,
                                               S::COLUMNS * CHUNK_BYTES, Swizzle::None);
          wgmma_m64k16_bf16<PANEL>(sums[i], a, b, true);
        }
      }
      wgmma_commit();
      wgmma_wait<1>();  // the step before has been multiplied
      if (patch > 0 || tap > 0) release(empty<STAGES>(stage_barriers, stage_before), lane);
      if (patch > 0 && tap == 0) release(empty<PATCHES>(patch_barriers, patch_before), lane);
      stage_before = stage_ring.place;
      stage_ring.advance();
    }
    patch_before = patch_ring.place;
    patch_ring.advance();
  }
  wgmma_wait<0>();
  barrier_sync(CONSUMERS_ONLY, CONSUMERS);  // shared memory is free for the end

  const int row = warp % 4 * 16 + Fragment::c_row(lane, 0), column = Fragment::c_column(lane, 0);
#pragma unroll
  for (int i = 0; i < PRODUCTS; i++) {
    const int first = Rows<S>::line(group, row) * TILE_COLUMNS + Rows<S>::column(i, row);
    const int second = Rows<S>::line(group, row + 8) * TILE_COLUMNS + Rows<S>::column(i, row + 8);
#pragma unroll
    for (int j = 0; j < PANEL / 8; j++) {
      stage_values<PANEL, TILE_LINES>(p, at, first, second, j * 8 + column, sums[i][4 * j], sums[i][4 * j + 1], sums[i][4 * j + 2],
                                      sums[i][4 * j + 3]);
    }
  }
  barrier_sync(CONSUMERS_ONLY, CONSUMERS);
  end_frames<PANEL, TILE_LINES, CONSUMERS>(p, at, [] { barrier_sync(CONSUMERS_ONLY, CONSUMERS); });
}

}  // namespace

TW_KERNEL(conv3d_wgmma, Conv3dParams, THREADS, 1) { convolve_frames<Same<TILE_LINES>>(p); }
TW_KERNEL(conv3d_wgmma_double, Conv3dParams, THREADS, 1) { convolve_frames<Double<TILE_LINES>>(p); }
