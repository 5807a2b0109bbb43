// Parameters of the kernels in instructions.cu, each of which carries out one kind of instruction.
#pragma once
#include <stdint.h>

// One product: operands as bytes, results as 4-byte words.
struct ProductParams {
  const uint8_t* a;  // mma: [16][32]; wgmma: an image of shared memory, then [64][32 * steps] when A is in registers
  const uint8_t* b;  // mma: [8][32], transposed [16][8] of 16 bits; wgmma: an image of shared memory
  uint32_t* d;       // [rows][columns], read and written
  uint32_t kind;     // emu::Kind's order: s8, f16, bf16, e4m3, f16 to f16, e4m3 to f16
  uint32_t columns;
  uint32_t a_bytes, b_bytes;              // of the images
  uint32_t a_leading, a_stride, b_leading, b_stride, swizzle;
  uint32_t from_registers, transposed_a, transposed_b;
  uint32_t through_shared;  // mma: by ldmatrix
  uint32_t pad;
};

// Everything a warp or a block does, one word per thread and operation.
struct WarpParams {
  const uint32_t* in;  // [threads]
  uint32_t* out;       // [WARP_OPERATIONS][threads]
  uint32_t* counter;   // [2]
};
constexpr int WARP_OPERATIONS = 20, WARP_THREADS = 128;

// Copies of 4, 8 and 16 bytes, of which some are zeros.
struct CopyParams {
  const uint8_t* in;   // [3][128][16]
  uint8_t* out;        // [3][128][16]
};

// values go round: a warp hands its number to the next by named barriers and by an mbarrier that is polled.
struct RelayParams {
  uint32_t* out;  // [rounds][2]
  uint32_t rounds, pad;
};
