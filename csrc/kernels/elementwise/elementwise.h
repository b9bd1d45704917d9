// Elementwise operations with broadcasting, on any strides and any mix of dtypes.
//
//   unary     y[i] = f(x[i])                      backward  dx[i] = dy[i] f'(x[i]), from x or from y
//   binary    y[i] = f(a[i], b[i])                ternary   y[i] = f(a[i], b[i], c[i])
//
// i runs over the shape of y; operands broadcast to it as in NumPy (aligned right, axes of extent 1 repeat).
//
// An operation computes in one of four dtypes: float32, float64, int32 or int64 (`arithmetic_dtype` of the
// promoted dtype of its operands). For each of them it is one function over contiguous elements, a row, and
// knows nothing of strides and storage dtypes. One driver serves all rows: where an operand is contiguous and
// already in the compute dtype, a row reads it in place; otherwise blocks of it are gathered, and converted,
// into a buffer that stays in the first-level cache. So bfloat16, float16, bool, casts, transposed and
// broadcast operands cost conversions, and no instantiations.
//
// Traffic: every operand is read once and y written once; all but the transcendental functions are bound by
// memory from the second-level cache outwards.
//
// To add an operation: one line in a table below, one functor in unary_cpu.cpp or binary_cpu.cpp.
#pragma once

#include <string_view>

#include "base/kernel_table.h"
#include "base/view.h"

namespace lamina {

// What the backward of a unary operation reads; `nothing`: the derivative is zero almost everywhere.
enum class Slope : uint8_t { nothing, input, output };
// Dtypes that an operation takes: floating ones only, or integers and bool too.
enum class Takes : uint8_t { floating, any };
// Dtype of the result: that of the operands, or bool.
enum class Gives : uint8_t { same, boolean };

struct UnaryOp {
  std::string_view name;
  Slope slope;
  Takes takes = Takes::floating;
  Gives gives = Gives::same;
  std::string_view attributes = "";  // of the record; at most two, args.p in order
};

inline constexpr UnaryOp unary_ops[] = {
    {"neg", Slope::output, Takes::any},
    {"abs", Slope::input, Takes::any},
    {"sign", Slope::nothing, Takes::any},
    {"square", Slope::input, Takes::any},
    {"exp", Slope::output},
    {"expm1", Slope::output},
    {"log", Slope::input},
    {"log1p", Slope::input},
    {"sqrt", Slope::output},
    {"rsqrt", Slope::output},
    {"reciprocal", Slope::output},
    {"sin", Slope::input},
    {"cos", Slope::input},
    {"tanh", Slope::output},
    {"sigmoid", Slope::output},
    {"erf", Slope::input},
    {"relu", Slope::output},
    {"leaky_relu", Slope::input, Takes::floating, Gives::same, "negative_slope: float = 0.01"},
    {"elu", Slope::input, Takes::floating, Gives::same, "alpha: float = 1.0"},
    {"gelu", Slope::input, Takes::floating, Gives::same, "approximate: str = 'none'"},  // p[0]: is it 'tanh'
    {"silu", Slope::input},
    {"softplus", Slope::input},
    {"floor", Slope::nothing},
    {"ceil", Slope::nothing},
    {"round", Slope::nothing},
    {"clamp", Slope::input, Takes::any, Gives::same, "min: float = -inf, max: float = inf"},
    {"isnan", Slope::nothing, Takes::floating, Gives::boolean},
    {"logical_not", Slope::nothing, Takes::any, Gives::boolean},
};

struct BinaryOp {
  std::string_view name;
  Takes takes = Takes::floating;
  Gives gives = Gives::same;
};

inline constexpr BinaryOp binary_ops[] = {
    {"add", Takes::any},
    {"sub", Takes::any},
    {"mul", Takes::any},
    {"div"},
    {"pow"},
    {"maximum", Takes::any},
    {"minimum", Takes::any},
    {"eq", Takes::any, Gives::boolean},
    {"ne", Takes::any, Gives::boolean},
    {"lt", Takes::any, Gives::boolean},
    {"le", Takes::any, Gives::boolean},
    {"gt", Takes::any, Gives::boolean},
    {"ge", Takes::any, Gives::boolean},
    {"logical_and", Takes::any, Gives::boolean},
    {"logical_or", Takes::any, Gives::boolean},
    {"logical_xor", Takes::any, Gives::boolean},
    {"where_backward_a", Takes::any},  // b where a, else 0: of (condition, dy)
    {"where_backward_b", Takes::any},  // 0 where a, else b
};

inline constexpr BinaryOp ternary_ops[] = {
    {"where", Takes::any},      // b where a, else c
    {"div_backward"},           // d/db of a/b: -dy y / b, of (dy, y, b)
    {"pow_backward_base"},      // d/da of a^b: dy b a^(b-1), of (dy, a, b)
    {"pow_backward_exponent"},  // d/db of a^b: dy a^b log a, of (dy, a, b)
    {"maximum_backward"},       // d/da of max(a, b): dy where a > b, dy / 2 where equal, of (dy, a, b)
};

inline constexpr int unary_count = int(std::size(unary_ops)), binary_count = int(std::size(binary_ops)),
                     ternary_count = int(std::size(ternary_ops));

// The place of an operation in its table; an unknown name does not compile.
template <class Table>
consteval int index_of(const Table& table, std::string_view name) {
  int i = 0;
  while (table[i].name != name) ++i;
  return i;
}
consteval int unary_op(std::string_view name) { return index_of(unary_ops, name); }
consteval int binary_op(std::string_view name) { return index_of(binary_ops, name); }
consteval int ternary_op(std::string_view name) { return index_of(ternary_ops, name); }

constexpr Dtype arithmetic_dtype(Dtype t) {
  if (is_floating(t)) return compute_dtype(t);
  return t == Dtype::int64 ? t : Dtype::int32;
}

struct ElementwiseArgs {
  int op;         // place in the table of its arity
  Dtype compute;  // float32, float64, int32 or int64
  View x[3];      // operands: x; a, b; a, b, c; for a backward dy and x, or dy and y
  View y;
  double p[2] = {0, 0};
};

struct ElementwiseKernels {
  void (*unary)(const ElementwiseArgs&);
  void (*unary_backward)(const ElementwiseArgs&);
  void (*binary)(const ElementwiseArgs&);
  void (*ternary)(const ElementwiseArgs&);
  void (*cast)(
      const ElementwiseArgs&);  // y = x in the dtype of y; to an integer: towards zero; to bool: x != 0
};

LAMINA_KERNEL_TABLE(ElementwiseKernels, elementwise_kernels)

}  // namespace lamina
