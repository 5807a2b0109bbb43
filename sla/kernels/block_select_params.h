/* What `block_select.cu` takes; `src/device/params/block_select.rs` is bindgen's reading of it. */
#ifndef TURBOWAN_BLOCK_SELECT_PARAMS_H
#define TURBOWAN_BLOCK_SELECT_PARAMS_H

#include "params.h"

/** `block_select.cu`: the key blocks of the largest scores. */
typedef struct BlockSelectParams {
  const tw_bf16* q;     /**< `[problems, query_blocks, head_dim]`, on 16 bytes. */
  const tw_bf16* k;     /**< `[problems, key_blocks, head_dim]`, on 16 bytes. */
  uint32_t* lists;      /**< `[problems, query_blocks, kept]`. */
  int64_t query_blocks; /**< At least 1. */
  int64_t key_blocks;   /**< At least 1. */
  int64_t head_dim;     /**< A multiple of 16, at most 256. */
  int64_t kept;         /**< From 1 to `key_blocks`. */
} BlockSelectParams;
TW_LAYOUT(BlockSelectParams, 56, kept, 48);

#endif
