/* The parameter structs of the kernels that prepare the operands of INT8 attention. A problem is one head of one sample;
 * lengths and strides count values. A 16-bit value is bf16 or f16, as the kernel's name says.
 */
#ifndef TURBOWAN_SAGE_PREPARE_PARAMS_H
#define TURBOWAN_SAGE_PREPARE_PARAMS_H

#include "params.h"

/** `mean_keys.cu`: sums over every 64 rows of each head. */
typedef struct SumRowsParams {
  const uint16_t* x;     /**< Rows of a head at the strides below, on 16 bytes. */
  float* sums;           /**< `[problems, ceil(len / 64), D]`. */
  int64_t len;           /**< Rows of a head, at least 1. */
  int64_t heads;         /**< Of a sample. */
  int64_t sample_stride; /**< A multiple of 8, as the next two. */
  int64_t head_stride;   /**< Values from a head to the next. */
  int64_t row_stride;    /**< Values from a row to the next. */
} SumRowsParams;
TW_LAYOUT(SumRowsParams, 56, row_stride, 48);

/** `mean_keys.cu`: the mean row of each head from those sums. */
typedef struct MeanRowsParams {
  const float* sums; /**< `[problems, parts, width]`. */
  float* means;      /**< `[problems, width]`. */
  int64_t parts;     /**< Sums of a channel, at least 1. */
  int64_t width;     /**< A multiple of 8. */
  int64_t len;       /**< Rows that were summed, at least 1. */
  const float* maxima; /**< `[problems, tiles, width]`, magnitudes; may be null. */
  uint32_t* amax;    /**< `[problems, width]`, the largest of them as bits of f32; null with `maxima`. */
  int64_t tiles;     /**< Maxima of a channel. */
  int32_t is_f16;    /**< 1: means are rounded to f16; 0: to bf16. */
  int32_t reserved;  /**< 0. */
} MeanRowsParams;
TW_LAYOUT(MeanRowsParams, 72, reserved, 68);

/** `quant_rows.cu`: rows of each head become int8, with a scale for each group of rows. */
typedef struct QuantRowsParams {
  const uint16_t* x;     /**< Rows of a head at the strides below, on 16 bytes. */
  const float* means;    /**< `[problems, D]`, on 16 bytes; null with `smoothing` 0. */
  int8_t* values;        /**< `[problems, len, D]` on 8 bytes, or K tiles (`tile_layout.cuh`) on 16. */
  float* scales;         /**< `[problems, groups]`. */
  uint16_t* pooled;      /**< `[problems, ceil(len / pool_rows), D]`, means of blocks; may be null. */
  int64_t len;           /**< Rows of a head, at least 1. */
  int64_t heads;         /**< Of a sample. */
  int64_t sample_stride; /**< A multiple of 8, as the next two. */
  int64_t head_stride;   /**< Values from a head to the next. */
  int64_t row_stride;    /**< Values from a row to the next. */
  int64_t groups;        /**< Scales of a head. */
  uint32_t group_shift;  /**< Group of row r: `(r >> group_shift << (3 - lane_shift)) + (r % 8 >> lane_shift)`; from 4 to 7. */
  uint32_t lane_shift;   /**< 0: rows equal modulo 8 share a scale; 1: pairs of them; 3: all rows of a group. */
  uint32_t rule;         /**< 0: half away; 1: half away, epsilon; 2: half even (`int8_rules.cuh`). */
  uint32_t smoothing;    /**< 0: none; 1: the difference is rounded to the format of `x`; 2: it stays in f32. */
  uint32_t pool_rows;    /**< 64 or 128. */
  uint32_t is_tiled;     /**< 1: K tiles. */
  float factor;          /**< Multiplies the rows before they are quantised. */
  uint32_t reserved;     /**< 0. */
} QuantRowsParams;
TW_LAYOUT(QuantRowsParams, 120, reserved, 116);

/** `quant_values.cu`: largest magnitude of each channel; values as e4m3. */
typedef struct QuantValuesParams {
  const uint16_t* x;     /**< Rows of a head at the strides below, on 16 bytes. */
  uint32_t* amax;        /**< `[problems, D]`, bits of f32, raised by the first kernel and read by the second. */
  uint8_t* values;       /**< `[problems, D, padded_len]`, or V tiles (`tile_layout.cuh`); on 16 bytes. */
  float* scales;         /**< `[problems, D]`. */
  int64_t len;           /**< Rows of a head, at least 1. */
  int64_t heads;         /**< Of a sample. */
  int64_t sample_stride; /**< A multiple of 8, as the next two. */
  int64_t head_stride;   /**< Values from a head to the next. */
  int64_t row_stride;    /**< Values from a row to the next. */
  int64_t padded_len;    /**< Keys of a channel, a multiple of 64, below `len + 128`. */
  float scale_max;       /**< What the largest magnitude of a channel becomes: above 0, at most 448. */
  uint32_t is_tiled;     /**< 1: V tiles. */
} QuantValuesParams;
TW_LAYOUT(QuantValuesParams, 88, is_tiled, 84);

/** `quant_values.cu`: bf16 values as f16. */
typedef struct CastValuesParams {
  const tw_bf16* x; /**< On 16 bytes. */
  tw_f16* values;   /**< On 16 bytes. */
  int64_t count;    /**< Values, a multiple of 8, at least 8. */
} CastValuesParams;
TW_LAYOUT(CastValuesParams, 24, count, 16);

/** `qk_prep.cu`: from the projections' queries and keys to what attention reads of them. */
typedef struct QkPrepParams {
  const tw_bf16* q;       /**< Rows of `heads * D`, `q_stride` values apart, on 16 bytes. */
  const tw_bf16* k;       /**< The same at `k_stride`. */
  const float* q_squares; /**< Sums of squares over parts of a row of `q`, rows `q_parts_stride` apart. */
  const float* k_squares; /**< The same of `k`. */
  const float* q_weight;  /**< `[heads * D]`, on 16 bytes. */
  const float* k_weight;  /**< `[heads * D]`, on 16 bytes. */
  const float* turns;     /**< `[positions, D / 2, 2]`, on 8 bytes. */
  tw_bf16* q_out;         /**< `[problems, tokens, D]`, on 16 bytes; may be null. */
  tw_bf16* k_out;         /**< `[problems, tokens, D]`, on 16 bytes. */
  int8_t* q_values;       /**< `[problems, tokens, D]`, on 8 bytes. */
  float* q_scales;        /**< `[problems, q_groups]`. */
  tw_bf16* q_pooled;      /**< `[problems, ceil(tokens / pool_rows), D]`; may be null. */
  float* k_sums;          /**< `[problems, ceil(tokens / 64), D]`. */
  const tw_bf16* v;       /**< Rows of `heads * D`, `v_stride` values apart, on 16 bytes; may be null. */
  tw_f16* v_out;          /**< `[samples, tokens, heads, D]`, on 16 bytes; null with `v`, or where the maxima are asked for. */
  float* v_maxima;        /**< `[problems, ceil(tokens / 128), D]`: largest magnitudes; null with `v`, or where `v_out` is not. */
  int64_t tokens;         /**< Of a sample, at least 1. */
  int64_t heads;          /**< Of a sample, at least 1. */
  int64_t q_stride;       /**< A multiple of 8. */
  int64_t k_stride;       /**< A multiple of 8. */
  int64_t v_stride;       /**< A multiple of 8. */
  int64_t parts;          /**< Sums of squares of a row, at least 1. */
  int64_t q_parts_stride; /**< From a row's sums to the next row's. */
  int64_t k_parts_stride; /**< The same of the keys. */
  int64_t q_groups;       /**< Scales of a head. */
  uint32_t group_shift;   /**< As in `QuantRowsParams`, of the queries. */
  uint32_t lane_shift;    /**< As in `QuantRowsParams`. */
  uint32_t rule;          /**< As in `QuantRowsParams`. */
  uint32_t pool_rows;     /**< 64 or 128. */
  uint32_t block_heads;   /**< Heads that a block prepares, at least 1. */
  uint32_t rounds_twice;  /**< 1: rounded also before the weight. */
  uint32_t height;        /**< Tokens of a frame's height. */
  uint32_t breadth;       /**< Tokens of a frame's width. */
  float eps;              /**< Added to the mean square. */
  float factor;           /**< Multiplies the queries before they are quantised. */
} QkPrepParams;
TW_LAYOUT(QkPrepParams, 240, factor, 236);

#endif
