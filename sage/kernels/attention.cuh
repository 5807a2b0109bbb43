// SageAttention forward on mma.sync: int8 scores, an online softmax in base 2, a product with f16 or e4m3 values.
//
//   s[r, j] = (q8[r] . k8[j]) sq[r] sk[j] score_scale             exact 32-bit sums
//   m' = max(m, max_j s)   a = 2^(m - m')   p = 2^(s - m')        per tile of 64 keys, m from LOWEST on
//   l  = a l + sum_j p     o = a o + p . v                        l sums p before it is rounded
//   out = o / l            lse = (m + log2 l) ln 2                a row that sees no key: 0 and minus infinity
//
//   block    WARPS warps of 16 * M_TILES query rows each, over the key tiles that they see, one after the other
//   shared   queries once; STAGES stages of a K tile [64, D] int8 and a V tile, [64, D] f16 or [D, 64] e4m3, every tile
//            in rows of 64 or 128 bytes, swizzled (tile.cuh); at the end the stages hold the output
//   copies   cp.async, one group a tile, STAGES - 1 tiles ahead; one barrier a tile
//   scores   an accumulator starts at the bits of 1.5 * 2^23, so that its bits, read as f32, are 1.5 * 2^23 + the sum,
//            exactly (|sum| <= 2^21 at D = 128): no conversion
//   end      attention_end.cuh: a term of low rank that is added, an int8 output
//   edge     keys past the end or above the diagonal become minus infinity; rows past the end are zeros and not stored
//   sums     f16: f32 accumulators; e4m3: p = 2^(s - m + 8.807) <= 448, f16 accumulators over 64 keys (|v| <= 2.25 keeps
//            them in range), added to f32
#pragma once
#include <type_traits>

#include "attention_end.cuh"
#include "kernel.cuh"
#include "ptx.cuh"
#include "sage_params.h"
#include "tile.cuh"

constexpr int TILE_K = 64;

// What the largest score is before any key: far below every score, yet finite, so that differences are.
constexpr float LOWEST = -1e30f;
// 1.5 * 2^23, and its bits.
constexpr float INTEGER_ZERO = 12582912.0f;
constexpr int32_t INTEGER_ZERO_BITS = 0x4B400000;
// Below every sum that is seen.
constexpr float LOWEST_SUM = INTEGER_ZERO - 4194304.0f;
// log2(448), as the official kernels write it.
constexpr float E4M3_OFFSET = 8.807f;
// Added to a scale: a block of zeros has scale 0, and minus infinity times 0 would be no number.
constexpr float TINY = 1e-30f;
constexpr float LN_2 = 0.693147180559945f;

enum class Values { F16, E4m3 };

// Sizes of one kernel.
template <int D, int WARPS_, int M_TILES_, Values VALUES, int STAGES_>
struct Tiling {
  static_assert(D == 64 || D == 128, "head dims 64 and 128");
  static constexpr int DIM = D, WARPS = WARPS_, M_TILES = M_TILES_, STAGES = STAGES_, THREADS = WARPS * WARP;
  static constexpr bool IS_F16 = VALUES == Values::F16;
  static constexpr int WARP_ROWS = 16 * M_TILES, TILE_Q = WARPS * WARP_ROWS;

  using KeyRows = Swizzled<D>;                     // of queries and keys
  using ValueRows = Swizzled<IS_F16 ? 128 : 64>;   // 64 channels of a key; 64 keys of a channel
  using OutRows = Swizzled<128>;                   // 64 channels of a query
  using Value = std::conditional_t<IS_F16, uint16_t, uint8_t>;
  static constexpr int V_ROWS = IS_F16 ? TILE_K : D, V_WIDTH = IS_F16 ? D * 2 : TILE_K;
  static constexpr int V_STEPS = IS_F16 ? TILE_K / 16 : TILE_K / 32;  // products along the keys

  static constexpr int Q_BYTES = TILE_Q * D;
  static constexpr int K_BYTES = TILE_K * D;
  static constexpr int V_BYTES = TILE_K * D * (IS_F16 ? 2 : 1);
  static constexpr int STAGE_BYTES = K_BYTES + V_BYTES;
  static constexpr int SHARED_BYTES = Q_BYTES + STAGES * STAGE_BYTES;
  static_assert(TILE_Q * D * 2 <= STAGES * STAGE_BYTES, "the output is staged where the keys were");
};

// Which key tiles a block sees: `tile(n)` for n below `count`, ascending.
struct KeyTiles {
  Global<const uint32_t> list;
  uint32_t tiles_per_block;  // 0: all tiles, in order
  uint32_t count;

  __device__ __forceinline__ uint32_t tile(uint32_t n) const {
    if (tiles_per_block == 0) return n;
    const uint32_t block = list[n / tiles_per_block];
    return block * tiles_per_block + n % tiles_per_block;
  }
};

// Those of the rows first_row .. first_row + rows of a head.
__device__ __forceinline__ KeyTiles visible_tiles(const SageAttnParams& p, int64_t problem, int64_t first_row, int rows) {
  const uint32_t all_tiles = static_cast<uint32_t>((p.key_len + TILE_K - 1) / TILE_K);
  KeyTiles seen = {global(p.lut), 0, all_tiles};
  if (p.kept != 0) {
    const int64_t blocks = (p.query_len + p.block_q - 1) / p.block_q;
    seen.list = seen.list + (problem * blocks + first_row / p.block_q) * p.kept;
    seen.tiles_per_block = p.block_k / TILE_K;
    // Ascending, so only the last block can be short.
    const uint32_t last = seen.list[p.kept - 1];
    seen.count = (p.kept - 1) * seen.tiles_per_block + min(seen.tiles_per_block, all_tiles - last * seen.tiles_per_block);
  }
  if (p.causal != 0) {
    const uint32_t last_tile = static_cast<uint32_t>((min(first_row + rows, p.query_len) - 1) / TILE_K);
    if (seen.tiles_per_block == 0) seen.count = min(seen.count, last_tile + 1);
    while (seen.count > 0 && seen.tile(seen.count - 1) > last_tile) --seen.count;
  }
  return seen;
}

// Copies rows of WIDTH bytes, one `stride` values after the other, into a tile of ROWS of them; rows from `rows` on become
// zeros. By THREADS threads, of which each copies the same chunk of every PASS_ROWS-th row.
template <int ROWS, int WIDTH, int THREADS>
struct Copy {
  static constexpr int ROW_BYTES = WIDTH < 128 ? WIDTH : 128, CHUNKS = WIDTH / CHUNK_BYTES, PASS_ROWS = THREADS / CHUNKS;
  static_assert(WIDTH % ROW_BYTES == 0 && ROWS % PASS_ROWS == 0 && PASS_ROWS % 8 == 0, "whole passes, the same swizzle in each");

  static __device__ __forceinline__ int row() { return static_cast<int>(threadIdx.x) % THREADS / CHUNKS; }
  static __device__ __forceinline__ int chunk() { return static_cast<int>(threadIdx.x) % CHUNKS; }

  // Where this thread begins in a matrix.
  template <class T>
  static __device__ __forceinline__ Global<const T> start(Global<const T> matrix, int64_t stride) {
    return matrix + (row() * stride + chunk() * (CHUNK_BYTES / static_cast<int>(sizeof(T))));
  }

  // `from` is start() in the matrix.
  template <class T>
  static __device__ __forceinline__ void run(uint32_t tile, Global<const T> from, int64_t stride, int64_t rows) {
    constexpr int PART_CHUNKS = ROW_BYTES / CHUNK_BYTES;
    const uint32_t place = tile + chunk() / PART_CHUNKS * (ROWS * ROW_BYTES) + Swizzled<ROW_BYTES>::chunk(row(), chunk() % PART_CHUNKS);
    const int left = static_cast<int>(min(rows, int64_t{ROWS})) - row();
#pragma unroll
    for (int pass = 0; pass < ROWS; pass += PASS_ROWS) {
      cp_async_zero_fill<16>(place + pass * ROW_BYTES, from, pass < left ? 16 : 0);
      from = from + PASS_ROWS * stride;
    }
  }
};

// One head's keys and values, in global memory, from where this thread copies them.
template <class T>
struct Head {
  using Value = typename T::Value;
  using CopyKeys = Copy<TILE_K, T::DIM, T::THREADS>;
  using CopyValues = Copy<T::V_ROWS, T::V_WIDTH, T::THREADS>;
  Global<const int8_t> k;
  Global<const Value> v;
  Global<const float> k_scales;

  __device__ __forceinline__ Head(const SageAttnParams& p, int64_t problem) {
    k = CopyKeys::start(global(p.k) + problem * p.key_len * T::DIM, T::DIM);
    k_scales = global(p.k_scales) + (problem * p.k_groups + lane_index() % 4 % p.k_group_lanes);
    if constexpr (T::IS_F16) {
      v = global(p.v_f16) + (problem / p.heads * p.v_sample_stride + problem % p.heads * p.v_head_stride);
    } else {
      v = global(p.v_e4m3) + problem * T::DIM * p.v_row_stride;
    }
    v = CopyValues::start(v, p.v_row_stride);
  }

  __device__ __forceinline__ void load(const SageAttnParams& p, uint32_t stage, uint32_t tile) const {
    const int64_t first = static_cast<int64_t>(tile) * TILE_K, left = p.key_len - first;
    CopyKeys::run(stage, k + first * T::DIM, T::DIM, left);
    if constexpr (T::IS_F16) {
      CopyValues::run(stage + T::K_BYTES, v + first * p.v_row_stride, p.v_row_stride, left);
    } else {
      CopyValues::run(stage + T::K_BYTES, v + first, p.v_row_stride, T::DIM);  // its padding is zeros already
    }
  }

  // Of the columns 8 i + 2 t, 8 i + 2 t + 1 of a tile, t the lane's place in its four.
  __device__ __forceinline__ float k_scale(const SageAttnParams& p, uint32_t tile) const {
    return k_scales[tile / (p.k_group_rows / TILE_K) * p.k_group_lanes];
  }
};

// What a warp keeps of its rows. Row of index 2 m + h: 16 m + 8 h + lane / 4.
template <class T>
struct Rows {
  float scale[T::M_TILES * 2];  // of the queries, score_scale included
  float most[T::M_TILES * 2];   // largest score so far
  float sum[T::M_TILES * 2];    // of this lane's probabilities
  float rescale[T::M_TILES * 2];
  float out[T::M_TILES][T::DIM / 8][4];
};

using ScoreTile = int32_t[TILE_K / 8][4];

// The place `chunks` (even) to the right of a swizzled place in chunk 0 or 1 of a row. Tiles begin at multiples of 1024, so
// a swizzle, which is an exclusive or, and the step commute; one register then serves all steps.
__device__ __forceinline__ uint32_t chunks_right(uint32_t place, int chunks) { return place ^ static_cast<uint32_t>(chunks * CHUNK_BYTES); }

template <class T>
__device__ __forceinline__ void multiply_keys(ScoreTile (&s)[T::M_TILES], uint32_t queries, uint32_t keys, int lane) {
  using KeyRows = typename T::KeyRows;
  const uint32_t a_place = queries + KeyRows::chunk(LoadMatrix::a_row(lane), LoadMatrix::a_chunk(lane));
  const uint32_t b_place = keys + KeyRows::chunk(LoadMatrix::b_column(lane), LoadMatrix::b_chunk(lane));
#pragma unroll
  for (int m = 0; m < T::M_TILES; ++m) {
#pragma unroll
    for (int i = 0; i < TILE_K / 2; ++i) s[m][i / 4][i % 4] = INTEGER_ZERO_BITS;
  }
#pragma unroll
  for (int depth = 0; depth < T::DIM / 32; ++depth) {
    uint32_t a[T::M_TILES][4];
#pragma unroll
    for (int m = 0; m < T::M_TILES; ++m) {
      ldmatrix_x4(a[m], chunks_right(a_place, depth * 2) + m * 16 * T::DIM);
    }
#pragma unroll
    for (int column = 0; column < TILE_K / 16; ++column) {
      uint32_t b[4];
      ldmatrix_x4(b, chunks_right(b_place, depth * 2) + column * 16 * T::DIM);
#pragma unroll
      for (int m = 0; m < T::M_TILES; ++m) {
        mma_m16n8k32_s8(s[m][column * 2], a[m], b[0], b[1]);
        mma_m16n8k32_s8(s[m][column * 2 + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Makes minus infinity of what a warp's rows, from `first_row` on, do not see.
template <class T>
__device__ __forceinline__ void mask_scores(ScoreTile (&s)[T::M_TILES], const SageAttnParams& p, int64_t first_key, int64_t first_row,
                                            int lane) {
  // relative to the tile, where all is small
  const int keys = static_cast<int>(min(p.key_len - first_key, int64_t{TILE_K}));
  const int diagonal = p.causal != 0 ? static_cast<int>(max(min(first_row - first_key, int64_t{TILE_K}), int64_t{-T::WARP_ROWS})) : TILE_K;
#pragma unroll
  for (int m = 0; m < T::M_TILES; ++m) {
#pragma unroll
    for (int i = 0; i < TILE_K / 2; ++i) {
      const int column = Fragment::c_column(lane, i), row = m * 16 + Fragment::c_row(lane, i);
      if (column >= keys || column > diagonal + row) s[m][i / 4][i % 4] = static_cast<int32_t>(0xff800000u);
    }
  }
}

// Probabilities of a tile as the A operands of its products with the values: f16 pairs or e4m3 fours.
template <class T>
struct Weights {
  uint32_t a[T::M_TILES][T::V_STEPS][4];
};

// Scores become probabilities; the rows' largest score and sum follow.
template <class T>
__device__ __forceinline__ void soften(Weights<T>& weights, const ScoreTile (&s)[T::M_TILES], Rows<T>& rows, float k_scale) {
#pragma unroll
  for (int r = 0; r < T::M_TILES * 2; ++r) {
    const int m = r / 2, half = r % 2;
    const auto score = [&](int i) { return float_of(static_cast<uint32_t>(s[m][i / 2][half * 2 + i % 2])); };
    float top = score(0);
#pragma unroll
    for (int i = 1; i < TILE_K / 4; ++i) top = fmaxf(top, score(i));
    const float scale = rows.scale[r] * k_scale + TINY;
    const float top_score = (top - INTEGER_ZERO) * scale;
    const float most = fmaxf(rows.most[r], row_max(top_score));
    rows.rescale[r] = exp2_fast(rows.most[r] - most);
    rows.most[r] = most;
    // Relative to this lane's largest sum, which is exact: a difference of scores would lose their last bits where they are
    // large, and a probability exceed one.
    top = fmaxf(top, LOWEST_SUM);
    const float shift = top_score - most + (T::IS_F16 ? 0.0f : E4M3_OFFSET);
    float sum = 0.0f;
    const auto probability = [&](int i) {
      const float p = exp2_fast(fmaf(score(i) - top, scale, shift));
      sum += p;
      return p;
    };
    // register `half` of an A operand begins its first key tiles, register 2 + half the next
    if constexpr (T::IS_F16) {
#pragma unroll
      for (int tile = 0; tile < TILE_K / 8; ++tile) {
        const float low = probability(tile * 2), high = probability(tile * 2 + 1);
        weights.a[m][tile / 2][tile % 2 * 2 + half] = pack_f16(low, high);
      }
    } else {
#pragma unroll
      for (int pair = 0; pair < TILE_K / 16; ++pair) {
        const float p0 = probability(pair * 4), p1 = probability(pair * 4 + 1), p2 = probability(pair * 4 + 2), p3 = probability(pair * 4 + 3);
        weights.a[m][pair / 2][pair % 2 * 2 + half] = pack_e4m3(p0, p1, p2, p3);
      }
    }
    rows.sum[r] = fmaf(rows.sum[r], rows.rescale[r], sum);
  }
}

// out = rescale out + p v, f16 with f32 sums.
template <class T>
__device__ __forceinline__ void weigh_f16(const Weights<T>& weights, Rows<T>& rows, uint32_t values, int lane) {
  const uint32_t place = values + T::ValueRows::chunk(LoadMatrix::b_transposed_depth(lane), LoadMatrix::b_transposed_chunk(lane));
#pragma unroll
  for (int m = 0; m < T::M_TILES; ++m) {
#pragma unroll
    for (int i = 0; i < T::DIM / 2; ++i) rows.out[m][i / 4][i % 4] *= rows.rescale[m * 2 + i % 4 / 2];
  }
#pragma unroll
  for (int depth = 0; depth < T::V_STEPS; ++depth) {
#pragma unroll
    for (int column = 0; column < T::DIM / 16; ++column) {
      uint32_t b[4];
      ldmatrix_x4_transposed(b, chunks_right(place, column % 4 * 2) + (column / 4 * TILE_K + depth * 16) * 128);
#pragma unroll
      for (int m = 0; m < T::M_TILES; ++m) {
        mma_m16n8k16_f16(rows.out[m][column * 2], weights.a[m][depth], b[0], b[1]);
        mma_m16n8k16_f16(rows.out[m][column * 2 + 1], weights.a[m][depth], b[2], b[3]);
      }
    }
  }
}

// The same in e4m3: sums over the tile in f16, then added in f32.
template <class T>
__device__ __forceinline__ void weigh_e4m3(const Weights<T>& weights, Rows<T>& rows, uint32_t values, int lane) {
  const uint32_t place = values + T::ValueRows::chunk(LoadMatrix::b_column(lane), LoadMatrix::b_chunk(lane));
#pragma unroll
  for (int column = 0; column < T::DIM / 16; ++column) {
    uint32_t b[T::V_STEPS][4];
#pragma unroll
    for (int depth = 0; depth < T::V_STEPS; ++depth) {
      ldmatrix_x4(b[depth], chunks_right(place, depth * 2) + column * 16 * TILE_K);
    }
#pragma unroll
    for (int m = 0; m < T::M_TILES; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t sums[2] = {0, 0};
#pragma unroll
        for (int depth = 0; depth < T::V_STEPS; ++depth) {
          mma_m16n8k32_e4m3_f16(sums, weights.a[m][depth], b[depth][half * 2], b[depth][half * 2 + 1]);
        }
        float(&out)[4] = rows.out[m][column * 2 + half];
        out[0] = fmaf(out[0], rows.rescale[m * 2], low_f16(sums[0]));
        out[1] = fmaf(out[1], rows.rescale[m * 2], high_f16(sums[0]));
        out[2] = fmaf(out[2], rows.rescale[m * 2 + 1], low_f16(sums[1]));
        out[3] = fmaf(out[3], rows.rescale[m * 2 + 1], high_f16(sums[1]));
      }
    }
  }
}

// out = out / l, and the log-sum-exp. The values' scales too.
template <class T>
__device__ __forceinline__ void divide_rows(const SageAttnParams& p, Rows<T>& rows, int64_t problem, int64_t first_row, int lane) {
  const Global<const float> v_scales = global(p.v_scales) + problem * T::DIM;
  const Global<float> lse = global(p.lse) + problem * p.query_len;
#pragma unroll
  for (int r = 0; r < T::M_TILES * 2; ++r) {
    const float sum = row_sum(rows.sum[r]);
    const int row = r / 2 * 16 + r % 2 * 8 + lane / 4;
    if (p.lse != nullptr && lane % 4 == 0 && first_row + row < p.query_len) {
      lse[first_row + row] = (rows.most[r] + log2_fast(sum) - (T::IS_F16 ? 0.0f : E4M3_OFFSET)) * LN_2;
    }
    const float share = sum == 0.0f ? 0.0f : divide(1.0f, sum);
#pragma unroll
    for (int tile = 0; tile < T::DIM / 8; ++tile) {
      float &low = rows.out[r / 2][tile][r % 2 * 2], &high = rows.out[r / 2][tile][r % 2 * 2 + 1];
      low *= share;
      high *= share;
      if constexpr (!T::IS_F16) {
        const float2 scale = load_vector_readonly<float2>(v_scales + (tile * 8 + lane % 4 * 2));
        low *= scale.x;
        high *= scale.y;
      }
    }
  }
}

// Adds the term of low rank to a warp's rows. By the whole block: M lies at the start of shared memory, which is free.
template <class T>
__device__ __forceinline__ void add_term(const SageAttnParams& p, Rows<T>& rows, uint32_t shared, int64_t problem, int64_t first_row, int lane) {
  constexpr int DEPTHS = T::DIM / 16;
  const Global<const tw_bf16> state = global(p.added_state) + problem * (T::DIM + 1) * T::DIM;
  using CopyState = Copy<T::DIM, T::DIM * 2, T::THREADS>;
  static_assert(T::DIM * T::DIM * 2 <= T::SHARED_BYTES, "M fits where the queries and the stages were");
  CopyState::run(shared, CopyState::start(state, T::DIM), T::DIM, T::DIM);
  cp_async_commit();

  // Features in the place of A operands, while M is on its way.
  uint32_t a[T::M_TILES][DEPTHS][4];
  const Global<const tw_bf16> z = state + T::DIM * T::DIM + lane % 4 * 2;
#pragma unroll
  for (int r = 0; r < T::M_TILES * 2; ++r) {
    const int64_t row = min(first_row + r / 2 * 16 + r % 2 * 8 + lane / 4, p.query_len - 1);
    const Global<const tw_bf16> q = global(p.added_q) + ((problem * p.query_len + row) * T::DIM + lane % 4 * 2);
    float x[T::DIM / 4];
#pragma unroll
    for (int pair = 0; pair < T::DIM / 8; ++pair) {
      const uint32_t values = load_vector_readonly<uint32_t>(q + pair * 8);
      x[pair * 2] = low_bf16(values);
      x[pair * 2 + 1] = high_bf16(values);
    }
    weigh_features<4>(x, p.feature, [&](int i) {
      const uint32_t values = load_vector_readonly<uint32_t>(z + i / 2 * 8);
      return i % 2 == 0 ? low_bf16(values) : high_bf16(values);
    });
#pragma unroll
    for (int pair = 0; pair < T::DIM / 8; ++pair) a[r / 2][pair / 2][pair % 2 * 2 + r % 2] = pack_bf16(x[pair * 2], x[pair * 2 + 1]);
  }
  if (p.added_bias != nullptr) {
    const Global<const float> bias = global(p.added_bias) + lane % 4 * 2;
#pragma unroll
    for (int tile = 0; tile < T::DIM / 8; ++tile) {
      const float2 two = load_vector_readonly<float2>(bias + tile * 8);
#pragma unroll
      for (int i = 0; i < T::M_TILES * 4; ++i) rows.out[i / 4][tile][i % 4] += i % 2 == 0 ? two.x : two.y;
    }
  }
  cp_async_wait_group<0>();
  block_sync();

  using StateRows = Swizzled<128>;
  const uint32_t place = shared + StateRows::chunk(LoadMatrix::b_column(lane), LoadMatrix::b_chunk(lane));
#pragma unroll
  for (int depth = 0; depth < DEPTHS; ++depth) {
#pragma unroll
    for (int column = 0; column < T::DIM / 16; ++column) {
      uint32_t b[4];
      ldmatrix_x4(b, chunks_right(place, depth % 4 * 2) + (depth / 4 * T::DIM + column * 16) * 128);
#pragma unroll
      for (int m = 0; m < T::M_TILES; ++m) {
        mma_m16n8k16_bf16(rows.out[m][column * 2], a[m][depth], b[0], b[1]);
        mma_m16n8k16_bf16(rows.out[m][column * 2 + 1], a[m][depth], b[2], b[3]);
      }
    }
  }
  block_sync();  // shared memory is free again
}

// Stores a warp's rows by way of `area`, its own part of shared memory, 16 bytes a lane side by side.
template <class T>
__device__ __forceinline__ void store_rows(const SageAttnParams& p, const Rows<T>& rows, Shared<uint8_t> area, int64_t problem,
                                           int64_t first_row, int lane) {
  using OutRows = typename T::OutRows;
#pragma unroll
  for (int r = 0; r < T::M_TILES * 2; ++r) {
    const int row = r / 2 * 16 + r % 2 * 8 + lane / 4;
#pragma unroll
    for (int tile = 0; tile < T::DIM / 8; ++tile) {
      const int column = tile * 8 + lane % 4 * 2;
      store_vector(area + (column / 64 * (T::WARP_ROWS * 128) + OutRows::byte(row, column % 64 * 2)),
                   pack_bf16(rows.out[r / 2][tile][r % 2 * 2], rows.out[r / 2][tile][r % 2 * 2 + 1]));
    }
  }
  warp_sync();
  constexpr int CHUNKS = T::DIM * 2 / CHUNK_BYTES;
  const int chunk = lane % CHUNKS;
  const Global<tw_bf16> out = global(p.out) + (problem / p.heads * p.out_sample_stride + problem % p.heads * p.out_head_stride + chunk * 8);
#pragma unroll 4
  for (int row = lane / CHUNKS; row < T::WARP_ROWS; row += WARP / CHUNKS) {
    if (first_row + row >= p.query_len) break;
    const uint4 values = load_vector<uint4>(area + (chunk / 8 * (T::WARP_ROWS * 128) + OutRows::chunk(row, chunk % 8)));
    store_vector(out + (first_row + row) * p.out_row_stride, values);
  }
}

// The same as int8, a scale for each row.
template <class T>
__device__ __forceinline__ void store_rows_int8(const SageAttnParams& p, Rows<T>& rows, Shared<uint8_t> area, int64_t problem,
                                                int64_t first_row, int lane) {
  using OutRows = typename T::OutRows;
  const int64_t sample = problem / p.heads, head = problem % p.heads;
  const Global<float> scales = global(p.out_scales) + (sample * p.query_len * p.heads + head);
#pragma unroll
  for (int r = 0; r < T::M_TILES * 2; ++r) {
    float(&out)[T::DIM / 8][4] = rows.out[r / 2];
    const int half = r % 2 * 2, row = r / 2 * 16 + r % 2 * 8 + lane / 4;
    float amax = INT8_AMAX_FLOOR;
#pragma unroll
    for (int tile = 0; tile < T::DIM / 8; ++tile) {
      round_to_bf16(out[tile][half], out[tile][half + 1]);
      amax = fmaxf(amax, fmaxf(fabsf(out[tile][half]), fabsf(out[tile][half + 1])));
    }
    amax = row_max(amax);
    const float factor = divide(INT8_LEVELS, amax);
    if (lane % 4 == 0 && first_row + row < p.query_len) scales[(first_row + row) * p.heads] = divide(amax, INT8_LEVELS);
#pragma unroll
    for (int tile = 0; tile < T::DIM / 8; ++tile) {
      const uint32_t low = static_cast<uint32_t>(to_s8(out[tile][half] * factor)), high = static_cast<uint32_t>(to_s8(out[tile][half + 1] * factor));
      store_vector(area + OutRows::byte(row, tile * 8 + lane % 4 * 2), static_cast<uint16_t>(permute_bytes(low, high, 0x0040)));
    }
  }
  warp_sync();
  constexpr int CHUNKS = 128 / CHUNK_BYTES;
  const int chunk = lane % CHUNKS;
  const Global<int8_t> out = global(p.out_values) + (sample * p.out_sample_stride + head * p.out_head_stride + chunk * CHUNK_BYTES);
#pragma unroll 4
  for (int row = lane / CHUNKS; row < T::WARP_ROWS; row += WARP / CHUNKS) {
    if (first_row + row >= p.query_len) break;
    store_vector(out + (first_row + row) * p.out_row_stride, load_vector<uint4>(area + OutRows::chunk(row, chunk)));
  }
}

// The whole kernel. Block x has the rows of tile x % tiles of head x / tiles; under a causal mask the last tiles, which see
// the most, come first. HAS_END: the kernels that add a term of low rank, or give int8, where the operands ask for it; the
// others are spared the registers.
template <class T, bool HAS_END = false>
__device__ __forceinline__ void attend(const SageAttnParams& p) {
  const int lane = lane_index(), warp = warp_index();
  const uint32_t q_tiles = static_cast<uint32_t>((p.query_len + T::TILE_Q - 1) / T::TILE_Q);
  const uint32_t problem = blockIdx.x / q_tiles, place = blockIdx.x % q_tiles;
  const int64_t first_row = static_cast<int64_t>(p.causal != 0 ? q_tiles - 1 - place : place) * T::TILE_Q;
  const int64_t warp_row = first_row + warp * T::WARP_ROWS;
  const KeyTiles seen = visible_tiles(p, problem, first_row, T::TILE_Q);
  const Head<T> head(p, problem);
  const Shared<uint8_t> shared = dynamic_shared<uint8_t>(0, T::SHARED_BYTES);
  const uint32_t queries = shared_address(shared), stages = queries + T::Q_BYTES;

  // The queries travel with the first tile of keys.
  using CopyQueries = Copy<T::TILE_Q, T::DIM, T::THREADS>;
  const Global<const int8_t> q = global(p.q) + (problem * p.query_len + first_row) * T::DIM;
  CopyQueries::run(queries, CopyQueries::start(q, T::DIM), T::DIM, p.query_len - first_row);
#pragma unroll
  for (int n = 0; n < T::STAGES - 1; ++n) {
    if (n < static_cast<int64_t>(seen.count)) head.load(p, stages + n * T::STAGE_BYTES, seen.tile(n));
    cp_async_commit();
  }

  Rows<T> rows;
  const Global<const float> q_scales = global(p.q_scales) + problem * p.q_groups;
#pragma unroll
  for (int r = 0; r < T::M_TILES * 2; ++r) {
    const int64_t row = min(warp_row + r / 2 * 16 + r % 2 * 8 + lane / 4, p.query_len - 1);
    const float scale = q_scales[row / p.q_group_rows * p.q_group_lanes + row % p.q_group_lanes];
    rows.scale[r] = scale * p.score_scale;
    rows.most[r] = LOWEST;
    rows.sum[r] = 0.0f;
  }
#pragma unroll
  for (int m = 0; m < T::M_TILES; ++m) {
#pragma unroll
    for (int i = 0; i < T::DIM / 2; ++i) rows.out[m][i / 4][i % 4] = 0.0f;
  }

  // Tile and scale of the next step are fetched one step ahead.
  uint32_t next_tile = seen.count > 0 ? seen.tile(0) : 0;
  float next_scale = head.k_scale(p, next_tile);
  uint32_t stage = 0;
  for (uint32_t n = 0; n < seen.count; ++n) {
    cp_async_wait_group<T::STAGES - 2>();
    block_sync();  // tile n is here, and nobody reads the stage of tile n - 1 any more
    if (n + T::STAGES - 1 < seen.count) {
      const uint32_t free_stage = stage == 0 ? T::STAGES - 1 : stage - 1;
      head.load(p, stages + free_stage * T::STAGE_BYTES, seen.tile(n + T::STAGES - 1));
    }
    cp_async_commit();
    const int64_t first_key = static_cast<int64_t>(next_tile) * TILE_K;
    const float k_scale = next_scale;
    if (n + 1 < seen.count) {
      next_tile = seen.tile(n + 1);
      next_scale = head.k_scale(p, next_tile);
    }

    const uint32_t keys = stages + stage * T::STAGE_BYTES;
    ScoreTile s[T::M_TILES];
    multiply_keys<T>(s, queries + warp * T::WARP_ROWS * T::DIM, keys, lane);
    if (first_key + TILE_K > p.key_len || (p.causal != 0 && first_key + TILE_K - 1 > warp_row)) {
      mask_scores<T>(s, p, first_key, warp_row, lane);
    }
    Weights<T> weights;
    soften<T>(weights, s, rows, k_scale);
    if constexpr (T::IS_F16) {
      weigh_f16<T>(weights, rows, keys + T::K_BYTES, lane);
    } else {
      weigh_e4m3<T>(weights, rows, keys + T::K_BYTES, lane);
    }
    stage = stage == T::STAGES - 1 ? 0 : stage + 1;
  }

  cp_async_wait_group<0>();
  block_sync();  // the stages are free
  const Shared<uint8_t> area = shared + (T::Q_BYTES + warp * (T::WARP_ROWS * T::DIM * 2));
  divide_rows<T>(p, rows, problem, warp_row, lane);
  if constexpr (HAS_END) {
    if (p.added_q != nullptr) add_term<T>(p, rows, queries, problem, warp_row, lane);
    if constexpr (T::DIM == 128) {
      if (p.out_values != nullptr) {
        store_rows_int8<T>(p, rows, area, problem, warp_row, lane);
        return;
      }
    }
  }
  store_rows<T>(p, rows, area, problem, warp_row, lane);
}
