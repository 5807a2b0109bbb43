// The embedding of times: cosines and sines of a few frequencies.
//
//   out[n, i] = f32(cos(t[n] w[i]))          out[n, half + i] = f32(sin(t[n] w[i]))
//
//   t      [count]             f32
//   w      [half]              f64
//   out    [count, 2 half]     f32, or bf16 of the f32, or both
//
//   thread   one frequency of one time; grid.x = ceil(count * half / THREADS)
//
// The angle, its quarter turn and both functions are worked out in f64, by multiplications and additions that are not
// fused: the host twin (src/ops/elementwise) has the same bits, for angles below 2^20 within 2^-50 of the functions.
//
// sass: all LDG.E.64 DMUL DADD
#include "kernel.cuh"
#include "elementwise_params.h"
#include "ptx.cuh"

namespace {

constexpr int THREADS = 128;
constexpr double NEAREST = 6755399441055744.0;         // 1.5 * 2^52: adding it leaves the nearest integer
constexpr double QUARTERS = 6.36619772367581382433e-01;  // 2 / pi
constexpr double QUARTER = 1.57079632673412561417e+00;   // the first 33 bits of pi / 2: its product with a count is exact
constexpr double QUARTER_REST = 6.07710050650619224932e-11;

// Taylor's sums with the last terms bent to the interval of an eighth of a turn to both sides.
TW_DEVICE double sine(double r) {
  const double z = r * r;
  const double sum =
      -1.66666666666666324348e-01 +
      z * (8.33333333332248946124e-03 +
           z * (-1.98412698298579493134e-04 + z * (2.75573137070700676789e-06 + z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10))));
  return r + r * z * sum;
}

TW_DEVICE double cosine(double r) {
  const double z = r * r;
  const double sum =
      4.16666666666666019037e-02 +
      z * (-1.38888888888741095749e-03 +
           z * (2.48015872894767294178e-05 + z * (-2.75573143513906633035e-07 + z * (2.08757232129817482790e-09 + z * -1.13596475577881948265e-11))));
  return 1.0 - 0.5 * z + z * z * sum;
}

}  // namespace

TW_KERNEL(sinusoid, SinusoidParams, THREADS) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  const int64_t row = index / p.half, at = index % p.half;
  if (row >= p.count) return;
  const double frequency = global(p.frequencies)[at];
  const double angle = static_cast<double>(static_cast<float>(global(p.times)[row])) * frequency;
  const double shifted = angle * QUARTERS + NEAREST, turns = shifted - NEAREST;
  const double r = (angle - turns * QUARTER) - turns * QUARTER_REST;
  const int quarter = static_cast<int>(static_cast<int64_t>(turns) & 3);
  const double s = sine(r), c = cosine(r);
  const double first = quarter % 2 == 0 ? c : s, second = quarter % 2 == 0 ? s : c;
  const float cos = static_cast<float>(quarter == 1 || quarter == 2 ? -first : first);
  const float sin = static_cast<float>(quarter >= 2 ? -second : second);
  const int64_t to = row * 2 * p.half + at;
  if (p.out != nullptr) {
    global(p.out)[to] = cos;
    global(p.out)[to + p.half] = sin;
  }
  if (p.out_bf16 != nullptr) {
    global(p.out_bf16)[to] = to_bf16(cos).bits;
    global(p.out_bf16)[to + p.half] = to_bf16(sin).bits;
  }
}
