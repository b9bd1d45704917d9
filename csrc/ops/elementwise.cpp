// Elementwise records: one per row of the tables in kernels/elementwise/elementwise.h, and cast.
#include <algorithm>
#include <deque>

#include "autograd/op.h"
#include "kernels/elementwise/elementwise.h"
#include "ops/operands.h"

namespace lamina {
namespace {

using Rule = Gradients (*)(const Saved&, const Inputs&);

// Schema texts are made from the tables and must outlive the records.
std::string_view keep(std::string text) {
  static std::deque<std::string> texts;
  return texts.emplace_back(std::move(text));
}

Shape broadcast(std::string_view op, const Inputs& in) {
  Shape shape;
  for (const Array& x : in) shape.ndim = std::max(shape.ndim, x.ndim());
  for (int d = 0; d < shape.ndim; ++d) {
    shape[d] = 1;
    for (const Array& x : in) {
      const int axis = d - (shape.ndim - x.ndim());
      if (axis < 0 || x.dim(axis) == 1) continue;
      check(shape[d] == 1 || shape[d] == x.dim(axis), op, "the operands are ", in[0].view(), " and ",
            x.shape() == in[0].shape() && in.size() > 1 ? in[1].view() : x.view(),
            "; expected equal extents or 1 on every axis, aligned at the last");
      shape[d] = x.dim(axis);
    }
  }
  return shape;
}

// The result lies in memory as the first operand of its shape does.
View result_like(const Inputs& in, const Shape& shape, Dtype dtype) {
  for (const Array& x : in)
    if (x.shape() == shape) return Spec::like(x.view(), dtype);
  return Spec{dtype, shape}.view();
}

void infer_elementwise(std::string_view name, Takes takes, Gives gives, const Inputs& in, size_t first,
                       Inference& out) {
  const Dtype dtype = in[first].dtype();
  for (const Array& x : in.subspan(first))
    check<TypeError>(x.dtype() == dtype, name, "the operands are ", dtype, " and ", x.dtype(),
                     "; expected one dtype");
  check<TypeError>(takes == Takes::any || is_floating(dtype), name, "the operand is ", dtype,
                   "; expected a floating dtype");
  out.add(result_like(in, broadcast(name, in), gives == Gives::boolean ? Dtype::boolean : dtype));
}

// An attribute as the kernel takes it; the one string among them is gelu's approximation.
double parameter(const Attr& attr) {
  const std::string* text = std::get_if<std::string>(&attr);
  return text ? *text == "tanh" : std::get<double>(attr);
}

void submit(Stream& stream, void (*ElementwiseKernels::*kernel)(const ElementwiseArgs&), int op,
            const Inputs& in, size_t first, const Attrs& attrs, size_t attr_count, const Outputs& out) {
  ElementwiseArgs args{.op = op, .compute = arithmetic_dtype(in[first].dtype()), .x = {}, .y = out[0].view()};
  for (size_t i = 0; i < in.size(); ++i) args.x[i] = in[i].view();
  for (size_t i = 0; i < attr_count; ++i) args.p[i] = parameter(attrs.at(i));
  stream.submit(kernel, args);
}

size_t count_attrs(std::string_view attributes) {
  return size_t(std::count(attributes.begin(), attributes.end(), ':'));
}

constexpr Promotion promotion_of(Takes takes) {
  return takes == Takes::any ? Promotion::common : Promotion::floating;
}

template <int i>
struct UnaryRecord {
  static constexpr const UnaryOp& row = unary_ops[i];
  static constexpr std::string_view name = row.name;

  static void infer(const Inputs& in, const Attrs& attrs, Inference& out) {
    if constexpr (name == "gelu") {
      const std::string& approximate = attrs.string("approximate");
      check(approximate == "none" || approximate == "tanh", name, "approximate is '", approximate,
            "'; expected 'none' or 'tanh'");
    }
    infer_elementwise(name, row.takes, row.gives, in, 0, out);
  }
  static void run(Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
    submit(stream, &ElementwiseKernels::unary, i, in, 0, attrs, count_attrs(row.attributes), out);
  }
  static void run_backward(Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
    submit(stream, &ElementwiseKernels::unary_backward, i, in, 0, attrs, count_attrs(row.attributes), out);
  }
  static Gradients vjp(const Saved& s, const Inputs& dy) {
    static const Op& backward = find_op(std::string(name) + "_backward");
    const Array operands[] = {dy[0], row.slope == Slope::input ? s.in[0] : s.out[0]};
    Outputs dx;
    evaluate(backward, operands, s.attrs, dx);
    return {dx[0]};
  }
  static void add() {
    const std::string attrs = row.attributes.empty() ? "" : ", *, " + std::string(row.attributes);
    const bool has_slope = row.slope != Slope::nothing;
    Register({.schema = keep(std::string(name) + "(x" + attrs + ") -> y"),
              .infer = infer,
              .run = run,
              .vjp = has_slope ? Rule(vjp) : nullptr,
              .keeps = row.slope == Slope::input ? "x" : "y",
              .promotes = promotion_of(row.takes)});
    if (has_slope)
      Register({.schema = keep(std::string(name) + "_backward(dy, " +
                               (row.slope == Slope::input ? "x" : "y") + attrs + ") -> dx"),
                .infer = infer,
                .run = run_backward});
  }
};

template <int i, Rule vjp>
struct BinaryRecord {
  static constexpr const BinaryOp& row = binary_ops[i];
  static void infer(const Inputs& in, const Attrs&, Inference& out) {
    infer_elementwise(row.name, row.takes, row.gives, in, is_masked() ? 1 : 0, out);
  }
  static void run(Stream& stream, const Inputs& in, const Attrs&, const Outputs& out) {
    submit(stream, &ElementwiseKernels::binary, i, in, is_masked() ? 1 : 0, {}, 0, out);
  }
  static constexpr bool is_masked() {
    return row.name == "where_backward_a" || row.name == "where_backward_b";
  }
  static void add(std::string_view keeps) {
    Register({.schema = keep(std::string(row.name) + "(a, b) -> y"),
              .infer = infer,
              .run = run,
              .vjp = vjp,
              .keeps = keeps,
              .promotes = promotion_of(row.takes),
              .promotes_from = is_masked() ? size_t(1) : 0});
  }
};

template <int i, Rule vjp>
struct TernaryRecord {
  static constexpr const BinaryOp& row = ternary_ops[i];
  static constexpr size_t first = row.name == "where" ? 1 : 0;
  static void infer(const Inputs& in, const Attrs&, Inference& out) {
    infer_elementwise(row.name, row.takes, row.gives, in, first, out);
  }
  static void run(Stream& stream, const Inputs& in, const Attrs&, const Outputs& out) {
    submit(stream, &ElementwiseKernels::ternary, i, in, first, {}, 0, out);
  }
  static void add(std::string_view inputs, std::string_view keeps = "") {
    Register({.schema = keep(std::string(row.name) + "(" + std::string(inputs) + ") -> y"),
              .infer = infer,
              .run = run,
              .vjp = vjp,
              .keeps = keeps,
              .promotes = first ? Promotion::common : Promotion::none,
              .promotes_from = first});
  }
};

// --- derivatives -------------------------------------------------------------------------------------------------

Gradients vjp_add(const Saved& s, const Inputs& dy) {
  return {s.needs(0) ? sum_to(dy[0], s.in[0]) : Array{}, s.needs(1) ? sum_to(dy[0], s.in[1]) : Array{}};
}
Gradients vjp_sub(const Saved& s, const Inputs& dy) {
  return {s.needs(0) ? sum_to(dy[0], s.in[0]) : Array{},
          s.needs(1) ? sum_to(eval<"neg">({dy[0]}), s.in[1]) : Array{}};
}
Gradients vjp_mul(const Saved& s, const Inputs& dy) {
  return {s.needs(0) ? sum_to(eval<"mul">({dy[0], s.in[1]}), s.in[0]) : Array{},
          s.needs(1) ? sum_to(eval<"mul">({dy[0], s.in[0]}), s.in[1]) : Array{}};
}
Gradients vjp_div(const Saved& s, const Inputs& dy) {
  return {s.needs(0) ? sum_to(eval<"div">({dy[0], s.in[1]}), s.in[0]) : Array{},
          s.needs(1) ? sum_to(eval<"div_backward">({dy[0], s.out[0], s.in[1]}), s.in[1]) : Array{}};
}
Gradients vjp_pow(const Saved& s, const Inputs& dy) {
  return {s.needs(0) ? sum_to(eval<"pow_backward_base">({dy[0], s.in[0], s.in[1]}), s.in[0]) : Array{},
          s.needs(1) ? sum_to(eval<"pow_backward_exponent">({dy[0], s.in[0], s.in[1]}), s.in[1]) : Array{}};
}
// dy where the first of the pair is larger, half of it where they are equal.
Array larger(const Array& dy, const Array& a, const Array& b, const Array& like) {
  return sum_to(eval<"maximum_backward">({dy, a, b}), like);
}
Gradients vjp_maximum(const Saved& s, const Inputs& dy) {
  return {s.needs(0) ? larger(dy[0], s.in[0], s.in[1], s.in[0]) : Array{},
          s.needs(1) ? larger(dy[0], s.in[1], s.in[0], s.in[1]) : Array{}};
}
Gradients vjp_minimum(const Saved& s, const Inputs& dy) {
  return {s.needs(0) ? larger(dy[0], s.in[1], s.in[0], s.in[0]) : Array{},
          s.needs(1) ? larger(dy[0], s.in[0], s.in[1], s.in[1]) : Array{}};
}
Gradients vjp_where(const Saved& s, const Inputs& dy) {
  return {Array{}, s.needs(1) ? sum_to(eval<"where_backward_a">({s.in[0], dy[0]}), s.in[1]) : Array{},
          s.needs(2) ? sum_to(eval<"where_backward_b">({s.in[0], dy[0]}), s.in[2]) : Array{}};
}

template <int... i>
void add_unaries(std::integer_sequence<int, i...>) {
  (UnaryRecord<i>::add(), ...);
}

const bool registered = [] {
  add_unaries(std::make_integer_sequence<int, unary_count>());
  BinaryRecord<binary_op("add"), vjp_add>::add("");
  BinaryRecord<binary_op("sub"), vjp_sub>::add("");
  BinaryRecord<binary_op("mul"), vjp_mul>::add("a b");
  BinaryRecord<binary_op("div"), vjp_div>::add("b y");
  BinaryRecord<binary_op("pow"), vjp_pow>::add("a b");
  BinaryRecord<binary_op("maximum"), vjp_maximum>::add("a b");
  BinaryRecord<binary_op("minimum"), vjp_minimum>::add("a b");
  BinaryRecord<binary_op("eq"), nullptr>::add("");
  BinaryRecord<binary_op("ne"), nullptr>::add("");
  BinaryRecord<binary_op("lt"), nullptr>::add("");
  BinaryRecord<binary_op("le"), nullptr>::add("");
  BinaryRecord<binary_op("gt"), nullptr>::add("");
  BinaryRecord<binary_op("ge"), nullptr>::add("");
  BinaryRecord<binary_op("logical_and"), nullptr>::add("");
  BinaryRecord<binary_op("logical_or"), nullptr>::add("");
  BinaryRecord<binary_op("logical_xor"), nullptr>::add("");
  BinaryRecord<binary_op("where_backward_a"), nullptr>::add("");
  BinaryRecord<binary_op("where_backward_b"), nullptr>::add("");
  TernaryRecord<ternary_op("where"), vjp_where>::add("condition, a, b", "condition");
  TernaryRecord<ternary_op("div_backward"), nullptr>::add("dy, y, b");
  TernaryRecord<ternary_op("pow_backward_base"), nullptr>::add("dy, a, b");
  TernaryRecord<ternary_op("pow_backward_exponent"), nullptr>::add("dy, a, b");
  TernaryRecord<ternary_op("maximum_backward"), nullptr>::add("dy, a, b");
  return true;
}();

const Register cast_op{{
    .schema = "cast(x, *, dtype: dtype = float32) -> y",
    .infer = [](const Inputs& in, const Attrs& attrs,
                Inference& out) { out.add(Spec::like(in[0].view(), attrs.dtype("dtype"))); },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs&, const Outputs& out) {
          stream.submit(&ElementwiseKernels::cast, ElementwiseArgs{.op = 0,
                                                                   .compute = arithmetic_dtype(in[0].dtype()),
                                                                   .x = {in[0].view()},
                                                                   .y = out[0].view()});
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      return {eval<"cast">({dy[0]}, {{"dtype", s.in[0].dtype()}})};
    },
}};

}  // namespace
}  // namespace lamina
