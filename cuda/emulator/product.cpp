#include "product.h"

#include <string.h>

#include "number.h"

namespace emu {

namespace {

constexpr uint32_t ROWS = 16;

// The accumulators are one buffer of words, read as what the kind says.
typedef float AnyFloat __attribute__((may_alias));
typedef int32_t AnyInt __attribute__((may_alias));
typedef float Floats __attribute__((vector_size(32), may_alias, aligned(4)));
typedef double Doubles __attribute__((vector_size(32)));

// The bytes of 16-bit and 8-bit operands as floats.
inline __attribute__((always_inline)) float value_of(Kind kind, const uint8_t* row, uint32_t k) {
  uint16_t half;
  switch (kind) {
    case Kind::S8: return static_cast<int8_t>(row[k]);
    case Kind::E4m3:
    case Kind::E4m3ToF16: return f32_of_e4m3(row[k]);
    case Kind::F16:
    case Kind::F16ToF16: memcpy(&half, row + 2 * k, 2); return f32_of_f16(half);
    case Kind::Bf16: memcpy(&half, row + 2 * k, 2); return f32_of_bf16(half);
  }
  return 0;
}

// `wide_b` [DEPTH][MAX_COLUMNS]: depth first, so that eight columns are one vector.
template <Kind KIND, uint32_t DEPTH>
inline __attribute__((always_inline)) void product_of(const uint8_t* a, const uint8_t* b, uint32_t columns, void* accumulators,
                                                      float* wide_b) {
  alignas(32) float wide_a[ROWS][DEPTH];
  for (uint32_t row = 0; row < ROWS; ++row) {
    for (uint32_t k = 0; k < DEPTH; ++k) wide_a[row][k] = value_of(KIND, a + DEPTH_BYTES * row, k);
  }
  for (uint32_t column = 0; column < columns; ++column) {
    for (uint32_t k = 0; k < DEPTH; ++k) wide_b[k * MAX_COLUMNS + column] = value_of(KIND, b + DEPTH_BYTES * column, k);
  }
  for (uint32_t row = 0; row < ROWS; ++row) {
    for (uint32_t column = 0; column < columns; column += 8) {
      if constexpr (KIND == Kind::S8) {
        // 32 products of at most 2^14 sum to less than 2^24: exact in f32.
        Floats sum{};
        for (uint32_t k = 0; k < DEPTH; ++k) sum += wide_a[row][k] * *reinterpret_cast<const Floats*>(&wide_b[k * MAX_COLUMNS + column]);
        AnyInt* to = static_cast<AnyInt*>(accumulators) + row * columns + column;
        for (uint32_t i = 0; i < 8; ++i) {
          to[i] = static_cast<int32_t>(static_cast<uint32_t>(to[i]) + static_cast<uint32_t>(static_cast<int32_t>(sum[i])));
        }
      } else {
        AnyFloat* to = static_cast<AnyFloat*>(accumulators) + row * columns + column;
        Doubles low{to[0], to[1], to[2], to[3]}, high{to[4], to[5], to[6], to[7]};
        for (uint32_t k = 0; k < DEPTH; ++k) {
          const double factor = wide_a[row][k];
          const float* from = &wide_b[k * MAX_COLUMNS + column];
          low += factor * Doubles{from[0], from[1], from[2], from[3]};
          high += factor * Doubles{from[4], from[5], from[6], from[7]};
        }
        for (uint32_t i = 0; i < 8; ++i) {
          const double sum = i < 4 ? low[i] : high[i - 4];
          to[i] = KIND == Kind::F16ToF16 || KIND == Kind::E4m3ToF16 ? f32_of_f16(f16_of_f64(sum)) : static_cast<float>(sum);
        }
      }
    }
  }
}

inline __attribute__((always_inline)) void product_of_kind(Kind kind, const uint8_t* a, const uint8_t* b, uint32_t columns,
                                                           void* accumulators, float* scratch) {
  switch (kind) {
    case Kind::S8: return product_of<Kind::S8, 32>(a, b, columns, accumulators, scratch);
    case Kind::F16: return product_of<Kind::F16, 16>(a, b, columns, accumulators, scratch);
    case Kind::Bf16: return product_of<Kind::Bf16, 16>(a, b, columns, accumulators, scratch);
    case Kind::E4m3: return product_of<Kind::E4m3, 32>(a, b, columns, accumulators, scratch);
    case Kind::F16ToF16: return product_of<Kind::F16ToF16, 16>(a, b, columns, accumulators, scratch);
    case Kind::E4m3ToF16: return product_of<Kind::E4m3ToF16, 32>(a, b, columns, accumulators, scratch);
  }
}

// The same code for what every CPU of the kind has, and for eight floats at a time where this one can. Products are
// exact in the width they are summed in, so both give the same bits.
void product_plain(Kind kind, const uint8_t* a, const uint8_t* b, uint32_t columns, void* accumulators, float* scratch) {
  product_of_kind(kind, a, b, columns, accumulators, scratch);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void product_avx2(Kind kind, const uint8_t* a, const uint8_t* b, uint32_t columns,
                                                  void* accumulators, float* scratch) {
  product_of_kind(kind, a, b, columns, accumulators, scratch);
}
#endif

using Product = void (*)(Kind, const uint8_t*, const uint8_t*, uint32_t, void*, float*);

Product choose() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) return product_avx2;
#endif
  return product_plain;
}

}  // namespace

void product(Kind kind, const uint8_t* a, const uint8_t* b, uint32_t columns, void* accumulators, float* scratch) {
  static const Product chosen = choose();
  chosen(kind, a, b, columns, accumulators, scratch);
}

void gather_a(const uint32_t* const registers[32], uint8_t* a) {
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t i = 0; i < 4; ++i) {
      memcpy(a + DEPTH_BYTES * (lane / 4 + i % 2 * 8) + i / 2 * 16 + lane % 4 * 4, &registers[lane][i], 4);
    }
  }
}

}  // namespace emu
