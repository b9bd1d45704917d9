#include "base/scratch.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace lamina {
namespace {

constexpr int64_t huge_page = int64_t(2) << 20;

struct Buffer {
  void* data = nullptr;
  int64_t capacity = 0;
  ~Buffer() { std::free(data); }
};

}  // namespace

void* scratch_bytes(Scratch slot, int64_t bytes) {
  thread_local Buffer buffers[static_cast<int>(Scratch::count)];
  Buffer& buffer = buffers[static_cast<int>(slot)];
  if (bytes > buffer.capacity) {
    // Grow by half at least, so that a sweep over sizes does not allocate at each of them.
    int64_t capacity = bytes > buffer.capacity * 3 / 2 ? bytes : buffer.capacity * 3 / 2;
    const int64_t alignment = capacity >= huge_page ? huge_page : 64;
    capacity = (capacity + alignment - 1) / alignment * alignment;
    std::free(buffer.data);
    buffer = {};
    buffer.data = std::aligned_alloc(size_t(alignment), size_t(capacity));
    if (!buffer.data) throw std::bad_alloc();
    buffer.capacity = capacity;
    if (alignment == huge_page) madvise(buffer.data, size_t(capacity), MADV_HUGEPAGE);
  }
  return buffer.data;
}

}  // namespace lamina
