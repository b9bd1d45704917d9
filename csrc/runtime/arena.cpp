#include "runtime/arena.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <unordered_map>
#include <utility>

#include "base/check.h"

namespace lamina {
namespace {

constexpr int64_t huge_page = int64_t(2) << 20;
constexpr int64_t slab_bytes = int64_t(2) << 20;
constexpr int64_t unlimited = INT64_MAX;
// Half of the machine's memory may lie idle in the cache.
int64_t default_cache_limit() { return int64_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE) / 2; }

}  // namespace

// A spin lock: it is held for a few nanoseconds, and a mutex would add a tenth to the cost of a tiny op.
class Arena::Lock {
 public:
  explicit Lock(const Arena& arena) : flag_(arena.lock_) {
    while (flag_.test_and_set(std::memory_order_acquire)) std::this_thread::yield();
  }
  ~Lock() { flag_.clear(std::memory_order_release); }

 private:
  std::atomic_flag& flag_;
};

int Arena::class_of(int64_t bytes) {
  const uint64_t n = uint64_t(bytes < alignment ? alignment : bytes) - 1;
  const int exponent = std::bit_width(n) - 1;  // n in [2^e, 2^(e+1))
  return exponent * 8 + int((n >> (exponent - 3)) & 7);
}

int64_t Arena::class_bytes(int size_class) {
  const int exponent = size_class / 8;
  const int64_t bytes =
      (int64_t(1) << exponent) + (int64_t(size_class % 8) + 1) * (int64_t(1) << (exponent - 3));
  const int64_t unit = bytes >= huge_page ? huge_page : alignment;
  return (bytes + unit - 1) / unit * unit;
}

namespace {

// The pool in use, and for each block of another pool the one that it goes back to. Blocks are large and rare.
std::mutex pool_mutex;
std::shared_ptr<const DevicePool> device_pool;
std::unordered_map<void*, std::shared_ptr<const DevicePool>> borrowed;

void* take_block(Device device, int64_t bytes) {
  std::unique_lock lock(pool_mutex);
  const std::shared_ptr<const DevicePool> pool = device_pool;
  lock.unlock();
  if (!pool) return device_library(device.type).allocate(device.index, bytes);
  void* block = pool->allocate(device, bytes);
  lock.lock();
  if (block) borrowed[block] = pool;
  return block;
}

void give_block(Device device, void* block) {
  std::shared_ptr<const DevicePool> pool;
  {
    const std::lock_guard lock(pool_mutex);
    if (auto found = borrowed.extract(block)) pool = std::move(found.mapped());
  }
  if (pool) return pool->free(device, block);
  device_library(device.type).free(device.index, block);
}

}  // namespace

void set_device_pool(DevicePool pool) {
  const std::lock_guard lock(pool_mutex);
  device_pool = pool.allocate ? std::make_shared<const DevicePool>(std::move(pool)) : nullptr;
}

// A block smaller than a slab is cut from one and never goes back to the driver.
void* Arena::from_device(int64_t bytes) {
  if (bytes >= slab_bytes || device_.type == DeviceType::sim) return take_block(device_, bytes);
  Lock lock(*this);
  if (slab_left_ < bytes) {
    slab_ = static_cast<char*>(take_block(device_, slab_bytes));
    slab_left_ = slab_ ? slab_bytes : 0;
    if (!slab_) return nullptr;
  }
  void* block = slab_;
  slab_ += bytes;
  slab_left_ -= bytes;
  return block;
}

void* Arena::from_parent(int64_t bytes) {
  if (parent_) return parent_->allocate(bytes);
  if (addresses_) return addresses_ + std::exchange(addressed_, addressed_ + bytes);
  if (!device_.is_cpu()) return from_device(bytes);
  void* block = std::aligned_alloc(size_t(bytes >= huge_page ? huge_page : alignment), size_t(bytes));
  if (block && bytes >= huge_page) madvise(block, size_t(bytes), MADV_HUGEPAGE);
  return block;
}

void Arena::to_parent(void* block, int64_t bytes) {
  if (parent_) return parent_->free(block, bytes);
  if (addresses_) return;
  if (device_.is_cpu()) return std::free(block);
  give_block(device_, block);
}

void* Arena::allocate(int64_t bytes) {
  const int size_class = class_of(bytes);
  const int64_t granted = class_bytes(size_class);
  void* block = nullptr;
  {
    Lock lock(*this);
    std::vector<void*>& list = free_[size_t(size_class)];
    if (!list.empty()) {
      block = list.back();
      list.pop_back();
      stats_.bytes_cached -= granted;
    } else {
      ++stats_.system_allocations;
    }
    ++stats_.allocations;
    stats_.bytes_in_use += granted;
    if (stats_.bytes_in_use > stats_.peak_bytes_in_use) stats_.peak_bytes_in_use = stats_.bytes_in_use;
  }
  if (!block) block = from_parent(granted);
  if (!block) {
    empty_cache();
    block = from_parent(granted);
  }
  if (!block) {
    Lock lock(*this);
    stats_.bytes_in_use -= granted;
    if (device_.is_cpu()) throw std::bad_alloc();
    int64_t free_bytes = 0, total_bytes = 0;
    device_library(device_.type).memory_info(device_.index, &free_bytes, &total_bytes);
    fail<StateError>(name_of(device_), "out of memory: ", bytes, " bytes were asked for; arrays hold ",
                     stats_.bytes_in_use, " bytes, the cache ", stats_.bytes_cached, ", and the device has ",
                     free_bytes, " of ", total_bytes, " free");
  }
  return block;
}

void Arena::free(void* block, int64_t bytes) {
  const int size_class = class_of(bytes);
  const int64_t granted = class_bytes(size_class);
  {
    Lock lock(*this);
    stats_.bytes_in_use -= granted;
    if (parent_ || addresses_ || stats_.bytes_cached + granted <= cache_limit_) {
      free_[size_t(size_class)].push_back(block);
      stats_.bytes_cached += granted;
      return;
    }
  }
  to_parent(block, granted);
}

// Blocks cut from a slab stay.
void Arena::drop_cache_locked() {
  const int first = !parent_ && !device_.is_cpu() ? class_of(slab_bytes) : 0;
  for (int c = first; c < class_count; ++c) {
    for (void* block : free_[size_t(c)]) to_parent(block, class_bytes(c));
    free_[size_t(c)].clear();
  }
  stats_.bytes_cached = 0;
  for (int c = 0; c < first; ++c) stats_.bytes_cached += int64_t(free_[size_t(c)].size()) * class_bytes(c);
}

void Arena::empty_cache() {
  Lock lock(*this);
  drop_cache_locked();
}

Arena::~Arena() { drop_cache_locked(); }

MemoryStats Arena::stats() const {
  Lock lock(*this);
  return stats_;
}

void Arena::set_cache_limit(int64_t bytes) {
  Lock lock(*this);
  cache_limit_ = bytes;
  if (stats_.bytes_cached > bytes) drop_cache_locked();
}

Arena& root_arena(Device device) {
  // Never destroyed: arrays may outlive static destruction.
  static std::array<std::atomic<Arena*>, device_type_count * max_devices> roots;
  static std::mutex making;
  std::atomic<Arena*>& root = roots[size_t(int(device.type) * max_devices + device.index)];
  if (Arena* arena = root.load(std::memory_order_acquire)) return *arena;
  const std::lock_guard lock(making);
  if (!root) {
    auto* arena = new Arena(device);
    arena->retain();
    // The simulator keeps nothing: a sanitizer sees what touches freed memory.
    arena->set_cache_limit(device.is_cpu()                   ? default_cache_limit()
                           : device.type == DeviceType::cuda ? unlimited
                                                             : 0);
    // The holder of the lock at a fork does not exist in the child.
    if (device.is_cpu()) pthread_atfork(nullptr, nullptr, [] { root_arena().lock_.clear(); });
    root = arena;
  }
  return *root;
}

}  // namespace lamina
