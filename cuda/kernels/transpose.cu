// Rows become columns: values [tokens, channels] as the operand [channels, tokens] of a product over the tokens.
//
//   out[c, r] = x[r, c]
//
//   x     [rows, columns]         bf16
//   out   [columns, out_stride]   bf16; zero from `rows` to `out_stride`, so that the product may be deeper
//
//   tile    SIDE x SIDE a block, through shared memory, whose rows are padded by one pair; grid.x = their number
//   thread  one column of every STEP-th row, then one row of every STEP-th column: both sides are read and written along rows
//   edge    what lies past the rows is zero; nothing is stored past `columns` and `out_stride`
//
// Bytes: 2 read and 2 written a value.
//
// sass: all LDG.E.U16 STG.E.U16
#include "conv3d_params.h"
#include "kernel.cuh"
#include "ptx.cuh"

namespace {

constexpr int THREADS = 256, SIDE = 64, STEP = THREADS / SIDE, PITCH = SIDE + 2;

}  // namespace

TW_KERNEL(transpose, TransposeParams, THREADS) {
  TW_SHARED(tw_bf16, tile, SIDE * PITCH);
  const Global<const tw_bf16> x = global(p.x);
  const Global<tw_bf16> out = global(p.out);
  const uint32_t tiles_across = static_cast<uint32_t>((p.columns + SIDE - 1) / SIDE);  // their product is the grid
  const int64_t first_row = static_cast<int64_t>(blockIdx.x / tiles_across) * SIDE;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x % tiles_across) * SIDE;
  const int lane = static_cast<int>(threadIdx.x) % SIDE, first = static_cast<int>(threadIdx.x) / SIDE;

#pragma unroll 4
  for (int row = first; row < SIDE; row += STEP) {
    tw_bf16 value = 0;
    if (first_row + row < p.rows && first_column + lane < p.columns) value = x[(first_row + row) * p.columns + first_column + lane];
    tile[row * PITCH + lane] = value;
  }
  block_sync();
#pragma unroll 4
  for (int column = first; column < SIDE; column += STEP) {
    if (first_column + column < p.columns && first_row + lane < p.out_stride) {
      const tw_bf16 value = tile[lane * PITCH + column];
      out[(first_column + column) * p.out_stride + first_row + lane] = value;
    }
  }
}
