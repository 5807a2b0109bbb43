// bf16 GEMM on mma.sync: the dense product of a linear layer.
//
//   y[r, c] = sum_k x[r, k] * w[c, k]      x [rows, depth], w [columns, depth] bf16, depth a multiple of 8
//
// What follows the sum is gemm_end.cuh; each end is a kernel:
//
//   gemm_bf16_mma_store       y + bias as bf16, and the squares of each row
//   gemm_bf16_mma_store_f32   y + bias as f32
//   gemm_bf16_mma_add_gated   x += gate * (y + bias)
//
//   tile    128 x 128 a block; eight warps, four down and two across, of 32 x 64
//   stages  three, of 64 deep (96 KB: every chip has them); cp.async, 16 bytes
//   edge    rows past the end of either operand, and the depth past its end, are zeros in shared memory; nothing past the
//           end is stored
//
// The sum is in f32, in the order of the depth, 16 at a time as the tensor core adds them. Where the bias is added the
// product has not been rounded: y + bias is rounded once.
//
// sass: all LDGSTS.E.BYPASS.128 LDSM.16.M88.4 HMMA.16816.F32.BF16 LDG.E.128 STG.E.128
#include "kernel.cuh"
#include "params.h"
#include "ptx.cuh"
#include "tile.cuh"

#include "gemm_end.cuh"
#include "gemm_mma.cuh"

namespace {

constexpr int STAGES = 3;
constexpr int ROW_BYTES = 128;
using Operand = Feed<ROW_BYTES, true>;
constexpr uint32_t STAGE_BYTES = 2 * Operand::BYTES;
static_assert(END_BYTES <= STAGES * STAGE_BYTES, "the end has no room");

// The sums of the block's tile, each thread's fragments of them.
TW_DEVICE EndPlace gemm(const GemmBf16Params& p, float (&sums)[ROW_TILES][COLUMN_TILES][4]) {
  const uint32_t stages = shared_address(dynamic_shared<int8_t>(0, STAGES * STAGE_BYTES));
  const int lane = lane_index(), warp = warp_index();
  const EndPlace at = place_of(blockIdx.x, p.rows, p.columns, warp, lane);

  const int64_t row_bytes = p.depth * 2;
  Operand x(pointer_cast<const int8_t>(global(p.x)), at.first_row, p.rows, row_bytes);
  Operand w(pointer_cast<const int8_t>(global(p.w)), at.first_column, p.columns, row_bytes);
  const uint32_t x_warp = stages + warp / COLUMN_WARPS * ROW_TILES * 16 * ROW_BYTES;
  const uint32_t w_warp = stages + Operand::BYTES + warp % COLUMN_WARPS * COLUMN_TILES * 8 * ROW_BYTES;

  const int64_t steps = (row_bytes + ROW_BYTES - 1) / ROW_BYTES;
#pragma unroll
  for (int step = 0; step < STAGES - 1; step++) {
    if (step < steps) {
      x.copy(stages + step * STAGE_BYTES);
      w.copy(stages + step * STAGE_BYTES + Operand::BYTES);
    }
    cp_async_commit();
  }

  fill_tile(sums, 0.0f);
  uint32_t now = 0, next = (STAGES - 1) * STAGE_BYTES;  // offsets of the stages to read and to fill
  for (int64_t step = 0; step < steps; step++) {
    cp_async_wait_group<STAGES - 2>();
    block_sync();  // all copies of this step are there, and the stage of the step before it is free
    if (step + STAGES - 1 < steps) {
      x.copy(stages + next);
      w.copy(stages + next + Operand::BYTES);
    }
    cp_async_commit();
    multiply<ROW_BYTES>(x_warp + now, w_warp + now, lane, sums);
    next = now;
    now = now == (STAGES - 1) * STAGE_BYTES ? 0 : now + STAGE_BYTES;
  }
  cp_async_wait_group<0>();
  block_sync();  // the stages are free for the end
  return at;
}

}  // namespace

TW_KERNEL(gemm_bf16_mma_store, GemmBf16Params, GEMM_THREADS) {
  TW_SHARED(float, partial, COLUMN_WARPS * GEMM_TILE);
  float sums[ROW_TILES][COLUMN_TILES][4];
  const EndPlace at = gemm(p, sums);
  end_store<Team, EndRounds::Once>(p, at, sums, partial);
}

TW_KERNEL(gemm_bf16_mma_store_f32, GemmBf16Params, GEMM_THREADS) {
  float sums[ROW_TILES][COLUMN_TILES][4];
  const EndPlace at = gemm(p, sums);
  end_store_f32(p, at, sums);
}

TW_KERNEL(gemm_bf16_mma_add_gated, GemmBf16Params, GEMM_THREADS) {
  float sums[ROW_TILES][COLUMN_TILES][4];
  const EndPlace at = gemm(p, sums);
  end_add_gated<Team, EndRounds::Once>(p, at, sums);
}
