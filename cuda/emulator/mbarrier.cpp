// mbarrier: a phase ends when no arrival and no byte is missing. Its state lies beside shared memory, not in it; the
// eight bytes it stands on belong to it alone.
#include "block.h"
#include "instructions.h"

namespace emu {

namespace {

constexpr uint32_t MAX_COUNT = (1u << 20) - 1;

Mbarrier& find(Block& block, uint32_t address, Where at) {
  for (Mbarrier& barrier : block.mbarriers) {
    if (barrier.address != address) continue;
    // Its initialisation must have been made known: this is an ordinary read of what another warp wrote.
    note_read(block, address, 8, at);
    return barrier;
  }
  block.fault(TW_EMU_BARRIER, at, "no mbarrier has been initialised at shared 0x%x", address);
}

void end_phase_if_complete(Block& block, Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.transactions != 0) return;
  ++barrier.phase;
  barrier.pending = barrier.count;
  barrier.released = barrier.gathering;
  barrier.unseen.insert(barrier.unseen.end(), barrier.landed.begin(), barrier.landed.end());
  barrier.landed.clear();
  for (uint32_t i = 0; i < block.thread_count; ++i) {
    Thread& thread = block.threads[i];
    if (thread.waiting != Waiting::Mbarrier || thread.wait_address != barrier.address) continue;
    if ((barrier.phase & 1) != thread.wait_parity) block.wake(thread);
  }
}

// The running thread has seen that the phase ended.
void observe(Block& block, Mbarrier& barrier) {
  block.now->warp->clocks.join(barrier.released);
  for (uint64_t range : barrier.unseen) {
    const uint32_t address = static_cast<uint32_t>(range >> 32), bytes = static_cast<uint32_t>(range);
    uint8_t* flags = block.shared.flags(address);
    for (uint32_t i = 0; i < bytes; ++i) flags[i] = WRITTEN;
  }
  barrier.unseen.clear();
}

}  // namespace

void mbarrier_init(uint32_t address, uint32_t count, Where at) {
  Block& here = block();
  check_address(here, "mbarrier.init", address, 8, 8, at);
  if (count == 0 || count > MAX_COUNT) here.fault(TW_EMU_BARRIER, at, "mbarrier.init for %u arrivals", count);
  uint8_t* flags = here.shared.flags(address);
  for (int i = 0; i < 8; ++i) {
    if (flags[i] & IS_BARRIER) here.fault(TW_EMU_BARRIER, at, "the mbarrier at shared 0x%x is initialised twice", address);
    if (flags[i] & ARRIVING) here.fault(TW_EMU_IN_FLIGHT, at, "mbarrier.init where a copy is to arrive, shared 0x%x", address);
  }
  note_write(here, address, 8, at);
  for (int i = 0; i < 8; ++i) flags[i] = WRITTEN | IS_BARRIER;
  Mbarrier barrier{};
  barrier.address = address;
  barrier.count = barrier.pending = count;
  barrier.author = here.now->number;
  barrier.born = here.fences;
  here.mbarriers.push_back(barrier);
}

void mbarrier_arrive(uint32_t address, Where at) {
  Block& here = block();
  Mbarrier& barrier = find(here, address, at);
  if (barrier.pending == 0) {
    here.fault(TW_EMU_BARRIER, at, "more than %u arrivals in one phase of mbarrier 0x%x (phase %llu, %lld bytes missing)", barrier.count,
               address, static_cast<unsigned long long>(barrier.phase), static_cast<long long>(barrier.transactions));
  }
  Warp& warp = *here.now->warp;
  barrier.gathering.join(warp.clocks);
  ++warp.clocks.of[warp.number];
  --barrier.pending;
  end_phase_if_complete(here, barrier);
}

void mbarrier_expect(uint32_t address, uint32_t bytes, Where at) {
  Block& here = block();
  Mbarrier& barrier = find(here, address, at);
  barrier.transactions += bytes;
  if (barrier.transactions > MAX_COUNT) {
    here.fault(TW_EMU_BARRIER, at, "mbarrier 0x%x expects %lld bytes, more than it can count", address,
               static_cast<long long>(barrier.transactions));
  }
}

void mbarrier_wait(uint32_t address, uint32_t parity, Where at) {
  Block& here = block();
  Thread& self = *here.now;
  if (parity > 1) here.fault(TW_EMU_BARRIER, at, "parity %u", parity);
  find(here, address, at);
  for (;;) {
    // Barriers may have been added meanwhile, so the place is looked up again.
    Mbarrier& barrier = find(here, address, at);
    if ((barrier.phase & 1) != parity) {
      self.polls = 0;
      observe(here, barrier);
      return;
    }
    self.wait_address = address;
    self.wait_parity = parity;
    here.wait(Waiting::Mbarrier, at);
  }
}

bool mbarrier_test(uint32_t address, uint32_t parity, Where at) {
  Block& here = block();
  Thread& self = *here.now;
  Mbarrier& barrier = find(here, address, at);
  if ((barrier.phase & 1) != parity) {
    self.polls = 0;
    observe(here, barrier);
    return true;
  }
  self.wait_address = address;
  self.wait_parity = parity;
  self.at = at;
  ++self.polls;
  here.pass();
  return false;
}

void fence_proxy_async(Where) {
  Block& here = block();
  here.now->fenced = ++here.fences;
}

Mbarrier& mbarrier_for_copy(Block& block, uint32_t address, Where at) {
  Mbarrier& barrier = find(block, address, at);
  if (block.threads[barrier.author].fenced <= barrier.born) {
    block.fault(TW_EMU_PROXY, at, "the mbarrier at 0x%x was initialised with no fence for the async proxy after it", address);
  }
  return barrier;
}

void complete_transaction(Block& block, const BulkCopy& copy) {
  for (Mbarrier& barrier : block.mbarriers) {
    if (barrier.address != copy.mbarrier) continue;
    barrier.transactions -= copy.bytes;
    barrier.gathering.join(copy.clocks);
    barrier.landed.push_back(uint64_t{copy.shared} << 32 | copy.bytes);
    end_phase_if_complete(block, barrier);
  }
}

}  // namespace emu
