#include "memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block.h"

namespace emu {

namespace {

constexpr uint16_t NOBODY = 0xffff;  // as a word's writer: the async proxy, or none
constexpr uint32_t STATIC_GAP = 16;  // unowned bytes after a static allocation

// Bytes of the word at `word` (a multiple of 4) that lie in `address .. address + bytes`, as bits.
uint8_t bytes_in_word(uint32_t word, uint32_t address, uint32_t bytes) {
  uint32_t from = address > word ? address - word : 0;
  uint32_t to = address + bytes < word + 4 ? address + bytes - word : 4;
  return static_cast<uint8_t>((1u << to) - (1u << from));
}

[[noreturn]] void state_fault(Block& block, uint32_t address, uint32_t bytes, bool writes, Where at) {
  const uint8_t* flags = block.shared.flags(address);
  for (uint32_t i = 0; i < bytes; ++i) {
    if (flags[i] & ARRIVING) {
      block.fault(TW_EMU_IN_FLIGHT, at, "%s of shared 0x%x while an asynchronous copy into it has not been waited for",
                  writes ? "write" : "read", address + i);
    }
    if (flags[i] & IS_BARRIER) {
      block.fault(TW_EMU_BARRIER, at, "%s of shared 0x%x, which belongs to an mbarrier", writes ? "write" : "read", address + i);
    }
    if (!writes && !(flags[i] & WRITTEN)) {
      block.fault(TW_EMU_UNINITIALISED, at, "read of shared 0x%x (byte %u of %u), which nobody has written", address + i, i, bytes);
    }
  }
  block.fault(TW_EMU_IN_FLIGHT, at, "write to shared 0x%x while the async proxy reads it", address);
}

// Whether every byte's flags under `mask` are `wanted`.
bool flags_are(const uint8_t* flags, uint32_t bytes, uint8_t mask, uint8_t wanted) {
  uint8_t wrong = 0;
  for (uint32_t i = 0; i < bytes; ++i) wrong |= (flags[i] & mask) ^ wanted;
  return wrong == 0;
}

bool flags_are_fast(const uint8_t* flags, uint32_t bytes, uint8_t mask, uint8_t wanted) {
  if (bytes == 4) {
    uint32_t four;
    memcpy(&four, flags, 4);
    return ((four & 0x01010101u * mask) ^ 0x01010101u * wanted) == 0;
  }
  if (bytes == 16) {
    uint64_t two[2];
    memcpy(two, flags, 16);
    const uint64_t ones = 0x0101010101010101u;
    return (((two[0] & ones * mask) ^ ones * wanted) | ((two[1] & ones * mask) ^ ones * wanted)) == 0;
  }
  return flags_are(flags, bytes, mask, wanted);
}

}  // namespace

SharedMemory::~SharedMemory() {
  free(bytes_);
  free(flags_);
  free(async_readers_);
  free(words_);
}

void SharedMemory::reset(uint32_t dynamic_bytes, uint32_t limit) {
  if (capacity_ < limit) {
    uint32_t size = (limit + 4095) & ~4095u;
    free(bytes_);
    free(flags_);
    free(async_readers_);
    free(words_);
    bytes_ = static_cast<uint8_t*>(aligned_alloc(1024, size));
    flags_ = static_cast<uint8_t*>(calloc(size, 1));
    async_readers_ = static_cast<uint16_t*>(calloc(size / 16, sizeof(uint16_t)));
    words_ = static_cast<Word*>(calloc(size / 4, sizeof(Word)));
    capacity_ = size;
  } else {
    memset(flags_, 0, touched_);
    memset(async_readers_, 0, (touched_ + 15) / 16 * sizeof(uint16_t));
    memset(words_, 0, (touched_ + 3) / 4 * sizeof(Word));
  }
  // Neither zero nor a plausible value, should a check ever miss a read of it.
  memset(bytes_, 0xcd, dynamic_bytes);
  limit_ = limit;
  dynamic_bytes_ = dynamic_bytes;
  end_ = SHARED_START + ((dynamic_bytes + 127) & ~127u);
  touched_ = end_ - SHARED_START;
  regions_.clear();
  last_region_ = 0;
}

uint32_t SharedMemory::allocate(Block& block, const void* key, uint32_t bytes, uint32_t alignment, Where at) {
  for (const Region& region : regions_) {
    if (region.key == key) return region.start;
  }
  if (alignment < 16) alignment = 16;
  uint32_t start = (end_ + alignment - 1) & ~(alignment - 1);
  uint64_t end = uint64_t{start} + bytes + STATIC_GAP;
  if (end - SHARED_START - STATIC_GAP > limit_) {
    block.fault(TW_EMU_BAD_LAUNCH, at, "%llu bytes of shared memory, and a block may have %u",
                static_cast<unsigned long long>(end - SHARED_START - STATIC_GAP), limit_);
  }
  if (end - SHARED_START > capacity_) end = SHARED_START + capacity_;
  memset(this->at(start), 0xcd, bytes);
  regions_.push_back(Region{key, start, bytes});
  end_ = static_cast<uint32_t>(end);
  touched_ = end_ - SHARED_START;
  return start;
}

uint32_t SharedMemory::part(Block& block, uint32_t offset, uint64_t bytes, uint32_t alignment, Where at) {
  if (offset + bytes > dynamic_bytes_) {
    block.fault(TW_EMU_OUT_OF_BOUNDS, at, "bytes %u .. %llu of dynamic shared memory, and the launch gave %u", offset,
                static_cast<unsigned long long>(offset + bytes), dynamic_bytes_);
  }
  if (offset % alignment != 0) alignment_fault("dynamic shared", offset, alignment, at);
  uint32_t start = SHARED_START + offset;
  for (const Region& region : regions_) {
    if (region.key == nullptr && region.start == start && region.bytes == bytes) return start;
  }
  regions_.push_back(Region{nullptr, start, static_cast<uint32_t>(bytes)});
  return start;
}

bool SharedMemory::holds(uint32_t address, uint32_t bytes) const {
  auto inside = [&](const Region& region) {
    return address >= region.start && uint64_t{address} + bytes <= uint64_t{region.start} + region.bytes;
  };
  if (last_region_ < regions_.size() && inside(regions_[last_region_])) return true;
  for (uint32_t i = 0; i < regions_.size(); ++i) {
    if (!inside(regions_[i])) continue;
    last_region_ = i;
    return true;
  }
  return false;
}

void alignment_fault(const char* space, uint64_t address, uint64_t bytes, Where at) {
  block().fault(TW_EMU_MISALIGNED, at, "%s address 0x%llx is no multiple of %llu", space,
                static_cast<unsigned long long>(address), static_cast<unsigned long long>(bytes));
}

void bounds_fault(uint32_t address, uint32_t bytes, uint32_t low, uint32_t high, Where at) {
  block().fault(TW_EMU_OUT_OF_BOUNDS, at, "%u bytes at shared 0x%x, outside the array at 0x%x .. 0x%x", bytes, address, low, high);
}

void check_address(Block& block, const char* what, uint32_t address, uint32_t bytes, uint32_t alignment, Where at) {
  if (address % alignment != 0) {
    block.fault(TW_EMU_MISALIGNED, at, "%s: shared address 0x%x is no multiple of %u", what, address, alignment);
  }
  if (!block.shared.holds(address, bytes)) {
    block.fault(TW_EMU_OUT_OF_BOUNDS, at, "%s: %u bytes at shared 0x%x are not inside one array", what, bytes, address);
  }
}

void note_read(Block& block, uint32_t address, uint32_t bytes, Where at) {
  const Clocks& clocks = block.now->warp->clocks;
  const uint32_t self = block.now->warp->number, slot = self % 4, now = clocks.of[self];
  for (uint32_t place = address & ~3u; place < address + bytes; place += 4) {
    Word& word = block.shared.word(place);
    uint8_t mask = bytes_in_word(place, address, bytes);
    // Read before since this warp's last barrier, and not written since, or the note would be gone.
    if (word.read_clock[slot] == now && word.read_warp[slot] == self && (word.read_bytes[slot] & mask) == mask) continue;
    if ((word.write_bytes & mask) && word.write_warp != self && word.write_clock > clocks.of[word.write_warp]) {
      block.fault(TW_EMU_RACE, at, "read of shared 0x%x, which warp %u wrote with no barrier between", place, word.write_warp);
    }
    bool same = word.read_warp[slot] == self && word.read_clock[slot] == now;
    word.read_bytes[slot] = same ? word.read_bytes[slot] | mask : mask;
    word.read_warp[slot] = static_cast<uint8_t>(self);
    word.read_clock[slot] = now;
  }
}

void note_write(Block& block, uint32_t address, uint32_t bytes, Where at, bool is_atomic) {
  const Clocks& clocks = block.now->warp->clocks;
  const uint32_t self = block.now->warp->number, now = clocks.of[self];
  for (uint32_t place = address & ~3u; place < address + bytes; place += 4) {
    Word& word = block.shared.word(place);
    uint8_t mask = bytes_in_word(place, address, bytes);
    if ((word.write_bytes & mask) && word.write_warp != self && word.write_clock > clocks.of[word.write_warp] &&
        !(is_atomic && word.is_atomic)) {
      block.fault(TW_EMU_RACE, at, "write to shared 0x%x, which warp %u wrote with no barrier between", place, word.write_warp);
    }
    for (int slot = 0; slot < 4; ++slot) {
      if ((word.read_bytes[slot] & mask) && word.read_warp[slot] != self &&
          word.read_clock[slot] > clocks.of[word.read_warp[slot]]) {
        block.fault(TW_EMU_RACE, at, "write to shared 0x%x, which warp %u read with no barrier between", place,
                    word.read_warp[slot]);
      }
      word.read_bytes[slot] &= static_cast<uint8_t>(~mask);
    }
    bool same = word.write_warp == self && word.write_clock == now;
    word.write_bytes = same ? word.write_bytes | mask : mask;
    word.write_warp = static_cast<uint8_t>(self);
    word.write_clock = now;
    word.is_atomic = is_atomic;
    word.writer = static_cast<uint16_t>(block.now->number);
    word.write_fences = block.fences;
  }
}

const uint8_t* shared_read(uint32_t address, uint32_t bytes, uint32_t alignment, Where at) {
  Block& here = block();
  if (address % alignment != 0) alignment_fault("shared", address, alignment, at);
  if (!flags_are_fast(here.shared.flags(address), bytes, WRITTEN | ARRIVING | IS_BARRIER, WRITTEN)) {
    state_fault(here, address, bytes, false, at);
  }
  note_read(here, address, bytes, at);
  return here.shared.at(address);
}

uint8_t* shared_write(uint32_t address, uint32_t bytes, uint32_t alignment, Where at) {
  Block& here = block();
  if (address % alignment != 0) alignment_fault("shared", address, alignment, at);
  uint8_t* flags = here.shared.flags(address);
  if (!flags_are_fast(flags, bytes, ARRIVING | IS_BARRIER, 0)) state_fault(here, address, bytes, true, at);
  for (uint32_t place = address & ~15u; place < address + bytes; place += 16) {
    if (here.shared.async_readers(place) != 0) state_fault(here, address, bytes, true, at);
  }
  note_write(here, address, bytes, at);
  memset(flags, WRITTEN, bytes);
  return here.shared.at(address);
}

uint8_t* shared_atomic_access(uint32_t address, uint32_t bytes, uint32_t alignment, Where at) {
  Block& here = block();
  if (address % alignment != 0) alignment_fault("shared", address, alignment, at);
  if (!flags_are_fast(here.shared.flags(address), bytes, WRITTEN | ARRIVING | IS_BARRIER, WRITTEN)) {
    state_fault(here, address, bytes, false, at);
  }
  note_write(here, address, bytes, at, true);
  return here.shared.at(address);
}

const uint8_t* async_read(Block& block, uint32_t address, uint32_t bytes, Where at) {
  if (!flags_are_fast(block.shared.flags(address), bytes, WRITTEN | ARRIVING | IS_BARRIER, WRITTEN)) {
    state_fault(block, address, bytes, false, at);
  }
  for (uint32_t place = address & ~3u; place < address + bytes; place += 4) {
    const Word& word = block.shared.word(place);
    if (word.write_bytes == 0 || word.writer == NOBODY) continue;
    if (block.threads[word.writer].fenced <= word.write_fences) {
      block.fault(TW_EMU_PROXY, at, "the async proxy reads shared 0x%x, which thread %u wrote with no fence.proxy.async after it",
                  place, word.writer);
    }
  }
  return block.shared.at(address);
}

const tw_emu_range* range_of(const void* pointer) {
  const tw_emu_options& options = *block().launch->options;
  const uintptr_t place = reinterpret_cast<uintptr_t>(pointer);
  const tw_emu_range *holds = nullptr, *ends_there = nullptr;
  for (size_t i = 0; i < options.range_count; ++i) {
    const tw_emu_range& range = options.ranges[i];
    const uintptr_t start = reinterpret_cast<uintptr_t>(range.start);
    // columns of one matrix are ranges that overlap: a pointer to the second is not one into the first
    const bool is_nearer = holds == nullptr || start > reinterpret_cast<uintptr_t>(holds->start);
    if (place >= start && place - start < range.bytes && is_nearer) holds = &range;
    if (place == start + range.bytes) ends_there = &range;
  }
  return holds != nullptr ? holds : ends_there;
}

void global_fault(const tw_emu_range* range, const void* pointer, uint64_t bytes, bool writes, Where at) {
  const unsigned long long many = bytes;
  if (range == nullptr) {
    block().fault(TW_EMU_OUT_OF_BOUNDS, at, "%s of %llu bytes at global %p, in no buffer of the launch", writes ? "write" : "read",
                  many, pointer);
  }
  const long long offset = static_cast<long long>(reinterpret_cast<intptr_t>(pointer) - reinterpret_cast<intptr_t>(range->start));
  const bool inside = offset >= 0 && static_cast<uint64_t>(offset) + bytes <= range->bytes;
  block().fault(TW_EMU_OUT_OF_BOUNDS, at, "%s of %llu bytes at byte %lld of the %sbuffer %s of %zu bytes", writes ? "write" : "read",
                many, offset, inside && writes ? "read-only " : "", range->name == nullptr ? "(unnamed)" : range->name, range->bytes);
}

}  // namespace emu
