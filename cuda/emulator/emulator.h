/* The emulator: runs the kernels of this workspace on a CPU, and checks what a GPU hides.
 *
 * The same .cu source that nvcc compiles is compiled by g++ as C++17 and linked with the sources beside it. Every thread of a
 * block is a fiber; the blocks of a grid are independent, and a caller may spread them over threads of its own
 * (`first_block`, `block_count`). This header is the whole C interface, and at its foot stand the rules by which a .cu
 * file must be written.
 *
 * Building a .cu file for the emulator
 *
 *     g++ -std=c++17 -O2 -ffp-contract=off -Wno-unknown-pragmas -fPIC -I cuda/kernels -I cuda/emulator \
 *         -include cuda/emulator/device.h -x c++ kernel.cu  cuda/emulator/[all].cpp
 *
 *     Kernels announce themselves by static constructors, so an archive of them must be linked whole
 *     (cc: `.link_lib_modifier("+whole-archive")`). Add -fsanitize=address,undefined for a sanitised build; fibers are
 *     announced to the sanitiser. `TW_EMULATOR` is defined in every such build, `__CUDACC__` never.
 */
#ifndef TURBOWAN_EMULATOR_H
#define TURBOWAN_EMULATOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In which order the threads of a block take turns. A kernel is right only if it is right in every order. */
enum tw_emu_schedule {
  TW_EMU_ROUND_ROBIN = 0, /* a warp runs to its next warp-wide operation, then the next warp has its turn           */
  TW_EMU_GREEDY = 1,      /* a warp runs ahead until it must wait for another; the lowest ready warp comes next       */
  TW_EMU_REVERSED = 2,    /* greedy, with the warps and the lanes of a warp in falling order                          */
  TW_EMU_SHUFFLED = 3     /* after each warp-wide operation a ready warp drawn from `seed`                            */
};

/* When an asynchronous copy (cp.async, bulk) or an asynchronous product (wgmma) takes place. */
enum tw_emu_copies {
  TW_EMU_EAGER = 0,   /* as soon as it is issued */
  TW_EMU_DEFERRED = 1 /* as late as the program allows: at the wait, or when nobody can go on without it */
};

/* What tw_emu_launch returns. */
enum tw_emu_fault {
  TW_EMU_OK = 0,
  TW_EMU_NO_KERNEL = 1,     /* no kernel of that name is linked                                                      */
  TW_EMU_BAD_LAUNCH = 2,    /* grid, block, shared memory or parameter size that the kernel cannot take              */
  TW_EMU_OUT_OF_BOUNDS = 3, /* shared or global access outside what was given, or a write to read-only memory        */
  TW_EMU_MISALIGNED = 4,    /* an access, copy or descriptor at an address that is not a multiple of its size        */
  TW_EMU_UNINITIALISED = 5, /* a read of shared bytes that nobody has written                                        */
  TW_EMU_DIVERGENCE = 6,    /* lanes of a warp, or warps of a block, at different collective instructions            */
  TW_EMU_EARLY_EXIT = 7,    /* a thread returned while others wait for it                                            */
  TW_EMU_DEADLOCK = 8,      /* every thread waits                                                                    */
  TW_EMU_IN_FLIGHT = 9,     /* bytes or registers touched while an asynchronous operation owns them                  */
  TW_EMU_PROXY = 10,        /* a generic write read by the async proxy with no fence.proxy.async between             */
  TW_EMU_BARRIER = 11,      /* an mbarrier or named barrier used against its contract                                */
  TW_EMU_RACE = 12,         /* two warps touched shared bytes, one of them writing, with no order between            */
  TW_EMU_UNFINISHED = 13,   /* the kernel ended with asynchronous work that nobody waited for                        */
  TW_EMU_UNSUPPORTED = 14,  /* an operand or form that the emulator does not know                                    */
  TW_EMU_STACK = 15         /* a thread overran its stack: raise `stack_bytes`                                       */
};

/* Global memory that the kernel may touch. A pointer may roam only inside the range it was born in. */
typedef struct tw_emu_range {
  const void* start;
  size_t bytes;
  const char* name;  /* for messages; may be NULL */
  uint32_t writable; /* 0 or 1 */
  uint32_t reserved; /* 0 */
} tw_emu_range;

/* What the blocks did, added to whatever stands in the struct. */
typedef struct tw_emu_counts {
  uint64_t switches;           /* from one fiber to another */
  uint64_t warp_operations;    /* warp-wide instructions of any kind */
  uint64_t barriers;           /* block-wide and named barriers passed, per warp */
  uint64_t mma;                /* mma.sync */
  uint64_t wgmma;              /* wgmma.mma_async, per warp: four make one instruction of a warpgroup */
  uint64_t ldmatrix;           /* ldmatrix */
  uint64_t ldmatrix_phases;    /* 8x8 matrices loaded: the shared-memory cycles that ldmatrix needs at least */
  uint64_t ldmatrix_conflicts; /* further cycles, lost to bank conflicts */
  uint64_t copies;             /* cp.async and bulk copies, per thread */
  uint64_t copied_bytes;
} tw_emu_counts;

/* How to run a launch; all zero but for the ranges is a fair default. */
typedef struct tw_emu_options {
  uint32_t schedule; /* tw_emu_schedule */
  uint32_t copies;   /* tw_emu_copies */
  uint64_t seed;     /* of TW_EMU_SHUFFLED */
  uint64_t first_block; /* blocks in order x, then y, then z: runs first_block .. first_block + block_count */
  uint64_t block_count; /* 0: all from first_block on */
  const tw_emu_range* ranges;
  size_t range_count;
  uint32_t shared_limit; /* static and dynamic bytes of a block; 0: 232448 (227 KiB) */
  uint32_t stack_bytes;  /* of one thread; 0: 131072, and four times that when sanitised */
  tw_emu_counts* counts; /* may be NULL */
} tw_emu_options;

/* Runs `kernel` and returns 0, or a tw_emu_fault, with a sentence in `message` that names kernel, block, thread, address
 * and source line (cut to `message_size`, always ended by a zero). `params` is the kernel's one parameter struct.
 * It may be called from several threads at once. With options == NULL: no global memory, round robin, eager. */
int tw_emu_launch(const char* kernel, const unsigned grid[3], const unsigned block[3], size_t shared_bytes,
                  const void* params, size_t params_size, const tw_emu_options* options, char* message,
                  size_t message_size);

/* The linked kernels, in order of name; NULL past the last. */
const char* tw_emu_kernel_name(size_t index);

#ifdef __cplusplus
}
#endif

/* How a .cu file is written, so that one text serves nvcc and the emulator
 *
 *  1. `#include "kernel.cuh"` first (then ptx.cuh, tile.cuh, params.h). No CUDA header, no cooperative groups, no
 *     <cuda_fp16.h>: bf16, f16 and e4m3 are the plain structs of kernel.cuh, converted by functions of ptx.cuh.
 *  2. A kernel is `TW_KERNEL(name, ParamsType, threads) { ... }`; inside, the by-value struct is called `p`. Under nvcc
 *     it is `extern "C" __global__ __launch_bounds__(threads)`. Templates are __device__ functions that a kernel calls.
 *  3. Pointers in ParamsType are wrapped once: `Global<const int8_t> q = global(p.q);`. Under nvcc a Global<T> is a
 *     T*; here it knows its range. Index it, add to it; never dereference the raw pointer. Offsets are 64-bit.
 *  4. Shared memory is `TW_SHARED(T, name, count);` (static) or `Shared<T> name = dynamic_shared<T>(byte_offset);`. No
 *     __shared__ and no extern elsewhere. A block's dynamic memory starts 1024-byte aligned.
 *  5. `s[i]` reads or writes one value. Name the type of what you read (`float x = s[i];`, never `auto`). Wider
 *     accesses: `load_vector<uint4>(pointer)`, `store_vector(pointer, value)`; another type: `pointer_cast<U>(pointer)`.
 *     PTX functions take the 32-bit `shared_address(s + i)`.
 *  6. No inline assembly and no CUDA intrinsic outside ptx.cuh: each instruction there has one named function.
 *  7. Blocks have whole warps, warp-wide functions have the full mask: all 32 lanes take part, at the same line.
 *     A thread may return early only if its whole block meets no further barrier and its warp no warp-wide function.
 *  8. Waiting is a function (`mbarrier_wait`, `barrier_sync`, `cp_async_wait_group<N>`), never a spin on memory.
 *  9. Registers given to a wgmma (accumulators) are a named array that lives, untouched, until its wait.
 * 10. All but the kernels stands in an unnamed namespace (or is TW_DEVICE): here every file is linked into one program, and
 *     two templates of one name would silently become one.
 * 11. Sums whose order matters say fmaf() when they mean it; both compilers are told not to contract others.
 * 12. Blocks of a grid run one after another, so no block may wait for another. Clusters and multicast are not modelled.
 *     A tensor map stays where it is in the parameters: it is handed on by reference, never copied.
 */
#endif
