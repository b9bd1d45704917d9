// Reductions: sum, mean, prod, max, min, any, all, var, norm, argmax, argmin, cumsum, sum_to.
//
// dim: the axes to reduce, None for all of them. Derivatives, with R the number of elements reduced and dy, y broadcast
// over them: sum dy; mean dy / R; prod dy * (the product of the others); var 2 dy (x - mean) / (R - correction);
// norm dy x / y, 0 where y = 0; max and min along one axis pass dy to the first extremum, over several axes they share
// it among all extrema (as PyTorch's max(dim) and amax do).
#include "kernels/reduce/reduce.h"
#include "autograd/op.h"
#include "ops/operands.h"

namespace lamina {
namespace {

struct Axes {
  bool is_reduced[max_ndim] = {};
  int count = 0;
};

Axes axes_of(std::string_view op, const Array& x, const Attr& dim) {
  Axes axes;
  if (std::holds_alternative<None>(dim)) {
    for (int d = 0; d < x.ndim(); ++d) axes.is_reduced[d] = true;
    axes.count = x.ndim();
    return axes;
  }
  for (int64_t d : std::get<Ints>(dim)) {
    const int axis = axis_of(op, d, x.view());
    check(!axes.is_reduced[axis], op, "dim names axis ", axis, " twice; expected distinct axes");
    axes.is_reduced[axis] = true;
    ++axes.count;
  }
  return axes;
}

Shape reduced_shape(const Array& x, const Axes& axes, bool keepdim) {
  Shape shape;
  for (int d = 0; d < x.ndim(); ++d) {
    if (!axes.is_reduced[d])
      shape[shape.ndim++] = x.dim(d);
    else if (keepdim)
      shape[shape.ndim++] = 1;
  }
  return shape;
}

int64_t reduced_size(const View& x, const Axes& axes) {
  int64_t n = 1;
  for (int d = 0; d < x.ndim; ++d)
    if (axes.is_reduced[d]) n *= x.shape[d];
  return n;
}

// y (with or without its reduced axes) seen with the axes of x: extent 1 and stride 0 where reduced.
View with_axes(const View& y, int ndim, const Axes& axes) {
  View v{.data = y.data, .dtype = y.dtype, .ndim = ndim};
  const bool keepdim = y.ndim == ndim;
  for (int d = 0, own = 0; d < ndim; ++d) {
    v.shape[d] = axes.is_reduced[d] ? 1 : y.shape[own];
    v.strides[d] = axes.is_reduced[d] ? 0 : y.strides[own];
    own += keepdim || !axes.is_reduced[d];
  }
  return v;
}

Array keep_axes(const Array& y, int ndim, const Axes& axes) {
  return y.with_view(with_axes(y.view(), ndim, axes));
}

// y repeated along the reduced axes, to the shape of x: a view with stride 0.
Array repeat(const Array& y, const Array& x, const Axes& axes) {
  View v = with_axes(y.view(), x.ndim(), axes);
  std::copy_n(x.view().shape, x.ndim(), v.shape);
  return y.with_view(v);
}

Array scalar(double value, Dtype dtype) { return eval<"full">({}, {{"value", value}, {"dtype", dtype}}); }

constexpr const char* names[] = {"sum", "mean", "prod", "max", "min", "any", "all", "var", "norm"};

template <Reduction op>
struct Record {
  static constexpr std::string_view name = names[int(op)];
  static Axes axes(const Array& x, const Attrs& attrs) { return axes_of(name, x, attrs["dim"]); }

  static void infer(const Inputs& in, const Attrs& attrs, Inference& out) {
    const Array& x = in[0];
    const Axes reduced = axes(x, attrs);
    Dtype dtype = x.dtype();
    if (op == Reduction::any || op == Reduction::all)
      dtype = Dtype::boolean;
    else if (op == Reduction::sum || op == Reduction::prod)
      dtype = is_floating(dtype) ? dtype : Dtype::int64;
    else if (op == Reduction::max || op == Reduction::min)
      check(reduced_size(x.view(), reduced) > 0, name, "x is ", x.view(),
            "; expected at least one element to reduce");
    else
      check<TypeError>(is_floating(dtype), name, "x is ", dtype, "; expected a floating dtype");
    out.add({dtype, reduced_shape(x, reduced, attrs.boolean("keepdim"))});
  }
  static void run(Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
    const double ddof = op == Reduction::variance ? double(attrs.integer("correction")) : 0;
    stream.submit(&ReduceKernels::reduce,
                  ReduceArgs{.op = op,
                             .x = in[0].view(),
                             .y = with_axes(out[0].view(), in[0].ndim(), axes(in[0], attrs)),
                             .ddof = ddof});
  }
};

template <Reduction op>
constexpr Axes (*axes_in)(const Array&, const Attrs&) = Record<op>::axes;

Gradients sum_vjp(const Saved& s, const Inputs& dy) {
  return {repeat(dy[0], s.in[0], axes_in<Reduction::sum>(s.in[0], s.attrs))};
}

Gradients mean_vjp(const Saved& s, const Inputs& dy) {
  const Array& x = s.in[0];
  const Axes axes = axes_in<Reduction::mean>(x, s.attrs);
  const double R = double(reduced_size(x.view(), axes));
  return {repeat(eval<"div">({dy[0], scalar(R, x.dtype())}), x, axes)};
}

// With zeros among the factors, the product of the others is not y / x: it is the product P of the factors that are not
// zero for a single zero, 0 for everything else beside it, and 0 everywhere for several zeros. P may be beyond the range
// of float16 where the gradient is not, so that is computed in float32.
Gradients prod_vjp(const Saved& s, const Inputs& dy) {
  const Dtype dtype = s.in[0].dtype();
  const auto cast = [&](const Array& a, Dtype to) {
    return dtype == Dtype::float16 ? eval<"cast">({a}, {{"dtype", to}}) : a;
  };
  const Array x = cast(s.in[0], Dtype::float32);
  const Axes axes = axes_in<Reduction::prod>(x, s.attrs);
  const Attr& dim = s.attrs["dim"];
  const Array is_zero = eval<"eq">({x, scalar(0, x.dtype())});
  const Array factors = eval<"where">({is_zero, scalar(1, x.dtype()), x});
  const Array P = eval<"prod">({factors}, {{"dim", dim}, {"keepdim", true}});
  const Array zeros = eval<"sum">({is_zero}, {{"dim", dim}, {"keepdim", true}});
  const Array g = eval<"mul">({keep_axes(cast(dy[0], Dtype::float32), x.ndim(), axes), P});
  const Array at_others = eval<"where_backward_a">({eval<"eq">({zeros, scalar(0, Dtype::int64)}), g});
  const Array at_zero = eval<"where_backward_a">({eval<"eq">({zeros, scalar(1, Dtype::int64)}), g});
  return {cast(eval<"where">({is_zero, at_zero, eval<"div">({at_others, factors})}), dtype)};
}

template <Reduction op>
Gradients extremum_vjp(const Saved& s, const Inputs& dy) {
  const Array& x = s.in[0];
  const Axes axes = axes_in<op>(x, s.attrs);
  const Array dy_kept = keep_axes(dy[0], x.ndim(), axes);
  if (axes.count == 1 && !s.attrs.is_none("dim")) {
    const int64_t dim = std::find(axes.is_reduced, axes.is_reduced + x.ndim(), true) - axes.is_reduced;
    const std::initializer_list<NamedAttr> attrs = {{"dim", dim}, {"keepdim", true}};
    const Array index = op == Reduction::max ? eval<"argmax">({x}, attrs) : eval<"argmin">({x}, attrs);
    return {eval<"gather_backward">(
        {dy_kept, index}, {{"dim", dim}, {"shape", Ints(x.view().shape, x.view().shape + x.ndim())}})};
  }
  const Array is_extremum = eval<"eq">({x, keep_axes(s.out[0], x.ndim(), axes)});
  const Array count = eval<"sum">({is_extremum}, {{"dim", s.attrs["dim"]}, {"keepdim", true}});
  const Array share = eval<"div">({dy_kept, eval<"cast">({count}, {{"dtype", x.dtype()}})});
  return {eval<"where_backward_a">({is_extremum, share})};
}

Gradients var_vjp(const Saved& s, const Inputs& dy) {
  const Array& x = s.in[0];
  const Axes axes = axes_in<Reduction::variance>(x, s.attrs);
  const double degrees = double(reduced_size(x.view(), axes)) - double(s.attrs.integer("correction"));
  const Array mean = eval<"mean">({x}, {{"dim", s.attrs["dim"]}, {"keepdim", true}});
  const Array scaled = eval<"mul">({keep_axes(dy[0], x.ndim(), axes), scalar(2 / degrees, x.dtype())});
  return {eval<"mul">({eval<"sub">({x, mean}), scaled})};
}

Gradients norm_vjp(const Saved& s, const Inputs& dy) {
  const Array& x = s.in[0];
  const Axes axes = axes_in<Reduction::norm>(x, s.attrs);
  const Array is_zero = eval<"eq">({s.out[0], scalar(0, x.dtype())});
  const Array ratio = eval<"where_backward_b">({is_zero, eval<"div">({dy[0], s.out[0]})});
  return {eval<"mul">({x, keep_axes(ratio, x.ndim(), axes)})};
}

template <Reduction op>
constexpr OpDefinition reduction(std::string_view schema,
                                 Gradients (*vjp)(const Saved&, const Inputs&) = nullptr,
                                 std::string_view keeps = "") {
  return {.schema = schema, .infer = Record<op>::infer, .run = Record<op>::run, .vjp = vjp, .keeps = keeps};
}

const Register reductions[] = {
    reduction<Reduction::sum>("sum(x, *, dim: ints? = None, keepdim: bool = False) -> y", sum_vjp),
    reduction<Reduction::mean>("mean(x, *, dim: ints? = None, keepdim: bool = False) -> y", mean_vjp),
    reduction<Reduction::prod>("prod(x, *, dim: ints? = None, keepdim: bool = False) -> y", prod_vjp, "x"),
    reduction<Reduction::max>("max(x, *, dim: ints? = None, keepdim: bool = False) -> y",
                              extremum_vjp<Reduction::max>, "x y"),
    reduction<Reduction::min>("min(x, *, dim: ints? = None, keepdim: bool = False) -> y",
                              extremum_vjp<Reduction::min>, "x y"),
    reduction<Reduction::any>("any(x, *, dim: ints? = None, keepdim: bool = False) -> y"),
    reduction<Reduction::all>("all(x, *, dim: ints? = None, keepdim: bool = False) -> y"),
    reduction<Reduction::variance>(
        "var(x, *, dim: ints? = None, correction: int = 1, keepdim: bool = False) -> y", var_vjp, "x"),
    reduction<Reduction::norm>("norm(x, *, dim: ints? = None, keepdim: bool = False) -> y", norm_vjp, "x y"),
};

// --- argmax, argmin ----------------------------------------------------------------------------------------------

template <bool is_max>
struct ArgRecord {
  static constexpr std::string_view name = is_max ? "argmax" : "argmin";

  static void infer(const Inputs& in, const Attrs& attrs, Inference& out) {
    const Array& x = in[0];
    Axes axes;
    if (attrs.is_none("dim"))
      axes = axes_of(name, x, None{});
    else
      axes.is_reduced[axis_of(name, attrs.integer("dim"), x.view())] = true;
    check(reduced_size(x.view(), axes) > 0, name, "x is ", x.view(),
          "; expected at least one element to reduce");
    out.add({Dtype::int64, reduced_shape(x, axes, attrs.boolean("keepdim"))});
  }
  static void run(Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
    ArgReduceArgs args{.x = in[0].view(), .y = out[0].view(), .axis = 0, .is_max = is_max};
    Axes axes;
    if (attrs.is_none("dim")) {  // along the one axis of the flattened x
      const Array flat = contiguous(in[0]);
      args.x = View{
          .data = flat.view().data, .dtype = flat.dtype(), .ndim = 1, .shape = {flat.size()}, .strides = {1}};
      args.y =
          View{.data = out[0].view().data, .dtype = Dtype::int64, .ndim = 1, .shape = {1}, .strides = {0}};
      stream.submit(&ReduceKernels::arg_reduce, args);
      return;
    }
    args.axis = axis_of(name, attrs.integer("dim"), in[0].view());
    axes.is_reduced[args.axis] = true;
    args.y = with_axes(out[0].view(), in[0].ndim(), axes);
    stream.submit(&ReduceKernels::arg_reduce, args);
  }
};

const Register argmax_op{{.schema = "argmax(x, *, dim: int? = None, keepdim: bool = False) -> y",
                          .infer = ArgRecord<true>::infer,
                          .run = ArgRecord<true>::run}};
const Register argmin_op{{.schema = "argmin(x, *, dim: int? = None, keepdim: bool = False) -> y",
                          .infer = ArgRecord<false>::infer,
                          .run = ArgRecord<false>::run}};

// --- cumsum, sum_to ----------------------------------------------------------------------------------------------

const Register cumsum_op{{
    .schema = "cumsum(x, *, dim: int = 0, reverse: bool = False) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          axis_of("cumsum", attrs.integer("dim"), in[0].view());
          out.add(Spec::like(in[0].view(), is_floating(in[0].dtype()) ? in[0].dtype() : Dtype::int64));
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          stream.submit(&ReduceKernels::cumsum,
                        CumsumArgs{.x = in[0].view(),
                                   .y = out[0].view(),
                                   .axis = axis_of("cumsum", attrs.integer("dim"), in[0].view()),
                                   .is_reverse = attrs.boolean("reverse")});
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      return {eval<"cumsum">({dy[0]}, {{"dim", s.attrs["dim"]}, {"reverse", !s.attrs.boolean("reverse")}})};
    },
}};

// The adjoint of broadcasting: sums over the axes that broadcasting adds or repeats.
const Register sum_to_op{{
    .schema = "sum_to(x, *, shape: ints = ()) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const Array& x = in[0];
          const Ints& shape = attrs.ints("shape");
          const int added = x.ndim() - int(shape.size());
          bool fits = added >= 0;
          for (int d = 0; fits && d < int(shape.size()); ++d)
            fits = shape[size_t(d)] == 1 || shape[size_t(d)] == x.dim(d + added);
          check(fits, "sum_to", "shape is ", shape, " and x is ", x.view(),
                "; expected a shape that broadcasts to x's");
          out.add({is_floating(x.dtype()) ? x.dtype() : Dtype::int64,
                   Shape(std::span<const int64_t>(shape.data(), shape.size()))});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs&, const Outputs& out) {
          const View &x = in[0].view(), &y = out[0].view();
          View aligned{.data = y.data, .dtype = y.dtype, .ndim = x.ndim};
          const int added = x.ndim - y.ndim;
          for (int d = 0; d < x.ndim; ++d) {
            aligned.shape[d] = d < added ? 1 : y.shape[d - added];
            aligned.strides[d] = d < added ? 0 : y.strides[d - added];
          }
          stream.submit(&ReduceKernels::reduce, ReduceArgs{.op = Reduction::sum, .x = x, .y = aligned});
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      return {eval<"expand">({dy[0]},
                             {{"shape", Ints(s.in[0].view().shape, s.in[0].view().shape + s.in[0].ndim())}})};
    },
}};

}  // namespace
}  // namespace lamina
