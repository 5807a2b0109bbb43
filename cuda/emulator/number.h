// f16, bf16 and e4m3 as their bits.
#pragma once
#include <stdint.h>
#include <string.h>

namespace emu {

inline float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

inline float f32_of_bf16(uint16_t bits) { return float_of_bits(uint32_t{bits} << 16); }

// Exponents are moved by a product, which serves subnormal numbers too.
inline float f32_of_f16(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  const uint32_t moved = bits_of_float(float_of_bits(magnitude << 13) * 0x1p112f);
  const uint32_t special = 0x7f800000u | (magnitude << 13 & 0x7fffffu);
  return float_of_bits(sign | (magnitude >= 0x7c00u ? special : moved));
}

// e4m3fn: no infinity, one NaN magnitude (0x7f), largest 448.
inline float f32_of_e4m3(uint8_t bits) {
  const uint32_t sign = uint32_t{bits & 0x80u} << 24;
  const uint32_t magnitude = bits & 0x7fu;
  const uint32_t moved = bits_of_float(float_of_bits(magnitude << 20) * 0x1p120f);
  return float_of_bits(sign | (magnitude == 0x7fu ? 0x7fc00000u : moved));
}

// To nearest, ties to even.
inline uint16_t bf16_of_f32(float value) {
  const uint32_t bits = bits_of_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

// To nearest, ties to even, of a double: a sum of products is rounded once.
inline uint16_t f16_of_f64(double value) {
  uint64_t bits;
  memcpy(&bits, &value, 8);
  const uint16_t sign = static_cast<uint16_t>(bits >> 48 & 0x8000u);
  const uint64_t magnitude = bits & 0x7fffffffffffffffu;
  if (magnitude > 0x7ff0000000000000u) return 0x7fff;
  if (magnitude >= 0x40effe0000000000u) return sign | 0x7c00u;  // 65520 and beyond
  const int exponent = static_cast<int>(magnitude >> 52) - 1023;
  if (exponent < -25) return sign;
  const uint64_t fraction = (magnitude & 0xfffffffffffffu) | 0x10000000000000u;
  const int drop = exponent >= -14 ? 42 : 42 + (-14 - exponent);
  uint64_t kept = fraction >> drop;
  const uint64_t rest = fraction & ((uint64_t{1} << drop) - 1), half = uint64_t{1} << (drop - 1);
  if (rest > half || (rest == half && (kept & 1))) ++kept;
  const uint64_t base = exponent >= -14 ? static_cast<uint64_t>(exponent + 14) << 10 : 0;
  return static_cast<uint16_t>(sign | (base + kept));
}

inline uint16_t f16_of_f32(float value) { return f16_of_f64(value); }

// To nearest, ties to even, saturating at 448 (infinities too); NaN stays NaN: cvt.rn.satfinite.
inline uint8_t e4m3_of_f32(float value) {
  const uint32_t bits = bits_of_float(value);
  const uint8_t sign = static_cast<uint8_t>(bits >> 24 & 0x80u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7f;
  if (magnitude >= 0x43e00000u) return sign | 0x7e;  // 448
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  if (exponent < -10) return sign;
  const uint32_t fraction = (magnitude & 0x7fffffu) | 0x800000u;
  const int drop = exponent >= -6 ? 20 : 20 + (-6 - exponent);
  uint32_t kept = fraction >> drop;
  const uint32_t rest = fraction & ((1u << drop) - 1), half = 1u << (drop - 1);
  if (rest > half || (rest == half && (kept & 1))) ++kept;
  const uint32_t base = exponent >= -6 ? static_cast<uint32_t>(exponent + 6) << 3 : 0;
  return static_cast<uint8_t>(sign | (base + kept));
}

}  // namespace emu
