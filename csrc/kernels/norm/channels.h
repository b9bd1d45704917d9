// What the CPU kernels of batch_norm.h and layer_norm.h share: moments, sums and affine maps of runs (planes of a
// channel, or a row) and of columns (rows of channels), and vectors of parameters.
#pragma once

#include <type_traits>

#include "base/integer.h"
#include "base/view.h"
#include "simd/lanes.h"

namespace lamina::LAMINA_ISA {

// --- parameters, whose dtype need not be that of x ---------------------------------------------------------------

inline double parameter(const View& v, int64_t c) {
  double value = 0;
  dispatch_float(v.dtype,
                 [&](auto t) { value = widen(v.as<typename decltype(t)::type>()[c * v.strides[0]]); });
  return value;
}
inline void set_parameter(const View& v, int64_t c, double value) {
  dispatch_float(v.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    v.as<T>()[c * v.strides[0]] = narrow<T>(Compute<T>(value));
  });
}

// n dense parameters in the type S: where they lie, or a copy in `buffer`; `absent` where there are none.
template <class S>
const S* parameters(const View& v, S absent, int64_t n, S* buffer) {
  if (v && v.dtype == dtype_of<S>) return v.as<S>();
  for_vectors<Vec<S>>(n, [&](int64_t i, auto lanes) {
    Vec<S> value = Vec<S>::set1(absent);
    if constexpr (std::is_same_v<S, float>)
      if (v) value = lanes.load(v.as<bf16>() + i);
    lanes.store(buffer + i, value);
  });
  return buffer;
}

// --- memory ------------------------------------------------------------------------------------------------------

// Asks for n elements from p on. Loops over several rows at once are more streams than the hardware follows; they ask
// for the next rows themselves, in step: group_norm of channels-last bfloat16 images takes two thirds of the time.
template <class T>
LAMINA_INLINE void prefetch(const T* p, int64_t n) {
  for (int64_t at = 0; at < n * int64_t(sizeof(T)); at += 64)
    __builtin_prefetch(reinterpret_cast<const char*>(p) + at);
}

// Asks for the line to which a loop over memory in order comes 2 KB later: a tenth faster where y is in no cache.
template <class T>
LAMINA_INLINE void prefetch_output(T* p) {
  __builtin_prefetch(reinterpret_cast<char*>(p) + 2048, 1);
}

// --- runs --------------------------------------------------------------------------------------------------------

// `count` runs of `length` neighbouring elements, `stride` apart, the first from element `begin`.
struct Runs {
  int64_t begin, count, stride, length;
  LAMINA_INLINE int64_t size() const { return count * length; }
};

// Calls body(piece) for the pieces of about 4096 elements (16 KB of float32) that make up `all`.
template <class Body>
LAMINA_INLINE void for_pieces(const Runs& all, const Body& body) {
  constexpr int64_t size = 4096;
  const int64_t group = all.count == 1 ? 1 : larger(1, size / larger(1, all.length));
  for (int64_t n = 0; n < all.count; n += group)
    for (int64_t i = 0; i < all.length; i += size)
      body(Runs{all.begin + n * all.stride + i, smaller(group, all.count - n), all.stride,
                smaller(size, all.length - i)});
}

// Sum of term(element, lanes) over a piece. Four accumulators: add takes 3 to 4 cycles, two start per cycle.
template <class V, class Term>
LAMINA_INLINE auto sum_piece(const Runs& piece, const Term& term) {
  V sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  for (int64_t at = piece.begin, run = 0; run < piece.count; ++run, at += piece.stride) {
    int64_t i = 0;
    for (; i + 4 * V::N <= piece.length; i += 4 * V::N)
      for (int k = 0; k < 4; ++k) sums[k] = sums[k] + term(at + i + k * V::N, AllLanes<V>{});
    for (; i + V::N <= piece.length; i += V::N) sums[0] = sums[0] + term(at + i, AllLanes<V>{});
    if (i < piece.length) sums[1] = sums[1] + term(at + i, FirstLanes<V>{int(piece.length - i)});
  }
  return reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Of count values: their mean, and the sum of squares about it.
struct Moments {
  double count = 0, mean = 0, squares = 0;

  LAMINA_INLINE void merge(const Moments& other) {
    if (count == 0) {
      *this = other;
      return;
    }
    const double total = count + other.count, delta = other.mean - mean;
    mean += delta * (other.count / total);
    squares += other.squares + delta * delta * (count * other.count / total);
    count = total;
  }
  double rstd(double eps) const { return 1 / __builtin_sqrt((count > 0 ? squares / count : 0) + eps); }
};

template <class T>
LAMINA_INLINE Moments moments_of(const T* x, const Runs& all) {
  using S = Compute<T>;
  using V = Vec<S>;
  Moments moments;
  for_pieces(all, [&](const Runs& piece) {
    const S first = widen(x[piece.begin]);
    const auto sum_about = [&](S centre, const auto& term) {
      return sum_piece<V>(piece, [&](int64_t i, auto lanes) {
        return lanes.keep(term(lanes.load(x + i) - V::set1(centre)), V::zero());
      });
    };
    const S mean = first + sum_about(first, [](V d) { return d; }) / S(piece.size());
    const S squares = sum_about(mean, [](V d) { return d * d; });
    moments.merge({double(piece.size()), double(mean), double(squares)});
  });
  return moments;
}

// sum dy, and sum dy * (x - mean).
struct Sums {
  double sum = 0, dot = 0;
};
template <class T, class S = Compute<T>>
LAMINA_INLINE Sums sums_of(const T* dy, const T* x, S mean, const Runs& all) {
  using V = Vec<S>;
  Sums sums;
  for_pieces(all, [&](const Runs& piece) {
    sums.sum += double(sum_piece<V>(piece, [&](int64_t i, auto lanes) { return lanes.load(dy + i); }));
    sums.dot += double(sum_piece<V>(piece, [&](int64_t i, auto lanes) {
      return lanes.load(dy + i) * (lanes.load(x + i) - V::set1(mean));
    }));
  });
  return sums;
}

// y = (x - mean) * scale + bias over n elements.
template <class T, class S = Compute<T>>
LAMINA_INLINE void normalise_run(const T* x, T* y, int64_t n, S mean, S scale, S bias) {
  using V = Vec<S>;
  const V centre = V::set1(mean), factor = V::set1(scale), shift = V::set1(bias);
  for_vectors<V>(n, [&](int64_t i, auto lanes) {
    prefetch_output(y + i);
    lanes.store(y + i, fma(lanes.load(x + i) - centre, factor, shift));
  });
}

// --- columns: C of them, of dense rows ---------------------------------------------------------------------------

constexpr int64_t column_group = 64;  // columns whose partial results one thread adds up

// Merges K rows into the moments of the `before` rows above them, for all columns. The K rows' own moments are taken
// in registers, in two chains of additions; all means are differences from the row `origin`, which keeps them near 0.
template <int K, class T, class S = Compute<T>>
LAMINA_INLINE void merge_rows(const T* x, const T* origin, int64_t C, int64_t before, S* means, S* squares) {
  using V = Vec<S>;
  const V share = V::set1(S(K) / S(before + K)), weight = V::set1(S(before) * S(K) / S(before + K));
  for_vectors<V>(C, [&](int64_t c, auto lanes) {
    prefetch(x + K * (C + c), K * V::N);
    const V start = lanes.load(origin + c);
    V rows[K], sums[2] = {V::zero(), V::zero()}, own[2] = {V::zero(), V::zero()};
    for (int k = 0; k < K; ++k) {
      rows[k] = lanes.load(x + k * C + c) - start;
      sums[k % 2] = sums[k % 2] + rows[k];
    }
    const V mean = (sums[0] + sums[1]) * V::set1(S(1) / S(K));
    for (int k = 0; k < K; ++k) own[k % 2] = fma(rows[k] - mean, rows[k] - mean, own[k % 2]);
    const V old = lanes.load(means + c), delta = mean - old;
    lanes.store(means + c, fma(delta, share, old));
    lanes.store(squares + c, lanes.load(squares + c) + fma(delta * delta, weight, own[0] + own[1]));
  });
}

// The moments of each column over the rows: its mean less its first element, and the sum of squares about it.
template <class T, class S = Compute<T>>
LAMINA_INLINE void column_moments(const T* x, int64_t rows, int64_t C, S* means, S* squares) {
  for (int64_t c = 0; c < C; ++c) means[c] = squares[c] = S(0);
  int64_t i = 0;  // 8 rows fit in registers beside their moments
  for (; i + 8 <= rows; i += 8) merge_rows<8>(x + i * C, x, C, i, means, squares);
  for (; i < rows; ++i) merge_rows<1>(x + i * C, x, C, i, means, squares);
}

// sums[c] += dy and dots[c] += dy * (x - mean[c]) over K rows.
template <int K, class T, class S = Compute<T>>
LAMINA_INLINE void add_rows(const T* dy, const T* x, const S* mean, int64_t C, S* sums, S* dots) {
  using V = Vec<S>;
  for_vectors<V>(C, [&](int64_t c, auto lanes) {
    prefetch(dy + K * (C + c), K * V::N);
    prefetch(x + K * (C + c), K * V::N);
    const V centre = lanes.load(mean + c);
    V sum = V::zero(), dot = V::zero();
    for (int k = 0; k < K; ++k) {
      const V d = lanes.load(dy + k * C + c);
      sum = sum + d;
      dot = fma(d, lanes.load(x + k * C + c) - centre, dot);
    }
    lanes.store(sums + c, lanes.load(sums + c) + sum);
    lanes.store(dots + c, lanes.load(dots + c) + dot);
  });
}

template <class T, class S = Compute<T>>
LAMINA_INLINE void column_sums(const T* dy, const T* x, int64_t rows, int64_t C, const S* mean, S* sums,
                               S* dots) {
  for (int64_t c = 0; c < C; ++c) sums[c] = dots[c] = S(0);
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) add_rows<4>(dy + i * C, x + i * C, mean, C, sums, dots);
  for (; i < rows; ++i) add_rows<1>(dy + i * C, x + i * C, mean, C, sums, dots);
}

// As normalise_run, with coefficients for each column.
template <class T, class S = Compute<T>>
LAMINA_INLINE void normalise_rows(const T* x, T* y, int64_t rows, int64_t C, const S* mean, const S* scale,
                                  const S* bias) {
  for (int64_t i = 0; i < rows; ++i, x += C, y += C)
    for_vectors<Vec<S>>(C, [&](int64_t c, auto lanes) {
      prefetch_output(y + c);
      const auto d = lanes.load(x + c) - lanes.load(mean + c);
      lanes.store(y + c, fma(d, lanes.load(scale + c), lanes.load(bias + c)));
    });
}

}  // namespace lamina::LAMINA_ISA
