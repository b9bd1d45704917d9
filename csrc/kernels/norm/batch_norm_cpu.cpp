#include "kernels/norm/batch_norm.h"

#include "base/parallel.h"
#include "kernels/norm/channels.h"

namespace lamina::LAMINA_ISA {
namespace {

// --- forward -----------------------------------------------------------------------------------------------

// All elements of channel c.
LAMINA_INLINE Runs channel_of(const BatchNormShape& z, int64_t c) { return {c * z.L, z.N, z.C * z.L, z.L}; }

// Stores the statistics of channel c and updates the running ones, with the unbiased variance as PyTorch.
void finish_training(const BatchNormArgs& a, int64_t c, const Moments& m, double momentum) {
  set_parameter(a.mean, c, m.mean);
  set_parameter(a.rstd, c, m.rstd(a.eps));
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
  const BatchNormShape& shape = a.shape;
  const T* x = a.x.as<T>();
  T* y = a.y.as<T>();
  parallel_ranges(shape.C, larger(1, 32768 / larger(1, shape.count())), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      if (a.is_training)
        finish_training(a, c, moments_of(x, channel_of(shape, c)), momentum);
      else
        finish_evaluation(a, c);
      const S mean = a.mean.as<S>()[c], scale = scale_of<S>(a, c), bias = bias_of<S>(a, c);
      for (int64_t plane = 0; plane < shape.N; ++plane) {
        const int64_t at = (plane * shape.C + c) * shape.L;
        normalise_run(x + at, y + at, shape.L, mean, scale, bias);
      }
    }
  });
}

template <class T>
void normalise_columns(const BatchNormArgs& a, double momentum) {
  using S = Compute<T>;
  const BatchNormShape& shape = a.shape;
  const int64_t C = shape.C, M = shape.count(), block = shape.block();
  const T* x = a.x.as<T>();
  T* y = a.y.as<T>();
  S* scale = static_cast<S*>(a.workspace);
  S *bias = scale + C,
    *partial = bias + C;  // per block: mean less the block's first row (C), sum of squares about it (C)

  if (a.is_training)
    parallel_ranges(M, block, [&](int64_t begin, int64_t end) {
      S* means = partial + 2 * (begin / block) * C;
      column_moments(x + begin * C, end - begin, C, means, means + C);
    });
  parallel_ranges(C, column_group, [&](int64_t begin, int64_t end) {
    double means[column_group] = {}, squares[column_group] = {};
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
    normalise_rows(x + begin * C, y + begin * C, end - begin, C, mean, scale, bias);
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
    a.shape.is_rows ? normalise_columns<T>(a, momentum) : normalise_planes<T>(a, momentum);
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
      const auto [sum, dot] = sums_of(dy, x, a.mean.as<S>()[c], channel_of(shape, c));
      const Coefficients<S> k = finish_backward<S>(a, c, sum, dot);
      if (!dx) continue;
      const V mean = V::set1(a.mean.as<S>()[c]);
      const V scale = V::set1(k.scale), shift = V::set1(k.shift), slope = V::set1(k.slope);
      for (int64_t plane = 0; plane < shape.N; ++plane) {
        const int64_t at = (plane * shape.C + c) * shape.L;
        for_vectors<V>(shape.L, [&](int64_t i, auto lanes) {
          V d = lanes.load(dy + at + i);
          if (a.is_training) d = fnma(lanes.load(x + at + i) - mean, slope, d - shift);
          lanes.store(dx + at + i, d * scale);
        });
      }
    }
  });
}

template <class T>
void backward_columns(const BatchNormBackwardArgs& a) {
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

  parallel_ranges(M, block, [&](int64_t begin, int64_t end) {
    S* sums = partial + 2 * (begin / block) * C;
    column_sums(dy + begin * C, x + begin * C, end - begin, C, mean, sums, sums + C);
  });
  parallel_ranges(C, column_group, [&](int64_t begin, int64_t end) {
    double sums[column_group] = {}, dots[column_group] = {};
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
      for_vectors<V>(C, [&](int64_t c, auto lanes) {
        V d = lanes.load(dy + i * C + c);
        if (a.is_training) {
          const V centred = lanes.load(x + i * C + c) - lanes.load(mean + c);
          d = fnma(centred, lanes.load(slope + c), d - lanes.load(shift + c));
        }
        lanes.store(dx + i * C + c, d * lanes.load(scale + c));
      });
  });
}

void batch_norm_backward(const BatchNormBackwardArgs& a) {
  if (a.shape.C == 0) return;
  dispatch_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    a.shape.is_rows ? backward_columns<T>(a) : backward_planes<T>(a);
  });
}

}  // namespace

const BatchNormKernels batch_norm_kernels = {batch_norm, batch_norm_backward};

}  // namespace lamina::LAMINA_ISA
