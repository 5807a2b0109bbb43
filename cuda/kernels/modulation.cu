// What the time does to a transformer's rows: the table of shifts, scales and gates, and a modulation that is not rounded.
//
//   modulation            out[c, b, i] = table[c, i] + e[b, c % e_chunks * width + i]
//                         where `rounded` says so of c % e_chunks, as the nearest bf16
//   modulation_apply      out[r, i]    = x[r, i] * (1 + scale[g, i]) + shift[g, i]          g = r / rows_per_group
//
//   table          [chunks, width]          f32: one table of e_chunks chunks behind the other, or a shared chunk of e
//   e              [batch, e_chunks, width] f32
//   x              [rows, width]            bf16
//   shift, scale   [groups, width]          f32
//
//   thread   four values of the table, or a chunk of 8 of a row; blocks of THREADS in one dimension
//
// Every operation is rounded to f32, as the host does (wan-model's Host, src/ops/norm.rs); gates once more.
//
// sass: all LDG.E.128 STG.E.128
#include "kernel.cuh"
#include "quant_chunk.cuh"
#include "rows_params.h"

constexpr int THREADS = 256;

TW_KERNEL(modulation, ModulationParams, THREADS) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) * 4;
  if (at >= p.chunks * p.batch * p.width) return;
  const int64_t column = at % p.width, sample = at / p.width % p.batch, chunk = at / p.width / p.batch;
  const int64_t e_chunk = chunk % p.e_chunks;
  const int64_t from = (sample * p.e_chunks + e_chunk) * p.width + column;
  const float4 a = load_vector_readonly<float4>(global(p.table) + (chunk * p.width + column));
  const float4 b = load_vector_readonly<float4>(global(p.e) + from);
  float4 sum = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
  if (p.rounded >> e_chunk & 1) {
    const uint32_t low = pack_bf16(sum.x, sum.y), high = pack_bf16(sum.z, sum.w);
    sum = make_float4(low_bf16(low), high_bf16(low), low_bf16(high), high_bf16(high));
  }
  store_vector(global(p.out) + at, sum);
}

TW_KERNEL(modulation_apply, ModulateParams, THREADS) {
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  const int64_t row = chunk / (p.width / CHUNK), column = chunk % (p.width / CHUNK) * CHUNK;
  if (row >= p.rows) return;
  const int64_t table = row / p.rows_per_group * p.width + column;
  float x[CHUNK], shift[CHUNK], scale[CHUNK];
  unpack(load_vector_readonly<uint4>(global(p.x) + (row * p.width + column)), x);
  load_eight(global(p.shift) + table, shift);
  load_eight(global(p.scale) + table, scale);
#pragma unroll
  for (int i = 0; i < CHUNK; i++) x[i] = x[i] * (1.0f + scale[i]) + shift[i];
#pragma unroll
  for (int i = 0; i < CHUNK; i += 4) {
    store_vector(global(p.out) + (row * p.width + column + i), make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]));
  }
}
