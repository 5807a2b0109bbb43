// Keys and values in global memory as the tiles of shared memory that a wgmma reads: a tile is one contiguous run of bytes,
// swizzled already, which one bulk copy brings as it is.
//
//   K tile i of a head   keys 64 i .. 64 i + 63 as rows of D int8,           Swizzled<D>     64 * D bytes
//   V tile i of a head   D channels as rows of 64 e4m3, the keys 64 i .. of  Swizzled<64>    D * 64 bytes
//                        each 16 in the order of permuted_key (tile.cuh)
//
//   tiles of a head      2 * ceil(keys / 128), an even number, so that two of them are always there for a step of 128 keys
//   tile i of head h     at (h * tiles + i) * bytes of a tile; a matrix begins on 16 bytes
//   keys past the last   zeros in both; a score with them is 0 and has to be masked
//
// Inside shared memory a tile begins at a multiple of 1024, which both patterns divide. At D = 128 both tiles are 8 KiB, at
// D = 64 both are 4 KiB. Two neighbouring K tiles are one operand of 128 rows; two V tiles stay two operands, each of two
// steps of 32 keys. `src/device/tiles.rs` holds the same sizes.
#pragma once
#include "tile.cuh"

constexpr int LAYOUT_KEYS = 64;  // of a tile
constexpr int LAYOUT_PAIR = 2;   // tiles of a step

template <int D>
struct KeyTile {
  static_assert(D == 64 || D == 128, "head dims 64 and 128");
  using Rows = Swizzled<D>;
  static constexpr int ROWS = LAYOUT_KEYS, BYTES = ROWS * D;
  // Where value `dim` of key `key` of the tile lies.
  static constexpr __host__ __device__ uint32_t byte(uint32_t key, uint32_t dim) { return Rows::byte(key, dim); }
  static_assert(BYTES % Rows::PATTERN_BYTES == 0, "two tiles behind one another are one of 128 rows");
};

template <int D>
struct ValueTile {
  static_assert(D == 64 || D == 128, "head dims 64 and 128");
  using Rows = Swizzled<LAYOUT_KEYS>;
  static constexpr int ROWS = D, BYTES = ROWS * LAYOUT_KEYS;
  // Where channel `dim` of the key at `depth` lies: that is key permuted_key(depth) of the tile.
  static constexpr __host__ __device__ uint32_t byte(uint32_t dim, uint32_t depth) { return Rows::byte(dim, depth); }
};

// Tiles of a head of `keys` keys.
constexpr __host__ __device__ int64_t layout_tiles(int64_t keys) { return (keys + LAYOUT_KEYS * LAYOUT_PAIR - 1) / (LAYOUT_KEYS * LAYOUT_PAIR) * LAYOUT_PAIR; }
static_assert(layout_tiles(1) == 2 && layout_tiles(128) == 2 && layout_tiles(129) == 4, "whole pairs");
