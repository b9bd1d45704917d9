#include "kernels/layout/index.h"

#include "base/integer.h"
#include "base/parallel.h"
#include "simd/stream.h"
#include "simd/vec.h"

namespace lamina::LAMINA_ISA {
namespace {

constexpr int64_t chunk_bytes = 64 << 10;
constexpr int64_t rows_ahead = 4;  // that are on their way from memory while one is copied

// Calls f(pointer to the indices) with their own type.
template <class F>
LAMINA_INLINE void with_index(const View& index, const F& f) {
  if (index.dtype == Dtype::int32)
    f(index.as<const int32_t>());
  else
    f(index.as<const int64_t>());
}

LAMINA_INLINE int64_t clamp(int64_t i, int64_t n) { return i < 0 ? 0 : i < n ? i : n - 1; }

// --- select -----------------------------------------------------------------------------------------------------

// The first lines of a row that lies anywhere: the processor's own prefetch finds the others.
LAMINA_INLINE void prefetch(const char* row, int64_t bytes) {
  for (int64_t at = 0; at < smaller(bytes, 1024); at += 64) __builtin_prefetch(row + at);
}

void select_rows(const SelectArgs& a) {
  const int64_t O = a.x.shape[0], N = a.x.shape[1], M = a.y.shape[1];
  const int64_t bytes = a.x.shape[2] * size_of(a.x.dtype);
  if (a.y.size() == 0) return;
  const char* x = a.x.as<const char>();
  char* y = a.y.as<char>();
  with_index(a.index, [&](auto index) {
    parallel_ranges(O * M, larger(1, chunk_bytes / bytes), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end;) {
        const int64_t o = row / M, stop = smaller(end, (o + 1) * M);
        const auto source = [&](int64_t at) { return x + (o * N + clamp(index[at - o * M], N)) * bytes; };
        for (; row < stop; ++row) {
          if (row + rows_ahead < stop) prefetch(source(row + rows_ahead), bytes);
          __builtin_memcpy(y + row * bytes, source(row), size_t(bytes));
        }
      }
    });
  });
}

template <class E>
void select_elements(const SelectArgs& a) {
  const int64_t N = a.x.shape[1], M = a.y.shape[1];
  const E* x = a.x.as<const E>();
  E* y = a.y.as<E>();
  with_index(a.index, [&](auto index) {
    parallel_ranges(a.y.size(), chunk_bytes / 8, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end;) {
        const int64_t o = at / M, stop = smaller(end, (o + 1) * M);
        for (; at < stop; ++at) y[at] = x[o * N + clamp(index[at - o * M], N)];
      }
    });
  });
}

void select(const SelectArgs& a) {
  if (a.x.shape[2] != 1) return select_rows(a);
  dispatch_element(a.x.dtype, [&](auto t) { select_elements<typename decltype(t)::type>(a); });
}

// Sum of the rows dy[list[0]], dy[list[1]], … of I elements, in registers, a few vectors at a time.
template <class T>
LAMINA_INLINE void sum_rows(const T* dy, const int64_t* list, int64_t count, T* dx, int64_t I) {
  using V = VecOf<T>;
  constexpr int width = 4;  // vectors, so that each row is read a cache line or more at a time
  int64_t i = 0;
  for (; i + width * V::N <= I; i += width * V::N) {
    V sum[width];
    for (int v = 0; v < width; ++v) sum[v] = V::zero();
    for (int64_t k = 0; k < count; ++k)
      for (int v = 0; v < width; ++v) sum[v] = sum[v] + V::load(dy + list[k] * I + i + v * V::N);
    for (int v = 0; v < width; ++v) sum[v].store(dx + i + v * V::N);
  }
  for (; i < I; i += V::N) {
    const int n = int(smaller(V::N, I - i));
    V sum = V::zero();
    for (int64_t k = 0; k < count; ++k) sum = sum + V::load(dy + list[k] * I + i, n);
    sum.store(dx + i, n);
  }
}

template <class T>
void select_backward_typed(const SelectBackwardArgs& a) {
  const int64_t O = a.dx.shape[0], N = a.dx.shape[1], I = a.dx.shape[2], M = a.dy.shape[1];
  if (a.dx.size() == 0) return;
  // Counting sort: the j of row n are list[start[n]] … list[start[n + 1] - 1], in ascending order; a skipped n has
  // none.
  int64_t* start = static_cast<int64_t*>(a.workspace);
  int64_t* list = start + N + 1;
  __builtin_memset(start, 0, size_t(N + 1) * sizeof(int64_t));
  with_index(a.index, [&](auto index) {
    const auto for_entries = [&](const auto& body) {
      for (int64_t j = 0; j < M; ++j)
        if (const int64_t n = clamp(index[j], N); n != a.skipped) body(n, j);
    };
    for_entries([&](int64_t n, int64_t) { ++start[n + 1]; });
    for (int64_t n = 0; n < N; ++n) start[n + 1] += start[n];
    for_entries([&](int64_t n, int64_t j) { list[start[n]++] = j; });
    for (int64_t n = N; n > 0; --n) start[n] = start[n - 1];  // filling moved each start to the next
    start[0] = 0;
  });
  const T* dy = a.dy.as<const T>();
  T* dx = a.dx.as<T>();
  const bool is_large = a.dx.size() * int64_t(sizeof(T)) > streamed_bytes;
  const auto zero = [&](T* rows, int64_t bytes) {
    is_large ? stream_zeros(reinterpret_cast<char*>(rows), bytes)
             : void(__builtin_memset(rows, 0, size_t(bytes)));
  };
  parallel_ranges(O * N, larger(1, chunk_bytes / (I * int64_t(sizeof(T)))), [&](int64_t begin, int64_t end) {
    const auto count = [&](int64_t row) { return start[row % N + 1] - start[row % N]; };
    for (int64_t row = begin; row < end; ++row) {
      const int64_t first = row;
      while (row < end && count(row) == 0) ++row;
      zero(dx + first * I, (row - first) * I * int64_t(sizeof(T)));
      if (row == end) break;
      sum_rows(dy + row / N * M * I, list + start[row % N], count(row), dx + row * I, I);
    }
  });
}

void select_backward(const SelectBackwardArgs& a) {
  dispatch_float(a.dx.dtype, [&](auto t) { select_backward_typed<typename decltype(t)::type>(a); });
}

// --- gather -----------------------------------------------------------------------------------------------------

// Runs body(at, offset) for the rows (last axis) of `index` whose number lies in [begin, end): `at` is the
// row's first element in `index`, `offset` the place of that row in x with coordinate 0 along `axis`.
template <class F>
LAMINA_INLINE void for_rows(const View& index, const View& x, int axis, int64_t begin, int64_t end,
                            const F& body) {
  const int last = index.ndim - 1;
  for (int64_t row = begin; row < end; ++row) {
    int64_t offset = 0, rest = row;
    for (int d = last - 1; d >= 0; --d) {
      if (d != axis) offset += rest % index.shape[d] * x.strides[d];
      rest /= index.shape[d];
    }
    body(row * index.shape[last], offset);
  }
}

template <class E>
void gather_typed(const GatherArgs& a) {
  const int last = a.index.ndim - 1;
  const int64_t N = a.x.shape[a.axis], L = a.index.shape[last], stride = a.x.strides[a.axis];
  const int64_t step = a.axis == last ? 0 : a.x.strides[last];
  const E* x = a.x.as<const E>();
  E* y = a.y.as<E>();
  with_index(a.index, [&](auto index) {
    parallel_ranges(a.index.size() / L, larger(1, chunk_bytes / 8 / L), [&](int64_t begin, int64_t end) {
      for_rows(a.index, a.x, a.axis, begin, end, [&](int64_t at, int64_t offset) {
        if (stride == 1 && step == 0) {
          for (int64_t k = 0; k < L; ++k) y[at + k] = x[offset + clamp(index[at + k], N)];
        } else {
          for (int64_t k = 0; k < L; ++k) y[at + k] = x[offset + clamp(index[at + k], N) * stride + k * step];
        }
      });
    });
  });
}

void gather(const GatherArgs& a) {
  if (a.index.size() == 0) return;
  dispatch_element(a.x.dtype, [&](auto t) { gather_typed<typename decltype(t)::type>(a); });
}

// Elements that differ before the axis never meet: each range of leading coordinates is summed by one thread.
template <class T>
void gather_backward_typed(const GatherBackwardArgs& a) {
  using C = Compute<T>;
  const int last = a.index.ndim - 1;
  const int64_t size = a.dx.size(), N = a.dx.shape[a.axis], stride = a.dx.strides[a.axis];
  const int64_t step = a.axis == last ? 0 : a.dx.strides[last];
  C* sum = sizeof(C) == sizeof(T) ? a.dx.as<C>() : static_cast<C*>(a.workspace);
  __builtin_memset(sum, 0, size_t(size) * sizeof(C));
  if (a.index.size() > 0) {
    const T* dy = a.dy.as<const T>();
    const int64_t L = a.index.shape[last];
    int64_t leading = 1;
    for (int d = 0; d < a.axis; ++d) leading *= a.index.shape[d];
    const int64_t elements = a.index.size() / leading;
    with_index(a.index, [&](auto index) {
      parallel_ranges(leading, larger(1, chunk_bytes / 8 / elements), [&](int64_t begin, int64_t end) {
        const int64_t rows = elements / L;
        for_rows(a.index, a.dx, a.axis, begin * rows, end * rows, [&](int64_t at, int64_t offset) {
          for (int64_t k = 0; k < L; ++k)
            sum[offset + clamp(index[at + k], N) * stride + k * step] += widen(dy[at + k]);
        });
      });
    });
  }
  if constexpr (sizeof(C) != sizeof(T)) {
    T* dx = a.dx.as<T>();
    for (int64_t i = 0; i < size; ++i) dx[i] = narrow<T>(sum[i]);
  }
}

void gather_backward(const GatherBackwardArgs& a) {
  if (a.dx.size() == 0) return;
  dispatch_float(a.dx.dtype, [&](auto t) { gather_backward_typed<typename decltype(t)::type>(a); });
}

// --- one_hot ----------------------------------------------------------------------------------------------------

void one_hot(const OneHotArgs& a) {
  const int64_t M = a.y.shape[0], N = a.y.shape[1];
  if (M * N == 0) return;
  dispatch_any(a.y.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    T* y = a.y.as<T>();
    with_index(a.index, [&](auto index) {
      parallel_ranges(M, larger(1, chunk_bytes / (N * int64_t(sizeof(T)))), [&](int64_t begin, int64_t end) {
        __builtin_memset(y + begin * N, 0, size_t((end - begin) * N) * sizeof(T));
        for (int64_t j = begin; j < end; ++j) y[j * N + clamp(index[j], N)] = narrow<T>(Compute<T>(1));
      });
    });
  });
}

}  // namespace

const IndexKernels index_kernels = {select, select_backward, gather, gather_backward, one_hot};

}  // namespace lamina::LAMINA_ISA
