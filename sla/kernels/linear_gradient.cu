// Gradients of the linear branch's rows. With H' = H W^T (W the identity where there is no projection), g the gradient of
// the output, d = 1e-5 + phi(q) . z the denominator and y = phi(q) H' / d the output without its bias:
//
//   queries   dphi = (g H'^T - (g . y) z) / d          scales = 1 / d          weights = -(g . y) / d
//   keys      dphi = v dH^T + dz                       dv = phi(k) dH
//   both      dx = the pull back of dphi through phi: softmax phi (dphi - phi . dphi); elu dphi, phi dphi below 0; relu
//
// dH = M W and dz come from the weighted state of the queries (linear_state.cu), which reads scales and weights, by way of
// linear_fold.cu.
//
//   x, u       rows of D bf16 by the strides: queries and g, or keys and values; phi is rounded to bf16
//   folded     [problems, D + 1, D]        bf16: the transpose of H', or of dH
//   state      [problems, state_rows, D]   f32, of which row D is z, or dz
//   gradients  rows of D f32 by the same strides, written, or added to
//
//   block    WARPS warps of 16 rows, over BLOCK_ROWS rows of one head; grid.x = problems * ceil(len / BLOCK_ROWS)
//   shared   the head's matrix in the order of linear.cuh, read across for phi . F and down for u . F^T; z in f32
//   warp     both rows and both products in registers: the features, the operand and the sums of a lane are of the same
//            channels, so that the pull back needs two shuffles a sum over a row
//   edge     rows past the end are zeros and not stored
//
// Bytes: 4 D read a row, 4 D (queries) or 8 D (keys) written. Products: 4 D^2 a row.
//
// sass: all LDG.E.128 LDSM.16.MT88.4 LDSM.16.M88.4 HMMA.16816.F32.BF16 STG.E.128
#include "kernel.cuh"
#include "linear.cuh"

namespace {

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * WARP;
constexpr int BLOCK_ROWS = 512;

// Gradients of features become gradients of what they were made of.
template <int D>
TW_DEVICE void pull_back(RowSums<D>& sums, const RowOperand<D>& phi, int half, int features TW_AT) {
  float mean = 0.0f;
  if (features == SOFTMAX) {
#pragma unroll
    for (int i = 0; i < D / 4; ++i) mean = fmaf(value_of<D>(phi, half, i), value_of<D>(sums, half, i), mean);
    mean = row_sum(mean TW_PASS_AT);
  }
#pragma unroll
  for (int i = 0; i < D / 4; ++i) {
    const float c = value_of<D>(phi, half, i);
    float& gradient = value_of<D>(sums, half, i);
    if (features == SOFTMAX) {
      gradient = c * (gradient - mean);
    } else if (features == ELU) {
      gradient = c > 1.0f ? gradient : c * gradient;  // below 0 the feature is its own derivative
    } else {
      gradient = c > 0.0f ? gradient : 0.0f;
    }
  }
}

// One row of gradients, from where this lane's channels begin.
template <int D>
TW_DEVICE void deliver(Global<float> to, RowSums<D>& sums, int half, bool adds TW_AT) {
#pragma unroll
  for (int i = 0; i < D / 4; i += 4) {
    const Global<float> place = to + (i / 8 * 32 + i % 8);
    float4 four = make_float4(value_of<D>(sums, half, i), value_of<D>(sums, half, i + 1), value_of<D>(sums, half, i + 2),
                              value_of<D>(sums, half, i + 3));
    if (adds) {
      const float4 held = load_vector<float4>(place TW_PASS_AT);
      four = make_float4(held.x + four.x, held.y + four.y, held.z + four.z, held.w + four.w);
    }
    store_vector(place, four TW_PASS_AT);
  }
}

template <int D, bool IS_QUERY>
TW_DEVICE void gradients(const LinearGradientParams& p) {
  constexpr int PITCH = D + 8;
  TW_SHARED(tw_bf16, matrix, D * PITCH);
  TW_SHARED(float, z, D);
  const int lane = lane_index(), warp = warp_index();
  const uint32_t blocks = static_cast<uint32_t>((p.len + BLOCK_ROWS - 1) / BLOCK_ROWS);
  const int64_t problem = blockIdx.x / blocks, first = static_cast<int64_t>(blockIdx.x % blocks) * BLOCK_ROWS;
  const int64_t end = min(first + BLOCK_ROWS, p.len);
  load_matrix<D, THREADS>(matrix, global(p.folded) + problem * ((D + 1) * D));
  if (static_cast<int>(threadIdx.x) < D) z[threadIdx.x] = global(p.state)[(problem * p.state_rows + D) * D + threadIdx.x];
  block_sync();

  const int64_t start = head_offset(problem, p.heads, p.sample_stride, p.head_stride);
  const Global<const tw_bf16> x = global(p.x) + start, u = global(p.u) + start;
  const Global<float> x_gradient = global(p.x_gradient) + (start + lane % 4 * CHUNK);
  const Global<float> u_gradient = global(p.u_gradient) + (start + lane % 4 * CHUNK);
  const Global<float> scales = global(p.scales) + problem * p.len, weights = global(p.weights) + problem * p.len;
  const Shared<float> own_z = z + lane % 4 * CHUNK;
  const uint32_t place = shared_address(matrix);
  const bool adds = p.adds != 0;
  for (int64_t row = first + warp * 16 + lane / 4; row - lane / 4 < end; row += WARPS * 16) {
    RowOperand<D> phi, other;
    load_rows<D>(phi, x, p.row_stride, row, p.len, lane);
    load_rows<D>(other, u, p.row_stride, row, p.len, lane);
    become_features<D>(phi, p.features);
    RowSums<D> sums;
    multiply_across<D>(sums, phi, place, lane);
    float shares[2] = {1.0f, 1.0f}, shifts[2] = {-1.0f, -1.0f};  // dphi = share (u F^T - shift z)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool is_there = row + half * 8 < p.len;
      const int64_t at = row + half * 8;
      if constexpr (IS_QUERY) {
        float agreement = 0.0f;
#pragma unroll
        for (int i = 0; i < D / 4; ++i) agreement = fmaf(value_of<D>(other, half, i), value_of<D>(sums, half, i), agreement);
        shares[half] = divide(1.0f, denominator_of<D>(phi, half, own_z));
        shifts[half] = row_sum(agreement) * shares[half];
        if (is_there && lane % 4 == 0) {
          scales[at] = shares[half];
          weights[at] = -shifts[half] * shares[half];
        }
      } else if (is_there) {
        deliver<D>(u_gradient + at * p.row_stride, sums, half, adds);
      }
    }
    multiply_down<D>(sums, other, place, lane);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < D / 4; i += 4) {
        float zs[4];
        load_four<D>(zs, own_z, i);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float& gradient = value_of<D>(sums, half, i + j);
          gradient = shares[half] * fmaf(-shifts[half], zs[j], gradient);
        }
      }
      pull_back<D>(sums, phi, half, p.features);
      if (row + half * 8 < p.len) deliver<D>(x_gradient + (row + half * 8) * p.row_stride, sums, half, adds);
    }
  }
}

}  // namespace

TW_KERNEL(linear_query_gradient_d128, LinearGradientParams, THREADS, 2) { gradients<128, true>(p); }
TW_KERNEL(linear_query_gradient_d64, LinearGradientParams, THREADS, 2) { gradients<64, true>(p); }
TW_KERNEL(linear_key_gradient_d128, LinearGradientParams, THREADS, 2) { gradients<128, false>(p); }
TW_KERNEL(linear_key_gradient_d64, LinearGradientParams, THREADS, 2) { gradients<64, false>(p); }
