// The mean row of each head, in two steps whose order is fixed: sums over every 64 rows, then their mean.
//
//   sums[h, i, d]  = sum_{64 i <= j < 64 i + 64} x[h, j, d]         f32
//   means[h, d]    = round(f32(sum_i sums[h, i, d] / len))          sum and quotient in f64, rounded to bf16 or f16
//   amax[h, d]     = max_i maxima[h, i, d]                          of the values, where they have maxima
//
//   x      rows of D bf16 or f16 of each head, by strides, 16-byte aligned
//   sums   [problems, ceil(len / 64), D]   f32
//   means  [problems, D]                   f32 that are bf16 or f16
//   maxima [problems, tiles, D]            f32 magnitudes; amax [problems, D], bits of f32
//
//   sum_rows_*   a tile of 128 rows a block (head_rows.cuh); grid.x = problems * ceil(len / 128)
//   mean_rows    8 columns of a head a block, PARTS threads a column that add every PARTS-th sum, then a tree;
//                grid.x = problems * D / 8
//
// The host twin sums in f64. Sixty-four values of 8 or 11 bits lose nothing in f32 unless they are 2^10 apart, and then less
// than 2^-24 of the largest; so the means are those of the twin but for one that lies within that of a tie.
//
// Bytes: 2 read a value, and 1/16 written; the second kernel reads those. Operations: 2 a value.
//
// sass: all LDG.E.128 STS.128 DADD
#include "kernel.cuh"
#include "head_rows.cuh"
#include "prepare_params.h"

namespace {

template <int D, class T>
TW_DEVICE void sum_rows(const SumRowsParams& p) {
  using Rows = HeadRows<D>;
  TW_SHARED(float, sums, Rows::SUMS);
  const TilePlace place = tile_of_block(p.len);
  const Global<const uint16_t> x = global(p.x) + (place.problem / p.heads * p.sample_stride + place.problem % p.heads * p.head_stride);
  uint4 chunks[Rows::PASSES];
  Rows::load(chunks, x + place.first_row * p.row_stride, p.row_stride, place.rows);
  Rows::template add_rows<T>(chunks, sums);
  block_sync();
  Rows::store_sums(sums, global(p.sums), place, p.len);
}

constexpr int COLUMNS = 8;
constexpr int PARTS = 64;

}  // namespace

TW_KERNEL(sum_rows_bf16_d128, SumRowsParams, THREADS) { sum_rows<128, Bf16>(p); }
TW_KERNEL(sum_rows_bf16_d64, SumRowsParams, THREADS) { sum_rows<64, Bf16>(p); }
TW_KERNEL(sum_rows_f16_d128, SumRowsParams, THREADS) { sum_rows<128, F16>(p); }
TW_KERNEL(sum_rows_f16_d64, SumRowsParams, THREADS) { sum_rows<64, F16>(p); }

TW_KERNEL(mean_rows, MeanRowsParams, COLUMNS * PARTS) {
  TW_SHARED(double, partial, COLUMNS * PARTS);
  TW_SHARED(float, largest, COLUMNS * PARTS);
  const uint32_t blocks = static_cast<uint32_t>(p.width / COLUMNS);
  const int64_t problem = blockIdx.x / blocks;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t column = static_cast<int64_t>(blockIdx.x % blocks) * COLUMNS + thread % COLUMNS;
  const Global<const float> sums = global(p.sums) + (problem * p.parts * p.width + column);

  double sum = 0.0;
#pragma unroll 4
  for (int64_t part = thread / COLUMNS; part < p.parts; part += PARTS) {
    const float value = sums[part * p.width];
    sum += value;
  }
  float most = 0.0f;
  if (p.maxima != nullptr) {
    const Global<const float> maxima = global(p.maxima) + (problem * p.tiles * p.width + column);
#pragma unroll 4
    for (int64_t tile = thread / COLUMNS; tile < p.tiles; tile += PARTS) {
      const float value = maxima[tile * p.width];
      most = fmaxf(most, value);
    }
  }
  partial[thread] = sum;
  largest[thread] = most;
  for (int distance = COLUMNS * PARTS / 2; distance >= COLUMNS; distance /= 2) {
    block_sync();
    if (thread < distance) {
      const double other = partial[thread + distance];
      sum += other;
      partial[thread] = sum;
      const float value = largest[thread + distance];
      most = fmaxf(most, value);
      largest[thread] = most;
    }
  }
  if (thread < COLUMNS) {
    const float mean = static_cast<float>(sum / static_cast<double>(p.len));
    const Global<float> means = global(p.means);
    means[problem * p.width + column] = p.is_f16 != 0 ? to_f32(to_f16(mean)) : to_f32(to_bf16(mean));
    if (p.maxima != nullptr) global(p.amax)[problem * p.width + column] = bits_of(most);
  }
}
