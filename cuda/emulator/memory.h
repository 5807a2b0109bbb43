// Memory that knows what may be done with it: the shared memory of a block byte by byte, and ranges of global memory.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "device.h"
#include "emulator.h"

namespace emu {

struct Block;

// What is known of one byte of shared memory.
constexpr uint8_t WRITTEN = 1;
constexpr uint8_t ARRIVING = 2;   // an asynchronous copy writes it and no wait has seen the end of it
constexpr uint8_t IS_BARRIER = 4;  // it belongs to an mbarrier
constexpr uint8_t OUTSIDE = 8;     // between two allocations

// Where shared memory begins, so that address 0 is nobody's; a multiple of 1024, as dynamic memory's alignment asks.
constexpr uint32_t SHARED_START = 1024;
constexpr uint32_t SHARED_LIMIT = 227 * 1024;

// How far each warp has come, as another warp may know it: a vector clock.
struct Clocks {
  uint32_t of[32] = {};
  void join(const Clocks& other) {
    for (int i = 0; i < 32; ++i) of[i] = of[i] < other.of[i] ? other.of[i] : of[i];
  }
};

// The last generic write of a word, for the proxy rule, and its last accesses, for the order between warps.
struct Word {
  uint32_t write_clock;
  uint32_t write_fences;  // the block's fence count when it was written
  uint16_t writer;        // thread
  uint8_t write_warp, write_bytes;  // bytes 0..3 of the word as bits; 0: not written
  bool is_atomic;                   // written by an atomic operation
  uint32_t read_clock[4];  // by warp % 4
  uint8_t read_warp[4], read_bytes[4];
};

struct Region {
  const void* key;  // of a static allocation; null for dynamic memory
  uint32_t start, bytes;
};

class SharedMemory {
 public:
  ~SharedMemory();
  // Empties the memory for a new block with this much dynamic memory.
  void reset(uint32_t dynamic_bytes, uint32_t limit);
  // The static allocation of this key, made at its first mention.
  uint32_t allocate(Block& block, const void* key, uint32_t bytes, uint32_t alignment, Where at);
  // A part of the dynamic memory that accesses by address may roam in.
  uint32_t part(Block& block, uint32_t offset, uint64_t bytes, uint32_t alignment, Where at);

  uint8_t* at(uint32_t address) { return bytes_ + (address - SHARED_START); }
  uint8_t* flags(uint32_t address) { return flags_ + (address - SHARED_START); }
  uint16_t& async_readers(uint32_t address) { return async_readers_[(address - SHARED_START) / 16]; }
  Word& word(uint32_t address) { return words_[(address - SHARED_START) / 4]; }
  // Whether the bytes stand in one allocation.
  bool holds(uint32_t address, uint32_t bytes) const;
  uint32_t used() const { return end_ - SHARED_START; }

 private:
  uint8_t* bytes_ = nullptr;
  uint8_t* flags_ = nullptr;
  uint16_t* async_readers_ = nullptr;
  Word* words_ = nullptr;
  uint32_t capacity_ = 0, limit_ = 0, end_ = SHARED_START, dynamic_bytes_ = 0, touched_ = 0;
  std::vector<Region> regions_;
  mutable uint32_t last_region_ = 0;
};

// The ordinary (generic) accesses of the running thread: checked, then the bytes themselves.
const uint8_t* shared_read(uint32_t address, uint32_t bytes, uint32_t alignment, Where at);
uint8_t* shared_write(uint32_t address, uint32_t bytes, uint32_t alignment, Where at);
uint8_t* shared_atomic_access(uint32_t address, uint32_t bytes, uint32_t alignment, Where at);
// The accesses of copies and tensor cores on behalf of a thread.
const uint8_t* async_read(Block& block, uint32_t address, uint32_t bytes, Where at);
void check_address(Block& block, const char* what, uint32_t address, uint32_t bytes, uint32_t alignment, Where at);
// Order between warps, when an asynchronous access takes part.
void note_read(Block& block, uint32_t address, uint32_t bytes, Where at);
void note_write(Block& block, uint32_t address, uint32_t bytes, Where at, bool is_atomic = false);

// A range of global memory that a pointer roams in.
const tw_emu_range* range_of(const void* pointer);
[[noreturn]] void global_fault(const tw_emu_range* range, const void* pointer, uint64_t bytes, bool writes, Where at);
[[noreturn]] void alignment_fault(const char* space, uint64_t address, uint64_t bytes, Where at);
[[noreturn]] void bounds_fault(uint32_t address, uint32_t bytes, uint32_t low, uint32_t high, Where at);

}  // namespace emu
