/* What the kernels that only move values take. */
#ifndef TURBOWAN_GATHER_PARAMS_H
#define TURBOWAN_GATHER_PARAMS_H

#include "params.h"

/** `embedding.cu`: rows of a table, by their numbers. */
typedef struct EmbeddingParams {
  const tw_bf16* table;   /**< `[table_rows, width]`, on 16 bytes; null where the table is f32. */
  const float* table_f32; /**< The same in f32, on 16 bytes; null where it is bf16. */
  const uint32_t* ids;    /**< `[count]`. */
  tw_bf16* out;           /**< `[count, width]`, on 16 bytes. */
  int64_t count;          /**< At least 1. */
  int64_t table_rows;     /**< At least 1. */
  int64_t width;          /**< A multiple of 8. */
} EmbeddingParams;
TW_LAYOUT(EmbeddingParams, 56, width, 48);

/** `patch.cu`: planes become rows of patches. */
typedef struct PatchParams {
  const double* x;       /**< `[samples, channels, frames, height, width]`, on 16 bytes; null where they are f32. */
  const float* x_f32;    /**< The same in f32, on 8 bytes; null where they are f64. */
  tw_bf16* out;          /**< `[samples * tokens, row_width]`, on 8 bytes. */
  int64_t samples;       /**< At least 1, as the next four. */
  int64_t channels;      /**< Of these planes. */
  int64_t frames;        /**< Planes of a channel. */
  int64_t height;        /**< Even. */
  int64_t width;         /**< Even. */
  int64_t row_width;     /**< Features of a row: four times all channels. */
  int64_t first_channel; /**< Where these channels begin in a row. */
} PatchParams;
TW_LAYOUT(PatchParams, 80, first_channel, 72);

/** `patch.cu`: rows of patches become planes. */
typedef struct UnpatchParams {
  const float* rows; /**< `[samples * tokens, 4 * channels]`, the channel fastest. */
  float* out;        /**< `[samples, channels, frames, height, width]`, on 8 bytes. */
  int64_t samples;   /**< At least 1, as the next four. */
  int64_t channels;  /**< Of a sample. */
  int64_t frames;    /**< Planes of a channel. */
  int64_t height;    /**< Even. */
  int64_t width;     /**< Even. */
} UnpatchParams;
TW_LAYOUT(UnpatchParams, 56, width, 48);

#endif
