// What the GEMMs on mma.sync share: how operands reach shared memory and registers, and which tile a block has.
//
// A block of eight warps, four down and two across, has a tile of 128 x 128 results. Both operands are depth-contiguous;
// a stage holds 128 rows of ROW_BYTES of each, swizzled: copies and ldmatrix are free of conflicts. Rows past the end of
// an operand, and where asked for columns, are zeros in shared memory.
#pragma once
#include "ptx.cuh"
#include "tile.cuh"

#include "gemm_end.cuh"
#include "gemm_raster.cuh"

namespace {

constexpr int GEMM_THREADS = 256;
constexpr int BAND = 16;  // of gemm_raster.cuh
constexpr int ROW_WARPS = 4, COLUMN_WARPS = 2;
constexpr int ROW_TILES = GEMM_TILE / ROW_WARPS / 16, COLUMN_TILES = GEMM_TILE / COLUMN_WARPS / 8;
static_assert(ROW_WARPS * COLUMN_WARPS * WARP == GEMM_THREADS, "every warp has its part of the tile");

// The whole block ends its tile.
struct Team {
  static constexpr int ROWS = GEMM_TILE, THREADS = GEMM_THREADS, COLUMN_WARPS = ::COLUMN_WARPS;
  static __device__ __forceinline__ void sync(const EndPlace&) { block_sync(); }
  static constexpr __device__ uint32_t staging(const EndPlace&) { return 0; }
};
constexpr uint32_t END_BYTES = end_bytes<Team>();

// One operand on its way to shared memory: a thread copies one chunk of every PASS_ROWS rows of a stage. IS_RAGGED: the
// rows of the matrix may end inside a stage, at a whole chunk.
template <int ROW_BYTES, bool IS_RAGGED>
struct Feed {
  using Rows = Swizzled<ROW_BYTES>;
  static constexpr int PASS_ROWS = GEMM_THREADS / Rows::CHUNKS;
  static constexpr int PASSES = GEMM_TILE / PASS_ROWS;
  static constexpr uint32_t BYTES = GEMM_TILE * ROW_BYTES;
  static_assert(PASS_ROWS * ROW_BYTES % Rows::PATTERN_BYTES == 0, "each pass would have a swizzle of its own");

  Global<const int8_t> source;
  int64_t step;        // between the rows of two passes, in bytes
  int64_t bytes_left;  // from the thread's chunk to the end of a row
  int32_t rows_left;   // from the thread's first row to the end of the matrix
  uint32_t place;

  __device__ __forceinline__ Feed(Global<const int8_t> matrix, int64_t first_row, int64_t rows, int64_t row_bytes) {
    const uint32_t row = threadIdx.x / Rows::CHUNKS, chunk = threadIdx.x % Rows::CHUNKS;
    source = matrix + ((first_row + row) * row_bytes + chunk * CHUNK_BYTES);
    step = PASS_ROWS * row_bytes;
    bytes_left = row_bytes - chunk * CHUNK_BYTES;
    rows_left = static_cast<int32_t>(min(rows - first_row, int64_t{GEMM_TILE})) - static_cast<int32_t>(row);
    place = Rows::chunk(row, chunk);
  }

  // Copies the next ROW_BYTES of every row to the stage at `target`.
  __device__ __forceinline__ void copy(uint32_t target) {
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
      const bool is_there = pass * PASS_ROWS < rows_left && (!IS_RAGGED || bytes_left > 0);
      cp_async_zero_fill<CHUNK_BYTES>(target + place + pass * PASS_ROWS * ROW_BYTES, source + pass * step, is_there ? CHUNK_BYTES : 0);
    }
    source += ROW_BYTES;
    if (IS_RAGGED) bytes_left -= ROW_BYTES;
  }
};

TW_DEVICE void multiply_tile(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma_m16n8k32_s8(d, a, b0, b1); }
TW_DEVICE void multiply_tile(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { mma_m16n8k16_bf16(d, a, b0, b1); }

// Adds the products of one stage. `a` and `w` are the warp's rows in both tiles.
template <int ROW_BYTES, class T>
TW_DEVICE void multiply(uint32_t a, uint32_t w, int lane, T (&sums)[ROW_TILES][COLUMN_TILES][4]) {
  using Rows = Swizzled<ROW_BYTES>;
#pragma unroll
  for (int k = 0; k < ROW_BYTES / 32; k++) {
    const uint32_t a_lane = a + Rows::chunk(LoadMatrix::a_row(lane), k * 2 + LoadMatrix::a_chunk(lane));
    const uint32_t w_lane = w + Rows::chunk(LoadMatrix::b_column(lane), k * 2 + LoadMatrix::b_chunk(lane));
    uint32_t a_fragments[ROW_TILES][4];
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) ldmatrix_x4(a_fragments[i], a_lane + i * 16 * ROW_BYTES);
#pragma unroll
    for (int j = 0; j < COLUMN_TILES; j += 2) {
      uint32_t w_fragments[4];
      ldmatrix_x4(w_fragments, w_lane + j * 8 * ROW_BYTES);
#pragma unroll
      for (int i = 0; i < ROW_TILES; i++) {
        multiply_tile(sums[i][j], a_fragments[i], w_fragments[0], w_fragments[1]);
        multiply_tile(sums[i][j + 1], a_fragments[i], w_fragments[2], w_fragments[3]);
      }
    }
  }
}

template <class T>
TW_DEVICE void fill_tile(T (&sums)[ROW_TILES][COLUMN_TILES][4], T value) {
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
    for (int j = 0; j < COLUMN_TILES; j++) {
#pragma unroll
      for (int c = 0; c < 4; c++) sums[i][j][c] = value;
    }
  }
}

// The tile of block `index`, and the calling thread's place in it.
TW_DEVICE EndPlace place_of(uint32_t index, int64_t rows, int64_t columns, int warp, int lane) {
  const uint32_t row_tiles = static_cast<uint32_t>((rows + GEMM_TILE - 1) / GEMM_TILE);  // their product is the grid
  const uint32_t column_tiles = static_cast<uint32_t>((columns + GEMM_TILE - 1) / GEMM_TILE);
  const TileIndex tile = tile_of<BAND>(index, row_tiles, column_tiles);
  EndPlace at;
  at.first_row = static_cast<int64_t>(tile.row) * GEMM_TILE;
  at.first_column = static_cast<int64_t>(tile.column) * GEMM_TILE;
  at.column_warp = warp % COLUMN_WARPS;
  at.row = warp / COLUMN_WARPS * ROW_TILES * 16 + Fragment::c_row(lane, 0);
  at.column = at.column_warp * COLUMN_TILES * 8 + Fragment::c_column(lane, 0);
  at.team = 0;
  at.thread = static_cast<int>(threadIdx.x);
  return at;
}

}  // namespace
