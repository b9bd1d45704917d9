// The activations y = f(x) of base/activation.h as functors on Vec, with their slopes f'(x), for epilogues
// and elementwise kernels.
//
// slope(x, y) is given the input and the output; `slope_from_output` says that it reads y only, so that x
// need not be kept, and otherwise it reads x only.
//
//   relu     max(x, 0)                              [y > 0]
//   gelu     x Phi(x), Phi = (1 + erf(x / sqrt 2)) / 2      Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)
//   silu     x s, s = sigmoid(x)                    s (1 + x (1 - s))
//   sigmoid  1 / (1 + e^-x)                         y (1 - y)
//   tanh     tanh x                                 1 - y^2
#pragma once

#include "base/activation.h"
#include "simd/math.h"

namespace lamina::LAMINA_ISA {

struct Identity {
  static constexpr bool slope_from_output = true;
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return x;
  }
  template <class V>
  LAMINA_INLINE static V slope(V, V) {
    return V::set1(1);
  }
};

struct Relu {
  static constexpr bool slope_from_output = true;
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return max_fast(V::zero(), x);  // in this order NaN passes
  }
  template <class V>
  LAMINA_INLINE static V slope(V, V y) {
    return select(gt(y, V::zero()), V::set1(1), V::zero());
  }
};

struct Gelu {
  static constexpr bool slope_from_output = false;
  template <class V>
  LAMINA_INLINE static V normal_cdf(V x) {
    return fma(erf(x * V::set1(0.70710678118654752440)), V::set1(0.5), V::set1(0.5));
  }
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return x * normal_cdf(x);
  }
  template <class V>
  LAMINA_INLINE static V slope(V x, V) {
    const V density = exp(x * x * V::set1(-0.5)) * V::set1(0.39894228040143267794);
    return fma(x, density, normal_cdf(x));
  }
};

// GELU's approximation x (1 + tanh u) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
// (Hendrycks and Gimpel, arXiv 1606.08415); slope s + x s (1 - s) 2 u'.
struct GeluTanh {
  static constexpr bool slope_from_output = false;
  static constexpr double linear = 1.59576912160573071176, cubic = linear * 0.044715;  // of 2 u
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return x * sigmoid(x * fma(x * x, V::set1(cubic), V::set1(linear)));
  }
  template <class V>
  LAMINA_INLINE static V slope(V x, V) {
    const V s = sigmoid(x * fma(x * x, V::set1(cubic), V::set1(linear)));
    const V du = fma(x * x, V::set1(3 * cubic), V::set1(linear));
    return fma(x * du, s * (V::set1(1) - s), s);
  }
};

struct Silu {
  static constexpr bool slope_from_output = false;
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return x * sigmoid(x);
  }
  template <class V>
  LAMINA_INLINE static V slope(V x, V) {
    const V s = sigmoid(x);
    return fma(x * s, V::set1(1) - s, s);
  }
};

struct Sigmoid {
  static constexpr bool slope_from_output = true;
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return sigmoid(x);
  }
  template <class V>
  LAMINA_INLINE static V slope(V, V y) {
    return y * (V::set1(1) - y);
  }
};

struct Tanh {
  static constexpr bool slope_from_output = true;
  template <class V>
  LAMINA_INLINE static V value(V x) {
    return tanh(x);
  }
  template <class V>
  LAMINA_INLINE static V slope(V, V y) {
    return fnma(y, y, V::set1(1));
  }
};

// Calls f(functor) for the activation a.
template <class F>
LAMINA_INLINE void dispatch_activation(Activation a, F&& f) {
  switch (a) {
    case Activation::none:
      return f(Identity{});
    case Activation::relu:
      return f(Relu{});
    case Activation::gelu:
      return f(Gelu{});
    case Activation::silu:
      return f(Silu{});
    case Activation::sigmoid:
      return f(Sigmoid{});
    case Activation::tanh:
      return f(Tanh{});
  }
  __builtin_unreachable();
}

}  // namespace lamina::LAMINA_ISA
