// Rows: the contiguous inner loops of elementwise operations, made from functors on a vector type.
//
// A functor has `value(operands...)` or `value(operands..., p)`, and for unary operations with a derivative
// `backward(dy, s)` or `backward(dy, s, p)`, where s is x or y as the operation's Slope says.
#pragma once

#include "kernels/elementwise/elementwise.h"
#include "simd/activation.h"
#include "simd/lane.h"

namespace lamina::LAMINA_ISA {

template <class V>
LAMINA_INLINE V truth(typename V::Mask m) {
  return select(m, V::set1(1), V::zero());
}

using Row = void (*)(const void* const* x, void* y, int64_t n, const double* p);

// The rows of one operation by compute dtype, null where it does not take the dtype.
struct Rows {
  Row float32, float64, int32, int64;
  Row at(Dtype compute) const {
    switch (compute) {
      case Dtype::float32:
        return float32;
      case Dtype::float64:
        return float64;
      case Dtype::int32:
        return int32;
      default:
        return int64;
    }
  }
};

struct Value {
  template <class F, class... Operands>
  LAMINA_INLINE static auto call(const double* p, Operands... operands) {
    if constexpr (requires { F::value(operands..., p); })
      return F::value(operands..., p);
    else
      return F::value(operands...);
  }
};
struct Backward {
  template <class F, class... Operands>
  LAMINA_INLINE static auto call(const double* p, Operands... operands) {
    if constexpr (requires { F::backward(operands..., p); })
      return F::backward(operands..., p);
    else
      return F::backward(operands...);
  }
};

// y[i] = F(x[0][i], ...) for i < n.
template <class Which, class F, class S, class V, int arity>
void row(const void* const* x, void* y, int64_t n, const double* parameters) {
  const double p[2] = {parameters[0], parameters[1]};  // a copy that no store can change: it leaves the loop
  const S* a = static_cast<const S*>(x[0]);
  const S* b = static_cast<const S*>(arity > 1 ? x[1] : nullptr);
  const S* c = static_cast<const S*>(arity > 2 ? x[2] : nullptr);
  S* out = static_cast<S*>(y);
  const auto apply = [&](auto load, int64_t i) __attribute__((always_inline)) {
    if constexpr (arity == 1)
      return Which::template call<F>(p, load(a + i));
    else if constexpr (arity == 2)
      return Which::template call<F>(p, load(a + i), load(b + i));
    else
      return Which::template call<F>(p, load(a + i), load(b + i), load(c + i));
  };
  int64_t i = 0;
  for (; i + V::N <= n; i += V::N)
    apply([](const S* at) __attribute__((always_inline)) { return V::load(at); }, i).store(out + i);
  if constexpr (V::N > 1) {
    const int tail = int(n - i);
    if (tail > 0)
      apply([&](const S* at) __attribute__((always_inline)) { return V::load(at, tail); }, i)
          .store(out + i, tail);
  }
}

template <class Which, class F, Takes takes, int arity>
constexpr Rows rows_of() {
  Rows rows = {row<Which, F, float, Vec<float>, arity>, row<Which, F, double, Vec<double>, arity>, nullptr,
               nullptr};
  if constexpr (takes == Takes::any) {
    rows.int32 = row<Which, F, int32_t, Lane<int32_t>, arity>;
    rows.int64 = row<Which, F, int64_t, Lane<int64_t>, arity>;
  }
  return rows;
}

// Defined by unary_cpu.cpp and binary_cpu.cpp, in the order of the tables of elementwise.h.
template <int n>
struct RowTable {
  Rows rows[n];
};
extern const RowTable<unary_count> unary_rows, unary_backward_rows;
extern const RowTable<binary_count> binary_rows;
extern const RowTable<ternary_count> ternary_rows;

}  // namespace lamina::LAMINA_ISA
