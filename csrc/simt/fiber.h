// Fibers: stacks that one OS thread switches between.
#pragma once

#include <cstddef>

namespace lamina::simt {

class Fiber {
 public:
  static constexpr size_t stack_bytes = 256 * 1024;  // only touched pages are real; the lowest one is a guard

  Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // The next switch to this fiber calls entry() on its stack. entry() must not return.
  void start(void (*entry)());
  // To ThreadSanitizer. Whoever has the stack has the identity, so that nobody meets there what another left behind.
  void* identity() const { return identity_; }
  // Leaves `from`, which runs, and goes on in `to`. A fiber that was never started stands for the thread itself.
  static void switch_to(Fiber& from, Fiber& to);

 private:
  static void arrive();  // first thing on the new stack: tells AddressSanitizer
  static void first_arrival();

  void (*entry_)() = nullptr;
  void* stack_ = nullptr;
  void* identity_ = nullptr;
  void* saved_ = nullptr;         // stack pointer, or ucontext_t
  void* fake_stack_ = nullptr;    // AddressSanitizer's
  const void* bottom_ = nullptr;  // what AddressSanitizer is to take for the stack
  size_t size_ = 0;
};

}  // namespace lamina::simt
