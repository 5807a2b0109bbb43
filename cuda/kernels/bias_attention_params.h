/* What `bias_attention.cu` takes. */
#ifndef TURBOWAN_BIAS_ATTENTION_PARAMS_H
#define TURBOWAN_BIAS_ATTENTION_PARAMS_H

#include "params.h"

/** `bias_attention.cu`: attention without a scale, with a bias of each head for every distance. */
typedef struct BiasAttentionParams {
  const tw_bf16* q;   /**< Rows of `heads * head_dim` values, `stride` values apart, on 16 bytes. */
  const tw_bf16* k;   /**< As `q`. */
  const tw_bf16* v;   /**< As `q`. */
  const float* bias;  /**< `[heads, rows + keys - 1]`: of key j and query i at j - i + rows - 1. */
  tw_bf16* out;       /**< `[rows, heads * head_dim]`, on 16 bytes. */
  int64_t rows;       /**< At least 1. */
  int64_t keys;       /**< Rows that are seen, from 1 to `rows`. */
  int64_t heads;      /**< At least 1. */
  int64_t head_dim;   /**< A multiple of 8, at most 64. */
  int64_t stride;     /**< A multiple of 8. */
} BiasAttentionParams;
TW_LAYOUT(BiasAttentionParams, 80, stride, 72);

#endif
