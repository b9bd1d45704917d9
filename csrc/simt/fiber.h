// Fibers: stacks that one OS thread switches between.
#pragma once

#include <cstddef>

namespace lamina::simt {

class Fiber {
 public:
  static constexpr size_t stack_bytes = 256 * 1024;  // touched pages only are real; the lowest one is a guard

  Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // The next switch to this fiber calls entry() on its stack. entry() must not return.
  void start(void (*entry)());
  // Leaves `from` where it is and goes on in `to`. A default-started fiber `from` stands for the caller.
  static void switch_to(Fiber& from, Fiber& to);

 private:
  void* stack_ = nullptr;
  void* saved_ = nullptr;  // stack pointer, or ucontext_t
};

}  // namespace lamina::simt
