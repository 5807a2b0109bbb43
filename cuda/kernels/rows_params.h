/* What the kernels take that a transformer needs around its products: activations, modulation, small products in f32. */
#ifndef TURBOWAN_ROWS_PARAMS_H
#define TURBOWAN_ROWS_PARAMS_H

#include "params.h"

/** `activate.cu`: a function of single values. */
typedef struct ActivateParams {
  const tw_bf16* x;   /**< `[count]`, on 16 bytes; null where the values are f32. */
  const float* x_f32; /**< The same in f32, on 16 bytes; null where they are bf16. */
  tw_bf16* out;       /**< `[count]` for bf16 values, on 16 bytes; may be `x`. */
  float* out_f32;     /**< `[count]` for f32 values, on 16 bytes; may be `x_f32`. */
  int64_t count;      /**< A multiple of 8, at least 8. */
  int32_t function;   /**< 0: GELU, tanh form; 1: GELU, exact form; 2: SiLU. */
  int32_t unused;     /**< 0. */
} ActivateParams;
TW_LAYOUT(ActivateParams, 48, unused, 44);

/** `modulation.cu`: a table plus what the time gives. */
typedef struct ModulationParams {
  const float* table; /**< `[chunks, width]`, on 16 bytes. */
  const float* e;     /**< `[batch, e_chunks * width]`, on 16 bytes. */
  float* out;         /**< `[chunks, batch, width]`, on 16 bytes. */
  int64_t chunks;     /**< Of all tables, at least 1. */
  int64_t batch;      /**< At least 1. */
  int64_t width;      /**< A multiple of 4. */
  int64_t e_chunks;   /**< Chunks of a row of `e`; chunk c of the tables takes `c % e_chunks`. */
  uint64_t rounded;   /**< Bit i: the chunks that take chunk i are rounded to bf16. */
} ModulationParams;
TW_LAYOUT(ModulationParams, 64, rounded, 56);

/** `modulation.cu`: rows times one more than a scale, plus a shift, in f32. */
typedef struct ModulateParams {
  const tw_bf16* x;       /**< `[rows, width]`, on 16 bytes. */
  const float* shift;     /**< `[ceil(rows / rows_per_group), width]`, on 16 bytes. */
  const float* scale;     /**< As `shift`. */
  float* out;             /**< `[rows, width]`, on 16 bytes. */
  int64_t rows;           /**< At least 1. */
  int64_t width;          /**< A multiple of 8. */
  int64_t rows_per_group; /**< At least 1. */
} ModulateParams;
TW_LAYOUT(ModulateParams, 56, rows_per_group, 48);

/** `linear_f32.cu`: a linear layer over f32 rows. */
typedef struct LinearF32Params {
  const float* x;      /**< `[rows, depth]`, on 16 bytes. */
  const tw_bf16* w;    /**< `[columns, depth]`, on 8 bytes. */
  const tw_bf16* bias; /**< `[columns]`; may be null. */
  float* out;          /**< `[rows, columns]`. */
  int64_t rows;        /**< At least 1. */
  int64_t columns;     /**< At least 1. */
  int64_t depth;       /**< A multiple of 4, at least 4. */
} LinearF32Params;
TW_LAYOUT(LinearF32Params, 56, depth, 48);

/** `not_finite.cu`: where values cease to be numbers. */
typedef struct NotFiniteParams {
  const tw_bf16* x;   /**< `[count]`, on 16 bytes; null where the values are f32. */
  const float* x_f32; /**< The same in f32, on 16 bytes; null where they are bf16. */
  uint32_t* found;    /**< One value, 0 before: 2^32 - 1 less the first chunk of 8 with such a value, or still 0. */
  int64_t count;      /**< A multiple of 8, below 2^35 - 8. */
} NotFiniteParams;
TW_LAYOUT(NotFiniteParams, 32, count, 24);

#endif
