// A gated sum in place, as bf16 tensor operations: what a product's end does (gemm_end.cuh), for rows that no product made.
//
//   x = bf16(x + bf16(gate * y))          gate null: x = bf16(x + y)
//
//   x, y   [rows, width]                          bf16, 16-byte aligned
//   gate   [ceil(rows / rows_per_gate), width]    f32
//
//   thread   one chunk of 8 values; grid.x = ceil(rows * width / 8 / THREADS)
//
// Bytes: 4 read and 2 written a value; the gates come from L2.
//
// sass: all LDG.E.128 STG.E.128
#include "kernel.cuh"
#include "elementwise_params.h"
#include "quant_chunk.cuh"

constexpr int THREADS = 256;

TW_KERNEL(residual_gate, ResidualGateParams, THREADS) {
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  const int64_t row = chunk / (p.width / CHUNK), column = chunk % (p.width / CHUNK) * CHUNK;
  if (row >= p.rows) return;
  const Global<tw_bf16> x = global(p.x) + (row * p.width + column);
  float sum[CHUNK], y[CHUNK];
  unpack(load_vector<uint4>(x), sum);
  unpack(load_vector_readonly<uint4>(global(p.y) + (row * p.width + column)), y);
  if (p.gate != nullptr) {
    float gate[CHUNK];
    load_eight(global(p.gate) + (row / p.rows_per_gate * p.width + column), gate);
#pragma unroll
    for (int i = 0; i < CHUNK; ++i) y[i] = gate[i] * y[i];
    unpack(pack(y), y);
  }
#pragma unroll
  for (int i = 0; i < CHUNK; ++i) sum[i] += y[i];
  store_vector(x, pack(sum));
}
