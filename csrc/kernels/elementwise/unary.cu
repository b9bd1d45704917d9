// Functions of one operand and their derivatives: a line each in the two tables below.
#include "kernels/elementwise/elementwise.cuh"
#include "prim/activation.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

template <class S>
LAMINA_PRIM S sign(S x) {  // x itself where it is 0 or NaN
  return x > S(0) ? S(1) : x < S(0) ? S(-1) : x;
}

// GELU's approximation is x s, s = sigmoid(2 u), 2 u = x (linear + cubic x^2) (Hendrycks and Gimpel, arXiv 1606.08415).
inline constexpr double gelu_linear = 1.59576912160573071176, gelu_cubic = gelu_linear * 0.044715;
template <class S>
LAMINA_PRIM S gelu_gate(S x) {
  return prim::sigmoid(x * prim::fma(x * x, S(gelu_cubic), S(gelu_linear)));
}

// A bound as a number: the nearest one that an integer type has, so that infinite bounds are no bounds.
template <class S>
LAMINA_PRIM S bound(double p) {
  if constexpr (is_floating(dtype_of<S>)) {
    return S(p);
  } else {
    constexpr S least = prim::lowest<S>(), most = prim::highest<S>();
    return p <= double(least) ? least : p >= double(most) ? most : S(p);
  }
}

// Calls apply(f), where y = f(x).
template <class S, class F>
LAMINA_PRIM void dispatch_value(int op, const double (&p)[2], F apply) {
  using U = Wrapping<S>;
  switch (op) {
    case unary_op("neg"):
      return apply([](S x) { return S(-U(x)); });
    case unary_op("abs"):
      return apply([](S x) {
        if constexpr (is_floating(dtype_of<S>))
          return prim::abs(x);
        else
          return x < 0 ? S(-U(x)) : x;
      });
    case unary_op("sign"):
      return apply([](S x) { return sign(x); });
    case unary_op("square"):
      return apply([](S x) { return S(U(x) * U(x)); });
    case unary_op("clamp"): {  // in this order NaN passes
      const S least = bound<S>(p[0]), most = bound<S>(p[1]);
      return apply([=](S x) {
        const S raised = x < least ? least : x;
        return raised > most ? most : raised;
      });
    }
    case unary_op("logical_not"):
      return apply([](S x) { return S(x == S(0)); });
  }
  if constexpr (is_floating(dtype_of<S>)) {
    switch (op) {
      case unary_op("exp"):
        return apply([](S x) { return prim::exp(x); });
      case unary_op("expm1"):
        return apply([](S x) { return prim::expm1(x); });
      case unary_op("log"):
        return apply([](S x) { return prim::log(x); });
      case unary_op("log1p"):
        return apply([](S x) { return prim::log1p(x); });
      case unary_op("sqrt"):
        return apply([](S x) { return prim::sqrt(x); });
      case unary_op("rsqrt"):
        return apply([](S x) { return prim::rsqrt(x); });
      case unary_op("reciprocal"):
        return apply([](S x) { return S(1) / x; });
      case unary_op("sin"):
        return apply([](S x) { return prim::sin(x); });
      case unary_op("cos"):
        return apply([](S x) { return prim::cos(x); });
      case unary_op("tanh"):
        return apply([](S x) { return prim::tanh(x); });
      case unary_op("sigmoid"):
        return apply([](S x) { return prim::sigmoid(x); });
      case unary_op("erf"):
        return apply([](S x) { return prim::erf(x); });
      case unary_op("relu"):
        return apply([](S x) { return x < S(0) ? S(0) : x; });  // NaN passes
      case unary_op("leaky_relu"):
        return apply([slope = S(p[0])](S x) { return x > S(0) ? x : x * slope; });
      case unary_op("elu"):
        return apply([alpha = S(p[0])](S x) { return x > S(0) ? x : alpha * prim::expm1(x); });
      case unary_op("gelu"):
        if (p[0]) return apply([](S x) { return x * gelu_gate(x); });
        return apply([](S x) { return x * prim::normal_cdf(x); });
      case unary_op("silu"):
        return apply([](S x) { return x * prim::sigmoid(x); });
      case unary_op("softplus"):  // log(1 + e^x) = max(x, 0) + log1p(e^-|x|)
        return apply([](S x) { return prim::max(x, S(0)) + prim::log1p(prim::exp(-prim::abs(x))); });
      case unary_op("floor"):
        return apply([](S x) { return prim::floor(x); });
      case unary_op("ceil"):
        return apply([](S x) { return prim::ceil(x); });
      case unary_op("round"):
        return apply([](S x) { return prim::round(x); });
      case unary_op("isnan"):
        return apply([](S x) { return S(prim::is_nan(x)); });
    }
  }
}

// Calls apply(f), where dx = f(dy, s), and s is x or y as the operation's Slope says. Piecewise functions select dy, so
// that an infinite dy does not meet a slope of 0.
template <class S, class F>
LAMINA_PRIM void dispatch_backward(int op, const double (&p)[2], F apply) {
  switch (op) {
    case unary_op("neg"):
      return apply([](S dy, S) { return -dy; });
    case unary_op("abs"):
      return apply([](S dy, S x) { return dy * sign(x); });
    case unary_op("square"):
      return apply([](S dy, S x) { return dy * (x + x); });
    case unary_op("exp"):
      return apply([](S dy, S y) { return dy * y; });
    case unary_op("expm1"):
      return apply([](S dy, S y) { return prim::fma(dy, y, dy); });
    case unary_op("log"):
      return apply([](S dy, S x) { return dy / x; });
    case unary_op("log1p"):
      return apply([](S dy, S x) { return dy / (S(1) + x); });
    case unary_op("sqrt"):
      return apply([](S dy, S y) { return dy / (y + y); });
    case unary_op("rsqrt"):
      return apply([](S dy, S y) { return dy * S(-0.5) * (y * y * y); });
    case unary_op("reciprocal"):
      return apply([](S dy, S y) { return -dy * (y * y); });
    case unary_op("sin"):
      return apply([](S dy, S x) { return dy * prim::cos(x); });
    case unary_op("cos"):
      return apply([](S dy, S x) { return -dy * prim::sin(x); });
    case unary_op("tanh"):
      return apply([](S dy, S y) { return dy * prim::fma(-y, y, S(1)); });
    case unary_op("sigmoid"):
      return apply([](S dy, S y) { return dy * (y * (S(1) - y)); });
    case unary_op("erf"):
      return apply(
          [](S dy, S x) { return dy * S(1.12837916709551257390) * prim::exp(-(x * x)); });  // 2 / sqrt(pi)
    case unary_op("relu"):
      return apply([](S dy, S y) { return y > S(0) ? dy : S(0); });
    case unary_op("leaky_relu"):
      return apply([slope = S(p[0])](S dy, S x) { return x > S(0) ? dy : dy * slope; });
    case unary_op("elu"):
      return apply([alpha = S(p[0])](S dy, S x) { return x > S(0) ? dy : dy * alpha * prim::exp(x); });
    case unary_op("gelu"):
      if (p[0])
        return apply([](S dy, S x) {
          const S s = gelu_gate(x), slope = prim::fma(x * x, S(3 * gelu_cubic), S(gelu_linear));
          return dy * prim::fma(x * slope, s * (S(1) - s), s);
        });
      return apply([](S dy, S x) {
        const S density = prim::exp(x * x * S(-0.5)) * S(0.39894228040143267794);  // 1 / sqrt(2 pi)
        return dy * prim::fma(x, density, prim::normal_cdf(x));
      });
    case unary_op("silu"):
      return apply([](S dy, S x) {
        const S s = prim::sigmoid(x);
        return dy * prim::fma(x * s, S(1) - s, s);
      });
    case unary_op("softplus"):
      return apply([](S dy, S x) { return dy * prim::sigmoid(x); });
    case unary_op("clamp"):
      return apply(
          [least = S(p[0]), most = S(p[1])](S dy, S x) { return x >= least && x <= most ? dy : S(0); });
  }
}

template <class T>
__global__ __launch_bounds__(spread_threads) void unary_kernel(Elementwise<1> e) {
  constexpr int V = points<T>;
  using S = Number<T>;
  for_packs<V>(e, [&](int64_t first, int count) {
    const prim::Pack<S, V> x = load_numbers<T, V>(e, 0, first, count);
    prim::Pack<S, V> y = {};
    dispatch_value<S>(e.op, e.p, [&](auto f) {
#pragma unroll
      for (int v = 0; v < V; ++v) y[v] = f(x[v]);
    });
    if (e.result == Dtype::boolean)
      store_numbers<bool>(e, first, count, y);
    else
      store_numbers<T>(e, first, count, y);
  });
}

template <class T>
__global__ __launch_bounds__(spread_threads) void unary_backward_kernel(Elementwise<2> e) {
  constexpr int V = points<T>;
  using S = Number<T>;
  for_packs<V>(e, [&](int64_t first, int count) {
    const prim::Pack<S, V> dy = load_numbers<T, V>(e, 0, first, count),
                           s = load_numbers<T, V>(e, 1, first, count);
    prim::Pack<S, V> dx = {};
    dispatch_backward<S>(e.op, e.p, [&](auto f) {
#pragma unroll
      for (int v = 0; v < V; ++v) dx[v] = f(dy[v], s[v]);
    });
    store_numbers<T>(e, first, count, dx);
  });
}

}  // namespace

void unary(const ElementwiseArgs& args) {
  dispatch_any(args.x[0].dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    launch_elementwise<points<T>>("unary", unary_kernel<T>, args);
  });
}

void unary_backward(const ElementwiseArgs& args) {
  dispatch_device_float(args.x[0].dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    launch_elementwise<points<T>>("unary_backward", unary_backward_kernel<T>, args);
  });
}

}  // namespace lamina::LAMINA_DEVICE
