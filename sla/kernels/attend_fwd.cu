// Exact attention forward in bf16 on mma.sync: all keys or those of a block map, any lengths, causal or not.
//
//   s[r, j] = q[r] . k[j]                                                f32 sums
//   m' = max(m, factor max_j s)   a = 2^(m - m')   p = 2^(factor s - m')   per tile of 64 keys, m from LOWEST on
//   l  = a l + sum_j p            o = a o + bf16(p) . v                  l sums p before it is rounded
//   out = o / l                   lse = m + log2 l                       a row that sees no key: 0 and minus infinity
//
//   factor  the same for all rows, or also a root mean square that is taken away from a row's queries (attend_softmax.cuh)
//
//   q, out  [query_len, D] a problem   bf16, at the query strides        lse  [problems, query_len]  f32, base 2
//   k, v    [key_len, D] a problem     bf16, at the key strides
//   out_values, out_scales             instead of out: int8 rows of D = 128 (attend_softmax.cuh)
//
//   attend_fwd_d128          128 x 64 tiles, eight warps of 16 rows, three stages: 96 KiB
//   attend_fwd_d128_rows64   64 x 64 tiles, four warps, two stages: 64 KiB; for blocks of 64 queries in a map, and few queries
//   attend_fwd_d64           as the first: 48 KiB
//   attend_fwd_d64_rows64    as the second: 32 KiB
//
//   block    WARPS warps of 16 query rows, over the key tiles that they see, one after the other; tiles of a head side by side
//   queries  pass through the last stage into registers, and stay there: A of every product with the keys
//   copies   cp.async, one group a tile of keys and values, STAGES - 1 tiles ahead; one barrier a tile
//   edge     keys past the end or above the diagonal become minus infinity; rows past the end are zeros and not stored
//   range    |factor s| below 2^31: at that size m, an f32, is off by up to 64, and p and l carry 2^64 to o / l unharmed
//
// Operations: 4 D a pair of query and key. Bytes: q and out once; k and v once a block of queries, from L2 (one head's keys at
// L = 75600 are 18.5 MiB). Cross-attention is this kernel with its 512 text keys as eight tiles, every block's from L2: the
// model masks none of them. Keys that stayed in shared memory would need 256 KiB a head.
//
// sass: all HMMA.16816.F32.BF16 LDSM.16.M88.4 LDSM.16.MT88.4 LDGSTS.E.BYPASS.128 MUFU.EX2
#include "kernel.cuh"

#include "attend_softmax.cuh"

namespace {

// Sizes of one kernel.
template <int D, int WARPS_, int STAGES_>
struct Tiling {
  static_assert(D == 64 || D == 128, "head dims 64 and 128");
  static constexpr int DIM = D, WARPS = WARPS_, THREADS = WARPS * WARP, STAGES = STAGES_, TILE_Q = 16 * WARPS;
  static constexpr int DEPTHS = D / 16;  // products along the channels
  static constexpr int TILE_BYTES = TILE * D * 2, STAGE_BYTES = 2 * TILE_BYTES, SHARED_BYTES = STAGES * STAGE_BYTES;
  static_assert(TILE_Q * D * 2 <= STAGE_BYTES, "the queries pass through one stage");
  using CopyQueries = TileCopy<TILE_Q, D, THREADS>;
  using CopyKeys = TileCopy<TILE, D, THREADS>;
};

// What a warp keeps of its rows.
template <class T>
struct Rows {
  uint32_t q[T::DEPTHS][4];
  Softmax softmax;
  float out[T::DIM / 8][4] = {};

  __device__ __forceinline__ explicit Rows(const Softmax& start) : softmax(start) {}
};

template <class T>
TW_DEVICE void multiply_keys(float (&s)[TILE / 8][4], const Rows<T>& rows, uint32_t keys, int lane) {
  const ColumnOperand<TILE> operand(keys, lane);
#pragma unroll
  for (int i = 0; i < TILE / 2; ++i) s[i / 4][i % 4] = 0.0f;
#pragma unroll
  for (int depth = 0; depth < T::DEPTHS; ++depth) {
#pragma unroll
    for (int column = 0; column < TILE / 16; ++column) {
      uint32_t b[4];
      operand.load(b, column * 16, depth);
      mma_m16n8k16_bf16(s[column * 2], rows.q[depth], b[0], b[1]);
      mma_m16n8k16_bf16(s[column * 2 + 1], rows.q[depth], b[2], b[3]);
    }
  }
}

// out = rescale out + p v
template <class T>
TW_DEVICE void weigh(const uint32_t (&weights)[TILE / 16][4], Rows<T>& rows, uint32_t values, int lane) {
  const DepthOperand<TILE> operand(values, lane);
  rows.softmax.rescale_rows(rows.out);
#pragma unroll
  for (int depth = 0; depth < TILE / 16; ++depth) {
#pragma unroll
    for (int column = 0; column < T::DIM / 16; ++column) {
      uint32_t b[4];
      operand.load(b, depth * 16, column);
      mma_m16n8k16_bf16(rows.out[column * 2], weights[depth], b[0], b[1]);
      mma_m16n8k16_bf16(rows.out[column * 2 + 1], weights[depth], b[2], b[3]);
    }
  }
}

// The whole kernel. Block x has the rows of tile x % tiles of problem x / tiles; under a causal mask the last tiles, which see
// the most, come first.
template <class T>
TW_DEVICE void attend(const AttendParams& p) {
  const int lane = lane_index(), warp = warp_index();
  const uint32_t q_tiles = static_cast<uint32_t>((p.query_len + T::TILE_Q - 1) / T::TILE_Q);
  const int64_t problem = blockIdx.x / q_tiles;
  const uint32_t turn = blockIdx.x % q_tiles;
  const int64_t first_row = static_cast<int64_t>(p.causal != 0 ? q_tiles - 1 - turn : turn) * T::TILE_Q;
  const int64_t warp_row = first_row + warp * 16;
  const KeyTiles seen = KeyTiles::of(p, problem, first_row, T::TILE_Q);
  const Global<const tw_bf16> k = global(p.k) + key_start(p, problem), v = global(p.v) + key_start(p, problem);
  const Shared<uint8_t> shared = dynamic_shared<uint8_t>(0, T::SHARED_BYTES);
  const uint32_t stages = shared_address(shared), last_stage = stages + (T::STAGES - 1) * T::STAGE_BYTES;
  const auto load = [&](uint32_t stage, uint32_t tile) {
    const int64_t first = static_cast<int64_t>(tile) * TILE, left = p.key_len - first;
    T::CopyKeys::run(threadIdx.x, stage, k + first * p.key_row, p.key_row, left);
    T::CopyKeys::run(threadIdx.x, stage + T::TILE_BYTES, v + first * p.key_row, p.key_row, left);
  };

  // the queries, then the first tiles
  T::CopyQueries::run(threadIdx.x, last_stage, global(p.q) + (query_start(p, problem) + first_row * p.query_row), p.query_row, p.query_len - first_row);
  cp_async_commit();
#pragma unroll
  for (int n = 0; n < T::STAGES - 1; ++n) {
    if (n < static_cast<int64_t>(seen.count)) load(stages + n * T::STAGE_BYTES, seen.tile(n));
    cp_async_commit();
  }
  Rows<T> rows(Softmax(p, problem, warp_row, lane));
  cp_async_wait_group<T::STAGES - 1>();
  block_sync();
  const RowOperand<T::TILE_Q> queries(last_stage, lane);
#pragma unroll
  for (int depth = 0; depth < T::DEPTHS; ++depth) queries.load(rows.q[depth], warp * 16, depth);

  // The tile of the next step is looked up one step ahead.
  uint32_t next_tile = seen.count > 0 ? seen.tile(0) : 0;
  uint32_t stage = 0;
  for (uint32_t n = 0; n < seen.count; ++n) {
    cp_async_wait_group<T::STAGES - 2>();
    block_sync();  // tile n is here, and nobody reads the stage of tile n - 1, or the queries, any more
    if (n + T::STAGES - 1 < seen.count) {
      const uint32_t free_stage = stage == 0 ? T::STAGES - 1 : stage - 1;
      load(stages + free_stage * T::STAGE_BYTES, seen.tile(n + T::STAGES - 1));
    }
    cp_async_commit();
    const int64_t first_key = static_cast<int64_t>(next_tile) * TILE;
    if (n + 1 < seen.count) next_tile = seen.tile(n + 1);

    const uint32_t keys = stages + stage * T::STAGE_BYTES;
    float s[TILE / 8][4];
    multiply_keys<T>(s, rows, keys, lane);
    if (first_key + TILE > p.key_len || (p.causal != 0 && first_key + TILE - 1 > warp_row)) {
      mask_scores(s, p, first_key, warp_row, lane);
    }
    rows.softmax.soften(s);
    uint32_t weights[TILE / 16][4];
    pack_weights(weights, s);
    weigh<T>(weights, rows, keys + T::TILE_BYTES, lane);
    stage = stage == T::STAGES - 1 ? 0 : stage + 1;
  }

  cp_async_wait_group<0>();
  block_sync();  // the stages are free
  store_rows<16>(p, rows.softmax, rows.out, shared + warp * (16 * T::DIM * 2), problem, warp_row, lane);
}

}  // namespace

TW_KERNEL(attend_fwd_d128, AttendParams, 256, 1) { attend<Tiling<128, 8, 3>>(p); }

TW_KERNEL(attend_fwd_d128_rows64, AttendParams, 128, 2) { attend<Tiling<128, 4, 2>>(p); }

TW_KERNEL(attend_fwd_d64, AttendParams, 256, 1) { attend<Tiling<64, 8, 3>>(p); }

TW_KERNEL(attend_fwd_d64_rows64, AttendParams, 128, 3) { attend<Tiling<64, 4, 2>>(p); }
