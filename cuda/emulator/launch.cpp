#include "launch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "block.h"
#include "emulator.h"
#include "view.h"

namespace emu {

namespace {

std::vector<Kernel>& kernels() {
  static std::vector<Kernel> all;
  return all;
}

bool by_name(const Kernel& a, const Kernel& b) { return strcmp(a.name, b.name) < 0; }

}  // namespace

Registration::Registration(const char* name, void (*body)(const void*), size_t params_size, unsigned max_threads, unsigned) {
  const Kernel kernel{name, body, params_size, max_threads};
  std::vector<Kernel>& all = kernels();
  all.insert(std::upper_bound(all.begin(), all.end(), kernel, by_name), kernel);
}

uint32_t static_shared(const void* key, uint64_t bytes, uint32_t alignment, Where at) {
  Block& here = block();
  if (bytes > SHARED_LIMIT) here.fault(TW_EMU_BAD_LAUNCH, at, "a static array of %llu bytes", static_cast<unsigned long long>(bytes));
  return here.shared.allocate(here, key, static_cast<uint32_t>(bytes), alignment, at);
}

uint32_t dynamic_shared(uint32_t offset, uint64_t bytes, uint32_t alignment, Where at) {
  return block().shared.part(block(), offset, bytes, alignment, at);
}

}  // namespace emu

using emu::Kernel;

extern "C" const char* tw_emu_kernel_name(size_t index) {
  return index < emu::kernels().size() ? emu::kernels()[index].name : nullptr;
}

extern "C" int tw_emu_launch(const char* name, const unsigned grid[3], const unsigned block[3], size_t shared_bytes,
                             const void* params, size_t params_size, const tw_emu_options* given, char* message,
                             size_t message_size) {
  const tw_emu_options none{};
  const tw_emu_options& options = given != nullptr ? *given : none;
  auto refuse = [&](int code, const char* format, auto... values) {
    if (message != nullptr && message_size != 0) snprintf(message, message_size, format, values...);
    return code;
  };
  if (message != nullptr && message_size != 0) message[0] = 0;

  const auto range = std::equal_range(emu::kernels().begin(), emu::kernels().end(), Kernel{name, nullptr, 0, 0}, emu::by_name);
  if (range.first == range.second) return refuse(TW_EMU_NO_KERNEL, "kernel %s: none of this name is linked", name);
  if (range.second - range.first > 1) return refuse(TW_EMU_NO_KERNEL, "kernel %s: several of this name are linked", name);
  const Kernel& kernel = *range.first;
  const uint64_t threads = uint64_t{block[0]} * block[1] * block[2];
  const uint64_t blocks = uint64_t{grid[0]} * grid[1] * grid[2];
  const uint32_t limit = options.shared_limit != 0 ? options.shared_limit : emu::SHARED_LIMIT;
  if (params_size != kernel.params_size) {
    return refuse(TW_EMU_BAD_LAUNCH, "kernel %s: %zu bytes of parameters, it takes %zu", name, params_size, kernel.params_size);
  }
  if (threads == 0 || threads % emu::WARP_LANES != 0 || threads > 1024 || threads > kernel.max_threads || block[2] > 64) {
    return refuse(TW_EMU_BAD_LAUNCH, "kernel %s: a block of %u x %u x %u threads; it takes whole warps, at most %u threads", name,
                  block[0], block[1], block[2], kernel.max_threads);
  }
  if (blocks == 0 || grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535) {
    return refuse(TW_EMU_BAD_LAUNCH, "kernel %s: a grid of %u x %u x %u blocks; none may be zero, the last two end at 65535", name,
                  grid[0], grid[1], grid[2]);
  }
  if (shared_bytes > limit) {
    return refuse(TW_EMU_BAD_LAUNCH, "kernel %s: %zu bytes of shared memory, a block may have %u", name, shared_bytes, limit);
  }
  if (options.schedule > TW_EMU_SHUFFLED || options.copies > TW_EMU_DEFERRED) {
    return refuse(TW_EMU_BAD_LAUNCH, "kernel %s: schedule %u, copies %u: no such mode", name, options.schedule, options.copies);
  }

  // The kernel's own copy, aligned for any struct.
  std::unique_ptr<void, void (*)(void*)> copy(aligned_alloc(128, (params_size + 127) & ~size_t{127}), free);
  memcpy(copy.get(), params, params_size);
  const emu::Launch launch{name,
                           kernel.body,
                           copy.get(),
                           params_size,
                           dim3{grid[0], grid[1], grid[2]},
                           dim3{block[0], block[1], block[2]},
                           static_cast<uint32_t>(shared_bytes),
                           &options};
  thread_local emu::Block worker;
  worker.counts = tw_emu_counts{};
  const uint64_t first = options.first_block;
  const uint64_t last = options.block_count == 0 ? blocks : std::min(blocks, first + options.block_count);
  int code = 0;
  for (uint64_t i = first; i < last && code == 0; ++i) {
    const uint64_t row = i / grid[0];
    code = worker.run(launch, uint3{static_cast<unsigned>(i % grid[0]), static_cast<unsigned>(row % grid[1]),
                                    static_cast<unsigned>(row / grid[1])});
  }
  if (code != 0) refuse(code, "%s", static_cast<const char*>(worker.fault_text));
  if (options.counts != nullptr) {
    tw_emu_counts& to = *options.counts;
    const tw_emu_counts& from = worker.counts;
    to.switches += from.switches;
    to.warp_operations += from.warp_operations;
    to.barriers += from.barriers;
    to.mma += from.mma;
    to.wgmma += from.wgmma;
    to.ldmatrix += from.ldmatrix;
    to.ldmatrix_phases += from.ldmatrix_phases;
    to.ldmatrix_conflicts += from.ldmatrix_conflicts;
    to.copies += from.copies;
    to.copied_bytes += from.copied_bytes;
  }
  return code;
}
