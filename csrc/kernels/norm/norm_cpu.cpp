#include "kernels/norm/norm.h"

#include "base/parallel.h"
#include "base/scratch.h"
#include "simd/vec.h"

namespace lamina::LAMINA_ISA {
namespace {

LAMINA_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
LAMINA_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Loads and stores of n <= N lanes. Masked stores are slow on some machines (18 uops on Zen 3), hence the
// branch.
template <class V, class T>
LAMINA_INLINE V load_lanes(const T* p, int64_t n) {
  return n >= V::N ? V::load(p) : V::load(p, int(n));
}
template <class V, class T>
LAMINA_INLINE void store_lanes(V v, T* p, int64_t n) {
  if (n >= V::N)
    v.store(p);
  else
    v.store(p, int(n));
}

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

struct Moments {
  double count = 0, mean = 0, squares = 0;

  void merge(double other_count, double other_mean, double other_squares) {
    const double total = count + other_count, delta = other_mean - mean;
    mean += delta * (other_count / total);
    squares += other_squares + delta * delta * (count * other_count / total);
    count = total;
  }
};

// Sum of term(i, lanes) over the vectors of [0, n). Four accumulators: add takes 3 to 4 cycles, two start per
// cycle.
template <class V, class Term>
LAMINA_INLINE auto sum_vectors(int64_t n, const Term& term) {
  V sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  int64_t i = 0;
  for (; i + 4 * V::N <= n; i += 4 * V::N)
    for (int k = 0; k < 4; ++k) sums[k] = sums[k] + term(i + k * V::N, V::N);
  for (; i < n; i += V::N) sums[0] = sums[0] + term(i, least(V::N, n - i));
  return reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Calls body(offset, elements) for the pieces of channel c's planes: at most 4096 elements, 16 KB of float32.
template <class Body>
LAMINA_INLINE void for_pieces(const BatchNormShape& shape, int64_t c, const Body& body) {
  constexpr int64_t piece = 4096;
  for (int64_t n = 0; n < shape.N; ++n)
    for (int64_t i = 0; i < shape.L; i += piece)
      body((n * shape.C + c) * shape.L + i, least(piece, shape.L - i));
}

// out[c] += sum over rows of term(row, c, lanes), four rows at a time.
template <class S, class Term>
LAMINA_INLINE void add_rows(int64_t begin, int64_t end, int64_t C, S* out, const Term& term) {
  using V = Vec<S>;
  int64_t i = begin;
  for (; i + 4 <= end; i += 4)
    for (int64_t c = 0; c < C; c += V::N) {
      const int64_t n = least(V::N, C - c);
      const V four = (term(i, c, n) + term(i + 1, c, n)) + (term(i + 2, c, n) + term(i + 3, c, n));
      store_lanes(load_lanes<V>(out + c, n) + four, out + c, n);
    }
  for (; i < end; ++i)
    for (int64_t c = 0; c < C; c += V::N) {
      const int64_t n = least(V::N, C - c);
      store_lanes(load_lanes<V>(out + c, n) + term(i, c, n), out + c, n);
    }
}

// --- forward
// ------------------------------------------------------------------------------------------------------

// Stores the statistics of channel c and updates the running ones, with the unbiased variance as PyTorch.
void finish_training(const BatchNormArgs& a, int64_t c, const Moments& m, double momentum) {
  const double var = m.squares / m.count;
  set_parameter(a.mean, c, m.mean);
  set_parameter(a.rstd, c, 1 / __builtin_sqrt(var + a.eps));
  if (a.running_mean) {
    const double unbiased = m.squares / (m.count - 1);
    set_parameter(a.running_mean, c, (1 - momentum) * parameter(a.running_mean, c) + momentum * m.mean);
    set_parameter(a.running_var, c, (1 - momentum) * parameter(a.running_var, c) + momentum * unbiased);
  }
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
  parallel_ranges(shape.C, most(1, 32768 / most(1, shape.count())), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      if (a.is_training) {
        Moments moments;
        for_pieces(shape, c, [&](int64_t at, int64_t n) {
          const T* x = a.x.as<T>() + at;
          const S mean =
              sum_vectors<V>(n, [&](int64_t i, int64_t k) { return load_lanes<V>(x + i, k); }) / S(n);
          const V centre = V::set1(mean);
          const S squares = sum_vectors<V>(n, [&](int64_t i, int64_t k) {
            V d = load_lanes<V>(x + i, k) - centre;
            if (k < V::N) d = select(V::first(int(k)), d, V::zero());
            return d * d;
          });
          moments.merge(double(n), mean, squares);
        });
        finish_training(a, c, moments, momentum);
      } else {
        finish_evaluation(a, c);
      }
      const V mean = V::set1(a.mean.as<S>()[c]), scale = V::set1(scale_of<S>(a, c)),
              bias = V::set1(bias_of<S>(a, c));
      for_pieces(shape, c, [&](int64_t at, int64_t n) {
        const T* x = a.x.as<T>() + at;
        T* y = a.y.as<T>() + at;
        for (int64_t i = 0; i < n; i += V::N)
          store_lanes(fma(load_lanes<V>(x + i, n - i) - mean, scale, bias), y + i, n - i);
      });
    }
  });
}

template <class T>
void normalise_rows(const BatchNormArgs& a, double momentum) {
  using S = Compute<T>;
  using V = Vec<S>;
  const BatchNormShape& shape = a.shape;
  const int64_t C = shape.C, M = shape.count(), block = shape.block();
  const T* x = a.x.as<T>();
  S* scale = static_cast<S*>(a.workspace);
  S *bias = scale + C, *partial = bias + 2 * C;  // per block: mean (C), sum of squares about it (C)

  if (a.is_training)
    parallel_for(shape.blocks(), [&](int64_t b) {
      const int64_t begin = b * block, end = least(M, begin + block);
      S *mean = partial + 2 * b * C, *squares = mean + C;
      for (int64_t c = 0; c < 2 * C; ++c) mean[c] = S(0);
      add_rows(begin, end, C, mean,
               [&](int64_t i, int64_t c, int64_t n) { return load_lanes<V>(x + i * C + c, n); });
      for (int64_t c = 0; c < C; ++c) mean[c] /= S(end - begin);
      add_rows(begin, end, C, squares, [&](int64_t i, int64_t c, int64_t n) {
        const V d = load_lanes<V>(x + i * C + c, n) - load_lanes<V>(mean + c, n);
        return d * d;
      });
    });
  parallel_ranges(C, most(64, 32768 / (shape.blocks() + 1)), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      if (a.is_training) {
        Moments moments;
        for (int64_t b = 0; b < shape.blocks(); ++b)
          moments.merge(double(least(M, (b + 1) * block) - b * block), partial[2 * b * C + c],
                        partial[(2 * b + 1) * C + c]);
        finish_training(a, c, moments, momentum);
      } else {
        finish_evaluation(a, c);
      }
      scale[c] = scale_of<S>(a, c);
      bias[c] = bias_of<S>(a, c);
    }
  });
  const S* mean = a.mean.as<S>();
  parallel_ranges(M, block, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t c = 0; c < C; c += V::N) {
        const int64_t n = least(V::N, C - c);
        const V d = load_lanes<V>(x + i * C + c, n) - load_lanes<V>(mean + c, n);
        store_lanes(fma(d, load_lanes<V>(scale + c, n), load_lanes<V>(bias + c, n)), a.y.as<T>() + i * C + c,
                    n);
      }
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

// --- backward
// -----------------------------------------------------------------------------------------------------

// dx = (dy - shift - (x - mean) * slope) * scale, all of them constants of the channel.
template <class S>
struct Coefficients {
  S scale, shift, slope;
};

// From shift = sum dy and slope = sum dy * (x - mean) of channel c, stores its parameters' gradients.
template <class S>
Coefficients<S> finish_backward(const BatchNormBackwardArgs& a, int64_t c, double sum, double dot) {
  const double rstd = double(a.rstd.as<S>()[c]), count = double(a.shape.count());
  if (a.dbias) set_parameter(a.dbias, c, sum);
  if (a.dweight) set_parameter(a.dweight, c, dot * rstd);
  return {S(rstd * (a.weight ? parameter(a.weight, c) : 1)), S(sum / count), S(dot * rstd * rstd / count)};
}

template <class T>
void backward_planes(const BatchNormBackwardArgs& a) {
  using S = Compute<T>;
  using V = Vec<S>;
  const BatchNormShape& shape = a.shape;
  parallel_ranges(shape.C, most(1, 16384 / most(1, shape.count())), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const V mean = V::set1(a.mean.as<S>()[c]);
      double sum = 0, dot = 0;
      for_pieces(shape, c, [&](int64_t at, int64_t n) {
        const T *x = a.x.as<T>() + at, *dy = a.dy.as<T>() + at;
        sum += sum_vectors<V>(n, [&](int64_t i, int64_t k) { return load_lanes<V>(dy + i, k); });
        dot += sum_vectors<V>(n, [&](int64_t i, int64_t k) {
          return load_lanes<V>(dy + i, k) * (load_lanes<V>(x + i, k) - mean);
        });
      });
      const Coefficients<S> k = finish_backward<S>(a, c, sum, dot);
      if (!a.dx) continue;
      const V scale = V::set1(k.scale), shift = V::set1(k.shift), slope = V::set1(k.slope);
      for_pieces(shape, c, [&](int64_t at, int64_t n) {
        const T *x = a.x.as<T>() + at, *dy = a.dy.as<T>() + at;
        T* dx = a.dx.as<T>() + at;
        for (int64_t i = 0; i < n; i += V::N) {
          V d = load_lanes<V>(dy + i, n - i);
          if (a.is_training) d = fnma(load_lanes<V>(x + i, n - i) - mean, slope, d - shift);
          store_lanes(d * scale, dx + i, n - i);
        }
      });
    }
  });
}

template <class T>
void backward_rows(const BatchNormBackwardArgs& a) {
  using S = Compute<T>;
  using V = Vec<S>;
  const BatchNormShape& shape = a.shape;
  const int64_t C = shape.C, M = shape.count(), block = shape.block();
  const T *x = a.x.as<T>(), *dy = a.dy.as<T>();
  const S* mean = a.mean.as<S>();
  S* scale = static_cast<S*>(a.workspace);
  S *shift = scale + C, *slope = shift + C,
    *partial = slope + C;  // per block: sum dy (C), sum dy * (x - mean) (C)

  parallel_for(shape.blocks(), [&](int64_t b) {
    const int64_t begin = b * block, end = least(M, begin + block);
    S *sum = partial + 2 * b * C, *dot = sum + C;
    for (int64_t c = 0; c < 2 * C; ++c) sum[c] = S(0);
    add_rows(begin, end, C, sum,
             [&](int64_t i, int64_t c, int64_t n) { return load_lanes<V>(dy + i * C + c, n); });
    add_rows(begin, end, C, dot, [&](int64_t i, int64_t c, int64_t n) {
      return load_lanes<V>(dy + i * C + c, n) *
             (load_lanes<V>(x + i * C + c, n) - load_lanes<V>(mean + c, n));
    });
  });
  parallel_ranges(C, most(64, 32768 / (shape.blocks() + 1)), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      double sum = 0, dot = 0;
      for (int64_t b = 0; b < shape.blocks(); ++b) {
        sum += double(partial[2 * b * C + c]);
        dot += double(partial[(2 * b + 1) * C + c]);
      }
      const Coefficients<S> k = finish_backward<S>(a, c, sum, dot);
      scale[c] = k.scale;
      shift[c] = k.shift;
      slope[c] = k.slope;
    }
  });
  if (!a.dx) return;
  parallel_ranges(M, block, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t c = 0; c < C; c += V::N) {
        const int64_t n = least(V::N, C - c);
        V d = load_lanes<V>(dy + i * C + c, n);
        if (a.is_training) {
          const V centred = load_lanes<V>(x + i * C + c, n) - load_lanes<V>(mean + c, n);
          d = fnma(centred, load_lanes<V>(slope + c, n), d - load_lanes<V>(shift + c, n));
        }
        store_lanes(d * load_lanes<V>(scale + c, n), a.dx.as<T>() + i * C + c, n);
      }
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
