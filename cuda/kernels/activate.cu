// A function of each value, for rows whose product did not end with it.
//
//   out[i] = f(x[i])          f: GELU in its tanh or its exact form, or SiLU
//
//   x, out   [count]   bf16 or f32, 16-byte aligned; out may be x
//
//   thread   one chunk of 8 values; grid.x = ceil(count / 8 / THREADS)
//
// Functions have the bits of the host's (plain_math.cuh). bf16 values are rounded once, at the end.
//
// Bytes: 2 read and 2 written a bf16 value, twice that an f32 value.
//
// sass: all LDG.E.128 STG.E.128
#include "kernel.cuh"
#include "plain_math.cuh"
#include "quant_chunk.cuh"
#include "rows_params.h"

namespace {

constexpr int THREADS = 256;

enum Function { GELU_TANH = 0, GELU_ERF = 1, SILU = 2 };

TW_DEVICE float activated(int function, float x) {
  switch (function) {
    case GELU_TANH: return gelu_tanh_plain(x);
    case GELU_ERF: return gelu_erf_plain(x);
    default: return silu_plain(x);
  }
}

}  // namespace

TW_KERNEL(activate, ActivateParams, THREADS) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) * CHUNK;
  if (first >= p.count) return;
  float x[CHUNK];
  if (p.x != nullptr) {
    unpack(load_vector<uint4>(global(p.x) + first), x);
  } else {
#pragma unroll
    for (int i = 0; i < CHUNK; i += 4) {
      const float4 four = load_vector<float4>(global(p.x_f32) + (first + i));
      x[i] = four.x;
      x[i + 1] = four.y;
      x[i + 2] = four.z;
      x[i + 3] = four.w;
    }
  }
#pragma unroll
  for (int i = 0; i < CHUNK; i++) x[i] = activated(p.function, x[i]);
  if (p.x != nullptr) {
    store_vector(global(p.out) + first, pack(x));
  } else {
#pragma unroll
    for (int i = 0; i < CHUNK; i += 4) store_vector(global(p.out_f32) + (first + i), make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]));
  }
}
