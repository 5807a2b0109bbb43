// The state of the linear branch: what attention through a feature map keeps of all keys.
//
//   plain      H[d, e] = sum_j phi(x_j)[d] y_j[e]                  z[d] = sum_j phi(x_j)[d]
//   weighted   M[d, e] = sum_j phi(x_j)[d] bf16(s_j y_j[e])        z[d] = sum_j w_j phi(x_j)[d]       b[e] = sum_j y_j[e]
//
//   x, y      rows of D bf16 by the strides, 16-byte aligned; phi is rounded to bf16
//   partial   [problems, chunks, D + 1, D]  f32: H, then z; weighted [.., D + 2, D]: M, z, b
//   state     [problems, D + 1 or D + 2, D] f32
//
//   linear_state_d*            plain: keys and values
//   linear_state_weighted_d*   weighted: queries and the output's gradient, on the way back
//   linear_reduce              adds the chunks of each head in order
//
//   tile     TILE rows of both operands; STAGES tiles in shared memory, in rows of D + 8 values; cp.async, 16 bytes
//   block    one chunk of one head; grid.x = problems * chunks, chunks fastest. Eight warps, four down (d) and two across
//            (e), of D / 4 x D / 2; both operands are read transposed (ldmatrix)
//   thread   turns the chunks that it copied itself into features, in place: one barrier a tile
//   sums     H and M: f32, in the order of the rows, 16 at a time as the tensor core adds them; z and b: f32, a thread's
//            rows, then the threads of a channel in order. No atomic operation: a repeat gives the same bits
//   edge     rows past the end are zeros, and so are their features
//
// Bytes: 4 D read a row (k, v); 4 (D + 1) D written and read a chunk. Products: 2 D^2 a row.
//
// sass: all LDGSTS.E.BYPASS.128 LDSM.16.MT88.4 HMMA.16816.F32.BF16 STG.E.64
#include "kernel.cuh"
#include "linear.cuh"

namespace {

constexpr int TILE = 32;
constexpr int STAGES = 4;
constexpr int THREADS = 256;
constexpr int DOWN = 4, ACROSS = 2;  // warps
static_assert(DOWN * ACROSS * WARP == THREADS, "every warp has its part");

template <int D>
struct StateTile {
  static constexpr int PITCH = D + 8;
  static constexpr int CHUNKS = D / CHUNK;               // of a row
  static constexpr int PASS_ROWS = THREADS / CHUNKS;     // rows that the block copies at once
  static constexpr int PASSES = TILE / PASS_ROWS;
  static constexpr int VALUES = TILE * PITCH;            // of one operand
  static constexpr int SHARED_BYTES = STAGES * 2 * VALUES * 2;
  static constexpr int ROW_TILES = D / DOWN / 16, COLUMN_TILES = D / ACROSS / 8;
  static_assert(PASSES >= 1 && CHUNKS <= WARP, "a row belongs to one warp");
  static_assert(THREADS * CHUNK * 4 * 2 <= SHARED_BYTES, "the sums of the threads are gathered where the tiles were");
};

TW_DEVICE float max_over(float value, int span TW_AT) {
#pragma unroll
  for (int distance = 1; distance < span; distance *= 2) value = fmaxf(value, shuffle_xor(value, distance TW_PASS_AT));
  return value;
}

TW_DEVICE float sum_over(float value, int span TW_AT) {
#pragma unroll
  for (int distance = 1; distance < span; distance *= 2) value += shuffle_xor(value, distance TW_PASS_AT);
  return value;
}

TW_DEVICE void unpack(uint4 chunk, float (&v)[CHUNK]) {
  const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = low_bf16(words[i]);
    v[2 * i + 1] = high_bf16(words[i]);
  }
}

TW_DEVICE uint4 pack(const float (&v)[CHUNK]) {
  return make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

// Eight channels of a row, which SPAN lanes share, become features.
template <int SPAN>
TW_DEVICE uint4 features_of(uint4 chunk, int features TW_AT) {
  float v[CHUNK];
  unpack(chunk, v);
  if (features == SOFTMAX) {
    float most = v[0];
#pragma unroll
    for (int i = 1; i < CHUNK; ++i) most = fmaxf(most, v[i]);
    most = max_over(most, SPAN TW_PASS_AT);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) {
      v[i] = exp2_fast((v[i] - most) * LOG2_E);
      sum += v[i];
    }
    const float share = divide(1.0f, sum_over(sum, SPAN TW_PASS_AT));
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) v[i] *= share;
  } else {
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) v[i] = feature_of(v[i], features);
  }
  return pack(v);
}

// The sums of the threads that have the same channels, in order, to a row of D.
template <int D>
TW_DEVICE void gather_row(Shared<float> room, const float (&sums)[CHUNK], Global<float> row) {
  using T = StateTile<D>;
  const int thread = static_cast<int>(threadIdx.x);
  store_vector(room + thread * CHUNK, make_float4(sums[0], sums[1], sums[2], sums[3]));
  store_vector(room + thread * CHUNK + 4, make_float4(sums[4], sums[5], sums[6], sums[7]));
  block_sync();
  if (thread < D) {
    float sum = 0.0f;
#pragma unroll 4
    for (int giver = 0; giver < T::PASS_ROWS; ++giver) {
      const float other = room[giver * D + thread];
      sum += other;
    }
    row[thread] = sum;
  }
}

template <int D, bool IS_WEIGHTED>
TW_DEVICE void gather_state(const LinearStateParams& p) {
  using T = StateTile<D>;
  const Shared<tw_bf16> tiles_here = dynamic_shared<tw_bf16>(0, T::SHARED_BYTES / 2);
  const int lane = lane_index(), warp = warp_index(), thread = static_cast<int>(threadIdx.x);
  const int64_t problem = blockIdx.x / static_cast<uint32_t>(p.chunks), chunk = blockIdx.x % static_cast<uint32_t>(p.chunks);
  const int64_t first = chunk * p.chunk_rows;
  const int rows = static_cast<int>(min(p.len - first, p.chunk_rows));
  const int tiles = (rows + TILE - 1) / TILE;

  // this thread's chunk of every PASS_ROWS-th row
  const int own_row = thread / T::CHUNKS, own_channel = thread % T::CHUNKS * CHUNK;
  const int64_t x_start = head_offset(problem, p.heads, p.sample_stride, p.head_stride) + (first + own_row) * p.row_stride + own_channel;
  // the gradient lies as the queries do
  const int64_t y_row_stride = IS_WEIGHTED ? p.row_stride : p.y_row_stride;
  const int64_t y_start =
      IS_WEIGHTED ? x_start : head_offset(problem, p.heads, p.y_sample_stride, p.y_head_stride) + (first + own_row) * y_row_stride + own_channel;
  Global<const tw_bf16> x = global(p.x) + x_start, y = global(p.y) + y_start;  // of the next tile to be copied
  const Global<const float> scales = global(p.scales) + (problem * p.len + first);
  const Global<const float> weights = global(p.weights) + (problem * p.len + first);
  const int place = own_row * T::PITCH + own_channel;
  const auto load = [&](int tile) {
    const uint32_t to = shared_address(tiles_here + (tile % STAGES * (2 * T::VALUES) + place));
#pragma unroll
    for (int pass = 0; pass < T::PASSES; ++pass) {
      const uint32_t bytes = tile * TILE + pass * T::PASS_ROWS + own_row < rows ? CHUNK_BYTES : 0;
      cp_async_zero_fill<CHUNK_BYTES>(to + pass * T::PASS_ROWS * T::PITCH * 2, x, bytes);
      cp_async_zero_fill<CHUNK_BYTES>(to + (T::VALUES + pass * T::PASS_ROWS * T::PITCH) * 2, y, bytes);
      x = x + T::PASS_ROWS * p.row_stride;
      y = y + T::PASS_ROWS * y_row_stride;
    }
  };
#pragma unroll
  for (int tile = 0; tile < STAGES - 1; ++tile) {
    if (tile < tiles) load(tile);
    cp_async_commit();
  }

  float sums[T::ROW_TILES][T::COLUMN_TILES][4];
#pragma unroll
  for (int i = 0; i < T::ROW_TILES * T::COLUMN_TILES * 4; ++i) sums[i / 4 / T::COLUMN_TILES][i / 4 % T::COLUMN_TILES][i % 4] = 0.0f;
  float feature_sums[CHUNK] = {}, y_sums[CHUNK] = {};
  // the warp's corner in both tiles
  const int down = warp / ACROSS * (D / DOWN), across = warp % ACROSS * (D / ACROSS);
  const int a_place = LoadTransposed::a_depth(lane) * T::PITCH + down + LoadTransposed::a_chunk(lane) * CHUNK;
  const int b_place = T::VALUES + LoadMatrix::b_transposed_depth(lane) * T::PITCH + across + LoadMatrix::b_transposed_chunk(lane) * CHUNK;

  for (int tile = 0; tile < tiles; ++tile) {
    const Shared<tw_bf16> stage = tiles_here + tile % STAGES * (2 * T::VALUES);
    cp_async_wait_group<STAGES - 2>();
    // what this thread copied
#pragma unroll 1
    for (int pass = 0; pass < T::PASSES; ++pass) {
      const Shared<tw_bf16> own = stage + place + pass * T::PASS_ROWS * T::PITCH;
      const int row = tile * TILE + pass * T::PASS_ROWS + own_row;
      uint4 phi = features_of<T::CHUNKS>(load_vector<uint4>(own), p.features);
      if (row >= rows) phi = make_uint4(0, 0, 0, 0);
      store_vector(own, phi);
      float v[CHUNK];
      unpack(phi, v);
      if constexpr (IS_WEIGHTED) {
        const float weight = row < rows ? static_cast<float>(weights[row]) : 0.0f, scale = row < rows ? static_cast<float>(scales[row]) : 0.0f;
        float other[CHUNK];
        unpack(load_vector<uint4>(own + T::VALUES), other);
#pragma unroll
        for (int i = 0; i < CHUNK; ++i) {
          feature_sums[i] = fmaf(weight, v[i], feature_sums[i]);
          y_sums[i] += other[i];
          other[i] *= scale;
        }
        store_vector(own + T::VALUES, pack(other));
      } else {
#pragma unroll
        for (int i = 0; i < CHUNK; ++i) feature_sums[i] += v[i];
      }
    }
    block_sync();  // the tile is whole, and nobody reads the tile before it any more
    if (tile + STAGES - 1 < tiles) load(tile + STAGES - 1);
    cp_async_commit();
#pragma unroll
    for (int depth = 0; depth < TILE / 16; ++depth) {
      uint32_t a[T::ROW_TILES][4];
#pragma unroll
      for (int i = 0; i < T::ROW_TILES; ++i) ldmatrix_x4_transposed(a[i], shared_address(stage + a_place + depth * 16 * T::PITCH + i * 16));
#pragma unroll
      for (int j = 0; j < T::COLUMN_TILES; j += 2) {
        uint32_t b[4];
        ldmatrix_x4_transposed(b, shared_address(stage + b_place + depth * 16 * T::PITCH + j * 8));
#pragma unroll
        for (int i = 0; i < T::ROW_TILES; ++i) {
          mma_m16n8k16_bf16(sums[i][j], a[i], b[0], b[1]);
          mma_m16n8k16_bf16(sums[i][j + 1], a[i], b[2], b[3]);
        }
      }
    }
  }

  constexpr int STATE_ROWS = IS_WEIGHTED ? D + 2 : D + 1;
  const Global<float> partial = global(p.partial) + (problem * p.chunks + chunk) * (STATE_ROWS * D);
#pragma unroll
  for (int i = 0; i < T::ROW_TILES; ++i) {
#pragma unroll
    for (int j = 0; j < T::COLUMN_TILES; ++j) {
      const int row = down + i * 16 + Fragment::c_row(lane, 0), column = across + j * 8 + Fragment::c_column(lane, 0);
      store_pair(partial + (row * D + column), sums[i][j][0], sums[i][j][1]);
      store_pair(partial + ((row + 8) * D + column), sums[i][j][2], sums[i][j][3]);
    }
  }
  cp_async_wait_group<0>();
  block_sync();  // the tiles are free
  const Shared<float> room = dynamic_shared<float>(0, 2 * THREADS * CHUNK);
  gather_row<D>(room, feature_sums, partial + D * D);
  if constexpr (IS_WEIGHTED) gather_row<D>(room + THREADS * CHUNK, y_sums, partial + (D + 1) * D);
}

}  // namespace

TW_KERNEL(linear_state_d128, LinearStateParams, THREADS, 2) { gather_state<128, false>(p); }
TW_KERNEL(linear_state_d64, LinearStateParams, THREADS, 2) { gather_state<64, false>(p); }
TW_KERNEL(linear_state_weighted_d128, LinearStateParams, THREADS, 2) { gather_state<128, true>(p); }
TW_KERNEL(linear_state_weighted_d64, LinearStateParams, THREADS, 2) { gather_state<64, true>(p); }

TW_KERNEL(linear_reduce, LinearReduceParams, THREADS) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) * 4;
  if (at >= p.problems * p.values) return;
  const int64_t problem = at / p.values;
  const Global<const float> from = global(p.partial) + (problem * p.chunks * p.values + at % p.values);
  float4 sum = load_vector_readonly<float4>(from);
#pragma unroll 4
  for (int64_t chunk = 1; chunk < p.chunks; ++chunk) {
    const float4 next = load_vector_readonly<float4>(from + chunk * p.values);
    sum = make_float4(sum.x + next.x, sum.y + next.y, sum.z + next.z, sum.w + next.w);
  }
  store_vector(global(p.state) + at, sum);
}
