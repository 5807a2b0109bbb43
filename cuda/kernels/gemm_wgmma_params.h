/* Parameters of the GEMMs on wgmma: those of the GEMMs on mma.sync, and both operands as tensor maps. */
#ifndef TURBOWAN_GEMM_WGMMA_PARAMS_H
#define TURBOWAN_GEMM_WGMMA_PARAMS_H

#include "params.h"
#include "tensor_map.h"

/** `gemm_i8_wgmma.cu`: the int8 product with block scales, and what follows it (`gemm_end.cuh`). */
typedef struct GemmI8WgmmaParams {
  tw_tensor_map a;   /**< `[rows, depth]` in tiles of 256 x 128, with the 128-byte swizzle. */
  tw_tensor_map w;   /**< `[columns, depth]` in tiles of 128 x 128, with the 128-byte swizzle. */
  GemmI8Params gemm; /**< All else. */
} GemmI8WgmmaParams;
TW_LAYOUT(GemmI8WgmmaParams, 512, gemm, 384);

/** `gemm_bf16_wgmma.cu`: the dense product, and what follows it (`gemm_end.cuh`). */
typedef struct GemmBf16WgmmaParams {
  tw_tensor_map x;     /**< `[rows, depth]` in tiles of 128 x 64, with the 128-byte swizzle. */
  tw_tensor_map w;     /**< `[columns, depth]` in tiles of 256 x 64, with the 128-byte swizzle. */
  GemmBf16Params gemm; /**< All else. */
} GemmBf16WgmmaParams;
TW_LAYOUT(GemmBf16WgmmaParams, 512, gemm, 384);

#endif
