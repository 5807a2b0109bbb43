// ldmatrix, stmatrix and mma.sync: 32 lanes at once, carried out by the last to arrive.
#include <string.h>

#include "block.h"
#include "number.h"
#include "product.h"

namespace emu {

namespace {

struct MatrixOperands {
  uint32_t* registers;
  const uint32_t* stored;
  uint32_t count, address;
  bool transposed;
  Where at;
};

const MatrixOperands& matrix_operands(const Warp& warp, uint32_t lane) {
  return *static_cast<const MatrixOperands*>(warp.operands[lane]);
}

// Shared-memory cycles of eight rows of 16 bytes: rows in the same group of four banks take turns.
uint32_t cycles(const uint32_t* addresses) {
  uint32_t most = 1;
  for (uint32_t group = 0; group < 8; ++group) {
    uint32_t distinct = 0;
    for (uint32_t i = 0; i < 8; ++i) {
      if (addresses[i] / 16 % 8 != group) continue;
      bool is_first = true;
      for (uint32_t j = 0; j < i; ++j) is_first &= addresses[j] != addresses[i];
      distinct += is_first;
    }
    most = distinct > most ? distinct : most;
  }
  return most;
}

// Rows 0..7 of matrix m are at the addresses of lanes 8m .. 8m + 7.
Outcome run_ldmatrix(Block& block, Warp& warp) {
  const MatrixOperands& first = matrix_operands(warp, 0);
  for (uint32_t matrix = 0; matrix < first.count; ++matrix) {
    uint8_t rows[8][16];
    uint32_t addresses[8];
    for (uint32_t row = 0; row < 8; ++row) {
      const uint32_t lane = 8 * matrix + row;
      block.blamed = &warp.lanes[lane];
      addresses[row] = matrix_operands(warp, lane).address;
      check_address(block, "ldmatrix", addresses[row], 16, 16, first.at);
      memcpy(rows[row], shared_read(addresses[row], 16, 16, first.at), 16);
    }
    block.counts.ldmatrix_conflicts += cycles(addresses) - 1;
    ++block.counts.ldmatrix_phases;
    for (uint32_t lane = 0; lane < WARP_LANES; ++lane) {
      uint32_t& to = matrix_operands(warp, lane).registers[matrix];
      const uint32_t g = lane / 4, t = lane % 4;
      if (!first.transposed) {
        memcpy(&to, &rows[g][4 * t], 4);
      } else {
        memcpy(&to, &rows[2 * t][2 * g], 2);
        memcpy(reinterpret_cast<uint8_t*>(&to) + 2, &rows[2 * t + 1][2 * g], 2);
      }
    }
  }
  block.blamed = nullptr;
  ++block.counts.ldmatrix;
  return Outcome::GoesOn;
}

Outcome run_stmatrix(Block& block, Warp& warp) {
  const MatrixOperands& first = matrix_operands(warp, 0);
  for (uint32_t matrix = 0; matrix < first.count; ++matrix) {
    uint8_t rows[8][16];
    for (uint32_t lane = 0; lane < WARP_LANES; ++lane) {
      const uint32_t from = matrix_operands(warp, lane).stored[matrix];
      const uint32_t g = lane / 4, t = lane % 4;
      const uint16_t low = static_cast<uint16_t>(from), high = static_cast<uint16_t>(from >> 16);
      memcpy(first.transposed ? &rows[2 * t][2 * g] : &rows[g][4 * t], &low, 2);
      memcpy(first.transposed ? &rows[2 * t + 1][2 * g] : &rows[g][4 * t + 2], &high, 2);
    }
    for (uint32_t row = 0; row < 8; ++row) {
      const uint32_t lane = 8 * matrix + row;
      block.blamed = &warp.lanes[lane];
      const uint32_t address = matrix_operands(warp, lane).address;
      check_address(block, "stmatrix", address, 16, 16, first.at);
      memcpy(shared_write(address, 16, 16, first.at), rows[row], 16);
      // The proxy rule asks the lane that gave the row.
      for (uint32_t place = address; place < address + 16; place += 4) {
        block.shared.word(place).writer = static_cast<uint16_t>(warp.lanes[lane].number);
      }
    }
  }
  block.blamed = nullptr;
  return Outcome::GoesOn;
}

// One entry for each form, so that lanes at different forms do not meet.
const Operation LDMATRIX[2][3] = {
    {{"ldmatrix.x1", run_ldmatrix}, {"ldmatrix.x2", run_ldmatrix}, {"ldmatrix.x4", run_ldmatrix}},
    {{"ldmatrix.x1.trans", run_ldmatrix}, {"ldmatrix.x2.trans", run_ldmatrix}, {"ldmatrix.x4.trans", run_ldmatrix}}};
const Operation STMATRIX[2][3] = {
    {{"stmatrix.x1", run_stmatrix}, {"stmatrix.x2", run_stmatrix}, {"stmatrix.x4", run_stmatrix}},
    {{"stmatrix.x1.trans", run_stmatrix}, {"stmatrix.x2.trans", run_stmatrix}, {"stmatrix.x4.trans", run_stmatrix}}};

struct MmaOperands {
  void* accumulators;
  const uint32_t* a;
  uint32_t b[2];
  Kind kind;
};

Outcome run_mma(Block& block, Warp& warp) {
  const MmaOperands* of[WARP_LANES];
  const uint32_t* a_registers[WARP_LANES];
  uint8_t a[16 * DEPTH_BYTES], b[8 * DEPTH_BYTES];
  uint32_t sums[16][8];
  const Kind kind = static_cast<const MmaOperands*>(warp.operands[0])->kind;
  const bool is_half = kind == Kind::F16ToF16 || kind == Kind::E4m3ToF16;
  for (uint32_t lane = 0; lane < WARP_LANES; ++lane) {
    of[lane] = static_cast<const MmaOperands*>(warp.operands[lane]);
    a_registers[lane] = of[lane]->a;
    memcpy(b + DEPTH_BYTES * (lane / 4) + lane % 4 * 4, &of[lane]->b[0], 4);
    memcpy(b + DEPTH_BYTES * (lane / 4) + 16 + lane % 4 * 4, &of[lane]->b[1], 4);
    for (uint32_t i = 0; i < 4; ++i) {
      uint32_t bits;
      if (is_half) {
        uint16_t half;
        memcpy(&half, static_cast<const uint8_t*>(of[lane]->accumulators) + 2 * i, 2);
        bits = bits_of_float(f32_of_f16(half));
      } else {
        memcpy(&bits, static_cast<const uint8_t*>(of[lane]->accumulators) + 4 * i, 4);
      }
      sums[row_of(lane, i)][column_of(lane, i)] = bits;
    }
  }
  gather_a(a_registers, a);
  product(kind, a, b, 8, sums, block.scratch.data());
  for (uint32_t lane = 0; lane < WARP_LANES; ++lane) {
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t bits = sums[row_of(lane, i)][column_of(lane, i)];
      if (is_half) {
        const uint16_t half = f16_of_f32(float_of_bits(bits));
        memcpy(static_cast<uint8_t*>(of[lane]->accumulators) + 2 * i, &half, 2);
      } else {
        memcpy(static_cast<uint8_t*>(of[lane]->accumulators) + 4 * i, &bits, 4);
      }
    }
  }
  ++block.counts.mma;
  return Outcome::GoesOn;
}

const Operation MMA[] = {{"mma.s8", run_mma},  {"mma.f16", run_mma},     {"mma.bf16", run_mma},
                         {"mma.e4m3", run_mma}, {"mma.f16.f16", run_mma}, {"mma.e4m3.f16", run_mma}};

}  // namespace

void ldmatrix(uint32_t* registers, uint32_t count, bool transposed, uint32_t address, Where at) {
  MatrixOperands operands{registers, nullptr, count, address, transposed, at};
  block().collective(LDMATRIX[transposed][count / 2], &operands, at);
}

void stmatrix(const uint32_t* registers, uint32_t count, bool transposed, uint32_t address, Where at) {
  MatrixOperands operands{nullptr, registers, count, address, transposed, at};
  block().collective(STMATRIX[transposed][count / 2], &operands, at);
}

void mma(Kind kind, void* accumulators, const uint32_t* a, uint32_t b0, uint32_t b1, Where at) {
  MmaOperands operands{accumulators, a, {b0, b1}, kind};
  block().collective(MMA[static_cast<int>(kind)], &operands, at);
}

}  // namespace emu
