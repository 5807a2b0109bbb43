// wgmma.mma_async: products of a warpgroup that run beside it, with operands in shared memory.
//
// Each of the four warps computes its own 16 rows. From issue to wait the accumulators are taken away from the kernel
// and poisoned, so that whoever reads them early computes nonsense, and whoever writes them is caught at the wait; the
// shared bytes that are read may not be written. The product itself is worked out at issue, or at the wait.
#include <string.h>

#include "block.h"
#include "product.h"

namespace emu {

constexpr uint32_t POISON = 0x7fbadbad;  // a NaN, and a large integer

struct Accumulators {
  void* lanes[WARP_LANES];
  uint32_t columns;
  uint32_t uses;
  std::vector<uint32_t> values;  // [16][columns]
};

struct Product {
  Kind kind;
  uint32_t columns;
  bool accumulates, a_in_registers, is_done;
  Accumulators* accumulators;
  uint64_t group;
  Where at;
  uint8_t a[16 * DEPTH_BYTES];
  std::vector<uint32_t> chunks_a, chunks_b;  // addresses of 16 bytes, in the order of the operand
  bool transposed_a, transposed_b;
};

namespace {

struct WgmmaOperands {
  Kind kind;
  uint32_t columns;
  void* accumulators;
  const uint32_t* a;
  uint64_t descriptor_a, descriptor_b;
  bool accumulates, transposed_a, transposed_b;
  Where at;
};

// A matrix descriptor: where an operand lies in shared memory.
struct Descriptor {
  uint32_t start, leading, stride;  // bytes
  uint32_t row_bytes;               // of a swizzled row: 128, 64, 32; 16 without a swizzle
  uint32_t row_bits;                // address bits from 7 up that are folded onto the bits from 4 up
};

Descriptor decode(Block& block, const char* which, uint64_t bits, Where at) {
  static const uint32_t ROW_BYTES[4] = {16, 128, 64, 32}, ROW_BITS[4] = {0, 7, 3, 1};
  const uint32_t mode = static_cast<uint32_t>(bits >> 62);
  const Descriptor descriptor{static_cast<uint32_t>(bits & 0x3fff) << 4, static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4,
                              static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4, ROW_BYTES[mode], ROW_BITS[mode]};
  if (bits >> 49 & 7) block.fault(TW_EMU_UNSUPPORTED, at, "operand %s: a descriptor with a base offset", which);
  if (descriptor.start >> 7 & descriptor.row_bits) {
    block.fault(TW_EMU_MISALIGNED, at, "operand %s: start 0x%x is not in the first row of a %u-byte swizzle pattern", which,
                descriptor.start, descriptor.row_bytes);
  }
  return descriptor;
}

uint32_t swizzled(const Descriptor& descriptor, uint32_t address) {
  return address ^ (address >> 7 & descriptor.row_bits) << 4;
}

// Depth-contiguous (K-major): chunk `half` (bytes 16 half ..) of row `row`. Rows stand in groups of eight, `stride`
// apart; without a swizzle the two halves are `leading` apart.
uint32_t chunk_along_depth(const Descriptor& descriptor, uint32_t row, uint32_t half) {
  const uint32_t across = descriptor.row_bytes == 16 ? half * descriptor.leading : half * 16;
  return swizzled(descriptor, descriptor.start + row / 8 * descriptor.stride + row % 8 * descriptor.row_bytes + across);
}

// Depth-strided (MN-major, 16-bit values): rows 8 eighth .. 8 eighth + 7 at depth k. A pattern is eight depths of
// `row_bytes`; along the rows patterns are `leading` apart and along the depth `stride`, the other way round without a
// swizzle.
uint32_t chunk_across_depth(const Descriptor& descriptor, uint32_t eighth, uint32_t k) {
  const uint32_t wide = descriptor.row_bytes / 16;
  const bool plain = descriptor.row_bytes == 16;
  const uint32_t along_rows = plain ? descriptor.stride : descriptor.leading;
  const uint32_t along_depth = plain ? descriptor.leading : descriptor.stride;
  return swizzled(descriptor, descriptor.start + eighth / wide * along_rows + k / 8 * along_depth + k % 8 * descriptor.row_bytes +
                                  eighth % wide * 16);
}

// Finds and claims the chunks of rows `first .. first + rows` of an operand. (A fault abandons this stack, so `chunks` is
// the product's.)
void claim_operand(Block& block, const char* which, uint64_t bits, bool transposed, uint32_t first, uint32_t rows,
                   std::vector<uint32_t>& chunks, Where at) {
  const Descriptor descriptor = decode(block, which, bits, at);
  chunks.reserve(rows * 2);
  if (transposed) {
    for (uint32_t eighth = first / 8; eighth < (first + rows) / 8; ++eighth) {
      for (uint32_t k = 0; k < 16; ++k) chunks.push_back(chunk_across_depth(descriptor, eighth, k));
    }
  } else {
    for (uint32_t row = first; row < first + rows; ++row) {
      for (uint32_t half = 0; half < 2; ++half) chunks.push_back(chunk_along_depth(descriptor, row, half));
    }
  }
  for (const uint32_t chunk : chunks) {
    check_address(block, which[0] == 'A' ? "wgmma, operand A" : "wgmma, operand B", chunk, 16, 16, at);
    async_read(block, chunk, 16, at);
    note_read(block, chunk, 16, at);
    ++block.shared.async_readers(chunk);
  }
}

// The operand's bytes, [rows][32].
void load(Block& block, const std::vector<uint32_t>& chunks, bool transposed, uint8_t* bytes) {
  for (size_t i = 0; i < chunks.size(); ++i) {
    const uint8_t* from = block.shared.at(chunks[i]);
    if (!transposed) {
      memcpy(bytes + 16 * i, from, 16);
      continue;
    }
    for (size_t j = 0; j < 8; ++j) memcpy(bytes + DEPTH_BYTES * (i / 16 * 8 + j) + 2 * (i % 16), from + 2 * j, 2);
  }
}

void carry_out(Block& block, Product& product_) {
  uint8_t* b = block.operand_b.data();
  if (!product_.a_in_registers) load(block, product_.chunks_a, product_.transposed_a, product_.a);
  load(block, product_.chunks_b, product_.transposed_b, b);
  std::vector<uint32_t>& values = product_.accumulators->values;
  if (!product_.accumulates) values.assign(values.size(), 0);
  product(product_.kind, product_.a, b, product_.columns, values.data(), block.scratch.data());
  product_.is_done = true;
}

Accumulators& take_accumulators(Block& block, Warp& warp, const WgmmaOperands& first) {
  for (Accumulators* taken : warp.accumulators) {
    if (taken->lanes[0] != first.accumulators) continue;
    if (taken->columns != first.columns) {
      block.fault(TW_EMU_IN_FLIGHT, first.at, "accumulators in flight for %u columns, now for %u", taken->columns, first.columns);
    }
    return *taken;
  }
  if (!warp.products_fenced) {
    block.fault(TW_EMU_IN_FLIGHT, first.at, "a wgmma on registers that were free for other use, with no wgmma.fence before it");
  }
  Accumulators& taken = *new Accumulators{};
  warp.accumulators.push_back(&taken);
  taken.columns = first.columns;
  taken.values.resize(16 * first.columns);
  for (uint32_t lane = 0; lane < WARP_LANES; ++lane) {
    const WgmmaOperands& operands = *static_cast<const WgmmaOperands*>(warp.operands[lane]);
    taken.lanes[lane] = operands.accumulators;
    uint8_t* registers = static_cast<uint8_t*>(operands.accumulators);
    for (uint32_t i = 0; i < first.columns / 2; ++i) {
      if (operands.accumulates) memcpy(&taken.values[row_of(lane, i) * first.columns + column_of(lane, i)], registers + 4 * i, 4);
      memcpy(registers + 4 * i, &POISON, 4);
    }
  }
  return taken;
}

Outcome run_wgmma(Block& block, Warp& warp) {
  const WgmmaOperands& first = *static_cast<const WgmmaOperands*>(warp.operands[0]);
  const bool from_registers = first.a != nullptr;
  const uint32_t* a_registers[WARP_LANES];
  for (uint32_t lane = 0; lane < WARP_LANES; ++lane) {
    const WgmmaOperands& its = *static_cast<const WgmmaOperands*>(warp.operands[lane]);
    a_registers[lane] = its.a;
    if (its.kind != first.kind || its.columns != first.columns || its.descriptor_a != first.descriptor_a ||
        its.descriptor_b != first.descriptor_b || its.accumulates != first.accumulates) {
      block.blamed = &warp.lanes[lane];
      block.fault(TW_EMU_DIVERGENCE, first.at, "lanes of one warp give a wgmma different operands");
    }
  }
  Product& issued = *new Product{};
  warp.products.push_back(&issued);
  issued.kind = first.kind;
  issued.columns = first.columns;
  issued.accumulates = first.accumulates;
  issued.a_in_registers = from_registers;
  issued.group = warp.product_group;
  issued.at = first.at;
  issued.transposed_a = first.transposed_a;
  issued.transposed_b = first.transposed_b;
  issued.accumulators = &take_accumulators(block, warp, first);
  ++issued.accumulators->uses;
  if (from_registers) {
    gather_a(a_registers, issued.a);
  } else {
    claim_operand(block, "A", first.descriptor_a, first.transposed_a, warp.number % 4 * 16, 16, issued.chunks_a, first.at);
  }
  claim_operand(block, "B", first.descriptor_b, first.transposed_b, 0, first.columns, issued.chunks_b, first.at);
  if (!block.is_deferred) carry_out(block, issued);
  ++warp.product_count;
  ++block.counts.wgmma;
  return Outcome::GoesOn;
}
const Operation WGMMA{"wgmma", run_wgmma};

void give_back(Block& block, Warp& warp, Accumulators* accumulators, Where at) {
  for (uint32_t lane = 0; lane < WARP_LANES; ++lane) {
    uint8_t* registers = static_cast<uint8_t*>(accumulators->lanes[lane]);
    for (uint32_t i = 0; i < accumulators->columns / 2; ++i) {
      uint32_t found;
      memcpy(&found, registers + 4 * i, 4);
      if (found != POISON) {
        block.blamed = &warp.lanes[lane];
        block.fault(TW_EMU_IN_FLIGHT, at, "accumulator %u of a wgmma was written before this wait", i);
      }
      memcpy(registers + 4 * i, &accumulators->values[row_of(lane, i) * accumulators->columns + column_of(lane, i)], 4);
    }
  }
  for (size_t i = 0; i < warp.accumulators.size(); ++i) {
    if (warp.accumulators[i] != accumulators) continue;
    warp.accumulators.erase(warp.accumulators.begin() + static_cast<ptrdiff_t>(i));
    break;
  }
  delete accumulators;
}

struct WaitOperands {
  uint64_t allowed;
  Where at;
};

Outcome run_wait(Block& block, Warp& warp) {
  const WaitOperands& operands = *static_cast<const WaitOperands*>(warp.operands[0]);
  while (!warp.products.empty() && warp.products[0]->group + operands.allowed < warp.product_group) {
    Product& finished = *warp.products[0];
    if (!finished.is_done) carry_out(block, finished);
    for (const std::vector<uint32_t>* chunks : {&finished.chunks_a, &finished.chunks_b}) {
      for (const uint32_t chunk : *chunks) {
        --block.shared.async_readers(chunk);
        // What is released after this wait is released after these reads.
        note_read(block, chunk, 16, operands.at);
      }
    }
    Accumulators* accumulators = finished.accumulators;
    delete &finished;
    warp.products.erase(warp.products.begin());
    if (--accumulators->uses == 0) give_back(block, warp, accumulators, operands.at);
  }
  warp.products_fenced = false;
  return Outcome::GoesOn;
}
const Operation WGMMA_WAIT{"wgmma.wait_group", run_wait};

Outcome run_fence(Block&, Warp& warp) {
  warp.products_fenced = true;
  return Outcome::GoesOn;
}
const Operation WGMMA_FENCE{"wgmma.fence", run_fence};

Outcome run_commit(Block&, Warp& warp) {
  ++warp.product_group;
  return Outcome::GoesOn;
}
const Operation WGMMA_COMMIT{"wgmma.commit_group", run_commit};

}  // namespace

void wgmma(Kind kind, uint32_t columns, void* accumulators, const uint32_t* a, uint64_t descriptor_a, uint64_t descriptor_b,
           bool accumulates, bool transposed_a, bool transposed_b, Where at) {
  Block& here = block();
  const bool is_narrow = kind == Kind::S8 || kind == Kind::E4m3;
  if (columns == 0 || columns > MAX_COLUMNS || columns % 8 != 0 || (kind == Kind::S8 && columns > 32 && columns % 16 != 0) ||
      ((transposed_a || transposed_b) && is_narrow) || kind == Kind::F16ToF16 || kind == Kind::E4m3ToF16) {
    here.fault(TW_EMU_UNSUPPORTED, at, "no wgmma of this kind has %u columns, or this transposition", columns);
  }
  if (here.thread_count % 128 != 0) here.fault(TW_EMU_UNSUPPORTED, at, "wgmma in a block without whole warpgroups");
  WgmmaOperands operands{kind, columns, accumulators, a, descriptor_a, descriptor_b, accumulates, transposed_a, transposed_b, at};
  here.collective(WGMMA, &operands, at);
}

void wgmma_fence(Where at) { block().collective(WGMMA_FENCE, nullptr, at); }
void wgmma_commit(Where at) { block().collective(WGMMA_COMMIT, nullptr, at); }

void wgmma_wait(uint64_t allowed, Where at) {
  WaitOperands operands{allowed, at};
  block().collective(WGMMA_WAIT, &operands, at);
}

void check_products_finished(Block& block, Warp& warp) {
  if (warp.products.empty()) return;
  block.fault(TW_EMU_UNFINISHED, warp.products[0]->at, "the warp returned with %zu wgmma that it never waited for",
              warp.products.size());
}

void forget_products(Warp& warp) {
  for (Product* product_ : warp.products) delete product_;
  for (Accumulators* accumulators : warp.accumulators) delete accumulators;
  warp.products.clear();
  warp.accumulators.clear();
}

}  // namespace emu
