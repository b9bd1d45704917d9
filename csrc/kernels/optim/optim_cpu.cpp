#include "kernels/optim/optim.h"

#include "base/parallel.h"
#include "simd/lanes.h"

namespace lamina::LAMINA_ISA {
namespace {

// Bytes ahead of the loads: a page boundary stops the hardware prefetcher of each stream, 1 KB bridges it.
constexpr int64_t prefetch_bytes = 1024;

template <class T>
LAMINA_INLINE void prefetch(const T* p) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + prefetch_bytes);
}

// Address of an element; null in an array that is absent.
template <class T>
LAMINA_INLINE T* element(void* data, int64_t i) {
  return data ? static_cast<T*>(data) + i : nullptr;
}

double read_scalar(const View& v, double absent) {
  if (!v) return absent;
  return v.dtype == Dtype::float64 ? *v.as<double>() : double(*v.as<float>());
}

void write_scalar(const View& v, double value) {
  if (v.dtype == Dtype::float64)
    *v.as<double>() = value;
  else
    *v.as<float>() = float(value);
}

// Calls piece(tensor, from, to) for the parts of tensors that make up elements [begin, end) of the sequence.
template <class F>
LAMINA_INLINE void for_pieces(const OptimTable& table, int64_t begin, int64_t end, const F& piece) {
  int64_t low = 0, high = table.count;  // the last tensor that begins at or before `begin`
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (table.tensors[middle].begin <= begin ? low : high) = middle;
  }
  for (int64_t i = low; i < table.count && table.tensors[i].begin < end; ++i) {
    const OptimTensor& t = table.tensors[i];
    const int64_t from = begin > t.begin ? begin - t.begin : 0,
                  to = end - t.begin < t.n ? end - t.begin : t.n;
    if (from < to) piece(t, from, to);
  }
}

template <class F>
LAMINA_INLINE void for_all_pieces(const OptimTable& table, const F& piece) {
  parallel_ranges(table.elements, optim_chunk_elements,
                  [&](int64_t begin, int64_t end) { for_pieces(table, begin, end, piece); });
}

// Counts the step of every tensor and sets its two coefficients. Tensors mostly share their count:
// coefficients are computed once per run of equal counts.
template <class F>
LAMINA_INLINE void begin_step(const OptimTable& table, double* coefficients, const F& compute) {
  int64_t known = -1;
  double pair[2] = {};
  for (int64_t i = 0; i < table.count; ++i) {
    const int64_t step = step_of(table.tensors[i]);
    count_step(table.tensors[i]);
    if (step != known) compute(known = step, pair);
    coefficients[2 * i] = pair[0];
    coefficients[2 * i + 1] = pair[1];
  }
}

template <class T, bool has_amsgrad, bool has_coupled_decay>
[[gnu::flatten]] void adam_piece(const AdamArgs& a, const OptimTensor& t, int64_t begin, int64_t end,
                                 double scale, double keep) {
  using V = VecOf<T>;
  using S = Compute<T>;
  T* p = element<T>(t.param, begin);
  const T* grad = element<T>(t.grad, begin);
  S* m = element<S>(t.m, begin);
  S* v = element<S>(t.v, begin);
  S* vmax = element<S>(t.vmax, begin);
  const V gscale = V::set1(S(scale)), pscale = V::set1(S(keep)), decay = V::set1(S(a.weight_decay));
  const V b1 = V::set1(S(a.beta1)), c1 = V::set1(S(1 - a.beta1)), b2 = V::set1(S(a.beta2)),
          c2 = V::set1(S(1 - a.beta2));
  const double* coefficients = a.coefficients + 2 * (&t - a.table.tensors);
  const V step_size = V::set1(S(coefficients[0])), correction = V::set1(S(coefficients[1])),
          eps = V::set1(S(a.eps));
  for_vectors<V>(end - begin, [&](int64_t i, auto lanes) {
    prefetch(p + i);
    prefetch(grad + i);
    prefetch(m + i);
    prefetch(v + i);
    V param = lanes.load(p + i) * pscale;
    V g = lanes.load(grad + i) * gscale;
    if constexpr (has_coupled_decay) g = fma(decay, param, g);
    const V mean = fma(b1, lanes.load(m + i), c1 * g);
    V square = fma(c2 * g, g, b2 * lanes.load(v + i));
    lanes.store(m + i, mean);
    lanes.store(v + i, square);
    if constexpr (has_amsgrad) {
      square = max(lanes.load(vmax + i), square);
      lanes.store(vmax + i, square);
    }
    lanes.store(p + i, param - step_size * mean / fma(sqrt(square), correction, eps));
  });
}

void adam(const AdamArgs& a) {
  const double lr = read_scalar(a.lr, 0), scale = read_scalar(a.scale, 1) * (a.maximize ? -1 : 1);
  const double keep = a.is_decoupled ? 1 - lr * a.weight_decay : 1;
  const bool has_coupled_decay = !a.is_decoupled && a.weight_decay != 0;
  begin_step(a.table, a.coefficients, [&](int64_t step, double* coefficient) {
    coefficient[0] = lr / (1 - __builtin_pow(a.beta1, double(step)));
    coefficient[1] = 1 / __builtin_sqrt(1 - __builtin_pow(a.beta2, double(step)));
  });
  for_all_pieces(a.table, [&](const OptimTensor& tensor, int64_t begin, int64_t end) {
    dispatch_float(tensor.dtype, [&](auto t) {
      using T = typename decltype(t)::type;
      const auto piece = a.has_amsgrad
                             ? (has_coupled_decay ? adam_piece<T, true, true> : adam_piece<T, true, false>)
                             : (has_coupled_decay ? adam_piece<T, false, true> : adam_piece<T, false, false>);
      piece(a, tensor, begin, end, scale, keep);
    });
  });
}

template <class T, bool has_momentum>
[[gnu::flatten]] void sgd_piece(const SgdArgs& a, const OptimTensor& t, int64_t begin, int64_t end, double lr,
                                double scale) {
  using V = VecOf<T>;
  using S = Compute<T>;
  T* p = element<T>(t.param, begin);
  const T* grad = element<T>(t.grad, begin);
  S* buffer = element<S>(t.m, begin);
  const V gscale = V::set1(S(scale)), decay = V::set1(S(a.weight_decay)), step_size = V::set1(S(lr));
  const double none[2] = {};
  const double* coefficients = has_momentum ? a.coefficients + 2 * (&t - a.table.tensors) : none;
  const V mu = V::set1(S(a.momentum)), keep = V::set1(S(coefficients[0])), add = V::set1(S(coefficients[1]));
  for_vectors<V>(end - begin, [&](int64_t i, auto lanes) {
    prefetch(p + i);
    prefetch(grad + i);
    const V param = lanes.load(p + i);
    V g = lanes.load(grad + i) * gscale;
    if (a.weight_decay != 0) g = fma(decay, param, g);
    if constexpr (has_momentum) {
      prefetch(buffer + i);
      const V b = fma(add, g, keep * lanes.load(buffer + i));
      lanes.store(buffer + i, b);
      g = a.is_nesterov ? fma(mu, b, g) : b;
    }
    lanes.store(p + i, fnma(step_size, g, param));
  });
}

void sgd(const SgdArgs& a) {
  const double lr = read_scalar(a.lr, 0), scale = read_scalar(a.scale, 1) * (a.maximize ? -1 : 1);
  const bool has_momentum = a.momentum != 0;
  if (has_momentum)
    begin_step(a.table, a.coefficients, [&](int64_t step, double* coefficient) {
      coefficient[0] = step > 1 ? a.momentum : 0;
      coefficient[1] = step > 1 ? 1 - a.dampening : 1;
    });
  for_all_pieces(a.table, [&](const OptimTensor& tensor, int64_t begin, int64_t end) {
    dispatch_float(tensor.dtype, [&](auto t) {
      using T = typename decltype(t)::type;
      (has_momentum ? sgd_piece<T, true> : sgd_piece<T, false>)(a, tensor, begin, end, lr, scale);
    });
  });
}

template <class T>
[[gnu::flatten]] double norm_piece(const T* g, int64_t n, NormOrder order) {
  using V = VecOf<T>;
  const auto add = [](V a, V b) { return a + b; };
  const auto larger = [](V a, V b) { return max(a, b); };
  const V zero = V::zero();  // also what the lanes beyond the end load
  switch (order) {
    case NormOrder::one:
      return reduce_add(accumulate(
          n, zero, [&](V sum, int64_t i, auto lanes) { return sum + abs(lanes.load(g + i)); }, add));
    case NormOrder::two:
      return reduce_add(accumulate(
          n, zero,
          [&](V sum, int64_t i, auto lanes) {
            const V x = lanes.load(g + i);
            return fma(x, x, sum);
          },
          add));
    case NormOrder::infinity:
      return reduce_max(accumulate(
          n, zero, [&](V most, int64_t i, auto lanes) { return max(most, abs(lanes.load(g + i))); }, larger));
  }
  __builtin_unreachable();
}

template <class T>
[[gnu::flatten]] void scale_piece(T* g, int64_t n, double scale) {
  using V = VecOf<T>;
  const V factor = V::set1(Compute<T>(scale));
  for_vectors<V>(n, [&](int64_t i, auto lanes) { lanes.store(g + i, lanes.load(g + i) * factor); });
}

void grad_norm(const GradNormArgs& a) {
  // NaN wins a maximum, as in NumPy.
  const auto join = [&](double x, double y) {
    if (a.order != NormOrder::infinity) return x + y;
    return x > y || x != x ? x : y;
  };
  parallel_ranges(a.table.elements, optim_chunk_elements, [&](int64_t begin, int64_t end) {
    double sum = 0;
    for_pieces(a.table, begin, end, [&](const OptimTensor& tensor, int64_t from, int64_t to) {
      dispatch_float(tensor.dtype, [&](auto t) {
        using T = typename decltype(t)::type;
        sum = join(sum, norm_piece(static_cast<const T*>(tensor.grad) + from, to - from, a.order));
      });
    });
    a.partial[begin / optim_chunk_elements] = sum;
  });
  double norm = 0;
  for (int64_t i = 0; i < optim_chunks(a.table.elements); ++i) norm = join(norm, a.partial[i]);
  if (a.order == NormOrder::two) norm = __builtin_sqrt(norm);
  double clip = a.max_norm / (norm + 1e-6);
  if (clip > 1) clip = 1;  // false for NaN, which stays
  write_scalar(a.norm, norm);
  write_scalar(a.clip, clip);
  if (!a.clip_in_place || clip == 1) return;
  for_all_pieces(a.table, [&](const OptimTensor& tensor, int64_t begin, int64_t end) {
    dispatch_float(tensor.dtype, [&](auto t) {
      using T = typename decltype(t)::type;
      scale_piece(static_cast<T*>(tensor.grad) + begin, end - begin, clip);
    });
  });
}

}  // namespace

const OptimKernels optim_kernels = {adam, sgd, grad_norm};

}  // namespace lamina::LAMINA_ISA
