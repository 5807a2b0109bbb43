// A block of threads at work: who is ready, who waits for what, and who comes next.
//
// A thread runs until it meets a collective instruction. The lanes of a warp lay down their operands one after another;
// the last to arrive carries the instruction out for all 32. An instruction may leave the warp waiting (a barrier), and
// a single thread may wait for an mbarrier. When nobody is ready, deferred copies land one by one; when there are none
// left, that is a deadlock.
#pragma once
#include <stdint.h>

#include <vector>

#include "device.h"
#include "emulator.h"
#include "fiber.h"
#include "memory.h"

namespace emu {

constexpr uint32_t WARP_LANES = 32;
constexpr uint32_t ALL_LANES = 0xffffffffu;
constexpr uint32_t MAX_WARPS = 32;
constexpr uint32_t NAMED_BARRIERS = 16;

struct Block;
struct Warp;

// What a collective instruction leaves behind: a warp that goes on, or one that waits at a barrier.
enum class Outcome { GoesOn, Waits };

// A collective instruction. Lanes meet only if they bring the same one from the same line.
struct Operation {
  const char* name;
  Outcome (*run)(Block&, Warp&);
};

enum class Waiting : uint8_t { Nothing, Lanes, Barrier, Mbarrier, Done };

// cp.async of one thread, not yet waited for.
struct PendingCopy {
  uint32_t target;
  uint32_t bytes, source_bytes;
  const uint8_t* source;
  uint64_t group;
  Where at;
};

struct Thread {
  Fiber fiber;
  Warp* warp = nullptr;
  uint32_t number = 0, lane = 0;
  uint3 index{};
  Waiting waiting = Waiting::Nothing;
  uint32_t wait_address = 0, wait_parity = 0;
  Where at{};
  uint32_t polls = 0;    // tests of an mbarrier that said no, in a row
  uint32_t fenced = 0;   // the block's fence count after this thread's last fence.proxy.async
  uint64_t copy_group = 0;
  std::vector<PendingCopy> copies;
  uint64_t store_group = 0;  // bulk copies to global memory
};

// One wgmma of one warp, issued and not yet waited for.
struct Product;
// The accumulators of such products, taken away from the kernel until the wait.
struct Accumulators;

struct Warp {
  uint32_t number = 0;
  Thread* lanes = nullptr;  // 32
  uint32_t ready = 0, done = 0, arrived = 0;
  const Operation* operation = nullptr;
  Where at{};
  void* operands[WARP_LANES] = {};
  std::vector<Product*> products;
  std::vector<Accumulators*> accumulators;
  uint64_t product_group = 0, product_count = 0;
  bool products_fenced = false;
  Clocks clocks;  // how far this warp knows every warp to have come
};

struct NamedBarrier {
  uint32_t expected = 0, arrived = 0, waiting_warps = 0, arrived_warps = 0;
  bool whole_block = false;
  Where at{};
  Clocks clocks;
};

// The tile of a tensor copy: which values of which matrix. Axes count from the innermost.
struct TensorTile {
  uint8_t* matrix = nullptr;
  uint64_t value_bytes = 0, swizzle_bytes = 0;
  int64_t at[3] = {};            // of the tile's first value; may lie outside
  uint64_t sizes[3] = {};        // values
  uint64_t strides[2] = {};      // bytes, of the second and the third axis
  uint64_t tile[3] = {};         // values
};

// cp.async.bulk, between its issue and the wait that sees it.
struct BulkCopy {
  bool to_shared;
  uint32_t shared, bytes;
  uint8_t* global;
  uint32_t mbarrier;  // to_shared
  uint32_t thread;
  uint64_t group;  // to global: of the issuing thread
  bool is_committed, is_done;
  Where at;
  Clocks clocks;
  TensorTile tensor{};  // without a matrix: `bytes` from `global` on
};

struct Mbarrier {
  uint32_t address, count, pending;
  int64_t transactions;  // bytes still expected; negative when they came first
  uint64_t phase;
  uint32_t author, born;  // the thread that initialised it, and the block's fence count then
  Clocks gathering, released;
  // Ranges (address << 32 | bytes) that landed in the running phase, and in ended ones that no wait has seen yet.
  std::vector<uint64_t> landed, unseen;
};

struct Launch {
  const char* kernel;
  void (*body)(const void*);
  const void* params;
  size_t params_size;
  dim3 grid, block;
  uint32_t dynamic_bytes;
  const tw_emu_options* options;
};

// Threads, memory and barriers of one block; kept from block to block by the operating-system thread that runs it.
struct Block {
  const Launch* launch = nullptr;
  uint3 index{};
  uint32_t thread_count = 0, warp_count = 0, done_count = 0;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  uint32_t ready_warps = 0;
  Thread* now = nullptr;
  const Thread* blamed = nullptr;  // whose operand is looked at, where one lane acts for its warp; else null
  Fiber home;
  uint64_t random = 0;
  bool is_deferred = false, rotates = false, is_reversed = false, is_shuffled = false, wants_progress = false;
  SharedMemory shared;
  NamedBarrier barriers[NAMED_BARRIERS];
  std::vector<Mbarrier> mbarriers;
  std::vector<BulkCopy> bulk;
  uint32_t fences = 0;
  std::vector<float> scratch;      // of products (product.h)
  std::vector<uint8_t> operand_b;  // [256][32]
  tw_emu_counts counts{};
  int fault_code = 0;
  char fault_text[1024] = {};
  uint8_t* stacks = nullptr;
  size_t stack_bytes = 0, stack_count = 0;

  ~Block();
  // Runs one block of a launch; a tw_emu_fault, with `fault_text` filled in.
  int run(const Launch& launch, uint3 index);

  // Lays down a lane's operands and returns when the instruction has been carried out.
  void collective(const Operation& operation, void* operands, Where at);
  // Ends the running thread's turn: it waits, and `wake` makes it ready again.
  void wait(Waiting waiting, Where at);
  void wake(Thread& thread);
  void wake_warp(Warp& warp);
  // Ends the running thread's turn while it stays ready.
  void pass();
  // Ends the block: the running thread, at `at`, did something wrong.
  [[noreturn]] void fault(int code, Where at, const char* format, ...) __attribute__((format(printf, 4, 5)));
  [[noreturn]] void fault_of(const Thread& thread, int code, Where at, const char* format, ...)
      __attribute__((format(printf, 5, 6)));
  void say_fault(const Thread& thread, int code, Where at, const char* sentence);

  [[noreturn]] void thread_main();

 private:
  void start(const Launch& launch, uint3 index);
  void switch_to(Thread& next, bool is_last);
  Thread* pick();
  Thread* pick_in(Warp& warp);
  Thread& next_or_fault();
  [[noreturn]] void deadlock();
  void end_of_thread();
  void end_of_block();
  void check_stacks();
};

// The block that runs on this operating-system thread.
extern thread_local Block* current_block __attribute__((tls_model("initial-exec"), visibility("hidden")));

inline Block& block() { return *current_block; }
inline Thread& thread() { return *current_block->now; }

// Copies that are late by design: lands one, and says whether there was one (async.cpp).
bool land_one_copy(Block& block);
// Asynchronous work that nobody waited for (async.cpp, wgmma.cpp).
void check_copies_finished(Block& block, Thread& thread);
void check_block_finished(Block& block);
void check_products_finished(Block& block, Warp& warp);
void forget_products(Warp& warp);
// A bulk copy's bytes have arrived (mbarrier.cpp).
void complete_transaction(Block& block, const BulkCopy& copy);
// The mbarrier at an address, for a copy that is to report to it (mbarrier.cpp).
Mbarrier& mbarrier_for_copy(Block& block, uint32_t address, Where at);

}  // namespace emu
