// Copies that run beside the threads, and the barriers they report to. Included by ptx.cuh.
#pragma once
#include "kernel.cuh"
#include "tensor_map.h"

// cp.async, from 8.0 on: BYTES (4, 8 or 16) from global to shared memory, both at multiples of BYTES. 16 bytes bypass L1.
template <int BYTES, class T>
TW_DEVICE void cp_async(uint32_t target, Global<T> source TW_AT) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
#ifdef TW_EMULATOR
  emu::cp_async(target, source.raw(BYTES, BYTES, false, at), BYTES, BYTES, at);
#else
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(source) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(target), "l"(source), "n"(BYTES) : "memory");
  }
#endif
}

// The same, of which only the first `source_bytes` (0 .. BYTES) are read; zeros follow. The address may be any when
// nothing is read.
template <int BYTES, class T>
TW_DEVICE void cp_async_zero_fill(uint32_t target, Global<T> source, uint32_t source_bytes TW_AT) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
#ifdef TW_EMULATOR
  emu::cp_async(target, source.raw(source_bytes, BYTES, false, at), BYTES, source_bytes, at);
#else
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(source_bytes) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(target), "l"(source), "n"(BYTES), "r"(source_bytes)
                 : "memory");
  }
#endif
}

// Ends the group of the copies this thread issued since the last commit.
TW_DEVICE void cp_async_commit(TW_AT_ONLY) {
#ifdef TW_EMULATOR
  emu::cp_async_commit(at);
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all but the newest N groups of this thread have arrived. Other threads see them after a barrier.
template <int N>
TW_DEVICE void cp_async_wait_group(TW_AT_ONLY) {
#ifdef TW_EMULATOR
  emu::cp_async_wait(N, false, at);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// st.global.v2: two neighbouring values, the first at a multiple of 8 bytes, by one store. Left to itself the compiler splits
// some of them.
TW_DEVICE void store_pair(Global<float> target, float first, float second TW_AT) {
#ifdef TW_EMULATOR
  store_vector(target, make_float2(first, second) TW_PASS_AT);
#else
  asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(target), "f"(first), "f"(second) : "memory");
#endif
}

// mbarrier, from 9.0 on: a phase ends when `count` arrivals have come and no byte is missing.

TW_DEVICE void mbarrier_init(uint32_t mbarrier, uint32_t count TW_AT) {
#ifdef TW_EMULATOR
  emu::mbarrier_init(mbarrier, count, at);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(mbarrier), "r"(count) : "memory");
#endif
}

// After mbarrier_init, by the same thread, before the barrier is given to a copy.
TW_DEVICE void fence_mbarrier_init(TW_AT_ONLY) {
#ifdef TW_EMULATOR
  emu::fence_proxy_async(at);
#elif TW_CHIP >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
  __trap();
#endif
}

TW_DEVICE void mbarrier_arrive(uint32_t mbarrier TW_AT) {
#ifdef TW_EMULATOR
  emu::mbarrier_arrive(mbarrier, at);
#else
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}" ::"r"(mbarrier) : "memory");
#endif
}

// Adds `bytes` to what the phase waits for.
TW_DEVICE void mbarrier_expect(uint32_t mbarrier, uint32_t bytes TW_AT) {
#ifdef TW_EMULATOR
  emu::mbarrier_expect(mbarrier, bytes, at);
#elif TW_CHIP >= 900
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(mbarrier), "r"(bytes) : "memory");
#else
  __trap();
#endif
}

// The same, then arrives.
TW_DEVICE void mbarrier_arrive_expect(uint32_t mbarrier, uint32_t bytes TW_AT) {
#ifdef TW_EMULATOR
  emu::mbarrier_expect(mbarrier, bytes, at);
  emu::mbarrier_arrive(mbarrier, at);
#elif TW_CHIP >= 900
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}" ::"r"(mbarrier), "r"(bytes)
               : "memory");
#else
  __trap();
#endif
}

// Whether the phase of this parity has ended. Phases are counted from 0: waiting for parity 1 of a fresh barrier is
// waiting for the phase before the first, which has ended.
TW_DEVICE bool mbarrier_test(uint32_t mbarrier, uint32_t parity TW_AT) {
#ifdef TW_EMULATOR
  return emu::mbarrier_test(mbarrier, parity, at);
#elif TW_CHIP >= 900
  uint32_t ended;
  asm volatile(
      "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
      : "=r"(ended)
      : "r"(mbarrier), "r"(parity)
      : "memory");
  return ended != 0;
#else
  __trap();
  return true;
#endif
}

// Waits until the phase of this parity has ended.
TW_DEVICE void mbarrier_wait(uint32_t mbarrier, uint32_t parity TW_AT) {
#ifdef TW_EMULATOR
  emu::mbarrier_wait(mbarrier, parity, at);
#else
  while (!mbarrier_test(mbarrier, parity)) {
  }
#endif
}

// cp.async.bulk, from 9.0 on: multiples of 16 bytes between 16-byte aligned addresses, issued by one thread.

// To shared memory; the bytes count against the mbarrier's.
template <class T>
TW_DEVICE void bulk_copy_to_shared(uint32_t target, Global<T> source, uint32_t bytes, uint32_t mbarrier TW_AT) {
#ifdef TW_EMULATOR
  emu::bulk_to_shared(target, source.raw(bytes, 16, false, at), bytes, mbarrier, at);
#elif TW_CHIP >= 900
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target), "l"(source),
               "r"(bytes), "r"(mbarrier)
               : "memory");
#else
  __trap();
#endif
}

// To global memory, in the thread's current bulk group. What threads wrote needs fence_proxy_async and a barrier first.
template <class T>
TW_DEVICE void bulk_copy_to_global(Global<T> target, uint32_t source, uint32_t bytes TW_AT) {
#ifdef TW_EMULATOR
  emu::bulk_to_global(target.raw(bytes, 16, true, at), source, bytes, at);
#elif TW_CHIP >= 900
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(target), "r"(source), "r"(bytes) : "memory");
#else
  __trap();
#endif
}

// Tensor copies: a tile of the matrix that a tensor map in the kernel's parameters describes. The tile begins at the value
// (plane, row, column), counted from 0 and perhaps outside: what lies outside the matrix is zero on the way to shared
// memory and left alone on the way back. In shared memory it is dense, at a multiple of 128 bytes, its 16-byte chunks
// permuted by the bits of their own address as tile.cuh draws it (so a swizzled tile begins at a multiple of eight rows).

// The map is fetched before its first use.
TW_DEVICE void prefetch_tensor_map([[maybe_unused]] const tw_tensor_map& map) {
#ifndef TW_EMULATOR
#if TW_CHIP >= 900
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#else
  __trap();
#endif
#endif
}

// To shared memory; all bytes of the tile, zeros too, count against the mbarrier's.
TW_DEVICE void tensor_copy_to_shared_2d(uint32_t target, const tw_tensor_map& map, int32_t row, int32_t column, uint32_t mbarrier TW_AT) {
#ifdef TW_EMULATOR
  emu::tensor_to_shared(target, &map, 2, 0, row, column, mbarrier, at);
#elif TW_CHIP >= 900
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(target),
               "l"(&map), "r"(column), "r"(row), "r"(mbarrier)
               : "memory");
#else
  __trap();
#endif
}

TW_DEVICE void tensor_copy_to_shared_3d(uint32_t target, const tw_tensor_map& map, int32_t plane, int32_t row, int32_t column,
                                        uint32_t mbarrier TW_AT) {
#ifdef TW_EMULATOR
  emu::tensor_to_shared(target, &map, 3, plane, row, column, mbarrier, at);
#elif TW_CHIP >= 900
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(target),
      "l"(&map), "r"(column), "r"(row), "r"(plane), "r"(mbarrier)
      : "memory");
#else
  __trap();
#endif
}

// To global memory, in the thread's current bulk group. What threads wrote needs fence_proxy_async and a barrier first.
TW_DEVICE void tensor_copy_to_global_2d(const tw_tensor_map& map, int32_t row, int32_t column, uint32_t source TW_AT) {
#ifdef TW_EMULATOR
  emu::tensor_to_global(&map, 2, 0, row, column, source, at);
#elif TW_CHIP >= 900
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(column), "r"(row),
               "r"(source)
               : "memory");
#else
  __trap();
#endif
}

TW_DEVICE void tensor_copy_to_global_3d(const tw_tensor_map& map, int32_t plane, int32_t row, int32_t column, uint32_t source TW_AT) {
#ifdef TW_EMULATOR
  emu::tensor_to_global(&map, 3, plane, row, column, source, at);
#elif TW_CHIP >= 900
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(&map), "r"(column), "r"(row),
               "r"(plane), "r"(source)
               : "memory");
#else
  __trap();
#endif
}

TW_DEVICE void bulk_commit(TW_AT_ONLY) {
#ifdef TW_EMULATOR
  emu::bulk_commit(at);
#elif TW_CHIP >= 900
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#else
  __trap();
#endif
}

// Waits until all but the newest N groups of this thread have read their shared memory, which may then be written again.
template <int N>
TW_DEVICE void bulk_wait_group_read(TW_AT_ONLY) {
#ifdef TW_EMULATOR
  emu::bulk_wait(N, at);
#elif TW_CHIP >= 900
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
#else
  __trap();
#endif
}

// What this thread wrote to shared memory so far may be read by the async proxy: bulk copies and wgmma. By each writing
// thread, before the barrier behind which the reader is.
TW_DEVICE void fence_proxy_async(TW_AT_ONLY) {
#ifdef TW_EMULATOR
  emu::fence_proxy_async(at);
#elif TW_CHIP >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  __trap();
#endif
}

// setmaxnreg: a warpgroup gives registers back, or asks for more. The emulator has as many as it likes.
template <int N>
TW_DEVICE void give_registers() {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0, "24 .. 256 registers in steps of 8");
#ifndef TW_EMULATOR
#if TW_HAS_WGMMA
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#else
  __trap();
#endif
#endif
}

template <int N>
TW_DEVICE void take_registers() {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0, "24 .. 256 registers in steps of 8");
#ifndef TW_EMULATOR
#if TW_HAS_WGMMA
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#else
  __trap();
#endif
#endif
}
