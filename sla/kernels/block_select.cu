// Which key blocks each query block attends to: the largest scores of pooled queries and keys, as ascending lists.
//
//   score[i, j] = bf16(q[i] . k[j])                       pooled rows, f32 sum
//   list[i]     = the `kept` blocks j of the largest scores, ascending
//
// Of equal scores (0 and -0 are) the lower index goes first, and a score that is not a number is the largest.
//
//   q      [problems, query_blocks, head_dim]     bf16, 16-byte aligned, head_dim a multiple of 16 and at most 256
//   k      [problems, key_blocks, head_dim]       bf16
//   lists  [problems, query_blocks, kept]         u32
//
//   tile    ROWS query blocks of one problem a CTA; grid.x = problems * ceil(query_blocks / ROWS), tiles fastest
//   scores  warp w has every 8th group of 8 key blocks: mma m16n8k16, operands straight from global memory (the keys of a
//           problem stay in L2). A score is kept as a key, 16 bits that order as the scores do and are 0 past the last.
//   select  a warp has 2 rows: 16 steps, from the high bit down, find the largest threshold that at least `kept` keys
//           reach; then ballots over 32 keys at a time give every chosen block its place
//   shared  ROWS rows of `stride` keys (dynamic), stride = key_blocks rounded up to SPAN, and 8 more so that rows start on
//           different banks
//   edge    rows past the last are read as zeros and not selected; key blocks past the last have key 0, below all scores
//
// Bytes: the pooled rows once a tile, from L2; 4 written a kept block.
//
// sass: all HMMA.16816.F32.BF16 LDS.128
#include "kernel.cuh"
#include "block_select_params.h"
#include "ptx.cuh"
#include "tile.cuh"

constexpr int ROWS = 16;
constexpr int WARPS = 8;
constexpr int COLUMNS = 8;   // key blocks of an mma
constexpr int SPAN = 256;    // keys that a warp reads at once: 8 a lane
constexpr int DEPTHS = 256 / 16;
static_assert(ROWS % WARPS == 0, "whole rows a warp");

// Bits that order as bf16 do: no number first, then from plus to minus infinity; never 0.
TW_DEVICE uint32_t key_of(float score) {
  const uint32_t bits = to_bf16(score).bits;
  if ((bits & 0x7fffu) > 0x7f80u) return 0xffffu;
  if ((bits & 0x7fffu) == 0) return 0x8000u;
  return (bits & 0x8000u) != 0 ? bits ^ 0xffffu : bits | 0x8000u;
}

// How many of eight keys reach the threshold.
TW_DEVICE uint32_t count_reaching(uint4 eight, uint32_t threshold) {
  const uint32_t words[4] = {eight.x, eight.y, eight.z, eight.w};
  uint32_t count = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    count += (words[i] & 0xffffu) >= threshold ? 1u : 0u;
    count += words[i] >> 16 >= threshold ? 1u : 0u;
  }
  return count;
}

// Of a whole row, in every lane.
TW_DEVICE uint32_t row_reaching(Shared<uint16_t> row, int span_end, uint32_t threshold TW_AT) {
  uint32_t count = 0;
  for (int key = lane_index() * 8; key < span_end; key += SPAN) {
    const uint4 eight = load_vector<uint4>(row + key TW_PASS_AT);
    count += count_reaching(eight, threshold);
  }
  return reduce_add(count TW_PASS_AT);
}

TW_KERNEL(block_select, BlockSelectParams, WARPS * WARP) {
  const int query_blocks = static_cast<int>(p.query_blocks), key_blocks = static_cast<int>(p.key_blocks);
  const int head_dim = static_cast<int>(p.head_dim);
  const uint32_t tiles = static_cast<uint32_t>((query_blocks + ROWS - 1) / ROWS);
  const int64_t problem = blockIdx.x / tiles;
  const int first_row = static_cast<int>(blockIdx.x % tiles) * ROWS;
  const int span_end = (key_blocks + SPAN - 1) / SPAN * SPAN;
  const int stride = span_end + 8;
  const Global<const tw_bf16> q = global(p.q) + problem * query_blocks * head_dim;
  const Global<const tw_bf16> k = global(p.k) + problem * key_blocks * head_dim;
  const Global<uint32_t> lists = global(p.lists);
  const Shared<uint16_t> keys = dynamic_shared<uint16_t>(0, static_cast<uint32_t>(ROWS * stride));
  const int lane = lane_index(), warp = warp_index();

  // the queries' fragments, for all depths
  uint32_t a[DEPTHS][4];
#pragma unroll
  for (int depth = 0; depth < DEPTHS; depth++) {
#pragma unroll
    for (int reg = 0; reg < 4; reg++) {
      const int row = first_row + Fragment::a_row(lane, reg);
      const int dim = depth * 16 + Fragment::a_byte(lane, reg) / 2;
      a[depth][reg] = row < query_blocks && depth * 16 < head_dim ? load_vector_readonly<uint32_t>(q + (static_cast<int64_t>(row) * head_dim + dim)) : 0u;
    }
  }

  // scores, as keys
  for (int first = warp * COLUMNS; first < span_end; first += WARPS * COLUMNS) {
    float d[4] = {0, 0, 0, 0};
    const int column = first + Fragment::b_column(lane);
    const bool is_there = column < key_blocks;
    const int64_t start = static_cast<int64_t>(column) * head_dim;
    if (first < key_blocks) {
#pragma unroll
      for (int depth = 0; depth < DEPTHS; depth++) {
        if (depth * 16 < head_dim) {
          uint32_t b[2];
#pragma unroll
          for (int reg = 0; reg < 2; reg++) {
            const int dim = depth * 16 + Fragment::b_byte(lane, reg) / 2;
            b[reg] = is_there ? load_vector_readonly<uint32_t>(k + (start + dim)) : 0u;
          }
          mma_m16n8k16_bf16(d, a[depth], b[0], b[1]);
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = Fragment::c_row(lane, 2 * half), at = first + Fragment::c_column(lane, 2 * half);
      const uint32_t low = at < key_blocks ? key_of(d[2 * half]) : 0u;
      const uint32_t high = at + 1 < key_blocks ? key_of(d[2 * half + 1]) : 0u;
      store_vector(keys + (row * stride + at), low | high << 16);
    }
  }
  block_sync();

  // select
  const uint32_t kept = static_cast<uint32_t>(p.kept);
  const uint32_t before = (1u << lane) - 1;  // the lanes below
  for (int row = warp; row < ROWS && first_row + row < query_blocks; row += WARPS) {
    const Shared<uint16_t> row_keys = keys + row * stride;
    uint32_t threshold = 0;
    for (uint32_t bit = 0x8000u; bit != 0; bit /= 2) {
      if (row_reaching(row_keys, span_end, threshold | bit) >= kept) threshold |= bit;
    }
    // every score is a key above 0, so the threshold is one of them; of those equal to it only the first `ties` are kept
    uint32_t ties = kept - (threshold == 0xffffu ? 0u : row_reaching(row_keys, span_end, threshold + 1));
    const Global<uint32_t> list = lists + ((problem * query_blocks + first_row + row) * p.kept);
    uint32_t written = 0;
    for (int at = 0; at < key_blocks && written < kept; at += WARP) {
      const uint32_t key = row_keys[at + lane];
      const uint32_t equal = lanes_where(key == threshold);
      const bool is_kept = key > threshold || (key == threshold && static_cast<uint32_t>(count_ones(equal & before)) < ties);
      const uint32_t chosen = lanes_where(is_kept);
      if (is_kept) list[written + static_cast<uint32_t>(count_ones(chosen & before))] = static_cast<uint32_t>(at + lane);
      written += static_cast<uint32_t>(count_ones(chosen));
      ties -= min(ties, static_cast<uint32_t>(count_ones(equal)));
    }
  }
}
