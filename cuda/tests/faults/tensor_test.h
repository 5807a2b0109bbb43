// The tensor copies: clean in every mode along two and three axes with each swizzle, and their faults.
#pragma once
#include <string>
#include <vector>

#include "emulator.h"
#include "faults.h"

namespace tensors {

struct Shape {
  uint64_t planes, rows, columns;
  uint32_t axes, row_bytes;
};

// A map of 16-bit values [planes, rows, columns] whose rows are `pitch` values apart, in tiles of 2 KB.
inline tw_tensor_map map_of(const void* values, const Shape& shape, uint64_t pitch, uint32_t fault) {
  tw_tensor_map map{};
  const uint64_t tile_planes = shape.axes == 3 ? 2 : 1;
  map.bits[TW_MAP_WORD_MAGIC] = TW_MAP_MAGIC;
  memcpy(&map.bits[TW_MAP_WORD_ADDRESS], &values, sizeof values);
  map.bits[TW_MAP_WORD_VALUE] = 2;
  map.bits[TW_MAP_WORD_AXES] = shape.axes;
  map.bits[TW_MAP_WORD_SWIZZLE] = fault == TENSOR_NO_SWIZZLE ? 0 : fault == TENSOR_WRONG_SWIZZLE ? shape.row_bytes / 2 : shape.row_bytes;
  const uint64_t sizes[3] = {shape.columns, shape.rows + (fault == TENSOR_ROWS_PAST_END), shape.planes};
  const uint64_t tile[3] = {shape.row_bytes / 2, 2048 / shape.row_bytes / tile_planes / (fault == TENSOR_SMALL_TILE ? 2 : 1), tile_planes};
  for (int axis = 0; axis < 3; ++axis) {
    map.bits[TW_MAP_WORD_SIZES + axis] = sizes[axis];
    map.bits[TW_MAP_WORD_TILE + axis] = tile[axis];
  }
  map.bits[TW_MAP_WORD_STRIDES] = 2 * pitch;
  map.bits[TW_MAP_WORD_STRIDES + 1] = 2 * pitch * shape.rows;
  return map;
}

// "" when the results are right, "wrong" when they are not, else the emulator's code as a number.
inline std::string run(const Shape& shape, uint32_t schedule, uint32_t copies, uint32_t fault, std::string& message) {
  const uint64_t pitch = (shape.columns + 7) / 8 * 8, count = shape.planes * shape.rows * pitch;
  std::vector<uint64_t> x_words(count / 4), y_words(count / 4, 0xeeeeeeeeeeeeeeee);
  uint16_t *x = reinterpret_cast<uint16_t*>(x_words.data()), *y = reinterpret_cast<uint16_t*>(y_words.data());
  // The gap between rows is never zero: a copy that takes it for the edge is seen.
  for (uint64_t i = 0; i < count; ++i) x[i] = static_cast<uint16_t>(i * 40503 | 1);
  uint32_t outside = 0;
  const TensorParams params{map_of(x, shape, pitch, fault),
                            map_of(y, shape, pitch, NO_FAULT),
                            &outside,
                            static_cast<int64_t>(shape.planes),
                            static_cast<int64_t>(shape.rows),
                            static_cast<int64_t>(shape.columns),
                            shape.axes,
                            fault};
  const tw_emu_range ranges[] = {{x, count * 2, "x", 0, 0}, {y, count * 2, "y", fault != TENSOR_READ_ONLY, 0}, {&outside, 4, "outside", 1, 0}};
  tw_emu_options options{};
  options.schedule = schedule;
  options.copies = copies;
  options.ranges = ranges;
  options.range_count = 3;
  const uint64_t tile_planes = shape.axes == 3 ? 2 : 1, tile_rows = 2048 / shape.row_bytes / tile_planes, tile_columns = shape.row_bytes / 2;
  const unsigned grid[3] = {static_cast<unsigned>((shape.columns + tile_columns - 1) / tile_columns),
                            static_cast<unsigned>((shape.rows + tile_rows - 1) / tile_rows),
                            static_cast<unsigned>((shape.planes + tile_planes - 1) / tile_planes)};
  const unsigned block[3] = {128, 1, 1};
  char text[1024];
  const std::string kernel = "tensor_copies_" + std::to_string(shape.row_bytes);
  const int code = tw_emu_launch(kernel.c_str(), grid, block, 3 * 2048, &params, sizeof params, &options, text, sizeof text);
  message = text;
  if (code != 0) return std::to_string(code);
  for (uint64_t i = 0; i < count; ++i) {
    const uint16_t want = i % pitch < shape.columns ? static_cast<uint16_t>(x[i] + 1) : 0xeeee;
    if (y[i] == want) continue;
    message = "y[" + std::to_string(i) + "] = " + std::to_string(y[i]) + ", and should be " + std::to_string(want);
    return "wrong";
  }
  if (outside == 0) return "";
  message = "the tiles hold more than zeros outside the matrix";
  return "wrong";
}

// Ragged along each axis, whole, and one value.
inline std::vector<Shape> shapes() {
  std::vector<Shape> all;
  for (const uint32_t row_bytes : {128u, 64u, 32u}) {
    all.push_back({1, 70, 100, 2, row_bytes});
    all.push_back({1, 64, 128, 2, row_bytes});
    all.push_back({1, 1, 1, 2, row_bytes});
    all.push_back({3, 37, 70, 3, row_bytes});
  }
  return all;
}

}  // namespace tensors
