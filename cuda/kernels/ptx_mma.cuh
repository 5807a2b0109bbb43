// Matrices of a warp: ldmatrix, stmatrix, mma.sync. Included by ptx.cuh. Maps of the fragments: tile.cuh.
#pragma once
#include "kernel.cuh"

// ldmatrix: 8x8 matrices of 16-bit values (or 8 rows of 16 bytes). Lane 8m + r gives the address of row r of matrix m, a
// multiple of 16; register m of lane l receives bytes 4 (l % 4) .. + 3 of row l / 4. Transposed: values (2 (l % 4), l / 4)
// and (2 (l % 4) + 1, l / 4).

TW_DEVICE void ldmatrix_x1(uint32_t& r, uint32_t address TW_AT) {
#ifdef TW_EMULATOR
  emu::ldmatrix(&r, 1, false, address, at);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r) : "r"(address) : "memory");
#endif
}

TW_DEVICE void ldmatrix_x2(uint32_t (&r)[2], uint32_t address TW_AT) {
#ifdef TW_EMULATOR
  emu::ldmatrix(r, 2, false, address, at);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
#endif
}

TW_DEVICE void ldmatrix_x4(uint32_t (&r)[4], uint32_t address TW_AT) {
#ifdef TW_EMULATOR
  emu::ldmatrix(r, 4, false, address, at);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
#endif
}

TW_DEVICE void ldmatrix_x2_transposed(uint32_t (&r)[2], uint32_t address TW_AT) {
#ifdef TW_EMULATOR
  emu::ldmatrix(r, 2, true, address, at);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
#endif
}

TW_DEVICE void ldmatrix_x4_transposed(uint32_t (&r)[4], uint32_t address TW_AT) {
#ifdef TW_EMULATOR
  emu::ldmatrix(r, 4, true, address, at);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
#endif
}

// stmatrix, from 9.0 on: the way back.
TW_DEVICE void stmatrix_x4([[maybe_unused]] uint32_t address, [[maybe_unused]] const uint32_t (&r)[4] TW_AT) {
#ifdef TW_EMULATOR
  emu::stmatrix(r, 4, false, address, at);
#elif TW_CHIP >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r[0]), "r"(r[1]), "r"(r[2]),
               "r"(r[3])
               : "memory");
#else
  __trap();
#endif
}

TW_DEVICE void stmatrix_x4_transposed([[maybe_unused]] uint32_t address, [[maybe_unused]] const uint32_t (&r)[4] TW_AT) {
#ifdef TW_EMULATOR
  emu::stmatrix(r, 4, true, address, at);
#elif TW_CHIP >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
#else
  __trap();
#endif
}

// mma.sync: d[16x8] += a[16x32 bytes] b[32 bytes x 8], b column-major.

// int8, exact sums.
TW_DEVICE void mma_m16n8k32_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1 TW_AT) {
#ifdef TW_EMULATOR
  emu::mma(emu::Kind::S8, d, a, b0, b1, at);
#else
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

TW_DEVICE void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1 TW_AT) {
#ifdef TW_EMULATOR
  emu::mma(emu::Kind::F16, d, a, b0, b1, at);
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

TW_DEVICE void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1 TW_AT) {
#ifdef TW_EMULATOR
  emu::mma(emu::Kind::Bf16, d, a, b0, b1, at);
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// f16 accumulators: d[0] holds columns 2t, 2t + 1 of row g, d[1] of row g + 8.
TW_DEVICE void mma_m16n8k16_f16_f16(uint32_t (&d)[2], const uint32_t (&a)[4], uint32_t b0, uint32_t b1 TW_AT) {
#ifdef TW_EMULATOR
  emu::mma(emu::Kind::F16ToF16, d, a, b0, b1, at);
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
               : "+r"(d[0]), "+r"(d[1])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// e4m3, from 8.9 on.
TW_DEVICE void mma_m16n8k32_e4m3([[maybe_unused]] float (&d)[4], [[maybe_unused]] const uint32_t (&a)[4],
                                 [[maybe_unused]] uint32_t b0, [[maybe_unused]] uint32_t b1 TW_AT) {
#ifdef TW_EMULATOR
  emu::mma(emu::Kind::E4m3, d, a, b0, b1, at);
#elif TW_CHIP >= 890
  asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}

TW_DEVICE void mma_m16n8k32_e4m3_f16([[maybe_unused]] uint32_t (&d)[2], [[maybe_unused]] const uint32_t (&a)[4],
                                     [[maybe_unused]] uint32_t b0, [[maybe_unused]] uint32_t b1 TW_AT) {
#ifdef TW_EMULATOR
  emu::mma(emu::Kind::E4m3ToF16, d, a, b0, b1, at);
#elif TW_CHIP >= 890
  asm volatile("mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
               : "+r"(d[0]), "+r"(d[1])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}
