// bf16 GEMM on wgmma, for 9.0: the contract of gemm_bf16_mma.cu.
//
//   y[r, c] = sum_k x[r, k] * w[c, k]      x [rows, depth], w [columns, depth] bf16, depth a multiple of 8
//
//   gemm_bf16_wgmma_store       y + bias as bf16, and the squares of each row
//   gemm_bf16_wgmma_store_f32   y + bias as f32
//   gemm_bf16_wgmma_add_gated   x += gate * (y + bias)
//
//   tile      128 x 256 (gemm_wgmma.cuh); a stage is 64 values deep
//   consumer  64 x 256 in one product of 128 registers; the products of a stage run on while the next are issued
//
// The tile is wide because a product of 256 columns reads its rows half as often: with 256 x 128, as the int8 product has
// it, shared memory would be asked for 144 bytes a clock, and it has 128.
//
// For a stage of 64 values of depth (2^21 products), all predictions but the counts:
//
//   tensor    1024 clocks: 2048 products a clock
//   issue     44 instructions a warp (counted in the machine code), two warps a scheduler: 9%
//   shared    128 KB: 48 written, 80 read by 8 products of 64 x 256 x 16; 128 bytes a clock, which is what there is
//   L2        48 KB: 48 bytes a clock
//
// The end of a tile, some 2500 clocks, overlaps only what the other consumer is behind. At a depth of 5120 (80 stages) that
// leaves 70 to 75% of the peak, at 1536 (24 stages) 65%.
//
// The sum is in f32, in the order of the depth, 16 at a time as the tensor core adds them. Where the bias is added the
// product has not been rounded: y + bias is rounded once.
//
// chips: 90a
// sass: 90a UTMALDG.2D HGMMA.64x256x16.F32.BF16 SYNCS.PHASECHK USETMAXREG STG.E.128
#include "kernel.cuh"
#include "gemm_wgmma_params.h"
#include "ptx.cuh"
#include "tile.cuh"

#include "gemm_wgmma.cuh"

namespace {

struct Bf16Product {
  static constexpr bool IS_TALL = false;
  static constexpr int STEP_VALUES = ROW_BYTES / 2;

  static __device__ __forceinline__ void multiply(const GemmBf16WgmmaParams&, const Pipe& pipe, Turn& turn, const TileIndex&, int consumer,
                                                  int32_t steps, Sums& sums) {
    using Shape = Tiles<IS_TALL>;
    // the fragments of the parts stand in a row, as those of one product twice as wide
    float(&all)[PARTS * COLUMN_TILES * 4] = reinterpret_cast<float(&)[PARTS * COLUMN_TILES * 4]>(sums);
    const uint64_t x_tile = swizzled_descriptor<ROW_BYTES>(pipe.stages + consumer * PART_ROWS * ROW_BYTES, 0);
    const uint64_t w_tile = swizzled_descriptor<ROW_BYTES>(pipe.stages + Shape::ROWS * ROW_BYTES, 0);
    // Zeros to begin with: registers that a first product merely might overwrite make the assembler wait for each product.
#pragma unroll
    for (int i = 0; i < PARTS * COLUMN_TILES * 4; i++) all[i] = 0.0f;
    Turn before = turn;
#pragma unroll 1
    for (int32_t step = 0; step < steps; step++, turn.next()) {
      wait_for_stage(pipe, turn);
      wgmma_fence();
      const uint64_t x = advanced(x_tile, turn.stage * STAGE_BYTES), w = advanced(w_tile, turn.stage * STAGE_BYTES);
#pragma unroll
      for (int depth = 0; depth < ROW_BYTES; depth += 32) {
        wgmma_m64k16_bf16<Shape::COLUMNS>(all, advanced(x, depth), advanced(w, depth), true);
      }
      wgmma_commit();
      wgmma_wait<1>();  // the products of the step before
      if (step != 0) release_stage(pipe, before);
      before = turn;
    }
    wgmma_wait<0>();
    wgmma_pin(all);
    release_stage(pipe, before);
  }
};

TW_DEVICE Shared<float> no_partial() { return Shared<float>{}; }

}  // namespace

TW_KERNEL(gemm_bf16_wgmma_store, GemmBf16WgmmaParams, GEMM_THREADS, 1) {
  gemm_wgmma<Bf16Product>(p, p.x, p.w, [&](const EndPlace& at, auto& y) { end_store<Team, EndRounds::Once>(p.gemm, at, y, no_partial()); });
}

TW_KERNEL(gemm_bf16_wgmma_store_f32, GemmBf16WgmmaParams, GEMM_THREADS, 1) {
  gemm_wgmma<Bf16Product>(p, p.x, p.w, [&](const EndPlace& at, auto& y) { end_store_f32(p.gemm, at, y); });
}

TW_KERNEL(gemm_bf16_wgmma_add_gated, GemmBf16WgmmaParams, GEMM_THREADS, 1) {
  gemm_wgmma<Bf16Product>(p, p.x, p.w, [&](const EndPlace& at, auto& y) { end_add_gated<Team, EndRounds::Once>(p.gemm, at, y); });
}
