// How a group of values becomes int8, in f32: the three official rules (`turbowan_sage::Rule`), with a as the largest
// magnitude of the group.
//
//   half away            scale = a / 127                      trunc(x / scale + 0.5 sign x)
//   half away, epsilon   scale = a / 127 + 1e-7               the same
//   half even            b = max(a, 1e-7), scale = b / 127    round(x * (127 * (1 / b)))
//
// A group of zeros under the first rule has scale 0 and zeros; one with a value that is not finite has no number as its
// scale, and zeros.
//
// A division for every value would cost more than all the rest, so it is a product with the reciprocal of the scale and
// corrections: with r = RN(1 / s), q = RN(x r) is within two units of x / s, q + r (x - q s) within one, and the same step
// from there gives RN(x / s) itself (Markstein, "Computation of elementary functions on the IBM RISC System/6000
// processor", 1990, theorem 8.2). That needs s and r far from the ends of the exponents; where s is not, x and s are
// multiplied by a power of two first, which moves no quotient that rounds to anything but zero.
#pragma once
#include "ptx.cuh"

namespace {

enum class Rule : uint32_t { HalfAway = 0, HalfAwayEpsilon = 1, HalfEven = 2 };

constexpr float EPSILON = 1e-7f;
constexpr float LEVELS = 127.0f;
constexpr uint32_t INFINITY_BITS = 0x7f800000u;
// Scales whose reciprocal and whose residuals are normal numbers, and what brings others there.
constexpr float LEAST_SCALE = 0x1p-80f, LARGEST_SCALE = 0x1p80f, FAR = 0x1p70f;

// What a group's values are divided by, and its reciprocal; or a divisor of 0 and what multiplies them.
struct Step {
  float divisor, factor;
  float shift;  // multiplies the values first: 1, or a power of two that the divisor holds
};

TW_DEVICE bool is_finite(uint32_t magnitude_bits) { return magnitude_bits < INFINITY_BITS; }

TW_DEVICE float scale_of(Rule rule, uint32_t amax_bits) {
  const float amax = float_of(amax_bits);
  if (!is_finite(amax_bits)) return float_of(0x7fc00000u);
  if (rule == Rule::HalfEven) return divide(fmaxf(amax, EPSILON), LEVELS);
  const float scale = divide(amax, LEVELS);
  return rule == Rule::HalfAwayEpsilon ? scale + EPSILON : scale;
}

TW_DEVICE Step step_of(Rule rule, uint32_t amax_bits, float scale) {
  if (!is_finite(amax_bits) || scale == 0.0f) return Step{0.0f, 0.0f, 1.0f};
  if (rule == Rule::HalfEven) return Step{0.0f, LEVELS * divide(1.0f, fmaxf(float_of(amax_bits), EPSILON)), 1.0f};
  const float shift = scale < LEAST_SCALE ? FAR : scale > LARGEST_SCALE ? 1.0f / FAR : 1.0f;
  return Step{scale * shift, divide(1.0f, scale * shift), shift};
}

// x / divisor, correctly rounded; `reciprocal` is 1 / divisor, correctly rounded.
TW_DEVICE float quotient(float x, float divisor, float reciprocal) {
  float q = x * reciprocal;
  q = fmaf(fmaf(-q, divisor, x), reciprocal, q);
  return fmaf(fmaf(-q, divisor, x), reciprocal, q);
}

// Half away from zero, as the official code writes it.
TW_DEVICE uint32_t rounded_away(float steps) { return static_cast<uint32_t>(truncated(steps + (steps >= 0.0f ? 0.5f : -0.5f))); }

// Four bytes of which each is the low byte of a word.
TW_DEVICE uint32_t low_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return permute_bytes(permute_bytes(a, b, 0x0040), permute_bytes(c, d, 0x0040), 0x5410);
}

TW_DEVICE uint32_t four_as_int8(float a, float b, float c, float d, float s, float r) {
  return low_bytes(rounded_away(quotient(a, s, r)), rounded_away(quotient(b, s, r)), rounded_away(quotient(c, s, r)),
                   rounded_away(quotient(d, s, r)));
}

TW_DEVICE uint2 eight_as_int8(float (&v)[8], Step step) {
  if (step.divisor == 0.0f) {
    const float f = step.factor;
    return make_uint2(pack_s8(v[0] * f, v[1] * f, v[2] * f, v[3] * f), pack_s8(v[4] * f, v[5] * f, v[6] * f, v[7] * f));
  }
  if (step.shift != 1.0f) {
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] *= step.shift;
  }
  return make_uint2(four_as_int8(v[0], v[1], v[2], v[3], step.divisor, step.factor),
                    four_as_int8(v[4], v[5], v[6], v[7], step.divisor, step.factor));
}

}  // namespace
