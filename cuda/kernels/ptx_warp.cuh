// Instructions of a warp and of a block. Included by ptx.cuh. All 32 lanes take part in each.
#pragma once
#include "kernel.cuh"

TW_DEVICE int lane_index() { return static_cast<int>(threadIdx.x % WARP); }

// Of blocks in one dimension; the same value in all lanes, and the compiler is told so. By all lanes.
TW_DEVICE int warp_index() {
#ifdef TW_EMULATOR
  return static_cast<int>(threadIdx.x / WARP);
#else
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x / WARP), 0);
#endif
}

// Orders the memory accesses of the lanes.
TW_DEVICE void warp_sync(TW_AT_ONLY) {
#ifdef TW_EMULATOR
  emu::warp_sync(at);
#else
  __syncwarp();
#endif
}

// Shuffles, of 4-byte values

#ifdef TW_EMULATOR
template <class T>
T shuffle_bits(T value, emu::Shuffle kind, uint32_t operand, emu::Where at) {
  static_assert(sizeof(T) == 4, "a shuffle moves four bytes");
  uint32_t bits;
  memcpy(&bits, &value, 4);
  bits = emu::shuffle(bits, kind, operand, at);
  memcpy(&value, &bits, 4);
  return value;
}
#endif

// The value of lane `source`.
template <class T>
TW_DEVICE T shuffle(T value, int source TW_AT) {
#ifdef TW_EMULATOR
  return shuffle_bits(value, emu::Shuffle::Index, static_cast<uint32_t>(source), at);
#else
  return __shfl_sync(0xffffffffu, value, source);
#endif
}

// The value of the lane whose index differs in the bits of `mask`.
template <class T>
TW_DEVICE T shuffle_xor(T value, int mask TW_AT) {
#ifdef TW_EMULATOR
  return shuffle_bits(value, emu::Shuffle::Xor, static_cast<uint32_t>(mask), at);
#else
  return __shfl_xor_sync(0xffffffffu, value, mask);
#endif
}

// The value of the lane `distance` above, one's own past the end.
template <class T>
TW_DEVICE T shuffle_down(T value, int distance TW_AT) {
#ifdef TW_EMULATOR
  return shuffle_bits(value, emu::Shuffle::Down, static_cast<uint32_t>(distance), at);
#else
  return __shfl_down_sync(0xffffffffu, value, distance);
#endif
}

// The value of the lane `distance` below, one's own before the start.
template <class T>
TW_DEVICE T shuffle_up(T value, int distance TW_AT) {
#ifdef TW_EMULATOR
  return shuffle_bits(value, emu::Shuffle::Up, static_cast<uint32_t>(distance), at);
#else
  return __shfl_up_sync(0xffffffffu, value, distance);
#endif
}

// Votes and integer reductions

// Bit l: the predicate of lane l (a ballot).
TW_DEVICE uint32_t lanes_where(bool predicate TW_AT) {
#ifdef TW_EMULATOR
  return emu::ballot(predicate, at);
#else
  return __ballot_sync(0xffffffffu, predicate);
#endif
}

TW_DEVICE bool any_lane(bool predicate TW_AT) {
#ifdef TW_EMULATOR
  return emu::ballot(predicate, at) != 0;
#else
  return __any_sync(0xffffffffu, predicate);
#endif
}

TW_DEVICE bool all_lanes(bool predicate TW_AT) {
#ifdef TW_EMULATOR
  return emu::ballot(predicate, at) == 0xffffffffu;
#else
  return __all_sync(0xffffffffu, predicate);
#endif
}

// redux.sync

TW_DEVICE uint32_t reduce_add(uint32_t value TW_AT) {
#ifdef TW_EMULATOR
  return emu::reduce(value, emu::Reduction::Add, at);
#else
  return __reduce_add_sync(0xffffffffu, value);
#endif
}

TW_DEVICE uint32_t reduce_max(uint32_t value TW_AT) {
#ifdef TW_EMULATOR
  return emu::reduce(value, emu::Reduction::MaxUnsigned, at);
#else
  return __reduce_max_sync(0xffffffffu, value);
#endif
}

TW_DEVICE uint32_t reduce_min(uint32_t value TW_AT) {
#ifdef TW_EMULATOR
  return emu::reduce(value, emu::Reduction::MinUnsigned, at);
#else
  return __reduce_min_sync(0xffffffffu, value);
#endif
}

TW_DEVICE int32_t reduce_max(int32_t value TW_AT) {
#ifdef TW_EMULATOR
  return static_cast<int32_t>(emu::reduce(static_cast<uint32_t>(value), emu::Reduction::MaxSigned, at));
#else
  return __reduce_max_sync(0xffffffffu, value);
#endif
}

TW_DEVICE uint32_t reduce_or(uint32_t value TW_AT) {
#ifdef TW_EMULATOR
  return emu::reduce(value, emu::Reduction::Or, at);
#else
  return __reduce_or_sync(0xffffffffu, value);
#endif
}

// Barriers of a block

// __syncthreads: every thread of the block, at the same line.
TW_DEVICE void block_sync(TW_AT_ONLY) {
#ifdef TW_EMULATOR
  emu::block_sync(at);
#else
  __syncthreads();
#endif
}

// bar.sync: waits until `threads` threads, whole warps, have come to barrier `id` (1..15; 0 is block_sync's).
TW_DEVICE void barrier_sync(uint32_t id, uint32_t threads TW_AT) {
#ifdef TW_EMULATOR
  emu::barrier(id, threads, true, at);
#else
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// bar.arrive: counts among them, and goes on.
TW_DEVICE void barrier_arrive(uint32_t id, uint32_t threads TW_AT) {
#ifdef TW_EMULATOR
  emu::barrier(id, threads, false, at);
#else
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// Atomic operations; they return the old value. Sums of floats depend on the order: use them where none is promised.

#ifdef TW_EMULATOR
template <class T, class F>
T atomic_on(Global<T> place, F change, emu::Where at) {
  T* raw = place.raw(sizeof(T), alignof(T), true, at);
  T old;
  __atomic_load(raw, &old, __ATOMIC_RELAXED);
  T wanted = change(old);
  while (!__atomic_compare_exchange(raw, &old, &wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) wanted = change(old);
  return old;
}
template <class T, class F>
T atomic_on(Shared<T> place, F change, emu::Where at) {
  return emu::shared_atomic(place, change, at);
}
template <class P, class T>
T atomic_add(P place, T value TW_AT) {
  return atomic_on(place, [=](T old) { return static_cast<T>(old + value); }, at);
}
template <class P, class T>
T atomic_max(P place, T value TW_AT) {
  return atomic_on(place, [=](T old) { return old < value ? value : old; }, at);
}
template <class P, class T>
T atomic_or(P place, T value TW_AT) {
  return atomic_on(place, [=](T old) { return static_cast<T>(old | value); }, at);
}
#else
template <class T>
__device__ __forceinline__ T atomic_add(T* place, T value) {
  return atomicAdd(place, value);
}
template <class T>
__device__ __forceinline__ T atomic_max(T* place, T value) {
  return atomicMax(place, value);
}
template <class T>
__device__ __forceinline__ T atomic_or(T* place, T value) {
  return atomicOr(place, value);
}
#endif
