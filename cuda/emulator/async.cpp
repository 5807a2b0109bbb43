// Copies that run beside the threads: cp.async (16 bytes at most, waited for by the thread that issued it),
// cp.async.bulk (any multiple of 16, reported to an mbarrier or waited for as a group) and cp.async.bulk.tensor (a tile of
// a matrix, likewise).
//
// From issue to wait the target's bytes are ARRIVING: whoever touches them is at fault, early or late copies alike.
#include <stdio.h>
#include <string.h>

#include "block.h"
#include "instructions.h"
#include "tensor_map.h"
#include "view.h"

namespace emu {

namespace {

constexpr uint32_t TENSOR_ALIGNMENT = 128;  // of a tile in shared memory

// The target must be free: not arriving already, no barrier, read by no product or store in flight.
void claim(Block& block, const char* what, uint32_t target, uint32_t bytes, Where at) {
  const uint8_t* flags = block.shared.flags(target);
  for (uint32_t i = 0; i < bytes; ++i) {
    if (flags[i] & ARRIVING) {
      block.fault(TW_EMU_IN_FLIGHT, at, "%s: another copy into shared 0x%x has not been waited for", what, target + i);
    }
    if (flags[i] & IS_BARRIER) block.fault(TW_EMU_BARRIER, at, "%s: shared 0x%x belongs to an mbarrier", what, target + i);
  }
  for (uint32_t place = target & ~15u; place < target + bytes; place += 16) {
    if (block.shared.async_readers(place) != 0) {
      block.fault(TW_EMU_IN_FLIGHT, at, "%s: the async proxy still reads shared 0x%x", what, place);
    }
  }
  note_write(block, target, bytes, at);
  memset(block.shared.flags(target), ARRIVING, bytes);
}

void transfer(Block& block, const PendingCopy& copy) {
  uint8_t* target = block.shared.at(copy.target);
  if (copy.source_bytes != 0) memcpy(target, copy.source, copy.source_bytes);
  memset(target + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
}

// Calls visit(row's place in the tile in bytes, its first value's place in the matrix, first and end of the bytes of the
// row that lie in the matrix) for each row of a tile; first and end are 0 for a row outside.
template <class Visit>
void each_row(const TensorTile& tensor, Visit visit) {
  const uint64_t row_bytes = tensor.tile[0] * tensor.value_bytes;
  const auto clamped = [&](int64_t x) {
    return static_cast<uint64_t>(x < 0 ? 0 : x > static_cast<int64_t>(tensor.tile[0]) ? static_cast<int64_t>(tensor.tile[0]) : x);
  };
  const uint64_t first = clamped(-tensor.at[0]), end = clamped(static_cast<int64_t>(tensor.sizes[0]) - tensor.at[0]);
  const auto is_inside = [&](int axis, int64_t i) { return i >= 0 && static_cast<uint64_t>(i) < tensor.sizes[axis]; };
  for (uint64_t plane = 0; plane < tensor.tile[2]; ++plane) {
    for (uint64_t row = 0; row < tensor.tile[1]; ++row) {
      const int64_t z = tensor.at[2] + static_cast<int64_t>(plane), y = tensor.at[1] + static_cast<int64_t>(row);
      const bool is_there = is_inside(2, z) && is_inside(1, y) && first < end;
      const int64_t offset = z * static_cast<int64_t>(tensor.strides[1]) + y * static_cast<int64_t>(tensor.strides[0]) +
                             tensor.at[0] * static_cast<int64_t>(tensor.value_bytes);
      visit((plane * tensor.tile[1] + row) * row_bytes, reinterpret_cast<uint8_t*>(reinterpret_cast<intptr_t>(tensor.matrix) + offset),
            is_there ? first * tensor.value_bytes : 0, is_there ? end * tensor.value_bytes : 0);
    }
  }
}

void transfer_tensor(Block& block, const BulkCopy& copy) {
  const TensorTile& tensor = copy.tensor;
  const uint64_t row_bytes = tensor.tile[0] * tensor.value_bytes;
  const uint32_t folded = tensor.swizzle_bytes == 0 ? 0 : static_cast<uint32_t>(tensor.swizzle_bytes / 16 - 1);
  each_row(tensor, [&](uint64_t place, uint8_t* row, uint64_t first, uint64_t end) {
    for (uint64_t chunk = 0; chunk < row_bytes; chunk += 16) {
      const uint32_t plain = copy.shared + static_cast<uint32_t>(place + chunk);
      uint8_t* shared = block.shared.at(plain ^ (plain >> 7 & folded) << 4);
      const uint64_t from = first > chunk ? first : chunk, to = end < chunk + 16 ? end : chunk + 16;
      if (copy.to_shared) memset(shared, 0, 16);
      if (from >= to) continue;
      if (copy.to_shared) {
        memcpy(shared + (from - chunk), row + from, to - from);
      } else {
        memcpy(row + from, shared + (from - chunk), to - from);
      }
    }
  });
}

void transfer(Block& block, BulkCopy& copy) {
  copy.is_done = true;
  if (copy.tensor.matrix != nullptr) {
    transfer_tensor(block, copy);
  } else if (copy.to_shared) {
    memcpy(block.shared.at(copy.shared), copy.global, copy.bytes);
  } else {
    memcpy(copy.global, block.shared.at(copy.shared), copy.bytes);
  }
  if (!copy.to_shared) return;
  for (uint32_t place = copy.shared; place < copy.shared + copy.bytes; place += 4) block.shared.word(place).writer = 0xffff;
  complete_transaction(block, copy);
}

void forget_done(Block& block) {
  size_t kept = 0;
  for (const BulkCopy& copy : block.bulk) {
    if (!copy.is_done || !copy.to_shared) block.bulk[kept++] = copy;
  }
  block.bulk.resize(kept);
}

// Reads a map and checks that the tile's part of the matrix may be touched.
TensorTile tensor_tile(Block& block, const void* map, uint32_t axes, int32_t plane, int32_t row, int32_t column, bool writes, Where at) {
  const uintptr_t place = reinterpret_cast<uintptr_t>(map), params = reinterpret_cast<uintptr_t>(block.launch->params);
  if (place < params || place - params + sizeof(tw_tensor_map) > block.launch->params_size) {
    block.fault(TW_EMU_UNSUPPORTED, at, "a tensor map that is not in the kernel's parameters");
  }
  if (place % alignof(tw_tensor_map) != 0) alignment_fault("tensor map's", place, alignof(tw_tensor_map), at);
  const uint64_t* words = static_cast<const tw_tensor_map*>(map)->bits;
  if (words[TW_MAP_WORD_MAGIC] != TW_MAP_MAGIC) block.fault(TW_EMU_UNSUPPORTED, at, "no tensor map, or one of a GPU");
  if (words[TW_MAP_WORD_AXES] != axes) {
    block.fault(TW_EMU_UNSUPPORTED, at, "a copy along %u axes by a tensor map of %llu", axes,
                static_cast<unsigned long long>(words[TW_MAP_WORD_AXES]));
  }
  TensorTile tensor;
  memcpy(&tensor.matrix, &words[TW_MAP_WORD_ADDRESS], sizeof tensor.matrix);
  tensor.value_bytes = words[TW_MAP_WORD_VALUE];
  tensor.swizzle_bytes = words[TW_MAP_WORD_SWIZZLE];
  const int32_t first[3] = {column, row, plane};
  for (int axis = 0; axis < 3; ++axis) {
    tensor.at[axis] = first[axis];
    tensor.sizes[axis] = words[TW_MAP_WORD_SIZES + axis];
    tensor.tile[axis] = words[TW_MAP_WORD_TILE + axis];
  }
  for (int axis = 0; axis < 2; ++axis) tensor.strides[axis] = words[TW_MAP_WORD_STRIDES + axis];
  const tw_emu_range* range = range_of(tensor.matrix);
  each_row(tensor, [&](uint64_t, const uint8_t* values, uint64_t from, uint64_t end) {
    if (from < end) check_global(range, values + from, end - from, 1, writes, at);
  });
  return tensor;
}

uint32_t bytes_of(const TensorTile& tensor) {
  return static_cast<uint32_t>(tensor.tile[0] * tensor.tile[1] * tensor.tile[2] * tensor.value_bytes);
}

// Gives a copy to shared memory, or from there, to the engine.
void issue_to_shared(Block& block, const char* what, const BulkCopy& copy) {
  mbarrier_for_copy(block, copy.mbarrier, copy.at);
  claim(block, what, copy.shared, copy.bytes, copy.at);
  block.bulk.push_back(copy);
  ++block.counts.copies;
  block.counts.copied_bytes += copy.bytes;
  if (block.is_deferred) return;
  transfer(block, block.bulk.back());
  forget_done(block);
}

void issue_to_global(Block& block, const BulkCopy& copy) {
  async_read(block, copy.shared, copy.bytes, copy.at);
  note_read(block, copy.shared, copy.bytes, copy.at);
  for (uint32_t place = copy.shared; place < copy.shared + copy.bytes; place += 16) ++block.shared.async_readers(place);
  block.bulk.push_back(copy);
  ++block.counts.copies;
  block.counts.copied_bytes += copy.bytes;
  if (!block.is_deferred) transfer(block, block.bulk.back());
}

}  // namespace

void cp_async(uint32_t target, const void* source, uint32_t bytes, uint32_t source_bytes, Where at) {
  Block& here = block();
  check_address(here, "cp.async", target, bytes, bytes, at);
  if (source_bytes > bytes) here.fault(TW_EMU_UNSUPPORTED, at, "cp.async of %u bytes from %u", bytes, source_bytes);
  claim(here, "cp.async", target, bytes, at);
  Thread& self = *here.now;
  self.copies.push_back(PendingCopy{target, bytes, source_bytes, static_cast<const uint8_t*>(source), self.copy_group, at});
  ++here.counts.copies;
  here.counts.copied_bytes += bytes;
  if (!here.is_deferred) transfer(here, self.copies.back());
}

void cp_async_commit(Where) { ++thread().copy_group; }

void cp_async_wait(uint64_t allowed, bool whole, Where) {
  Block& here = block();
  Thread& self = *here.now;
  size_t done = 0;
  for (const PendingCopy& copy : self.copies) {
    if (!whole && copy.group + allowed >= self.copy_group) break;
    if (here.is_deferred) transfer(here, copy);
    memset(here.shared.flags(copy.target), WRITTEN, copy.bytes);
    for (uint32_t place = copy.target; place < copy.target + copy.bytes; place += 4) {
      here.shared.word(place).write_fences = here.fences;
    }
    ++done;
  }
  self.copies.erase(self.copies.begin(), self.copies.begin() + static_cast<ptrdiff_t>(done));
}

void bulk_to_shared(uint32_t target, const void* source, uint32_t bytes, uint32_t mbarrier, Where at) {
  Block& here = block();
  if (bytes == 0 || bytes % 16 != 0) here.fault(TW_EMU_MISALIGNED, at, "cp.async.bulk of %u bytes, no multiple of 16", bytes);
  check_address(here, "cp.async.bulk", target, bytes, 16, at);
  uint8_t* global = static_cast<uint8_t*>(const_cast<void*>(source));
  issue_to_shared(here, "cp.async.bulk",
                  BulkCopy{true, target, bytes, global, mbarrier, here.now->number, 0, true, false, at, here.now->warp->clocks});
}

void bulk_to_global(void* target, uint32_t source, uint32_t bytes, Where at) {
  Block& here = block();
  Thread& self = *here.now;
  if (bytes == 0 || bytes % 16 != 0) here.fault(TW_EMU_MISALIGNED, at, "cp.async.bulk of %u bytes, no multiple of 16", bytes);
  check_address(here, "cp.async.bulk", source, bytes, 16, at);
  issue_to_global(here, BulkCopy{false, source, bytes, static_cast<uint8_t*>(target), 0, self.number, self.store_group, false, false, at,
                                 Clocks{}});
}

void tensor_to_shared(uint32_t target, const void* map, uint32_t axes, int32_t plane, int32_t row, int32_t column, uint32_t mbarrier,
                      Where at) {
  Block& here = block();
  const TensorTile tensor = tensor_tile(here, map, axes, plane, row, column, false, at);
  const uint32_t bytes = bytes_of(tensor);
  check_address(here, "cp.async.bulk.tensor", target, bytes, TENSOR_ALIGNMENT, at);
  issue_to_shared(here, "cp.async.bulk.tensor", BulkCopy{true, target, bytes, nullptr, mbarrier, here.now->number, 0, true, false, at,
                                                         here.now->warp->clocks, tensor});
}

void tensor_to_global(const void* map, uint32_t axes, int32_t plane, int32_t row, int32_t column, uint32_t source, Where at) {
  Block& here = block();
  Thread& self = *here.now;
  const TensorTile tensor = tensor_tile(here, map, axes, plane, row, column, true, at);
  const uint32_t bytes = bytes_of(tensor);
  check_address(here, "cp.async.bulk.tensor", source, bytes, TENSOR_ALIGNMENT, at);
  issue_to_global(here, BulkCopy{false, source, bytes, nullptr, 0, self.number, self.store_group, false, false, at, Clocks{}, tensor});
}

void bulk_commit(Where) {
  Thread& self = thread();
  for (BulkCopy& copy : block().bulk) copy.is_committed |= copy.thread == self.number && copy.group == self.store_group;
  ++self.store_group;
}

void bulk_wait(uint64_t allowed, Where at) {
  Block& here = block();
  Thread& self = *here.now;
  size_t kept = 0;
  for (size_t i = 0; i < here.bulk.size(); ++i) {
    BulkCopy& copy = here.bulk[i];
    if (copy.to_shared || copy.thread != self.number || copy.group + allowed >= self.store_group) {
      if (kept != i) here.bulk[kept] = copy;
      ++kept;
      continue;
    }
    if (!copy.is_done) transfer(here, copy);
    for (uint32_t place = copy.shared; place < copy.shared + copy.bytes; place += 16) --here.shared.async_readers(place);
    note_read(here, copy.shared, copy.bytes, at);
  }
  here.bulk.resize(kept);
}

bool land_one_copy(Block& block) {
  const size_t count = block.bulk.size();
  // Copies may land in any order: the oldest first, or the newest.
  for (size_t i = 0; i < count; ++i) {
    BulkCopy& copy = block.bulk[block.is_reversed || block.is_shuffled ? count - 1 - i : i];
    if (!copy.to_shared || copy.is_done) continue;
    transfer(block, copy);
    forget_done(block);
    return true;
  }
  return false;
}

void check_copies_finished(Block& block, Thread& thread) {
  if (!thread.copies.empty()) {
    block.fault(TW_EMU_UNFINISHED, thread.copies[0].at, "the thread returned with %zu cp.async that it never waited for",
                thread.copies.size());
  }
  for (const BulkCopy& copy : block.bulk) {
    if (copy.to_shared || copy.thread != thread.number) continue;
    block.fault(TW_EMU_UNFINISHED, copy.at, "the thread returned without waiting for its bulk copy to global memory");
  }
}

void check_block_finished(Block& block) {
  for (const BulkCopy& copy : block.bulk) {
    block.say_fault(block.threads[copy.thread], TW_EMU_UNFINISHED, copy.at, "the block ended before this bulk copy arrived");
    return;
  }
  for (const Mbarrier& barrier : block.mbarriers) {
    if (barrier.transactions == 0 && barrier.landed.empty() && barrier.unseen.empty()) continue;
    char sentence[160];
    snprintf(sentence, sizeof sentence, "the block ended with %lld bytes expected and %zu copies never waited for at mbarrier 0x%x",
             static_cast<long long>(barrier.transactions), barrier.landed.size() + barrier.unseen.size(), barrier.address);
    block.say_fault(block.threads[barrier.author], TW_EMU_UNFINISHED, Where{nullptr, 0}, sentence);
    return;
  }
  for (uint32_t i = 0; i < block.warp_count; ++i) {
    const Warp& first = block.warps[i / 4 * 4];
    if (block.warps[i].product_count == first.product_count) continue;
    block.say_fault(*block.warps[i].lanes, TW_EMU_DIVERGENCE, Where{nullptr, 0},
                    "the warps of a warpgroup carried out different numbers of wgmma");
    return;
  }
}

}  // namespace emu
