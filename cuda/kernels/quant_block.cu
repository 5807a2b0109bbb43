// Block quantiser: bf16 rows become int8, with a scale for each block of some rows x 128 columns.
//
//   amax  = max(1e-8, max |x|)                                          over a block
//   q     = saturate(round_half_even(x * (levels / amax)))              a NaN becomes 0
//   scale = amax / levels
//
//   x       [rows, width]                       bf16, row-major, 16-byte aligned, width a multiple of 8
//   values  [rows, blocks * 128]                int8, zeros past the width; blocks = ceil(width / 128)
//   scales  [ceil(rows / block_rows), blocks]   f32
//
//   quant_block_128x128   the official rule: 128 x 128 blocks, 128 levels (the largest positive value saturates)
//     tile   one block a CTA; grid.x = ceil(rows / 128) * blocks, columns fastest
//     thread CHUNK columns of every 16th row: 16 threads read 256 contiguous bytes; the block stays in registers
//     edge   rows past the last count as zeros and are not stored; so do columns, and are stored
//   quant_block_1x128     ours: one row x 128 columns, 127 levels
//     tile   ROW_BLOCKS consecutive blocks a CTA (as stored, blocks are consecutive in memory, whatever the width)
//     half-warp   one block at a time, CHUNK columns a lane, four blocks loaded before the first is worked on
//     edge   a half-warp past the last block takes part in the shuffles with zeros, and stores nothing
//
// All of it is IEEE f32 with a true division, so the bytes are those of the host twin (src/ops/quant.rs); the official
// build divides approximately and may differ by one where a product lies on a tie.
//
// Bytes: 2 read and 1 written a value, and 4 a block.
//
// sass: all LDG.E.128 STG.E.64 F2I.S8
#include "kernel.cuh"
#include "params.h"
#include "quant_chunk.cuh"

constexpr int THREADS = 256;
constexpr int ROW_THREADS = BLOCK / CHUNK;           // threads side by side on a row
constexpr int PASS_ROWS = THREADS / ROW_THREADS;     // rows that a CTA loads at once
constexpr int PASSES = BLOCK / PASS_ROWS;
constexpr int ROUNDS = 4;                            // blocks of 1 x 128 that a half-warp has
constexpr int ROW_BLOCKS = ROUNDS * PASS_ROWS;
static_assert(ROW_THREADS * 2 == WARP, "a half-warp spans the columns of a block");
static_assert(ROW_BLOCKS == 64, "the launcher counts on it");

TW_KERNEL(quant_block_128x128, QuantBlockParams, THREADS, 2) {
  const Global<const tw_bf16> x = global(p.x);
  const Global<int8_t> values = global(p.values);
  const Global<float> scales = global(p.scales);
  TW_SHARED(float, warp_amax, THREADS / WARP);

  // which block, which of its columns, which of its rows
  const uint32_t columns = static_cast<uint32_t>(row_blocks(p.width));  // at most the grid, below 2^31
  const int64_t first_row = static_cast<int64_t>(blockIdx.x / columns) * BLOCK;
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread / ROW_THREADS;
  const int rows_left = static_cast<int>(min(p.rows - first_row, int64_t{BLOCK}));
  const int64_t column = static_cast<int64_t>(blockIdx.x % columns) * BLOCK + thread % ROW_THREADS * CHUNK;
  const bool is_inside = column < p.width;
  const int64_t stored = int64_t{columns} * BLOCK;
  const int64_t from = (first_row + row) * p.width + column;
  const int64_t to = (first_row + row) * stored + column;

  // load the block once, gathering the largest magnitude
  uint4 chunks[PASSES];
  float amax = AMAX_FLOOR;
#pragma unroll
  for (int pass = 0; pass < PASSES; pass++) {
    const bool is_there = is_inside && row + pass * PASS_ROWS < rows_left;
    chunks[pass] = is_there ? load_vector_readonly<uint4>(x + (from + pass * PASS_ROWS * p.width)) : make_uint4(0, 0, 0, 0);
  }
#pragma unroll
  for (int pass = 0; pass < PASSES; pass++) amax = amax_of(chunks[pass], amax);

  // of the block
  amax = max_over_lanes(amax, WARP);
  if (thread % WARP == 0) warp_amax[thread / WARP] = amax;
  block_sync();
#pragma unroll
  for (int warp = 0; warp < THREADS / WARP; warp++) {
    const float other = warp_amax[warp];
    amax = fmaxf(amax, other);
  }

  // quantise and store
  constexpr float LEVELS = 128;
  const float factor = divide(LEVELS, amax);
#pragma unroll
  for (int pass = 0; pass < PASSES; pass++) {
    if (row + pass * PASS_ROWS < rows_left) store_vector(values + (to + pass * PASS_ROWS * stored), quantised(chunks[pass], factor));
  }
  if (thread == 0) scales[blockIdx.x] = divide(amax, LEVELS);
}

TW_KERNEL(quant_block_1x128, QuantBlockParams, THREADS) {
  const Global<const tw_bf16> x = global(p.x);
  const Global<int8_t> values = global(p.values);
  const Global<float> scales = global(p.scales);

  const uint32_t columns = static_cast<uint32_t>(row_blocks(p.width));  // of memory's size, far below 2^32
  const int64_t blocks = p.rows * columns;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first_of_cta = static_cast<int64_t>(blockIdx.x) * ROW_BLOCKS;
  const int64_t first = first_of_cta + thread / ROW_THREADS;
  const int lane = thread % ROW_THREADS;

  // rows of x are no whole blocks where the last one is ragged: the row and the column that the CTA begins at
  const bool is_ragged = p.width % BLOCK != 0;
  const int64_t first_row = is_ragged ? first_of_cta / columns : 0;
  const uint32_t first_column = static_cast<uint32_t>(first_of_cta - first_row * columns) + thread / ROW_THREADS;

  // load all blocks of the half-warp
  uint4 chunks[ROUNDS];
#pragma unroll
  for (int round = 0; round < ROUNDS; round++) {
    const int64_t block = first + round * PASS_ROWS;
    bool is_there = block < blocks;
    int64_t from = block * BLOCK + lane * CHUNK;
    if (is_ragged) {  // the same in all threads; whole rows need no division
      const uint32_t ahead = first_column + round * PASS_ROWS, rows = ahead / columns;
      const int64_t column = int64_t{ahead - rows * columns} * BLOCK + lane * CHUNK;
      is_there = is_there && column < p.width;
      from = (first_row + rows) * p.width + column;
    }
    chunks[round] = is_there ? load_vector_readonly<uint4>(x + from) : make_uint4(0, 0, 0, 0);
  }

  // quantise and store each
  constexpr float LEVELS = 127;
#pragma unroll
  for (int round = 0; round < ROUNDS; round++) {
    const int64_t block = first + round * PASS_ROWS;
    const float amax = max_over_lanes(amax_of(chunks[round], AMAX_FLOOR), ROW_THREADS);
    if (block < blocks) {
      store_vector(values + (block * BLOCK + lane * CHUNK), quantised(chunks[round], divide(LEVELS, amax)));
      if (lane == 0) scales[block] = divide(amax, LEVELS);
    }
  }
}
