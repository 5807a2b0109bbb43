// wgmma: products of a warpgroup (four warps) that run beside it. Included by ptx.cuh. For 9.0a only.
//
//   d [64, N] += a [64, 32 bytes] b [N, 32 bytes]^T
//
//   d  N / 2 registers of each thread: the fragment of mma.sync for rows 16 w .. 16 w + 15 (w: warp of the warpgroup), N / 8
//      of them side by side; tile.cuh draws it
//   a  in shared memory by a descriptor, or four registers: the A fragment of mma.sync for the warp's rows
//   b  in shared memory by a descriptor
//
// An operand in shared memory has its depth contiguous; 16-bit operands may have their rows contiguous instead
// (TRANSPOSED). Order of use: wgmma_fence, products, wgmma_commit, wgmma_wait<n>; registers in flight are not touched.
#pragma once
#include "kernel.cuh"

// How rows of an operand are laid out in shared memory: bytes of one row that the swizzle permutes in 16-byte chunks.
enum class Swizzle : uint32_t { None = 0, Bytes128 = 1, Bytes64 = 2, Bytes32 = 3 };

// A matrix descriptor. `address`: of the operand's first row and depth (a multiple of 16; with a swizzle, in the first row
// of a pattern of eight rows). Depth contiguous: groups of eight rows are `stride` bytes apart, and without a swizzle the
// two 16-byte halves of the depth are `leading` apart. Rows contiguous: patterns are `leading` apart along the rows and
// `stride` along the depth (without a swizzle the other way round).
TW_DEVICE uint64_t matrix_descriptor(uint32_t address, uint32_t leading, uint32_t stride, Swizzle swizzle) {
  return static_cast<uint64_t>(address >> 4 & 0x3fff) | static_cast<uint64_t>(leading >> 4 & 0x3fff) << 16 |
         static_cast<uint64_t>(stride >> 4 & 0x3fff) << 32 | static_cast<uint64_t>(swizzle) << 62;
}

// The descriptor of what lies `bytes` further on; shared memory is small enough for the sum to stay in its field.
TW_DEVICE uint64_t advanced(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }

// Before the first product, and before any product on registers that other instructions touched.
TW_DEVICE void wgmma_fence(TW_AT_ONLY) {
#ifdef TW_EMULATOR
  emu::wgmma_fence(at);
#elif TW_HAS_WGMMA
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  __trap();
#endif
}

TW_DEVICE void wgmma_commit(TW_AT_ONLY) {
#ifdef TW_EMULATOR
  emu::wgmma_commit(at);
#elif TW_HAS_WGMMA
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  __trap();
#endif
}

// Waits until all but the newest N committed groups are done.
template <int N>
TW_DEVICE void wgmma_wait(TW_AT_ONLY) {
#ifdef TW_EMULATOR
  emu::wgmma_wait(N, at);
#elif TW_HAS_WGMMA
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#else
  __trap();
#endif
}

// After a wait: the accumulators are read only from here on, whatever order the compiler likes.
template <int COUNT>
TW_DEVICE void wgmma_pin([[maybe_unused]] float (&d)[COUNT]) {
#ifndef TW_EMULATOR
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

template <int COUNT>
TW_DEVICE void wgmma_pin([[maybe_unused]] int32_t (&d)[COUNT]) {
#ifndef TW_EMULATOR
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+r"(d[i])::"memory");
#endif
}

#if !defined(TW_EMULATOR) && TW_HAS_WGMMA
// Lists of registers for the assembler. PLACE says what kind they are.
#define TW_INTEGER(x) "+r"(x)
#define TW_FLOAT(x) "+f"(x)
#define TW_PLACES_4(PLACE, i) PLACE(d[i]), PLACE(d[(i) + 1]), PLACE(d[(i) + 2]), PLACE(d[(i) + 3])
#define TW_PLACES_8(PLACE, i) TW_PLACES_4(PLACE, i), TW_PLACES_4(PLACE, (i) + 4)
#define TW_PLACES_16(PLACE, i) TW_PLACES_8(PLACE, i), TW_PLACES_8(PLACE, (i) + 8)
#define TW_PLACES_32(PLACE, i) TW_PLACES_16(PLACE, i), TW_PLACES_16(PLACE, (i) + 16)
#define TW_PLACES_48(PLACE, i) TW_PLACES_32(PLACE, i), TW_PLACES_16(PLACE, (i) + 32)
#define TW_PLACES_64(PLACE, i) TW_PLACES_32(PLACE, i), TW_PLACES_32(PLACE, (i) + 32)
#define TW_PLACES_68(PLACE, i) TW_PLACES_64(PLACE, i), TW_PLACES_4(PLACE, (i) + 64)
#define TW_PLACES_96(PLACE, i) TW_PLACES_64(PLACE, i), TW_PLACES_32(PLACE, (i) + 64)
#define TW_PLACES_128(PLACE, i) TW_PLACES_64(PLACE, i), TW_PLACES_64(PLACE, (i) + 64)
#define TW_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define TW_NAMES_32 TW_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TW_NAMES_48 TW_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define TW_NAMES_64 TW_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TW_NAMES_68 TW_NAMES_64 ", %64, %65, %66, %67"
#define TW_NAMES_96 TW_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, " \
  "%79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define TW_NAMES_128 TW_NAMES_96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, " \
  "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
// Operands after N / 2 registers: the numbers of the seven that follow.
#define TW_NEXT_32 16, 17, 18, 19, 20, 21, 22
#define TW_NEXT_64 32, 33, 34, 35, 36, 37, 38
#define TW_NEXT_96 48, 49, 50, 51, 52, 53, 54
#define TW_NEXT_128 64, 65, 66, 67, 68, 69, 70
#define TW_NEXT_136 68, 69, 70, 71, 72, 73, 74
#define TW_NEXT_192 96, 97, 98, 99, 100, 101, 102
#define TW_NEXT_256 128, 129, 130, 131, 132, 133, 134
#define TW_REGISTERS_32 16
#define TW_REGISTERS_64 32
#define TW_REGISTERS_96 48
#define TW_REGISTERS_128 64
#define TW_REGISTERS_136 68
#define TW_REGISTERS_192 96
#define TW_REGISTERS_256 128
#define TW_JOIN_(a, b) a##b
#define TW_JOIN(a, b) TW_JOIN_(a, b)
#define TW_TEXT_(x) #x
#define TW_TEXT(x) TW_TEXT_(x)
#define TW_START "{\n.reg .pred p;\nsetp.ne.b32 p, %"
#define TW_NAME(N, depth, types) ", 0;\nwgmma.mma_async.sync.aligned.m64n" TW_TEXT(N) depth types " {" TW_JOIN(TW_NAMES_, TW_REGISTERS_##N) "}, "
#define TW_PLACES(N, PLACE) TW_JOIN(TW_PLACES_, TW_REGISTERS_##N)(PLACE, 0)

// A and B by descriptors, or A in registers. `plain`: no scales and no transposition bits (int8). `scaled`: scales of one
// (e4m3). `turned`: transposition bits too (16 bits).
#define TW_SS(...) TW_SS_(__VA_ARGS__)
#define TW_SS_(N, depth, types, PLACE, TAIL, A, B, P, TA, TB, X5, X6)                                               \
  asm volatile(TW_START #P TW_NAME(N, depth, types) "%" #A ", %" #B ", p" TAIL(TA, TB) ";\n}"                        \
               : TW_PLACES(N, PLACE)                                                                                \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(int(TRANSPOSED_A)), "n"(int(TRANSPOSED_B)))
#define TW_RS(...) TW_RS_(__VA_ARGS__)
#define TW_RS_(N, depth, types, PLACE, TAIL, A0, A1, A2, A3, B, P, TB)                                              \
  asm volatile(TW_START #P TW_NAME(N, depth, types) "{%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p" TAIL(TB) ";\n}" \
               : TW_PLACES(N, PLACE)                                                                                \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)), "n"(int(TRANSPOSED_B)))
#define TW_PLAIN(...) ""
#define TW_SCALED(...) ", 1, 1"
#define TW_TURNED_SS(TA, TB) ", 1, 1, %" #TA ", %" #TB
#define TW_TURNED_RS(TB) ", 1, 1, %" #TB
#define TW_EACH(FORM, depth, types, PLACE, TAIL)                                                          \
  if constexpr (N == 32) FORM(32, depth, types, PLACE, TAIL, TW_NEXT_32);                                 \
  else if constexpr (N == 64) FORM(64, depth, types, PLACE, TAIL, TW_NEXT_64);                            \
  else if constexpr (N == 96) FORM(96, depth, types, PLACE, TAIL, TW_NEXT_96);                            \
  else if constexpr (N == 128) FORM(128, depth, types, PLACE, TAIL, TW_NEXT_128);                         \
  else if constexpr (N == 192) FORM(192, depth, types, PLACE, TAIL, TW_NEXT_192);                         \
  else if constexpr (N == 256) FORM(256, depth, types, PLACE, TAIL, TW_NEXT_256)
#define TW_EACH_FLOAT(FORM, depth, types, PLACE, TAIL)                                                    \
  if constexpr (N == 136) FORM(136, depth, types, PLACE, TAIL, TW_NEXT_136);                              \
  else TW_EACH(FORM, depth, types, PLACE, TAIL)
#endif

// Widths that are written out above; an instruction exists for others too.
constexpr bool is_wgmma_width(int n, bool integer) {
  return n == 32 || n == 64 || n == 96 || n == 128 || n == 192 || n == 256 || (n == 136 && !integer);
}

// int8 to s32, exact. Not accumulating, d is overwritten.
template <int N>
TW_DEVICE void wgmma_m64k32_s8([[maybe_unused]] int32_t (&d)[N / 2], [[maybe_unused]] uint64_t a, [[maybe_unused]] uint64_t b,
               [[maybe_unused]] bool accumulate TW_AT) {
  static_assert(is_wgmma_width(N, true), "no product of this width is written out");
#ifdef TW_EMULATOR
  emu::wgmma(emu::Kind::S8, N, d, nullptr, a, b, accumulate, false, false, at);
#elif TW_HAS_WGMMA
  constexpr bool TRANSPOSED_A = false, TRANSPOSED_B = false;
  TW_EACH(TW_SS, "k32", ".s32.s8.s8", TW_INTEGER, TW_PLAIN);
#else
  __trap();
#endif
}

template <int N>
TW_DEVICE void wgmma_m64k32_s8([[maybe_unused]] int32_t (&d)[N / 2], [[maybe_unused]] const uint32_t (&a)[4], [[maybe_unused]] uint64_t b,
               [[maybe_unused]] bool accumulate TW_AT) {
  static_assert(is_wgmma_width(N, true), "no product of this width is written out");
#ifdef TW_EMULATOR
  emu::wgmma(emu::Kind::S8, N, d, a, 0, b, accumulate, false, false, at);
#elif TW_HAS_WGMMA
  constexpr bool TRANSPOSED_B = false;
  TW_EACH(TW_RS, "k32", ".s32.s8.s8", TW_INTEGER, TW_PLAIN);
#else
  __trap();
#endif
}

// e4m3 to f32.
template <int N>
TW_DEVICE void wgmma_m64k32_e4m3([[maybe_unused]] float (&d)[N / 2], [[maybe_unused]] uint64_t a, [[maybe_unused]] uint64_t b,
               [[maybe_unused]] bool accumulate TW_AT) {
  static_assert(is_wgmma_width(N, false), "no product of this width is written out");
#ifdef TW_EMULATOR
  emu::wgmma(emu::Kind::E4m3, N, d, nullptr, a, b, accumulate, false, false, at);
#elif TW_HAS_WGMMA
  constexpr bool TRANSPOSED_A = false, TRANSPOSED_B = false;
  TW_EACH_FLOAT(TW_SS, "k32", ".f32.e4m3.e4m3", TW_FLOAT, TW_SCALED);
#else
  __trap();
#endif
}

template <int N>
TW_DEVICE void wgmma_m64k32_e4m3([[maybe_unused]] float (&d)[N / 2], [[maybe_unused]] const uint32_t (&a)[4], [[maybe_unused]] uint64_t b,
               [[maybe_unused]] bool accumulate TW_AT) {
  static_assert(is_wgmma_width(N, false), "no product of this width is written out");
#ifdef TW_EMULATOR
  emu::wgmma(emu::Kind::E4m3, N, d, a, 0, b, accumulate, false, false, at);
#elif TW_HAS_WGMMA
  constexpr bool TRANSPOSED_B = false;
  TW_EACH_FLOAT(TW_RS, "k32", ".f32.e4m3.e4m3", TW_FLOAT, TW_SCALED);
#else
  __trap();
#endif
}

// f16 to f32.
template <int N, bool TRANSPOSED_B = false, bool TRANSPOSED_A = false>
TW_DEVICE void wgmma_m64k16_f16([[maybe_unused]] float (&d)[N / 2], [[maybe_unused]] uint64_t a, [[maybe_unused]] uint64_t b,
               [[maybe_unused]] bool accumulate TW_AT) {
  static_assert(is_wgmma_width(N, false), "no product of this width is written out");
#ifdef TW_EMULATOR
  emu::wgmma(emu::Kind::F16, N, d, nullptr, a, b, accumulate, TRANSPOSED_A, TRANSPOSED_B, at);
#elif TW_HAS_WGMMA
  TW_EACH_FLOAT(TW_SS, "k16", ".f32.f16.f16", TW_FLOAT, TW_TURNED_SS);
#else
  __trap();
#endif
}

template <int N, bool TRANSPOSED_B = false>
TW_DEVICE void wgmma_m64k16_f16([[maybe_unused]] float (&d)[N / 2], [[maybe_unused]] const uint32_t (&a)[4], [[maybe_unused]] uint64_t b,
               [[maybe_unused]] bool accumulate TW_AT) {
  static_assert(is_wgmma_width(N, false), "no product of this width is written out");
#ifdef TW_EMULATOR
  emu::wgmma(emu::Kind::F16, N, d, a, 0, b, accumulate, false, TRANSPOSED_B, at);
#elif TW_HAS_WGMMA
  TW_EACH_FLOAT(TW_RS, "k16", ".f32.f16.f16", TW_FLOAT, TW_TURNED_RS);
#else
  __trap();
#endif
}

// bf16 to f32.
template <int N, bool TRANSPOSED_B = false, bool TRANSPOSED_A = false>
TW_DEVICE void wgmma_m64k16_bf16([[maybe_unused]] float (&d)[N / 2], [[maybe_unused]] uint64_t a, [[maybe_unused]] uint64_t b,
               [[maybe_unused]] bool accumulate TW_AT) {
  static_assert(is_wgmma_width(N, false), "no product of this width is written out");
#ifdef TW_EMULATOR
  emu::wgmma(emu::Kind::Bf16, N, d, nullptr, a, b, accumulate, TRANSPOSED_A, TRANSPOSED_B, at);
#elif TW_HAS_WGMMA
  TW_EACH_FLOAT(TW_SS, "k16", ".f32.bf16.bf16", TW_FLOAT, TW_TURNED_SS);
#else
  __trap();
#endif
}

template <int N, bool TRANSPOSED_B = false>
TW_DEVICE void wgmma_m64k16_bf16([[maybe_unused]] float (&d)[N / 2], [[maybe_unused]] const uint32_t (&a)[4], [[maybe_unused]] uint64_t b,
               [[maybe_unused]] bool accumulate TW_AT) {
  static_assert(is_wgmma_width(N, false), "no product of this width is written out");
#ifdef TW_EMULATOR
  emu::wgmma(emu::Kind::Bf16, N, d, a, 0, b, accumulate, false, TRANSPOSED_B, at);
#elif TW_HAS_WGMMA
  TW_EACH_FLOAT(TW_RS, "k16", ".f32.bf16.bf16", TW_FLOAT, TW_TURNED_RS);
#else
  __trap();
#endif
}
