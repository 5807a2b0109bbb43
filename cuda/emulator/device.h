// Included before a .cu file in place of the CUDA headers: the words of CUDA C++ as g++ understands them.
#pragma once
#ifndef TW_EMULATOR
#define TW_EMULATOR 1
#endif
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __grid_constant__

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
};

#define TW_VECTOR2(name, type, bytes)                                \
  struct alignas(bytes) name {                                       \
    type x, y;                                                       \
  };                                                                 \
  inline name make_##name(type x, type y) { return name{x, y}; }
#define TW_VECTOR4(name, type, bytes)                                \
  struct alignas(bytes) name {                                       \
    type x, y, z, w;                                                 \
  };                                                                 \
  inline name make_##name(type x, type y, type z, type w) { return name{x, y, z, w}; }
TW_VECTOR2(int2, int, 8)
TW_VECTOR4(int4, int, 16)
TW_VECTOR2(uint2, unsigned, 8)
TW_VECTOR4(uint4, unsigned, 16)
TW_VECTOR2(float2, float, 8)
TW_VECTOR4(float4, float, 16)
TW_VECTOR2(ushort2, unsigned short, 4)
TW_VECTOR4(ushort4, unsigned short, 8)
TW_VECTOR4(char4, signed char, 4)
TW_VECTOR4(uchar4, unsigned char, 4)
TW_VECTOR2(double2, double, 16)
#undef TW_VECTOR2
#undef TW_VECTOR4

#define TW_LEAST_AND_GREATEST(type)                            \
  constexpr type min(type a, type b) { return b < a ? b : a; } \
  constexpr type max(type a, type b) { return a < b ? b : a; }
TW_LEAST_AND_GREATEST(int)
TW_LEAST_AND_GREATEST(unsigned)
TW_LEAST_AND_GREATEST(long)
TW_LEAST_AND_GREATEST(unsigned long)
TW_LEAST_AND_GREATEST(long long)
TW_LEAST_AND_GREATEST(unsigned long long)
#undef TW_LEAST_AND_GREATEST

// In a namespace of its own, so that an argument of this type does not make the emulator's functions candidates.
namespace emu_source {
// A place in the source, taken where a function is called.
struct Where {
  const char* file;
  int line;
};
}  // namespace emu_source

namespace emu {

using emu_source::Where;

uint3 thread_index();
uint3 block_index();
dim3 block_size();
dim3 grid_size();

}  // namespace emu

#define threadIdx (::emu::thread_index())
#define blockIdx (::emu::block_index())
#define blockDim (::emu::block_size())
#define gridDim (::emu::grid_size())
