// The gate of a feed-forward layer: up * gelu(gate), GELU in its tanh form, as bf16 tensor operations one after the other.
//
//   cube  = r(r(x x) x)          inner = r(0.7978846 r(x + r(0.044715 cube)))          x the gate, r: rounded to bf16
//   gelu  = r(r(x / 2) r(1 + r(tanh(inner))))          out = r(up gelu)
//
//   gate, up   rows of `width` bf16, their strides apart, 16-byte aligned: two matrices, or the halves of one
//   out        [rows, width]  bf16
//
//   thread   one chunk of 8 values; grid.x = ceil(rows * width / 8 / THREADS)
//
// tanh is 1 - 2 / (e^(2 inner) + 1) with the exponential of the host (src/host/math.rs): multiplications and additions that
// are not fused, and true divisions, so that the host gives the same bits.
//
// Bytes: 4 read and 2 written a value.
//
// sass: all LDG.E.128 STG.E.128
#include "kernel.cuh"
#include "elementwise_params.h"
#include "plain_math.cuh"
#include "quant_chunk.cuh"

namespace {

constexpr int THREADS = 256;

TW_DEVICE float rounded(float value) { return to_f32(to_bf16(value)); }

TW_DEVICE float gelu(float x) {
  const float cube = rounded(rounded(x * x) * x);
  const float inner = rounded(0.7978846f * rounded(x + rounded(0.044715f * cube)));
  const float tanh = rounded(1.0f - divide(2.0f, exp_plain(2.0f * inner) + 1.0f));
  return rounded(rounded(0.5f * x) * rounded(1.0f + tanh));
}

}  // namespace

TW_KERNEL(gelu_gate, GeluGateParams, THREADS) {
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  const int64_t row = chunk / (p.width / CHUNK), column = chunk % (p.width / CHUNK) * CHUNK;
  if (row >= p.rows) return;
  float gate[CHUNK], up[CHUNK];
  unpack(load_vector_readonly<uint4>(global(p.gate) + (row * p.gate_stride + column)), gate);
  unpack(load_vector_readonly<uint4>(global(p.up) + (row * p.up_stride + column)), up);
#pragma unroll
  for (int i = 0; i < CHUNK; ++i) up[i] *= gelu(gate[i]);
  store_vector(global(p.out) + (row * p.width + column), pack(up));
}
