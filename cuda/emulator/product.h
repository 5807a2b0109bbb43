// The arithmetic of the tensor cores: 16 rows times `columns` columns over 32 bytes of depth.
#pragma once
#include <stdint.h>

#include "instructions.h"

namespace emu {

constexpr uint32_t DEPTH_BYTES = 32;  // 32 values of 8 bits, 16 of 16 bits
constexpr uint32_t MAX_COLUMNS = 256;

// accumulators[row][column] += sum over k of a[row][k] * b[column][k].
//
// a is [16][32 bytes], b is [columns][32 bytes], accumulators are [16][columns] int32 (s8) or float. Integers are exact.
// Floating-point products are exact, their sum and the accumulator are added in f64 and rounded once: to f32, or to f16
// where the accumulator is f16 (held as float). A tensor core adds in an order and with a width of its own, so a kernel's
// result on a device may differ in the last bits. `scratch` is room for SCRATCH_FLOATS: a fiber's stack is small.
constexpr size_t SCRATCH_FLOATS = 32 * MAX_COLUMNS;
void product(Kind kind, const uint8_t* a, const uint8_t* b, uint32_t columns, void* accumulators, float* scratch);

// Bits of a registers' file and the matrices they hold. Lane l, with g = l / 4 and t = l % 4, holds of
//   A (4 registers)  bytes 4t..4t+3 of row g, of row g + 8, then bytes 16+4t.. of row g, of row g + 8
//   B (2 registers)  bytes 4t..4t+3 of column g, then bytes 16+4t..
//   C (4 values for each 8 columns)  columns 2t, 2t + 1 of row g, then of row g + 8
constexpr uint32_t row_of(uint32_t lane, uint32_t value) { return lane / 4 + (value / 2 % 2) * 8; }
constexpr uint32_t column_of(uint32_t lane, uint32_t value) { return value / 4 * 8 + lane % 4 * 2 + value % 2; }

// Puts the A registers of 32 lanes together: [16][32 bytes].
void gather_a(const uint32_t* const registers[32], uint8_t* a);

}  // namespace emu
