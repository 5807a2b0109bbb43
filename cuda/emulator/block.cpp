#include "block.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "product.h"

namespace emu {

thread_local Block* current_block __attribute__((tls_model("initial-exec"), visibility("hidden"))) = nullptr;

uint3 thread_index() { return block().now->index; }
uint3 block_index() { return block().index; }
dim3 block_size() { return block().launch->block; }
dim3 grid_size() { return block().launch->grid; }

namespace {

constexpr uint64_t CANARY = 0x7477656d7563616eu;
constexpr size_t CANARIES = 8;
// Distance between the tops of neighbouring stacks beyond a round number, so that they do not share cache sets.
constexpr size_t STAGGER = 320;
constexpr uint32_t PATIENCE = 64;      // vain tests of an mbarrier before a late copy lands
constexpr uint32_t MAX_POLLS = 20000;  // and before it counts as waiting for ever

void fiber_entry() {
  fiber_started();
  block().thread_main();
}

}  // namespace

Block::~Block() {
  if (stacks != nullptr) munmap(stacks, stack_count * (stack_bytes + STAGGER));
  for (Warp& warp : warps) forget_products(warp);
}

void Block::start(const Launch& to_run, uint3 at) {
  launch = &to_run;
  index = at;
  thread_count = to_run.block.x * to_run.block.y * to_run.block.z;
  warp_count = thread_count / WARP_LANES;
  done_count = 0;
  ready_warps = warp_count == 32 ? ALL_LANES : (1u << warp_count) - 1;
  fences = 1;
  fault_code = 0;
  now = nullptr;
  blamed = nullptr;
  const tw_emu_options& options = *to_run.options;
  is_deferred = options.copies == TW_EMU_DEFERRED;
  rotates = options.schedule == TW_EMU_ROUND_ROBIN || options.schedule == TW_EMU_SHUFFLED;
  is_reversed = options.schedule == TW_EMU_REVERSED;
  is_shuffled = options.schedule == TW_EMU_SHUFFLED;
  uint64_t number = at.x + uint64_t{to_run.grid.x} * (at.y + uint64_t{to_run.grid.y} * at.z);
  random = (options.seed + 1) * 0x9e3779b97f4a7c15u ^ (number + 1) * 0xd1342543de82ef95u;

  size_t bytes = options.stack_bytes != 0 ? options.stack_bytes : (TW_ADDRESS_SANITIZER ? 524288 : 131072);
  bytes = (bytes + 4095) & ~size_t{4095};
  if (stack_bytes != bytes || stack_count < thread_count) {
    if (stacks != nullptr) munmap(stacks, stack_count * (stack_bytes + STAGGER));
    stack_bytes = bytes;
    stack_count = thread_count;
    void* got = mmap(nullptr, stack_count * (stack_bytes + STAGGER), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    stacks = got == MAP_FAILED ? nullptr : static_cast<uint8_t*>(got);
    if (stacks == nullptr) stack_count = 0;
  }

  scratch.resize(SCRATCH_FLOATS);
  operand_b.resize(MAX_COLUMNS * DEPTH_BYTES);
  if (threads.size() < thread_count) threads.resize(thread_count);
  if (warps.size() < warp_count) warps.resize(warp_count);
  if (stacks == nullptr) return;
  for (uint32_t i = 0; i < thread_count; ++i) {
    Thread& thread = threads[i];
    thread.warp = &warps[i / WARP_LANES];
    thread.number = i;
    thread.lane = i % WARP_LANES;
    thread.index = uint3{i % to_run.block.x, i / to_run.block.x % to_run.block.y, i / to_run.block.x / to_run.block.y};
    thread.waiting = Waiting::Nothing;
    thread.at = Where{nullptr, 0};
    thread.polls = thread.fenced = 0;
    thread.copy_group = thread.store_group = 0;
    thread.copies.clear();
    thread.fiber.stack = stacks + i * (stack_bytes + STAGGER);
    thread.fiber.stack_bytes = stack_bytes;
    prepare(thread.fiber, fiber_entry);
    for (size_t j = 0; j < CANARIES; ++j) memcpy(thread.fiber.stack + 8 * j, &CANARY, 8);
  }
  for (uint32_t i = 0; i < warp_count; ++i) {
    Warp& warp = warps[i];
    forget_products(warp);
    warp.number = i;
    warp.lanes = &threads[i * WARP_LANES];
    warp.ready = ALL_LANES;
    warp.done = warp.arrived = 0;
    warp.operation = nullptr;
    warp.product_group = warp.product_count = 0;
    warp.products_fenced = false;
    warp.clocks = Clocks{};
    warp.clocks.of[i] = 1;
  }
  for (NamedBarrier& barrier : barriers) barrier = NamedBarrier{};
  mbarriers.clear();
  bulk.clear();
  shared.reset(to_run.dynamic_bytes, options.shared_limit != 0 ? options.shared_limit : SHARED_LIMIT);
}

int Block::run(const Launch& to_run, uint3 at) {
  current_block = this;
  start(to_run, at);
  if (stacks == nullptr) {
    snprintf(fault_text, sizeof fault_text, "no memory for %u stacks of %zu bytes", thread_count, stack_bytes);
    return TW_EMU_BAD_LAUNCH;
  }
  Thread& first = *pick_in(warps[is_reversed ? warp_count - 1 : 0]);
  now = &first;
  switch_fiber(home, first.fiber, false);
  if (fault_code == 0) end_of_block();
  check_stacks();
  current_block = nullptr;
  return fault_code;
}

void Block::thread_main() {
  launch->body(launch->params);
  end_of_thread();
  __builtin_unreachable();
}

void Block::end_of_thread() {
  Thread& self = *now;
  Warp& warp = *self.warp;
  check_copies_finished(*this, self);
  if (warp.arrived != 0) {
    const Thread& other = warp.lanes[__builtin_ctz(warp.arrived)];
    fault(TW_EMU_EARLY_EXIT, warp.at, "the thread returned while thread %u of its warp waits for it at %s", other.number,
          warp.operation->name);
  }
  for (uint32_t i = 0; i < NAMED_BARRIERS; ++i) {
    if (barriers[i].whole_block && barriers[i].arrived != 0) {
      fault(TW_EMU_EARLY_EXIT, barriers[i].at, "the thread returned while %u threads wait for the whole block at a barrier",
            barriers[i].arrived);
    }
  }
  warp.ready &= ~(1u << self.lane);
  warp.done |= 1u << self.lane;
  if (warp.ready == 0) ready_warps &= ~(1u << warp.number);
  if (warp.done == ALL_LANES) check_products_finished(*this, warp);
  self.waiting = Waiting::Done;
  ++done_count;
  if (done_count == thread_count) {
    switch_fiber(self.fiber, home, true);
    __builtin_unreachable();
  }
  switch_to(next_or_fault(), true);
}

void Block::end_of_block() {
  now = &threads[0];
  check_block_finished(*this);
}

void Block::check_stacks() {
  for (uint32_t i = 0; i < thread_count; ++i) {
    for (size_t j = 0; j < CANARIES; ++j) {
      if (memcmp(threads[i].fiber.stack + 8 * j, &CANARY, 8) == 0) continue;
      char sentence[128];
      snprintf(sentence, sizeof sentence, "the thread overran its stack of %zu bytes", stack_bytes);
      say_fault(threads[i], TW_EMU_STACK, Where{nullptr, 0}, sentence);
      return;
    }
  }
}

// Who comes next

Thread* Block::pick_in(Warp& warp) {
  if (warp.ready == 0) return nullptr;
  uint32_t lane = is_reversed ? 31 - __builtin_clz(warp.ready) : __builtin_ctz(warp.ready);
  return &warp.lanes[lane];
}

Thread* Block::pick() {
  if (ready_warps == 0) return nullptr;
  uint32_t last = now->warp->number;
  uint32_t next;
  if (is_shuffled) {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    uint32_t skip = static_cast<uint32_t>((random >> 32) * __builtin_popcount(ready_warps) >> 32);
    uint32_t left = ready_warps;
    for (; skip > 0; --skip) left &= left - 1;
    next = __builtin_ctz(left);
  } else if (rotates) {
    uint32_t after = last == 31 ? 0 : ready_warps & (ALL_LANES << (last + 1));
    next = __builtin_ctz(after != 0 ? after : ready_warps);
  } else {
    next = is_reversed ? 31 - __builtin_clz(ready_warps) : __builtin_ctz(ready_warps);
  }
  return pick_in(warps[next]);
}

void Block::switch_to(Thread& next, bool is_last) {
  Thread& self = *now;
  if (&next == &self) return;
  now = &next;
  ++counts.switches;
  switch_fiber(self.fiber, next.fiber, is_last);
}

Thread& Block::next_or_fault() {
  for (;;) {
    Thread* next = pick();
    if (next != nullptr) return *next;
    if (!land_one_copy(*this)) deadlock();
  }
}

void Block::wait(Waiting waiting, Where at) {
  Thread& self = *now;
  Warp& warp = *self.warp;
  self.waiting = waiting;
  self.at = at;
  warp.ready &= ~(1u << self.lane);
  if (warp.ready != 0) {
    switch_to(*pick_in(warp), false);
    return;
  }
  ready_warps &= ~(1u << warp.number);
  switch_to(next_or_fault(), false);
}

void Block::wake(Thread& thread) {
  thread.waiting = Waiting::Nothing;
  thread.warp->ready |= 1u << thread.lane;
  ready_warps |= 1u << thread.warp->number;
}

void Block::wake_warp(Warp& warp) {
  for (uint32_t lane = 0; lane < WARP_LANES; ++lane) warp.lanes[lane].waiting = Waiting::Nothing;
  warp.ready = ALL_LANES;
  ready_warps |= 1u << warp.number;
}

void Block::pass() {
  Thread& self = *now;
  if (self.polls > PATIENCE) {
    bool landed = land_one_copy(*this);
    if (!landed && self.polls > MAX_POLLS) deadlock();
  }
  Warp& warp = *self.warp;
  uint32_t others = ready_warps & ~(1u << warp.number);
  if (others != 0) {
    uint32_t all = ready_warps;
    ready_warps = others;
    Thread* next = is_shuffled && self.polls == 0 ? (ready_warps = all, pick()) : pick();
    ready_warps = all;
    switch_to(*next, false);
  } else if (self.polls != 0 && warp.ready != 1u << self.lane) {
    uint32_t all = warp.ready;
    warp.ready &= ~(1u << self.lane);
    Thread* next = pick_in(warp);
    warp.ready = all;
    switch_to(*next, false);
  }
}

void Block::collective(const Operation& operation, void* operands, Where at) {
  Thread& self = *now;
  Warp& warp = *self.warp;
  if (warp.done != 0) {
    fault(TW_EMU_EARLY_EXIT, at, "%s needs all lanes, and thread %u of the warp has returned", operation.name,
          warp.lanes[__builtin_ctz(warp.done)].number);
  }
  if (warp.arrived == 0) {
    warp.operation = &operation;
    warp.at = at;
  } else if (warp.operation != &operation || warp.at.line != at.line ||
             (warp.at.file != at.file && strcmp(warp.at.file, at.file) != 0)) {
    fault(TW_EMU_DIVERGENCE, at, "the thread is at %s while thread %u of its warp is at %s (%s:%d)", operation.name,
          warp.lanes[__builtin_ctz(warp.arrived)].number, warp.operation->name, warp.at.file, warp.at.line);
  }
  warp.operands[self.lane] = operands;
  warp.arrived |= 1u << self.lane;
  if (warp.arrived != ALL_LANES) {
    wait(Waiting::Lanes, at);
    return;
  }
  warp.arrived = 0;
  ++counts.warp_operations;
  Outcome outcome = operation.run(*this, warp);
  if (outcome == Outcome::GoesOn) {
    wake_warp(warp);
    if (rotates) pass();
    return;
  }
  for (uint32_t lane = 0; lane < WARP_LANES; ++lane) {
    warp.lanes[lane].waiting = Waiting::Barrier;
    warp.lanes[lane].at = at;
  }
  warp.ready = 0;
  ready_warps &= ~(1u << warp.number);
  switch_to(next_or_fault(), false);
}

// Faults

void Block::say_fault(const Thread& thread, int code, Where at, const char* sentence) {
  fault_code = code;
  const char* file = at.file;
  if (file != nullptr && strrchr(file, '/') != nullptr) file = strrchr(file, '/') + 1;
  char place[160] = "";
  if (file != nullptr) snprintf(place, sizeof place, " at %s:%d", file, at.line);
  snprintf(fault_text, sizeof fault_text, "kernel %s, block (%u,%u,%u), thread (%u,%u,%u) [warp %u lane %u]%s: %s",
           launch->kernel, index.x, index.y, index.z, thread.index.x, thread.index.y, thread.index.z, thread.number / 32,
           thread.lane, place, sentence);
}

void Block::fault(int code, Where at, const char* format, ...) {
  char sentence[768];
  va_list list;
  va_start(list, format);
  vsnprintf(sentence, sizeof sentence, format, list);
  va_end(list);
  say_fault(blamed != nullptr ? *blamed : *now, code, at, sentence);
  switch_fiber(now->fiber, home, true);
  __builtin_unreachable();
}

void Block::fault_of(const Thread& thread, int code, Where at, const char* format, ...) {
  char sentence[768];
  va_list list;
  va_start(list, format);
  vsnprintf(sentence, sizeof sentence, format, list);
  va_end(list);
  say_fault(thread, code, at, sentence);
  switch_fiber(now->fiber, home, true);
  __builtin_unreachable();
}

void Block::deadlock() {
  char text[700];
  size_t length = 0;
  uint32_t said = 0, stuck = 0;
  const Thread* first = nullptr;
  for (uint32_t i = 0; i < thread_count; ++i) {
    const Thread& thread = threads[i];
    if (thread.waiting == Waiting::Done) continue;
    ++stuck;
    if (first == nullptr) first = &thread;
    const Thread* before = i % WARP_LANES == 0 ? nullptr : &threads[i - 1];
    if (before != nullptr && before->waiting == thread.waiting && before->at.line == thread.at.line) continue;
    if (said++ == 6 || length + 160 > sizeof text) continue;
    const char* file = thread.at.file == nullptr ? "?" : thread.at.file;
    if (strrchr(file, '/') != nullptr) file = strrchr(file, '/') + 1;
    length += snprintf(text + length, sizeof text - length, "; thread %u at %s:%d ", i, file, thread.at.line);
    if (thread.waiting == Waiting::Mbarrier || thread.polls != 0) {
      length += snprintf(text + length, sizeof text - length, "for mbarrier 0x%x parity %u", thread.wait_address,
                         thread.wait_parity);
      for (const Mbarrier& barrier : mbarriers) {
        if (barrier.address != thread.wait_address) continue;
        length += snprintf(text + length, sizeof text - length, " (phase %llu, %u arrivals and %lld bytes missing)",
                           static_cast<unsigned long long>(barrier.phase), barrier.pending,
                           static_cast<long long>(barrier.transactions));
      }
    } else {
      length += snprintf(text + length, sizeof text - length,
                         thread.waiting == Waiting::Barrier ? "for a barrier" : "for the lanes of its warp");
    }
  }
  fault_of(first == nullptr ? *now : *first, TW_EMU_DEADLOCK, first == nullptr ? Where{nullptr, 0} : first->at,
           "%u of %u threads wait and nobody can go on%s", stuck, thread_count, text);
}

}  // namespace emu
