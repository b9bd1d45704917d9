#include "kernels/loss/cross_entropy.h"

#include "base/parallel.h"
#include "kernels/softmax/rows.h"

namespace lamina::LAMINA_ISA {
namespace {

static_assert(column_tile == class_loss_tile);

bool has_labels(const ClassLoss& to) { return !is_floating(to.target.dtype); }

// A position's label and its weight. Ignored: weight 0. Out of range: weight NaN, and a class that may be
// read.
template <class S>
struct Label {
  int64_t c;
  S weight;
  bool is_ignored;
};

template <class T>
LAMINA_INLINE Label<Compute<T>> label_at(const ClassLoss& to, int64_t at) {
  const int64_t c =
      to.target.dtype == Dtype::int64 ? to.target.as<int64_t>()[at] : to.target.as<int32_t>()[at];
  if (c == to.ignore_index) return {0, 0, true};
  if (c < 0 || c >= to.C) return {0, Compute<T>(__builtin_nanf("")), false};
  return {c, to.weight ? widen(to.weight.as<T>()[c]) : 1, false};
}

// w[c ...] of the lanes, 1 if there are no weights.
template <class T, class L>
LAMINA_INLINE VecOf<T> weights_at(const ClassLoss& to, int64_t c, L lanes) {
  return to.weight ? lanes.load(to.weight.as<T>() + c) : VecOf<T>::set1(1);
}

template <class T>
LAMINA_INLINE Compute<T> weight_at(const ClassLoss& to, int64_t c) {
  return to.weight ? widen(to.weight.as<T>()[c]) : 1;
}

template <class T>
Compute<T> sum_of_weights(const ClassLoss& to) {
  if (!to.weight) return Compute<T>(to.C);
  return row_sum<VecOf<T>>(to.C, [&](int64_t c, auto lanes) { return weights_at<T>(to, c, lanes); });
}

struct Sums {
  CompensatedSum loss, weight;
};

// A position's loss goes to its place, or into the sum of its chunk.
template <class T>
LAMINA_INLINE void record(const ClassLoss& to, const View& loss, int64_t at, Compute<T> value,
                          Compute<T> weight, Sums& sums) {
  if (to.reduction == LossReduction::none) loss.as<T>()[at] = narrow<T>(value);
  sums.loss.add(double(value));
  sums.weight.add(double(weight));
}

template <class T>
void finish(const ClassLoss& to, const View& loss, const View& total, const double* partial, int64_t chunks) {
  Sums sums;
  for (int64_t i = 0; i < chunks; ++i) sums.loss.add(partial[2 * i]), sums.weight.add(partial[2 * i + 1]);
  const double loss_sum = sums.loss.value();
  const double divisor = has_labels(to) ? sums.weight.value() : double(to.O * to.I);
  *total.as<Compute<T>>() = Compute<T>(divisor);
  if (to.reduction == LossReduction::none) return;
  loss.as<T>()[0] =
      narrow<T>(Compute<T>(to.reduction == LossReduction::mean ? loss_sum / divisor : loss_sum));
}

// dloss of a position, over the divisor of the mean.
template <class T>
LAMINA_INLINE Compute<T> dloss_at(const ClassLoss& to, const View& dloss, const View& total, int64_t at) {
  using S = Compute<T>;
  const S g = widen(dloss.as<T>()[to.reduction == LossReduction::none ? at : 0]);
  return to.reduction == LossReduction::mean ? g / *total.as<S>() : g;
}

// Runs rows(begin, end, sums) for ranges of rows where I = 1, else tile(o, i, n, sums) for n columns from i on.
// The sums of chunk k go to partial[2 k], unless it is null.
template <class Rows, class Tile>
LAMINA_INLINE void for_items(const ClassLoss& to, double* partial, const Rows& rows, const Tile& tile) {
  const ClassLossTasks tasks = class_loss_tasks(to.O, to.C, to.I);
  parallel_ranges(tasks.items, tasks.grain, [&](int64_t begin, int64_t end) {
    Sums sums;
    if (to.I == 1) {
      rows(begin, end, sums);
    } else {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t i = item % tasks.tiles * column_tile;
        tile(item / tasks.tiles, i, smaller(column_tile, to.I - i), sums);
      }
    }
    if (!partial) return;
    partial[2 * (begin / tasks.grain)] = sums.loss.value();
    partial[2 * (begin / tasks.grain) + 1] = sums.weight.value();
  });
}

template <class T>
[[gnu::flatten]] void forward_rows(const CrossEntropyArgs& a, int64_t begin, int64_t end, Sums& sums) {
  using V = VecOf<T>;
  using S = Compute<T>;
  const ClassLoss& to = a.to;
  const bool is_labelled = has_labels(to);
  const S e = S(to.label_smoothing), uniform = e / S(to.C);
  S* shift = a.stats.as<S>();
  S* log_sum = shift + to.O;
  for (int64_t o = begin; o < end; ++o) {
    const ExpSum<S> row = row_exp_sum(a.logits.as<T>() + o * to.C, to.C);
    shift[o] = row.shift;
    log_sum[o] = row.sum;
  }
  for_vectors<V>(end - begin, [&](int64_t k, auto lanes) {
    lanes.store(log_sum + begin + k, log(lanes.load(log_sum + begin + k)));
  });
  for (int64_t o = begin; o < end; ++o) {
    const T* x = a.logits.as<T>() + o * to.C;
    const auto minus_log_p = [&](int64_t c, auto lanes) {
      return V::set1(shift[o]) - lanes.load(x + c) + V::set1(log_sum[o]);
    };
    if (!is_labelled) {
      const T* q = to.target.as<T>() + o * to.C;
      const S loss = row_sum<V>(to.C, [&](int64_t c, auto lanes) {
        const V mixed = fma(V::set1(1 - e), lanes.load(q + c), V::set1(uniform));
        return weights_at<T>(to, c, lanes) * mixed * minus_log_p(c, lanes);
      });
      record<T>(to, a.loss, o, loss, 1, sums);
      continue;
    }
    const Label<S> label = label_at<T>(to, o);
    S loss = 0;
    if (!label.is_ignored) {
      loss = (1 - e) * label.weight * (shift[o] - widen(x[label.c]) + log_sum[o]);
      if (e > 0)
        loss += uniform * row_sum<V>(to.C, [&](int64_t c, auto lanes) {
                  return weights_at<T>(to, c, lanes) * minus_log_p(c, lanes);
                });
    }
    record<T>(to, a.loss, o, loss, label.weight, sums);
  }
}

template <class T>
[[gnu::flatten]] void forward_tile(const CrossEntropyArgs& a, int64_t o, int64_t i, int64_t n, Sums& sums) {
  using V = VecOf<T>;
  using S = Compute<T>;
  const ClassLoss& to = a.to;
  const int64_t first = o * to.C * to.I + i, at = o * to.I + i;
  const T* x = a.logits.as<T>() + first;
  S shift[column_tile], log_sum[column_tile], spread[column_tile] = {};
  column_exp_sums(x, to.C, to.I, n, shift, log_sum);
  for_vectors<V>(n, [&](int64_t k, auto lanes) {
    const V logs = log(lanes.load(log_sum + k));
    lanes.store(log_sum + k, logs);
    lanes.store(a.stats.as<S>() + at + k, lanes.load(shift + k));
    lanes.store(a.stats.as<S>() + to.O * to.I + at + k, logs);
  });
  // spread: the sum over classes of -w[c] log p[c], times q'[c] where probabilities are given.
  const S e = S(to.label_smoothing), uniform = e / S(to.C);
  const bool is_labelled = has_labels(to);
  const T* q = is_labelled ? nullptr : to.target.as<T>() + first;
  for (int64_t c = 0; c < to.C && (e > 0 || !is_labelled); ++c) {
    const V weight = V::set1(weight_at<T>(to, c));
    for_vectors<V>(n, [&](int64_t k, auto lanes) {
      V term = weight * (lanes.load(shift + k) - lanes.load(x + c * to.I + k) + lanes.load(log_sum + k));
      if (!is_labelled) term = term * fma(V::set1(1 - e), lanes.load(q + c * to.I + k), V::set1(uniform));
      lanes.store(spread + k, lanes.load(spread + k) + term);
    });
  }
  for (int64_t k = 0; k < n; ++k) {
    if (!is_labelled) {
      record<T>(to, a.loss, at + k, spread[k], 1, sums);
      continue;
    }
    const Label<S> label = label_at<T>(to, at + k);
    S loss = 0;
    if (!label.is_ignored) {
      loss = (1 - e) * label.weight * (shift[k] - widen(x[label.c * to.I + k]) + log_sum[k]);
      if (e > 0) loss += uniform * spread[k];
    }
    record<T>(to, a.loss, at + k, loss, label.weight, sums);
  }
}

void cross_entropy(const CrossEntropyArgs& a) {
  dispatch_float(a.logits.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    for_items(
        a.to, a.partial,
        [&](int64_t begin, int64_t end, Sums& sums) { forward_rows<T>(a, begin, end, sums); },
        [&](int64_t o, int64_t i, int64_t n, Sums& sums) { forward_tile<T>(a, o, i, n, sums); });
    finish<T>(a.to, a.loss, a.total, a.partial, class_loss_tasks(a.to.O, a.to.C, a.to.I).chunks());
  });
}

// Labels: dx[c] = p[c] * slope - w[c] * flat, and at the label less `peak`.
template <class S>
struct LabelGradient {
  S slope, flat, peak;
  bool is_ignored;
};
template <class T>
LAMINA_INLINE LabelGradient<Compute<T>> label_gradient(const ClassLoss& to, const Label<Compute<T>>& label,
                                                       Compute<T> g, Compute<T> sum_of_weights) {
  using S = Compute<T>;
  const S e = S(to.label_smoothing), peak = g * (1 - e) * label.weight, flat = g * e / S(to.C);
  if (label.is_ignored) return {0, 0, 0, true};
  return {e > 0 ? peak + flat * sum_of_weights : peak, flat, peak, false};
}

template <class T>
[[gnu::flatten]] void backward_row(const CrossEntropyBackwardArgs& a, int64_t o, Compute<T> all_weights) {
  using V = VecOf<T>;
  using S = Compute<T>;
  const ClassLoss& to = a.to;
  const T* x = a.logits.as<T>() + o * to.C;
  const S shift = a.stats.as<S>()[o], log_sum = a.stats.as<S>()[to.O + o];
  const S g = dloss_at<T>(to, a.dloss, a.total, o);
  const V shifts = V::set1(shift), log_sums = V::set1(log_sum);
  const auto log_p = [&](int64_t c, auto lanes) { return lanes.load(x + c) - shifts - log_sums; };
  if (has_labels(to)) {
    T* dx = a.dlogits.as<T>() + o * to.C;
    const Label<S> label = label_at<T>(to, o);
    const auto [slope, flat, peak, is_ignored] = label_gradient<T>(to, label, g, all_weights);
    if (is_ignored) {
      __builtin_memset(dx, 0, size_t(to.C) * sizeof(T));
      return;
    }
    const V slopes = V::set1(slope), flats = V::set1(flat);
    if (flat == 0)
      for_vectors<V>(to.C,
                     [&](int64_t c, auto lanes) { lanes.store(dx + c, exp(log_p(c, lanes)) * slopes); });
    else
      for_vectors<V>(to.C, [&](int64_t c, auto lanes) {
        lanes.store(dx + c, fnma(weights_at<T>(to, c, lanes), flats, exp(log_p(c, lanes)) * slopes));
      });
    const S p = exp_of(widen(x[label.c]) - shift - log_sum);
    dx[label.c] = narrow<T>(p * slope - (flat == 0 ? 0 : weight_at<T>(to, label.c) * flat) - peak);
    return;
  }
  const T* q = to.target.as<T>() + o * to.C;
  const V keep = V::set1(S(1 - to.label_smoothing)), uniform = V::set1(S(to.label_smoothing) / S(to.C)),
          gs = V::set1(g);
  const auto weighted = [&](int64_t c, auto lanes) {
    return weights_at<T>(to, c, lanes) * fma(keep, lanes.load(q + c), uniform);
  };
  if (a.dlogits) {
    T* dx = a.dlogits.as<T>() + o * to.C;
    const V mass = V::set1(row_sum<V>(to.C, weighted));
    for_vectors<V>(to.C, [&](int64_t c, auto lanes) {
      lanes.store(dx + c, gs * (exp(log_p(c, lanes)) * mass - weighted(c, lanes)));
    });
  }
  if (a.dtarget) {
    T* dq = a.dtarget.as<T>() + o * to.C;
    for_vectors<V>(to.C, [&](int64_t c, auto lanes) {
      lanes.store(dq + c, -(gs * keep * weights_at<T>(to, c, lanes) * log_p(c, lanes)));
    });
  }
}

template <class T>
[[gnu::flatten]] void backward_tile(const CrossEntropyBackwardArgs& a, int64_t o, int64_t i, int64_t n,
                                    Compute<T> all_weights) {
  using V = VecOf<T>;
  using S = Compute<T>;
  const ClassLoss& to = a.to;
  const int64_t first = o * to.C * to.I + i, at = o * to.I + i;
  const T* x = a.logits.as<T>() + first;
  const S* shift = a.stats.as<S>() + at;
  const S* log_sum = shift + to.O * to.I;
  const auto log_p = [&](int64_t c, int64_t k, auto lanes) {
    return lanes.load(x + c * to.I + k) - lanes.load(shift + k) - lanes.load(log_sum + k);
  };
  if (has_labels(to)) {
    T* dx = a.dlogits.as<T>() + first;
    S slope[column_tile], flat[column_tile], counts[column_tile];
    for (int64_t k = 0; k < n; ++k) {
      const S g = dloss_at<T>(to, a.dloss, a.total, at + k);
      const auto gradient = label_gradient<T>(to, label_at<T>(to, at + k), g, all_weights);
      slope[k] = gradient.slope;
      flat[k] = gradient.flat;
      counts[k] = gradient.is_ignored ? 0 : 1;
    }
    for (int64_t c = 0; c < to.C; ++c) {
      const V weight = V::set1(weight_at<T>(to, c));
      for_vectors<V>(n, [&](int64_t k, auto lanes) {
        const V d = fnma(weight, lanes.load(flat + k), exp(log_p(c, k, lanes)) * lanes.load(slope + k));
        lanes.store(dx + c * to.I + k, select(eq(lanes.load(counts + k), V::zero()), V::zero(), d));
      });
    }
    for (int64_t k = 0; k < n; ++k) {
      const Label<S> label = label_at<T>(to, at + k);
      if (label.is_ignored) continue;
      const S g = dloss_at<T>(to, a.dloss, a.total, at + k);
      const S peak = label_gradient<T>(to, label, g, all_weights).peak;
      const S p = exp_of(widen(x[label.c * to.I + k]) - shift[k] - log_sum[k]);
      dx[label.c * to.I + k] = narrow<T>(p * slope[k] - weight_at<T>(to, label.c) * flat[k] - peak);
    }
    return;
  }
  const T* q = to.target.as<T>() + first;
  const V keep = V::set1(S(1 - to.label_smoothing)), uniform = V::set1(S(to.label_smoothing) / S(to.C));
  S g[column_tile], mass[column_tile] = {};
  for (int64_t k = 0; k < n; ++k) g[k] = dloss_at<T>(to, a.dloss, a.total, at + k);
  const auto mixed = [&](int64_t c, int64_t k, auto lanes) {
    return fma(keep, lanes.load(q + c * to.I + k), uniform);
  };
  for (int64_t c = 0; c < to.C && a.dlogits; ++c) {
    const V weight = V::set1(weight_at<T>(to, c));
    for_vectors<V>(n, [&](int64_t k, auto lanes) {
      lanes.store(mass + k, fma(weight, mixed(c, k, lanes), lanes.load(mass + k)));
    });
  }
  for (int64_t c = 0; c < to.C; ++c) {
    const V weight = V::set1(weight_at<T>(to, c));
    for_vectors<V>(n, [&](int64_t k, auto lanes) {
      const V logs = log_p(c, k, lanes), gs = lanes.load(g + k);
      if (a.dlogits)
        lanes.store(a.dlogits.as<T>() + first + c * to.I + k,
                    gs * (exp(logs) * lanes.load(mass + k) - weight * mixed(c, k, lanes)));
      if (a.dtarget) lanes.store(a.dtarget.as<T>() + first + c * to.I + k, -(gs * keep * weight * logs));
    });
  }
}

void cross_entropy_backward(const CrossEntropyBackwardArgs& a) {
  dispatch_float(a.logits.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const Compute<T> all_weights = sum_of_weights<T>(a.to);
    for_items(
        a.to, nullptr,
        [&](int64_t begin, int64_t end, Sums&) {
          for (int64_t o = begin; o < end; ++o) backward_row<T>(a, o, all_weights);
        },
        [&](int64_t o, int64_t i, int64_t n, Sums&) { backward_tile<T>(a, o, i, n, all_weights); });
  });
}

void nll(const NllArgs& a) {
  dispatch_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const ClassLoss& to = a.to;
    parallel_ranges(to.O * to.I, loss_chunk_elements, [&](int64_t begin, int64_t end) {
      Sums sums;
      for (int64_t at = begin; at < end; ++at) {
        const auto label = label_at<T>(to, at);
        const int64_t o = at / to.I, i = at % to.I;
        // A bad label's weight is NaN; an ignored one counts nothing, whatever x holds.
        const Compute<T> x = label.is_ignored ? 0 : widen(a.x.as<T>()[(o * to.C + label.c) * to.I + i]);
        record<T>(to, a.loss, at, -label.weight * x, label.weight, sums);
      }
      a.partial[2 * (begin / loss_chunk_elements)] = sums.loss.value();
      a.partial[2 * (begin / loss_chunk_elements) + 1] = sums.weight.value();
    });
    finish<T>(to, a.loss, a.total, a.partial, nll_chunks(to.O * to.I));
  });
}

void nll_backward(const NllBackwardArgs& a) {
  dispatch_float(a.dx.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const ClassLoss& to = a.to;
    T* dx = a.dx.as<T>();
    parallel_ranges(to.O * to.C * to.I, loss_chunk_elements, [&](int64_t begin, int64_t end) {
      __builtin_memset(dx + begin, 0, size_t(end - begin) * sizeof(T));
    });
    parallel_ranges(to.O * to.I, loss_chunk_elements, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) {
        const auto label = label_at<T>(to, at);
        const int64_t o = at / to.I, i = at % to.I;
        if (!label.is_ignored)
          dx[(o * to.C + label.c) * to.I + i] =
              narrow<T>(-label.weight * dloss_at<T>(to, a.dloss, a.total, at));
      }
    });
  });
}

}  // namespace

const ClassLossKernels class_loss_kernels = {cross_entropy, cross_entropy_backward, nll, nll_backward};

}  // namespace lamina::LAMINA_ISA
