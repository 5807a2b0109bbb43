// Queries or keys of each head as int8 with a scale for each group of rows, less a mean row, and the means of blocks.
//
//   y[j, d] = x[j, d] - mean[d], rounded to the format of x or not; or x[j, d]
//   int8 and scales of y * factor, over groups of rows, by one of the rules of int8_rules.cuh
//   pooled[i, d] = round(mean of the rows of y of block i)             over the rows that exist; f32 sum
//
//   x       rows of D bf16 or f16 of each head, by strides, 16-byte aligned
//   means   [problems, D]                          f32
//   values  [problems, len, D] int8; or the K tiles of tile_layout.cuh, zeros past the last row
//   scales  [problems, groups]                     f32, groups of whole blocks; those past the last row are of zeros
//   pooled  [problems, ceil(len / pool_rows), D]   in the format of x
//
//   tile    128 rows of one head a block (head_rows.cuh); grid.x = problems * ceil(len / 128)
//   edge    rows past the last are zeros, not less the mean; they are stored in tiles alone
//
// IEEE f32 throughout: integers and scales are those of the host twin (src/quantise.rs). Pooled rows are its sums in
// another order.
//
// Bytes: 2 read and 1 written a value. Operations: about 20 a value, all at the full rate but one conversion.
//
// sass: all LDG.E.128 STG.E.64 REDUX ATOMS
#include "kernel.cuh"
#include "head_rows.cuh"
#include "prepare_params.h"
#include "tile_layout.cuh"

namespace {

enum class Smoothing : uint32_t { None = 0, Stored = 1, MeanStored = 2 };

template <int D, class T>
TW_DEVICE void quant_rows(const QuantRowsParams& p) {
  using Rows = HeadRows<D>;
  TW_SHARED(float, sums, Rows::SUMS);
  TW_SHARED(uint32_t, amax, GROUP_LIMIT);
  TW_SHARED(float4, steps, GROUP_LIMIT);
  const TilePlace place = tile_of_block(p.len);
  const Grouping grouping = {p.group_shift, p.lane_shift};
  const Rule rule = static_cast<Rule>(p.rule);
  const Smoothing smoothing = static_cast<Smoothing>(p.smoothing);
  const int column = Rows::column();

  // load the tile, less its mean
  const Global<const uint16_t> x = global(p.x) + (place.problem / p.heads * p.sample_stride + place.problem % p.heads * p.head_stride);
  uint4 chunks[Rows::PASSES];
  Rows::load(chunks, x + place.first_row * p.row_stride, p.row_stride, place.rows);
  if (threadIdx.x < GROUP_LIMIT) amax[threadIdx.x] = 0;
  const Global<const float> means = global(p.means) + (place.problem * D + column);
  if (smoothing == Smoothing::Stored) {
    float mean[CHUNK];
    load_eight(means, mean);
#pragma unroll
    for (int pass = 0; pass < Rows::PASSES; pass++) {
      if (Rows::row(pass) < place.rows) {
        float v[CHUNK];
        unpack<T>(chunks[pass], v);
#pragma unroll
        for (int j = 0; j < CHUNK; j++) v[j] -= mean[j];
        chunks[pass] = pack<T>(v);
      }
    }
  }
  // in f32: what is left of a row's chunk when its mean is not rounded away
  const bool is_wide = smoothing == Smoothing::MeanStored;
  const auto value = [&](int pass, float(&v)[CHUNK]) {
    unpack<T>(chunks[pass], v);
    if (is_wide && Rows::row(pass) < place.rows) {
      float mean[CHUNK];  // from L1: kept, it would cost the registers of a second block
      load_eight(means, mean);
#pragma unroll
      for (int j = 0; j < CHUNK; j++) v[j] -= mean[j];
    }
  };
  block_sync();

  // sums and largest magnitudes, then means and scales
  if (p.pooled != nullptr) Rows::template add_rows<T>(chunks, sums);
  Rows::raise_amax(amax, grouping, p.factor, [&](int pass) {
    if (!is_wide) return largest_of<T>(chunks[pass]);
    float v[CHUNK];
    value(pass, v);
    uint32_t largest = 0;
#pragma unroll
    for (int j = 0; j < CHUNK; j++) largest = max(largest, bits_of(v[j]) & 0x7fffffffu);
    return largest;
  });
  block_sync();
  Rows::find_steps(amax, steps, global(p.scales), place, grouping, p.groups, rule);
  if (p.pooled != nullptr) Rows::template store_means<T>(sums, global(p.pooled), place, p.len, p.pool_rows);
  block_sync();

  // quantise and store; the swizzle of a tile is the same in every pass
  const uint32_t row = static_cast<uint32_t>(Rows::row(0));
  static_assert(Rows::PASS_ROWS * D % KeyTile<D>::Rows::PATTERN_BYTES == 0, "whole patterns in a pass");
  int64_t first = (place.problem * p.len + place.first_row) * D + (row * D + column);
  if (p.is_tiled != 0) {
    first = (place.problem * layout_tiles(p.len) + place.tile() * LAYOUT_PAIR) * KeyTile<D>::BYTES + KeyTile<D>::byte(row, column);
  }
  const Global<int8_t> values = global(p.values) + first;
#pragma unroll
  for (int pass = 0; pass < Rows::PASSES; pass++) {
    if (Rows::row(pass) < place.rows || p.is_tiled != 0) {
      float v[CHUNK];
      value(pass, v);
#pragma unroll
      for (int j = 0; j < CHUNK; j++) v[j] *= p.factor;
      store_vector(values + pass * Rows::PASS_ROWS * D, eight_as_int8(v, Rows::step_at(steps, grouping, pass)));
    }
  }
}

}  // namespace

TW_KERNEL(quant_rows_bf16_d128, QuantRowsParams, THREADS, 2) { quant_rows<128, Bf16>(p); }
TW_KERNEL(quant_rows_bf16_d64, QuantRowsParams, THREADS, 2) { quant_rows<64, Bf16>(p); }
TW_KERNEL(quant_rows_f16_d128, QuantRowsParams, THREADS, 2) { quant_rows<128, F16>(p); }
TW_KERNEL(quant_rows_f16_d64, QuantRowsParams, THREADS, 2) { quant_rows<64, F16>(p); }
