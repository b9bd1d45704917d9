// Arena: a caching allocator. Freed blocks wait in free lists by size class and are handed out again.
//
// The root arena takes its blocks from the system (64-byte aligned; 2 MiB-aligned huge pages from 2 MiB on) and keeps
// at most `cache_limit` bytes of free ones. Without it, glibc maps and unmaps every block over 32 MiB, and the page
// faults cost 2 to 5 times the op. A Program records into an arena of its own, whose parent is the root: its blocks
// keep their addresses for as long as the Program lives, which is what makes replay possible.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "base/ref.h"

namespace lamina {

struct MemoryStats {
  int64_t bytes_in_use = 0;        // in live arrays, rounded up to size classes
  int64_t bytes_cached = 0;        // free, kept for reuse
  int64_t peak_bytes_in_use = 0;   // largest bytes_in_use so far
  int64_t allocations = 0;         // requests served
  int64_t system_allocations = 0;  // requests that the cache could not serve
};

class Arena;
Arena& root_arena();
// The arena that this thread's arrays come from: the root, or that of the program being recorded.
Arena& current_arena();
void set_current_arena(Arena*);  // null: the root

class Arena : public RefCounted {
 public:
  static constexpr int64_t alignment = 64;

  explicit Arena(Ref<Arena> parent = {}) : parent_(std::move(parent)) {}
  ~Arena() override;

  void* allocate(int64_t bytes);
  void free(void* block, int64_t bytes);  // `bytes` as asked for

  void empty_cache();
  MemoryStats stats() const;
  void set_cache_limit(int64_t bytes);
  int64_t cache_limit() const { return cache_limit_; }

 private:
  friend Arena& root_arena();
  // Eight classes per power of two: at most 12.5 % of a block is unused.
  static constexpr int class_count = 64 * 8;
  static int class_of(int64_t bytes);
  static int64_t class_bytes(int size_class);
  void* from_parent(int64_t bytes);
  void to_parent(void* block, int64_t bytes);
  void drop_cache_locked();

  class Lock;
  Ref<Arena> parent_;
  mutable std::atomic_flag lock_;
  std::array<std::vector<void*>, class_count> free_;
  MemoryStats stats_;
  int64_t cache_limit_ = 0;
};

}  // namespace lamina
