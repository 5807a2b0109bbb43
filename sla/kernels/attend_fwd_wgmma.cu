// Exact attention forward on wgmma, for 9.0: the contract of attend_fwd.cu in 128 x 128 tiles. For dense attention, for
// cross-attention, and for maps whose blocks have a multiple of 128 queries.
//
//   block    128 query rows: warpgroup 0 produces, warpgroups 1 and 2 have 64 rows each; a step is two tiles of 64 keys of those
//            that the block sees, the second of the last one perhaps missing: zeros, masked
//   shared   barriers | queries 128 x D | three stages of keys 128 x D and values 128 x D, all swizzled; D = 128: 225 KiB
//   copies   cp.async, as keys lie at any stride: two warps a step, turn about with the other two, so that two steps travel at a
//            time; a full and an empty mbarrier a stage
//   scores   m64n128k16, queries and keys in shared memory; p . v: m64nDk16, probabilities in registers, values turned
//   turns    a warpgroup issues the scores of step n + 1 and the product of step n together, then lets the other issue; its
//            softmax runs under the other's products
//   out      by way of the queries' place in shared memory
//   edge     as attend_fwd.cu
//
// Count for a step of a block at D = 128, in clocks of a multiprocessor [calc]: tensor cores 2048 (4 D operations a pair, 4096 a
// clock); exponentials 1024 (16 a clock); 4096 copies of 16 bytes. Operations and bytes: as attend_fwd.cu.
//
// chips: 90a
// sass: 90a HGMMA.64x128x16.F32.BF16 HGMMA.64x64x16.F32.BF16 LDGSTS.E.BYPASS.128 SYNCS USETMAXREG MUFU.EX2
#include "kernel.cuh"

#include "attend_softmax.cuh"

namespace {

constexpr int WARPGROUP = 128, CONSUMERS = 2, THREADS = (1 + CONSUMERS) * WARPGROUP, CONSUMER_WARPS = CONSUMERS * 4;
constexpr int PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
static_assert((PRODUCER_REGISTERS + CONSUMERS * CONSUMER_REGISTERS) * WARPGROUP <= 65536, "more registers than there are");
constexpr int TEAMS = 2, TEAM = WARPGROUP / TEAMS;  // of the producer
constexpr int TILE_Q = CONSUMERS * 64, STEP_K = 2 * TILE, STAGES = 3;
constexpr uint32_t TURN_BARRIER = 1, ROWS_BARRIER = 3;  // the first of two each

template <int D>
struct Wide {
  static_assert(D == 64 || D == 128, "head dims 64 and 128");
  static constexpr int DIM = D, DEPTHS = D / 16;
  static constexpr uint32_t TILE_BYTES = 128 * D * 2, STAGE_BYTES = 2 * TILE_BYTES;
  static constexpr uint32_t FULL = 0, EMPTY = FULL + 8 * STAGES, QUERIES = EMPTY + 8 * STAGES, BARRIERS = 2 * STAGES + 1;
  static constexpr uint32_t Q_AT = 1024, STAGES_AT = Q_AT + TILE_BYTES, SHARED_BYTES = STAGES_AT + STAGES * STAGE_BYTES;
  static_assert(SHARED_BYTES <= 227 * 1024 && TILE_Q == 128 && STEP_K == 128);
};

// The steps of a block.
struct Steps {
  KeyTiles seen;

  __device__ __forceinline__ uint32_t count() const { return (seen.count + 1) / 2; }
  __device__ __forceinline__ int64_t first_key(const AttendParams& p, uint32_t n, int half) const {
    const uint32_t at = 2 * n + half;
    return at < seen.count ? static_cast<int64_t>(seen.tile(at)) * TILE : p.key_len;
  }
};

// Brings the queries, then every step. The warpgroup of the producer.
template <class W>
TW_DEVICE void produce(const AttendParams& p, const Steps& steps, int64_t problem, int64_t first_row, uint32_t shared) {
  const int thread = static_cast<int>(threadIdx.x);
  const Global<const tw_bf16> q = global(p.q) + (query_start(p, problem) + first_row * p.query_row);
  TileCopy<TILE_Q, W::DIM, WARPGROUP>::run(thread, shared + W::Q_AT, q, p.query_row, p.query_len - first_row);
  cp_async_commit();
  cp_async_wait_group<0>();
  fence_proxy_async();
  mbarrier_arrive(shared + W::QUERIES);

  using Copy = TileCopy<STEP_K, W::DIM, TEAM, TILE>;
  const Global<const tw_bf16> k = global(p.k) + key_start(p, problem), v = global(p.v) + key_start(p, problem);
  const uint32_t count = steps.count();
  for (uint32_t n = warp_index() * WARP / TEAM; n < count; n += TEAMS) {
    const uint32_t stage = n % STAGES, keys = shared + W::STAGES_AT + stage * W::STAGE_BYTES;
    mbarrier_wait(shared + W::EMPTY + 8 * stage, (n / STAGES + 1) % 2);  // a fresh stage is empty
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      const int64_t first = steps.first_key(p, n, half), left = p.key_len - first;
      const uint32_t to = keys + half * (TILE * PART_BYTES);
      Copy::run(thread % TEAM, to, k + first * p.key_row, p.key_row, left);
      Copy::run(thread % TEAM, to + W::TILE_BYTES, v + first * p.key_row, p.key_row, left);
    }
    cp_async_commit();
    cp_async_wait_group<0>();
    fence_proxy_async();
    mbarrier_arrive(shared + W::FULL + 8 * stage);
  }
}

// One warpgroup's wait for the tensor cores, and the word to the other.
struct Turns {
  uint32_t mine, other;  // named barriers

  __device__ __forceinline__ explicit Turns(int warpgroup) : mine(TURN_BARRIER + warpgroup), other(TURN_BARRIER + 1 - warpgroup) {}
  __device__ __forceinline__ void take() const { barrier_sync(mine, CONSUMERS * WARPGROUP); }
  __device__ __forceinline__ void give() const { barrier_arrive(other, CONSUMERS * WARPGROUP); }
};

// Scores of a step: two tiles of 64 keys side by side, in the fragments of one product.
using ScoreTiles = float[2][TILE / 8][4];
using Weights = uint32_t[STEP_K / 16][4];

template <class W>
TW_DEVICE void issue_scores(ScoreTiles& s, uint32_t queries, uint32_t keys) {
  float(&all)[STEP_K / 2] = reinterpret_cast<float(&)[STEP_K / 2]>(s);
#pragma unroll
  for (int depth = 0; depth < W::DEPTHS; ++depth) {
    const uint32_t part = depth / 4 * (128 * PART_BYTES), along = depth % 4 * 32;
    wgmma_m64k16_bf16<STEP_K>(all, swizzled_descriptor<PART_BYTES>(queries + part, along), swizzled_descriptor<PART_BYTES>(keys + part, along),
                              depth != 0);
  }
}

// out += p v. A pattern of the values is eight keys of 64 channels: the next channels lie a part on.
template <class W>
TW_DEVICE void issue_values(float (&out)[W::DIM / 8][4], const Weights& weights, uint32_t values) {
  float(&all)[W::DIM / 2] = reinterpret_cast<float(&)[W::DIM / 2]>(out);
#pragma unroll
  for (int depth = 0; depth < STEP_K / 16; ++depth) {
    const uint64_t b = matrix_descriptor(values + depth * 16 * PART_BYTES, STEP_K * PART_BYTES, TileRows::PATTERN_BYTES, TileRows::KIND);
    wgmma_m64k16_bf16<W::DIM, true>(all, weights[depth], b, true);
  }
}

// The scores of step n become probabilities.
TW_DEVICE void soften(ScoreTiles& s, Softmax& softmax, const AttendParams& p, const Steps& steps, uint32_t n, int64_t warp_row, int lane) {
  if (p.causal != 0 || n + 1 == steps.count()) {  // lists ascend, so only the last step can have an edge
#pragma unroll
    for (int half = 0; half < 2; ++half) mask_scores(s[half], p, steps.first_key(p, n, half), warp_row, lane);
  }
  softmax.soften(reinterpret_cast<float(&)[STEP_K / 8][4]>(s));
}

// 64 rows of a block. A consumer's warpgroup; the first one has the first turn.
template <class W>
TW_DEVICE void consume(const AttendParams& p, const Steps& steps, int64_t problem, int64_t first_row, Shared<uint8_t> area, uint32_t shared) {
  const int lane = lane_index(), warp = warp_index() - 4, warpgroup = warp / 4;
  const int64_t warp_row = first_row + warp * 16;
  const uint32_t queries = shared + W::Q_AT + warpgroup * (64 * PART_BYTES), count = steps.count();
  const Turns turns(warpgroup);
  const auto stage = [&](uint32_t n) { return shared + W::STAGES_AT + n % STAGES * W::STAGE_BYTES; };
  const auto wait_full = [&](uint32_t n) { mbarrier_wait(shared + W::FULL + 8 * (n % STAGES), n / STAGES % 2); };
  const auto release = [&](uint32_t n) {
    if (lane == 0) mbarrier_arrive(shared + W::EMPTY + 8 * (n % STAGES));
  };

  Softmax softmax(p, problem, warp_row, lane);
  float out[W::DIM / 8][4] = {};
  mbarrier_wait(shared + W::QUERIES, 0);
  if (count != 0) {
    ScoreTiles s;
    Weights weights;
    if (warpgroup == 1) turns.give();
    wait_full(0);
    turns.take();
    wgmma_fence();
    issue_scores<W>(s, queries, stage(0));
    wgmma_commit();
    turns.give();
    wgmma_wait<0>();
    soften(s, softmax, p, steps, 0, warp_row, lane);
    pack_weights(weights, reinterpret_cast<float(&)[STEP_K / 8][4]>(s));

#pragma unroll 1
    for (uint32_t n = 0; n + 1 < count; ++n) {
      wait_full(n + 1);
      turns.take();
      wgmma_fence();
      issue_scores<W>(s, queries, stage(n + 1));
      wgmma_commit();
      issue_values<W>(out, weights, stage(n) + W::TILE_BYTES);
      wgmma_commit();
      turns.give();
      wgmma_wait<1>();
      soften(s, softmax, p, steps, n + 1, warp_row, lane);
      wgmma_wait<0>();
      release(n);
      softmax.rescale_rows(out);
      pack_weights(weights, reinterpret_cast<float(&)[STEP_K / 8][4]>(s));
    }

    turns.take();
    wgmma_fence();
    issue_values<W>(out, weights, stage(count - 1) + W::TILE_BYTES);
    wgmma_commit();
    if (warpgroup == 0) turns.give();  // nobody waits for the other's last word
    wgmma_wait<0>();
  }
  barrier_sync(ROWS_BARRIER + warpgroup, WARPGROUP);  // nobody multiplies with these queries any more
  store_rows<TILE_Q>(p, softmax, out, area + warp * (16 * PART_BYTES), problem, warp_row, lane);
}

// The whole kernel; blocks as those of attend_fwd.cu.
template <class W>
TW_DEVICE void attend(const AttendParams& p) {
  const uint32_t q_tiles = static_cast<uint32_t>((p.query_len + TILE_Q - 1) / TILE_Q);
  const int64_t problem = blockIdx.x / q_tiles;
  const uint32_t turn = blockIdx.x % q_tiles;
  const int64_t first_row = static_cast<int64_t>(p.causal != 0 ? q_tiles - 1 - turn : turn) * TILE_Q;
  const Shared<uint64_t> barriers = dynamic_shared<uint64_t>(0, W::BARRIERS);
  const Shared<uint8_t> tiles = dynamic_shared<uint8_t>(W::Q_AT, W::SHARED_BYTES - W::Q_AT);
  const uint32_t shared = shared_address(barriers);
  if (threadIdx.x == 0) {
#pragma unroll
    for (int stage = 0; stage < STAGES; ++stage) {
      mbarrier_init(shared + W::FULL + 8 * stage, TEAM);
      mbarrier_init(shared + W::EMPTY + 8 * stage, CONSUMER_WARPS);
    }
    mbarrier_init(shared + W::QUERIES, WARPGROUP);
    fence_mbarrier_init();
  }
  block_sync();
  const Steps steps = {KeyTiles::of(p, problem, first_row, TILE_Q)};
  if (warp_index() < WARPGROUP / WARP) {
    give_registers<PRODUCER_REGISTERS>();
    produce<W>(p, steps, problem, first_row, shared);
  } else {
    take_registers<CONSUMER_REGISTERS>();
    consume<W>(p, steps, problem, first_row, tiles, shared);
  }
}

}  // namespace

TW_KERNEL(attend_fwd_wgmma_d128, AttendParams, THREADS, 1) { attend<Wide<128>>(p); }

TW_KERNEL(attend_fwd_wgmma_d64, AttendParams, THREADS, 1) { attend<Wide<64>>(p); }
