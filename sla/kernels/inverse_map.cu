// A block map turned round: for each key block the query blocks whose lists hold it, as bits.
//
//   bit i of inverse[j, w] = 1 where list 32 w + i holds key block j
//
//   lists    [problems, query_blocks, kept]                        u32, no block twice in a list
//   inverse  [problems, key_blocks, ceil(query_blocks / 32)]       u32, every word is written
//
// Bits and not lists: their place does not depend on what the map keeps, so nothing is counted, summed or sorted; reading them
// from the low bit up is ascending order; and below a density of 1 in 32 alone would lists be smaller (at 1182 x 591 blocks a
// head has 88 KiB of bits, 272 KiB of lists at a density of a tenth).
//
//   tile    one word of all key blocks a CTA, RANGE of them at a time; grid.x = problems * words, words fastest
//   shared  RANGE words; the 32 lists come one after the other, so no two threads touch a word between two barriers
//   edge    list values past the last key block leave no mark; bits past the last query block are 0
//
// Bytes: the lists once, from global memory; 4 written a word, each to another row: 32 bytes of L2 traffic.
//
// sass: all LDG STG LDS STS
#include "kernel.cuh"

#include "attend_params.h"
#include "ptx.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int64_t RANGE = 4096;  // 16 KiB: longer than any video's key blocks, so that the lists are read once

}  // namespace

TW_KERNEL(inverse_map, InverseMapParams, THREADS) {
  const uint32_t row_words = static_cast<uint32_t>((p.query_blocks + 31) / 32);
  const int64_t problem = blockIdx.x / row_words, word = blockIdx.x % row_words;
  const int64_t first_block = word * 32;
  const int lists_here = static_cast<int>(min(p.query_blocks - first_block, int64_t{32}));
  const Global<const uint32_t> lists = global(p.lists) + (problem * p.query_blocks + first_block) * p.kept;
  const Global<uint32_t> inverse = global(p.inverse) + (problem * p.key_blocks * row_words + word);
  const int thread = static_cast<int>(threadIdx.x);
  TW_SHARED(uint32_t, bits, RANGE);

  for (int64_t first = 0; first < p.key_blocks; first += RANGE) {
    const int64_t count = min(p.key_blocks - first, RANGE);
    for (int64_t key = thread; key < count; key += THREADS) bits[key] = 0u;
    block_sync();
    for (int list = 0; list < lists_here; ++list) {
      for (int64_t n = thread; n < p.kept; n += THREADS) {
        const int64_t key = int64_t{lists[list * p.kept + n]} - first;
        if (key < 0 || key >= count) continue;
        const uint32_t before = bits[key];
        bits[key] = before | 1u << list;
      }
      block_sync();
    }
    for (int64_t key = thread; key < count; key += THREADS) {
      const uint32_t whole = bits[key];
      inverse[(first + key) * row_words] = whole;
    }
    block_sync();
  }
}
