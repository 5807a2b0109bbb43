// Rows of a table, by their numbers.
//
//   out[i] = bf16(table[ids[i]])
//
//   table   [table_rows, width]   bf16 or f32, 16-byte aligned
//   ids     [count]               u32; one that the table does not have gives a row that is not a number, and reads nothing
//   out     [count, width]        bf16, 16-byte aligned
//
//   thread   one chunk of 8 values; grid.x = ceil(count * width / 8 / THREADS)
//
// Bytes: 2 or 4 read and 2 written a value.
//
// sass: all LDG.E.128 STG.E.128
#include "kernel.cuh"
#include "gather_params.h"
#include "quant_chunk.cuh"

constexpr int THREADS = 256;

TW_KERNEL(embedding, EmbeddingParams, THREADS) {
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  const int64_t row = chunk / (p.width / CHUNK), column = chunk % (p.width / CHUNK) * CHUNK;
  if (row >= p.count) return;
  const uint32_t id = global(p.ids)[row];
  const int64_t from = static_cast<int64_t>(id) * p.width + column;
  uint4 values = make_uint4(0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu);
  if (id < p.table_rows) {
    if (p.table != nullptr) {
      values = load_vector_readonly<uint4>(global(p.table) + from);
    } else {
      float wide[CHUNK];
      load_eight(global(p.table_f32) + from, wide);
      values = pack(wide);
    }
  }
  store_vector(global(p.out) + (row * p.width + column), values);
}
