// Arena: a caching allocator. Freed blocks wait in free lists by size class and are handed out again.
//
// The root arena of the CPU takes its blocks from the system (64-byte aligned; 2 MiB-aligned huge pages from 2 MiB on)
// and keeps at most `cache_limit` bytes of free ones. Without it, glibc maps and unmaps every block over 32 MiB, and
// the page faults cost 2 to 5 times the op. The root arena of a GPU takes blocks of 2 MiB and more from the driver,
// whose calls wait for the device, and cuts them up. It belongs to one stream: what was freed may be handed out again
// while kernels that use it are still queued, because whoever gets it is queued behind them.
//
// A Program records into arenas of its own, whose parents are the roots: their blocks keep their addresses for as long
// as the Program lives, which is what makes replay possible.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/ref.h"
#include "runtime/device.h"

namespace lamina {

struct MemoryStats {
  int64_t bytes_in_use = 0;        // in live arrays, rounded up to size classes
  int64_t bytes_cached = 0;        // free, kept for reuse
  int64_t peak_bytes_in_use = 0;   // largest bytes_in_use so far
  int64_t allocations = 0;         // requests served
  int64_t system_allocations = 0;  // requests that the cache could not serve
};

class Arena;
Arena& root_arena(Device device = {});

// Another library's pool, from which the root arenas of devices take their blocks from now on, so that two pools do not
// starve each other; a block goes back where it came from. Empty functions: the driver.
struct DevicePool {
  std::function<void*(Device, int64_t bytes)> allocate;  // null: out of memory
  std::function<void(Device, void* block)> free;
};
void set_device_pool(DevicePool pool);

class Arena : public RefCounted {
 public:
  static constexpr int64_t alignment = 64;

  explicit Arena(Device device, Ref<Arena> parent = {}) : device_(device), parent_(std::move(parent)) {}
  // Hands out addresses from `addresses` on, where no memory lies: whoever uses them puts some there.
  Arena(Device device, char* addresses) : device_(device), addresses_(addresses) {}
  ~Arena() override;

  void* allocate(int64_t bytes);
  void free(void* block, int64_t bytes);  // `bytes` as asked for

  void empty_cache();
  Device device() const { return device_; }
  MemoryStats stats() const;
  void set_cache_limit(int64_t bytes);
  int64_t cache_limit() const { return cache_limit_; }
  int64_t addressed_bytes() const { return addressed_; }  // of those without memory

 private:
  friend Arena& root_arena(Device);
  // Eight classes per power of two: at most 12.5 % of a block is unused.
  static constexpr int class_count = 64 * 8;
  static int class_of(int64_t bytes);
  static int64_t class_bytes(int size_class);
  void* from_parent(int64_t bytes);
  void to_parent(void* block, int64_t bytes);
  void* from_device(int64_t bytes);
  void drop_cache_locked();

  class Lock;
  const Device device_;
  Ref<Arena> parent_;
  mutable std::atomic_flag lock_;
  std::array<std::vector<void*>, class_count> free_;
  MemoryStats stats_;
  int64_t cache_limit_ = 0;
  char* slab_ = nullptr;  // of a GPU: the rest of the block that small ones are cut from
  int64_t slab_left_ = 0;
  char* addresses_ = nullptr;
  int64_t addressed_ = 0;
};

}  // namespace lamina
