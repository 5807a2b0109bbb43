// SageAttention forward on wgmma: a producer streams tiles of keys and e4m3 values, two warpgroups take turns at the tensor
// cores. The formula is that of attention.cuh, in steps of two tiles of 64 keys; keys and values lie in global memory as
// tile_layout.cuh says; attention_end.cuh has what may follow.
//
//   s[r, j] = (q8[r] . k8[j]) sq[r] sk[j] score_scale           m64n128k32, exact 32-bit sums
//   m' = max(m, max_j s)   p = 2^(s - m' + 8.807) <= 448        j over the 128 keys of a step
//   o  = 2^(m - m') o + p . v                                   m64nDk32, sums of a step on the tensor cores, added in f32
//
//   block    128 query rows: warpgroup 0 produces, warpgroups 1 and 2 have 64 rows each
//   shared   barriers, notes | queries 128 x D | STAGES x (two K tiles, two V tiles) | output, or phi, 128 x D bf16 | M, D x D bf16
//            D = 128: 1 + 16 + 4 * 32 + 32 + 32 = 209 KiB
//   copies   one bulk copy a tile, by one warp, STAGES steps ahead; a full and an empty mbarrier a stage, and a note of its
//            tiles and scales. The second tile of a step without one is the first again, masked.
//   turns    a warpgroup issues the scores of step n + 1 and the product of step n together, then lets the other issue; its
//            softmax runs under the other's products
//   P        a lane's scores of 16 keys are its A operand, as V's keys are permuted: no shuffle
//   added    warps 1 to 3 of the producer's warpgroup load M and work out phi while the others multiply
//   edge     keys past the end or above the diagonal become minus infinity; rows past the end are zeros and not stored
//
// Count for a step of one warpgroup, 64 x 128 at D = 128, in clocks of a multiprocessor's quarter [calc]: tensor cores 512
// (256 for each product), exponentials 512 (64 of 8), and in their shadow 64 each of subtraction, multiply-add, sum, half as
// many conversions; before them 64 maxima of 2 clocks, after them 64 multiply-adds of the promotion and 64 presets of the
// scores. So one warpgroup's own chain is about 512 + 830 clocks against 1024 of tensor cores for both: 76% of the peak is the
// ceiling of this schedule, before any latency. What follows from it:
//   - scores start at the bits of 1.5 * 2^23 (attention.cuh): conversions would share the exponentials' unit on some chips
//   - 2^x of two f16 is two instructions on this chip (MUFU.EX2.F16 twice and a PRMT): no gain, and it is not used
//   - the rescaling of o is the promotion's multiply-add, so leaving it out where m grows little would gain nothing
//   - a column of ones in V for the row sums costs 16 clocks of tensor cores to save 64 additions that the exponentials hide
//
// chips: 90a
// sass: all IGMMA.64x128x32.S8.S8 QGMMA.64x128x32.F32.E4M3.E4M3 QGMMA.64x64x32.F32.E4M3.E4M3 HGMMA.64x128x16.F32.BF16 UBLKCP SYNCS USETMAXREG MUFU.EX2
#include "kernel.cuh"

#include "attention.cuh"
#include "tile_layout.cuh"

namespace {

constexpr int WARPGROUP = 128, CONSUMERS = 2, WGMMA_THREADS = (1 + CONSUMERS) * WARPGROUP;
constexpr int WARPGROUP_ROWS = 64, STEP_K = 2 * TILE_K, FEATURE_WARPS = 3;
constexpr float NOTHING = -INFINITY;  // the score of no key
constexpr uint32_t TURN_BARRIER = 1, ROWS_BARRIER = 3;  // the first of two each

template <int D>
struct Wide {
  // As Tiling, for the parts of attention.cuh that a warp has its 16 rows in.
  static constexpr int DIM = D, M_TILES = 1, WARP_ROWS = 16, TILE_Q = CONSUMERS * WARPGROUP_ROWS, STAGES = 4;
  static constexpr bool IS_F16 = false;
  using OutRows = Swizzled<128>;

  static constexpr uint32_t KEY_TILE_BYTES = KeyTile<D>::BYTES, VALUE_TILE_BYTES = ValueTile<D>::BYTES;
  static constexpr uint32_t V_AT = 2 * KEY_TILE_BYTES, STAGE_BYTES = V_AT + 2 * VALUE_TILE_BYTES;
  static constexpr uint32_t Q_BYTES = TILE_Q * D, OUT_BYTES = TILE_Q * D * 2, STATE_BYTES = D * D * 2;
  static constexpr uint32_t BARRIERS_AT = 0, Q_AT = 1024, STAGES_AT = Q_AT + Q_BYTES;
  static constexpr uint32_t OUT_AT = STAGES_AT + STAGES * STAGE_BYTES, STATE_AT = OUT_AT + OUT_BYTES;
  static_assert(STAGES_AT % 1024 == 0 && OUT_AT % 1024 == 0 && STATE_AT % 1024 == 0, "swizzled tiles");

  // Barriers, 8 bytes each.
  static constexpr uint32_t FULL = BARRIERS_AT, EMPTY = FULL + 8 * STAGES, ADDED = EMPTY + 8 * STAGES;
  static constexpr uint32_t NOTES_AT = 128;  // what each stage holds: StepNote
  static_assert(ADDED + 8 <= NOTES_AT && NOTES_AT + STAGES * 48 <= Q_AT);
};

// The steps of a block: two of the tiles that it sees in each, the second of the last one perhaps missing.
struct Steps {
  KeyTiles seen;

  __device__ __forceinline__ uint32_t count() const { return (seen.count + 1) / 2; }
  __device__ __forceinline__ bool has_second(uint32_t n) const { return 2 * n + 1 < seen.count; }
  __device__ __forceinline__ uint32_t first(uint32_t n) const { return seen.tile(2 * n); }
  __device__ __forceinline__ uint32_t second(uint32_t n) const { return seen.tile(has_second(n) ? 2 * n + 1 : 2 * n); }
};

// What a stage holds beside its tiles: their numbers, and the scales of their keys, four for each tile.
struct StepNote {
  uint32_t first, second;
  float first_scale, second_scale;
};
constexpr uint32_t NOTE_BYTES = 48, NOTE_SCALES = 16;

template <class W>
__device__ __forceinline__ StepNote read_note(Shared<uint8_t> memory, uint32_t stage, int lane) {
  const Shared<uint8_t> note = memory + (W::NOTES_AT + stage * NOTE_BYTES);
  const uint2 tiles = load_vector<uint2>(note);
  const Shared<uint8_t> scales = note + (NOTE_SCALES + lane % 4 * 4);
  return {tiles.x, tiles.y, load_vector<float>(scales), load_vector<float>(scales + 16)};
}

// Brings the tiles of every step. One warp.
template <class W>
__device__ __forceinline__ void produce(const SageAttnParams& p, const Steps& steps, int64_t problem, Shared<uint8_t> memory, int lane) {
  const uint32_t shared = shared_address(memory), count = steps.count(), scale_tiles = p.k_group_rows / TILE_K;
  const int64_t first_tile = problem * layout_tiles(p.key_len);
  const Global<const int8_t> k = global(p.k) + first_tile * W::KEY_TILE_BYTES;
  const Global<const uint8_t> v = global(p.v_e4m3) + first_tile * W::VALUE_TILE_BYTES;
  const Global<const float> scales = global(p.k_scales) + (problem * p.k_groups + lane % 4 % p.k_group_lanes);
  for (uint32_t n = 0; n < count; ++n) {
    const uint32_t stage = n % W::STAGES, full = shared + W::FULL + 8 * stage;
    const uint32_t keys = shared + W::STAGES_AT + stage * W::STAGE_BYTES, values = keys + W::V_AT;
    const int64_t first = steps.first(n), second = steps.second(n);
    const uint32_t tile = static_cast<uint32_t>(lane / 4 % 2 == 0 ? first : second);
    const float scale = scales[tile / scale_tiles * p.k_group_lanes];
    mbarrier_wait(shared + W::EMPTY + 8 * stage, (n / W::STAGES + 1) % 2);  // a fresh stage is empty
    const Shared<uint8_t> note = memory + (W::NOTES_AT + stage * NOTE_BYTES);
    if (lane < 8) store_vector(note + (NOTE_SCALES + lane * 4), scale);
    if (lane == 0) store_vector(note, make_uint2(static_cast<uint32_t>(first), static_cast<uint32_t>(second)));
    warp_sync();
    if (lane == 0) {
      mbarrier_arrive_expect(full, W::STAGE_BYTES);
      bulk_copy_to_shared(keys, k + first * W::KEY_TILE_BYTES, W::KEY_TILE_BYTES, full);
      bulk_copy_to_shared(keys + W::KEY_TILE_BYTES, k + second * W::KEY_TILE_BYTES, W::KEY_TILE_BYTES, full);
      bulk_copy_to_shared(values, v + first * W::VALUE_TILE_BYTES, W::VALUE_TILE_BYTES, full);
      bulk_copy_to_shared(values + W::VALUE_TILE_BYTES, v + second * W::VALUE_TILE_BYTES, W::VALUE_TILE_BYTES, full);
    }
  }
}

// Loads M, and works out phi / (phi . z + 1e-5) of every row, both as operands of a wgmma. Three warps; `thread` of them.
template <class W>
__device__ __forceinline__ void prepare_added(const SageAttnParams& p, Shared<uint8_t> area, int64_t problem, int64_t first_row,
                                              uint32_t shared, int thread) {
  constexpr int D = W::DIM, N = D / WARP, CHUNKS = D * 2 / CHUNK_BYTES;
  using Operand = Swizzled<128>;
  const Global<const tw_bf16> state = global(p.added_state) + problem * (D + 1) * D;
  for (int i = thread; i < D * CHUNKS; i += FEATURE_WARPS * WARP) {
    const int row = i / CHUNKS, chunk = i % CHUNKS;
    cp_async<16>(shared + W::STATE_AT + chunk / 8 * (D * 128) + Operand::chunk(row, chunk % 8), state + (row * D + chunk * 8));
  }
  cp_async_commit();

  // N neighbouring channels a lane
  const int lane = thread % WARP, column = lane * N;
  const auto load = [](Global<const tw_bf16> from, float(&x)[N]) {
#pragma unroll
    for (int pair = 0; pair < N / 2; ++pair) {
      const uint32_t two = load_vector_readonly<uint32_t>(from + pair * 2);
      x[pair * 2] = low_bf16(two);
      x[pair * 2 + 1] = high_bf16(two);
    }
  };
  float z[N];
  load(state + (D * D + column), z);
  const Global<const tw_bf16> q = global(p.added_q) + (problem * p.query_len * D + column);
  for (int row = thread / WARP; row < W::TILE_Q; row += FEATURE_WARPS) {
    float x[N];
    load(q + min(first_row + row, p.query_len - 1) * D, x);
    weigh_features<WARP>(x, p.feature, [&](int i) { return z[i]; });
    const Shared<uint8_t> to = area + (row / WARPGROUP_ROWS * (WARPGROUP_ROWS * D * 2) + column / 64 * (WARPGROUP_ROWS * 128));
#pragma unroll
    for (int pair = 0; pair < N / 2; ++pair) {
      store_vector(to + Operand::byte(row % WARPGROUP_ROWS, column % 64 * 2 + pair * 4), pack_bf16(x[pair * 2], x[pair * 2 + 1]));
    }
  }
  cp_async_wait_group<0>();
  fence_proxy_async();
  mbarrier_arrive(shared + W::ADDED);
}

// One warpgroup's wait for the tensor cores, and the word to the other.
struct Turns {
  uint32_t mine, other;  // named barriers

  __device__ __forceinline__ explicit Turns(int warpgroup) : mine(TURN_BARRIER + warpgroup), other(TURN_BARRIER + 1 - warpgroup) {
    if (warpgroup == 1) give();  // the first turn is the other's
  }
  __device__ __forceinline__ void take() const { barrier_sync(mine, CONSUMERS * WARPGROUP); }
  __device__ __forceinline__ void give() const { barrier_arrive(other, CONSUMERS * WARPGROUP); }
};

using StepScores = int32_t[STEP_K / 2];

// A key that is not seen: far below every sum (at most 2^21), and so far that the f32 whose bits are HIDDEN minus a sum plus
// those of 1.5 * 2^23 is about -2^127.
constexpr int32_t HIDDEN = static_cast<int32_t>(0xff000000u - INTEGER_ZERO_BITS);

// A sum as f32, exactly.
__device__ __forceinline__ float number(int32_t sum) { return float_of(static_cast<uint32_t>(sum + INTEGER_ZERO_BITS)) - INTEGER_ZERO; }

template <class W>
__device__ __forceinline__ void issue_scores(StepScores& s, uint64_t queries, uint64_t keys) {
#pragma unroll
  for (int depth = 0; depth < W::DIM / 32; ++depth) {
    wgmma_m64k32_s8<STEP_K>(s, descriptor_behind(queries, depth * 32), descriptor_behind(keys, depth * 32), depth != 0);
  }
  wgmma_commit();
}

// Probabilities of a step as A operands, one for every 32 keys.
using StepWeights = uint32_t[STEP_K / 32][4];

template <class W>
__device__ __forceinline__ void issue_values(float (&sums)[W::DIM / 2], const StepWeights& weights, uint64_t values) {
#pragma unroll
  for (int part = 0; part < STEP_K / 32; ++part) {
    wgmma_m64k32_e4m3<W::DIM>(sums, weights[part], descriptor_behind(values, part / 2 * W::VALUE_TILE_BYTES + part % 2 * 32), part != 0);
  }
  wgmma_commit();
}

// Hides what a warp's rows, from `first_row` on, do not see of a tile: values 32 half .. of the scores.
template <class W>
__device__ __forceinline__ void mask_half(StepScores& s, const SageAttnParams& p, int half, bool is_there, uint32_t tile, int64_t first_row,
                                          int lane) {
  const int64_t first_key = static_cast<int64_t>(tile) * TILE_K;
  const int keys = is_there ? static_cast<int>(min(p.key_len - first_key, int64_t{TILE_K})) : 0;
  const int diagonal = p.causal != 0 ? static_cast<int>(max(min(first_row - first_key, int64_t{TILE_K}), int64_t{-W::WARP_ROWS})) : TILE_K;
#pragma unroll
  for (int i = 0; i < TILE_K / 2; ++i) {
    const int column = Fragment::c_column(lane, i);
    if (column >= keys || column > diagonal + Fragment::c_row(lane, i)) s[half * (TILE_K / 2) + i] = HIDDEN;
  }
}

// Scores become probabilities; the rows' largest score and sum follow.
template <class W>
__device__ __forceinline__ void soften_step(StepWeights& weights, const StepScores& s, Rows<W>& rows, float first_scale, float second_scale) {
  // The largest of each row and tile: of integers, three at a time, four chains side by side.
  const auto score = [&](int r, int half, int i) { return s[half * (TILE_K / 2) + i / 2 * 4 + r * 2 + i % 2]; };
  int32_t largest[2][2];
#pragma unroll
  for (int i = 0; i < TILE_K / 4; i += 2) {
#pragma unroll
    for (int place = 0; place < 4; ++place) {
      const int r = place / 2, half = place % 2;
      const int32_t two = max(score(r, half, i), score(r, half, i + 1));
      largest[r][half] = i == 0 ? two : max(two, largest[r][half]);
    }
  }
  // A probability is worked out relative to this lane's largest sum, as in attention.cuh.
  float scale[2][2], shift[2][2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float top[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      scale[r][half] = fmaf(rows.scale[r], half == 0 ? first_scale : second_scale, TINY);
      top[half] = largest[r][half] == HIDDEN ? NOTHING : number(largest[r][half]) * scale[r][half];
    }
    const float most = fmaxf(rows.most[r], row_max(fmaxf(top[0], top[1])));
    rows.rescale[r] = exp2_fast(rows.most[r] - most);
    rows.most[r] = most;
#pragma unroll
    for (int half = 0; half < 2; ++half) shift[r][half] = top[half] - most + E4M3_OFFSET;
  }
  float sum[2] = {0.0f, 0.0f};
#pragma unroll
  for (int sixteen = 0; sixteen < STEP_K / 16; ++sixteen) {
    const int half = sixteen / 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float p[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int32_t score = s[(sixteen * 2 + i / 2) * 4 + r * 2 + i % 2];
        p[i] = exp2_fast(fmaf(number(score - largest[r][half]), scale[r][half], shift[r][half]));
        sum[r] += p[i];
      }
      weights[sixteen / 2][sixteen % 2 * 2 + r] = pack_e4m3(p[0], p[1], p[2], p[3]);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) rows.sum[r] = fmaf(rows.sum[r], rows.rescale[r], sum[r]);
}

template <class W>
__device__ __forceinline__ void promote(Rows<W>& rows, const float (&sums)[W::DIM / 2]) {
#pragma unroll
  for (int i = 0; i < W::DIM / 2; ++i) {
    float& out = rows.out[0][i / 4][i % 4];
    out = fmaf(out, rows.rescale[i % 4 / 2], sums[i]);
  }
}

// 64 rows of a block over all its steps, then their end.
template <class W>
__device__ __forceinline__ void consume(const SageAttnParams& p, const Steps& steps, int64_t problem, int64_t block_row,
                                        Shared<uint8_t> memory) {
  constexpr int D = W::DIM;
  const uint32_t shared = shared_address(memory);
  const int lane = lane_index(), warp = warp_index() % (WARPGROUP / WARP), warpgroup = warp_index() / (WARPGROUP / WARP) - 1;
  const int64_t first_row = block_row + warpgroup * WARPGROUP_ROWS, warp_row = first_row + warp * W::WARP_ROWS;
  const uint32_t queries = shared + W::Q_AT + warpgroup * (WARPGROUP_ROWS * D), stages = shared + W::STAGES_AT;
  const uint32_t count = steps.count();
  const Turns turns(warpgroup);

  // Queries, made known to wgmma.
  using CopyQueries = Copy<WARPGROUP_ROWS, D, WARPGROUP>;
  const int64_t q_row = min(first_row, p.query_len);
  CopyQueries::run(queries, CopyQueries::start(global(p.q) + (problem * p.query_len + q_row) * D, D), D, p.query_len - q_row);
  cp_async_commit();

  Rows<W> rows;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t row = min(warp_row + r * 8 + lane / 4, p.query_len - 1);
    const float scale = global(p.q_scales)[problem * p.q_groups + row / p.q_group_rows * p.q_group_lanes + row % p.q_group_lanes];
    rows.scale[r] = scale * p.score_scale;
    rows.most[r] = LOWEST;
    rows.sum[r] = 0.0f;
  }
#pragma unroll
  for (int i = 0; i < D / 2; ++i) rows.out[0][i / 4][i % 4] = 0.0f;

  cp_async_wait_group<0>();
  fence_proxy_async();
  barrier_sync(ROWS_BARRIER + warpgroup, WARPGROUP);

  if (count > 0) {
    StepScores s;
    StepWeights weights;
    float sums[D / 2];
    const uint64_t q = swizzled_descriptor<D>(queries, 0), k = swizzled_descriptor<D>(stages, 0);
    const uint64_t v = swizzled_descriptor<TILE_K>(stages + W::V_AT, 0);
    mbarrier_wait(shared + W::FULL, 0);
    StepNote note = read_note<W>(memory, 0, lane);
    turns.take();
    wgmma_fence();
    issue_scores<W>(s, q, k);
    turns.give();
    wgmma_wait<0>();

    // The scores of step n are there: what follows them, up to the products that read them.
    const auto soften = [&](uint32_t n) {
      const int64_t first_key = static_cast<int64_t>(note.first) * TILE_K, second_key = static_cast<int64_t>(note.second) * TILE_K;
      const bool has_second = steps.has_second(n);
      const int64_t last_seen = p.causal != 0 ? min(warp_row, p.key_len - 1) : p.key_len - 1;  // by all of the warp's rows
      if (first_key + TILE_K - 1 > last_seen) mask_half<W>(s, p, 0, true, note.first, warp_row, lane);
      if (!has_second || second_key + TILE_K - 1 > last_seen) mask_half<W>(s, p, 1, has_second, note.second, warp_row, lane);
      soften_step<W>(weights, s, rows, note.first_scale, note.second_scale);
    };
    const auto release = [&](uint32_t n) {
      if (lane == 0) mbarrier_arrive(shared + W::EMPTY + 8 * (n % W::STAGES));
    };
    for (uint32_t n = 0; n + 1 < count; ++n) {
      soften(n);
      const uint32_t next_stage = (n + 1) % W::STAGES;
      mbarrier_wait(shared + W::FULL + 8 * next_stage, (n + 1) / W::STAGES % 2);
      turns.take();
      wgmma_fence();
      issue_scores<W>(s, q, descriptor_behind(k, next_stage * W::STAGE_BYTES));
      issue_values<W>(sums, weights, descriptor_behind(v, n % W::STAGES * W::STAGE_BYTES));
      turns.give();
      note = read_note<W>(memory, next_stage, lane);
      wgmma_wait<0>();
      release(n);
      promote<W>(rows, sums);
    }
    soften(count - 1);
    turns.take();
    wgmma_fence();
    issue_values<W>(sums, weights, descriptor_behind(v, (count - 1) % W::STAGES * W::STAGE_BYTES));
    if (warpgroup == 0) turns.give();  // nobody waits for the last turn's end
    wgmma_wait<0>();
    promote<W>(rows, sums);
  } else if (warpgroup == 0) {
    turns.take();  // what the other gave at its start
  }

  divide_rows<W>(p, rows, problem, warp_row, lane);
  if (p.added_q != nullptr) {
    const uint32_t phi = shared + W::OUT_AT + warpgroup * (WARPGROUP_ROWS * D * 2), state = shared + W::STATE_AT;
    float added[D / 2];
    mbarrier_wait(shared + W::ADDED, 0);
    wgmma_fence();
#pragma unroll
    for (int depth = 0; depth < D / 16; ++depth) {
      const uint64_t a = swizzled_descriptor<128>(phi + depth / 4 * (WARPGROUP_ROWS * 128), depth % 4 * 32);
      const uint64_t b = swizzled_descriptor<128>(state + depth / 4 * (D * 128), depth % 4 * 32);
      wgmma_m64k16_bf16<D>(added, a, b, depth != 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
#pragma unroll
    for (int tile = 0; tile < D / 8; ++tile) {
      float2 bias = make_float2(0.0f, 0.0f);
      if (p.added_bias != nullptr) bias = load_vector_readonly<float2>(global(p.added_bias) + (tile * 8 + lane % 4 * 2));
#pragma unroll
      for (int i = 0; i < 4; ++i) rows.out[0][tile][i] += added[tile * 4 + i] + (i % 2 == 0 ? bias.x : bias.y);
    }
    barrier_sync(ROWS_BARRIER + warpgroup, WARPGROUP);  // phi has been read
  }
  const Shared<uint8_t> area = memory + (W::OUT_AT + (warpgroup * 4 + warp) * (W::WARP_ROWS * D * 2));
  if constexpr (D == 128) {
    if (p.out_values != nullptr) {
      store_rows_int8<W>(p, rows, area, problem, warp_row, lane);
      return;
    }
  }
  store_rows<W>(p, rows, area, problem, warp_row, lane);
}

// The whole kernel; blocks are numbered as in attention.cuh.
template <class W>
__device__ __forceinline__ void attend_wide(const SageAttnParams& p) {
  const uint32_t q_tiles = static_cast<uint32_t>((p.query_len + W::TILE_Q - 1) / W::TILE_Q);
  const uint32_t problem = blockIdx.x / q_tiles, place = blockIdx.x % q_tiles;
  const int64_t block_row = static_cast<int64_t>(p.causal != 0 ? q_tiles - 1 - place : place) * W::TILE_Q;
  const Steps steps = {visible_tiles(p, problem, block_row, W::TILE_Q)};
  const bool has_added = p.added_q != nullptr;
  const Shared<uint8_t> memory = dynamic_shared<uint8_t>(0, W::STATE_AT + (has_added ? W::STATE_BYTES : 0));
  const uint32_t shared = shared_address(memory);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < W::STAGES; ++stage) {
      mbarrier_init(shared + W::FULL + 8 * stage, 1);
      mbarrier_init(shared + W::EMPTY + 8 * stage, CONSUMERS * WARPGROUP / WARP);
    }
    mbarrier_init(shared + W::ADDED, FEATURE_WARPS * WARP);
    fence_mbarrier_init();
  }
  block_sync();

  if (threadIdx.x < WARPGROUP) {
    give_registers<40>();
    if (threadIdx.x < WARP) produce<W>(p, steps, problem, memory, static_cast<int>(threadIdx.x));
    if (threadIdx.x >= WARP && has_added) {
      prepare_added<W>(p, memory + W::OUT_AT, problem, block_row, shared, static_cast<int>(threadIdx.x) - WARP);
    }
  } else {
    take_registers<232>();
    consume<W>(p, steps, problem, block_row, memory);
  }
}

}  // namespace

TW_KERNEL(sage_attn_wgmma_d128, SageAttnParams, WGMMA_THREADS, 1) { attend_wide<Wide<128>>(p); }

TW_KERNEL(sage_attn_wgmma_d64, SageAttnParams, WGMMA_THREADS, 1) { attend_wide<Wide<64>>(p); }
