/* The parameter structs of the kernels: what a kernel takes, by value, as its only argument.
 *
 * Read by nvcc and by the emulator's build as C++, and by bindgen as C: `src/device/params.rs` is its output, checked in,
 * and a test regenerates and compares it. Sizes and offsets are asserted on both sides, so a struct that the three read
 * differently does not compile. Lengths and strides are 64-bit. A pointer may be null where its comment says so.
 */
#ifndef TURBOWAN_PARAMS_H
#define TURBOWAN_PARAMS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define TW_STATIC_ASSERT(fact) static_assert(fact, #fact)
#else
#define TW_STATIC_ASSERT(fact) _Static_assert(fact, #fact)
#endif
/* Bytes of a struct, and where its last member starts: members before it are held in place by both. */
#define TW_LAYOUT(type, bytes, last, offset)     \
  TW_STATIC_ASSERT(sizeof(type) == (bytes));     \
  TW_STATIC_ASSERT(offsetof(type, last) == (offset))

/* Number formats that C has no name for, by their bits. */
typedef uint16_t tw_bf16;

/** `quant_block.cu`: rows become int8, with a scale for each block. */
typedef struct QuantBlockParams {
  const tw_bf16* x; /**< `[rows, width]`, on 16 bytes. */
  int8_t* values;   /**< `[rows, width]`, on 8 bytes. */
  float* scales;    /**< `[ceil(rows / block_rows), width / 128]`. */
  int64_t rows;     /**< At least 1. */
  int64_t width;    /**< A multiple of 128, at least 128. */
} QuantBlockParams;
TW_LAYOUT(QuantBlockParams, 40, width, 32);

#endif
