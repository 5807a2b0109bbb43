// The host side of ptx*.cuh: what each instruction means, and the checks that go with it.
#pragma once
#include <stdint.h>

#include "device.h"
#include "view.h"

namespace emu {

// Warp and block (warp.cpp)
enum class Shuffle { Index, Xor, Down, Up };
enum class Reduction { Add, MinSigned, MaxSigned, MinUnsigned, MaxUnsigned, And, Or, Xor };
uint32_t shuffle(uint32_t value, Shuffle kind, uint32_t operand, Where at);
uint32_t ballot(bool predicate, Where at);
uint32_t reduce(uint32_t value, Reduction kind, Where at);
void warp_sync(Where at);
void block_sync(Where at);
void barrier(uint32_t id, uint32_t threads, bool waits, Where at);

// Matrices (matrix.cpp, mma.cpp)
void ldmatrix(uint32_t* registers, uint32_t count, bool transposed, uint32_t address, Where at);
void stmatrix(const uint32_t* registers, uint32_t count, bool transposed, uint32_t address, Where at);
enum class Kind { S8, F16, Bf16, E4m3, F16ToF16, E4m3ToF16 };
void mma(Kind kind, void* accumulators, const uint32_t* a, uint32_t b0, uint32_t b1, Where at);

// Copies (async.cpp)
void cp_async(uint32_t target, const void* source, uint32_t bytes, uint32_t source_bytes, Where at);
void cp_async_commit(Where at);
void cp_async_wait(uint64_t allowed, bool whole, Where at);
void bulk_to_shared(uint32_t target, const void* source, uint32_t bytes, uint32_t mbarrier, Where at);
void bulk_to_global(void* target, uint32_t source, uint32_t bytes, Where at);
void tensor_to_shared(uint32_t target, const void* map, uint32_t axes, int32_t plane, int32_t row, int32_t column, uint32_t mbarrier, Where at);
void tensor_to_global(const void* map, uint32_t axes, int32_t plane, int32_t row, int32_t column, uint32_t source, Where at);
void bulk_commit(Where at);
void bulk_wait(uint64_t allowed, Where at);

// mbarrier (mbarrier.cpp)
void mbarrier_init(uint32_t address, uint32_t count, Where at);
void mbarrier_arrive(uint32_t address, Where at);
void mbarrier_expect(uint32_t address, uint32_t bytes, Where at);
void mbarrier_wait(uint32_t address, uint32_t parity, Where at);
bool mbarrier_test(uint32_t address, uint32_t parity, Where at);
void fence_proxy_async(Where at);

// wgmma (wgmma.cpp)
void wgmma(Kind kind, uint32_t n, void* accumulators, const uint32_t* a, uint64_t descriptor_a, uint64_t descriptor_b,
           bool accumulate, bool transposed_a, bool transposed_b, Where at);
void wgmma_fence(Where at);
void wgmma_commit(Where at);
void wgmma_wait(uint64_t allowed, Where at);

}  // namespace emu
