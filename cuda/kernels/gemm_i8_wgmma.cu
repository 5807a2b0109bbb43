// int8 GEMM with block scales (W8A8) on wgmma, for 9.0: the contract and the bits of gemm_i8_mma.cu.
//
//   y[r, c] = sum_b a_scale[r, b] * w_scale[c, b] * ( sum_{k in b} a[r, k] * w[c, k] )      b: 128 consecutive k
//
//   gemm_i8_wgmma_store       y + bias as bf16, and the squares of each row
//   gemm_i8_wgmma_store_f32   y + bias as f32
//   gemm_i8_wgmma_quantise    gelu(y + bias) as int8 with 1 x 128 scales
//   gemm_i8_wgmma_add_gated   x += gate * (y + bias)
//
//   tile      256 x 128 (gemm_wgmma.cuh); a stage is one block of the sum
//   consumer  128 x 128 in two parts: 128 registers of sums, and 64 of s32 that the parts take in turn
//
// A part's exact sum becomes f32 by a conversion (I2FP) and a fused multiply-add, in the order of the blocks: the bits of the
// host twin (src/ops/gemm_int8). The numbers that mma.sync starts from in place of a conversion would have to be written
// into 64 registers before every part, while the tensor core waits for them: 384 instructions a block where this takes 256.
// There is no second set of s32 registers: while one consumer converts, the other multiplies. A tile of 128 x 128 would have
// room for one (64 + 64 + 64), yet it asks L2 for a third more, which decides.
//
// For a block of the sum, 128 deep (2^22 products), all predictions but the counts:
//
//   tensor    1024 clocks: 4096 products a clock
//   issue     342 instructions a warp (counted in the machine code: 128 I2FP, 128 FFMA, 8 IGMMA), two warps a scheduler: 67%
//   convert   32768 at 64 a clock: 512 clocks of that pipe
//   shared    144 KB: 48 written, 96 read by 16 products of 64 x 128 x 32; at 128 bytes a clock 1152 clocks, or 89% of peak
//   L2        48 KB: 48 bytes a clock
//
// The end of a tile, some 2500 clocks, overlaps only what the other consumer is behind. At a depth of 5120 (40 blocks) that
// leaves 65 to 70% of the peak, at 1536 (12 blocks) 55 to 60%.
//
// chips: 90a
// sass: 90a UTMALDG.2D IGMMA.64x128x32.S8.S8 SYNCS.PHASECHK USETMAXREG I2FP.F32.S32 STG.E.128
#include "kernel.cuh"
#include "gemm_wgmma_params.h"
#include "ptx.cuh"
#include "tile.cuh"

#include "gemm_wgmma.cuh"

namespace {

constexpr int BLOCK = 128;  // depth of a scale

struct Int8Product {
  static constexpr bool IS_TALL = true;
  static constexpr int STEP_VALUES = BLOCK;
  static_assert(STEP_VALUES == ROW_BYTES, "a stage is a block");

  static __device__ __forceinline__ void multiply(const GemmI8WgmmaParams& p, const Pipe& pipe, Turn& turn, const TileIndex& tile,
                                                  int consumer, int32_t steps, Sums& sums) {
    // Scales: of the thread's rows, a row past the end taking those of the last one, then of the columns. Those of a step
    // are asked for in the middle of the step before, so that no product waits for them.
    constexpr int ROW_SCALES = 2 * PARTS;
    Global<const float> scale_at[ROW_SCALES + 1];
    float asked[ROW_SCALES + 1];
#pragma unroll
    for (int i = 0; i < ROW_SCALES; i++) {
      const EndPlace at = place_of<IS_TALL>(tile, consumer, i / 2);
      const int64_t row = min(at.first_row + end_row(at, 0, i % 2), p.gemm.rows - 1);
      scale_at[i] = global(p.gemm.a_scales) + (p.gemm.a_block_rows == 1 ? row : row / BLOCK) * steps;
    }
    scale_at[ROW_SCALES] = global(p.gemm.w_scales) + static_cast<int64_t>(tile.column) * steps;
#pragma unroll
    for (int i = 0; i <= ROW_SCALES; i++) asked[i] = scale_at[i][0];

#pragma unroll
    for (int part = 0; part < PARTS; part++) {
#pragma unroll
      for (int j = 0; j < COLUMN_TILES; j++) {
#pragma unroll
        for (int c = 0; c < 4; c++) sums[part][0][j][c] = 0.0f;
      }
    }

    const uint64_t a_tile = swizzled_descriptor<ROW_BYTES>(pipe.stages + consumer * PARTS * PART_ROWS * ROW_BYTES, 0);
    const uint64_t w_tile = swizzled_descriptor<ROW_BYTES>(pipe.stages + Tiles<IS_TALL>::ROWS * ROW_BYTES, 0);
#pragma unroll 1
    for (int32_t step = 0; step < steps; step++, turn.next()) {
      follow(pipe, turn, consumer);
      wait_for_stage(pipe, turn);

      const uint64_t a = advanced(a_tile, turn.stage * STAGE_BYTES), w = advanced(w_tile, turn.stage * STAGE_BYTES);
      int32_t dots[4 * COLUMN_TILES];
      float scales[ROW_SCALES];
#pragma unroll
      for (int part = 0; part < PARTS; part++) {
        wgmma_fence();
#pragma unroll
        for (int depth = 0; depth < ROW_BYTES; depth += 32) {
          wgmma_m64k32_s8<GEMM_TILE>(dots, advanced(a, part * PART_ROWS * ROW_BYTES + depth), advanced(w, depth), depth != 0);
        }
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_pin(dots);
        if (part == 0) {
          lead(pipe, turn, consumer);
          const int ahead = step + 1 < steps;  // the last step asks for its own once more
#pragma unroll
          for (int i = 0; i < ROW_SCALES; i++) scales[i] = asked[i] * asked[ROW_SCALES];
#pragma unroll
          for (int i = 0; i <= ROW_SCALES; i++) {
            scale_at[i] += ahead;
            asked[i] = scale_at[i][0];
          }
        }
        if (part == PARTS - 1) release_stage(pipe, turn);

#pragma unroll
        for (int j = 0; j < COLUMN_TILES; j++) {
#pragma unroll
          for (int c = 0; c < 4; c++) {
            float& sum = sums[part][0][j][c];
            sum = fmaf(to_f32(dots[4 * j + c]), scales[2 * part + c / 2], sum);
          }
        }
      }
    }
  }
};

TW_DEVICE Shared<float> no_partial() { return Shared<float>{}; }

}  // namespace

TW_KERNEL(gemm_i8_wgmma_store, GemmI8WgmmaParams, GEMM_THREADS, 1) {
  gemm_wgmma<Int8Product>(p, p.a, p.w, [&](const EndPlace& at, auto& y) { end_store<Team, EndRounds::Twice>(p.gemm, at, y, no_partial()); });
}

TW_KERNEL(gemm_i8_wgmma_store_f32, GemmI8WgmmaParams, GEMM_THREADS, 1) {
  gemm_wgmma<Int8Product>(p, p.a, p.w, [&](const EndPlace& at, auto& y) { end_store_f32(p.gemm, at, y); });
}

TW_KERNEL(gemm_i8_wgmma_quantise, GemmI8WgmmaParams, GEMM_THREADS, 1) {
  gemm_wgmma<Int8Product>(p, p.a, p.w, [&](const EndPlace& at, auto& y) { end_quantise<Team, EndRounds::Twice>(p.gemm, at, y, no_partial()); });
}

TW_KERNEL(gemm_i8_wgmma_add_gated, GemmI8WgmmaParams, GEMM_THREADS, 1) {
  gemm_wgmma<Int8Product>(p, p.a, p.w, [&](const EndPlace& at, auto& y) { end_add_gated<Team, EndRounds::Twice>(p.gemm, at, y); });
}
