// The projection of the linear branch, folded into its state: one product a head in the place of one a row.
//
//   folded[o, d] = bf16(sum_e state[d, e] W[o, e])        is_transposed: H' = H W^T, on the way forward
//   folded[o, d] = bf16(sum_e state[d, e] W[e, o])        dH = M W, on the way back
//   folded[D, d] = bf16(state[D, d])
//
//   state    [problems, chunks, state_rows, D]   f32, 16-byte aligned; the chunks are added in order, as linear_reduce does
//   W        [D, D]                      f32, or null: the identity
//   folded   [problems, D + 1, D]        bf16, 16-byte aligned: column by column, so that what a product with rows of
//            features sums over is contiguous
//
//   tile    ROWS rows of one head; grid.x = problems * D / ROWS, tiles fastest. A thread has one column of ROWS / 2 rows
//   shared  DEPTH columns of W at a time, W[o] after W[o], in rows of DEPTH + 4: free of conflicts in chunks of 16 bytes;
//           the rows of the state, which all lanes read at once
//   sum     f32, fused multiply and add, in the order of e: the host twin's bits
//
// Operations: 2 D^3 a head, 4 MFLOP at D = 128.
//
// sass: all LDG.E.128 LDS.128 FFMA
#include "kernel.cuh"
#include "linear.cuh"

namespace {

constexpr int ROWS = 16;
constexpr int DEPTH = 32;
constexpr int PITCH = DEPTH + 4;

template <int D>
TW_DEVICE void fold(const LinearFoldParams& p) {
  constexpr int THREADS = 2 * D, OWN_ROWS = ROWS / 2;
  TW_SHARED(float, rows, ROWS * D);
  TW_SHARED(float, weight, D * PITCH);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t problem = blockIdx.x / (D / ROWS);
  const int first = static_cast<int>(blockIdx.x % (D / ROWS)) * ROWS;
  const int64_t chunk_values = p.state_rows * D;
  const Global<const float> state = global(p.state) + problem * p.chunks * chunk_values;
  const Global<const float> w = global(p.weight);
  const Global<tw_bf16> folded = global(p.folded) + (problem * ((D + 1) * D) + first);

  for (int i = thread * 4; i < ROWS * D; i += THREADS * 4) {
    const Global<const float> from = state + (first * D + i);
    float4 sum = load_vector_readonly<float4>(from);
#pragma unroll 2
    for (int64_t chunk = 1; chunk < p.chunks; ++chunk) {
      const float4 next = load_vector_readonly<float4>(from + chunk * chunk_values);
      sum = make_float4(sum.x + next.x, sum.y + next.y, sum.z + next.z, sum.w + next.w);
    }
    store_vector(rows + i, sum);
  }
  const int column = thread % D, own = thread / D * OWN_ROWS;
  float sums[OWN_ROWS] = {};
  if (p.weight != nullptr) {
    for (int start = 0; start < D; start += DEPTH) {
      block_sync();  // the rows are here, and the columns before are read
      if (p.is_transposed != 0) {
        for (int i = thread; i < D * (DEPTH / 4); i += THREADS) {
          const int o = i / (DEPTH / 4), e = i % (DEPTH / 4) * 4;
          const float4 four = load_vector_readonly<float4>(w + (o * D + start + e));
          store_vector(weight + (o * PITCH + e), four);
        }
      } else {
        for (int i = thread; i < D * DEPTH; i += THREADS) {
          const float value = w[(start + i / D) * D + i % D];
          weight[i % D * PITCH + i / D] = value;
        }
      }
      block_sync();
#pragma unroll 2
      for (int e = 0; e < DEPTH; e += 4) {
        const float4 b = load_vector<float4>(weight + (column * PITCH + e));
#pragma unroll
        for (int r = 0; r < OWN_ROWS; ++r) {
          const float4 a = load_vector<float4>(rows + ((own + r) * D + start + e));
          sums[r] = fmaf(a.x, b.x, sums[r]);
          sums[r] = fmaf(a.y, b.y, sums[r]);
          sums[r] = fmaf(a.z, b.z, sums[r]);
          sums[r] = fmaf(a.w, b.w, sums[r]);
        }
      }
    }
  } else {
    block_sync();
#pragma unroll
    for (int r = 0; r < OWN_ROWS; ++r) sums[r] = rows[(own + r) * D + column];
  }
  uint32_t words[OWN_ROWS / 2];
#pragma unroll
  for (int r = 0; r < OWN_ROWS; r += 2) words[r / 2] = pack_bf16(sums[r], sums[r + 1]);
  store_vector(folded + (column * D + own), make_uint4(words[0], words[1], words[2], words[3]));
  if (thread < ROWS) {
    float last = state[D * D + first + thread];
#pragma unroll 1
    for (int64_t chunk = 1; chunk < p.chunks; ++chunk) {
      const float next = state[chunk * chunk_values + D * D + first + thread];
      last += next;
    }
    folded[D * D + thread] = to_bf16(last).bits;
  }
}

}  // namespace

TW_KERNEL(linear_fold_d128, LinearFoldParams, 256) { fold<128>(p); }
TW_KERNEL(linear_fold_d64, LinearFoldParams, 128) { fold<64>(p); }
