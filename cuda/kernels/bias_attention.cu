// Attention without a scale, with a bias of each head for every distance: what a T5 encoder has.
//
//   s[i, j] = r(r(q[i] . k[j]) + bias[h, j - i + rows - 1])          over the first `keys` rows; r: rounded to bf16
//   p[i, j] = r(e^(s[i, j] - max_j s) / sum_j e^(s - max))           sums in f32
//   out[i]  = r(sum_j p[i, j] v[j])
//
//   q, k, v   rows of heads * head_dim bf16, `stride` apart, 16-byte aligned; head_dim a multiple of 8, at most D
//   bias      [heads, rows + keys - 1]    f32
//   out       [rows, heads * head_dim]    bf16
//
//   block    WARPS warps of 16 rows of one head; grid.x = heads * ceil(rows / TILE_Q), tiles fastest
//   passes   two over the key tiles: largest score and sum, then the scores again and the product. So a weight is rounded
//            when it is whole, as bf16 tensor operations round it, and sequences may have any length
//   shared   the queries once; two stages of a key and a value tile of TILE_K rows, in rows of D + 8 values; cp.async
//   edge     channels from head_dim on and rows past the end are zeros; keys past the end are minus infinity; rows past the
//            end are not stored
//
// Products: 6 D a pair of rows (4 D for one pass). A prompt has at most 512 rows, so that the linear layers around it do a
// hundred times as much.
//
// sass: all LDGSTS.E.BYPASS.128 LDSM.16.M88.4 LDSM.16.MT88.4 HMMA.16816.F32.BF16 STG.E.128
#include "kernel.cuh"
#include "bias_attention_params.h"
#include "ptx.cuh"
#include "tile.cuh"

namespace {

constexpr int D = 64;
constexpr int WARPS = 4, THREADS = WARPS * WARP;
constexpr int TILE_Q = WARPS * 16, TILE_K = 64;
constexpr int PITCH = D + 8;
constexpr int CHUNKS = D / 8;
constexpr int TILE = TILE_K * PITCH;  // values
constexpr float LOWEST = -1e30f;      // below every score, and finite, so that differences are
constexpr float LOG2_E = 1.44269504088896f;
static_assert(TILE_Q == TILE_K, "queries are copied as keys are");

TW_DEVICE float rounded(float value) { return to_f32(to_bf16(value)); }

// Rows first .. first + TILE_K of a matrix of `rows`, from the head's first channel on.
TW_DEVICE void copy_tile(uint32_t tile, Global<const tw_bf16> matrix, int64_t stride, int64_t first, int64_t rows, int head_dim) {
#pragma unroll
  for (int i = 0; i < TILE_K * CHUNKS / THREADS; ++i) {
    const int index = i * THREADS + static_cast<int>(threadIdx.x), row = index / CHUNKS, chunk = index % CHUNKS;
    const bool is_there = first + row < rows && chunk * 8 < head_dim;
    cp_async_zero_fill<CHUNK_BYTES>(tile + (row * PITCH + chunk * 8) * 2, matrix + ((first + row) * stride + chunk * 8),
                                    is_there ? CHUNK_BYTES : 0);
  }
}

// Scores of a warp's 16 rows with a tile of keys, as the softmax takes them; `bias` is where key `first` and row `row` meet.
TW_DEVICE void scores_of(float (&s)[TILE_K / 8][4], const uint32_t (&q)[D / 16][4], uint32_t keys, Global<const float> bias, int64_t first,
                         int64_t row, int64_t rows, int64_t key_count, int lane) {
  const uint32_t place = keys + (LoadMatrix::b_column(lane) * PITCH + LoadMatrix::b_chunk(lane) * 8) * 2;
#pragma unroll
  for (int i = 0; i < TILE_K / 2; ++i) s[i / 4][i % 4] = 0.0f;
#pragma unroll
  for (int depth = 0; depth < D / 16; ++depth) {
#pragma unroll
    for (int j = 0; j < TILE_K / 8; j += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, place + (j * 8 * PITCH + depth * 16) * 2);
      mma_m16n8k16_bf16(s[j], q[depth], b[0], b[1]);
      mma_m16n8k16_bf16(s[j + 1], q[depth], b[2], b[3]);
    }
  }
#pragma unroll
  for (int i = 0; i < TILE_K / 2; ++i) {
    const int64_t key = first + Fragment::c_column(lane, i), query = row + i % 4 / 2 * 8;
    float& score = s[i / 4][i % 4];
    if (key < key_count) {
      const float added = bias[key - min(query, rows - 1) + rows - 1];
      score = rounded(rounded(score) + added);
    } else {
      score = LOWEST;
    }
  }
}

}  // namespace

TW_KERNEL(bias_attention, BiasAttentionParams, THREADS) {
  TW_SHARED(tw_bf16, queries, TILE);
  TW_SHARED(tw_bf16, stages, 4 * TILE);
  const int lane = lane_index(), warp = warp_index(), head_dim = static_cast<int>(p.head_dim);
  const uint32_t row_tiles = static_cast<uint32_t>((p.rows + TILE_Q - 1) / TILE_Q);
  const int64_t head = blockIdx.x / row_tiles, first_row = static_cast<int64_t>(blockIdx.x % row_tiles) * TILE_Q;
  const int tiles = static_cast<int>((p.keys + TILE_K - 1) / TILE_K);
  const Global<const tw_bf16> k = global(p.k) + head * head_dim, v = global(p.v) + head * head_dim;
  const Global<const float> bias = global(p.bias) + head * (p.rows + p.keys - 1);
  const auto load = [&](int step) {  // steps run over the tiles twice; the second time the values come along
    const int64_t first = static_cast<int64_t>(step % tiles) * TILE_K;
    const uint32_t stage = shared_address(stages + step % 2 * 2 * TILE);
    copy_tile(stage, k, p.stride, first, p.keys, head_dim);
    if (step >= tiles) copy_tile(stage + TILE * 2, v, p.stride, first, p.keys, head_dim);
  };

  copy_tile(shared_address(queries), global(p.q) + head * head_dim, p.stride, first_row, p.rows, head_dim);
  load(0);
  cp_async_commit();

  const int64_t row = first_row + warp * 16 + lane / 4;
  uint32_t q[D / 16][4];
  float most[2] = {LOWEST, LOWEST}, sum[2] = {0.0f, 0.0f}, share[2] = {0.0f, 0.0f};
  float out[D / 8][4] = {};
  for (int step = 0; step < 2 * tiles; ++step) {
    cp_async_wait_group<0>();
    block_sync();  // the tile is here, and nobody reads the one before any more
    if (step + 1 < 2 * tiles) load(step + 1);
    cp_async_commit();
    if (step == 0) {
#pragma unroll
      for (int depth = 0; depth < D / 16; ++depth) {
        ldmatrix_x4(q[depth], shared_address(queries + ((warp * 16 + LoadMatrix::a_row(lane)) * PITCH + depth * 16 + LoadMatrix::a_chunk(lane) * 8)));
      }
    }
    const uint32_t keys = shared_address(stages + step % 2 * 2 * TILE);
    float s[TILE_K / 8][4];
    scores_of(s, q, keys, bias, static_cast<int64_t>(step % tiles) * TILE_K, row, p.rows, p.keys, lane);
    if (step < tiles) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = LOWEST;
#pragma unroll
        for (int i = 0; i < TILE_K / 4; ++i) top = fmaxf(top, s[i / 2][half * 2 + i % 2]);
        top = fmaxf(most[half], row_max(top));
        float added = 0.0f;
#pragma unroll
        for (int i = 0; i < TILE_K / 4; ++i) added += exp2_fast((s[i / 2][half * 2 + i % 2] - top) * LOG2_E);
        sum[half] = sum[half] * exp2_fast((most[half] - top) * LOG2_E) + added;
        most[half] = top;
      }
      if (step == tiles - 1) {
#pragma unroll
        for (int half = 0; half < 2; ++half) share[half] = divide(1.0f, row_sum(sum[half]));
      }
      continue;
    }
    const uint32_t values = keys + (TILE + LoadMatrix::b_transposed_depth(lane) * PITCH + LoadMatrix::b_transposed_chunk(lane) * 8) * 2;
#pragma unroll
    for (int depth = 0; depth < TILE_K / 16; ++depth) {
      uint32_t weights[4];
#pragma unroll
      for (int reg = 0; reg < 4; ++reg) {
        const int half = reg % 2, tile = depth * 2 + reg / 2;
        const float low = exp2_fast((s[tile][half * 2] - most[half]) * LOG2_E), high = exp2_fast((s[tile][half * 2 + 1] - most[half]) * LOG2_E);
        weights[reg] = pack_bf16(low * share[half], high * share[half]);
      }
#pragma unroll
      for (int j = 0; j < D / 8; j += 2) {
        uint32_t b[4];
        ldmatrix_x4_transposed(b, values + (depth * 16 * PITCH + j * 8) * 2);
        mma_m16n8k16_bf16(out[j], weights, b[0], b[1]);
        mma_m16n8k16_bf16(out[j + 1], weights, b[2], b[3]);
      }
    }
  }
  cp_async_wait_group<0>();

  // a warp's rows by way of its own queries, which nobody else reads
  warp_sync();
  const Shared<tw_bf16> own = queries + warp * 16 * PITCH;
#pragma unroll
  for (int i = 0; i < D / 2; i += 2) {
    store_vector(own + (Fragment::c_row(lane, i) * PITCH + Fragment::c_column(lane, i)), pack_bf16(out[i / 4][i % 4], out[i / 4][i % 4 + 1]));
  }
  warp_sync();
  const Global<tw_bf16> to = global(p.out) + (head * head_dim + lane % CHUNKS * 8);
#pragma unroll
  for (int i = 0; i < 16; i += WARP / CHUNKS) {
    const int own_row = i + lane / CHUNKS;
    const int64_t at = first_row + warp * 16 + own_row;
    if (at < p.rows && lane % CHUNKS * 8 < head_dim) {
      const uint4 values = load_vector<uint4>(own + (own_row * PITCH + lane % CHUNKS * 8));
      store_vector(to + at * (p.heads * head_dim), values);
    }
  }
}
