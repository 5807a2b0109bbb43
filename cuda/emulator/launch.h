// Kernels that are linked into the program.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace emu {

struct Kernel {
  const char* name;
  void (*body)(const void* params);
  size_t params_size;
  unsigned max_threads;
};

// A static object of this type makes a kernel known; TW_KERNEL writes one.
class Registration {
 public:
  Registration(const char* name, void (*body)(const void*), size_t params_size, unsigned max_threads, unsigned min_blocks = 1);
};

}  // namespace emu
