// int8 scores on mma.sync: one block has 64 queries and walks over the keys, 64 at a time, two cp.async buffers.
//
//   s[r, c] = sum_d q[r, d] k[c, d]      q [rows, 128], k [keys, 128] int8, s [rows, keys] s32
//
//   tile   64 queries x 64 keys x 128; four warps of 16 queries
//   edge   rows and keys past the end are zero-filled in shared memory and not stored
//
// A test of the emulator: `fault` switches one mistake on.
#include "kernel.cuh"
#include "ptx.cuh"
#include "tile.cuh"

#include "faults.h"

namespace {

constexpr int TILE_Q = 64, TILE_K = 64, DIM = 128, THREADS = 128, WARPS = THREADS / WARP;
constexpr int TILE_BYTES = TILE_K * DIM;
using Rows = Swizzled<DIM>;

// Copies rows `first ..` of a matrix [rows, 128] into a tile, 16 bytes a thread.
__device__ __forceinline__ void load_tile(uint32_t tile, Global<const int8_t> matrix, int64_t first, int64_t rows, uint32_t fault) {
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x); i < TILE_K * Rows::CHUNKS; i += THREADS) {
    const uint32_t row = i / Rows::CHUNKS, chunk = i % Rows::CHUNKS;
    uint32_t place = tile + Rows::chunk(row, chunk);
    if (fault == SWIZZLE_BIT_ON_STORE) place ^= (row & 1) << 5;
    if (fault == SHARED_OVERRUN) place += DIM;
    const bool is_real = first + row < rows + (fault == READ_ONE_PAST_END);
    const Global<const int8_t> source = matrix + (first + row) * DIM + chunk * 16 + (fault == MISALIGNED_COPY);
    if (fault == UNWRITTEN_TAIL) {
      if (is_real) cp_async<16>(place, source);
    } else if (fault == READ_PAST_END) {
      cp_async<16>(place, source);
    } else {
      cp_async_zero_fill<16>(place, source, is_real ? 16 : 0);
    }
  }
}

}  // namespace

TW_KERNEL(scores_mma, ScoresParams, THREADS) {
  const uint32_t fault = p.fault;
  const Global<const int8_t> q = global(p.q), k = global(p.k);
  const Global<int32_t> s = global(p.s);
  const Global<float> peak = global(p.peak);
  const Shared<int8_t> tiles = dynamic_shared<int8_t>(0, 3 * TILE_BYTES);
  const uint32_t q_tile = shared_address(tiles), k_tiles = q_tile + TILE_BYTES;
  TW_SHARED(float, partial, WARPS);
  const int lane = lane_index(), warp = warp_index();
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * TILE_Q;
  const int key_tiles = static_cast<int>((p.keys + TILE_K - 1) / TILE_K);

  // The queries travel with the first tile of keys.
  load_tile(q_tile, q, first_row, p.rows, fault == SHARED_OVERRUN || fault == UNWRITTEN_TAIL ? NO_FAULT : fault);
  load_tile(k_tiles, k, 0, p.keys, fault);
  cp_async_commit();

  float most = 0.0f;
  for (int tile = 0; tile < key_tiles; ++tile) {
    if (tile + 1 < key_tiles) {
      load_tile(k_tiles + (tile + 1) % 2 * TILE_BYTES, k, static_cast<int64_t>(tile + 1) * TILE_K, p.keys, fault);
    }
    if (fault != MISSING_COMMIT) cp_async_commit();
    if (fault == WAIT_OFF_BY_ONE) {
      cp_async_wait_group<2>();
    } else if (fault != MISSING_WAIT) {
      cp_async_wait_group<1>();
    }
    if (fault == BARRIER_IN_BRANCH) {
      if (lane % 2 == 0) block_sync();
    } else if (fault == DIVERGENT_BARRIER) {
      if (warp != 2) block_sync();
    } else if (fault != MISSING_BARRIER_AFTER_WAIT) {
      block_sync();
    }

    // Multiply
    int32_t c[TILE_K / 8][4] = {};
    const uint32_t k_tile = k_tiles + (fault == WRONG_BUFFER ? (tile + 1) % 2 : tile % 2) * TILE_BYTES;
    for (int depth = 0; depth < DIM / 32; ++depth) {
      uint32_t a[4];
      ldmatrix_x4(a, q_tile + Rows::chunk(warp * 16 + LoadMatrix::a_row(lane), depth * 2 + LoadMatrix::a_chunk(lane)));
      for (int column = 0; column < TILE_K / 16; ++column) {
        uint32_t b[4];
        uint32_t place = k_tile + Rows::chunk(column * 16 + LoadMatrix::b_column(lane), depth * 2 + LoadMatrix::b_chunk(lane));
        if (fault == SWIZZLE_BIT_ON_LOAD) place ^= (LoadMatrix::b_column(lane) & 2) << 3;
        if (fault == MISALIGNED_LDMATRIX) place += 8;
        ldmatrix_x4(b, place);
        if (fault == SWAPPED_FRAGMENT) {
          const uint32_t first = b[0];
          b[0] = b[1];
          b[1] = first;
        }
        mma_m16n8k32_s8(c[column * 2], a, b[0], b[1]);
        mma_m16n8k32_s8(c[column * 2 + 1], a, b[2], b[3]);
      }
    }
    if (fault != MISSING_BARRIER_BEFORE_REUSE) block_sync();

    // Store
    for (int value = 0; value < TILE_K / 2; ++value) {
      const int64_t row = first_row + warp * 16 + Fragment::c_row(lane, value);
      const int64_t column = static_cast<int64_t>(tile) * TILE_K + Fragment::c_column(lane, value);
      const int32_t score = c[value / 4][value % 4];
      most = fmaxf(most, fabsf(to_f32(score)));
      const bool is_real = column < p.keys + (fault == STORE_ONE_PAST_END);
      if (row >= p.rows || !is_real) continue;
      if (fault == STORE_READ_ONLY) {
        Global<int32_t> over = pointer_cast<int32_t>(global(const_cast<int8_t*>(p.q)));
        over[0] = score;
      }
      s[row * p.keys + column] = score;
    }
  }

  // The largest score of the block
  if (fault == EARLY_EXIT_SHUFFLE && first_row + warp * 16 + Fragment::c_row(lane, 0) >= p.rows) return;
  if (fault == EARLY_EXIT_BARRIER && first_row + warp * 16 >= p.rows) return;
  if (fault == DIVERGENT_SHUFFLE && lane < 16) most = fmaxf(most, shuffle_xor(most, 16));
  most = warp_max(most);
  if (lane == 0) partial[warp] = most;
  if (fault != MISSING_REDUCE_BARRIER) block_sync();
  if (threadIdx.x == 0) {
    for (int i = 1; i < WARPS + (fault == PARTIAL_OVERRUN); ++i) most = fmaxf(most, partial[i]);
    peak[blockIdx.x] = most;
  }
}
