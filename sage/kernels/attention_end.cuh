// What may follow attention before its rows leave the registers: a term of low rank that is added, and an int8 output.
//
//   out = o + (phi(q) . M) / (phi(q) . z + 1e-5) + bias        row by row; phi: softmax over the D channels of the row,
//                                                              elu(x) + 1 or max(x, 0), channel by channel
//
//   added_q      [problems, query_len, D] bf16: q as it is, not quantised
//   added_state  [problems, D + 1, D] bf16, row-major: row n < D is column n of M (entry c: what channel c of phi gives to
//                channel n of the output), row D is z. The depth of the product is contiguous, as a B operand wants it.
//   added_bias   [D] f32, or null
//
//   sums    phi / (phi . z + 1e-5) is worked out in f32 and rounded to bf16 once; its product with M is added to the f32
//           accumulators that hold o, so the term costs no registers. A term of linear attention has M = H W^T and z the
//           sum of the key features: 2 D^2 operations a row, those of D / 2 keys.
//
//   out_values   int8 at the out strides, D = 128, out_scales [samples, query_len, heads] f32: out rounded to bf16, then
//                the rule of quant_block_1x128, so that the bytes are those of quantising the bf16 output
//                  amax = max(1e-8, max |x|)   q = saturate(round_half_even(x * (127 / amax)))   scale = amax / 127
#pragma once
#include "ptx.cuh"
#include "sage_params.h"
#include "tile.cuh"

namespace {

constexpr float ADDED_FLOOR = 1e-5f;  // of the denominator
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float INT8_LEVELS = 127.0f, INT8_AMAX_FLOOR = 1e-8f;

// Over SPAN neighbouring lanes, a power of two.
template <int SPAN>
TW_DEVICE float span_sum(float value) {
#pragma unroll
  for (int mask = 1; mask < SPAN; mask *= 2) value += shuffle_xor(value, mask);
  return value;
}

template <int SPAN>
TW_DEVICE float span_max(float value) {
#pragma unroll
  for (int mask = 1; mask < SPAN; mask *= 2) value = fmaxf(value, shuffle_xor(value, mask));
  return value;
}

// A row of q, N values of it in each of SPAN lanes, becomes phi / (phi . z + 1e-5); `z(i)` belongs to value i.
template <int SPAN, int N, class Z>
TW_DEVICE void weigh_features(float (&x)[N], uint32_t feature, const Z& z) {
  float sum = 1.0f, product = 0.0f;  // phi is x / sum
  if (feature == SAGE_FEATURE_SOFTMAX) {
    float top = x[0];
#pragma unroll
    for (int i = 1; i < N; ++i) top = fmaxf(top, x[i]);
    top = span_max<SPAN>(top);
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      x[i] = exp2_fast((x[i] - top) * LOG2_E);
      sum += x[i];
    }
    sum = span_sum<SPAN>(sum);
  } else {
    const bool is_elu = feature == SAGE_FEATURE_ELU;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float below = is_elu ? exp2_fast(x[i] * LOG2_E) : 0.0f;
      x[i] = x[i] <= 0.0f ? below : is_elu ? x[i] + 1.0f : x[i];  // what is no number stays so
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) product = fmaf(x[i], z(i), product);
  const float share = divide(1.0f, fmaf(sum, ADDED_FLOOR, span_sum<SPAN>(product)));
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] *= share;
}

// Two values as the bf16 output would hold them.
TW_DEVICE void round_to_bf16(float& low, float& high) {
  const uint32_t pair = pack_bf16(low, high);
  low = low_bf16(pair);
  high = high_bf16(pair);
}

}  // namespace
