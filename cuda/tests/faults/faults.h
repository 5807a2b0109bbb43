// The seeded faults: each is one mistake that a kernel's author might make, switched on by `fault` in the parameters.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "tensor_map.h"

// In scores_mma.cu.
#define MMA_FAULTS(X)                                                                  \
  X(MISSING_BARRIER_AFTER_WAIT, "no barrier between a copy's wait and its readers")    \
  X(MISSING_BARRIER_BEFORE_REUSE, "no barrier before a buffer is filled again")        \
  X(MISSING_WAIT, "no cp.async.wait_group")                                            \
  X(WAIT_OFF_BY_ONE, "wait_group allows one group too many")                           \
  X(MISSING_COMMIT, "no cp.async.commit_group")                                        \
  X(SWIZZLE_BIT_ON_STORE, "one swizzle bit wrong where a tile is stored")              \
  X(SWIZZLE_BIT_ON_LOAD, "one swizzle bit wrong where a tile is read")                 \
  X(WRONG_BUFFER, "the other buffer is read")                                          \
  X(SWAPPED_FRAGMENT, "b0 and b1 swapped")                                             \
  X(MISALIGNED_LDMATRIX, "ldmatrix 8 bytes off")                                       \
  X(MISALIGNED_COPY, "a 16-byte copy from an odd address")                             \
  X(SHARED_OVERRUN, "one row past the end of shared memory")                           \
  X(UNWRITTEN_TAIL, "tail rows left unwritten instead of zero-filled")                 \
  X(READ_PAST_END, "tail rows read from beyond the matrix")                            \
  X(READ_ONE_PAST_END, "the row guard lets one row too many through")                  \
  X(STORE_ONE_PAST_END, "the column guard lets one column too many through")           \
  X(STORE_READ_ONLY, "the result is stored over an input")                             \
  X(DIVERGENT_BARRIER, "a block barrier that one warp does not meet")                  \
  X(BARRIER_IN_BRANCH, "a block barrier inside a branch of lanes")                     \
  X(EARLY_EXIT_SHUFFLE, "lanes return before a shuffle")                               \
  X(EARLY_EXIT_BARRIER, "a warp returns before a block barrier")                       \
  X(DIVERGENT_SHUFFLE, "half a warp shuffles elsewhere")                               \
  X(MISSING_REDUCE_BARRIER, "no barrier between partial sums and their reader")        \
  X(PARTIAL_OVERRUN, "one partial sum too many")

// In scores_wgmma.cu.
#define WGMMA_FAULTS(X)                                                                \
  X(WRONG_PARITY, "the full barrier is waited for with the other parity")              \
  X(MISSING_EXPECT, "no expect_tx")                                                    \
  X(EXPECT_TOO_FEW, "expect_tx of half the bytes")                                     \
  X(EXPECT_TOO_MANY, "expect_tx of 16 bytes too many")                                 \
  X(DOUBLE_ARRIVE, "a consumer arrives twice")                                         \
  X(MISSING_ARRIVE, "a consumer does not arrive")                                      \
  X(WRONG_COUNT, "the empty barrier waits for one arrival too many")                   \
  X(MISSING_FULL_WAIT, "no wait for the full barrier")                                 \
  X(MISSING_EMPTY_WAIT, "no wait for the empty barrier")                               \
  X(EARLY_RELEASE, "a stage is released before its products are waited for")           \
  X(MISSING_INIT_FENCE, "no fence after mbarrier.init")                                \
  X(MISSING_INIT_BARRIER, "no block barrier after mbarrier.init")                      \
  X(MISSING_PROXY_FENCE, "no fence.proxy.async after ordinary writes")                 \
  X(MISSING_QUERY_BARRIER, "no barrier between writing the queries and multiplying")   \
  X(MISSING_WGMMA_FENCE, "no wgmma.fence")                                             \
  X(MISSING_WGMMA_COMMIT, "no wgmma.commit_group")                                     \
  X(EARLY_ACCUMULATOR_READ, "accumulators read before the wait")                       \
  X(EARLY_ACCUMULATOR_WRITE, "accumulators written before the wait")                   \
  X(WGMMA_WAIT_OFF_BY_ONE, "wgmma.wait_group allows one group too many")               \
  X(WRONG_DESCRIPTOR_STRIDE, "the descriptor's stride is half of what it is")          \
  X(WRONG_DESCRIPTOR_SWIZZLE, "the descriptor names no swizzle")                       \
  X(WRONG_DESCRIPTOR_DEPTH, "the descriptor does not move along the depth")            \
  X(MISALIGNED_DESCRIPTOR, "the descriptor starts one row late")                       \
  X(ONE_WARP_SKIPS, "one warp of a warpgroup skips a product")                         \
  X(TILE_PAST_END, "one key tile too many is copied")                                  \
  X(ODD_COPY_BYTES, "a bulk copy of a length that is no multiple of 16")               \
  X(NAMED_BARRIER_COUNT, "a named barrier for more threads than come")                 \
  X(MISSING_STORE_FENCE, "no proxy fence before a bulk store")                         \
  X(MISSING_STORE_WAIT, "a bulk store that nobody waits for")                          \
  X(EARLY_STAGING_REUSE, "the staging tile is written again before its store has read it")

// In tensor_copies.cu, and in the maps that tensor_test.h makes for it.
#define TENSOR_FAULTS(X)                                                               \
  X(TENSOR_SMALL_TILE, "the map's tile has half the rows that the kernel expects")     \
  X(TENSOR_NO_SWIZZLE, "the map has no swizzle")                                       \
  X(TENSOR_WRONG_SWIZZLE, "the map has the swizzle of narrower rows")                  \
  X(TENSOR_ROWS_PAST_END, "the map has a row more than its memory")                    \
  X(TENSOR_READ_ONLY, "a tensor store into memory that is only read")                  \
  X(TENSOR_EXPECT_TOO_FEW, "expect_tx of 16 bytes too few for a tile")                 \
  X(TENSOR_MISALIGNED_TARGET, "a tile at no multiple of 128 bytes")                    \
  X(TENSOR_SWAPPED_COORDINATES, "row and column of a tile swapped")                    \
  X(TENSOR_COPIED_MAP, "a tensor map copied out of the parameters")                    \
  X(TENSOR_MISSING_WAIT, "no wait for a tile")                                         \
  X(TENSOR_MISSING_STORE_FENCE, "no proxy fence before a tensor store")                \
  X(TENSOR_MISSING_STORE_BARRIER, "no barrier before a tensor store")                  \
  X(TENSOR_MISSING_STORE_WAIT, "a tensor store that nobody waits for")

enum Fault : uint32_t {
  NO_FAULT = 0,
#define X(name, text) name,
  MMA_FAULTS(X) WGMMA_FAULTS(X) TENSOR_FAULTS(X) FAULT_COUNT
#undef X
};
constexpr uint32_t FIRST_WGMMA_FAULT = WRONG_PARITY, FIRST_TENSOR_FAULT = TENSOR_SMALL_TILE;

// s[rows, keys] = q[rows, 128] k[keys, 128]^T in int8, exact; peak[block] = largest |s| of a block's rows.
struct ScoresParams {
  const int8_t* q;
  const int8_t* k;  // scores_wgmma: tiles of 64 keys, each as shared memory is to have it
  int32_t* s;
  float* peak;
  int64_t rows, keys;
  uint32_t fault, pad;
};
static_assert(sizeof(ScoresParams) == 56, "both sides");

// y = x + 1 through tensor copies; see tensor_copies.cu.
struct TensorParams {
  tw_tensor_map x, y;
  uint32_t* outside;
  int64_t planes, rows, columns;
  uint32_t axes, fault;
};
static_assert(sizeof(tw_tensor_map) == 192 && sizeof(TensorParams) == 448 && offsetof(TensorParams, fault) == 420, "both sides");
