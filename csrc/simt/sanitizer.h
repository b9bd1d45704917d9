// What the engine tells ThreadSanitizer and AddressSanitizer, when the program runs under one of them.
//
// The functions are weak references to the sanitizer's run-time library: one engine object, never instrumented itself,
// serves plain and sanitized builds. For ThreadSanitizer every thread of a kernel and every group of asynchronous
// operations has an identity of its own, one of its fibers; switches order nothing, and only what orders memory on a GPU
// releases and acquires. To make an identity takes half a millisecond and 800 KB, so they are used again, late: what one
// did and knew as somebody else is no race to it any more.
#pragma once

#include <cstddef>

extern "C" {
#define LAMINA_WEAK __attribute__((weak))
void* __tsan_get_current_fiber() LAMINA_WEAK;
void* __tsan_create_fiber(unsigned) LAMINA_WEAK;
void __tsan_destroy_fiber(void*) LAMINA_WEAK;
void __tsan_switch_to_fiber(void*, unsigned) LAMINA_WEAK;
void __tsan_acquire(void*) LAMINA_WEAK;
void __tsan_release(void*) LAMINA_WEAK;
void __tsan_read_range(void*, unsigned long) LAMINA_WEAK;
void __tsan_write_range(void*, unsigned long) LAMINA_WEAK;
void __tsan_func_entry(void*) LAMINA_WEAK;
void __tsan_func_exit() LAMINA_WEAK;
void AnnotateIgnoreReadsBegin(const char*, int) LAMINA_WEAK;
void AnnotateIgnoreReadsEnd(const char*, int) LAMINA_WEAK;
void AnnotateIgnoreWritesBegin(const char*, int) LAMINA_WEAK;
void AnnotateIgnoreWritesEnd(const char*, int) LAMINA_WEAK;
void __sanitizer_start_switch_fiber(void**, const void*, size_t) LAMINA_WEAK;
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) LAMINA_WEAK;
void __asan_poison_memory_region(const volatile void*, size_t) LAMINA_WEAK;
void __asan_unpoison_memory_region(const volatile void*, size_t) LAMINA_WEAK;
void* __asan_region_is_poisoned(void*, size_t) LAMINA_WEAK;
#undef LAMINA_WEAK
}

namespace lamina::simt {

namespace tsan {

inline bool is_on() { return __tsan_create_fiber != nullptr; }
inline void* current() { return is_on() ? __tsan_get_current_fiber() : nullptr; }
inline void* create() { return is_on() ? __tsan_create_fiber(0) : nullptr; }
inline void destroy(void* identity) {
  if (identity) __tsan_destroy_fiber(identity);
}
inline void switch_to(void* identity) {
  if (identity) __tsan_switch_to_fiber(identity, 1);  // 1: no happens-before
}
// What the caller has done happens before what `identity` does from now on.
inline void precede(void* identity) {
  if (!identity) return;
  void* caller = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(identity, 0);
  switch_to(caller);
}
inline void release(void* object) {
  if (is_on()) __tsan_release(object);
}
inline void acquire(void* object) {
  if (is_on()) __tsan_acquire(object);
}
inline void read(const void* p, size_t bytes) {
  if (is_on() && bytes) __tsan_read_range(const_cast<void*>(p), bytes);
}
inline void write(const void* p, size_t bytes) {
  if (is_on() && bytes) __tsan_write_range(const_cast<void*>(p), bytes);
}

// While one lives, what the engine itself does to memory (through memcpy, malloc and the like) is not recorded.
class Ignore {
 public:
  Ignore() {
    if (!is_on()) return;
    AnnotateIgnoreReadsBegin("", 0);
    AnnotateIgnoreWritesBegin("", 0);
  }
  Ignore(const Ignore&) = delete;
  Ignore& operator=(const Ignore&) = delete;
  ~Ignore() {
    if (!is_on()) return;
    AnnotateIgnoreReadsEnd("", 0);
    AnnotateIgnoreWritesEnd("", 0);
  }
};

}  // namespace tsan

namespace asan {

inline bool is_bad(const void* p, size_t bytes) {
  return __asan_region_is_poisoned && __asan_region_is_poisoned(const_cast<void*>(p), bytes);
}
inline void poison(void* p, size_t bytes) {
  if (__asan_poison_memory_region) __asan_poison_memory_region(p, bytes);
}
inline void unpoison(void* p, size_t bytes) {
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(p, bytes);
}

}  // namespace asan
}  // namespace lamina::simt
