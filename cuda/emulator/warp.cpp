// Instructions of a warp and of a block: shuffles, votes, reductions, barriers.
#include "block.h"
#include "instructions.h"

namespace emu {

namespace {

struct ShuffleOperands {
  uint32_t value, operand, result;
  Shuffle kind;
};

Outcome run_shuffle(Block&, Warp& warp) {
  uint32_t values[WARP_LANES];
  for (uint32_t lane = 0; lane < WARP_LANES; ++lane) values[lane] = static_cast<ShuffleOperands*>(warp.operands[lane])->value;
  for (uint32_t lane = 0; lane < WARP_LANES; ++lane) {
    ShuffleOperands& operands = *static_cast<ShuffleOperands*>(warp.operands[lane]);
    uint32_t from = lane;
    switch (operands.kind) {
      case Shuffle::Index: from = operands.operand % WARP_LANES; break;
      case Shuffle::Xor: from = lane ^ (operands.operand % WARP_LANES); break;
      case Shuffle::Down: from = lane + operands.operand < WARP_LANES ? lane + operands.operand : lane; break;
      case Shuffle::Up: from = lane >= operands.operand ? lane - operands.operand : lane; break;
    }
    operands.result = values[from];
  }
  return Outcome::GoesOn;
}
const Operation SHUFFLE{"a shuffle", run_shuffle};

struct BallotOperands {
  bool predicate;
  uint32_t result;
};

Outcome run_ballot(Block&, Warp& warp) {
  uint32_t votes = 0;
  for (uint32_t lane = 0; lane < WARP_LANES; ++lane) {
    votes |= uint32_t{static_cast<BallotOperands*>(warp.operands[lane])->predicate} << lane;
  }
  for (void* operands : warp.operands) static_cast<BallotOperands*>(operands)->result = votes;
  return Outcome::GoesOn;
}
const Operation BALLOT{"a vote", run_ballot};

struct ReduceOperands {
  uint32_t value;
  Reduction kind;
};

uint32_t combine(Reduction kind, uint32_t a, uint32_t b) {
  const int32_t signed_a = static_cast<int32_t>(a), signed_b = static_cast<int32_t>(b);
  switch (kind) {
    case Reduction::Add: return a + b;
    case Reduction::MinSigned: return signed_a < signed_b ? a : b;
    case Reduction::MaxSigned: return signed_a > signed_b ? a : b;
    case Reduction::MinUnsigned: return a < b ? a : b;
    case Reduction::MaxUnsigned: return a > b ? a : b;
    case Reduction::And: return a & b;
    case Reduction::Or: return a | b;
    case Reduction::Xor: return a ^ b;
  }
  return 0;
}

Outcome run_reduce(Block&, Warp& warp) {
  const ReduceOperands& first = *static_cast<ReduceOperands*>(warp.operands[0]);
  uint32_t all = first.value;
  for (uint32_t lane = 1; lane < WARP_LANES; ++lane) {
    all = combine(first.kind, all, static_cast<ReduceOperands*>(warp.operands[lane])->value);
  }
  for (void* operands : warp.operands) static_cast<ReduceOperands*>(operands)->value = all;
  return Outcome::GoesOn;
}
const Operation REDUCE{"a warp reduction", run_reduce};

Outcome run_warp_sync(Block&, Warp&) { return Outcome::GoesOn; }
const Operation WARP_SYNC{"__syncwarp", run_warp_sync};

struct BarrierOperands {
  uint32_t id, threads;
  bool waits, whole_block;
  Where at;
};

Outcome run_barrier(Block& block, Warp& warp) {
  const BarrierOperands& operands = *static_cast<BarrierOperands*>(warp.operands[0]);
  for (void* other : warp.operands) {
    const BarrierOperands& its = *static_cast<BarrierOperands*>(other);
    if (its.id != operands.id || its.threads != operands.threads) {
      block.fault(TW_EMU_BARRIER, operands.at, "lanes of one warp at barriers %u and %u, for %u and %u threads", operands.id, its.id,
                  operands.threads, its.threads);
    }
  }
  NamedBarrier& barrier = block.barriers[operands.id];
  if (barrier.arrived == 0) {
    barrier.expected = operands.threads;
    barrier.whole_block = operands.whole_block;
    barrier.at = operands.at;
  }
  if (barrier.whole_block && (barrier.at.line != operands.at.line || !operands.whole_block)) {
    block.fault(TW_EMU_DIVERGENCE, operands.at, "this warp is at a barrier of the block while others are at the one of line %d",
                barrier.at.line);
  }
  if (barrier.expected != operands.threads) {
    block.fault(TW_EMU_BARRIER, operands.at, "barrier %u for %u threads, and others came for %u", operands.id, operands.threads,
                barrier.expected);
  }
  if (barrier.arrived_warps >> warp.number & 1) {
    block.fault(TW_EMU_BARRIER, operands.at, "the warp comes to barrier %u twice before the others came once", operands.id);
  }
  if (operands.whole_block && block.done_count != 0) {
    block.fault(TW_EMU_EARLY_EXIT, operands.at, "a barrier of the whole block, and %u of its threads have returned", block.done_count);
  }
  barrier.arrived += WARP_LANES;
  barrier.arrived_warps |= 1u << warp.number;
  if (operands.waits) barrier.waiting_warps |= 1u << warp.number;
  barrier.clocks.join(warp.clocks);
  ++warp.clocks.of[warp.number];
  ++block.counts.barriers;
  if (barrier.arrived < barrier.expected) return operands.waits ? Outcome::Waits : Outcome::GoesOn;

  const NamedBarrier passed = barrier;
  barrier = NamedBarrier{};
  for (uint32_t i = 0; i < block.warp_count; ++i) {
    if (!(passed.waiting_warps >> i & 1)) continue;
    block.warps[i].clocks.join(passed.clocks);
    if (&block.warps[i] != &warp) block.wake_warp(block.warps[i]);
  }
  return Outcome::GoesOn;
}
const Operation BARRIER{"a barrier", run_barrier};

}  // namespace

uint32_t shuffle(uint32_t value, Shuffle kind, uint32_t operand, Where at) {
  ShuffleOperands operands{value, operand, 0, kind};
  block().collective(SHUFFLE, &operands, at);
  return operands.result;
}

uint32_t ballot(bool predicate, Where at) {
  BallotOperands operands{predicate, 0};
  block().collective(BALLOT, &operands, at);
  return operands.result;
}

uint32_t reduce(uint32_t value, Reduction kind, Where at) {
  ReduceOperands operands{value, kind};
  block().collective(REDUCE, &operands, at);
  return operands.value;
}

void warp_sync(Where at) { block().collective(WARP_SYNC, nullptr, at); }

void block_sync(Where at) {
  BarrierOperands operands{0, block().thread_count, true, true, at};
  block().collective(BARRIER, &operands, at);
}

void barrier(uint32_t id, uint32_t threads, bool waits, Where at) {
  Block& here = block();
  if (id >= NAMED_BARRIERS || threads == 0 || threads % WARP_LANES != 0 || threads > here.thread_count) {
    here.fault(TW_EMU_BARRIER, at, "barrier %u for %u threads: there are 16, each for whole warps of the block", id, threads);
  }
  BarrierOperands operands{id, threads, waits, false, at};
  here.collective(BARRIER, &operands, at);
}

}  // namespace emu
