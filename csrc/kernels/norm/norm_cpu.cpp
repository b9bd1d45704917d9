#include "kernels/norm/norm.h"

#include "base/integer.h"
#include "base/parallel.h"
#include "simd/vec.h"

namespace lamina::LAMINA_ISA {
namespace {

// Loads and stores of n <= N lanes; where n is known to be N, nothing of the mask remains.
template <class V, class T>
LAMINA_INLINE V load_lanes(const T* p, int64_t n) {
  return n == V::N ? V::load(p) : V::load(p, int(n));
}
template <class V, class T>
LAMINA_INLINE void store_lanes(V v, T* p, int64_t n) {
  if (n == V::N)
    v.store(p);
  else
    v.store(p, int(n));
}

// Calls body(i, lanes) for the vectors of [0, n). Whole vectors have a loop of their own, without masks.
template <class V, class Body>
LAMINA_INLINE void for_vectors(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + V::N <= n; i += V::N) body(i, int64_t(V::N));
  if (i < n) body(i, n - i);
}

constexpr int64_t channel_group = 64;  // channels whose blocks one thread merges

// Element c of a vector of parameters, whose dtype need not be that of x.
double parameter(const View& v, int64_t c) {
  double value = 0;
  dispatch_float(v.dtype,
                 [&](auto t) { value = widen(v.as<typename decltype(t)::type>()[c * v.strides[0]]); });
  return value;
}
void set_parameter(const View& v, int64_t c, double value) {
  dispatch_float(v.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    v.as<T>()[c * v.strides[0]] = narrow<T>(Compute<T>(value));
  });
}

// `planes` runs of `length` elements, `stride` apart, the first from element `begin`.
struct Piece {
  int64_t begin, planes, stride, length;
  LAMINA_INLINE int64_t count() const { return planes * length; }
};

// Calls body(piece) for the pieces of about 4096 elements (16 KB of float32) that make up channel c.
template <class Body>
LAMINA_INLINE void for_pieces(const BatchNormShape& shape, int64_t c, const Body& body) {
  constexpr int64_t size = 4096;
  const int64_t group = larger(1, size / larger(1, shape.L)), stride = shape.C * shape.L;
  for (int64_t n = 0; n < shape.N; n += group)
    for (int64_t i = 0; i < shape.L; i += size)
      body(Piece{n * stride + c * shape.L + i, smaller(group, shape.N - n), stride,
                 smaller(size, shape.L - i)});
}

// Sum of term(element, lanes) over a piece. Four accumulators: add takes 3 to 4 cycles, two start per cycle.
template <class V, class Term>
LAMINA_INLINE auto sum_piece(const Piece& p, const Term& term) {
  V sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  for (int64_t at = p.begin, plane = 0; plane < p.planes; ++plane, at += p.stride) {
    int64_t i = 0;
    for (; i + 4 * V::N <= p.length; i += 4 * V::N)
      for (int k = 0; k < 4; ++k) sums[k] = sums[k] + term(at + i + k * V::N, int64_t(V::N));
    for (; i + V::N <= p.length; i += V::N) sums[0] = sums[0] + term(at + i, int64_t(V::N));
    if (i < p.length) sums[1] = sums[1] + term(at + i, p.length - i);
  }
  return reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// --- forward -----------------------------------------------------------------------------------------------

struct Moments {
  double count = 0, mean = 0, squares = 0;

  void merge(double other_count, double other_mean, double other_squares) {
    const double total = count + other_count, delta = other_mean - mean;
    mean += delta * (other_count / total);
    squares += other_squares + delta * delta * (count * other_count / total);
    count = total;
  }
};

// Stores the statistics of channel c and updates the running ones, with the unbiased variance as PyTorch.
void finish_training(const BatchNormArgs& a, int64_t c, const Moments& m, double momentum) {
  set_parameter(a.mean, c, m.mean);
  set_parameter(a.rstd, c, 1 / __builtin_sqrt(m.squares / m.count + a.eps));
  if (!a.running_mean) return;
  const double unbiased = m.squares / (m.count - 1);
  set_parameter(a.running_mean, c, (1 - momentum) * parameter(a.running_mean, c) + momentum * m.mean);
  set_parameter(a.running_var, c, (1 - momentum) * parameter(a.running_var, c) + momentum * unbiased);
}
void finish_evaluation(const BatchNormArgs& a, int64_t c) {
  set_parameter(a.mean, c, parameter(a.running_mean, c));
  set_parameter(a.rstd, c, 1 / __builtin_sqrt(parameter(a.running_var, c) + a.eps));
}

template <class S>
LAMINA_INLINE S scale_of(const BatchNormArgs& a, int64_t c) {
  return a.rstd.as<S>()[c] * (a.weight ? S(parameter(a.weight, c)) : S(1));
}
template <class S>
LAMINA_INLINE S bias_of(const BatchNormArgs& a, int64_t c) {
  return a.bias ? S(parameter(a.bias, c)) : S(0);
}

template <class T>
void normalise_planes(const BatchNormArgs& a, double momentum) {
  using S = Compute<T>;
  using V = Vec<S>;
  const BatchNormShape& shape = a.shape;
  const T* x = a.x.as<T>();
  T* y = a.y.as<T>();
  parallel_ranges(shape.C, larger(1, 32768 / larger(1, shape.count())), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      if (a.is_training) {
        Moments moments;
        for_pieces(shape, c, [&](const Piece& p) {
          const S first = widen(x[p.begin]);
          const auto sum_about = [&](S centre, const auto& term) {
            return sum_piece<V>(p, [&](int64_t i, int64_t n) {
              const V d = load_lanes<V>(x + i, n) - V::set1(centre);
              return term(n < V::N ? select(V::first(int(n)), d, V::zero()) : d);
            });
          };
          const S mean = first + sum_about(first, [](V d) { return d; }) / S(p.count());
          const S squares = sum_about(mean, [](V d) { return d * d; });
          moments.merge(double(p.count()), double(mean), double(squares));
        });
        finish_training(a, c, moments, momentum);
      } else {
        finish_evaluation(a, c);
      }
      const V mean = V::set1(a.mean.as<S>()[c]), scale = V::set1(scale_of<S>(a, c));
      const V bias = V::set1(bias_of<S>(a, c));
      for (int64_t plane = 0; plane < shape.N; ++plane) {
        const int64_t at = (plane * shape.C + c) * shape.L;
        for_vectors<V>(shape.L, [&](int64_t i, int64_t n) {
          store_lanes(fma(load_lanes<V>(x + at + i, n) - mean, scale, bias), y + at + i, n);
        });
      }
    }
  });
}

// Merges K rows into the moments of the `before` rows above them, for all channels. The K rows' own moments are taken
// in registers; all means are differences from the row `origin`, which keeps them near 0.
template <int K, class T, class S = Compute<T>>
LAMINA_INLINE void merge_rows(const T* x, const T* origin, int64_t C, int64_t before, S* means, S* squares) {
  using V = Vec<S>;
  const V share = V::set1(S(K) / S(before + K)), weight = V::set1(S(before) * S(K) / S(before + K));
  for_vectors<V>(C, [&](int64_t c, int64_t n) {
    const V start = load_lanes<V>(origin + c, n);
    V rows[K], sum = V::zero(), own = V::zero();
    for (int k = 0; k < K; ++k) {
      rows[k] = load_lanes<V>(x + k * C + c, n) - start;
      sum = sum + rows[k];
    }
    const V mean = sum * V::set1(S(1) / S(K));
    for (int k = 0; k < K; ++k) own = fma(rows[k] - mean, rows[k] - mean, own);
    const V old = load_lanes<V>(means + c, n), delta = mean - old;
    store_lanes(fma(delta, share, old), means + c, n);
    store_lanes(load_lanes<V>(squares + c, n) + fma(delta * delta, weight, own), squares + c, n);
  });
}

template <class T>
void normalise_rows(const BatchNormArgs& a, double momentum) {
  using S = Compute<T>;
  using V = Vec<S>;
  const BatchNormShape& shape = a.shape;
  const int64_t C = shape.C, M = shape.count(), block = shape.block();
  const T* x = a.x.as<T>();
  T* y = a.y.as<T>();
  S* scale = static_cast<S*>(a.workspace);
  S *bias = scale + C,
    *partial = bias + C;  // per block: mean less the block's first row (C), sum of squares about it (C)

  if (a.is_training)
    parallel_for(shape.blocks(), [&](int64_t b) {
      const int64_t begin = b * block, end = smaller(M, begin + block);
      S *means = partial + 2 * b * C, *squares = means + C;
      for (int64_t c = 0; c < 2 * C; ++c) means[c] = S(0);
      int64_t i = begin;  // 8 rows fit in registers beside their moments
      for (; i + 8 <= end; i += 8) merge_rows<8>(x + i * C, x + begin * C, C, i - begin, means, squares);
      for (; i < end; ++i) merge_rows<1>(x + i * C, x + begin * C, C, i - begin, means, squares);
    });
  parallel_ranges(C, channel_group, [&](int64_t begin, int64_t end) {
    double means[channel_group] = {}, squares[channel_group] = {};
    for (int64_t b = 0; a.is_training && b < shape.blocks(); ++b) {
      const double before = double(b * block), rows = double(smaller(M, (b + 1) * block)) - before;
      const double share = rows / (before + rows), weight = before * share;
      const S *block_means = partial + 2 * b * C + begin, *block_squares = block_means + C;
      for (int64_t c = 0; c < end - begin; ++c) {
        const double block_mean = double(widen(x[b * block * C + begin + c])) + double(block_means[c]);
        const double delta = block_mean - means[c];
        means[c] += delta * share;
        squares[c] += double(block_squares[c]) + delta * delta * weight;
      }
    }
    for (int64_t c = begin; c < end; ++c) {
      if (a.is_training)
        finish_training(a, c, {double(M), means[c - begin], squares[c - begin]}, momentum);
      else
        finish_evaluation(a, c);
      scale[c] = scale_of<S>(a, c);
      bias[c] = bias_of<S>(a, c);
    }
  });
  const S* mean = a.mean.as<S>();
  parallel_ranges(M, block, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for_vectors<V>(C, [&](int64_t c, int64_t n) {
        const V d = load_lanes<V>(x + i * C + c, n) - load_lanes<V>(mean + c, n);
        store_lanes(fma(d, load_lanes<V>(scale + c, n), load_lanes<V>(bias + c, n)), y + i * C + c, n);
      });
  });
}

void batch_norm(const BatchNormArgs& a) {
  double momentum = a.momentum;
  if (a.is_training && a.batches) {
    int64_t* batches = a.batches.as<int64_t>();
    ++*batches;
    if (a.is_cumulative) momentum = 1 / double(*batches);
  }
  if (a.shape.C == 0) return;
  dispatch_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    a.shape.is_rows ? normalise_rows<T>(a, momentum) : normalise_planes<T>(a, momentum);
  });
}

// --- backward ----------------------------------------------------------------------------------------------

// dx = (dy - shift - (x - mean) * slope) * scale, all of them constants of the channel.
template <class S>
struct Coefficients {
  S scale, shift, slope;
};

// Takes sum = sum dy and dot = sum dy * (x - mean) of channel c; stores the gradients of its parameters.
template <class S>
Coefficients<S> finish_backward(const BatchNormBackwardArgs& a, int64_t c, double sum, double dot) {
  const double rstd = double(a.rstd.as<S>()[c]), count = double(a.shape.count());
  if (a.dbias) set_parameter(a.dbias, c, sum);
  if (a.dweight) set_parameter(a.dweight, c, dot * rstd);
  const double weight = a.weight ? parameter(a.weight, c) : 1;
  return {S(rstd * weight), S(sum / count), S(dot * rstd * rstd / count)};
}

template <class T>
void backward_planes(const BatchNormBackwardArgs& a) {
  using S = Compute<T>;
  using V = Vec<S>;
  const BatchNormShape& shape = a.shape;
  const T *x = a.x.as<T>(), *dy = a.dy.as<T>();
  T* dx = a.dx.as<T>();
  parallel_ranges(shape.C, larger(1, 16384 / larger(1, shape.count())), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const V mean = V::set1(a.mean.as<S>()[c]);
      double sum = 0, dot = 0;
      for_pieces(shape, c, [&](const Piece& p) {
        sum += double(sum_piece<V>(p, [&](int64_t i, int64_t n) { return load_lanes<V>(dy + i, n); }));
        dot += double(sum_piece<V>(p, [&](int64_t i, int64_t n) {
          return load_lanes<V>(dy + i, n) * (load_lanes<V>(x + i, n) - mean);
        }));
      });
      const Coefficients<S> k = finish_backward<S>(a, c, sum, dot);
      if (!dx) continue;
      const V scale = V::set1(k.scale), shift = V::set1(k.shift), slope = V::set1(k.slope);
      for (int64_t plane = 0; plane < shape.N; ++plane) {
        const int64_t at = (plane * shape.C + c) * shape.L;
        for_vectors<V>(shape.L, [&](int64_t i, int64_t n) {
          V d = load_lanes<V>(dy + at + i, n);
          if (a.is_training) d = fnma(load_lanes<V>(x + at + i, n) - mean, slope, d - shift);
          store_lanes(d * scale, dx + at + i, n);
        });
      }
    }
  });
}

// sums[c] += dy and dots[c] += dy * (x - mean[c]) over K rows.
template <int K, class T, class S = Compute<T>>
LAMINA_INLINE void add_rows(const T* dy, const T* x, const S* mean, int64_t C, S* sums, S* dots) {
  using V = Vec<S>;
  for_vectors<V>(C, [&](int64_t c, int64_t n) {
    const V centre = load_lanes<V>(mean + c, n);
    V sum = V::zero(), dot = V::zero();
    for (int k = 0; k < K; ++k) {
      const V d = load_lanes<V>(dy + k * C + c, n);
      sum = sum + d;
      dot = fma(d, load_lanes<V>(x + k * C + c, n) - centre, dot);
    }
    store_lanes(load_lanes<V>(sums + c, n) + sum, sums + c, n);
    store_lanes(load_lanes<V>(dots + c, n) + dot, dots + c, n);
  });
}

template <class T>
void backward_rows(const BatchNormBackwardArgs& a) {
  using S = Compute<T>;
  using V = Vec<S>;
  const BatchNormShape& shape = a.shape;
  const int64_t C = shape.C, M = shape.count(), block = shape.block();
  const T *x = a.x.as<T>(), *dy = a.dy.as<T>();
  T* dx = a.dx.as<T>();
  const S* mean = a.mean.as<S>();
  S* scale = static_cast<S*>(a.workspace);
  S *shift = scale + C, *slope = shift + C;
  S* partial = slope + C;  // per block: sum dy (C), sum dy * (x - mean) (C)

  parallel_for(shape.blocks(), [&](int64_t b) {
    const int64_t end = smaller(M, (b + 1) * block);
    S *sums = partial + 2 * b * C, *dots = sums + C;
    for (int64_t c = 0; c < 2 * C; ++c) sums[c] = S(0);
    int64_t i = b * block;
    for (; i + 4 <= end; i += 4) add_rows<4>(dy + i * C, x + i * C, mean, C, sums, dots);
    for (; i < end; ++i) add_rows<1>(dy + i * C, x + i * C, mean, C, sums, dots);
  });
  parallel_ranges(C, channel_group, [&](int64_t begin, int64_t end) {
    double sums[channel_group] = {}, dots[channel_group] = {};
    for (int64_t b = 0; b < shape.blocks(); ++b) {
      const S *block_sums = partial + 2 * b * C + begin, *block_dots = block_sums + C;
      for (int64_t c = 0; c < end - begin; ++c) {
        sums[c] += double(block_sums[c]);
        dots[c] += double(block_dots[c]);
      }
    }
    for (int64_t c = begin; c < end; ++c) {
      const Coefficients<S> k = finish_backward<S>(a, c, sums[c - begin], dots[c - begin]);
      scale[c] = k.scale;
      shift[c] = k.shift;
      slope[c] = k.slope;
    }
  });
  if (!dx) return;
  parallel_ranges(M, block, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for_vectors<V>(C, [&](int64_t c, int64_t n) {
        V d = load_lanes<V>(dy + i * C + c, n);
        if (a.is_training) {
          const V centred = load_lanes<V>(x + i * C + c, n) - load_lanes<V>(mean + c, n);
          d = fnma(centred, load_lanes<V>(slope + c, n), d - load_lanes<V>(shift + c, n));
        }
        store_lanes(d * load_lanes<V>(scale + c, n), dx + i * C + c, n);
      });
  });
}

void batch_norm_backward(const BatchNormBackwardArgs& a) {
  if (a.shape.C == 0) return;
  dispatch_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    a.shape.is_rows ? backward_rows<T>(a) : backward_planes<T>(a);
  });
}

}  // namespace

const NormKernels norm_kernels = {batch_norm, batch_norm_backward};

}  // namespace lamina::LAMINA_ISA
