// What the GEMMs on wgmma share: a producer that streams tiles, two consumers that multiply them, and a schedule.
//
// A block of three warpgroups stays on its multiprocessor and works off every gridDim.x-th tile of the product, in the
// order of gemm_raster.cuh. A tile is 256 x 128 or 128 x 256 results:
//
//                     256 x 128                     128 x 256              consumer 1, 2: a warpgroup each
//                 128 columns                   256 columns                part 0, 1: 64 x 128 results of a consumer,
//     64 rows     consumer 1, part 0        consumer 1: parts 0 | 1        64 registers of each thread; also what an end
//     64 rows     consumer 1, part 1        consumer 2: parts 0 | 1        (gemm_end.cuh) takes at a time
//     128 rows    consumer 2, likewise
//
//   stages    four, of 128 bytes of depth: 384 rows of both operands together, 48 KB, swizzled
//   producer  warpgroup 0, of which one thread works: for each stage two tensor copies; rows past the end of an operand, and
//             the depth past its end, arrive as zeros
//   barriers  of a stage: `full` (all bytes have come), `empty` (the eight consuming warps are done with it) and `lead`, for
//             a product whose parts take work after the tensor core: the second consumer begins a stage when the first has
//             its first part. Were they to begin together they would end together, and the tensor core would idle while
//             both work. Only this order is kept: the first may run ahead, into the next tile while the second ends its own
//   shared    stages, then for each consumer the 64 rows that leave a part; the producer fills stages for the next tile
//             while this one ends
//   registers 240 for a consumer, 24 for the producer
//
// Bytes: 48 KB of both operands from L2 for 1024 tensor clocks, 48 a clock; with tiles of 128 x 128 it would be 64. Taking
// an L2 that gives 5120 bytes a clock, 39 for each of 132 multiprocessors, those numbers allow 81% and 61% of the tensor
// cores' peak (prediction). A cluster of two blocks that shared one operand by multicast would need 32 to 40.
#pragma once
#include "gemm_end.cuh"
#include "gemm_raster.cuh"
#include "ptx.cuh"
#include "tile.cuh"

namespace {

constexpr int WARPGROUP = 128, CONSUMERS = 2, GEMM_THREADS = (CONSUMERS + 1) * WARPGROUP;
constexpr int CONSUMER_WARPS = CONSUMERS * WARPGROUP / WARP;
constexpr int STAGES = 4, ROW_BYTES = 128, STAGE_ROWS = 384;
constexpr uint32_t STAGE_BYTES = STAGE_ROWS * ROW_BYTES;
constexpr int PARTS = 2, PART_ROWS = 64, COLUMN_TILES = GEMM_TILE / 8;
constexpr int PRODUCER_REGISTERS = 24, CONSUMER_REGISTERS = 240;
static_assert(PRODUCER_REGISTERS * WARPGROUP + CONSUMER_REGISTERS * CONSUMERS * WARPGROUP <= 65536, "more registers than there are");

// A consumer ends each of its parts.
struct Team {
  static constexpr int ROWS = PART_ROWS, THREADS = WARPGROUP, COLUMN_WARPS = 1;
  static __device__ __forceinline__ void sync(const EndPlace& at) { barrier_sync(1 + at.team, THREADS); }
  static constexpr __device__ uint32_t staging(const EndPlace& at) { return STAGES * STAGE_BYTES + at.team * PART_ROWS * BF16_PITCH; }
};

constexpr uint32_t BARRIERS_AT = STAGES * STAGE_BYTES + CONSUMERS * end_bytes<Team>();
constexpr uint32_t GEMM_SHARED_BYTES = BARRIERS_AT + 3 * STAGES * 8;
static_assert(GEMM_SHARED_BYTES == 231520 && GEMM_SHARED_BYTES <= 227 * 1024, "the launcher's number, and the chip's");

// The sums of a consumer's parts: registers of each thread.
using Sums = float[PARTS][1][COLUMN_TILES][4];

// The stages and their barriers.
struct Pipe {
  uint32_t stages, full, empty, lead;
};

// A stage and the parity of its phase. Everyone walks through the stages alike.
struct Turn {
  uint32_t stage = 0, parity = 0;
  __device__ __forceinline__ void next() {
    stage = stage == STAGES - 1 ? 0 : stage + 1;
    if (stage == 0) parity ^= 1;
  }
};

// The grid of tiles of 256 x 128 (IS_TALL) or of 128 x 256.
template <bool IS_TALL>
struct Tiles {
  static constexpr int ROWS = IS_TALL ? 256 : 128, COLUMNS = STAGE_ROWS - ROWS;
  static constexpr int BAND = 2048 / ROWS;  // as many rows as the columns of 132 tiles are, or nearly
  uint32_t row_tiles, column_tiles;

  __device__ __forceinline__ Tiles(int64_t rows, int64_t columns)
      : row_tiles(static_cast<uint32_t>((rows + ROWS - 1) / ROWS)), column_tiles(static_cast<uint32_t>((columns + COLUMNS - 1) / COLUMNS)) {}
  __device__ __forceinline__ uint32_t count() const { return row_tiles * column_tiles; }
  __device__ __forceinline__ TileIndex at(uint32_t index) const { return tile_of<BAND>(index, row_tiles, column_tiles); }
};

// One thread fills the stages, tile after tile; `steps` of them each, `step_values` deep.
template <bool IS_TALL>
TW_DEVICE void produce(const Tiles<IS_TALL>& tiles, const tw_tensor_map& a, const tw_tensor_map& w, int32_t steps, int32_t step_values,
                       const Pipe& pipe) {
  prefetch_tensor_map(a);
  prefetch_tensor_map(w);
  Turn turn;
  for (uint32_t index = blockIdx.x; index < tiles.count(); index += gridDim.x) {
    const TileIndex tile = tiles.at(index);
    const int32_t row = static_cast<int32_t>(tile.row * tiles.ROWS), column = static_cast<int32_t>(tile.column * tiles.COLUMNS);
    for (int32_t step = 0; step < steps; step++, turn.next()) {
      const uint32_t to = pipe.stages + turn.stage * STAGE_BYTES, full = pipe.full + turn.stage * 8;
      mbarrier_wait(pipe.empty + turn.stage * 8, turn.parity ^ 1);  // a fresh stage is empty
      mbarrier_arrive_expect(full, STAGE_BYTES);
      tensor_copy_to_shared_2d(to, a, row, step * step_values, full);
      tensor_copy_to_shared_2d(to + tiles.ROWS * ROW_BYTES, w, column, step * step_values, full);
    }
  }
}

// Waits until the bytes of a stage are there.
TW_DEVICE void wait_for_stage(const Pipe& pipe, const Turn& turn) { mbarrier_wait(pipe.full + turn.stage * 8, turn.parity); }

// Keeps the second consumer behind the first: before the products of a stage, and when the first part of them is there.
TW_DEVICE void follow(const Pipe& pipe, const Turn& turn, int consumer) {
  if (consumer == 1) mbarrier_wait(pipe.lead + turn.stage * 8, turn.parity);
}

TW_DEVICE void lead(const Pipe& pipe, const Turn& turn, int consumer) {
  if (consumer == 0 && threadIdx.x == WARPGROUP) mbarrier_arrive(pipe.lead + turn.stage * 8);
}

// A warp is done with a stage.
TW_DEVICE void release_stage(const Pipe& pipe, const Turn& turn) {
  if (lane_index() == 0) mbarrier_arrive(pipe.empty + turn.stage * 8);
}

// The place of a part: part 1 lies below part 0 in tall tiles, beside it in wide ones.
template <bool IS_TALL>
TW_DEVICE EndPlace place_of(const TileIndex& tile, int consumer, int part) {
  using Shape = Tiles<IS_TALL>;
  const int thread = static_cast<int>(threadIdx.x) % WARPGROUP;
  EndPlace at;
  at.first_row = static_cast<int64_t>(tile.row) * Shape::ROWS + consumer * (Shape::ROWS / CONSUMERS) + (IS_TALL ? part * PART_ROWS : 0);
  at.first_column = static_cast<int64_t>(tile.column) * Shape::COLUMNS + (IS_TALL ? 0 : part * GEMM_TILE);
  at.row = thread / WARP * 16 + Fragment::c_row(lane_index(), 0);
  at.column = Fragment::c_column(lane_index(), 0);
  at.column_warp = 0;
  at.team = consumer;
  at.thread = thread;
  return at;
}

// The kernel: Product multiplies a tile, `end` takes what a part has become.
//
//   Product::IS_TALL, Product::STEP_VALUES
//   Product::multiply(p, pipe, turn, tile, consumer, steps, sums)   leaves `turn` behind the last step
template <class Product, class P, class End>
TW_DEVICE void gemm_wgmma(const P& p, const tw_tensor_map& a, const tw_tensor_map& w, const End& end) {
  const Shared<int8_t> stages = dynamic_shared<int8_t>(0, STAGES * STAGE_BYTES);
  const Shared<uint64_t> barriers = dynamic_shared<uint64_t>(BARRIERS_AT, 3 * STAGES);
  Pipe pipe;
  pipe.stages = shared_address(stages);
  pipe.full = shared_address(barriers);
  pipe.empty = pipe.full + STAGES * 8;
  pipe.lead = pipe.empty + STAGES * 8;

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < STAGES; stage++) {
      mbarrier_init(pipe.full + stage * 8, 1);
      mbarrier_init(pipe.empty + stage * 8, CONSUMER_WARPS);
      mbarrier_init(pipe.lead + stage * 8, 1);
    }
    fence_mbarrier_init();
  }
  block_sync();

  const Tiles<Product::IS_TALL> tiles(p.gemm.rows, p.gemm.columns);
  const int32_t steps = static_cast<int32_t>((p.gemm.depth + Product::STEP_VALUES - 1) / Product::STEP_VALUES);
  const int warpgroup = warp_index() / (WARPGROUP / WARP);
  if (warpgroup == 0) {
    give_registers<PRODUCER_REGISTERS>();
    if (threadIdx.x == 0) produce(tiles, a, w, steps, Product::STEP_VALUES, pipe);
    return;
  }
  take_registers<CONSUMER_REGISTERS>();
  const int consumer = warpgroup - 1;
  Turn turn;
  for (uint32_t index = blockIdx.x; index < tiles.count(); index += gridDim.x) {
    const TileIndex tile = tiles.at(index);
    Sums sums;
    Product::multiply(p, pipe, turn, tile, consumer, steps, sums);
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
      const EndPlace at = place_of<Product::IS_TALL>(tile, consumer, part);
      if (at.first_row >= p.gemm.rows || at.first_column >= p.gemm.columns) continue;  // the whole consumer
      Team::sync(at);  // the part before has left shared memory
      end(at, sums[part]);
    }
  }
}

}  // namespace
