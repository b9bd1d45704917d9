// What softmax and cross_entropy share: maxima and sums of exponentials along a row or over a tile of
// columns.
#pragma once

#include "base/integer.h"
#include "simd/lanes.h"
#include "simd/math.h"

namespace lamina::LAMINA_ISA {

constexpr int64_t chunk_elements = 8192;  // per task, so that small problems stay on one thread
constexpr int64_t row_block = 2048;       // elements per step of the online form: 8 KB of float, in L1
constexpr int64_t column_tile = 64;       // neighbouring columns at once: 4 cache lines of each row
constexpr int64_t column_block = 64;      // rows per step of the online form over a tile: 16 KB of float

template <class S>
inline constexpr S infinity = S(__builtin_inff());

LAMINA_INLINE int64_t rows_per_chunk(int64_t C) { return C < chunk_elements ? chunk_elements / C : 1; }

// What is subtracted before exp: the maximum, but 0 in a row of -inf, whose exponentials then are 0, not NaN.
template <class S>
LAMINA_INLINE S shift_of(S max) {
  return max == -infinity<S> ? S(0) : max;
}
template <class S>
LAMINA_INLINE Vec<S> shift_of(Vec<S> max) {
  return select(eq(max, Vec<S>::set1(-infinity<S>)), Vec<S>::zero(), max);
}

template <class S>
LAMINA_INLINE S first_lane(Vec<S> v) {
  S lanes[Vec<S>::N];
  v.store(lanes);
  return lanes[0];
}
template <class S>
LAMINA_INLINE S exp_of(S x) {
  return first_lane(exp(Vec<S>::set1(x)));
}
template <class S>
LAMINA_INLINE S log_of(S x) {
  return first_lane(log(Vec<S>::set1(x)));
}

// The largest of n elements, -inf for none. A NaN may be lost here: exp(NaN - max) brings it back into the
// sum.
template <class T>
LAMINA_INLINE Compute<T> row_max(const T* x, int64_t n) {
  using V = VecOf<T>;
  const V low = V::set1(-infinity<Compute<T>>);
  return reduce_max(accumulate(
      n, low, [&](V m, int64_t i, auto lanes) { return max_fast(lanes.keep(lanes.load(x + i), low), m); },
      [](V a, V b) { return max_fast(a, b); }));
}

template <class V, class F>
LAMINA_INLINE auto row_sum(int64_t n, const F& f) {
  return reduce_add(accumulate(
      n, V::zero(), [&](V sum, int64_t i, auto lanes) { return sum + lanes.keep(f(i, lanes), V::zero()); },
      [](V a, V b) { return a + b; }));
}

// sum_c exp(x[c]) = sum * exp(shift).
template <class S>
struct ExpSum {
  S shift, sum;
};

// One pass over memory: each block is read twice, the second time from L1.
template <class T>
LAMINA_INLINE ExpSum<Compute<T>> row_exp_sum(const T* x, int64_t C) {
  using V = VecOf<T>;
  using S = Compute<T>;
  S max = -infinity<S>, sum = 0;
  for (int64_t begin = 0; begin < C; begin += row_block) {
    const T* block = x + begin;
    const int64_t n = smaller(row_block, C - begin);
    const S block_max = row_max(block, n);
    if (block_max > max) {
      if (begin > 0) sum *= exp_of(max - block_max);
      max = block_max;
    }
    const V shift = V::set1(shift_of(max));
    sum += row_sum<V>(n, [&](int64_t i, auto lanes) { return exp(lanes.load(block + i) - shift); });
  }
  return {shift_of(max), sum};
}

// The same for n <= column_tile neighbouring columns of C elements, `stride` apart.
template <class T>
LAMINA_INLINE void column_exp_sums(const T* x, int64_t C, int64_t stride, int64_t n, Compute<T>* shift,
                                   Compute<T>* sum) {
  using V = VecOf<T>;
  using S = Compute<T>;
  S max[column_tile];
  for (int64_t i = 0; i < n; ++i) max[i] = shift[i] = -infinity<S>, sum[i] = 0;
  for (int64_t begin = 0; begin < C; begin += column_block) {
    const int64_t end = smaller(begin + column_block, C);
    for (int64_t c = begin; c < end; ++c)
      for_vectors<V>(n, [&](int64_t i, auto lanes) {
        lanes.store(max + i, max_fast(lanes.load(x + c * stride + i), lanes.load(max + i)));
      });
    for_vectors<V>(n, [&](int64_t i, auto lanes) {
      const V now = shift_of(lanes.load(max + i));
      if (begin > 0) lanes.store(sum + i, lanes.load(sum + i) * exp(lanes.load(shift + i) - now));
      lanes.store(shift + i, now);
    });
    for (int64_t c = begin; c < end; ++c)
      for_vectors<V>(n, [&](int64_t i, auto lanes) {
        lanes.store(sum + i,
                    lanes.load(sum + i) + exp(lanes.load(x + c * stride + i) - lanes.load(shift + i)));
      });
  }
}

}  // namespace lamina::LAMINA_ISA
