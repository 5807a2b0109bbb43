/* What the exact attention kernels take, forward and backward; `src/device/params/attend.rs` is bindgen's reading of it. A
 * problem is one head of one sample. Strides count values: queries, output and their gradients lie at the query strides,
 * keys, values and theirs at the key strides. */
#ifndef TURBOWAN_ATTEND_PARAMS_H
#define TURBOWAN_ATTEND_PARAMS_H

#include "params.h"

/** `attend_fwd.cu`, `attend_fwd_wgmma.cu`: softmax attention in bf16, over all keys or over the lists of a block map. */
typedef struct AttendParams {
  const tw_bf16* q;      /**< `query_len` rows a problem at the query strides, on 16 bytes. */
  const tw_bf16* k;      /**< `key_len` rows a problem at the key strides, on 16 bytes. */
  const tw_bf16* v;      /**< As `k`. */
  const uint32_t* lists; /**< `[problems, ceil(query_len / block_q), kept]` key blocks, ascending; null when dense. */
  tw_bf16* out;          /**< As `q`; null with `out_values`. */
  float* lse;            /**< `[problems, query_len]`, base-2 logarithm of the softmax denominator; may be null. */
  const float* squares;  /**< `[samples, query_len, parts]`: sums of squares of the rows of all heads; null: no norm. */
  int8_t* out_values;    /**< Rows of D = 128 at the query strides, on 16 bytes; null with `out`. */
  float* out_scales;     /**< `[samples, query_len, heads]`; null with `out`. */
  int64_t parts;         /**< Sums of a row of `squares`. */
  int64_t query_len;     /**< At least 1. */
  int64_t key_len;       /**< At least 1. */
  int64_t heads;         /**< Of a sample. */
  int64_t query_sample;  /**< From one sample to the next. */
  int64_t query_head;    /**< From one head to the next. */
  int64_t query_row;     /**< From one row to the next: a multiple of 8. */
  int64_t key_sample;    /**< 0 where all samples share their keys. */
  int64_t key_head;      /**< From one head to the next. */
  int64_t key_row;       /**< From one row to the next: a multiple of 8. */
  uint32_t block_q;      /**< Query rows of a block of the map, a multiple of the kernel's tile; 0 when dense. */
  uint32_t block_k;      /**< Key rows of a block of the map, a multiple of 64; 0 when dense. */
  uint32_t kept;         /**< Key blocks of a list, at least 1; 0 when dense. */
  uint32_t causal;       /**< 1: query i sees the keys up to i. */
  float factor;          /**< What makes q . k a base-2 logarithm: the scale of the scores times log2(e); positive. */
  float width;           /**< Values of a row of all heads, of whose squares `squares` has the sums. */
  float eps;             /**< Added to their mean. */
  uint32_t unused;       /**< 0. */
} AttendParams;
TW_LAYOUT(AttendParams, 184, unused, 180);

/** `attend_bwd_dq.cu`, then `attend_bwd_dkdv.cu`: gradients of the same, from the operands, the output and its logarithms. */
typedef struct AttendBackwardParams {
  const tw_bf16* q;            /**< `query_len` rows a problem at the query strides, on 16 bytes. */
  const tw_bf16* k;            /**< `key_len` rows a problem at the key strides, on 16 bytes. */
  const tw_bf16* v;            /**< As `k`. */
  const tw_bf16* out;          /**< As `q`: what the forward pass gave. */
  const tw_bf16* out_gradient; /**< As `q`. */
  const float* lse;            /**< `[problems, query_len]`: what the forward pass gave. */
  const uint32_t* lists;       /**< `[problems, ceil(query_len / block_q), kept]`; null when dense. */
  const uint32_t* inverse;     /**< What `inverse_map.cu` made of the lists; null when dense. */
  float* delta;                /**< `[problems, query_len]`, out . out_gradient: dq writes it, dkdv reads it. */
  float* dq;                   /**< At the query strides, on 8 bytes. */
  float* dk;                   /**< At the key strides, on 8 bytes. */
  float* dv;                   /**< As `dk`. */
  int64_t query_len;           /**< At least 1. */
  int64_t key_len;             /**< At least 1. */
  int64_t heads;               /**< Of a sample. */
  int64_t query_sample;        /**< From one sample to the next. */
  int64_t query_head;          /**< From one head to the next. */
  int64_t query_row;           /**< From one row to the next: a multiple of 8. */
  int64_t key_sample;          /**< From one sample to the next. */
  int64_t key_head;            /**< From one head to the next. */
  int64_t key_row;             /**< From one row to the next: a multiple of 8. */
  uint32_t block_q;            /**< Query rows of a block of the map, a multiple of the kernel's tile; 0 when dense. */
  uint32_t block_k;            /**< Key rows of a block of the map, a multiple of 64; 0 when dense. */
  uint32_t kept;               /**< Key blocks of a list, at least 1; 0 when dense. */
  uint32_t causal;             /**< 1: query i sees the keys up to i. */
  float scale;                 /**< Of the scores; positive. */
  float factor;                /**< The scale times log2(e). */
} AttendBackwardParams;
TW_LAYOUT(AttendBackwardParams, 192, factor, 188);

/** `inverse_map.cu`: for each key block the query blocks that keep it. */
typedef struct InverseMapParams {
  const uint32_t* lists; /**< `[problems, query_blocks, kept]` key blocks, each once in a list. */
  uint32_t* inverse;     /**< `[problems, key_blocks, ceil(query_blocks / 32)]`: bit i of word w is query block 32 w + i. */
  int64_t query_blocks;  /**< At least 1. */
  int64_t key_blocks;    /**< At least 1. */
  int64_t kept;          /**< From 1 to `key_blocks`. */
} InverseMapParams;
TW_LAYOUT(InverseMapParams, 40, kept, 32);

#endif
