// Broken kernels, to measure what the simulated device notices.
//
// Each kernel takes the number of a mutant, 0 for the kernel itself, and is right for 0 only. A mutant's table says
// where it is expected to be noticed: in a plain run under one of the configurations (wrong result, guard bytes, or an
// error of the engine), by AddressSanitizer or ThreadSanitizer alone, or nowhere on a CPU, with the reason.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/launch.h"
#include "base/tensor_layout.h"
#include "prim/prim.cuh"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace lamina::LAMINA_DEVICE {

enum class Seen { plain, asan, tsan, nowhere };

struct Mutant {
  const char* what;
  Seen seen = Seen::plain;
};

struct MutatedKernel {
  const char* name;
  std::string (*run)(int mutant);  // what went wrong; empty: nothing
  std::vector<Mutant> mutants;     // number 1, 2, …
};

// The number of a mutant as kernels take it. On a GPU there are only the kernels themselves, and no branches.
#if defined(LAMINA_SIM)
using Number = int;
#else
struct Number {
  Number(int) {}
  LAMINA_HD constexpr operator int() const { return 0; }
};
#endif

extern const MutatedKernel reduction, sgemm, mma_gemm, wgmma_gemm, cluster_sum, multicast, grid_barrier;

// n elements between guards of 256 bytes of 0xff, which read as NaN and may not be written.
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t n)
      : n_(n), bytes_(size_t(n) * sizeof(T)), memory_(bytes_ + 2 * guard + 256, char(0xff)) {
    begin_ = memory_.data() + guard;
    begin_ += (256 - reinterpret_cast<uintptr_t>(begin_) % 256) % 256;
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(memory_.data(), size_t(begin_ - memory_.data()));
    __asan_poison_memory_region(end(), size_t(memory_.data() + memory_.size() - end()));
#endif
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { unpoison(); }

  T* data() { return reinterpret_cast<T*>(begin_); }
  T& operator[](int64_t i) { return data()[i]; }
  int64_t size() const { return n_; }
  bool is_intact() {
    unpoison();
    for (const char* p = memory_.data(); p < memory_.data() + memory_.size(); ++p)
      if ((p < begin_ || p >= end()) && *p != char(0xff)) return false;
    return true;
  }
  // Small integers, of which all sums that occur here are exact in float32.
  void fill_with_integers(uint32_t seed) {
    for (int64_t i = 0; i < n_; ++i) {
      seed = seed * 1664525u + 1013904223u;
      data()[i] = narrow<T>(float(int(seed >> 24) % 7 + 1));
    }
  }

 private:
  static constexpr size_t guard = 256;
  char* end() { return begin_ + bytes_; }
  void unpoison() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(memory_.data(), memory_.size());
#endif
  }

  int64_t n_;
  size_t bytes_;
  std::vector<char> memory_;
  char* begin_;
};

// Compares c (M, N) with a (M, K) b (K, N), given b's strides.
template <class T>
std::string compare_product(Guarded<float>& c, Guarded<T>& a, Guarded<T>& b, int M, int N, int K,
                            int stride_k, int stride_n) {
  if (!c.is_intact() || !a.is_intact() || !b.is_intact()) return "wrote outside of an array";
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n) {
      float sum = 0;
      for (int k = 0; k < K; ++k) sum += widen(a[m * K + k]) * widen(b[k * stride_k + n * stride_n]);
      if (!(c[m * N + n] == sum))
        return cat("element (", m, ", ", n, ") is ", c[m * N + n], ", expected ", sum);
    }
  return "";
}

}  // namespace lamina::LAMINA_DEVICE
