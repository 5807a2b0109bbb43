// A matrix through shared memory by tensor copies: each tile comes, is changed by ordinary accesses, and goes.
//
//   y[p, r, c] = x[p, r, c] + 1      x, y [planes, rows, columns], 16-bit values; two axes or three
//   outside[0] |= what the tiles hold of x outside the matrix, which is zero
//
//   tile   128 chunks of 16 bytes, one a thread: rows of ROW_BYTES, swizzled; with three axes in two planes
//   edge   the matrix ends inside tiles; the copy fills with zeros, the store leaves out
//
// chips: 90a
// A test of the emulator: `fault` switches one mistake on, or says which mistake the host made in a map.
#include "kernel.cuh"
#include "ptx.cuh"
#include "tile.cuh"

#include "faults.h"

namespace {

constexpr int THREADS = 128, PLANES = 2;
constexpr uint32_t TILE_BYTES = THREADS * CHUNK_BYTES;

template <int ROW_BYTES>
TW_DEVICE void copy_tile(const TensorParams& p) {
  using Rows = Swizzled<ROW_BYTES>;
  constexpr int ALL_ROWS = THREADS / Rows::CHUNKS, COLUMNS = ROW_BYTES / 2;
  const uint32_t fault = p.fault;
  const Shared<uint16_t> arriving = dynamic_shared<uint16_t>(0, TILE_BYTES), leaving = dynamic_shared<uint16_t>(2 * TILE_BYTES, TILE_BYTES / 2);
  TW_SHARED(uint64_t, barrier, 1);
  const uint32_t mbarrier = shared_address(barrier);
  const bool has_planes = p.axes == 3;
  const int tile_planes = has_planes ? PLANES : 1, tile_rows = ALL_ROWS / tile_planes;
  const int column = static_cast<int>(blockIdx.x) * COLUMNS, row = static_cast<int>(blockIdx.y) * tile_rows;
  const int plane = static_cast<int>(blockIdx.z) * tile_planes;

  if (threadIdx.x == 0) {
    mbarrier_init(mbarrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(mbarrier, fault == TENSOR_EXPECT_TOO_FEW ? TILE_BYTES - 16 : TILE_BYTES);
    const uint32_t to = shared_address(arriving) + (fault == TENSOR_MISALIGNED_TARGET ? 64 : 0);
    prefetch_tensor_map(p.x);
    if (has_planes) {
      tensor_copy_to_shared_3d(to, p.x, plane, row, column, mbarrier);
    } else if (fault == TENSOR_SWAPPED_COORDINATES) {
      tensor_copy_to_shared_2d(to, p.x, column, row, mbarrier);
    } else if (fault == TENSOR_COPIED_MAP) {
      const tw_tensor_map copied = p.x;
      tensor_copy_to_shared_2d(to, copied, row, column, mbarrier);
    } else {
      tensor_copy_to_shared_2d(to, p.x, row, column, mbarrier);
    }
  }
  block_sync();
  if (fault != TENSOR_MISSING_WAIT) mbarrier_wait(mbarrier, 0);

  const int tile_row = static_cast<int>(threadIdx.x) / Rows::CHUNKS, chunk = static_cast<int>(threadIdx.x) % Rows::CHUNKS;
  const uint32_t place = Rows::chunk(tile_row, chunk);
  const int64_t at_plane = plane + tile_row / tile_rows, at_row = row + tile_row % tile_rows;
  uint32_t outside = 0;
  for (int i = 0; i < CHUNK_BYTES / 2; i++) {
    const uint16_t value = arriving[place / 2 + i];
    const bool is_inside = at_plane < p.planes && at_row < p.rows && column + chunk * 8 + i < p.columns;
    outside |= is_inside ? 0u : value;
    leaving[place / 2 + i] = static_cast<uint16_t>(value + 1);
  }
  atomic_or(global(p.outside), outside);
  if (fault != TENSOR_MISSING_STORE_FENCE) fence_proxy_async();
  if (fault != TENSOR_MISSING_STORE_BARRIER) block_sync();
  if (threadIdx.x == 0) {
    if (has_planes) {
      tensor_copy_to_global_3d(p.y, plane, row, column, shared_address(leaving));
    } else {
      tensor_copy_to_global_2d(p.y, row, column, shared_address(leaving));
    }
    bulk_commit();
    if (fault != TENSOR_MISSING_STORE_WAIT) bulk_wait_group_read<0>();
  }
}

}  // namespace

TW_KERNEL(tensor_copies_128, TensorParams, THREADS) { copy_tile<128>(p); }
TW_KERNEL(tensor_copies_64, TensorParams, THREADS) { copy_tile<64>(p); }
TW_KERNEL(tensor_copies_32, TensorParams, THREADS) { copy_tile<32>(p); }
