// Every PTX instruction and intrinsic that the kernels use: one named function each, with a device body and, for the
// emulator, a host body of the same meaning. No other file holds inline assembly.
//
//   ptx_convert.cuh   number formats, bits, fast functions                                      any chip, e4m3 from 8.9
//   ptx_warp.cuh      lanes, shuffles, votes, reductions, barriers of a block, atomics          any chip
//   ptx_copy.cuh      cp.async; mbarrier, bulk and tensor copies, proxy fence, registers        8.0; 9.0
//   ptx_mma.cuh       ldmatrix, stmatrix, mma.sync                                              8.0; stmatrix 9.0; e4m3 8.9
//   ptx_wgmma.cuh     wgmma                                                                     9.0a only
//
// A function that a chip does not have traps there, so that a file still compiles for every chip.
#pragma once
#include "kernel.cuh"

#ifndef TW_EMULATOR
#if defined(__CUDA_ARCH__)
#define TW_CHIP __CUDA_ARCH__
#else
#define TW_CHIP 0
#endif
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define TW_HAS_WGMMA 1
#else
#define TW_HAS_WGMMA 0
#endif
#else
#include "instructions.h"
#include "number.h"
#endif

#include "ptx_convert.cuh"
#include "ptx_warp.cuh"
#include "ptx_copy.cuh"
#include "ptx_mma.cuh"
#include "ptx_wgmma.cuh"
