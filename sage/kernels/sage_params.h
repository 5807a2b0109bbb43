/* The parameter struct of the attention kernels: read by nvcc and by the emulator's build, and by bindgen, whose output is
 * `src/device/params.rs`. Strides count values.
 */
#ifndef TURBOWAN_SAGE_PARAMS_H
#define TURBOWAN_SAGE_PARAMS_H

#include "params.h"

/* How the rows of the added term become features. */
#define SAGE_FEATURE_SOFTMAX 0
#define SAGE_FEATURE_ELU 1
#define SAGE_FEATURE_RELU 2

/** The attention kernels: attention over quantised operands, and what may be added to it (`attention_end.cuh`). A problem is
 * one head of one sample. Tiled keys and values (`sage_attn_wgmma.cu`) are those of `tile_layout.cuh`. */
typedef struct SageAttnParams {
  const int8_t* q;         /**< `[problems, query_len, D]`, on 16 bytes. */
  const float* q_scales;   /**< `[problems, q_groups]`. */
  const int8_t* k;         /**< `[problems, key_len, D]`, or tiled; on 16 bytes. */
  const float* k_scales;   /**< `[problems, k_groups]`. */
  const tw_f16* v_f16;     /**< Rows of D f16 at the v strides, on 16 bytes; null for e4m3. */
  const uint8_t* v_e4m3;   /**< `[problems, D, v_row_stride]` e4m3, keys permuted in each 16, or tiled; on 16 bytes; null for f16. */
  const float* v_scales;   /**< `[problems, D]` of e4m3 values; null for f16. */
  const uint32_t* lut;     /**< `[problems, ceil(query_len / block_q), kept]` key blocks, ascending; null when dense. */
  tw_bf16* out;            /**< Rows of D bf16 at the out strides, on 16 bytes; null with out_values. */
  float* lse;              /**< `[problems, query_len]` natural log-sum-exp of the scores; may be null. */
  int8_t* out_values;      /**< Rows of D = 128 int8 at the out strides, on 16 bytes; null with out. */
  float* out_scales;       /**< `[samples, query_len, heads]`; null with out. */
  const tw_bf16* added_q;  /**< `[problems, query_len, D]`, on 16 bytes; null: nothing is added. */
  const tw_bf16* added_state; /**< `[problems, D + 1, D]`, on 16 bytes: M transposed, then z; null with added_q. */
  const float* added_bias; /**< `[D]`, on 8 bytes; may be null. */
  int64_t query_len;       /**< At least 1. */
  int64_t key_len;         /**< At least 1. */
  int64_t heads;           /**< Of a sample. */
  int64_t v_sample_stride; /**< Of f16 values, as the next. */
  int64_t v_head_stride;   /**< From a head to the next. */
  int64_t v_row_stride;    /**< Of e4m3 values: keys of a channel, padding included, a multiple of 64. */
  int64_t out_sample_stride; /**< From a sample to the next. */
  int64_t out_head_stride; /**< From a head to the next. */
  int64_t out_row_stride;  /**< From a row to the next. */
  int64_t q_groups;        /**< Scales of a head. */
  int64_t k_groups;        /**< Scales of a head. */
  uint32_t q_group_rows;   /**< Group of query row r: r / q_group_rows * q_group_lanes + r % q_group_lanes. */
  uint32_t q_group_lanes;  /**< 1, or 8. */
  uint32_t k_group_rows;   /**< Group of key row r: r / k_group_rows * k_group_lanes + r / 2 % k_group_lanes. */
  uint32_t k_group_lanes;  /**< 1, or 4; `k_group_rows` is a multiple of 64. */
  uint32_t block_q;        /**< Query rows of a block of the map, a multiple of the kernel's tile; 0 when dense. */
  uint32_t block_k;        /**< Key rows of a block of the map, a multiple of 64; 0 when dense. */
  uint32_t kept;           /**< Key blocks of a list, at least 1; 0 when dense. */
  uint32_t causal;         /**< 1: query i sees keys up to i. */
  float score_scale;       /**< What makes q . k a base-2 logarithm: log2(e) / sqrt(head dim), or 1 where q holds it. */
  uint32_t feature;        /**< Of the added term: a SAGE_FEATURE. */
} SageAttnParams;
TW_LAYOUT(SageAttnParams, 248, feature, 244);
TW_STATIC_ASSERT(offsetof(SageAttnParams, lse) == 72 && offsetof(SageAttnParams, k_groups) == 200);
TW_STATIC_ASSERT(offsetof(SageAttnParams, score_scale) == 240);

#endif
