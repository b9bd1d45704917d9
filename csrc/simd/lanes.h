// Loops over vectors: the body is written once and compiled for full vectors and for the shorter last one.
//
//   for_vectors<V>(n, [&](int64_t i, auto lanes) { lanes.store(y + i, exp(lanes.load(x + i))); });
#pragma once

#include "simd/vec.h"

namespace lamina::LAMINA_ISA {

template <class V>
struct AllLanes {
  template <class T>
  LAMINA_INLINE static V load(const T* p) {
    return V::load(p);
  }
  template <class T>
  LAMINA_INLINE static void store(T* p, V v) {
    v.store(p);
  }
  LAMINA_INLINE static V keep(V v, V) { return v; }  // v in the lanes that count, the second elsewhere
};

template <class V>
struct FirstLanes {
  int n;
  template <class T>
  LAMINA_INLINE V load(const T* p) const {
    return V::load(p, n);
  }
  template <class T>
  LAMINA_INLINE void store(T* p, V v) const {
    v.store(p, n);
  }
  LAMINA_INLINE V keep(V v, V rest) const { return select(V::first(n), v, rest); }
};

// Calls f(i, lanes) for i = 0, N, 2N ... below n.
template <class V, class F>
LAMINA_INLINE void for_vectors(int64_t n, const F& f) {
  int64_t i = 0;
  for (; i + V::N <= n; i += V::N) f(i, AllLanes<V>{});
  if (i < n) f(i, FirstLanes<V>{int(n - i)});
}

// acc = f(acc, i, lanes) over the vectors of [0, n), in four interleaved chains that start at `start` and are
// joined by `join`: four in flight hide the latency of one, and the order depends on n alone.
template <class V, class F, class J>
LAMINA_INLINE V accumulate(int64_t n, V start, const F& f, const J& join) {
  constexpr int N = V::N;
  V a = start, b = start, c = start, d = start;
  int64_t i = 0;
  for (; i + 4 * N <= n; i += 4 * N) {
    a = f(a, i, AllLanes<V>{});
    b = f(b, i + N, AllLanes<V>{});
    c = f(c, i + 2 * N, AllLanes<V>{});
    d = f(d, i + 3 * N, AllLanes<V>{});
  }
  for (; i + N <= n; i += N) a = f(a, i, AllLanes<V>{});
  if (i < n) b = f(b, i, FirstLanes<V>{int(n - i)});
  return join(join(a, b), join(c, d));
}

}  // namespace lamina::LAMINA_ISA
