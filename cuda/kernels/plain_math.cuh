// Elementary functions by multiplications and additions that are not fused, and true divisions: the bits of the host's
// (src/host/math.rs).
#pragma once
#include "ptx.cuh"

// e^x within 2 units in the last place; below -87 it stays at e^-87, above 88 at e^88.
TW_DEVICE float exp_plain(float x) {
  constexpr float NEAREST = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the sum
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504088896341f + NEAREST;
  const float n = shifted - NEAREST;
  const float r = (x - n * 0.6933594f) - n * -2.1219444e-4f;
  float sum = 1.0f / 5040.0f;
  sum = sum * r + 1.0f / 720.0f;
  sum = sum * r + 1.0f / 120.0f;
  sum = sum * r + 1.0f / 24.0f;
  sum = sum * r + 1.0f / 6.0f;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  return sum * float_of((bits_of(shifted) << 23) + 0x3f800000u);
}

// x / (1 + e^-x).
TW_DEVICE float silu_plain(float x) { return divide(x, 1.0f + exp_plain(-x)); }

// GELU in its tanh form, as x * sigmoid(2 u).
TW_DEVICE float gelu_tanh_plain(float x) {
  const float u = 1.5957692f * (x + 0.044715f * x * x * x);
  return divide(x, 1.0f + exp_plain(-u));
}

// erfc(z) for z >= 0: t e^(-z^2 + P(t)) with t = 1 / (1 + z / 2) (Numerical Recipes, 2nd ed., 6.2).
TW_DEVICE float erfc_of_positive(float z) {
  const float t = divide(1.0f, 1.0f + 0.5f * z);
  float sum = 0.17087277f;
  sum = sum * t + -0.82215223f;
  sum = sum * t + 1.4885159f;
  sum = sum * t + -1.135204f;
  sum = sum * t + 0.27886807f;
  sum = sum * t + -0.18628806f;
  sum = sum * t + 0.09678418f;
  sum = sum * t + 0.37409196f;
  sum = sum * t + 1.0000237f;
  sum = sum * t + -1.2655122f;
  return t * exp_plain(sum - z * z);
}

// GELU in its exact form, x times the normal distribution.
TW_DEVICE float gelu_erf_plain(float x) {
  const float tail = 0.5f * erfc_of_positive(fabsf(x) * 0.70710678f);
  return x * (x < 0.0f ? tail : 1.0f - tail);
}
