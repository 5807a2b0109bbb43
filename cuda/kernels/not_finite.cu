// Whether values are numbers, and where the first stands that is none.
//
//   found = max(found, 2^32 - 1 - i)          of every chunk i of 8 values in which one is infinite or no number
//
//   x       [count]   bf16 or f32, 16-byte aligned
//   found   one u32, 0 before
//
//   thread   one chunk; grid.x = ceil(count / 8 / THREADS); only a chunk with such a value touches `found`
//
// Bytes: 2 or 4 read a value.
//
// sass: all LDG.E.128
#include "kernel.cuh"
#include "quant_chunk.cuh"
#include "rows_params.h"

constexpr int THREADS = 256;

TW_KERNEL(not_finite, NotFiniteParams, THREADS) {
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (chunk * CHUNK >= p.count) return;
  float x[CHUNK];
  if (p.x != nullptr) {
    unpack(load_vector_readonly<uint4>(global(p.x) + chunk * CHUNK), x);
  } else {
    load_eight(global(p.x_f32) + chunk * CHUNK, x);
  }
  bool is_finite = true;
#pragma unroll
  for (int i = 0; i < CHUNK; i++) is_finite = is_finite && (bits_of(x[i]) & 0x7f800000u) != 0x7f800000u;
  if (!is_finite) atomic_max(global(p.found), 0xffffffffu - static_cast<uint32_t>(chunk));
}
