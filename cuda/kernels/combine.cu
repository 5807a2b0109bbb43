// A step of a sampler on its state, in f64: towards or along a velocity, and noised anew.
//
//   x = scale * (x + factor * v)  [ + f64(weight * noise) ]
//
//   x          [count]  f64, 16-byte aligned, in place
//   v, noise   [count]  f32, widened; the product with the noise is rounded to f32, as the official scripts have it
//
//   thread   VALUES neighbouring values: 16-byte loads and stores; grid.x = ceil(count / (THREADS * VALUES))
//   edge     the last thread's values one by one
//
// Every operation rounds once and none is fused, so that the host gives the same bits.
//
// Bytes: 8 + 4 (+ 4) read and 8 written a value.
//
// sass: all LDG.E.128 STG.E.128 DADD DMUL
#include "kernel.cuh"
#include "elementwise_params.h"
#include "ptx.cuh"

namespace {

constexpr int THREADS = 256;
constexpr int VALUES = 4;

TW_DEVICE double combined(const CombineParams& p, double x, float v) { return p.scale * (x + p.factor * static_cast<double>(v)); }
TW_DEVICE double noised(const CombineParams& p, double x, float noise) { return x + static_cast<double>(p.weight * noise); }

}  // namespace

TW_KERNEL(combine, CombineParams, THREADS) {
  const Global<double> x = global(p.x);
  const Global<const float> v = global(p.v), noise = global(p.noise);
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) * VALUES;
  if (first + VALUES <= p.count) {
    double2 low = load_vector<double2>(x + first), high = load_vector<double2>(x + (first + 2));
    const float4 along = load_vector_readonly<float4>(v + first);
    low = make_double2(combined(p, low.x, along.x), combined(p, low.y, along.y));
    high = make_double2(combined(p, high.x, along.z), combined(p, high.y, along.w));
    if (p.noise != nullptr) {
      const float4 anew = load_vector_readonly<float4>(noise + first);
      low = make_double2(noised(p, low.x, anew.x), noised(p, low.y, anew.y));
      high = make_double2(noised(p, high.x, anew.z), noised(p, high.y, anew.w));
    }
    store_vector(x + first, low);
    store_vector(x + (first + 2), high);
    return;
  }
  for (int64_t i = first; i < p.count; ++i) {
    double value = combined(p, x[i], v[i]);
    if (p.noise != nullptr) value = noised(p, value, noise[i]);
    x[i] = value;
  }
}
