#include "fiber.h"

#include <string.h>

#if TW_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// tw_emu_switch(void** save, void* load)
extern "C" void tw_emu_switch(void** save, void* load) __attribute__((visibility("hidden")));

#if defined(__x86_64__)
// The jump instead of a return: fibers go round in rings, so a jump's target is predicted where a return's is not.
asm(R"(
    .text
    .p2align 4
    .hidden tw_emu_switch
    .globl tw_emu_switch
    .type tw_emu_switch, @function
tw_emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
    .size tw_emu_switch, .-tw_emu_switch
)");
#elif defined(__aarch64__)
asm(R"(
    .text
    .p2align 4
    .hidden tw_emu_switch
    .globl tw_emu_switch
    .type tw_emu_switch, %function
tw_emu_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size tw_emu_switch, .-tw_emu_switch
)");
#else
#error "the emulator has fibers for x86-64 and aarch64 only"
#endif

namespace emu {

#if TW_ADDRESS_SANITIZER
namespace {
// The fibers of this thread's last switch, so that a first arrival can be announced.
thread_local Fiber* leaving = nullptr;
thread_local Fiber* arriving = nullptr;

// Ends the switch that led here. The stack of the operating-system thread is learnt from the first switch away from it.
void arrived() {
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(arriving->fake_stack, &bottom, &bytes);
  if (leaving->stack == nullptr) {
    leaving->stack = static_cast<uint8_t*>(const_cast<void*>(bottom));
    leaving->stack_bytes = bytes;
  }
}
}  // namespace
#endif

void prepare(Fiber& fiber, void (*entry)()) {
#if TW_ADDRESS_SANITIZER
  __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
  fiber.fake_stack = nullptr;
#endif
  uintptr_t top = reinterpret_cast<uintptr_t>(fiber.stack + fiber.stack_bytes) & ~uintptr_t{15};
#if defined(__x86_64__)
  // Six registers, the entry, and a zero where a caller's return address would be: at the entry the stack pointer is 8
  // past a multiple of 16, as after a call.
  void** frame = reinterpret_cast<void**>(top) - 8;
  memset(frame, 0, 8 * sizeof(void*));
  frame[6] = reinterpret_cast<void*>(entry);
#else
  void** frame = reinterpret_cast<void**>(top) - 20;
  memset(frame, 0, 20 * sizeof(void*));
  frame[11] = reinterpret_cast<void*>(entry);
#endif
  fiber.stack_pointer = frame;
}

void switch_fiber(Fiber& from, Fiber& to, bool is_last) {
#if TW_ADDRESS_SANITIZER
  leaving = &from;
  arriving = &to;
  __sanitizer_start_switch_fiber(is_last ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
  tw_emu_switch(&from.stack_pointer, to.stack_pointer);
  arrived();
#else
  (void)is_last;
  tw_emu_switch(&from.stack_pointer, to.stack_pointer);
#endif
}

void fiber_started() {
#if TW_ADDRESS_SANITIZER
  arrived();
#endif
}

}  // namespace emu
