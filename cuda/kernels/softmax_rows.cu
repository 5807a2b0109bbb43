// The softmax of rows of scores, as the bf16 operand of the product with the values.
//
//   probabilities[r, c] = bf16(exp2(scale (scores[r, c] - max_r)) / sum_c exp2(...))
//
//   scores         [rows, columns]      f32
//   probabilities  [rows, out_stride]   bf16; zero from `columns` to `out_stride`, so that the product may be deeper
//
//   tile    a row a block; grid.x = rows
//   thread  columns {thread + i * THREADS}, twice: maximum and sum together, corrected where the maximum grows, then the
//           result; the second time a row of up to 50,000 scores still lies in the caches
//   sum     f32, over a thread's columns, then the lanes of a warp, then the warps: always the same order
//   edge    a thread without columns takes part with a maximum of -inf and a sum of zero
//
// Bytes: 4 read (8 with the second time, from L1 or L2) and 2 written a score; two exponentials each.
//
// sass: all LDG.E STG.E.U16 MUFU.EX2
#include "conv3d_params.h"
#include "kernel.cuh"
#include "ptx.cuh"
#include "tile.cuh"

namespace {

constexpr int THREADS = 256, WARPS = THREADS / WARP;

}  // namespace

TW_KERNEL(softmax_rows, SoftmaxRowsParams, THREADS) {
  TW_SHARED(float, maxima, WARPS);
  TW_SHARED(float, sums, WARPS);
  const int64_t row = blockIdx.x;
  const Global<const float> scores = global(p.scores) + row * p.columns;
  const Global<tw_bf16> probabilities = global(p.probabilities) + row * p.out_stride;

  // maximum and sum of the thread's columns
  float most = -INFINITY, sum = 0.0f;
  for (int64_t column = threadIdx.x; column < p.columns; column += THREADS) {
    const float score = p.scale * static_cast<float>(scores[column]);
    const float larger = fmaxf(most, score);
    // a maximum of -inf has no sum to correct; a score that is not a number makes the sum no number either
    if (larger > most && most > -INFINITY) sum *= exp2_fast(most - larger);
    most = larger;
    sum += score == -INFINITY ? 0.0f : exp2_fast(score - most);
  }

  // of the row
  const float row_most = block_max<WARPS>(most, maxima);
  const float row_sum = block_sum<WARPS>(most == -INFINITY ? sum : sum * exp2_fast(most - row_most), sums);
  const float inverse = divide(1.0f, row_sum);

  // divide, store
  for (int64_t column = threadIdx.x; column < p.out_stride; column += THREADS) {
    float probability = 0.0f;
    if (column < p.columns) {
      const float score = scores[column];
      probability = exp2_fast(p.scale * score - row_most) * inverse;
    }
    probabilities[column] = to_bf16(probability).bits;
  }
}
