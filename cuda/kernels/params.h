/* The parameter structs of the kernels: what a kernel takes, by value, as its only argument.
 *
 * Read by nvcc and by the emulator's build as C++, and by bindgen as C: `src/device/params/dense.rs` is its output, checked in,
 * and a test regenerates and compares it. Sizes and offsets are asserted on both sides, so a struct that the three read
 * differently does not compile. Lengths and strides are 64-bit. A pointer may be null where its comment says so.
 */
#ifndef TURBOWAN_PARAMS_H
#define TURBOWAN_PARAMS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define TW_STATIC_ASSERT(fact) static_assert(fact, #fact)
#else
#define TW_STATIC_ASSERT(fact) _Static_assert(fact, #fact)
#endif
/* Bytes of a struct, and where its last member starts: members before it are held in place by both. */
#define TW_LAYOUT(type, bytes, last, offset)     \
  TW_STATIC_ASSERT(sizeof(type) == (bytes));     \
  TW_STATIC_ASSERT(offsetof(type, last) == (offset))

/* Number formats that C has no name for, by their bits. */
typedef uint16_t tw_bf16;
typedef uint16_t tw_f16;

/** `quant_block.cu`: rows become int8, with a scale for each block. */
typedef struct QuantBlockParams {
  const tw_bf16* x; /**< `[rows, width]`, on 16 bytes. */
  int8_t* values;   /**< `[rows, blocks * 128]`, on 8 bytes: blocks are ceil(width / 128). */
  float* scales;    /**< `[ceil(rows / block_rows), blocks]`. */
  int64_t rows;     /**< At least 1. */
  int64_t width;    /**< A multiple of 8, at least 8. */
} QuantBlockParams;
TW_LAYOUT(QuantBlockParams, 40, width, 32);

/** `norm_mod_quant.cu`: layer norm, modulation or affine, bf16 and int8 rows out. */
typedef struct NormModQuantParams {
  const tw_bf16* x;       /**< `[rows, width]`, on 16 bytes. */
  const float* factors;   /**< Modulation: scale `[groups, width]`; affine: weight `[width]`. On 16 bytes. */
  const float* offsets;   /**< Modulation: shift `[groups, width]`; affine: bias `[width]`. On 16 bytes. */
  tw_bf16* out;           /**< `[rows, width]`, on 16 bytes; may be null. */
  int8_t* values;         /**< `[rows, blocks * 128]`, on 8 bytes; may be null. Blocks are ceil(width / 128). */
  float* scales;          /**< `[rows, blocks]`; null with `values`. */
  int64_t width;          /**< A multiple of 8, at most 5120. */
  int64_t rows_per_group; /**< At least 1; affine: at least all rows. */
  float eps;              /**< Added to the variance. */
  float padding;          /**< Zero columns that the variance counts. */
  int32_t is_modulation;  /**< 1 or 0. */
  int32_t unused;         /**< 0. */
} NormModQuantParams;
TW_LAYOUT(NormModQuantParams, 80, unused, 76);

/** `rms_rope.cu`: RMS norm and rotary embedding. */
typedef struct RmsRopeParams {
  const tw_bf16* x;     /**< Rows `x_stride` values apart, on 16 bytes. */
  const float* weight;  /**< `[width]`, on 16 bytes. */
  const float* turns;   /**< `[positions, head_dim / 2, 2]`, on 8 bytes; null: no rotation. */
  tw_bf16* out;         /**< On 16 bytes, by the strides below. */
  int64_t width;        /**< A multiple of `head_dim`; at most 5120. */
  int64_t x_stride;     /**< A multiple of 8. */
  int64_t tokens;       /**< Rows of a sample, at least 1. */
  int64_t out_batch;    /**< Values from a sample to the next, a multiple of 8, as the next two. */
  int64_t out_head;     /**< Values from a head to the next. */
  int64_t out_token;    /**< Values from a token to the next. */
  int32_t head_dim;     /**< A multiple of 8; at most 256 where there are turns. */
  int32_t height;       /**< Tokens of a frame's height. */
  int32_t breadth;      /**< Tokens of a frame's width. */
  int32_t rounds_twice; /**< 1: also before the weight. */
  float eps;            /**< Added to the mean square. */
  int32_t unused;       /**< 0. */
} RmsRopeParams;
TW_LAYOUT(RmsRopeParams, 104, unused, 100);

/** `gemm_i8_mma.cu`: the int8 product with block scales, and what follows it (`gemm_end.cuh`). */
typedef struct GemmI8Params {
  const int8_t* a;       /**< `[rows, depth]`, on 16 bytes. */
  const float* a_scales; /**< `[ceil(rows / a_block_rows), depth / 128]`. */
  const int8_t* w;       /**< `[columns, depth]`, on 16 bytes. */
  const float* w_scales; /**< `[ceil(columns / 128), depth / 128]`. */
  const tw_bf16* bias;   /**< `[columns]`, on 4 bytes, or null. */
  tw_bf16* out_bf16;     /**< `[rows, columns]`, on 16 bytes: of a store; of a gated sum, added to. */
  float* out_f32;        /**< `[rows, columns]`, on 8 bytes: of a store in f32. */
  float* row_sums;       /**< `[rows, ceil(columns / 128)]`, sums of squares: of a store, or null. */
  int8_t* out_values;    /**< `[rows, ceil(columns / 128) * 128]`, on 16 bytes: of a quantised end. */
  float* out_scales;     /**< `[rows, ceil(columns / 128)]`: of a quantised end. */
  const float* gate;     /**< `[ceil(rows / rows_per_gate), columns]`, on 16 bytes: of a gated sum. */
  int64_t rows;          /**< At least 1. */
  int64_t columns;       /**< At least 1. */
  int64_t depth;         /**< A multiple of 128, at least 128. */
  int64_t a_block_rows;  /**< 1 or 128. */
  int64_t rows_per_gate; /**< At least 1 in a gated sum. */
} GemmI8Params;
TW_LAYOUT(GemmI8Params, 128, rows_per_gate, 120);

/** `gemm_bf16_mma.cu`: the dense product, and what follows it (`gemm_end.cuh`). */
typedef struct GemmBf16Params {
  const tw_bf16* x;      /**< `[rows, depth]`, on 16 bytes. */
  const tw_bf16* w;      /**< `[columns, depth]`, on 16 bytes. */
  const tw_bf16* bias;   /**< `[columns]`, on 4 bytes, or null. */
  tw_bf16* out_bf16;     /**< `[rows, columns]`, on 16 bytes: of a store; of a gated sum, added to. */
  float* out_f32;        /**< `[rows, columns]`, on 8 bytes: of a store in f32. */
  float* row_sums;       /**< `[rows, ceil(columns / 128)]`, sums of squares: of a store, or null. */
  const float* gate;     /**< `[ceil(rows / rows_per_gate), columns]`, on 16 bytes: of a gated sum. */
  int64_t rows;          /**< At least 1. */
  int64_t columns;       /**< At least 1. */
  int64_t depth;         /**< A multiple of 8, at least 8. */
  int64_t rows_per_gate; /**< At least 1 in a gated sum. */
} GemmBf16Params;
TW_LAYOUT(GemmBf16Params, 88, rows_per_gate, 80);

#endif
