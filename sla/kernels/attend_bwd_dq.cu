// Exact attention backward, gradients of the queries: over all keys or the lists of a block map.
//
//   delta[r] = out[r] . g[r]                       g: gradient of the output; left for attend_bwd_dkdv.cu
//   s  = q[r] . k[j]     p = 2^(factor s - lse[r])     dp = g[r] . v[j]     ds = p (dp - delta[r])
//   dq[r] = scale sum_j bf16(ds) k[j]              f32 sums and result
//
//   q, out, g, dq  [query_len, D] a problem   bf16, dq f32, at the query strides     lse, delta  [problems, query_len] f32
//   k, v           [key_len, D] a problem     bf16, at the key strides
//
//   attend_bwd_dq_d128          128 x 64 tiles, eight warps of 16 rows, three stages: 96 KiB
//   attend_bwd_dq_d128_rows64   64 x 64 tiles, four warps, two stages: 64 KiB; for blocks of 64 queries in a map, and few queries
//   attend_bwd_dq_d64           as the first: 48 KiB
//   attend_bwd_dq_d64_rows64    as the second: 32 KiB
//
//   block    as attend_fwd.cu: WARPS warps of 16 query rows, over the key tiles that they see
//   queries  q, g and out pass through the stages into registers; q and g stay there, as A; out meets g and is gone
//   copies   cp.async, one group a tile of keys and values, STAGES - 1 tiles ahead; one barrier a tile
//   step     32 keys: two products into 16 + 16 registers, ds, then a product with the same keys turned round
//   edge     keys past the end or above the diagonal become minus infinity; a row that saw no key (lse minus infinity) has p = 0;
//            rows past the end are zeros and not stored
//   order    a row's keys ascend in one warp, without atomics: a second run gives the same bits
//
// Operations: 6 D a pair of query and key. Bytes: q, out, g and dq once; k and v once a block of queries, from L2.
//
// sass: all HMMA.16816.F32.BF16 LDSM.16.M88.4 LDSM.16.MT88.4 LDGSTS.E.BYPASS.128 MUFU.EX2
#include "kernel.cuh"

#include "attend_tiles.cuh"

namespace {

// Keys of a step.
constexpr int STEP = 32;

// Sizes of one kernel.
template <int D, int WARPS_, int STAGES_>
struct Tiling {
  static_assert(D == 64 || D == 128, "head dims 64 and 128");
  static constexpr int DIM = D, WARPS = WARPS_, THREADS = WARPS * WARP, STAGES = STAGES_, TILE_Q = 16 * WARPS;
  static constexpr int DEPTHS = D / 16;  // products along the channels
  static constexpr int TILE_BYTES = TILE * D * 2, STAGE_BYTES = 2 * TILE_BYTES, SHARED_BYTES = STAGES * STAGE_BYTES;
  static constexpr int ROWS_BYTES = TILE_Q * D * 2;
  static_assert(3 * ROWS_BYTES <= SHARED_BYTES, "queries, output and its gradient pass through the stages");
  using CopyRows = TileCopy<TILE_Q, D, THREADS>;
  using CopyKeys = TileCopy<TILE, D, THREADS>;
};

// What a warp keeps of its rows. Half h: rows 8 h + lane / 4.
template <class T>
struct Rows {
  uint32_t q[T::DEPTHS][4], grad[T::DEPTHS][4];
  float lse[2], delta[2];
  float dq[T::DIM / 8][4] = {};
};

// Loads a warp's rows, and leaves delta in global memory.
template <class T>
TW_DEVICE void load_rows(const AttendBackwardParams& p, Rows<T>& rows, uint32_t shared, int64_t problem, int64_t first_row, int lane,
                         int warp) {
  const int64_t start = query_start(p, problem) + first_row * p.query_row, left = p.query_len - first_row;
  T::CopyRows::run(threadIdx.x, shared, global(p.q) + start, p.query_row, left);
  T::CopyRows::run(threadIdx.x, shared + T::ROWS_BYTES, global(p.out_gradient) + start, p.query_row, left);
  T::CopyRows::run(threadIdx.x, shared + 2 * T::ROWS_BYTES, global(p.out) + start, p.query_row, left);
  cp_async_commit();
  cp_async_wait_group<0>();
  block_sync();
  const RowOperand<T::TILE_Q> q(shared, lane), grad(shared + T::ROWS_BYTES, lane), out(shared + 2 * T::ROWS_BYTES, lane);
  float delta[2] = {0.0f, 0.0f};
#pragma unroll
  for (int depth = 0; depth < T::DEPTHS; ++depth) {
    q.load(rows.q[depth], warp * 16, depth);
    grad.load(rows.grad[depth], warp * 16, depth);
    uint32_t o[4];
    out.load(o, warp * 16, depth);
#pragma unroll
    for (int reg = 0; reg < 4; ++reg) {
      const uint32_t g = rows.grad[depth][reg];
      delta[reg % 2] = fmaf(low_bf16(o[reg]), low_bf16(g), delta[reg % 2]);
      delta[reg % 2] = fmaf(high_bf16(o[reg]), high_bf16(g), delta[reg % 2]);
    }
  }
  const int64_t at = problem * p.query_len + first_row + warp * 16;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = half * 8 + lane / 4;
    const bool is_there = warp * 16 + row < left;
    rows.delta[half] = row_sum(delta[half]);
    rows.lse[half] = logarithm_or_none(is_there ? static_cast<float>((global(p.lse) + at)[row]) : 0.0f);
    if (is_there && lane % 4 == 0) (global(p.delta) + at)[row] = rows.delta[half];
  }
}

// Scores and gradients of the probabilities, of STEP keys from row `key` of a tile on.
template <class T>
TW_DEVICE void multiply_keys(float (&s)[STEP / 8][4], float (&dp)[STEP / 8][4], const Rows<T>& rows, uint32_t tile, int key, int lane) {
  const ColumnOperand<TILE> keys(tile, lane), values(tile + T::TILE_BYTES, lane);
#pragma unroll
  for (int i = 0; i < STEP / 2; ++i) s[i / 4][i % 4] = dp[i / 4][i % 4] = 0.0f;
#pragma unroll
  for (int depth = 0; depth < T::DEPTHS; ++depth) {
#pragma unroll
    for (int column = 0; column < STEP / 16; ++column) {
      uint32_t b[4];
      keys.load(b, key + column * 16, depth);
      mma_m16n8k16_bf16(s[column * 2], rows.q[depth], b[0], b[1]);
      mma_m16n8k16_bf16(s[column * 2 + 1], rows.q[depth], b[2], b[3]);
      values.load(b, key + column * 16, depth);
      mma_m16n8k16_bf16(dp[column * 2], rows.grad[depth], b[0], b[1]);
      mma_m16n8k16_bf16(dp[column * 2 + 1], rows.grad[depth], b[2], b[3]);
    }
  }
}

// dq += ds k, with ds as the A operands of that product.
template <class T>
TW_DEVICE void gather(Rows<T>& rows, const float (&s)[STEP / 8][4], const float (&dp)[STEP / 8][4], float factor, uint32_t tile, int key,
                      int lane) {
  uint32_t ds[STEP / 16][4];
#pragma unroll
  for (int column = 0; column < STEP / 8; ++column) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float low = exp2_fast(fmaf(s[column][half * 2], factor, -rows.lse[half])) * (dp[column][half * 2] - rows.delta[half]);
      const float high = exp2_fast(fmaf(s[column][half * 2 + 1], factor, -rows.lse[half])) * (dp[column][half * 2 + 1] - rows.delta[half]);
      ds[column / 2][column % 2 * 2 + half] = pack_bf16(low, high);
    }
  }
  const DepthOperand<TILE> keys(tile, lane);
#pragma unroll
  for (int depth = 0; depth < STEP / 16; ++depth) {
#pragma unroll
    for (int column = 0; column < T::DIM / 16; ++column) {
      uint32_t b[4];
      keys.load(b, key + depth * 16, column);
      mma_m16n8k16_bf16(rows.dq[column * 2], ds[depth], b[0], b[1]);
      mma_m16n8k16_bf16(rows.dq[column * 2 + 1], ds[depth], b[2], b[3]);
    }
  }
}

// The whole kernel. Block x has the rows of tile x % tiles of problem x / tiles; under a causal mask the last tiles, which see
// the most, come first.
template <class T>
TW_DEVICE void differentiate(const AttendBackwardParams& p) {
  const int lane = lane_index(), warp = warp_index();
  const uint32_t q_tiles = static_cast<uint32_t>((p.query_len + T::TILE_Q - 1) / T::TILE_Q);
  const int64_t problem = blockIdx.x / q_tiles;
  const uint32_t turn = blockIdx.x % q_tiles;
  const int64_t first_row = static_cast<int64_t>(p.causal != 0 ? q_tiles - 1 - turn : turn) * T::TILE_Q;
  const int64_t warp_row = first_row + warp * 16;
  const KeyTiles seen = KeyTiles::of(p, problem, first_row, T::TILE_Q);
  const Global<const tw_bf16> k = global(p.k) + key_start(p, problem), v = global(p.v) + key_start(p, problem);
  const uint32_t stages = shared_address(dynamic_shared<uint8_t>(0, T::SHARED_BYTES));
  const auto load = [&](uint32_t stage, uint32_t tile) {
    const int64_t first = static_cast<int64_t>(tile) * TILE, left = p.key_len - first;
    T::CopyKeys::run(threadIdx.x, stage, k + first * p.key_row, p.key_row, left);
    T::CopyKeys::run(threadIdx.x, stage + T::TILE_BYTES, v + first * p.key_row, p.key_row, left);
  };

  Rows<T> rows;
  load_rows<T>(p, rows, stages, problem, first_row, lane, warp);
  block_sync();  // the stages are free
#pragma unroll
  for (int n = 0; n < T::STAGES - 1; ++n) {
    if (n < static_cast<int64_t>(seen.count)) load(stages + n * T::STAGE_BYTES, seen.tile(n));
    cp_async_commit();
  }

  // The tile of the next step is looked up one step ahead.
  uint32_t next_tile = seen.count > 0 ? seen.tile(0) : 0;
  uint32_t stage = 0;
  for (uint32_t n = 0; n < seen.count; ++n) {
    cp_async_wait_group<T::STAGES - 2>();
    block_sync();  // tile n is here, and nobody reads the stage of tile n - 1 any more
    if (n + T::STAGES - 1 < seen.count) {
      const uint32_t free_stage = stage == 0 ? T::STAGES - 1 : stage - 1;
      load(stages + free_stage * T::STAGE_BYTES, seen.tile(n + T::STAGES - 1));
    }
    cp_async_commit();
    const int64_t first_key = static_cast<int64_t>(next_tile) * TILE;
    if (n + 1 < seen.count) next_tile = seen.tile(n + 1);
    const uint32_t tile = stages + stage * T::STAGE_BYTES;
    const bool is_edge = first_key + TILE > p.key_len || (p.causal != 0 && first_key + TILE - 1 > warp_row);
#pragma unroll 1
    for (int key = 0; key < TILE; key += STEP) {
      float s[STEP / 8][4], dp[STEP / 8][4];
      multiply_keys<T>(s, dp, rows, tile, key, lane);
      if (is_edge) mask_scores(s, p, first_key + key, warp_row, lane);
      gather<T>(rows, s, dp, p.factor, tile, key, lane);
    }
    stage = stage == T::STAGES - 1 ? 0 : stage + 1;
  }
  cp_async_wait_group<0>();

  const Global<float> dq = global(p.dq) + query_start(p, problem);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row = warp_row + half * 8 + lane / 4;
    if (row >= p.query_len) continue;
#pragma unroll
    for (int tile = 0; tile < T::DIM / 8; ++tile) {
      const float2 pair = {rows.dq[tile][half * 2] * p.scale, rows.dq[tile][half * 2 + 1] * p.scale};
      store_vector(dq + (row * p.query_row + tile * 8 + lane % 4 * 2), pair);
    }
  }
}

}  // namespace

TW_KERNEL(attend_bwd_dq_d128, AttendBackwardParams, 256, 1) { differentiate<Tiling<128, 8, 3>>(p); }

TW_KERNEL(attend_bwd_dq_d128_rows64, AttendBackwardParams, 128, 2) { differentiate<Tiling<128, 4, 2>>(p); }

TW_KERNEL(attend_bwd_dq_d64, AttendBackwardParams, 256, 1) { differentiate<Tiling<64, 8, 3>>(p); }

TW_KERNEL(attend_bwd_dq_d64_rows64, AttendBackwardParams, 128, 3) { differentiate<Tiling<64, 4, 2>>(p); }
