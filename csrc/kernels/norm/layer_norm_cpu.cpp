#include "kernels/norm/layer_norm.h"

#include "base/parallel.h"
#include "base/scratch.h"
#include "kernels/norm/channels.h"

namespace lamina::LAMINA_ISA {
namespace {

constexpr int64_t chunk_elements = 16384;   // per task, so that small problems stay on one thread
constexpr int64_t channels_per_task = 256;  // whose partial results are merged

// Calls body(m, g) for the groups m = n * G + g of all samples.
template <class Body>
LAMINA_INLINE void for_groups(const LayerNormShape& z, const Body& body) {
  parallel_ranges(z.N * z.G, larger(1, chunk_elements / larger(1, z.D())), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin, g = begin % z.G; m < end; ++m, g = g + 1 < z.G ? g + 1 : 0) body(m, g);
  });
}

// Calls body(n) for all samples, side by side if they are small; else each has the threads for itself, and its second
// sweep finds it in the caches either way.
template <class Body>
LAMINA_INLINE void for_samples(const LayerNormShape& z, const Body& body) {
  constexpr int64_t large = 1 << 19;
  const int64_t size = z.C() * z.L;
  const int64_t together = size < large ? larger(1, chunk_elements / larger(1, size)) : z.N;
  parallel_ranges(z.N, together, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) body(n);
  });
}

// Calls body(block, begin, end) for the blocks of rows of sample n: of channels-last images.
template <class Body>
LAMINA_INLINE void for_blocks(const LayerNormShape& z, int64_t n, const Body& body) {
  parallel_ranges(z.L, z.block(), [&](int64_t begin, int64_t end) {
    body(n * z.blocks_per_sample() + begin / z.block(), n * z.L + begin, n * z.L + end);
  });
}

// The values of the groups of a sample, `stride` apart, for each of their channels.
template <class S>
void spread(const LayerNormShape& z, const S* values, int64_t stride, S* out) {
  for (int64_t g = 0; g < z.G; ++g)
    for (int64_t k = 0; k < z.K; ++k) *out++ = values[g * stride];
}

template <class S>
LAMINA_INLINE S mean_of(const View& mean, int64_t m) {
  return mean ? mean.as<S>()[m] : S(0);
}

// --- forward -----------------------------------------------------------------------------------------------------

// Of values that are not centred: their squares about 0.
template <class T>
LAMINA_INLINE Moments squares_of(const T* x, const Runs& all) {
  using V = VecOf<T>;
  Moments moments = {.count = double(all.size())};
  for_pieces(all, [&](const Runs& piece) {
    moments.squares += double(sum_piece<V>(piece, [&](int64_t i, auto lanes) {
      const V v = lanes.load(x + i);
      return v * v;
    }));
  });
  return moments;
}

// Stores the statistics of group m; gives its mean and rstd.
template <class S>
struct Statistics {
  S mean, rstd;
};
template <class S>
LAMINA_INLINE Statistics<S> store_statistics(const LayerNormArgs& a, int64_t m, const Moments& moments) {
  const Statistics<S> s = {S(moments.mean), S(moments.rstd(a.eps))};
  if (a.mean) a.mean.as<S>()[m] = s.mean;
  a.rstd.as<S>()[m] = s.rstd;
  return s;
}

// Rows of a group (L = 1), and planes.
template <class T, class S = Compute<T>>
void normalise_groups(const LayerNormArgs& a, const S* weight, const S* bias) {
  using V = Vec<S>;
  const LayerNormShape& z = a.shape;
  for_groups(z, [&](int64_t m, int64_t g) {
    const int64_t at = m * z.D();
    const T* x = a.x.as<T>() + at;
    T* y = a.y.as<T>() + at;
    const Runs group = {0, 1, 0, z.D()};
    const auto [mean, rstd] =
        store_statistics<S>(a, m, a.is_centred ? moments_of(x, group) : squares_of(x, group));
    const S *w = weight + g * z.K, *b = bias + g * z.K;
    if (z.L == 1) {
      const V centre = V::set1(mean), scale = V::set1(rstd);
      for_vectors<V>(z.K, [&](int64_t k, auto lanes) {
        __builtin_prefetch(x + z.K + k);  // the next row arrives while this one is computed: a quarter faster
        const V xhat = (lanes.load(x + k) - centre) * scale;
        lanes.store(y + k, fma(xhat, lanes.load(w + k), lanes.load(b + k)));
      });
    } else {
      for (int64_t k = 0; k < z.K; ++k) normalise_run(x + k * z.L, y + k * z.L, z.L, mean, rstd * w[k], b[k]);
    }
  });
}

// Channels-last images.
template <class T, class S = Compute<T>>
void normalise_images(const LayerNormArgs& a, const S* weight, const S* bias, S* partial) {
  const LayerNormShape& z = a.shape;
  const int64_t C = z.C();
  const T* x = a.x.as<T>();
  for_samples(z, [&](int64_t n) {
    for_blocks(z, n, [&](int64_t block, int64_t begin, int64_t end) {
      S* means = partial + 2 * block * C;
      column_moments(x + begin * C, end - begin, C, means, means + C);
    });
    parallel_ranges(z.G, channels_per_task / larger(1, z.K) + 1, [&](int64_t first, int64_t last) {
      for (int64_t g = first; g < last; ++g) {
        Moments moments;
        for (int64_t b = 0; b < z.blocks_per_sample(); ++b) {
          const int64_t begin = b * z.block(), rows = smaller(z.L - begin, z.block());
          const T* origin = x + (n * z.L + begin) * C + g * z.K;
          const S *means = partial + 2 * (n * z.blocks_per_sample() + b) * C + g * z.K, *squares = means + C;
          const auto mean_of = [&](int64_t k) { return double(widen(origin[k])) + double(means[k]); };
          Moments block = {.count = double(rows * z.K)};  // of K columns of as many rows
          for (int64_t k = 0; k < z.K; ++k) block.mean += mean_of(k);
          block.mean /= double(z.K);
          for (int64_t k = 0; k < z.K; ++k) {
            const double delta = mean_of(k) - block.mean;
            block.squares += double(squares[k]) + double(rows) * delta * delta;
          }
          moments.merge(block);
        }
        store_statistics<S>(a, n * z.G + g, moments);
      }
    });
    for_blocks(z, n, [&](int64_t, int64_t begin, int64_t end) {
      S *mean = scratch<S>(Scratch::row, 2 * C), *scale = mean + C;
      spread(z, a.mean.as<S>() + n * z.G, 1, mean);
      spread(z, a.rstd.as<S>() + n * z.G, 1, scale);
      for (int64_t c = 0; c < C; ++c) scale[c] *= weight[c];
      normalise_rows(x + begin * C, a.y.as<T>() + begin * C, end - begin, C, mean, scale, bias);
    });
  });
}

void forward(const LayerNormArgs& a) {
  const LayerNormShape& z = a.shape;
  dispatch_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    using S = Compute<T>;
    S* workspace = static_cast<S*>(a.workspace);
    const S* weight = parameters(a.weight, S(1), z.C(), workspace);
    const S* bias = parameters(a.bias, S(0), z.C(), workspace + z.C());
    if (z.is_rows && z.L > 1)
      normalise_images<T>(a, weight, bias, workspace + 2 * z.C());
    else
      normalise_groups<T>(a, weight, bias);
  });
}

// --- backward ----------------------------------------------------------------------------------------------------

// dx = (dy * weight - shift - (x - mean) * slope) * rstd, where mean, rstd, shift and slope are those of a group.
template <class S>
struct Coefficients {
  S mean, rstd, shift, slope;
};

// From the sums of g = dy * weight and g * (x - mean) over a group.
template <class S>
LAMINA_INLINE Coefficients<S> coefficients_of(const LayerNormBackwardArgs& a, int64_t m, const Sums& sums) {
  const S rstd = a.rstd.as<S>()[m];
  const double count = double(a.shape.D());
  return {mean_of<S>(a.mean, m), rstd, a.is_centred ? S(sums.sum / count) : S(0),
          S(sums.dot * double(rstd) * double(rstd) / count)};
}

// dx of group g of R samples from sample n on (L = 1), and their share of the sums of dy and dy * xhat.
template <int R, class T, class S = Compute<T>>
LAMINA_INLINE void backward_samples(const LayerNormBackwardArgs& a, int64_t n, int64_t g, const S* weight,
                                    S* sums, S* dots) {
  using V = Vec<S>;
  constexpr int64_t piece = 4096;  // as many terms are added in S, their sums in double
  const LayerNormShape& z = a.shape;
  const int64_t C = z.C(), at = n * C + g * z.K;
  const T *x = a.x.as<T>() + at, *dy = a.dy.as<T>() + at;
  T* dx = a.dx.as<T>() + at;
  weight += g * z.K;

  Sums total[R];
  for (int64_t begin = 0; begin < z.K; begin += piece) {
    V sum[R], dot[R], mean[R];
    for (int r = 0; r < R; ++r) {
      sum[r] = dot[r] = V::zero();
      mean[r] = V::set1(mean_of<S>(a.mean, (n + r) * z.G + g));
    }
    for_vectors<V>(smaller(piece, z.K - begin), [&](int64_t i, auto lanes) {
      const int64_t k = begin + i;
      const V w = lanes.load(weight + k);
      for (int r = 0; r < R; ++r) {
        const V d = lanes.load(dy + r * C + k) * w;
        sum[r] = sum[r] + d;
        dot[r] = fma(d, lanes.load(x + r * C + k) - mean[r], dot[r]);
      }
    });
    for (int r = 0; r < R; ++r) {
      total[r].sum += double(reduce_add(sum[r]));
      total[r].dot += double(reduce_add(dot[r]));
    }
  }

  V mean[R], rstd[R], shift[R], slope[R];
  for (int r = 0; r < R; ++r) {
    const Coefficients<S> k = coefficients_of<S>(a, (n + r) * z.G + g, total[r]);
    mean[r] = V::set1(k.mean);
    rstd[r] = V::set1(k.rstd);
    shift[r] = V::set1(k.shift);
    slope[r] = V::set1(k.slope);
  }
  sums += g * z.K;
  dots += g * z.K;
  for_vectors<V>(z.K, [&](int64_t k, auto lanes) {
    const V w = lanes.load(weight + k);
    V sum = lanes.load(sums + k), dot = lanes.load(dots + k);
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(dy + (r + R) * C + k);  // as in normalise_groups
      __builtin_prefetch(x + (r + R) * C + k);
      const V d = lanes.load(dy + r * C + k), centred = lanes.load(x + r * C + k) - mean[r];
      lanes.store(dx + r * C + k, fnma(centred, slope[r], fma(d, w, -shift[r])) * rstd[r]);
      sum = sum + d;
      dot = fma(d, centred * rstd[r], dot);
    }
    lanes.store(sums + k, sum);
    lanes.store(dots + k, dot);
  });
}

template <class T, class S = Compute<T>>
void backward_rows(const LayerNormBackwardArgs& a, const S* weight, S* partial) {
  const LayerNormShape& z = a.shape;
  parallel_ranges(z.N, z.block(), [&](int64_t n, int64_t end) {
    S *sums = partial + 2 * (n / z.block()) * z.C(), *dots = sums + z.C();
    for (int64_t c = 0; c < z.C(); ++c) sums[c] = dots[c] = S(0);
    for (; n + 2 <= end; n += 2)
      for (int64_t g = 0; g < z.G; ++g) backward_samples<2, T>(a, n, g, weight, sums, dots);
    for (; n < end; ++n)
      for (int64_t g = 0; g < z.G; ++g) backward_samples<1, T>(a, n, g, weight, sums, dots);
  });
}

template <class T, class S = Compute<T>>
void backward_planes(const LayerNormBackwardArgs& a, const S* weight, S* partial) {
  using V = Vec<S>;
  const LayerNormShape& z = a.shape;
  for_groups(z, [&](int64_t m, int64_t g) {
    const T *x = a.x.as<T>() + m * z.D(), *dy = a.dy.as<T>() + m * z.D();
    T* dx = a.dx.as<T>() + m * z.D();
    const S *w = weight + g * z.K, mean_m = mean_of<S>(a.mean, m), rstd_m = a.rstd.as<S>()[m];
    S *sums = partial + 2 * (m / z.G) * z.C() + g * z.K, *dots = sums + z.C();
    Sums total;
    for (int64_t k = 0; k < z.K; ++k) {
      const Sums own = sums_of(dy, x, mean_m, Runs{k * z.L, 1, 0, z.L});
      total.sum += own.sum * double(w[k]);
      total.dot += own.dot * double(w[k]);
      sums[k] = S(own.sum);
      dots[k] = S(own.dot * double(rstd_m));
    }
    const Coefficients<S> k = coefficients_of<S>(a, m, total);
    const V mean = V::set1(k.mean), rstd = V::set1(k.rstd), shift = V::set1(k.shift),
            slope = V::set1(k.slope);
    for (int64_t c = 0; c < z.K; ++c, x += z.L, dy += z.L, dx += z.L) {
      const V factor = V::set1(w[c]);
      for_vectors<V>(z.L, [&](int64_t i, auto lanes) {
        const V d = fma(lanes.load(dy + i), factor, -shift);
        lanes.store(dx + i, fnma(lanes.load(x + i) - mean, slope, d) * rstd);
      });
    }
  });
}

// Channels-last images. `groups`: shift and slope of each group.
template <class T, class S = Compute<T>>
void backward_images(const LayerNormBackwardArgs& a, const S* weight, S* partial, S* groups) {
  using V = Vec<S>;
  const LayerNormShape& z = a.shape;
  const int64_t C = z.C();
  const T *x = a.x.as<T>(), *dy = a.dy.as<T>();
  T* dx = a.dx.as<T>();
  for_samples(z, [&](int64_t n) {
    const S *means = a.mean.as<S>() + n * z.G, *rstds = a.rstd.as<S>() + n * z.G;
    S* own = groups + 2 * n * z.G;
    for_blocks(z, n, [&](int64_t block, int64_t begin, int64_t end) {
      S *mean = scratch<S>(Scratch::row, 2 * C), *rstd = mean + C;
      S *sums = partial + 2 * block * C, *dots = sums + C;
      spread(z, means, 1, mean);
      spread(z, rstds, 1, rstd);
      column_sums(dy + begin * C, x + begin * C, end - begin, C, mean, sums, dots);
      for (int64_t c = 0; c < C; ++c) dots[c] *= rstd[c];
    });
    parallel_ranges(z.G, channels_per_task / larger(1, z.K) + 1, [&](int64_t first, int64_t last) {
      for (int64_t g = first; g < last; ++g) {
        Sums total;
        for (int64_t b = 0; b < z.blocks_per_sample(); ++b) {
          const S *sums = partial + 2 * (n * z.blocks_per_sample() + b) * C, *dots = sums + C;
          for (int64_t c = g * z.K; c < (g + 1) * z.K; ++c) {
            total.sum += double(sums[c]) * double(weight[c]);
            total.dot += double(dots[c]) * double(weight[c]);
          }
        }
        total.dot /= double(rstds[g]);
        const Coefficients<S> k = coefficients_of<S>(a, n * z.G + g, total);
        own[2 * g] = k.shift;
        own[2 * g + 1] = k.slope;
      }
    });
    for_blocks(z, n, [&](int64_t, int64_t begin, int64_t end) {
      S *mean = scratch<S>(Scratch::row, 4 * C), *rstd = mean + C, *shift = rstd + C, *slope = shift + C;
      spread(z, means, 1, mean);
      spread(z, rstds, 1, rstd);
      spread(z, own, 2, shift);
      spread(z, own + 1, 2, slope);
      for (int64_t at = begin * C; at < end * C; at += C)
        for_vectors<V>(C, [&](int64_t c, auto lanes) {
          const V d = fma(lanes.load(dy + at + c), lanes.load(weight + c), -lanes.load(shift + c));
          const V centred = lanes.load(x + at + c) - lanes.load(mean + c);
          lanes.store(dx + at + c, fnma(centred, lanes.load(slope + c), d) * lanes.load(rstd + c));
        });
    });
  });
}

// Adds up what the blocks left of each column.
template <class S>
void add_blocks(const LayerNormBackwardArgs& a, const S* partial) {
  const int64_t C = a.shape.C();
  parallel_ranges(C, column_group, [&](int64_t begin, int64_t end) {
    double sums[column_group] = {}, dots[column_group] = {};
    for (int64_t b = 0; b < a.shape.blocks(); ++b) {
      const S *block_sums = partial + 2 * b * C + begin, *block_dots = block_sums + C;
      for (int64_t c = 0; c < end - begin; ++c) {
        sums[c] += double(block_sums[c]);
        dots[c] += double(block_dots[c]);
      }
    }
    for (int64_t c = begin; c < end; ++c) {
      if (a.dbias) set_parameter(a.dbias, c, sums[c - begin]);
      if (a.dweight) set_parameter(a.dweight, c, dots[c - begin]);
    }
  });
}

void backward(const LayerNormBackwardArgs& a) {
  const LayerNormShape& z = a.shape;
  dispatch_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    using S = Compute<T>;
    S* workspace = static_cast<S*>(a.workspace);
    S *partial = workspace + z.C(), *groups = partial + 2 * z.C() * z.blocks();
    const S* weight = parameters(a.weight, S(1), z.C(), workspace);
    if (z.L == 1)
      backward_rows<T>(a, weight, partial);
    else if (z.is_rows)
      backward_images<T>(a, weight, partial, groups);
    else
      backward_planes<T>(a, weight, partial);
    if (a.dweight || a.dbias) add_blocks(a, partial);
  });
}

}  // namespace

const LayerNormKernels layer_norm_kernels = {forward, backward};

}  // namespace lamina::LAMINA_ISA
