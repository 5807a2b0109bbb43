/* What the kernels of single values take. */
#ifndef TURBOWAN_ELEMENTWISE_PARAMS_H
#define TURBOWAN_ELEMENTWISE_PARAMS_H

#include "params.h"

/** `combine.cu`: a step of a sampler, in f64. */
typedef struct CombineParams {
  double* x;          /**< `[count]`, on 16 bytes. */
  const float* v;     /**< `[count]`, on 16 bytes. */
  const float* noise; /**< `[count]`, on 16 bytes; may be null. */
  int64_t count;      /**< At least 1. */
  double factor;      /**< Of `v`. */
  double scale;       /**< Of the sum of both. */
  float weight;       /**< Of the noise. */
  int32_t unused;     /**< 0. */
} CombineParams;
TW_LAYOUT(CombineParams, 56, unused, 52);

/** `gelu_gate.cu`: `up * gelu(gate)`. */
typedef struct GeluGateParams {
  const tw_bf16* gate; /**< Rows `gate_stride` values apart, on 16 bytes. */
  const tw_bf16* up;   /**< Rows `up_stride` values apart, on 16 bytes. */
  tw_bf16* out;        /**< `[rows, width]`, on 16 bytes. */
  int64_t rows;        /**< At least 1. */
  int64_t width;       /**< A multiple of 8, as the next two. */
  int64_t gate_stride; /**< At least `width`. */
  int64_t up_stride;   /**< At least `width`. */
} GeluGateParams;
TW_LAYOUT(GeluGateParams, 56, up_stride, 48);

/** `residual_gate.cu`: `x += gate * y`. */
typedef struct ResidualGateParams {
  tw_bf16* x;            /**< `[rows, width]`, on 16 bytes. */
  const tw_bf16* y;      /**< `[rows, width]`, on 16 bytes. */
  const float* gate;     /**< `[ceil(rows / rows_per_gate), width]`, on 16 bytes; null: 1. */
  int64_t rows;          /**< At least 1. */
  int64_t width;         /**< A multiple of 8. */
  int64_t rows_per_gate; /**< At least 1. */
} ResidualGateParams;
TW_LAYOUT(ResidualGateParams, 48, rows_per_gate, 40);

/** `sinusoid.cu`: cosines and sines of times. */
typedef struct SinusoidParams {
  const float* times;        /**< `[count]`. */
  const double* frequencies; /**< `[half]`, radians of a unit of time. */
  float* out;                /**< `[count, 2 * half]`; may be null. */
  tw_bf16* out_bf16;         /**< The same rounded to bf16; may be null. */
  int64_t count;             /**< At least 1. */
  int64_t half;              /**< At least 1. */
} SinusoidParams;
TW_LAYOUT(SinusoidParams, 48, half, 40);

#endif
