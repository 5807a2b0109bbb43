/* A tensor map: what the copy engine of 9.0 chips knows of a matrix in global memory, and of the tiles it is cut into.
 *
 * It is a part of a parameter struct, by value. Its first 128 bytes are the driver's and opaque; on the emulator they are
 * the words named below. `src/device/tensor_map.rs` writes both, and notes in `first` and `last` which memory the map
 * points into, so that a launch is checked as one with pointers is.
 */
#ifndef TURBOWAN_TENSOR_MAP_H
#define TURBOWAN_TENSOR_MAP_H

#include <stdint.h>

typedef struct tw_tensor_map {
#ifdef __cplusplus
  alignas(64)
#else
  _Alignas(64)
#endif
  uint64_t bits[16];
  uint64_t first, last; /* addresses of the first and of the last byte of the matrix */
  uint64_t unused[6];   /* 0 */
} tw_tensor_map;

/* The emulator's words: axes count from the innermost, whose values are contiguous; there are at most three. */
#define TW_MAP_MAGIC 0x70616d726f736e74u
enum {
  TW_MAP_WORD_MAGIC = 0,
  TW_MAP_WORD_ADDRESS = 1,
  TW_MAP_WORD_VALUE = 2,   /* bytes of a value */
  TW_MAP_WORD_AXES = 3,    /* 2 or 3 */
  TW_MAP_WORD_SWIZZLE = 4, /* bytes of a swizzled row: 32, 64, 128; 0 without a swizzle */
  TW_MAP_WORD_SIZES = 5,   /* three: values along each axis */
  TW_MAP_WORD_STRIDES = 8, /* two: bytes between neighbours along the second and the third axis */
  TW_MAP_WORD_TILE = 10,   /* three: values of a tile along each axis */
  TW_MAP_WORD_END = 13     /* from here on zeros */
};

#endif
