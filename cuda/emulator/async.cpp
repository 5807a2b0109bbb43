// Copies that run beside the threads: cp.async (16 bytes at most, waited for by the thread that issued it) and
// cp.async.bulk (any multiple of 16, reported to an mbarrier or waited for as a group).
//
// From issue to wait the target's bytes are ARRIVING: whoever touches them is at fault, early or late copies alike.
#include <stdio.h>
#include <string.h>

#include "block.h"
#include "instructions.h"

namespace emu {

namespace {

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

void transfer(Block& block, BulkCopy& copy) {
  copy.is_done = true;
  if (!copy.to_shared) {
    memcpy(copy.global, block.shared.at(copy.shared), copy.bytes);
    return;
  }
  memcpy(block.shared.at(copy.shared), copy.global, copy.bytes);
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
  mbarrier_for_copy(here, mbarrier, at);
  claim(here, "cp.async.bulk", target, bytes, at);
  uint8_t* global = static_cast<uint8_t*>(const_cast<void*>(source));
  here.bulk.push_back(
      BulkCopy{true, target, bytes, global, mbarrier, here.now->number, 0, true, false, at, here.now->warp->clocks});
  ++here.counts.copies;
  here.counts.copied_bytes += bytes;
  if (!here.is_deferred) {
    transfer(here, here.bulk.back());
    forget_done(here);
  }
}

void bulk_to_global(void* target, uint32_t source, uint32_t bytes, Where at) {
  Block& here = block();
  Thread& self = *here.now;
  if (bytes == 0 || bytes % 16 != 0) here.fault(TW_EMU_MISALIGNED, at, "cp.async.bulk of %u bytes, no multiple of 16", bytes);
  check_address(here, "cp.async.bulk", source, bytes, 16, at);
  async_read(here, source, bytes, at);
  note_read(here, source, bytes, at);
  for (uint32_t place = source; place < source + bytes; place += 16) ++here.shared.async_readers(place);
  here.bulk.push_back(BulkCopy{false, source, bytes, static_cast<uint8_t*>(target), 0, self.number, self.store_group, false, false, at,
                               Clocks{}});
  ++here.counts.copies;
  here.counts.copied_bytes += bytes;
  if (!here.is_deferred) transfer(here, here.bulk.back());
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
