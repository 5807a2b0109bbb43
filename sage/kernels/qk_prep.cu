// Queries and keys from the projections to what attention reads, in one pass over both: RMS norm over all heads, rotary
// embedding, int8 queries with their scales, the means of query blocks, the sums from which the keys' mean comes. Values may
// lie beside them: they become f16, or are looked through for the scales of e4m3.
//
//   y = bf16(bf16(x / sqrt(sum x^2 / width + eps)) * weight)            the inner rounding as `rounds_twice` says
//   (y[2i], y[2i+1]) <- bf16(y[2i] cos - y[2i+1] sin, y[2i] sin + y[2i+1] cos)
//   queries: y, int8 and scales of y * factor, means of blocks          as quant_rows.cu of y
//   keys:    y, sums over every 64 rows                                 as mean_keys.cu of y
//   values:  f16, as quant_values.cu; or max |v| of each channel over every 128 rows, passing over what is no number
//
// The sum of squares of a row comes from the product that made the row, in parts (a GEMM's `row_sums`), so that no block
// has to see the whole row. Pair i of a head is turned by the token's time, height or width: the first D / 2 - 2 s pairs by
// time, then s and s by the others, s = D / 6.
//
//   q, k      [samples * tokens, heads * D]      bf16, rows by strides, 16-byte aligned
//   squares   [samples * tokens, parts]          f32, rows by strides
//   weights   [heads * D]                        f32
//   turns     [positions, D / 2, 2]              f32: cosine and sine of pair i at a position of its axis
//   q_out, k_out  [problems, tokens, D]          bf16
//   q_values, q_scales, q_pooled, k_sums         as the unfused kernels have them
//   v, v_out             rows of heads * D       bf16 by a stride, f16 without gaps
//   v_maxima             [problems, tiles, D]    f32
//
//   tile    128 tokens of `block_heads` heads a block, one head's queries, its keys, its values at a time (head_rows.cuh), the
//           next loaded while this is worked on; grid.x = samples * ceil(tokens / 128) * ceil(heads / block_heads), the
//           heads of a tile fastest, which share its turns in L2
//   shared  the turns of the 128 tokens, gathered once for all heads (dynamic, 512 D bytes): pairs 0 and 1 of each four in
//           one plane of a row, 2 and 3 in the other, so that the lanes of a row read 16 bytes side by side
//   edge    rows past the last are zeros and stored nowhere
//
// IEEE f32 with true divisions, each product rounded before it is added: cuda's rms_rope.cu but for the order of the sum of
// squares, and from y on the bits of quant_rows.cu and mean_keys.cu.
//
// Bytes: queries 2 read, 2 and 1 written a value; keys 2 read and 2 written; values 2 read, and 2 written as f16.
// From L1 and L2 a block reads its turns once, 512 D bytes, weights of 8 D a head, and 8 * parts a token.
// Operations: about 24 a value of the queries and 12 of the keys, all at the full rate but one conversion.
//
// sass: all LDG.E.128 LDS.128 STG.E.128 STG.E.64 REDUX ATOMS
#include "kernel.cuh"
#include "head_rows.cuh"
#include "prepare_params.h"

namespace {

// The place of a pair in a token's row of turns.
template <int D>
TW_DEVICE int turn_place(int pair) {
  return pair / 2 % 2 * (D / 4) + pair / 4 * 2 + pair % 2;
}

template <int D>
TW_DEVICE void gather_turns(const QkPrepParams& p, Shared<float2> turns, const TilePlace& place) {
  constexpr int PAIRS = D / 2, SPACE = D / 6;
  const Global<const float> table = global(p.turns);
  const int pair = static_cast<int>(threadIdx.x) % PAIRS;
#pragma unroll 2
  for (int row = static_cast<int>(threadIdx.x) / PAIRS; row < TILE_ROWS; row += THREADS / PAIRS) {
    if (row < place.rows) {
      const uint32_t token = static_cast<uint32_t>(place.first_row) + static_cast<uint32_t>(row);  // at most 128^3
      const uint32_t position = pair < PAIRS - 2 * SPACE ? token / p.breadth / p.height
                                : pair < PAIRS - SPACE   ? token / p.breadth % p.height
                                                         : token % p.breadth;
      const float2 turn = load_vector_readonly<float2>(table + (static_cast<int64_t>(position) * PAIRS + pair) * 2);
      store_vector(turns + (row * PAIRS + turn_place<D>(pair)), turn);
    }
  }
}

// What the rows of a tile are multiplied by; four threads a row.
TW_DEVICE void find_inverses(const QkPrepParams& p, const float* squares, int64_t stride, int64_t first_row, int rows, float width,
                             Shared<float> inverses) {
  const int row = static_cast<int>(threadIdx.x) / 4;
  float sum = 0;
  if (row < rows) {
    const Global<const float> parts = global(squares) + (first_row + row) * stride;
#pragma unroll 2
    for (int64_t part = threadIdx.x % 4; part < p.parts; part += 4) {
      const float value = parts[part];
      sum += value;
    }
  }
  sum = row_sum(sum);
  if (threadIdx.x % 4 == 0) inverses[row] = divide(1.0f, square_root(divide(sum, width) + p.eps));
}
static_assert(THREADS == 4 * TILE_ROWS, "four threads a row");

// Norm and turn of a tile's rows, in place, and stored from `out` on, where the thread's first chunk goes.
template <int D>
TW_DEVICE void norm_and_turn(const QkPrepParams& p, uint4 (&chunks)[HeadRows<D>::PASSES], Global<const float> weight, Shared<float> inverses,
                             Shared<float2> turns, int rows, Global<uint4> out, bool is_stored) {
  using Rows = HeadRows<D>;
  float w[CHUNK];
  load_eight(weight + Rows::column(), w);
#pragma unroll
  for (int pass = 0; pass < Rows::PASSES; pass++) {
    const int row = Rows::row(pass);
    if (row < rows) {
      const float inverse = inverses[row];
      float v[CHUNK];
      unpack<Bf16>(chunks[pass], v);
#pragma unroll
      for (int j = 0; j < CHUNK; j++) v[j] *= inverse;
      if (p.rounds_twice != 0) {
        const uint4 rounded = pack<Bf16>(v);
        unpack<Bf16>(rounded, v);
      }
#pragma unroll
      for (int j = 0; j < CHUNK; j++) v[j] *= w[j];
      const uint4 normed = pack<Bf16>(v);
      unpack<Bf16>(normed, v);
      const Shared<float2> at = turns + (row * (D / 2) + Rows::column() / 4);
#pragma unroll
      for (int j = 0; j < CHUNK; j += 4) {  // two pairs, each x cosine, y sine
        const float4 turn = load_vector<float4>(at + j / 4 * (D / 4));
        const float a = v[j], b = v[j + 1], c = v[j + 2], d = v[j + 3];
        v[j] = a * turn.x - b * turn.y;
        v[j + 1] = a * turn.y + b * turn.x;
        v[j + 2] = c * turn.z - d * turn.w;
        v[j + 3] = c * turn.w + d * turn.z;
      }
      const uint4 turned = pack<Bf16>(v);
      if (is_stored) out[pass * (Rows::PASS_ROWS * Rows::LANES)] = turned;
      chunks[pass] = turned;
    }
  }
}

// Values as f16, from `out` on, where the thread's first chunk goes; rows of `row_chunks` chunks.
template <int D>
TW_DEVICE void store_f16(const uint4 (&chunks)[HeadRows<D>::PASSES], int rows, Global<uint4> out, int64_t row_chunks) {
  using Rows = HeadRows<D>;
#pragma unroll
  for (int pass = 0; pass < Rows::PASSES; pass++) {
    if (Rows::row(pass) < rows) {
      float v[CHUNK];
      unpack<Bf16>(chunks[pass], v);
      out[pass * Rows::PASS_ROWS * row_chunks] = pack<F16>(v);
    }
  }
}

// The largest magnitudes of each warp's rows, column by column; a barrier follows.
template <int D>
TW_DEVICE void find_maxima(const uint4 (&chunks)[HeadRows<D>::PASSES], Shared<float> maxima) {
  using Rows = HeadRows<D>;
  float most[CHUNK] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll
  for (int pass = 0; pass < Rows::PASSES; pass++) {
    float v[CHUNK];
    unpack<Bf16>(chunks[pass], v);
#pragma unroll
    for (int j = 0; j < CHUNK; j++) most[j] = fmaxf(most[j], fabsf(v[j]));
  }
#pragma unroll
  for (int mask = Rows::LANES; mask < WARP; mask *= 2) {
#pragma unroll
    for (int j = 0; j < CHUNK; j++) most[j] = fmaxf(most[j], shuffle_xor(most[j], mask));
  }
  if (lane_index() < Rows::LANES) {
    const Shared<float> to = maxima + (static_cast<int>(threadIdx.x) / WARP * D + Rows::column());
    store_vector(to, make_float4(most[0], most[1], most[2], most[3]));
    store_vector(to + 4, make_float4(most[4], most[5], most[6], most[7]));
  }
}

// Those of the tile, from its warps'.
template <int D>
TW_DEVICE void store_maxima(Shared<float> maxima, Global<float> out) {
  const int at = static_cast<int>(threadIdx.x);
  if (at < D) {
    float most = 0;
#pragma unroll 4
    for (int warp = 0; warp < WARPS; warp++) {
      const float other = maxima[warp * D + at];
      most = fmaxf(most, other);
    }
    out[at] = most;
  }
}

template <int D>
TW_DEVICE void prepare(const QkPrepParams& p) {
  using Rows = HeadRows<D>;
  TW_SHARED(float, sums, Rows::SUMS);
  TW_SHARED(float, inverses, 2 * TILE_ROWS);
  TW_SHARED(uint32_t, amax, GROUP_LIMIT);
  TW_SHARED(float4, steps, GROUP_LIMIT);
  const Shared<float2> turns = dynamic_shared<float2>(0, TILE_ROWS * D / 2);
  const Grouping grouping = {p.group_shift, p.lane_shift};
  const Rule rule = static_cast<Rule>(p.rule);

  // which tokens, which heads
  const uint32_t heads = static_cast<uint32_t>(p.heads), head_blocks = (heads + p.block_heads - 1) / p.block_heads;
  const uint32_t tiles = static_cast<uint32_t>((p.tokens + TILE_ROWS - 1) / TILE_ROWS);
  const uint32_t first_head = blockIdx.x % head_blocks * p.block_heads;
  const int parts = p.v == nullptr ? 2 : 3;  // of a head: queries, keys, values
  const int slabs = static_cast<int>(min(p.block_heads, heads - first_head)) * parts;
  const int64_t sample = blockIdx.x / head_blocks / tiles;
  TilePlace place;
  place.problem = sample * p.heads + first_head;
  place.first_row = static_cast<int64_t>(blockIdx.x / head_blocks % tiles) * TILE_ROWS;
  place.rows = static_cast<int>(min(p.tokens - place.first_row, int64_t{TILE_ROWS}));
  const int64_t row = sample * p.tokens + place.first_row;
  const int64_t channel = static_cast<int64_t>(first_head) * D;
  const Global<const tw_bf16> q = global(p.q) + (row * p.q_stride + channel), k = global(p.k) + (row * p.k_stride + channel);
  const Global<const tw_bf16> v = p.v == nullptr ? k : global(p.v) + (row * p.v_stride + channel);
  const Global<const float> q_weight = global(p.q_weight) + channel, k_weight = global(p.k_weight) + channel;

  uint4 next[Rows::PASSES];
  Rows::load(next, q, p.q_stride, place.rows);
  const float width = static_cast<float>(p.heads * D);
  gather_turns<D>(p, turns, place);
  find_inverses(p, p.q_squares, p.q_parts_stride, row, place.rows, width, inverses);
  find_inverses(p, p.k_squares, p.k_parts_stride, row, place.rows, width, inverses + TILE_ROWS);
  if (threadIdx.x < GROUP_LIMIT) amax[threadIdx.x] = 0;
  block_sync();

  // a head's queries, its keys, its values; each slab leaves what it shared free behind its last barrier
  int part = 0, head = 0;
#pragma unroll 1
  for (int slab = 0; slab < slabs; slab++) {
    const bool is_key = part == 1, is_value = part == 2;
    uint4 chunks[Rows::PASSES];
#pragma unroll
    for (int pass = 0; pass < Rows::PASSES; pass++) chunks[pass] = next[pass];
    const int this_head = head;
    part = part + 1 == parts ? 0 : part + 1;
    head += part == 0;
    if (slab + 1 < slabs) {
      Rows::load(next, (part == 0 ? q : part == 1 ? k : v) + head * D, part == 0 ? p.q_stride : part == 1 ? p.k_stride : p.v_stride, place.rows);
    }

    place.problem = sample * p.heads + first_head + this_head;
    if (is_value) {
      if (p.v_out != nullptr) {
        const int64_t to = ((row + Rows::row(0)) * p.heads + first_head + this_head) * D + Rows::column();
        store_f16<D>(chunks, place.rows, pointer_cast<uint4>(global(p.v_out)) + to / CHUNK, p.heads * (D / CHUNK));
      } else {
        find_maxima<D>(chunks, sums);
        block_sync();
        store_maxima<D>(sums, global(p.v_maxima) + (place.problem * tiles + place.tile()) * D);
        block_sync();
      }
      continue;
    }
    const int64_t out = (place.problem * p.tokens + place.first_row + Rows::row(0)) * D + Rows::column();
    tw_bf16* const rows_out = is_key ? p.k_out : p.q_out;
    norm_and_turn<D>(p, chunks, (is_key ? k_weight : q_weight) + this_head * D, inverses + (is_key ? TILE_ROWS : 0), turns, place.rows,
                     pointer_cast<uint4>(global(rows_out)) + out / CHUNK, rows_out != nullptr);
    if (is_key || p.q_pooled != nullptr) Rows::template add_rows<Bf16>(chunks, sums);
    if (!is_key) Rows::raise_amax(amax, grouping, p.factor, [&](int pass) { return largest_of<Bf16>(chunks[pass]); });
    block_sync();

    if (is_key) {
      Rows::store_sums(sums, global(p.k_sums), place, p.tokens);
    } else {
      Rows::find_steps(amax, steps, global(p.q_scales), place, grouping, p.q_groups, rule);
      if (p.q_pooled != nullptr) Rows::template store_means<Bf16>(sums, global(p.q_pooled), place, p.tokens, p.pool_rows);
    }
    block_sync();

    if (!is_key) {
      if (threadIdx.x < GROUP_LIMIT) amax[threadIdx.x] = 0;
      const Global<int8_t> values = global(p.q_values) + out;
#pragma unroll
      for (int pass = 0; pass < Rows::PASSES; pass++) {
        if (Rows::row(pass) < place.rows) {
          float v[CHUNK];
          unpack<Bf16>(chunks[pass], v);
#pragma unroll
          for (int j = 0; j < CHUNK; j++) v[j] *= p.factor;
          store_vector(values + pass * Rows::PASS_ROWS * D, eight_as_int8(v, Rows::step_at(steps, grouping, pass)));
        }
      }
    }
  }
}

}  // namespace

TW_KERNEL(qk_prep_d128, QkPrepParams, THREADS, 1) { prepare<128>(p); }
TW_KERNEL(qk_prep_d64, QkPrepParams, THREADS, 1) { prepare<64>(p); }
