// Exact attention backward, gradients of the keys and values: over all queries or those whose lists hold the key block.
//
//   s  = k[j] . q[r]     p = 2^(factor s - lse[r])     dp = v[j] . g[r]     ds = p (dp - delta[r])     g: gradient of the output
//   dk[j] = scale sum_r bf16(ds) q[r]      dv[j] = sum_r bf16(p) g[r]       f32 sums and results
//
//   k, v, dk, dv  [key_len, D] a problem     bf16, dk and dv f32, at the key strides
//   q, g          [query_len, D] a problem   bf16, at the query strides      lse, delta  [problems, query_len] f32
//   inverse       [problems, key_blocks, ceil(query_blocks / 32)]            bits, inverse_map.cu
//
//   attend_bwd_dkdv_d128   64 keys x 64 queries: 97 KiB            attend_bwd_dkdv_d64   the same: 49 KiB
//
//   block    eight warps over the query tiles that see the keys, one after the other. Warp w has the keys 16 (w % 4) and the
//            next 15, and of each tile the queries 32 (w / 4) and the next 31: scores stand turned round, [keys, queries], so
//            that p and ds are A of the last two products; at the end the second four warps hand their sums to the first
//   keys     k in registers, v in shared memory: with both sums, 128 registers at D = 128, there is no room for both
//   copies   cp.async, one group a tile of queries, gradients, logarithms and deltas, two stages; one barrier a tile
//   edge     queries past the end are zeros: p = 1, and all their products are 0; keys past the end are zeros and not stored; a
//            query that saw no key (lse minus infinity) has p = 0; under a causal mask p = 0 below the diagonal, and no tile
//            before the keys' own is visited
//   order    queries ascend in each warp, then two sums are added, without atomics: a second run gives the same bits
//
// Operations: 8 D a pair of query and key. Bytes: k, v, dk and dv once; q and g once a block of keys, from L2.
//
// sass: all HMMA.16816.F32.BF16 LDSM.16.M88.4 LDSM.16.MT88.4 LDGSTS.E.BYPASS.128 MUFU.EX2
#include "kernel.cuh"

#include "attend_tiles.cuh"

namespace {

constexpr int WARPS = 8, THREADS = WARPS * WARP;
constexpr int KEY_WARPS = 4;  // of 16 keys each
constexpr int STEP = 32;      // queries of a warp in a tile
constexpr int STAGES = 2;
constexpr uint32_t NONE = 0xffffffffu;

// Sizes of one kernel.
template <int D>
struct Tiling {
  static_assert(D == 64 || D == 128, "head dims 64 and 128");
  static constexpr int DIM = D, DEPTHS = D / 16, TILE_BYTES = TILE * D * 2, STAGE_BYTES = 2 * TILE_BYTES;
  static constexpr int STAGES_AT = 2 * TILE_BYTES, ROW_VALUES_AT = STAGES_AT + STAGES * STAGE_BYTES;
  static constexpr int SHARED_BYTES = ROW_VALUES_AT + STAGES * 2 * TILE * 4;  // logarithms and deltas last
  static_assert(KEY_WARPS * (D / 2) * WARP * 4 <= STAGES * STAGE_BYTES, "a sum of the second warps fits the stages");
  using CopyTile = TileCopy<TILE, D, THREADS>;
};

// The query tiles that see a key block, ascending.
struct QueryTiles {
  Global<const uint32_t> words;
  uint32_t tiles_per_block;  // 0: all tiles, in order
  uint32_t all_tiles, first_tile;
  uint32_t bits, word;  // the blocks of word `word` still to come
  uint32_t block, part;

  // Those of key tile `tile`.
  static __device__ __forceinline__ QueryTiles of(const AttendBackwardParams& p, int64_t problem, uint32_t tile) {
    QueryTiles seen = {global(p.inverse), 0, static_cast<uint32_t>((p.query_len + TILE - 1) / TILE), p.causal != 0 ? tile : 0, 0, 0, 0, 0};
    if (p.kept != 0) {
      const int64_t key_blocks = (p.key_len + p.block_k - 1) / p.block_k;
      const int64_t row_words = ((p.query_len + p.block_q - 1) / p.block_q + 31) / 32;
      seen.tiles_per_block = p.block_q / TILE;
      seen.words = seen.words + (problem * key_blocks + tile / (p.block_k / TILE)) * row_words;
      seen.bits = seen.words[0];
      seen.part = seen.tiles_per_block;  // no block is begun
    }
    return seen;
  }

  // The next one, or NONE.
  __device__ __forceinline__ uint32_t next() {
    if (tiles_per_block == 0) {
      const uint32_t tile = first_tile++;
      return tile < all_tiles ? tile : NONE;
    }
    for (;;) {
      if (part == tiles_per_block) {
        while (bits == 0) {
          ++word;
          if (static_cast<uint64_t>(word) * 32 * tiles_per_block >= all_tiles) return NONE;
          bits = words[word];
        }
        block = word * 32 + static_cast<uint32_t>(lowest_one(bits));
        bits &= bits - 1;
        part = 0;
      }
      const uint32_t tile = block * tiles_per_block + part++;
      if (tile >= all_tiles) return NONE;
      if (tile >= first_tile) return tile;
    }
  }
};

// What a warp keeps of its keys. Half h: keys 8 h + lane / 4.
template <class T>
struct Keys {
  uint32_t k[T::DEPTHS][4];
  float dk[T::DIM / 8][4] = {}, dv[T::DIM / 8][4] = {};
};

using Weights = uint32_t[STEP / 16][4];

// Scores and gradients of the probabilities, [16 keys, STEP queries].
template <class T>
TW_DEVICE void multiply_queries(float (&s)[STEP / 8][4], float (&dp)[STEP / 8][4], const Keys<T>& keys, const RowOperand<TILE>& values,
                                uint32_t tile, int key, int query, int lane) {
  const ColumnOperand<TILE> queries(tile, lane), grads(tile + T::TILE_BYTES, lane);
#pragma unroll
  for (int i = 0; i < STEP / 2; ++i) s[i / 4][i % 4] = dp[i / 4][i % 4] = 0.0f;
#pragma unroll
  for (int depth = 0; depth < T::DEPTHS; ++depth) {
    uint32_t v[4];
    values.load(v, key, depth);
#pragma unroll
    for (int column = 0; column < STEP / 16; ++column) {
      uint32_t b[4];
      queries.load(b, query + column * 16, depth);
      mma_m16n8k16_bf16(s[column * 2], keys.k[depth], b[0], b[1]);
      mma_m16n8k16_bf16(s[column * 2 + 1], keys.k[depth], b[2], b[3]);
      grads.load(b, query + column * 16, depth);
      mma_m16n8k16_bf16(dp[column * 2], v, b[0], b[1]);
      mma_m16n8k16_bf16(dp[column * 2 + 1], v, b[2], b[3]);
    }
  }
}

// p and ds as A operands. `row_values`: logarithms of the step's queries, TILE values on their deltas. Key 8 h + lane / 4 is
// seen by query c where c + ahead >= 8 h + lane / 4.
TW_DEVICE void weigh(Weights& weights, Weights& ds, const float (&s)[STEP / 8][4], const float (&dp)[STEP / 8][4],
                     Shared<float> row_values, float factor, int ahead, int lane) {
#pragma unroll
  for (int column = 0; column < STEP / 8; ++column) {
    const int query = column * 8 + lane % 4 * 2;
    const float2 lse = load_vector<float2>(row_values + query), delta = load_vector<float2>(row_values + (TILE + query));
    const float less[2] = {logarithm_or_none(lse.x), logarithm_or_none(lse.y)};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int key = half * 8 + lane / 4;
      const float low = query + ahead >= key ? exp2_fast(fmaf(s[column][half * 2], factor, -less[0])) : 0.0f;
      const float high = query + 1 + ahead >= key ? exp2_fast(fmaf(s[column][half * 2 + 1], factor, -less[1])) : 0.0f;
      weights[column / 2][column % 2 * 2 + half] = pack_bf16(low, high);
      const float low_ds = low * (dp[column][half * 2] - delta.x), high_ds = high * (dp[column][half * 2 + 1] - delta.y);
      ds[column / 2][column % 2 * 2 + half] = pack_bf16(low_ds, high_ds);
    }
  }
}

// sum += weights rows
template <class T>
TW_DEVICE void gather(float (&sum)[T::DIM / 8][4], const Weights& weights, uint32_t tile, int query, int lane) {
  const DepthOperand<TILE> rows(tile, lane);
#pragma unroll
  for (int depth = 0; depth < STEP / 16; ++depth) {
#pragma unroll
    for (int column = 0; column < T::DIM / 16; ++column) {
      uint32_t b[4];
      rows.load(b, query + depth * 16, column);
      mma_m16n8k16_bf16(sum[column * 2], weights[depth], b[0], b[1]);
      mma_m16n8k16_bf16(sum[column * 2 + 1], weights[depth], b[2], b[3]);
    }
  }
}

// A tile's logarithms and deltas, by the first 128 threads.
TW_DEVICE void copy_row_values(Shared<float> to, const AttendBackwardParams& p, int64_t problem, int64_t first, int64_t left) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= 2 * TILE) return;
  const int row = thread % TILE;
  const Global<const float> from = thread < TILE ? global(p.lse) : Global<const float>(global(p.delta));
  cp_async_zero_fill<4>(shared_address(to + thread), from + (problem * p.query_len + first + row), row < left ? 4 : 0);
}

// Adds the sums of the second four warps to those of the first, one of them at a time.
template <class T>
TW_DEVICE void join(float (&sum)[T::DIM / 8][4], Shared<float> area, int warp, int lane) {
  const Shared<float> place = area + (warp % KEY_WARPS * (T::DIM / 2 * WARP) + lane);
  block_sync();  // the area is free
  if (warp >= KEY_WARPS) {
#pragma unroll
    for (int i = 0; i < T::DIM / 2; ++i) place[i * WARP] = sum[i / 4][i % 4];
  }
  block_sync();
  if (warp < KEY_WARPS) {
#pragma unroll
    for (int i = 0; i < T::DIM / 2; ++i) {
      const float other = place[i * WARP];
      sum[i / 4][i % 4] += other;
    }
  }
}

template <class T>
TW_DEVICE void store(Global<float> to, const AttendBackwardParams& p, const float (&sum)[T::DIM / 8][4], float scale, int64_t first,
                     int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = first + half * 8 + lane / 4;
    if (row >= p.key_len) continue;
#pragma unroll
    for (int tile = 0; tile < T::DIM / 8; ++tile) {
      const float2 pair = {sum[tile][half * 2] * scale, sum[tile][half * 2 + 1] * scale};
      store_vector(to + (row * p.key_row + tile * 8 + lane % 4 * 2), pair);
    }
  }
}

// The whole kernel. Block x has key tile x % tiles of problem x / tiles; under a causal mask the first tiles, which most
// queries see, come first.
template <class T>
TW_DEVICE void differentiate(const AttendBackwardParams& p) {
  const int lane = lane_index(), warp = warp_index();
  const uint32_t key_tiles = static_cast<uint32_t>((p.key_len + TILE - 1) / TILE);
  const int64_t problem = blockIdx.x / key_tiles;
  const uint32_t key_tile = blockIdx.x % key_tiles;
  const int64_t first_key = static_cast<int64_t>(key_tile) * TILE;
  const int key = warp % KEY_WARPS * 16, query = warp / KEY_WARPS * STEP;
  const Global<const tw_bf16> q = global(p.q) + query_start(p, problem), grad = global(p.out_gradient) + query_start(p, problem);
  const Shared<uint8_t> shared = dynamic_shared<uint8_t>(0, T::SHARED_BYTES);
  const Shared<float> row_values = dynamic_shared<float>(T::ROW_VALUES_AT, STAGES * 2 * TILE);
  const uint32_t own = shared_address(shared), stages = own + T::STAGES_AT;
  const auto load = [&](uint32_t stage, uint32_t tile) {
    const int64_t first = static_cast<int64_t>(tile) * TILE, left = p.query_len - first;
    const uint32_t to = stages + stage * T::STAGE_BYTES;
    T::CopyTile::run(threadIdx.x, to, q + first * p.query_row, p.query_row, left);
    T::CopyTile::run(threadIdx.x, to + T::TILE_BYTES, grad + first * p.query_row, p.query_row, left);
    copy_row_values(row_values + stage * (2 * TILE), p, problem, first, left);
  };

  // the keys and values, then the first tile of queries
  const int64_t start = key_start(p, problem) + first_key * p.key_row;
  T::CopyTile::run(threadIdx.x, own, global(p.k) + start, p.key_row, p.key_len - first_key);
  T::CopyTile::run(threadIdx.x, own + T::TILE_BYTES, global(p.v) + start, p.key_row, p.key_len - first_key);
  cp_async_commit();
  QueryTiles seen = QueryTiles::of(p, problem, key_tile);
  uint32_t tile = seen.next();
  if (tile != NONE) load(0, tile);
  cp_async_commit();
  Keys<T> keys;
  cp_async_wait_group<1>();
  block_sync();
  const RowOperand<TILE> own_keys(own, lane), own_values(own + T::TILE_BYTES, lane);
#pragma unroll
  for (int depth = 0; depth < T::DEPTHS; ++depth) own_keys.load(keys.k[depth], key, depth);

  for (uint32_t stage = 0; tile != NONE; stage ^= 1) {
    cp_async_wait_group<0>();
    block_sync();  // the tile is here, and nobody reads the other stage any more
    const uint32_t next_tile = seen.next();
    if (next_tile != NONE) load(stage ^ 1, next_tile);
    cp_async_commit();

    const uint32_t rows = stages + stage * T::STAGE_BYTES;
    float s[STEP / 8][4], dp[STEP / 8][4];
    multiply_queries<T>(s, dp, keys, own_values, rows, key, query, lane);
    // on the diagonal the queries begin where the keys do
    const int ahead = p.causal != 0 && tile == key_tile ? query - key : TILE;
    Weights weights, ds;
    weigh(weights, ds, s, dp, row_values + (stage * (2 * TILE) + query), p.factor, ahead, lane);
    gather<T>(keys.dv, weights, rows + T::TILE_BYTES, query, lane);
    gather<T>(keys.dk, ds, rows, query, lane);
    tile = next_tile;
  }
  cp_async_wait_group<0>();

  const Shared<float> area = dynamic_shared<float>(T::STAGES_AT, KEY_WARPS * T::DIM / 2 * WARP);
  join<T>(keys.dk, area, warp, lane);
  join<T>(keys.dv, area, warp, lane);
  if (warp >= KEY_WARPS) return;
  const int64_t at = key_start(p, problem);
  store<T>(global(p.dk) + at, p, keys.dk, p.scale, first_key + key, lane);
  store<T>(global(p.dv) + at, p, keys.dv, 1.0f, first_key + key, lane);
}

}  // namespace

TW_KERNEL(attend_bwd_dkdv_d128, AttendBackwardParams, THREADS, 1) { differentiate<Tiling<128>>(p); }

TW_KERNEL(attend_bwd_dkdv_d64, AttendBackwardParams, THREADS, 1) { differentiate<Tiling<64>>(p); }
