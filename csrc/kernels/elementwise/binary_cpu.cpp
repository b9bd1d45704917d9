#include <utility>

#include "kernels/elementwise/rows.h"

namespace lamina::LAMINA_ISA {
namespace {

// Binary<binary_op(name)> and Ternary<ternary_op(name)>: the mathematics of one row of the tables.
template <int op>
struct Binary;
template <int op>
struct Ternary;

template <>
struct Binary<binary_op("add")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return a + b;
  }
};
template <>
struct Binary<binary_op("sub")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return a - b;
  }
};
template <>
struct Binary<binary_op("mul")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return a * b;
  }
};
template <>
struct Binary<binary_op("div")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return a / b;
  }
};
template <>
struct Binary<binary_op("maximum")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return max(a, b);
  }
};
template <>
struct Binary<binary_op("minimum")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return min(a, b);
  }
};

// Squares, the most frequent powers, need no libm.
template <>
struct Binary<binary_op("pow")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return all(eq(b, V::set1(2))) ? a * a : pow(a, b);
  }
};

template <>
struct Binary<binary_op("eq")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return truth<V>(eq(a, b));
  }
};
template <>
struct Binary<binary_op("ne")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return truth<V>(ne(a, b));
  }
};
template <>
struct Binary<binary_op("lt")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return truth<V>(lt(a, b));
  }
};
template <>
struct Binary<binary_op("le")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return truth<V>(le(a, b));
  }
};
template <>
struct Binary<binary_op("gt")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return truth<V>(gt(a, b));
  }
};
template <>
struct Binary<binary_op("ge")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return truth<V>(ge(a, b));
  }
};

template <class V>
LAMINA_INLINE typename V::Mask is_true(V x) {
  return ne(x, V::zero());
}
template <>
struct Binary<binary_op("logical_and")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return truth<V>(is_true(a) & is_true(b));
  }
};
template <>
struct Binary<binary_op("logical_or")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return truth<V>(is_true(a) | is_true(b));
  }
};
template <>
struct Binary<binary_op("logical_xor")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return select(is_true(a), truth<V>(~is_true(b)), truth<V>(is_true(b)));
  }
};

template <>
struct Binary<binary_op("where_backward_a")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return select(is_true(a), b, V::zero());
  }
};
template <>
struct Binary<binary_op("where_backward_b")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b) {
    return select(is_true(a), V::zero(), b);
  }
};

template <>
struct Ternary<ternary_op("where")> {
  template <class V>
  LAMINA_INLINE static V value(V a, V b, V c) {
    return select(is_true(a), b, c);
  }
};
template <>
struct Ternary<ternary_op("div_backward")> {
  template <class V>
  LAMINA_INLINE static V value(V dy, V y, V b) {
    return -dy * y / b;
  }
};
// 0 where b = 0, whatever a^-1 is.
template <>
struct Ternary<ternary_op("pow_backward_base")> {
  template <class V>
  LAMINA_INLINE static V value(V dy, V a, V b) {
    if (all(eq(b, V::set1(2)))) return dy * (a + a);
    return select(eq(b, V::zero()), V::zero(), dy * b * pow(a, b - V::set1(1)));
  }
};
// 0 where a = 0 and b >= 0: the limit of a^b log a.
template <>
struct Ternary<ternary_op("pow_backward_exponent")> {
  template <class V>
  LAMINA_INLINE static V value(V dy, V a, V b) {
    const auto at_zero = eq(a, V::zero()) & ge(b, V::zero());
    return select(at_zero, V::zero(), dy * pow(a, b) * log(a));
  }
};
template <>
struct Ternary<ternary_op("maximum_backward")> {
  template <class V>
  LAMINA_INLINE static V value(V dy, V a, V b) {
    return select(lt(a, b), V::zero(), select(eq(a, b), dy * V::set1(0.5), dy));
  }
};

template <int... op>
constexpr RowTable<binary_count> binaries(std::integer_sequence<int, op...>) {
  return {{rows_of<Value, Binary<op>, binary_ops[op].takes, 2>()...}};
}
template <int... op>
constexpr RowTable<ternary_count> ternaries(std::integer_sequence<int, op...>) {
  return {{rows_of<Value, Ternary<op>, ternary_ops[op].takes, 3>()...}};
}

}  // namespace

const RowTable<binary_count> binary_rows = binaries(std::make_integer_sequence<int, binary_count>());
const RowTable<ternary_count> ternary_rows = ternaries(std::make_integer_sequence<int, ternary_count>());

}  // namespace lamina::LAMINA_ISA
