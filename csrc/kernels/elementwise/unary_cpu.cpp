#include <utility>

#include "kernels/elementwise/rows.h"

namespace lamina::LAMINA_ISA {
namespace {

// Unary<unary_op(name)>: the mathematics of one row of unary_ops.
template <int op>
struct Unary;

template <>
struct Unary<unary_op("neg")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return -x;
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V) {
    return -dy;
  }
};

template <>
struct Unary<unary_op("sign")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {  // x itself where it is 0 or NaN
    return select(gt(x, V::zero()), V::set1(1), select(lt(x, V::zero()), V::set1(-1), x));
  }
};

template <>
struct Unary<unary_op("abs")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return abs(x);
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V x) {
    return dy * Unary<unary_op("sign")>::value(x);
  }
};

template <>
struct Unary<unary_op("square")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return x * x;
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V x) {
    return dy * (x + x);
  }
};

template <>
struct Unary<unary_op("exp")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return exp(x);
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V y) {
    return dy * y;
  }
};

template <>
struct Unary<unary_op("expm1")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return expm1(x);
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V y) {
    return fma(dy, y, dy);
  }
};

template <>
struct Unary<unary_op("log")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return log(x);
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V x) {
    return dy / x;
  }
};

template <>
struct Unary<unary_op("log1p")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return log1p(x);
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V x) {
    return dy / (V::set1(1) + x);
  }
};

template <>
struct Unary<unary_op("sqrt")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return sqrt(x);
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V y) {
    return dy / (y + y);
  }
};

template <>
struct Unary<unary_op("rsqrt")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return V::set1(1) / sqrt(x);
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V y) {
    return dy * V::set1(-0.5) * (y * y * y);
  }
};

template <>
struct Unary<unary_op("reciprocal")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return V::set1(1) / x;
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V y) {
    return -dy * (y * y);
  }
};

template <>
struct Unary<unary_op("sin")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return sin(x);
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V x) {
    return dy * cos(x);
  }
};

template <>
struct Unary<unary_op("cos")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return cos(x);
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V x) {
    return -dy * sin(x);
  }
};

template <>
struct Unary<unary_op("erf")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return erf(x);
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V x) {
    return dy * V::set1(1.12837916709551257390) * exp(-(x * x));  // 2 / sqrt(pi)
  }
};

// The activations that epilogues share.
template <class A>
struct FromActivation {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return A::value(x);
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V s) {
    return dy * A::slope(s, s);
  }
};
template <>
struct Unary<unary_op("tanh")> : FromActivation<Tanh> {};
template <>
struct Unary<unary_op("sigmoid")> : FromActivation<Sigmoid> {};
template <>
struct Unary<unary_op("silu")> : FromActivation<Silu> {};

template <>
struct Unary<unary_op("gelu")> {
  template <class V>
  LAMINA_INLINE static V value(V x, const double* p) {
    return p[0] ? GeluTanh::value(x) : Gelu::value(x);
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V x, const double* p) {
    return dy * (p[0] ? GeluTanh::slope(x, x) : Gelu::slope(x, x));
  }
};

// Piecewise functions select dy, so that an infinite dy does not meet a slope of 0.
template <>
struct Unary<unary_op("relu")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return Relu::value(x);
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V y) {
    return select(gt(y, V::zero()), dy, V::zero());
  }
};

template <>
struct Unary<unary_op("leaky_relu")> {
  template <class V>
  LAMINA_INLINE static V value(V x, const double* p) {
    return select(gt(x, V::zero()), x, x * V::set1(p[0]));
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V x, const double* p) {
    return select(gt(x, V::zero()), dy, dy * V::set1(p[0]));
  }
};

template <>
struct Unary<unary_op("elu")> {
  template <class V>
  LAMINA_INLINE static V value(V x, const double* p) {
    return select(gt(x, V::zero()), x, V::set1(p[0]) * expm1(x));
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V x, const double* p) {
    return select(gt(x, V::zero()), dy, dy * V::set1(p[0]) * exp(x));
  }
};

template <>
struct Unary<unary_op("softplus")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return softplus(x);
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V x) {
    return dy * sigmoid(x);
  }
};

template <>
struct Unary<unary_op("floor")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return floor(x);
  }
};
template <>
struct Unary<unary_op("ceil")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return ceil(x);
  }
};
template <>
struct Unary<unary_op("round")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return round(x);
  }
};

// The nearest integer of I that a bound allows, so that infinite bounds are no bounds.
template <class V>
LAMINA_INLINE V bound(double p) {
  return V::set1(p);
}
template <class V>
  requires(V::N == 1)
LAMINA_INLINE V bound(double p) {
  using I = decltype(V::v);
  constexpr I most = I(~typename V::U(0) >> 1), least = I(-most - 1);
  if (p <= double(least)) return V::set1(least);
  return p >= double(most) ? V::set1(most) : V::set1(I(p));
}
template <>
struct Unary<unary_op("clamp")> {
  template <class V>
  LAMINA_INLINE static V value(V x, const double* p) {  // in this order NaN passes
    return min_fast(bound<V>(p[1]), max_fast(bound<V>(p[0]), x));
  }
  template <class V>
  LAMINA_INLINE static V backward(V dy, V x, const double* p) {
    return select(ge(x, V::set1(p[0])) & le(x, V::set1(p[1])), dy, V::zero());
  }
};

template <>
struct Unary<unary_op("isnan")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return truth<V>(is_nan(x));
  }
};

template <>
struct Unary<unary_op("logical_not")> {
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return truth<V>(eq(x, V::zero()));
  }
};

template <int op>
constexpr Rows backward_rows() {
  if constexpr (unary_ops[op].slope == Slope::nothing)
    return {};
  else
    return rows_of<Backward, Unary<op>, Takes::floating, 2>();
}

template <int... op>
constexpr RowTable<unary_count> values(std::integer_sequence<int, op...>) {
  return {{rows_of<Value, Unary<op>, unary_ops[op].takes, 1>()...}};
}
template <int... op>
constexpr RowTable<unary_count> backwards(std::integer_sequence<int, op...>) {
  return {{backward_rows<op>()...}};
}

}  // namespace

const RowTable<unary_count> unary_rows = values(std::make_integer_sequence<int, unary_count>());
const RowTable<unary_count> unary_backward_rows = backwards(std::make_integer_sequence<int, unary_count>());

}  // namespace lamina::LAMINA_ISA
