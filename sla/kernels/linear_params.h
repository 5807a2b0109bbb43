/* What the kernels of the linear branch take. A problem is one head of one sample; D is the head dim; strides count values.
 * Lengths and strides are 64-bit. A pointer may be null where its comment says so.
 */
#ifndef TURBOWAN_LINEAR_PARAMS_H
#define TURBOWAN_LINEAR_PARAMS_H

#include "params.h"

/** `linear_state.cu`: sums over chunks of rows of a head. */
typedef struct LinearStateParams {
  const tw_bf16* x;      /**< Rows of D that become features, on 16 bytes. */
  const tw_bf16* y;      /**< Rows of D at the y strides, on 16 bytes. */
  const float* scales;   /**< `[problems, len]`: a factor of each row of `y`; null in the plain form. */
  const float* weights;  /**< `[problems, len]`: a factor of each row's features in their sum; null in the plain form. */
  float* partial;        /**< `[problems, chunks, D + 1, D]`, with scales `D + 2`; on 8 bytes. */
  int64_t len;           /**< Rows of a head, at least 1. */
  int64_t heads;         /**< Of a sample. */
  int64_t sample_stride; /**< A multiple of 8, as the next two. */
  int64_t head_stride;   /**< Values from a head to the next. */
  int64_t row_stride;    /**< Values from a row to the next. */
  int64_t y_sample_stride; /**< A multiple of 8, as the next two. */
  int64_t y_head_stride; /**< Values from a head to the next. */
  int64_t y_row_stride;  /**< Values from a row to the next. */
  int64_t chunk_rows;    /**< Rows of a chunk, a multiple of 32. */
  int64_t chunks;        /**< `ceil(len / chunk_rows)`. */
  int32_t features;      /**< 0 softmax, 1 elu + 1, 2 relu. */
  int32_t unused;        /**< 0. */
} LinearStateParams;
TW_LAYOUT(LinearStateParams, 128, unused, 124);

/** `linear_state.cu`: the chunks of each head added in order. */
typedef struct LinearReduceParams {
  const float* partial; /**< `[problems, chunks, values]`, on 16 bytes. */
  float* state;         /**< `[problems, values]`, on 16 bytes. */
  int64_t problems;     /**< At least 1. */
  int64_t chunks;       /**< At least 1. */
  int64_t values;       /**< A multiple of 4. */
} LinearReduceParams;
TW_LAYOUT(LinearReduceParams, 40, values, 32);

/** `linear_fold.cu`: a projection folded into the sums of each head. */
typedef struct LinearFoldParams {
  const float* state;   /**< `[problems, chunks, state_rows, D]`: of the chunks' sum, rows before D are folded; on 16 bytes. */
  const float* weight;  /**< `[D, D]`, on 16 bytes; null: the state as it is. */
  tw_bf16* folded;      /**< `[problems, D + 1, D]`, on 16 bytes. */
  int64_t problems;     /**< At least 1. */
  int64_t chunks;       /**< At least 1. */
  int64_t state_rows;   /**< At least D + 1. */
  int32_t is_transposed; /**< 1: the state times the transpose of `weight`. */
  int32_t unused;       /**< 0. */
} LinearFoldParams;
TW_LAYOUT(LinearFoldParams, 56, unused, 52);

/** `linear_apply.cu`: the branch's rows, alone or added to others. */
typedef struct LinearApplyParams {
  const tw_bf16* q;      /**< Rows of D, on 16 bytes. */
  const tw_bf16* folded; /**< `[problems, D + 1, D]`, on 16 bytes. */
  const float* bias;     /**< `[D]`, on 16 bytes, or null. */
  tw_bf16* out;          /**< Rows of D, the strides of `q`, on 16 bytes. */
  int64_t len;           /**< Rows of a head, at least 1. */
  int64_t heads;         /**< Of a sample. */
  int64_t sample_stride; /**< A multiple of 8, as the next two. */
  int64_t head_stride;   /**< Values from a head to the next. */
  int64_t row_stride;    /**< Values from a row to the next. */
  int32_t features;      /**< 0 softmax, 1 elu + 1, 2 relu. */
  int32_t adds;          /**< 1: added to what `out` holds. */
} LinearApplyParams;
TW_LAYOUT(LinearApplyParams, 80, adds, 76);

/** `linear_gradient.cu`: gradients of rows, of the queries or of the keys and values. */
typedef struct LinearGradientParams {
  const tw_bf16* x;      /**< Queries, or keys: rows of D, on 16 bytes. */
  const tw_bf16* u;      /**< The output's gradient, or values: rows of D, the strides of `x`, on 16 bytes. */
  const tw_bf16* folded; /**< `[problems, D + 1, D]`: H', or dH; on 16 bytes. */
  const float* state;    /**< `[problems, state_rows, D]`, whose row D is read: z, or dz; on 16 bytes. */
  float* x_gradient;     /**< Rows of D at the gradients' strides, on 16 bytes. */
  float* u_gradient;     /**< Of the values, as `x_gradient`; null for queries. */
  float* scales;         /**< `[problems, len]`: 1 / denominator; null for keys. */
  float* weights;        /**< `[problems, len]`: gradient of the denominator; null for keys. */
  int64_t len;           /**< Rows of a head, at least 1. */
  int64_t heads;         /**< Of a sample. */
  int64_t sample_stride; /**< A multiple of 8, as the next two. */
  int64_t head_stride;   /**< Values from a head to the next. */
  int64_t row_stride;    /**< Values from a row to the next. */
  int64_t state_rows;    /**< At least D + 1. */
  int32_t features;      /**< 0 softmax, 1 elu + 1, 2 relu. */
  int32_t adds;          /**< 1: added to what the gradients hold. */
} LinearGradientParams;
TW_LAYOUT(LinearGradientParams, 120, adds, 116);

/** `linear_weight.cu`: gradients of the projection. */
typedef struct LinearWeightParams {
  const float* state;    /**< `[problems, D + 1, D]`: H and z; on 16 bytes. */
  const float* gradient; /**< `[problems, D + 2, D]`: M, dz and the sum of the output's gradient; on 16 bytes. */
  float* weight;         /**< `[D, D]`. */
  float* bias;           /**< `[D]`. */
  int64_t problems;      /**< At least 1. */
} LinearWeightParams;
TW_LAYOUT(LinearWeightParams, 40, problems, 32);

#endif
