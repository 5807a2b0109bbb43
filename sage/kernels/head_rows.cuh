// A tile of 128 rows of one head in the registers of a block of 512 threads: how it is loaded, summed by columns, and
// turned into int8 by groups of rows.
//
//   thread   CHUNK neighbouring columns of every PASS_ROWS-th row: D / 8 threads read a row, 16 bytes each, side by side
//   sums     over the rows of a half (64 rows): a thread's own, then its warp's rows by shuffles, then the warps in order;
//            f32, the same bits in every kernel that takes them
//   scales   groups of 16 .. 128 rows, perhaps by the row modulo 8: largest magnitudes meet in shared memory by an atomic
//            maximum of bits, which no order changes and in which an infinity or what is not a number beats every number
//   edge     rows past the last hold zeros: they change no sum and no maximum
#pragma once
#include "int8_rules.cuh"
#include "ptx.cuh"
#include "tile.cuh"

namespace {

constexpr int CHUNK = 8;         // values of one 16-byte load
constexpr int TILE_ROWS = 128;
constexpr int HALF_ROWS = 64;    // rows of a sum
constexpr int THREADS = 512;
constexpr int WARPS = THREADS / WARP;
constexpr int GROUP_LIMIT = TILE_ROWS / 16 * 8;  // groups of a tile

// The 16-bit formats that operands come in.
struct Bf16 {
  static __device__ __forceinline__ float low(uint32_t pair) { return low_bf16(pair); }
  static __device__ __forceinline__ float high(uint32_t pair) { return high_bf16(pair); }
  static __device__ __forceinline__ uint32_t packed(float low, float high) { return pack_bf16(low, high); }
};
struct F16 {
  static __device__ __forceinline__ float low(uint32_t pair) { return low_f16(pair); }
  static __device__ __forceinline__ float high(uint32_t pair) { return high_f16(pair); }
  static __device__ __forceinline__ uint32_t packed(float low, float high) { return pack_f16(low, high); }
};

template <class T>
TW_DEVICE void unpack(uint4 chunk, float (&v)[CHUNK]) {
  const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    v[2 * i] = T::low(words[i]);
    v[2 * i + 1] = T::high(words[i]);
  }
}

template <class T>
TW_DEVICE uint4 pack(const float (&v)[CHUNK]) {
  return make_uint4(T::packed(v[0], v[1]), T::packed(v[2], v[3]), T::packed(v[4], v[5]), T::packed(v[6], v[7]));
}

// The largest magnitude of a chunk as bits of f32; magnitudes of 16 bits order as their bits do.
template <class T>
TW_DEVICE uint32_t largest_of(uint4 chunk) {
  const uint32_t low = max(max(chunk.x & 0x7fffu, chunk.y & 0x7fffu), max(chunk.z & 0x7fffu, chunk.w & 0x7fffu));
  const uint32_t high = max(max(chunk.x & 0x7fff0000u, chunk.y & 0x7fff0000u), max(chunk.z & 0x7fff0000u, chunk.w & 0x7fff0000u));
  return bits_of(T::low(max(low, high >> 16)));
}

TW_DEVICE void load_eight(Global<const float> from, float (&v)[CHUNK] TW_AT) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const float4 four = load_vector_readonly<float4>(from + 4 * i TW_PASS_AT);
    v[4 * i] = four.x;
    v[4 * i + 1] = four.y;
    v[4 * i + 2] = four.z;
    v[4 * i + 3] = four.w;
  }
}

// Where a tile stands: tile t of a problem begins at row 128 t.
struct TilePlace {
  int64_t problem, first_row;
  int rows;  // that exist, 1 .. 128

  __device__ __forceinline__ int64_t tile() const { return first_row / TILE_ROWS; }
};

// Block x has tile x % tiles of problem x / tiles.
TW_DEVICE TilePlace tile_of_block(int64_t len) {
  const uint32_t tiles = static_cast<uint32_t>((len + TILE_ROWS - 1) / TILE_ROWS);
  const uint32_t problem = blockIdx.x / tiles;
  const int64_t first = static_cast<int64_t>(blockIdx.x % tiles) * TILE_ROWS;
  return TilePlace{problem, first, static_cast<int>(min(len - first, int64_t{TILE_ROWS}))};
}

// Which group of rows a row of a tile belongs to; see QuantRowsParams.
struct Grouping {
  uint32_t shift, lane_shift;

  __device__ __forceinline__ uint32_t of(int row) const {
    const uint32_t r = static_cast<uint32_t>(row);
    return (r >> shift << (3 - lane_shift)) + (r % 8 >> lane_shift);
  }
  __device__ __forceinline__ uint32_t in_tile() const { return static_cast<uint32_t>(TILE_ROWS) >> shift << (3 - lane_shift); }
};

template <int D>
struct HeadRows {
  static_assert(D == 64 || D == 128, "head dims 64 and 128");
  static constexpr int LANES = D / CHUNK;
  static constexpr int PASS_ROWS = THREADS / LANES;
  static constexpr int PASSES = TILE_ROWS / PASS_ROWS;
  static constexpr int HALF_PASSES = PASSES / 2;
  static constexpr int SUMS = 2 * WARPS * D;  // f32 of shared memory that sums need
  static_assert(HALF_PASSES * PASS_ROWS == HALF_ROWS, "whole passes in a half");
  using Chunks = uint4[PASSES];

  static __device__ __forceinline__ int row(int pass) { return static_cast<int>(threadIdx.x) / LANES + pass * PASS_ROWS; }
  static __device__ __forceinline__ int column() { return static_cast<int>(threadIdx.x) % LANES * CHUNK; }

  // The group of row(pass): a pass begins where the bits of row(0) end, so the two shift apart.
  static __device__ __forceinline__ uint32_t group(const Grouping& grouping, int pass) {
    return grouping.of(row(0)) + (static_cast<uint32_t>(pass * PASS_ROWS) >> grouping.shift << (3 - grouping.lane_shift));
  }
  static_assert((PASS_ROWS & (PASS_ROWS - 1)) == 0, "a power of two");

  // `from` is the tile's first row.
  static __device__ __forceinline__ void load(Chunks& chunks, Global<const uint16_t> from, int64_t stride, int rows TW_AT) {
    const Global<const uint16_t> first = from + (row(0) * stride + column());
    const int64_t step = PASS_ROWS * stride;
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
      chunks[pass] = row(pass) < rows ? load_vector_readonly<uint4>(first + pass * step TW_PASS_AT) : make_uint4(0, 0, 0, 0);
    }
  }

  // Sums of each warp's rows; a barrier follows.
  template <class T>
  static __device__ __forceinline__ void add_rows(const Chunks& chunks, Shared<float> sums TW_AT) {
    const int warp = static_cast<int>(threadIdx.x) / WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum[CHUNK];
      unpack<T>(chunks[half * HALF_PASSES], sum);
#pragma unroll
      for (int pass = 1; pass < HALF_PASSES; pass++) {
        float v[CHUNK];
        unpack<T>(chunks[half * HALF_PASSES + pass], v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++) sum[j] += v[j];
      }
#pragma unroll
      for (int mask = LANES; mask < WARP; mask *= 2) {
#pragma unroll
        for (int j = 0; j < CHUNK; j++) sum[j] += shuffle_xor(sum[j], mask TW_PASS_AT);
      }
      if (lane_index() < LANES) {
        const Shared<float> to = sums + ((half * WARPS + warp) * D + column());
        store_vector(to, make_float4(sum[0], sum[1], sum[2], sum[3]) TW_PASS_AT);
        store_vector(to + 4, make_float4(sum[4], sum[5], sum[6], sum[7]) TW_PASS_AT);
      }
    }
  }

  // Sum of a column over a half.
  static __device__ __forceinline__ float column_sum(Shared<float> sums, int half, int at) {
    float sum = sums[half * WARPS * D + at];
#pragma unroll 4
    for (int warp = 1; warp < WARPS; warp++) {
      const float other = sums[(half * WARPS + warp) * D + at];
      sum += other;
    }
    return sum;
  }

  // Stores the sums of both halves, those that have rows, of a tile at `place`.
  static __device__ __forceinline__ void store_sums(Shared<float> sums, Global<float> out, const TilePlace& place, int64_t len) {
    const int thread = static_cast<int>(threadIdx.x), half = thread / D, at = thread % D;
    if (half < 2 && half * HALF_ROWS < place.rows) {
      const int64_t halves = (len + HALF_ROWS - 1) / HALF_ROWS;
      out[(place.problem * halves + place.tile() * 2 + half) * D + at] = column_sum(sums, half, at);
    }
  }

  // Stores the means of blocks of `pool_rows` (64 or 128) rows, each over the rows that it has.
  template <class T>
  static __device__ __forceinline__ void store_means(Shared<float> sums, Global<uint16_t> out, const TilePlace& place, int64_t len, uint32_t pool_rows) {
    const int thread = static_cast<int>(threadIdx.x), at = thread % D;
    const int rows_of_block = static_cast<int>(pool_rows), block = thread / D;
    const int rows = min(place.rows - block * rows_of_block, rows_of_block);
    if (block < TILE_ROWS / rows_of_block && rows > 0) {
      float sum = column_sum(sums, block, at);
      if (pool_rows == TILE_ROWS) sum += column_sum(sums, 1, at);
      const int64_t blocks = (len + pool_rows - 1) / pool_rows;
      const float mean = divide(sum, static_cast<float>(rows));
      out[(place.problem * blocks + place.first_row / pool_rows + block) * D + at] = static_cast<uint16_t>(T::packed(mean, 0.0f));
    }
  }

  // Raises the tile's largest magnitudes, bits of f32 in `table`, by those of the rows times `factor` (positive, so that it
  // may come last); `largest(pass)` gives the bits of a thread's largest in one row.
  template <class F>
  static __device__ __forceinline__ void raise_amax(Shared<uint32_t> table, const Grouping& grouping, float factor, F largest TW_AT) {
    uint32_t amax = 0;
#pragma unroll
    for (int pass = 0; pass < PASSES; pass++) {
      amax = max(amax, static_cast<uint32_t>(largest(pass)));
      // the rows of a thread stay in their group to its end
      if (((pass + 1) * PASS_ROWS & ((1 << grouping.shift) - 1)) == 0) {
        amax = bits_of(float_of(amax) * factor);
        // with one lane a group a warp's rows, which are neighbours, are all in it
        const bool is_shared = grouping.lane_shift == 3;
        if (is_shared) {
          amax = reduce_max(amax TW_PASS_AT);
        } else {
#pragma unroll
          for (int mask = 1; mask < LANES; mask *= 2) amax = max(amax, shuffle_xor(amax, mask TW_PASS_AT));
        }
        if (is_shared ? lane_index() == 0 : column() == 0) atomic_max(table + group(grouping, pass), amax TW_PASS_AT);
        amax = 0;
      }
    }
  }

  // From the largest magnitudes to scales, stored, and steps. Between two barriers.
  static __device__ __forceinline__ void find_steps(Shared<uint32_t> table, Shared<float4> steps, Global<float> scales, const TilePlace& place,
                                   const Grouping& grouping, int64_t groups, Rule rule TW_AT) {
    const uint32_t group = threadIdx.x;
    if (group < grouping.in_tile()) {
      const uint32_t amax = table[group];
      const float scale = scale_of(rule, amax);
      const Step step = step_of(rule, amax, scale);
      store_vector(steps + group, make_float4(step.divisor, step.factor, step.shift, 0.0f) TW_PASS_AT);
      const int64_t at = place.tile() * grouping.in_tile() + group;
      if (at < groups) scales[place.problem * groups + at] = scale;
    }
  }

  static __device__ __forceinline__ Step step_at(Shared<float4> steps, const Grouping& grouping, int pass TW_AT) {
    const float4 step = load_vector<float4>(steps + group(grouping, pass) TW_PASS_AT);
    return Step{step.x, step.y, step.z};
  }
};

}  // namespace
