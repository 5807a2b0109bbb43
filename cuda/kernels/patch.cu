// Planes of a latent and rows of its patches of 1 x 2 x 2 positions: how a transformer's tokens go in and come out.
//
//   patch     out[token][4 (first_channel + c) + 2 dh + dw] = bf16(f32(x[c][t][2 h + dh][2 w + dw]))
//   unpatch   out[c][t][2 h + dh][2 w + dw] = rows[token][(2 dh + dw) channels + c]
//
// Going in a row has the channel slowest, coming out the channel is the fastest.
//
//   x      [samples, channels, frames, height, width]   f64 or f32; tokens of a sample are in (t, h, w) order
//   out    [samples * tokens, row_width]                bf16; several sources may fill different channels of the rows
//
//   thread   one token and one channel, tokens fastest, so that a warp reads (patch) or writes (unpatch) neighbouring
//            values of a plane; grid.x = ceil(samples * channels * tokens / THREADS)
//
// Bytes: 8 or 4 read and 2 written a value; back 4 and 4.
//
// sass: all LDG.E.128 STG.E.64
#include "kernel.cuh"
#include "gather_params.h"
#include "ptx.cuh"

namespace {

constexpr int THREADS = 256;

// Where a thread's patch lies.
struct Place {
  int64_t sample, channel, token;
  int64_t plane;  // of its first value
};

// False past the last.
template <class P>
TW_DEVICE bool place_of(const P& p, Place& place) {
  const int64_t across = p.width / 2, tokens = p.frames * (p.height / 2) * across;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  place.token = index % tokens;
  place.channel = index / tokens % p.channels;
  place.sample = index / tokens / p.channels;
  const int64_t row = place.token / across;  // of all frames: t * height / 2 + h
  place.plane = (index / tokens * p.frames * p.height + row * 2) * p.width + place.token % across * 2;
  return place.sample < p.samples;
}

}  // namespace

TW_KERNEL(patch, PatchParams, THREADS) {
  Place at;
  if (!place_of(p, at)) return;
  const int64_t tokens = p.frames * (p.height / 2) * (p.width / 2);
  float v[4];
  if (p.x != nullptr) {
    const double2 top = load_vector_readonly<double2>(global(p.x) + at.plane);
    const double2 bottom = load_vector_readonly<double2>(global(p.x) + (at.plane + p.width));
    v[0] = static_cast<float>(top.x);
    v[1] = static_cast<float>(top.y);
    v[2] = static_cast<float>(bottom.x);
    v[3] = static_cast<float>(bottom.y);
  } else {
    const float2 top = load_vector_readonly<float2>(global(p.x_f32) + at.plane);
    const float2 bottom = load_vector_readonly<float2>(global(p.x_f32) + (at.plane + p.width));
    v[0] = top.x;
    v[1] = top.y;
    v[2] = bottom.x;
    v[3] = bottom.y;
  }
  const int64_t to = (at.sample * tokens + at.token) * p.row_width + (p.first_channel + at.channel) * 4;
  store_vector(global(p.out) + to, make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3])));
}

TW_KERNEL(unpatch, UnpatchParams, THREADS) {
  Place at;
  if (!place_of(p, at)) return;
  const int64_t tokens = p.frames * (p.height / 2) * (p.width / 2);
  const Global<const float> row = global(p.rows) + ((at.sample * tokens + at.token) * 4 * p.channels + at.channel);
  const float a = row[0], b = row[p.channels], c = row[2 * p.channels], d = row[3 * p.channels];
  store_vector(global(p.out) + at.plane, make_float2(a, b));
  store_vector(global(p.out) + (at.plane + p.width), make_float2(c, d));
}
