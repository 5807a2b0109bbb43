// Fibers: several stacks on one operating-system thread, switched by hand.
//
// A switch stores the registers that a called function must preserve and loads those of the other fiber: about ten
// instructions on x86-64 and twenty on aarch64. Rounding modes are not switched: no kernel changes them.
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(__SANITIZE_ADDRESS__)
#define TW_ADDRESS_SANITIZER 1
#else
#define TW_ADDRESS_SANITIZER 0
#endif

namespace emu {

struct Fiber {
  void* stack_pointer = nullptr;
  uint8_t* stack = nullptr;  // lowest byte; null for the fiber of the operating-system thread itself
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // the address sanitiser's
};

// Makes `fiber` start at `entry` on its stack when it is first switched to. `entry` must never return.
void prepare(Fiber& fiber, void (*entry)());

// Leaves `from`, to go on in `to`. `is_last`: `from` will never be switched to again.
void switch_fiber(Fiber& from, Fiber& to, bool is_last);

// The first thing to call on a fresh fiber.
void fiber_started();

}  // namespace emu
