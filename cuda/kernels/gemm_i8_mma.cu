// int8 GEMM with block scales (W8A8) on mma.sync.
//
//   y[r, c] = sum_b a_scale[r, b] * w_scale[c, b] * ( sum_{k in b} a[r, k] * w[c, k] )      b: 128 consecutive k
//
//   a  [rows, depth] int8, scales [ceil(rows / a_block_rows), depth / 128]       a_block_rows: 128 (official) or 1
//   w  [columns, depth] int8, scales [ceil(columns / 128), depth / 128]          depth a multiple of 128
//
// What follows the sum is gemm_end.cuh; each end is a kernel:
//
//   gemm_i8_mma_store_*       y + bias as bf16, and the squares of each row
//   gemm_i8_mma_store_f32_*   y + bias as f32
//   gemm_i8_mma_quantise_*    gelu(y + bias) as int8 with 1 x 128 scales
//   gemm_i8_mma_add_gated_*   x += gate * (y + bias)
//
//   tile    128 x 128 a block; eight warps, four down and two across, of 32 x 64
//   stages  four, of 128 deep (128 KB, *_k128) or of 64 deep (64 KB, *_k64, for chips with 99 KB); cp.async, 16 bytes
//   shared  a tile's rows are one stage deep and swizzled: copies and ldmatrix are free of conflicts
//   edge    rows past the end of either operand are zeros in shared memory; nothing past the end is stored
//
// The inner sum is an exact integer below 2^21 in magnitude. It starts from the bits of 1.5 * 2^23, so that its bits are
// those of the f32 number 1.5 * 2^23 + sum: a subtraction converts it, where a conversion has a quarter of the rate. The
// outer sum is one fused multiply-add a block, in the order of the blocks: the bits of the host twin (src/ops/gemm_int8).
//
// Bytes: of a and w each tile once from L2; 32 KB and 2^22 operations for a tile of 128 deep.
//
// sass: all LDGSTS.E.BYPASS.128 LDSM.16.M88.4 IMMA.16832.S8.S8 LDG.E.128 STG.E.128
#include "kernel.cuh"
#include "params.h"
#include "ptx.cuh"
#include "tile.cuh"

#include "gemm_end.cuh"
#include "gemm_mma.cuh"

namespace {

constexpr int BLOCK = 128;  // depth of a scale
constexpr int STAGES = 4;

constexpr int32_t SUM_START = 0x4b400000;  // the bits of SUM_START_VALUE
constexpr float SUM_START_VALUE = 12582912.0f;
static_assert(BLOCK * 128 * 128 <= 1 << 21, "a sum leaves the range in which its bits are a number");

// The sums of the block's tile, each thread's fragments of them.
template <int DEPTH>
TW_DEVICE EndPlace gemm(const GemmI8Params& p, float (&sums)[ROW_TILES][COLUMN_TILES][4]) {
  using Operand = Feed<DEPTH, false>;
  constexpr uint32_t STAGE_BYTES = 2 * Operand::BYTES;
  static_assert(END_BYTES <= STAGES * STAGE_BYTES, "the end has no room");
  const uint32_t stages = shared_address(dynamic_shared<int8_t>(0, STAGES * STAGE_BYTES));

  const int lane = lane_index(), warp = warp_index();
  const EndPlace at = place_of(blockIdx.x, p.rows, p.columns, warp, lane);

  Operand a(global(p.a), at.first_row, p.rows, p.depth), w(global(p.w), at.first_column, p.columns, p.depth);
  const uint32_t a_warp = stages + warp / COLUMN_WARPS * ROW_TILES * 16 * DEPTH;
  const uint32_t w_warp = stages + Operand::BYTES + warp % COLUMN_WARPS * COLUMN_TILES * 8 * DEPTH;

  // scales: of the thread's rows, a row past the end taking those of the last one
  const int64_t blocks = p.depth / BLOCK;
  const Global<const float> w_scales = global(p.w_scales) + at.first_column / GEMM_TILE * blocks;
  Global<const float> a_scales[ROW_TILES][2];
#pragma unroll
  for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int64_t row = min(at.first_row + end_row(at, i, half), p.rows - 1);
      a_scales[i][half] = global(p.a_scales) + (p.a_block_rows == 1 ? row : row / BLOCK) * blocks;
    }
  }

  const int64_t steps = p.depth / DEPTH;
#pragma unroll
  for (int step = 0; step < STAGES - 1; step++) {
    if (step < steps) {
      a.copy(stages + step * STAGE_BYTES);
      w.copy(stages + step * STAGE_BYTES + Operand::BYTES);
    }
    cp_async_commit();
  }

  fill_tile(sums, 0.0f);

  int64_t step = 0;
  for (int64_t block = 0; block < blocks; block++) {
    // asked for now, used after the products
    const float w_scale = w_scales[block];
    float scales[ROW_TILES][2];
#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
      for (int half = 0; half < 2; half++) scales[i][half] = a_scales[i][half][block];
    }

    int32_t dots[ROW_TILES][COLUMN_TILES][4];
    fill_tile(dots, SUM_START);

#pragma unroll
    for (int part = 0; part < BLOCK / DEPTH; part++, step++) {
      cp_async_wait_group<STAGES - 2>();
      block_sync();  // all copies of this step are there, and the stage of the step before it is free
      if (step + STAGES - 1 < steps) {
        const uint32_t next = stages + static_cast<uint32_t>(step + STAGES - 1) % STAGES * STAGE_BYTES;
        a.copy(next);
        w.copy(next + Operand::BYTES);
      }
      cp_async_commit();
      const uint32_t offset = static_cast<uint32_t>(step) % STAGES * STAGE_BYTES;
      multiply<DEPTH>(a_warp + offset, w_warp + offset, lane, dots);
    }

#pragma unroll
    for (int i = 0; i < ROW_TILES; i++) {
      const float scale[2] = {scales[i][0] * w_scale, scales[i][1] * w_scale};
#pragma unroll
      for (int j = 0; j < COLUMN_TILES; j++) {
#pragma unroll
        for (int c = 0; c < 4; c++) {
          const float dot = float_of(static_cast<uint32_t>(dots[i][j][c])) - SUM_START_VALUE;
          sums[i][j][c] = fmaf(dot, scale[c / 2], sums[i][j][c]);
        }
      }
    }
  }
  cp_async_wait_group<0>();
  block_sync();  // the stages are free for the end
  return at;
}

template <int DEPTH>
TW_DEVICE void gemm_store(const GemmI8Params& p) {
  TW_SHARED(float, partial, COLUMN_WARPS * GEMM_TILE);
  float sums[ROW_TILES][COLUMN_TILES][4];
  const EndPlace at = gemm<DEPTH>(p, sums);
  end_store<Team, EndRounds::Twice>(p, at, sums, partial);
}

template <int DEPTH>
TW_DEVICE void gemm_store_f32(const GemmI8Params& p) {
  float sums[ROW_TILES][COLUMN_TILES][4];
  const EndPlace at = gemm<DEPTH>(p, sums);
  end_store_f32(p, at, sums);
}

template <int DEPTH>
TW_DEVICE void gemm_quantise(const GemmI8Params& p) {
  TW_SHARED(float, partial, COLUMN_WARPS * GEMM_TILE);
  float sums[ROW_TILES][COLUMN_TILES][4];
  const EndPlace at = gemm<DEPTH>(p, sums);
  end_quantise<Team, EndRounds::Twice>(p, at, sums, partial);
}

template <int DEPTH>
TW_DEVICE void gemm_add_gated(const GemmI8Params& p) {
  float sums[ROW_TILES][COLUMN_TILES][4];
  const EndPlace at = gemm<DEPTH>(p, sums);
  end_add_gated<Team, EndRounds::Twice>(p, at, sums);
}

}  // namespace

TW_KERNEL(gemm_i8_mma_store_k128, GemmI8Params, GEMM_THREADS) { gemm_store<128>(p); }
TW_KERNEL(gemm_i8_mma_store_k64, GemmI8Params, GEMM_THREADS) { gemm_store<64>(p); }
TW_KERNEL(gemm_i8_mma_store_f32_k128, GemmI8Params, GEMM_THREADS) { gemm_store_f32<128>(p); }
TW_KERNEL(gemm_i8_mma_store_f32_k64, GemmI8Params, GEMM_THREADS) { gemm_store_f32<64>(p); }
TW_KERNEL(gemm_i8_mma_quantise_k128, GemmI8Params, GEMM_THREADS) { gemm_quantise<128>(p); }
TW_KERNEL(gemm_i8_mma_quantise_k64, GemmI8Params, GEMM_THREADS) { gemm_quantise<64>(p); }
TW_KERNEL(gemm_i8_mma_add_gated_k128, GemmI8Params, GEMM_THREADS) { gemm_add_gated<128>(p); }
TW_KERNEL(gemm_i8_mma_add_gated_k64, GemmI8Params, GEMM_THREADS) { gemm_add_gated<64>(p); }
