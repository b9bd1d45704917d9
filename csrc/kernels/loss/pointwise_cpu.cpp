#include "kernels/loss/pointwise.h"

#include "base/parallel.h"
#include "simd/lanes.h"
#include "simd/math.h"

namespace lamina::LAMINA_ISA {
namespace {

// What one element adds to the loss, and the derivatives of that by x and by the target.
struct Squared {
  template <class V>
  LAMINA_INLINE static V value(V x, V t, V, V) {
    return (x - t) * (x - t);
  }
  template <class V>
  LAMINA_INLINE static V by_x(V x, V t, V, V) {
    return (x - t) + (x - t);
  }
  template <class V>
  LAMINA_INLINE static V by_target(V x, V t, V, V) {
    return (t - x) + (t - x);
  }
};

struct Absolute {
  template <class V>
  LAMINA_INLINE static V value(V x, V t, V, V) {
    return abs(x - t);
  }
  template <class V>
  LAMINA_INLINE static V by_x(V x, V t, V, V) {
    const V d = x - t, zero = V::zero();
    return select(gt(d, zero), V::set1(1), select(lt(d, zero), V::set1(-1), d));  // 0 and NaN stay
  }
  template <class V>
  LAMINA_INLINE static V by_target(V x, V t, V w, V u) {
    return by_x(t, x, w, u);
  }
};

struct BinaryCrossEntropy {
  template <class V>
  LAMINA_INLINE static V value(V x, V t, V w, V u) {
    const V one = V::set1(1), h = fma(u - one, t, one);
    return w * fma(h, softplus(-x), (one - t) * x);
  }
  template <class V>
  LAMINA_INLINE static V by_x(V x, V t, V w, V u) {
    const V one = V::set1(1), h = fma(u - one, t, one);
    return w * fnma(h, sigmoid(-x), one - t);
  }
  template <class V>
  LAMINA_INLINE static V by_target(V x, V, V w, V u) {
    return w * fma(u - V::set1(1), softplus(-x), -x);
  }
};

// Calls f(Loss{}) for the kind of loss.
template <class F>
LAMINA_INLINE void dispatch_loss(PointwiseLoss kind, const F& f) {
  switch (kind) {
    case PointwiseLoss::mse:
      return f(Squared{});
    case PointwiseLoss::l1:
      return f(Absolute{});
    case PointwiseLoss::bce_with_logits:
      return f(BinaryCrossEntropy{});
  }
}

constexpr int64_t sum_block =
    256;  // elements summed in the compute dtype: some 10 additions per lane and chain

template <class T, class L>
LAMINA_INLINE VecOf<T> load_or_one(const View& v, int64_t i, L lanes) {
  return v ? lanes.load(v.as<T>() + i) : VecOf<T>::set1(1);
}

template <class T, class Loss>
[[gnu::flatten]] double forward_range(const PointwiseLossArgs& a, int64_t begin, int64_t n) {
  using V = VecOf<T>;
  const auto value = [&](int64_t i, auto lanes) {
    const int64_t at = begin + i;
    return Loss::value(lanes.load(a.x.as<T>() + at), lanes.load(a.target.as<T>() + at),
                       load_or_one<T>(a.weight, at, lanes), load_or_one<T>(a.pos_weight, at, lanes));
  };
  if (a.reduction == LossReduction::none) {
    for_vectors<V>(n,
                   [&](int64_t i, auto lanes) { lanes.store(a.loss.as<T>() + begin + i, value(i, lanes)); });
    return 0;
  }
  CompensatedSum sum;
  for (int64_t block = 0; block < n; block += sum_block) {
    const auto add = [&](V total, int64_t i, auto lanes) {
      return total + lanes.keep(value(block + i, lanes), V::zero());
    };
    const int64_t size = n - block < sum_block ? n - block : sum_block;
    sum.add(double(reduce_add(accumulate(size, V::zero(), add, [](V a, V b) { return a + b; }))));
  }
  return sum.value();
}

void forward(const PointwiseLossArgs& a) {
  dispatch_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const int64_t n = a.x.size();
    dispatch_loss(a.kind, [&](auto loss) {
      parallel_ranges(n, loss_chunk_elements, [&](int64_t begin, int64_t end) {
        a.partial[begin / loss_chunk_elements] = forward_range<T, decltype(loss)>(a, begin, end - begin);
      });
    });
    if (a.reduction == LossReduction::none) return;
    CompensatedSum sum;
    for (int64_t i = 0; i < pointwise_loss_chunks(n); ++i) sum.add(a.partial[i]);
    const double total = a.reduction == LossReduction::mean ? sum.value() / double(n) : sum.value();
    a.loss.as<T>()[0] = narrow<T>(Compute<T>(total));
  });
}

template <class T, class Loss>
[[gnu::flatten]] void backward_range(const PointwiseLossBackwardArgs& a, int64_t begin, int64_t n,
                                     Compute<T> scale) {
  using V = VecOf<T>;
  const bool is_reduced = a.reduction != LossReduction::none;
  const V scales = V::set1(scale);
  for_vectors<V>(n, [&](int64_t i, auto lanes) {
    const int64_t at = begin + i;
    const V g = is_reduced ? scales : lanes.load(a.dloss.as<T>() + at);
    const V x = lanes.load(a.x.as<T>() + at), t = lanes.load(a.target.as<T>() + at);
    const V w = load_or_one<T>(a.weight, at, lanes), u = load_or_one<T>(a.pos_weight, at, lanes);
    if (a.dx) lanes.store(a.dx.as<T>() + at, g * Loss::by_x(x, t, w, u));
    if (a.dtarget) lanes.store(a.dtarget.as<T>() + at, g * Loss::by_target(x, t, w, u));
  });
}

void backward(const PointwiseLossBackwardArgs& a) {
  dispatch_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const int64_t n = a.x.size();
    if (n == 0) return;
    const Compute<T> g = widen(a.dloss.as<T>()[0]);
    const Compute<T> scale = a.reduction == LossReduction::mean ? g / Compute<T>(n) : g;
    dispatch_loss(a.kind, [&](auto loss) {
      parallel_ranges(n, loss_chunk_elements, [&](int64_t begin, int64_t end) {
        backward_range<T, decltype(loss)>(a, begin, end - begin, scale);
      });
    });
  });
}

}  // namespace

const PointwiseLossKernels pointwise_loss_kernels = {forward, backward};

}  // namespace lamina::LAMINA_ISA
