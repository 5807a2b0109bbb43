// Gradients of the projection of the linear branch, which all heads share.
//
//   dW[o, e] = sum_problems sum_d M[d, o] H[d, e]        db[o] = sum_problems b[o]
//
//   state      [problems, D + 1, D]   f32: H (linear_state.cu, of keys and values)
//   gradient   [problems, D + 2, D]   f32: M, and in row D + 1 the sum of the output's gradient (of queries and it)
//   dW, db     [D, D], [D]            f32
//
//   tile    ROWS x COLUMNS values of dW a block, one a thread and column pair; grid.x = D / ROWS * D / COLUMNS
//   shared  ROWS columns of M and COLUMNS of H, all D depths of one head at a time
//   sum     f32, fused multiply and add, in the order of the heads and of d; db in the order of the heads
//
// Operations: 2 D^3 a head.
//
// sass: all LDG.E.128 LDS.64 FFMA
#include "kernel.cuh"
#include "linear.cuh"

namespace {

constexpr int ROWS = 16, COLUMNS = 16;
constexpr int THREADS = ROWS * COLUMNS / 2;

template <int D>
TW_DEVICE void weight_gradient(const LinearWeightParams& p) {
  TW_SHARED(float, m, D * ROWS);
  TW_SHARED(float, h, D * COLUMNS);
  const int thread = static_cast<int>(threadIdx.x);
  const int first = static_cast<int>(blockIdx.x) / (D / COLUMNS) * ROWS, across = static_cast<int>(blockIdx.x) % (D / COLUMNS) * COLUMNS;
  const int row = thread / (COLUMNS / 2), column = thread % (COLUMNS / 2) * 2;
  float low = 0.0f, high = 0.0f, bias = 0.0f;
  for (int64_t problem = 0; problem < p.problems; ++problem) {
    const Global<const float> gradient = global(p.gradient) + problem * ((D + 2) * D);
    const Global<const float> state = global(p.state) + problem * ((D + 1) * D);
    block_sync();  // the head before is read
#pragma unroll 2
    for (int i = thread; i < D * ROWS / 4; i += THREADS) {
      const int d = i / (ROWS / 4), at = i % (ROWS / 4) * 4;
      const float4 of_m = load_vector_readonly<float4>(gradient + (d * D + first + at));
      const float4 of_h = load_vector_readonly<float4>(state + (d * D + across + at));
      store_vector(m + i * 4, of_m);
      store_vector(h + i * 4, of_h);
    }
    block_sync();
#pragma unroll 4
    for (int d = 0; d < D; ++d) {
      const float a = m[d * ROWS + row];
      const float2 b = load_vector<float2>(h + (d * COLUMNS + column));
      low = fmaf(a, b.x, low);
      high = fmaf(a, b.y, high);
    }
    if (across == 0 && column == 0) bias += static_cast<float>(gradient[(D + 1) * D + first + row]);
  }
  store_vector(global(p.weight) + ((first + row) * D + across + column), make_float2(low, high));
  if (across == 0 && column == 0) global(p.bias)[first + row] = bias;
}

}  // namespace

TW_KERNEL(linear_weight_d128, LinearWeightParams, THREADS) { weight_gradient<128>(p); }
TW_KERNEL(linear_weight_d64, LinearWeightParams, THREADS) { weight_gradient<64>(p); }
