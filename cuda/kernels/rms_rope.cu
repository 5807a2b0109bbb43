// RMS norm over all heads of a row, and rotary embedding of each head: what queries and keys go through.
//
//   y = bf16(bf16(x / sqrt(sum x^2 / width + eps)) * weight)            the inner rounding as `rounds_twice` says
//   (y[2i], y[2i+1]) <- bf16(y[2i] cos - y[2i+1] sin, y[2i] sin + y[2i+1] cos)
//
// Pair i of a head is turned by the token's time, height or width: the first head_dim / 2 - 2 s pairs by time, then s and s
// by the others, s = head_dim / 6.
//
//   x       [rows, width]                 bf16, rows `x_stride` values apart, 16-byte aligned, width at most WIDTH_LIMIT
//   weight  [width]                       f32
//   turns   [positions, head_dim / 2, 2]  f32: cosine and sine of pair i at a position of its axis; null: no rotation
//   out     bf16, value d of head h of token t of sample b at b * out_batch + h * out_head + t * out_token + d
//           row r is token r % tokens of sample r / tokens; tokens = time * height * breadth where they are turned
//
//   tile    one row a CTA, which has a thread for every CHUNKS * 8 values; grid.x = rows
//   thread  CHUNKS chunks of 8 values (4 pairs, of one head), in registers from the load to the store
//   shared  the cosines and sines of the token, gathered once for all heads while the sum is taken
//   edge    a chunk past the row takes part in the sum with zeros, and stores nothing
//
// IEEE f32 with true divisions, and each product rounded before it is added: as the host twins (src/ops/norm.rs,
// src/ops/rope.rs) but for the order of the sum.
//
// Bytes: 2 read and 2 written a value; weight and turns come from L1 and L2.
//
// sass: all LDG.E.128 STG.E.128
#include "kernel.cuh"
#include "params.h"
#include "quant_chunk.cuh"

constexpr int THREADS = 320;
constexpr int CHUNKS = 2;
constexpr int WIDTH_LIMIT = THREADS * CHUNKS * CHUNK;
constexpr int PAIR_LIMIT = 128;  // of a head
static_assert(WIDTH_LIMIT == 5120, "the launcher counts on it");

TW_KERNEL(rms_rope, RmsRopeParams, THREADS, 4) {
  const Global<const tw_bf16> x = global(p.x);
  const Global<const float> weight = global(p.weight);
  const Global<const float> turns = global(p.turns);
  const Global<tw_bf16> out = global(p.out);
  TW_SHARED(float, warp_sums, THREADS / WARP);
  TW_SHARED(float2, token_turns, PAIR_LIMIT);

  const int width = static_cast<int>(p.width);  // at most WIDTH_LIMIT
  const int head_dim = static_cast<int>(p.head_dim);
  const int64_t row = blockIdx.x;
  const int64_t batch = row / p.tokens;
  const int64_t token = row - batch * p.tokens;
  const int thread = static_cast<int>(threadIdx.x);
  const int first = thread * CHUNK;
  const int step = static_cast<int>(blockDim.x) * CHUNK;

  // load the row once
  uint4 chunks[CHUNKS];
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    const int column = first + i * step;
    chunks[i] = column < width ? load_vector_readonly<uint4>(x + (row * p.x_stride + column)) : make_uint4(0, 0, 0, 0);
  }

  // the token's turns
  if (p.turns != nullptr) {
    const int pairs = head_dim / 2, space = head_dim / 6;
    const uint32_t place = static_cast<uint32_t>(token);  // at most 128^3
    const uint32_t height = static_cast<uint32_t>(p.height), breadth = static_cast<uint32_t>(p.breadth);
    for (int pair = thread; pair < pairs; pair += static_cast<int>(blockDim.x)) {
      const uint32_t position = pair < pairs - 2 * space ? place / breadth / height
                                : pair < pairs - space   ? place / breadth % height
                                                         : place % breadth;
      const float2 turn = load_vector_readonly<float2>(turns + (static_cast<int64_t>(position) * pairs + pair) * 2);
      token_turns[pair] = turn;
    }
  }

  // the mean square; its barrier also publishes the turns
  float squares = 0;
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    float v[CHUNK];
    unpack(chunks[i], v);
#pragma unroll
    for (int j = 0; j < CHUNK; j++) v[j] *= v[j];
    squares += ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
  }
  squares = sum_of_block(squares, warp_sums);
  const float inverse = divide(1.0f, square_root(divide(squares, static_cast<float>(width)) + p.eps));

  // norm, turn, store
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    const int column = first + i * step;
    if (column < width) {
      float v[CHUNK], w[CHUNK];
      unpack(chunks[i], v);
      load_eight(weight + column, w);
#pragma unroll
      for (int j = 0; j < CHUNK; j++) v[j] = v[j] * inverse;
      if (p.rounds_twice != 0) {
        const uint4 rounded = pack(v);
        unpack(rounded, v);
      }
#pragma unroll
      for (int j = 0; j < CHUNK; j++) v[j] = v[j] * w[j];
      uint4 z = pack(v);
      const int head = column / head_dim, dim = column - head * head_dim;
      if (p.turns != nullptr) {
        unpack(z, v);
#pragma unroll
        for (int j = 0; j < CHUNK; j += 4) {  // two pairs, each x cosine, y sine
          const float4 turn = load_vector<float4>(token_turns + (dim + j) / 2);
          const float a = v[j], b = v[j + 1], c = v[j + 2], d = v[j + 3];
          v[j] = a * turn.x - b * turn.y;
          v[j + 1] = a * turn.y + b * turn.x;
          v[j + 2] = c * turn.z - d * turn.w;
          v[j + 3] = c * turn.w + d * turn.z;
        }
        z = pack(v);
      }
      store_vector(out + (batch * p.out_batch + head * p.out_head + token * p.out_token + dim), z);
    }
  }
}
