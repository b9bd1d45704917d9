// The activations y = f(x) of base/activation.h and their slopes f'(x), for one element of float or double.
//
//   relu     max(x, 0)                                       [y > 0]
//   gelu     x Phi(x), Phi = (1 + erf(x / sqrt 2)) / 2       Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)
//   silu     x s, s = sigmoid(x)                             s (1 + x (1 - s))
//   sigmoid  1 / (1 + e^-x)                                  y (1 - y)
//   tanh     tanh x                                          1 - y^2
//
// The activation is an argument and not a template parameter: it is the same for all threads, so the branch costs little.
#pragma once

#include "base/activation.h"
#include "prim/math.cuh"

namespace lamina::LAMINA_DEVICE::prim {

template <class S>
LAMINA_PRIM S normal_cdf(S x) {
  return fma(erf(x * S(0.70710678118654752440)), S(0.5), S(0.5));
}

template <class S>
LAMINA_PRIM S activate(Activation activation, S x) {
  switch (activation) {
    case Activation::none:
      break;
    case Activation::relu:
      return x < S(0) ? S(0) : x;  // NaN passes
    case Activation::gelu:
      return x * normal_cdf(x);
    case Activation::silu:
      return x * sigmoid(x);
    case Activation::sigmoid:
      return sigmoid(x);
    case Activation::tanh:
      return tanh(x);
  }
  return x;
}

// f'(x), given x and y = f(x): gelu and silu read x only, the others y only.
template <class S>
LAMINA_PRIM S activation_slope(Activation activation, S x, S y) {
  switch (activation) {
    case Activation::none:
      break;
    case Activation::relu:
      return y > S(0) ? S(1) : S(0);
    case Activation::gelu:
      return fma(x, exp(x * x * S(-0.5)) * S(0.39894228040143267794), normal_cdf(x));
    case Activation::silu: {
      const S s = sigmoid(x);
      return fma(x * s, S(1) - s, s);
    }
    case Activation::sigmoid:
      return y * (S(1) - y);
    case Activation::tanh:
      return fma(-y, y, S(1));
  }
  return S(1);
}

}  // namespace lamina::LAMINA_DEVICE::prim
