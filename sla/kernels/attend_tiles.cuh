// What the exact attention kernels share: bf16 tiles of rows in shared memory, as operands of mma.sync, and the tiles that a
// block walks over.
//
// A tile [ROWS, D] lies in parts of 64 channels, each [ROWS, 64] in rows of 128 bytes, swizzled (tile.cuh). One register
// says where a lane reads: the steps to other rows and channels are constants, since a tile begins at a multiple of 1024.
#pragma once
#include "attend_params.h"
#include "kernel.cuh"
#include "ptx.cuh"
#include "tile.cuh"

namespace {

// Rows of the tiles that stream by: of keys, or of queries.
constexpr int TILE = 64;
constexpr int PART_BYTES = 128, PART_CHUNKS = PART_BYTES / CHUNK_BYTES;
constexpr float INFINITE = __builtin_huge_valf();

using TileRows = Swizzled<PART_BYTES>;

// The place `chunks` (even) to the right of one in chunk 0 or 1 of a row: a swizzle is an exclusive or, so they commute.
TW_DEVICE uint32_t chunks_right(uint32_t place, int chunks) { return place ^ static_cast<uint32_t>(chunks * CHUNK_BYTES); }

// A tile as A: 16 rows, 16 channels.
template <int ROWS>
struct RowOperand {
  uint32_t place;
  __device__ __forceinline__ RowOperand(uint32_t tile, int lane)
      : place(tile + TileRows::chunk(LoadMatrix::a_row(lane), LoadMatrix::a_chunk(lane))) {}
  __device__ __forceinline__ void load(uint32_t (&a)[4], int row, int depth) const {
    ldmatrix_x4(a, chunks_right(place, depth % 4 * 2) + (depth / 4 * ROWS + row) * PART_BYTES);
  }
};

// A tile as B whose columns are 16 of its rows, and whose depth is 16 channels.
template <int ROWS>
struct ColumnOperand {
  uint32_t place;
  __device__ __forceinline__ ColumnOperand(uint32_t tile, int lane)
      : place(tile + TileRows::chunk(LoadMatrix::b_column(lane), LoadMatrix::b_chunk(lane))) {}
  __device__ __forceinline__ void load(uint32_t (&b)[4], int row, int depth) const {
    ldmatrix_x4(b, chunks_right(place, depth % 4 * 2) + (depth / 4 * ROWS + row) * PART_BYTES);
  }
};

// A tile as B whose depth is 16 of its rows, and whose columns are the channels 16 * column and the next 15.
template <int ROWS>
struct DepthOperand {
  uint32_t place;
  __device__ __forceinline__ DepthOperand(uint32_t tile, int lane)
      : place(tile + TileRows::chunk(LoadMatrix::b_transposed_depth(lane), LoadMatrix::b_transposed_chunk(lane))) {}
  __device__ __forceinline__ void load(uint32_t (&b)[4], int row, int column) const {
    ldmatrix_x4_transposed(b, chunks_right(place, column % 4 * 2) + (column / 4 * ROWS + row) * PART_BYTES);
  }
};

// Copies COUNT rows of D values into a tile of ROWS; from the source row `rows` on they become zeros.
// Of THREADS threads each copies the same chunk of every part and of every PASS_ROWS-th row.
template <int ROWS, int D, int THREADS, int COUNT = ROWS>
struct TileCopy {
  static constexpr int PASS_ROWS = THREADS / PART_CHUNKS;
  static_assert(D % 64 == 0 && COUNT % PASS_ROWS == 0 && PASS_ROWS % 8 == 0, "whole passes, the same swizzle in each");

  static __device__ __forceinline__ void run(int thread, uint32_t tile, Global<const tw_bf16> from, int64_t stride, int64_t rows) {
    const int row = thread / PART_CHUNKS, chunk = thread % PART_CHUNKS;
    const uint32_t place = tile + TileRows::chunk(row, chunk);
    const int left = static_cast<int>(min(rows, int64_t{COUNT})) - row;
    Global<const tw_bf16> source = from + (row * stride + chunk * (CHUNK_BYTES / 2));
#pragma unroll
    for (int pass = 0; pass < COUNT; pass += PASS_ROWS) {
#pragma unroll
      for (int part = 0; part < D / 64; ++part) {
        cp_async_zero_fill<16>(place + (part * ROWS + pass) * PART_BYTES, source + part * 64, pass < left ? 16 : 0);
      }
      source = source + PASS_ROWS * stride;
    }
  }
};

// Where problem `problem` begins.
template <class P>
TW_DEVICE int64_t query_start(const P& p, int64_t problem) {
  return problem / p.heads * p.query_sample + problem % p.heads * p.query_head;
}
template <class P>
TW_DEVICE int64_t key_start(const P& p, int64_t problem) {
  return problem / p.heads * p.key_sample + problem % p.heads * p.key_head;
}

// Which key tiles a block of query rows sees: `tile(n)` for n below `count`, ascending.
struct KeyTiles {
  Global<const uint32_t> list;
  uint32_t tiles_per_block;  // 0: all tiles, in order
  uint32_t count;

  // Those of the rows first_row .. first_row + rows of a problem.
  template <class P>
  static __device__ __forceinline__ KeyTiles of(const P& p, int64_t problem, int64_t first_row, int rows) {
    const uint32_t all_tiles = static_cast<uint32_t>((p.key_len + TILE - 1) / TILE);
    KeyTiles seen = {global(p.lists), 0, all_tiles};
    if (p.kept != 0) {
      const int64_t blocks = (p.query_len + p.block_q - 1) / p.block_q;
      seen.list = seen.list + (problem * blocks + first_row / p.block_q) * p.kept;
      seen.tiles_per_block = p.block_k / TILE;
      // ascending, so only the last block can be short
      const uint32_t last = seen.list[p.kept - 1];
      seen.count = (p.kept - 1) * seen.tiles_per_block + min(seen.tiles_per_block, all_tiles - last * seen.tiles_per_block);
    }
    if (p.causal != 0) {
      const uint32_t last_tile = static_cast<uint32_t>((min(first_row + rows, p.query_len) - 1) / TILE);
      if (seen.tiles_per_block == 0) seen.count = min(seen.count, last_tile + 1);
      while (seen.count > 0 && seen.tile(seen.count - 1) > last_tile) --seen.count;
    }
    return seen;
  }

  __device__ __forceinline__ uint32_t tile(uint32_t n) const {
    if (tiles_per_block == 0) return n;
    const uint32_t block = list[n / tiles_per_block];
    return block * tiles_per_block + n % tiles_per_block;
  }
};

// The logarithm of a row's denominator; of a row that saw no key, whose logarithm is minus infinity, one that makes all its
// probabilities zero.
TW_DEVICE float logarithm_or_none(float lse) { return lse == -INFINITE ? INFINITE : lse; }

// Makes minus infinity of the scores that a warp's 16 rows, from `first_row` on, do not see of 8 TILES keys from `first_key`.
template <int TILES, class P>
TW_DEVICE void mask_scores(float (&s)[TILES][4], const P& p, int64_t first_key, int64_t first_row, int lane) {
  // relative to the tile, where all is small
  const int keys = static_cast<int>(min(p.key_len - first_key, int64_t{TILE}));
  const int diagonal = p.causal != 0 ? static_cast<int>(max(min(first_row - first_key, int64_t{TILE}), int64_t{-TILE})) : TILE;
#pragma unroll
  for (int i = 0; i < TILES * 4; ++i) {
    const int column = Fragment::c_column(lane, i);
    if (column >= keys || column > diagonal + Fragment::c_row(lane, i)) s[i / 4][i % 4] = -INFINITE;
  }
}

}  // namespace
