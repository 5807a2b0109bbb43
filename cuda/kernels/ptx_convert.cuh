// Number formats, bits, and functions of one value. Included by ptx.cuh.
#pragma once
#include "kernel.cuh"

// Bits

TW_DEVICE uint32_t bits_of(float value) {
#ifdef TW_EMULATOR
  return emu::bits_of_float(value);
#else
  return __float_as_uint(value);
#endif
}

TW_DEVICE float float_of(uint32_t bits) {
#ifdef TW_EMULATOR
  return emu::float_of_bits(bits);
#else
  return __uint_as_float(bits);
#endif
}

TW_DEVICE int count_ones(uint32_t bits) {
#ifdef TW_EMULATOR
  return __builtin_popcount(bits);
#else
  return __popc(bits);
#endif
}

// 32 for zero.
TW_DEVICE int leading_zeros(uint32_t bits) {
#ifdef TW_EMULATOR
  return bits == 0 ? 32 : __builtin_clz(bits);
#else
  return __clz(static_cast<int>(bits));
#endif
}

// Position of the lowest one bit, -1 for zero.
TW_DEVICE int lowest_one(uint32_t bits) {
#ifdef TW_EMULATOR
  return bits == 0 ? -1 : __builtin_ctz(bits);
#else
  return __ffs(static_cast<int>(bits)) - 1;
#endif
}

// Four bytes out of the eight of (high, low): nibble i of `selector` (0..7) names the source of byte i.
TW_DEVICE uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
#ifdef TW_EMULATOR
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<uint32_t>(both >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return result;
#else
  return __byte_perm(low, high, selector);
#endif
}

// c + the four products of signed bytes.
TW_DEVICE int32_t dot4_s8(uint32_t a, uint32_t b, int32_t c) {
#ifdef TW_EMULATOR
  for (int i = 0; i < 4; ++i) c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
  return c;
#else
  return __dp4a(static_cast<int>(a), static_cast<int>(b), c);
#endif
}

// bf16

TW_DEVICE float to_f32(bf16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }

// To nearest, ties to even.
TW_DEVICE bf16 to_bf16(float value) {
#ifdef TW_EMULATOR
  return bf16{emu::bf16_of_f32(value)};
#else
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#endif
}

// `low` in bits 0..15, as memory has them when `low` comes first.
TW_DEVICE uint32_t pack_bf16(float low, float high) {
#ifdef TW_EMULATOR
  return emu::bf16_of_f32(low) | static_cast<uint32_t>(emu::bf16_of_f32(high)) << 16;
#else
  uint32_t result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
#endif
}

TW_DEVICE float low_bf16(uint32_t pair) { return float_of(pair << 16); }
TW_DEVICE float high_bf16(uint32_t pair) { return float_of(pair & 0xffff0000u); }

// f16

TW_DEVICE float to_f32(f16 value) {
#ifdef TW_EMULATOR
  return emu::f32_of_f16(value.bits);
#else
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#endif
}

TW_DEVICE f16 to_f16(float value) {
#ifdef TW_EMULATOR
  return f16{emu::f16_of_f32(value)};
#else
  f16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#endif
}

TW_DEVICE uint32_t pack_f16(float low, float high) {
#ifdef TW_EMULATOR
  return emu::f16_of_f32(low) | static_cast<uint32_t>(emu::f16_of_f32(high)) << 16;
#else
  uint32_t result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
#endif
}

TW_DEVICE float low_f16(uint32_t pair) { return to_f32(f16{static_cast<uint16_t>(pair)}); }
TW_DEVICE float high_f16(uint32_t pair) { return to_f32(f16{static_cast<uint16_t>(pair >> 16)}); }

// e4m3 (chips from 8.9 on): to nearest, ties to even, saturating at 448.

// `low` in bits 0..7.
TW_DEVICE uint16_t pack_e4m3([[maybe_unused]] float low, [[maybe_unused]] float high) {
#ifdef TW_EMULATOR
  return static_cast<uint16_t>(emu::e4m3_of_f32(low) | emu::e4m3_of_f32(high) << 8);
#elif TW_CHIP >= 890
  uint16_t result;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(result) : "f"(high), "f"(low));
  return result;
#else
  __trap();
  return 0;
#endif
}

TW_DEVICE uint32_t pack_e4m3(float a, float b, float c, float d) {
  return pack_e4m3(a, b) | static_cast<uint32_t>(pack_e4m3(c, d)) << 16;
}

TW_DEVICE e4m3 to_e4m3(float value) { return e4m3{static_cast<uint8_t>(pack_e4m3(value, 0.0f))}; }

// Two e4m3 as two f16, which hold them exactly.
TW_DEVICE uint32_t f16_of_e4m3([[maybe_unused]] uint16_t pair) {
#ifdef TW_EMULATOR
  return pack_f16(emu::f32_of_e4m3(static_cast<uint8_t>(pair)), emu::f32_of_e4m3(static_cast<uint8_t>(pair >> 8)));
#elif TW_CHIP >= 890
  uint32_t result;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(result) : "h"(pair));
  return result;
#else
  __trap();
  return 0;
#endif
}

TW_DEVICE float to_f32(e4m3 value) { return low_f16(f16_of_e4m3(value.bits)); }

// Integers

// To nearest, ties to even, saturating; NaN becomes zero. The bits of an int8 in 0..7, sign-extended.
TW_DEVICE int32_t to_s8(float value) {
#ifdef TW_EMULATOR
  if (value != value) return 0;
  const float nearest = nearbyintf(value);
  return nearest > 127.0f ? 127 : nearest < -128.0f ? -128 : static_cast<int32_t>(nearest);
#else
  int32_t result;
  asm("cvt.rni.sat.s8.f32 %0, %1;" : "=r"(result) : "f"(value));
  return result;
#endif
}

TW_DEVICE uint32_t pack_s8(float a, float b, float c, float d) {
  const uint32_t low = permute_bytes(static_cast<uint32_t>(to_s8(a)), static_cast<uint32_t>(to_s8(b)), 0x0040);
  const uint32_t high = permute_bytes(static_cast<uint32_t>(to_s8(c)), static_cast<uint32_t>(to_s8(d)), 0x0040);
  return permute_bytes(low, high, 0x5410);
}

// To nearest, ties to even, saturating; NaN becomes zero.
TW_DEVICE int32_t to_s32(float value) {
#ifdef TW_EMULATOR
  if (value != value) return 0;
  const float nearest = nearbyintf(value);
  return nearest >= 2147483648.0f ? 2147483647 : nearest < -2147483648.0f ? -2147483647 - 1 : static_cast<int32_t>(nearest);
#else
  return __float2int_rn(value);
#endif
}

// Towards zero; of magnitudes below 2^31.
TW_DEVICE int32_t truncated(float value) {
#ifdef TW_EMULATOR
  return static_cast<int32_t>(value);
#else
  return __float2int_rz(value);
#endif
}

TW_DEVICE float to_f32(int32_t value) {
#ifdef TW_EMULATOR
  return static_cast<float>(value);
#else
  return __int2float_rn(value);
#endif
}

// Functions. The fast ones are approximate on a device (about 2 ulp) and correctly rounded, or nearly, on the emulator:
// a result that depends on one is compared with a bound.

// 2^x; subnormal results are zero.
TW_DEVICE float exp2_fast(float x) {
#ifdef TW_EMULATOR
  const float result = exp2f(x);
  return result < 0x1p-126f ? 0.0f : result;
#else
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

// 2^x of two f16 at once, results f16.
TW_DEVICE uint32_t exp2_fast_f16(uint32_t pair) {
#ifdef TW_EMULATOR
  return pack_f16(exp2f(low_f16(pair)), exp2f(high_f16(pair)));
#else
  uint32_t result;
  asm("ex2.approx.f16x2 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
#endif
}

TW_DEVICE float log2_fast(float x) {
#ifdef TW_EMULATOR
  return log2f(x);
#else
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

TW_DEVICE float reciprocal_fast(float x) {
#ifdef TW_EMULATOR
  return 1.0f / x;
#else
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

TW_DEVICE float rsqrt_fast(float x) {
#ifdef TW_EMULATOR
  return static_cast<float>(1.0 / sqrt(static_cast<double>(x)));
#else
  float result;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

TW_DEVICE float tanh_fast(float x) {
#ifdef TW_EMULATOR
  return tanhf(x);
#else
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

TW_DEVICE float divide_fast(float a, float b) {
#ifdef TW_EMULATOR
  return a / b;
#else
  float result;
  asm("div.approx.ftz.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#endif
}

// Correctly rounded on both.
TW_DEVICE float divide(float a, float b) {
#ifdef TW_EMULATOR
  return a / b;
#else
  return __fdiv_rn(a, b);
#endif
}

TW_DEVICE float square_root(float x) {
#ifdef TW_EMULATOR
  return sqrtf(x);
#else
  return __fsqrt_rn(x);
#endif
}
