// Each instruction alone, in every mode, against a plain loop.
#pragma once
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <vector>

#include "emulator.h"
#include "instructions.h"
#include "number.h"

namespace instructions {

inline int failures = 0;
inline uint32_t seed = 1;
inline uint32_t random_bits() {
  seed ^= seed << 13;
  seed ^= seed >> 17;
  seed ^= seed << 5;
  return seed;
}

inline void fail(const char* what, const char* message) {
  if (++failures < 20) printf("FAILED %s: %s\n", what, message);
}

inline bool launch(const char* kernel, unsigned threads, size_t shared, const void* params, size_t bytes,
                   const std::vector<tw_emu_range>& ranges, int mode) {
  tw_emu_options options{};
  options.schedule = mode / 2;
  options.copies = mode % 2;
  options.ranges = ranges.data();
  options.range_count = ranges.size();
  const unsigned grid[3] = {1, 1, 1}, block[3] = {threads, 1, 1};
  char message[1024];
  const int code = tw_emu_launch(kernel, grid, block, shared, params, bytes, &options, message, sizeof message);
  if (code != 0) fail(kernel, message);
  return code == 0;
}

// A value of a kind, from the bytes of a row; formats are read by their definition, not by the emulator's tricks.
inline double plain_value(uint32_t kind, const uint8_t* row, int k) {
  if (kind == 0) return static_cast<int8_t>(row[k]);
  int sign, exponent, fraction, bits, bias;
  if (kind == 3 || kind == 5) {
    sign = row[k] >> 7, exponent = row[k] >> 3 & 15, fraction = row[k] & 7, bits = 3, bias = 7;
  } else {
    const int half = row[2 * k] | row[2 * k + 1] << 8;
    const bool is_bf16 = kind == 2;
    bits = is_bf16 ? 7 : 10, bias = is_bf16 ? 127 : 15;
    sign = half >> 15, exponent = half >> bits & (is_bf16 ? 255 : 31), fraction = half & ((1 << bits) - 1);
  }
  const double value = exponent == 0 ? ldexp(fraction, 1 - bias - bits) : ldexp((1 << bits) + fraction, exponent - bias - bits);
  return sign ? -value : value;
}

// Bytes of which every value is a number of moderate size.
inline void fill(std::vector<uint8_t>& bytes, uint32_t kind) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    uint8_t byte = static_cast<uint8_t>(random_bits() >> 8);
    if (kind == 3 || kind == 5) byte = static_cast<uint8_t>((byte & 0x87) | (random_bits() % 12 << 3));
    if ((kind == 1 || kind == 4) && i % 2 == 1) byte = static_cast<uint8_t>((byte & 0x83) | (random_bits() % 18 << 2));
    if (kind == 2 && i % 2 == 1) byte = static_cast<uint8_t>((byte & 0x80) | (0x3e + random_bits() % 4));
    bytes[i] = byte;
  }
}

inline uint32_t expected(uint32_t kind, const uint8_t* a, const uint8_t* b, uint32_t before) {
  const int depth = kind == 0 || kind == 3 || kind == 5 ? 32 : 16;
  double sum = kind == 0 ? static_cast<int32_t>(before) : emu::float_of_bits(before);
  for (int k = 0; k < depth; ++k) sum += plain_value(kind, a, k) * plain_value(kind, b, k);
  if (kind == 0) return static_cast<uint32_t>(static_cast<int32_t>(sum));
  if (kind <= 3) return emu::bits_of_float(static_cast<float>(sum));
  return emu::bits_of_float(emu::f32_of_f16(emu::f16_of_f64(sum)));
}

inline uint32_t start_value(uint32_t kind) {
  if (kind == 0) return random_bits() >> 8;
  return emu::bits_of_float(static_cast<float>(static_cast<int>(random_bits() % 64) - 32));
}

inline void check_mma(int mode) {
  for (uint32_t kind = 0; kind < 6; ++kind) {
    const bool is_half = kind == 1 || kind == 2 || kind == 4;
    for (uint32_t form = 0; form < (is_half ? 3u : 2u); ++form) {
      std::vector<uint8_t> a(16 * 32), b(8 * 32), turned(16 * 16);
      std::vector<uint32_t> d(16 * 8), want(16 * 8);
      fill(a, kind);
      fill(b, kind);
      for (int k = 0; k < 16; ++k) {
        for (int column = 0; column < 8; ++column) memcpy(&turned[k * 16 + column * 2], &b[column * 32 + k * 2], 2);
      }
      for (int i = 0; i < 16 * 8; ++i) {
        d[i] = start_value(kind);
        want[i] = expected(kind, &a[i / 8 * 32], &b[i % 8 * 32], d[i]);
      }
      ProductParams params{};
      params.a = a.data();
      params.b = form == 2 ? turned.data() : b.data();
      params.d = d.data();
      params.kind = kind;
      params.through_shared = form != 0;
      params.transposed_b = form == 2;
      const std::vector<tw_emu_range> ranges = {
          {a.data(), a.size(), "a", 0, 0}, {params.b, 256, "b", 0, 0}, {d.data(), d.size() * 4, "d", 1, 0}};
      if (launch("one_mma", 32, 2048, &params, sizeof params, ranges, mode) && d != want) fail("one_mma", "wrong");
    }
  }
}

// Where byte `byte` of depth of row `row` lies, by the canonical layouts as tensors: ((8, m), (T, 2)) and ((T, x, m), (8, k)).
inline uint32_t image_place(uint32_t swizzle, bool transposed, uint32_t row, uint32_t k, uint32_t leading, uint32_t stride,
                            uint32_t bytes) {
  const uint32_t widths[4] = {1, 8, 4, 2}, folds[4] = {0, 3, 2, 1};
  const uint32_t x = widths[swizzle];
  uint32_t place;
  if (!transposed) {
    const uint32_t byte = k * bytes;
    place = row % 8 * 16 * x + row / 8 * stride + byte % 16 + byte / 16 * (swizzle == 0 ? leading : 16);
  } else if (swizzle == 0) {
    place = row % 8 * 2 + row / 8 * stride + k % 8 * 16 + k / 8 * leading;
  } else {
    place = row % 8 * 2 + row / 8 % x * 16 + row / 8 / x * leading + k % 8 * 16 * x + k / 8 * stride;
  }
  const uint32_t mask = (1u << folds[swizzle]) - 1;
  return place ^ (place & mask << 7) >> 3;
}

inline void check_wgmma(int mode) {
  const uint32_t columns[] = {32, 64, 96, 128, 136, 192, 256};
  for (uint32_t kind = 0; kind < 4; ++kind) {
    const bool is_half = kind == 1 || kind == 2;
    const uint32_t bytes = is_half ? 2 : 1, depth = 32 / bytes;
    for (const uint32_t n : columns) {
      if (kind == 0 && n == 136) continue;
      for (uint32_t swizzle = 0; swizzle < 4; ++swizzle) {
        for (uint32_t form = 0; form < 5; ++form) {  // 0, 1: A shared, in registers; 2: B turned; 3: both; 4: B, A in registers
          const bool turned_b = form >= 2, turned_a = form == 3, registers = form == 1 || form == 4;
          if ((turned_b && !is_half) || (turned_a && kind != 1)) continue;
          if (turned_b && n != 64 && (n != 128 || kind != 1)) continue;
          if ((mode + n / 32 + swizzle + form) % 4 != 0) continue;  // a quarter of them in each mode, all over the modes
          std::vector<uint8_t> a(64 * 32), b(n * 32), a_image(16384, 0xee), b_image(65536, 0xee);
          std::vector<uint32_t> d(64 * n), want(64 * n);
          fill(a, kind);
          fill(b, kind);
          const uint32_t widths[4] = {16, 128, 64, 32}, pattern = 8 * widths[swizzle];
          ProductParams params{};
          auto lay = [&](const std::vector<uint8_t>& rows, uint32_t count, bool turned, std::vector<uint8_t>& image, uint32_t& leading,
                         uint32_t& stride) {
            // Strides wider than the data, so that a wrong one is seen.
            leading = turned && swizzle != 0 ? 2 * pattern + 1024 : swizzle == 0 ? 128 : 16;
            stride = turned && swizzle != 0 ? pattern : swizzle == 0 ? 256 : pattern;
            for (uint32_t row = 0; row < count; ++row) {
              for (uint32_t k = 0; k < depth; ++k) {
                memcpy(&image[image_place(swizzle, turned, row, k, leading, stride, bytes)], &rows[row * 32 + k * bytes], bytes);
              }
            }
          };
          lay(a, 64, turned_a, a_image, params.a_leading, params.a_stride);
          lay(b, n, turned_b, b_image, params.b_leading, params.b_stride);
          for (uint32_t i = 0; i < 64 * n; ++i) {
            d[i] = start_value(kind);
            want[i] = expected(kind, &a[i / n * 32], &b[i % n * 32], d[i]);
          }
          params.a = registers ? a.data() : a_image.data();
          params.b = b_image.data();
          params.d = d.data();
          params.kind = kind;
          params.columns = n;
          params.a_bytes = registers ? 0 : 16384;
          params.b_bytes = 65536;
          params.swizzle = swizzle;
          params.from_registers = registers;
          params.transposed_a = turned_a;
          params.transposed_b = turned_b;
          const std::vector<tw_emu_range> ranges = {{params.a, registers ? a.size() : a_image.size(), "a", 0, 0},
                                                    {params.b, b_image.size(), "b", 0, 0},
                                                    {d.data(), d.size() * 4, "d", 1, 0}};
          if (launch("one_wgmma", 128, 16384 + 65536, &params, sizeof params, ranges, mode) && d != want) {
            char text[128];
            snprintf(text, sizeof text, "wrong: kind %u, %u columns, swizzle %u, form %u", kind, n, swizzle, form);
            fail("one_wgmma", text);
          }
        }
      }
    }
  }
}

inline void check_warps(int mode) {
  std::vector<uint32_t> in(WARP_THREADS), out(WARP_OPERATIONS * WARP_THREADS), counter(2, 0);
  for (uint32_t& value : in) value = random_bits();
  const WarpParams params{in.data(), out.data(), counter.data()};
  if (!launch("warp_operations", WARP_THREADS, 0, &params, sizeof params,
              {{in.data(), in.size() * 4, "in", 0, 0}, {out.data(), out.size() * 4, "out", 1, 0}, {counter.data(), 8, "counter", 1, 0}},
              mode)) {
    return;
  }
  uint32_t total = 0, greatest = 0;
  float block_most = 0, block_total = 0;
  for (int warp = 0; warp < 4; ++warp) {
    // As the butterfly adds: pairs at distance 16, 8, ...; whole numbers here, so any order gives the same.
    for (int lane = 0; lane < 32; ++lane) {
      const uint32_t value = in[warp * 32 + lane];
      total += value;
      greatest = greatest > value ? greatest : value;
      block_most = fmaxf(block_most, static_cast<float>(static_cast<int32_t>(value >> 8)));
      block_total += static_cast<float>(static_cast<int32_t>(value >> 20));
    }
  }
  for (int thread = 0; thread < WARP_THREADS; ++thread) {
    const uint32_t* warp = &in[thread / 32 * 32];
    const int lane = thread % 32;
    const uint32_t value = warp[lane];
    uint32_t want[WARP_OPERATIONS] = {warp[(lane + 5) % 32], warp[lane ^ 9], lane + 3 < 32 ? warp[lane + 3] : value,
                                      lane >= 3 ? warp[lane - 3] : value, 0, 0, 1, 0, 0, ~0u, 0, 0, 0, 0};
    int32_t most = INT32_MIN;
    float most_float = -INFINITY;
    for (int i = 0; i < 32; ++i) {
      want[4] |= static_cast<uint32_t>(warp[i] % 3 == 0) << i;
      want[5] |= warp[i] == 12345u;
      want[6] &= warp[i] != 12345u;
      want[7] += warp[i];
      want[8] = warp[i] > want[8] ? warp[i] : want[8];
      want[9] = warp[i] < want[9] ? warp[i] : want[9];
      most = static_cast<int32_t>(warp[i]) > most ? static_cast<int32_t>(warp[i]) : most;
      want[11] |= warp[i];
      most_float = fmaxf(most_float, static_cast<float>(static_cast<int32_t>(warp[i])));
    }
    want[10] = static_cast<uint32_t>(most);
    want[12] = want[7];
    want[13] = emu::bits_of_float(most_float);
    want[14] = emu::bits_of_float(block_most);
    want[15] = emu::bits_of_float(block_total);
    want[16] = total;
    want[17] = greatest;
    // Bytes 0, 5, 2, 7 of (value, ~value).
    want[18] = (value & 0xff) | (~value >> 8 & 0xff) << 8 | (value >> 16 & 0xff) << 16 | (~value >> 24) << 24;
    int32_t dot = 7;
    for (int i = 0; i < 4; ++i) dot += static_cast<int8_t>(value >> 8 * i) * static_cast<int8_t>(~value >> 8 * i);
    want[19] = static_cast<uint32_t>(dot);
    for (int i = 0; i < WARP_OPERATIONS; ++i) {
      if (out[i * WARP_THREADS + thread] == want[i]) continue;
      char text[128];
      snprintf(text, sizeof text, "operation %d, thread %d: 0x%x, should be 0x%x", i, thread, out[i * WARP_THREADS + thread], want[i]);
      fail("warp_operations", text);
    }
  }
  if (counter[0] != total || counter[1] != greatest) fail("warp_operations", "atomics on global memory");
}

inline void check_copies(int mode) {
  std::vector<uint8_t> in(3 * 2048), out(3 * 2048, 0xee);
  for (uint8_t& byte : in) byte = static_cast<uint8_t>(random_bits() >> 3);
  const CopyParams params{in.data(), out.data()};
  if (!launch("some_copies", 128, 3 * 2048, &params, sizeof params,
              {{in.data(), in.size(), "in", 0, 0}, {out.data(), out.size(), "out", 1, 0}}, mode)) {
    return;
  }
  for (int i = 0; i < 3 * 2048; ++i) {
    const int thread = i % 2048 / 16, byte = i % 16;
    const bool is_kept = i < 2048 || (i < 4096 ? byte % 8 < thread % 9 : byte < thread % 17);
    if (out[i] != (is_kept ? in[i] : 0)) return fail("some_copies", "wrong");
  }
}

inline void check_relay(int mode) {
  std::vector<uint32_t> out(14, 0xee);
  const RelayParams params{out.data(), 7, 0};
  if (!launch("relay", 64, 0, &params, sizeof params, {{out.data(), out.size() * 4, "out", 1, 0}}, mode)) return;
  for (uint32_t round = 0; round < 7; ++round) {
    if (out[round * 2] != round * 10 + 1 || out[round * 2 + 1] != round * 10) return fail("relay", "wrong");
  }
}

// Conversions, against the definition: the nearest code, the even one of two that are equally near.
inline void check_numbers() {
  for (int code = 0; code < 256; ++code) {
    const uint8_t byte = static_cast<uint8_t>(code);
    if ((code & 0x7f) == 0x7f) continue;
    const double value = plain_value(3, &byte, 0);
    if (emu::f32_of_e4m3(byte) != value) fail("e4m3", "to f32");
    if (emu::e4m3_of_f32(static_cast<float>(value)) != byte) fail("e4m3", "there and back");
    const uint8_t above = static_cast<uint8_t>(code + 1);
    if ((code & 0x7f) >= 0x7e) continue;
    const float middle = static_cast<float>((value + plain_value(3, &above, 0)) / 2);
    if (emu::e4m3_of_f32(middle) != (code & 1 ? above : byte)) fail("e4m3", "a tie");
    if (emu::e4m3_of_f32(nextafterf(middle, 0)) != byte) fail("e4m3", "below a tie");
    if (emu::e4m3_of_f32(nextafterf(middle, middle * 2)) != above) fail("e4m3", "above a tie");
  }
  if (emu::e4m3_of_f32(1e9f) != 0x7e || emu::e4m3_of_f32(-INFINITY) != 0xfe || emu::e4m3_of_f32(NAN) != 0x7f) fail("e4m3", "saturation");
  for (int code = 0; code < 0x10000; ++code) {
    if ((code & 0x7c00) == 0x7c00) continue;
    const uint8_t bytes[2] = {static_cast<uint8_t>(code), static_cast<uint8_t>(code >> 8)};
    const uint16_t half = static_cast<uint16_t>(code);
    const double value = plain_value(1, bytes, 0);
    if (emu::f32_of_f16(half) != value) fail("f16", "to f32");
    if (emu::f16_of_f32(static_cast<float>(value)) != half) fail("f16", "there and back");
    if ((code & 0x7fff) >= 0x7bff) continue;
    const uint16_t next = static_cast<uint16_t>(code + 1);
    const uint8_t next_bytes[2] = {static_cast<uint8_t>(next), static_cast<uint8_t>(next >> 8)};
    const double middle = (value + plain_value(1, next_bytes, 0)) / 2;
    if (emu::f16_of_f64(middle) != (code & 1 ? next : half)) fail("f16", "a tie");
    if (emu::f16_of_f64(nextafter(middle, 0)) != half) fail("f16", "below a tie");
    if (emu::f16_of_f64(nextafter(middle, middle * 2)) != next) fail("f16", "above a tie");
  }
  if (emu::f16_of_f32(65519.0f) != 0x7bff || emu::f16_of_f32(65520.0f) != 0x7c00) fail("f16", "overflow");
  for (uint32_t i = 0; i < 100000; ++i) {
    const float value = emu::float_of_bits(random_bits());
    if (!(fabsf(value) < 3e38f) || fabsf(value) < 1e-37f) continue;
    const uint16_t got = emu::bf16_of_f32(value);
    const double error = fabs(static_cast<double>(emu::f32_of_bf16(got)) - value);
    const double step = fabs(static_cast<double>(emu::f32_of_bf16(got ^ 1)) - emu::f32_of_bf16(got));
    if (error > step / 2) fail("bf16", "not the nearest");
  }
}

}  // namespace instructions

// Prints what failed and returns how many did.
inline int check_instructions() {
  instructions::check_numbers();
  for (int mode = 0; mode < 8; ++mode) {
    instructions::check_mma(mode);
    instructions::check_wgmma(mode);
    instructions::check_warps(mode);
    instructions::check_copies(mode);
    instructions::check_relay(mode);
  }
  return instructions::failures;
}
