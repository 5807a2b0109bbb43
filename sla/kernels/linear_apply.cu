// The linear branch's rows from the folded state, alone or added to the sparse branch's.
//
//   y[r]   = bf16(phi(q[r]) . F / (1e-5 + phi(q[r]) . z) + b)
//   out[r] = y[r], or bf16(out[r] + y[r])
//
//   q, out   rows of D bf16 by the strides, 16-byte aligned; phi is rounded to bf16
//   folded   [problems, D + 1, D]  bf16: F^T (F is H, or H W^T) and z
//   b        [D]                   f32, or null
//
//   block    WARPS warps of 16 rows, over BLOCK_ROWS rows of one head; grid.x = problems * ceil(len / BLOCK_ROWS)
//   shared   the head's matrix, its rows and columns in the order of linear.cuh, once a block
//   warp     rows from global memory straight to the A operands of its products, and back: 16 bytes a lane
//   sum      f32
//   edge     rows past the end are zeros and not stored
//
// Bytes: 4 D a row, 6 D where it adds; the matrix, 2 D^2, once for BLOCK_ROWS rows. Products: 2 D^2 a row.
//
// sass: all LDG.E.128 LDSM.16.M88.4 HMMA.16816.F32.BF16 STG.E.128
#include "kernel.cuh"
#include "linear.cuh"

namespace {

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * WARP;
constexpr int BLOCK_ROWS = 512;

template <int D>
TW_DEVICE void apply(const LinearApplyParams& p) {
  constexpr int PITCH = D + 8;
  TW_SHARED(tw_bf16, matrix, D * PITCH);
  TW_SHARED(float, z, D);
  const int lane = lane_index(), warp = warp_index();
  const uint32_t blocks = static_cast<uint32_t>((p.len + BLOCK_ROWS - 1) / BLOCK_ROWS);
  const int64_t problem = blockIdx.x / blocks, first = static_cast<int64_t>(blockIdx.x % blocks) * BLOCK_ROWS;
  const int64_t end = min(first + BLOCK_ROWS, p.len);
  const Global<const tw_bf16> folded = global(p.folded) + problem * ((D + 1) * D);
  load_matrix<D, THREADS>(matrix, folded);
  if (static_cast<int>(threadIdx.x) < D) z[threadIdx.x] = to_f32(bf16{folded[D * D + threadIdx.x]});
  block_sync();

  const int64_t start = head_offset(problem, p.heads, p.sample_stride, p.head_stride);
  const Global<const tw_bf16> q = global(p.q) + start;
  const Global<tw_bf16> out = global(p.out) + (start + lane % 4 * CHUNK);
  const Global<const float> bias = global(p.bias) + lane % 4 * CHUNK;
  const uint32_t place = shared_address(matrix);
  for (int64_t row = first + warp * 16 + lane / 4; row - lane / 4 < end; row += WARPS * 16) {
    RowOperand<D> phi;
    load_rows<D>(phi, q, p.row_stride, row, p.len, lane);
    become_features<D>(phi, p.features);
    RowSums<D> sums;
    multiply_across<D>(sums, phi, place, lane);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float share = divide(1.0f, denominator_of<D>(phi, half, z + lane % 4 * CHUNK));
      if (row + half * 8 < p.len) {
        const Global<tw_bf16> to = out + (row + half * 8) * p.row_stride;
#pragma unroll
        for (int c = 0; c < D / 32; ++c) {
          float v[CHUNK];
#pragma unroll
          for (int i = 0; i < CHUNK; ++i) v[i] = value_of<D>(sums, half, c * CHUNK + i) * share;
          if (p.bias != nullptr) {
            const float4 low = load_vector_readonly<float4>(bias + c * 32), high = load_vector_readonly<float4>(bias + c * 32 + 4);
            const float added[CHUNK] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
            for (int i = 0; i < CHUNK; ++i) v[i] += added[i];
          }
          uint32_t words[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) words[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
          if (p.adds != 0) {
            const uint4 held = load_vector<uint4>(to + c * 32);
            const uint32_t others[4] = {held.x, held.y, held.z, held.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              words[i] = pack_bf16(low_bf16(others[i]) + low_bf16(words[i]), high_bf16(others[i]) + high_bf16(words[i]));
            }
          }
          store_vector(to + c * 32, make_uint4(words[0], words[1], words[2], words[3]));
        }
      }
    }
  }
}

}  // namespace

TW_KERNEL(linear_apply_d128, LinearApplyParams, THREADS, 2) { apply<128>(p); }
TW_KERNEL(linear_apply_d64, LinearApplyParams, THREADS, 3) { apply<64>(p); }
