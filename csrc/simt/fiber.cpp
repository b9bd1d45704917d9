#include "simt/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "simt/sanitizer.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace lamina::simt {
namespace {

constexpr size_t guard_bytes = 4096;

// The last switch.
Fiber* left = nullptr;
Fiber* entered = nullptr;

}  // namespace

#if defined(__x86_64__)

// Saves the registers that a callee must keep, then the stack pointer: about 10 ns, where swapcontext() makes two
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
  tsan::destroy(identity_);
  if (stack_) munmap(stack_, stack_bytes);
}

#else

Fiber::Fiber() : saved_(new ucontext_t) {}
Fiber::~Fiber() {
  delete static_cast<ucontext_t*>(saved_);
  tsan::destroy(identity_);
  if (stack_) munmap(stack_, stack_bytes);
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
    identity_ = tsan::create();
  }
  tsan::precede(identity_);
  entry_ = entry;
  fake_stack_ = nullptr;
  bottom_ = static_cast<char*>(stack_) + guard_bytes;
  size_ = stack_bytes - guard_bytes;
  asan::unpoison(static_cast<char*>(stack_) + guard_bytes,
                 size_);  // a fiber that was given up leaves red zones
#if defined(__x86_64__)
  // Six registers, the address that `ret` takes, and a null return address: aligned as after a call.
  auto* top = reinterpret_cast<uint64_t*>(static_cast<char*>(stack_) + stack_bytes) - 8;
  for (int i = 0; i < 8; ++i) top[i] = 0;
  top[6] = reinterpret_cast<uint64_t>(&first_arrival);
  saved_ = top;
#else
  auto* context = static_cast<ucontext_t*>(saved_);
  getcontext(context);
  context->uc_stack.ss_sp = stack_;
  context->uc_stack.ss_size = stack_bytes;
  context->uc_link = nullptr;
  makecontext(context, &first_arrival, 0);
#endif
}

void Fiber::switch_to(Fiber& from, Fiber& to) {
  left = &from;
  entered = &to;
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&from.fake_stack_, to.bottom_, to.size_);
#if defined(__x86_64__)
  lamina_simt_switch(&from.saved_, to.saved_);
#else
  swapcontext(static_cast<ucontext_t*>(from.saved_), static_cast<ucontext_t*>(to.saved_));
#endif
  arrive();
}

void Fiber::arrive() {
  if (!__sanitizer_finish_switch_fiber) return;
  __sanitizer_finish_switch_fiber(entered->fake_stack_, &left->bottom_, &left->size_);
}

void Fiber::first_arrival() {
  arrive();
  entered->entry_();
}

}  // namespace lamina::simt
