#include "simt/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace lamina::simt {
namespace {
constexpr size_t guard_bytes = 4096;
}

#if defined(__x86_64__)

// Saves the registers that a callee must keep, then the stack pointer; about 10 ns, where swapcontext() makes two
// system calls.
extern "C" void lamina_simt_switch(void** from, void* to);
asm(R"(
.text
.type lamina_simt_switch, @function
.hidden lamina_simt_switch
.globl lamina_simt_switch
lamina_simt_switch:
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
  ret
.size lamina_simt_switch, .-lamina_simt_switch
)");

Fiber::Fiber() = default;
Fiber::~Fiber() {
  if (stack_) munmap(stack_, stack_bytes);
}

void Fiber::switch_to(Fiber& from, Fiber& to) { lamina_simt_switch(&from.saved_, to.saved_); }

#else

Fiber::Fiber() : saved_(new ucontext_t) {}
Fiber::~Fiber() {
  delete static_cast<ucontext_t*>(saved_);
  if (stack_) munmap(stack_, stack_bytes);
}

void Fiber::switch_to(Fiber& from, Fiber& to) {
  swapcontext(static_cast<ucontext_t*>(from.saved_), static_cast<ucontext_t*>(to.saved_));
}

#endif

void Fiber::start(void (*entry)()) {
  if (!stack_) {
    stack_ = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                  -1, 0);
    if (stack_ == MAP_FAILED) {
      stack_ = nullptr;
      throw std::bad_alloc();
    }
    mprotect(stack_, guard_bytes, PROT_NONE);
  }
#if defined(__x86_64__)
  // Six registers, the address that `ret` takes, and the null return address of entry(): 16-byte aligned as a call.
  auto* top = reinterpret_cast<uint64_t*>(static_cast<char*>(stack_) + stack_bytes) - 8;
  for (int i = 0; i < 8; ++i) top[i] = 0;
  top[6] = reinterpret_cast<uint64_t>(entry);
  saved_ = top;
#else
  auto* context = static_cast<ucontext_t*>(saved_);
  getcontext(context);
  context->uc_stack.ss_sp = stack_;
  context->uc_stack.ss_size = stack_bytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
#endif
}

}  // namespace lamina::simt
