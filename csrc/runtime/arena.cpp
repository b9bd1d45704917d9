#include "runtime/arena.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cstdlib>
#include <new>
#include <thread>

namespace lamina {
namespace {

constexpr int64_t huge_page = int64_t(2) << 20;
// Half of the machine's memory may lie idle in the cache.
int64_t default_cache_limit() { return int64_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE) / 2; }

thread_local Arena* thread_arena = nullptr;

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

void* Arena::from_parent(int64_t bytes) {
  if (parent_) return parent_->allocate(bytes);
  void* block = std::aligned_alloc(size_t(bytes >= huge_page ? huge_page : alignment), size_t(bytes));
  if (block && bytes >= huge_page) madvise(block, size_t(bytes), MADV_HUGEPAGE);
  return block;
}

void Arena::to_parent(void* block, int64_t bytes) {
  if (parent_) return parent_->free(block, bytes);
  std::free(block);
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
    throw std::bad_alloc();
  }
  return block;
}

void Arena::free(void* block, int64_t bytes) {
  const int size_class = class_of(bytes);
  const int64_t granted = class_bytes(size_class);
  {
    Lock lock(*this);
    stats_.bytes_in_use -= granted;
    if (parent_ || stats_.bytes_cached + granted <= cache_limit_) {
      free_[size_t(size_class)].push_back(block);
      stats_.bytes_cached += granted;
      return;
    }
  }
  to_parent(block, granted);
}

void Arena::drop_cache_locked() {
  for (int c = 0; c < class_count; ++c) {
    for (void* block : free_[size_t(c)]) to_parent(block, class_bytes(c));
    free_[size_t(c)].clear();
  }
  stats_.bytes_cached = 0;
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

Arena& root_arena() {
  // Never destroyed: arrays may outlive static destruction.
  static Arena* arena = [] {
    auto* root = new Arena();
    root->retain();
    root->set_cache_limit(default_cache_limit());
    // The holder of the lock at a fork does not exist in the child.
    pthread_atfork(nullptr, nullptr, [] { root_arena().lock_.clear(); });
    return root;
  }();
  return *arena;
}

Arena& current_arena() { return thread_arena ? *thread_arena : root_arena(); }
void set_current_arena(Arena* arena) { thread_arena = arena; }

}  // namespace lamina
