// int8 scores on wgmma: a producer warp streams key tiles by bulk copies, a consumer warpgroup multiplies.
//
//   s[r, c] = sum_d q[r, d] k[c, d]      q [rows, 128] int8; k in tiles of 64 keys, swizzled as shared memory has them
//                                        (8 KB each, the last one padded with zeros); s [rows, keys] s32
//
//   tile   64 queries x 64 keys x 128; warpgroup 0 produces, warpgroup 1 consumes; STAGES key tiles in flight
//   edge   queries past the end are zero in shared memory; rows and keys past the end are not stored
//
// chips: 90a
// A test of the emulator: `fault` switches one mistake on.
#include "kernel.cuh"
#include "ptx.cuh"
#include "tile.cuh"

#include "faults.h"

namespace {

constexpr int TILE_Q = 64, TILE_K = 64, DIM = 128, STAGES = 2, WARPGROUP = 128, THREADS = 2 * WARPGROUP;
constexpr uint32_t TILE_BYTES = TILE_K * DIM, STAGING_BYTES = 256;
constexpr uint32_t Q_AT = 0, K_AT = TILE_BYTES, STAGING_AT = K_AT + STAGES * TILE_BYTES, BARRIERS_AT = STAGING_AT + STAGING_BYTES;
constexpr uint32_t QUERY_BARRIER = 1, END_BARRIER = 2;
using Rows = Swizzled<DIM>;

__device__ __forceinline__ void produce(const ScoresParams& p, uint32_t k_tiles, uint32_t full, uint32_t empty, int key_tiles) {
  const uint32_t fault = p.fault;
  const Global<const int8_t> k = global(p.k);
  const int tiles = key_tiles + (fault == TILE_PAST_END);
  for (int tile = 0; tile < tiles; ++tile) {
    const uint32_t stage = tile % STAGES, turn = tile / STAGES;
    // A fresh stage is empty: the wait is for the phase before the first.
    if (fault != MISSING_EMPTY_WAIT) mbarrier_wait(empty + 8 * stage, (turn + 1) % 2);
    uint32_t bytes = TILE_BYTES;
    if (fault == EXPECT_TOO_FEW) bytes /= 2;
    if (fault == EXPECT_TOO_MANY) bytes += 16;
    if (fault == MISSING_EXPECT) {
      mbarrier_arrive(full + 8 * stage);
    } else {
      mbarrier_arrive_expect(full + 8 * stage, bytes);
    }
    bulk_copy_to_shared(k_tiles + stage * TILE_BYTES, k + static_cast<int64_t>(tile) * TILE_BYTES,
                        fault == ODD_COPY_BYTES ? TILE_BYTES - 8 : TILE_BYTES, full + 8 * stage);
  }
  // Nobody leaves before the last stage is given back.
  for (int tile = key_tiles; tile < key_tiles + STAGES; ++tile) {
    if (fault != MISSING_EMPTY_WAIT && tile >= STAGES) mbarrier_wait(empty + 8 * (tile % STAGES), (tile / STAGES + 1) % 2);
  }
}

__device__ __forceinline__ void consume(const ScoresParams& p, uint32_t q_tile, Shared<int8_t> q_values, uint32_t k_tiles,
                                        Shared<float> staging, uint32_t full, uint32_t empty, int key_tiles) {
  const uint32_t fault = p.fault;
  const Global<const int8_t> q = global(p.q);
  const Global<int32_t> s = global(p.s);
  const Global<float> peak = global(p.peak);
  const int thread = static_cast<int>(threadIdx.x) - WARPGROUP, lane = lane_index(), warp = thread / WARP;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * TILE_Q;

  // Queries: ordinary writes, then made known to the async proxy.
  for (int i = thread; i < TILE_Q * Rows::CHUNKS; i += WARPGROUP) {
    const uint32_t row = i / Rows::CHUNKS, chunk = i % Rows::CHUNKS;
    uint4 values = make_uint4(0, 0, 0, 0);
    if (first_row + row < p.rows) values = load_vector<uint4>(q + (first_row + row) * DIM + chunk * 16);
    store_vector(q_values + Rows::chunk(row, chunk), values);
  }
  if (fault != MISSING_PROXY_FENCE) fence_proxy_async();
  if (fault != MISSING_QUERY_BARRIER) barrier_sync(QUERY_BARRIER, WARPGROUP + (fault == NAMED_BARRIER_COUNT ? WARP : 0));

  float most = 0.0f;
  int32_t c[TILE_K / 2];
  for (int tile = 0; tile < key_tiles; ++tile) {
    const uint32_t stage = tile % STAGES, turn = tile / STAGES;
    if (fault != MISSING_FULL_WAIT) mbarrier_wait(full + 8 * stage, (turn + (fault == WRONG_PARITY)) % 2);

    // Multiply
    uint32_t k_tile = k_tiles + stage * TILE_BYTES;
    if (fault == MISALIGNED_DESCRIPTOR) k_tile += DIM;
    if (fault != MISSING_WGMMA_FENCE) wgmma_fence();
    for (int depth = 0; depth < DIM / 32; ++depth) {
      const uint32_t byte = fault == WRONG_DESCRIPTOR_DEPTH ? 0 : depth * 32;
      uint64_t b = swizzled_descriptor<DIM>(k_tile, byte);
      if (fault == WRONG_DESCRIPTOR_STRIDE) b = matrix_descriptor(k_tile + byte, 16, 512, Swizzle::Bytes128);
      if (fault == WRONG_DESCRIPTOR_SWIZZLE) b = matrix_descriptor(k_tile + byte, 16, 1024, Swizzle::None);
      if (fault == ONE_WARP_SKIPS && depth == 3 && warp == 2) continue;
      wgmma_m64k32_s8<TILE_K>(c, swizzled_descriptor<DIM>(q_tile, depth * 32), b, depth != 0);
    }
    if (fault != MISSING_WGMMA_COMMIT) wgmma_commit();
    if (fault == EARLY_RELEASE && thread % WARP == 0) mbarrier_arrive(empty + 8 * stage);
    if (fault == EARLY_ACCUMULATOR_READ) most = fmaxf(most, fabsf(to_f32(c[0])));
    if (fault == EARLY_ACCUMULATOR_WRITE) c[1] = 0;
    if (fault == WGMMA_WAIT_OFF_BY_ONE) {
      wgmma_wait<1>();
    } else {
      wgmma_wait<0>();
    }
    if (fault != EARLY_RELEASE && !(fault == MISSING_ARRIVE && warp == 3) && lane == 0) mbarrier_arrive(empty + 8 * stage);
    if (fault == DOUBLE_ARRIVE && thread == 0) mbarrier_arrive(empty + 8 * stage);

    // Store
    for (int value = 0; value < TILE_K / 2; ++value) {
      const int64_t row = first_row + warp * 16 + Fragment::c_row(lane, value);
      const int64_t column = static_cast<int64_t>(tile) * TILE_K + Fragment::c_column(lane, value);
      most = fmaxf(most, fabsf(to_f32(c[value])));
      if (row < p.rows && column < p.keys) s[row * p.keys + column] = c[value];
    }
  }

  // The largest score of each warp goes out by a bulk store: peak[block] holds four values.
  most = warp_max(most);
  if (lane == 0) staging[warp] = most;
  if (fault != MISSING_STORE_FENCE) fence_proxy_async();
  barrier_sync(END_BARRIER, WARPGROUP);
  if (thread == 0) {
    bulk_copy_to_global(peak + static_cast<int64_t>(blockIdx.x) * 4, shared_address(staging), 16);
    bulk_commit();
    if (fault == EARLY_STAGING_REUSE) staging[0] = 0.0f;
    if (fault != MISSING_STORE_WAIT) bulk_wait_group_read<0>();
  }
}

}  // namespace

TW_KERNEL(scores_wgmma, ScoresParams, THREADS, 1) {
  const uint32_t fault = p.fault;
  const Shared<int8_t> q_values = dynamic_shared<int8_t>(Q_AT, TILE_BYTES);
  const Shared<int8_t> k_values = dynamic_shared<int8_t>(K_AT, STAGES * TILE_BYTES);
  const Shared<float> staging = dynamic_shared<float>(STAGING_AT, STAGING_BYTES / 4);
  const Shared<uint64_t> barriers = dynamic_shared<uint64_t>(BARRIERS_AT, 2 * STAGES);
  const uint32_t full = shared_address(barriers), empty = full + 8 * STAGES;
  const int key_tiles = static_cast<int>((p.keys + TILE_K - 1) / TILE_K);

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; ++stage) {
      mbarrier_init(full + 8 * stage, 1);
      mbarrier_init(empty + 8 * stage, WARPGROUP / WARP + (fault == WRONG_COUNT));
    }
    if (fault != MISSING_INIT_FENCE) fence_mbarrier_init();
  }
  if (fault != MISSING_INIT_BARRIER) block_sync();

  if (threadIdx.x < WARPGROUP) {
    give_registers<40>();
    if (threadIdx.x == 0) produce(p, shared_address(k_values), full, empty, key_tiles);
  } else {
    take_registers<128>();
    consume(p, shared_address(q_values), q_values, shared_address(k_values), staging, full, empty, key_tiles);
  }
}
