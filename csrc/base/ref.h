// Ref<T>: a pointer that counts. T derives from RefCounted, which holds the count inside the object.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace lamina {

class RefCounted {
 public:
  RefCounted() = default;
  RefCounted(const RefCounted&) = delete;
  RefCounted& operator=(const RefCounted&) = delete;
  virtual ~RefCounted() = default;

  void retain() const { count_.fetch_add(1, std::memory_order_relaxed); }
  void release() const {
    if (count_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
  bool is_unique() const { return count_.load(std::memory_order_acquire) == 1; }

 private:
  mutable std::atomic<int64_t> count_{0};
};

template <class T>
class Ref {
 public:
  Ref() = default;
  explicit Ref(T* object) : object_(object) {
    if (object_) object_->retain();
  }
  Ref(const Ref& other) : Ref(other.object_) {}
  template <class Derived>
    requires std::is_convertible_v<Derived*, T*>
  Ref(const Ref<Derived>& other) : Ref(other.get()) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  ~Ref() {
    if (object_) object_->release();
  }

  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  T* object_ = nullptr;
};

template <class T, class... Args>
Ref<T> make_ref(Args&&... args) {
  return Ref<T>(new T(std::forward<Args>(args)...));
}

// Pooled<T>: base of small classes that are made and dropped with every op. Freed objects wait in a list of the
// thread that freed them, which costs a few nanoseconds where malloc and its consolidation cost a hundred.
template <class T>
class Pooled {
 public:
  static void* operator new(size_t size) {
    std::vector<void*>& free = list().blocks;
    if (free.empty()) return ::operator new(size);
    void* block = free.back();
    free.pop_back();
    return block;
  }
  static void operator delete(void* block) {
    List& free = list();
    if (free.blocks.size() < limit && !free.is_closed)
      free.blocks.push_back(block);
    else
      ::operator delete(block);
  }

 private:
  static constexpr size_t limit = 4096;
  struct List {
    std::vector<void*> blocks;
    bool is_closed = false;  // the thread is ending; objects may still be dropped by its other thread-locals
    ~List() {
      is_closed = true;
      for (void* block : blocks) ::operator delete(block);
      blocks.clear();
    }
  };
  static List& list() {
    thread_local List free;
    return free;
  }
};

}  // namespace lamina
