// What every kernel file begins with: how a kernel is declared, what its numbers and its pointers are called.
//
// One text serves two compilers. Under nvcc the names below are CUDA's own; under the emulator (TW_EMULATOR) they are
// checked stand-ins. The rules that keep a file fit for both stand at the foot of emulator/emulator.h.
#pragma once
#include <stdint.h>

#ifdef TW_EMULATOR
#include "launch.h"
#include "view.h"
#define TW_DEVICE static inline
// A last parameter that holds the caller's source line, for messages of the emulator.
#define TW_AT , ::emu::Where at = {__builtin_FILE(), __builtin_LINE()}
#define TW_AT_ONLY ::emu::Where at = {__builtin_FILE(), __builtin_LINE()}
#define TW_PASS_AT , at
#define TW_PASS_AT_ONLY at
#else
#define TW_DEVICE __device__ __forceinline__
#define TW_AT
#define TW_AT_ONLY
#define TW_PASS_AT
#define TW_PASS_AT_ONLY
#endif

// TW_KERNEL(name, ParamsType, threads [, blocks per multiprocessor]) { body }, in which the parameters are called `p`.
#ifdef TW_EMULATOR
#define TW_KERNEL(name, Params, ...)                                                                             \
  static void tw_body_of_##name(const Params& p);                                                                \
  static void tw_call_##name(const void* params) { tw_body_of_##name(*static_cast<const Params*>(params)); }     \
  static const ::emu::Registration tw_registration_of_##name(#name, tw_call_##name, sizeof(Params), __VA_ARGS__); \
  static void tw_body_of_##name([[maybe_unused]] const Params& p)
#else
#define TW_KERNEL(name, Params, ...) \
  extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const __grid_constant__ Params p)
#endif

// Numbers that C++ has no name for; ptx_convert.cuh converts them.
struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};
struct e4m3 {
  uint8_t bits;
};

constexpr int WARP = 32;

// Pointers

#ifdef TW_EMULATOR
template <class T>
using Global = ::emu::Global<T>;
template <class T>
using Shared = ::emu::Shared<T>;
#else
template <class T>
using Global = T*;
template <class T>
using Shared = T*;
#endif

// A parameter's pointer, to be used.
template <class T>
TW_DEVICE Global<T> global(T* pointer) {
  return Global<T>(pointer);
}

// The same memory as values of another type; alignment is the caller's word, checked by the emulator at each access.
#ifdef TW_EMULATOR
template <class U, class T>
Global<U> pointer_cast(Global<T> pointer) {
  return pointer.template cast<U>();
}
template <class U, class T>
Shared<U> pointer_cast(Shared<T> pointer) {
  return pointer.template cast<U>();
}
#else
template <class U, class T>
__device__ __forceinline__ U* pointer_cast(T* pointer) {
  return reinterpret_cast<U*>(pointer);
}
#endif

// One access of a whole vector (uint2, uint4, float4, ...) at an address that is a multiple of its size.
#ifdef TW_EMULATOR
template <class V, class T>
V load_vector(Global<T> pointer TW_AT) {
  return pointer.template cast<const V>().read(at);
}
template <class V, class T>
V load_vector(Shared<T> pointer TW_AT) {
  return pointer.template cast<const V>().read(at);
}
template <class V, class T>
void store_vector(Global<T> pointer, V value TW_AT) {
  pointer.template cast<V>().write(value, at);
}
template <class V, class T>
void store_vector(Shared<T> pointer, V value TW_AT) {
  pointer.template cast<V>().write(value, at);
}
// The same for global memory that nobody writes while the kernel runs.
template <class V, class T>
V load_vector_readonly(Global<T> pointer TW_AT) {
  return pointer.template cast<const V>().read(at);
}
#else
template <class V, class T>
__device__ __forceinline__ V load_vector(const T* pointer) {
  return *reinterpret_cast<const V*>(pointer);
}
template <class V, class T>
__device__ __forceinline__ void store_vector(T* pointer, V value) {
  *reinterpret_cast<V*>(pointer) = value;
}
template <class V, class T>
__device__ __forceinline__ V load_vector_readonly(const T* pointer) {
  return __ldg(reinterpret_cast<const V*>(pointer));
}
#endif

// Shared memory

// A static array of the block: TW_SHARED(float, partial, 8); makes `Shared<float> partial`.
#ifdef TW_EMULATOR
#define TW_SHARED(T, name, count)                                                                                          \
  static const char tw_key_of_##name = 0;                                                                                  \
  const uint32_t tw_start_of_##name =                                                                                      \
      ::emu::static_shared(&tw_key_of_##name, sizeof(T) * (count), alignof(T), ::emu::Where{__FILE__, __LINE__});         \
  const Shared<T> name(tw_start_of_##name, tw_start_of_##name, tw_start_of_##name + static_cast<uint32_t>(sizeof(T) * (count)))
#else
#define TW_SHARED(T, name, count)                                \
  __shared__ __align__(16) unsigned char tw_bytes_of_##name[sizeof(T) * (count)]; \
  const Shared<T> name = reinterpret_cast<T*>(tw_bytes_of_##name)
#endif

// `count` values at byte `offset` of the block's dynamic shared memory, which begins at a multiple of 1024.
template <class T>
#ifdef TW_EMULATOR
Shared<T> dynamic_shared(uint32_t offset, uint32_t count TW_AT) {
  const uint32_t start = ::emu::dynamic_shared(offset, uint64_t{sizeof(T)} * count, alignof(T), at);
  return Shared<T>(start, start, start + static_cast<uint32_t>(sizeof(T)) * count);
}
#else
__device__ __forceinline__ Shared<T> dynamic_shared(uint32_t offset, uint32_t /*count*/) {
  extern __shared__ __align__(1024) unsigned char tw_dynamic_shared[];
  return reinterpret_cast<T*>(tw_dynamic_shared + offset);
}
#endif

// The address that PTX instructions take.
template <class T>
#ifdef TW_EMULATOR
uint32_t shared_address(Shared<T> pointer) {
  return pointer.address();
}
#else
__device__ __forceinline__ uint32_t shared_address(const T* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
#endif
