/* The parameter structs of the autoencoder's kernels; params.h tells how they are read. */
#ifndef TURBOWAN_CONV3D_PARAMS_H
#define TURBOWAN_CONV3D_PARAMS_H

#include "params.h"

/** `conv3d_mma.cu`, `conv3d_wgmma.cu`: causal convolution of channels-last frames. */
typedef struct Conv3dParams {
  const tw_bf16* frames[8];  /**< The window, the oldest first: `[height, width, channels]` each, on 16 bytes; null in the absent ones. */
  const tw_bf16* weight;     /**< Packed (`conv3d_tile.cuh`), on 16 bytes. */
  const tw_bf16* bias;       /**< Of every channel of the panels, on 4 bytes. */
  const tw_bf16* residual;   /**< As `out`, on 16 bytes, or null. */
  tw_bf16* out;              /**< Frames: `[out_frames * parts, out_height, out_width, out_channels]`, on 16 bytes. */
  const tw_bf16* gamma;      /**< `[out_channels]`, zero past the channels, on 16 bytes: of the norm. */
  tw_bf16* normed;           /**< As `out`, on 16 bytes: its norm and SiLU, or null. A panel then has all channels; `out` may be null. */
  float* out_f32;            /**< `[out_frames, out_height, out_width, 3]`: of the pixels, or null. */
  uint8_t* out_bytes;        /**< The same as bytes, or null. */
  int64_t height;            /**< Lines of a frame. */
  int64_t width;             /**< Its columns; `height * width` is below 2^31. */
  int64_t channels;          /**< Of a pixel as it is stored: a multiple of 8. */
  int64_t out_height;        /**< Lines of an output frame. */
  int64_t out_width;         /**< Its columns; `out_height * out_width` is below 2^31. */
  int64_t out_channels;      /**< Of a pixel of a part as it is stored: a multiple of 8. */
  int32_t panels;            /**< Panels of output channels, of all parts. */
  int32_t parts;             /**< Frames that the output channels make: 1 or 2. */
  int32_t kernel_frames;     /**< Frames of the kernel, at least 1. */
  int32_t time_stride;       /**< Frames of the window from an output frame to the next. */
  int32_t absent;            /**< How many of the oldest frames of the window are absent: they count as zero. */
  int32_t norm_channels;     /**< Channels that the norm counts. */
  int32_t norm_lanes;        /**< As of `VaeNormParams`. */
  float limit;               /**< Of the magnitude of a pixel in `out_f32`. */
} Conv3dParams;
TW_LAYOUT(Conv3dParams, 208, limit, 204);

/** `vae_norm.cu`: the norm of a pixel's channels, and SiLU. */
typedef struct VaeNormParams {
  const tw_bf16* x;      /**< `[pixels, stored]`, on 16 bytes. */
  const tw_bf16* gamma;  /**< `[stored]`, zero past the channels, on 16 bytes. */
  tw_bf16* out;          /**< `[pixels, stored]`, on 16 bytes; may be `x`. */
  int64_t pixels;        /**< At least 1. */
  int64_t stored;        /**< Channels of a pixel as it is stored: a multiple of 8, at most 1024. */
  int32_t channels;      /**< At least 1, at most `stored`. */
  int32_t lanes;         /**< That share a pixel: a power of two up to 32, at least `stored / 32`. */
} VaeNormParams;
TW_LAYOUT(VaeNormParams, 48, lanes, 44);

/** `softmax_rows.cu`: the softmax of rows of scores. */
typedef struct SoftmaxRowsParams {
  const float* scores;     /**< `[rows, columns]`, on 4 bytes. */
  tw_bf16* probabilities;  /**< `[rows, out_stride]`, on 2 bytes; zero past the columns. */
  int64_t rows;            /**< At least 1. */
  int64_t columns;         /**< At least 1. */
  int64_t out_stride;      /**< At least `columns`. */
  float scale;             /**< Of a score, with log2(e). */
  int32_t unused;          /**< 0. */
} SoftmaxRowsParams;
TW_LAYOUT(SoftmaxRowsParams, 48, unused, 44);

/** `transpose.cu`: rows become columns. */
typedef struct TransposeParams {
  const tw_bf16* x;    /**< `[rows, columns]`, on 2 bytes. */
  tw_bf16* out;        /**< `[columns, out_stride]`, on 2 bytes; zero past the rows. */
  int64_t rows;        /**< At least 1. */
  int64_t columns;     /**< At least 1. */
  int64_t out_stride;  /**< At least `rows`. */
} TransposeParams;
TW_LAYOUT(TransposeParams, 40, out_stride, 32);

#endif
