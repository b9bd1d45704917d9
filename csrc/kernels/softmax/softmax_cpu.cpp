#include "kernels/softmax/softmax.h"

#include "base/parallel.h"
#include "base/scratch.h"
#include "kernels/softmax/rows.h"

namespace lamina::LAMINA_ISA {
namespace {

// A row or tile of exponentials is kept in L2 up to this size (half of a 512 KB L2, beside its source).
constexpr int64_t kept_bytes = 256 << 10;

template <class T>
[[gnu::flatten]] void softmax_rows(const T* x, T* y, int64_t rows, int64_t C) {
  using V = VecOf<T>;
  using S = Compute<T>;
  const bool is_kept = C * int64_t(sizeof(S)) <= kept_bytes;
  S* kept = is_kept ? scratch<S>(Scratch::row, C) : nullptr;
  for (const T* end = x + rows * C; x < end; x += C, y += C) {
    if (is_kept) {
      const V shift = V::set1(shift_of(row_max(x, C)));
      const S sum = row_sum<V>(C, [&](int64_t i, auto lanes) {
        const V e = exp(lanes.load(x + i) - shift);
        lanes.store(kept + i, e);
        return e;
      });
      const V scale = V::set1(1 / sum);
      for_vectors<V>(C, [&](int64_t i, auto lanes) { lanes.store(y + i, lanes.load(kept + i) * scale); });
    } else {
      const ExpSum<S> row = row_exp_sum(x, C);
      const V shift = V::set1(row.shift), scale = V::set1(1 / row.sum);
      for_vectors<V>(
          C, [&](int64_t i, auto lanes) { lanes.store(y + i, exp(lanes.load(x + i) - shift) * scale); });
    }
  }
}

// Rows that fit L1 together share the vector in which their logarithms are computed.
template <class T>
[[gnu::flatten]] void log_softmax_rows(const T* x, T* z, int64_t rows, int64_t C) {
  using V = VecOf<T>;
  using S = Compute<T>;
  const int64_t group = C * V::N <= row_block ? V::N : 1;
  for (int64_t o = 0; o < rows; o += group) {
    S shift[V::N] = {}, log_sum[V::N] = {};
    const int64_t n = smaller(group, rows - o);
    for (int64_t k = 0; k < n; ++k) {
      const ExpSum<S> row = row_exp_sum(x + (o + k) * C, C);
      shift[k] = row.shift;
      log_sum[k] = row.sum;
    }
    log(V::load(log_sum)).store(log_sum);
    for (int64_t k = 0; k < n; ++k) {
      const T* from = x + (o + k) * C;
      T* to = z + (o + k) * C;
      const V shifts = V::set1(shift[k]), log_sums = V::set1(log_sum[k]);
      for_vectors<V>(
          C, [&](int64_t i, auto lanes) { lanes.store(to + i, lanes.load(from + i) - shifts - log_sums); });
    }
  }
}

template <class T>
[[gnu::flatten]] void columns(const T* x, T* y, int64_t C, int64_t stride, int64_t n, bool logarithm) {
  using V = VecOf<T>;
  using S = Compute<T>;
  S shift[column_tile], sum[column_tile];
  column_exp_sums(x, C, stride, n, shift, sum);
  for (int64_t c = 0; c < C; ++c) {
    const T* from = x + c * stride;
    T* to = y + c * stride;
    if (logarithm) {
      if (c == 0)
        for_vectors<V>(n, [&](int64_t i, auto lanes) { lanes.store(sum + i, log(lanes.load(sum + i))); });
      for_vectors<V>(n, [&](int64_t i, auto lanes) {
        lanes.store(to + i, lanes.load(from + i) - lanes.load(shift + i) - lanes.load(sum + i));
      });
    } else {
      for_vectors<V>(n, [&](int64_t i, auto lanes) {
        lanes.store(to + i, exp(lanes.load(from + i) - lanes.load(shift + i)) / lanes.load(sum + i));
      });
    }
  }
}

// Whether rows are short enough to leave most lanes idle, and to wait for each of their sums.
template <class T>
constexpr bool is_short(int64_t C, bool logarithm) {
  return logarithm ? C <= 3 * VecOf<T>::N : C < 2 * VecOf<T>::N;
}

// to[j, i] = from[i, j]
template <class T>
LAMINA_INLINE void turn(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows,
                        int64_t columns) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[j * to_stride + i] = from[i * from_stride + j];
}

// Tiles of short rows are turned into columns, and back.
template <class T>
void short_rows(const T* x, T* y, int64_t rows, int64_t C, bool logarithm) {
  T* const from = scratch<T>(Scratch::row, 2 * C * column_tile);
  T* const to = from + C * column_tile;
  for (int64_t o = 0; o < rows; o += column_tile) {
    const int64_t n = smaller(column_tile, rows - o);
    turn(x + o * C, C, from, column_tile, n, C);
    columns(from, to, C, column_tile, n, logarithm);
    turn(to, column_tile, y + o * C, C, C, n);
  }
}

template <class T>
[[gnu::flatten]] void backward_rows(const T* y, const T* dy, T* dx, int64_t rows, int64_t C, bool logarithm) {
  using V = VecOf<T>;
  for (const T* end = y + rows * C; y < end; y += C, dy += C, dx += C) {
    if (logarithm) {
      const V total = V::set1(row_sum<V>(C, [&](int64_t i, auto lanes) { return lanes.load(dy + i); }));
      for_vectors<V>(C, [&](int64_t i, auto lanes) {
        lanes.store(dx + i, fnma(exp(lanes.load(y + i)), total, lanes.load(dy + i)));
      });
    } else {
      const V dot = V::set1(
          row_sum<V>(C, [&](int64_t i, auto lanes) { return lanes.load(y + i) * lanes.load(dy + i); }));
      for_vectors<V>(C, [&](int64_t i, auto lanes) {
        lanes.store(dx + i, lanes.load(y + i) * (lanes.load(dy + i) - dot));
      });
    }
  }
}

template <class T>
[[gnu::flatten]] void backward_columns(const T* y, const T* dy, T* dx, int64_t C, int64_t stride, int64_t n,
                                       bool logarithm) {
  using V = VecOf<T>;
  using S = Compute<T>;
  S total[column_tile] = {};
  for (int64_t c = 0; c < C; ++c)
    for_vectors<V>(n, [&](int64_t i, auto lanes) {
      const V g = lanes.load(dy + c * stride + i);
      const V term = logarithm ? g : g * lanes.load(y + c * stride + i);
      lanes.store(total + i, lanes.load(total + i) + term);
    });
  for (int64_t c = 0; c < C; ++c)
    for_vectors<V>(n, [&](int64_t i, auto lanes) {
      const V g = lanes.load(dy + c * stride + i), p = lanes.load(y + c * stride + i),
              sum = lanes.load(total + i);
      lanes.store(dx + c * stride + i, logarithm ? fnma(exp(p), sum, g) : p * (g - sum));
    });
}

// Runs rows(offset, n) for ranges of n rows where I = 1, else tile(offset, n) for tiles of n columns.
template <class Rows, class Tile>
LAMINA_INLINE void for_each(int64_t O, int64_t C, int64_t I, const Rows& rows, const Tile& tile) {
  if (O * C * I == 0) return;
  if (I == 1) {
    parallel_ranges(O, rows_per_chunk(C), [&](int64_t begin, int64_t end) { rows(begin * C, end - begin); });
    return;
  }
  const int64_t tiles = (I + column_tile - 1) / column_tile;
  parallel_ranges(O * tiles, rows_per_chunk(C * smaller(I, column_tile)), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t i = t % tiles * column_tile;
      tile(t / tiles * C * I + i, smaller(column_tile, I - i));
    }
  });
}

void forward(const SoftmaxArgs& a) {
  dispatch_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const T* x = a.x.as<T>();
    T* y = a.y.as<T>();
    for_each(
        a.outer, a.C, a.inner,
        [&](int64_t at, int64_t n) {
          if (is_short<T>(a.C, a.logarithm)) return short_rows(x + at, y + at, n, a.C, a.logarithm);
          (a.logarithm ? log_softmax_rows<T> : softmax_rows<T>)(x + at, y + at, n, a.C);
        },
        [&](int64_t at, int64_t n) { columns(x + at, y + at, a.C, a.inner, n, a.logarithm); });
  });
}

void backward(const SoftmaxBackwardArgs& a) {
  dispatch_float(a.dx.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const T* y = a.y.as<T>();
    const T* dy = a.dy.as<T>();
    T* dx = a.dx.as<T>();
    for_each(
        a.outer, a.C, a.inner,
        [&](int64_t at, int64_t n) { backward_rows(y + at, dy + at, dx + at, n, a.C, a.logarithm); },
        [&](int64_t at, int64_t n) {
          backward_columns(y + at, dy + at, dx + at, a.C, a.inner, n, a.logarithm);
        });
  });
}

}  // namespace

const SoftmaxKernels softmax_kernels = {forward, backward};

}  // namespace lamina::LAMINA_ISA
