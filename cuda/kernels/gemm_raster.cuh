// In which order the tiles of a product are worked on, so that those at work at once share their operands in L2.
//
// Tiles go down BAND rows, then one column across, and so on to the last column; then comes the next band. With 132 tiles
// at work and a band of 8, they span 8 rows and 17 columns of tiles, and not 132 of either.
//
//     BAND = 2    0 2 4 6
//                 1 3 5 7
//                 8 9 ...          the last band may have fewer rows
#pragma once
#include "kernel.cuh"

namespace {

struct TileIndex {
  uint32_t row, column;
};

template <int BAND>
constexpr __host__ __device__ TileIndex tile_of(uint32_t index, uint32_t row_tiles, uint32_t column_tiles) {
  const uint32_t band = index / (BAND * column_tiles), inside = index % (BAND * column_tiles);
  const uint32_t left = row_tiles - band * BAND;
  const uint32_t band_rows = left < BAND ? left : BAND;
  return TileIndex{band * BAND + inside % band_rows, inside / band_rows};
}

// Every tile comes once.
template <int BAND>
constexpr bool visits_every_tile(uint32_t row_tiles, uint32_t column_tiles) {
  bool seen[1024] = {};
  for (uint32_t index = 0; index < row_tiles * column_tiles; ++index) {
    const TileIndex tile = tile_of<BAND>(index, row_tiles, column_tiles);
    if (tile.row >= row_tiles || tile.column >= column_tiles || seen[tile.row * column_tiles + tile.column]) return false;
    seen[tile.row * column_tiles + tile.column] = true;
  }
  return true;
}

// Rows and columns of tiles that `count` neighbours from `first` on span, as a sum.
template <int BAND>
constexpr uint32_t span_of(uint32_t first, uint32_t count, uint32_t row_tiles, uint32_t column_tiles) {
  bool rows[256] = {}, columns[256] = {};
  uint32_t span = 0;
  for (uint32_t index = first; index < first + count; ++index) {
    const TileIndex tile = tile_of<BAND>(index, row_tiles, column_tiles);
    span += !rows[tile.row] + !columns[tile.column];
    rows[tile.row] = columns[tile.column] = true;
  }
  return span;
}

static_assert(visits_every_tile<8>(1, 1) && visits_every_tile<8>(8, 5) && visits_every_tile<8>(19, 7) && visits_every_tile<8>(3, 130) &&
                  visits_every_tile<16>(16, 3) && visits_every_tile<16>(37, 11) && visits_every_tile<16>(5, 40),
              "a tile is left out, or worked on twice");
static_assert(tile_of<2>(3, 3, 4).row == 1 && tile_of<2>(3, 3, 4).column == 1 && tile_of<2>(9, 3, 4).row == 2 && tile_of<2>(9, 3, 4).column == 1,
              "not the order that is drawn above");
static_assert(span_of<8>(0, 132, 128, 40) == 8 + 17 && span_of<8>(132, 132, 128, 40) <= 8 + 18 && span_of<16>(0, 132, 128, 20) == 16 + 9,
              "neighbours share too little");

}  // namespace
