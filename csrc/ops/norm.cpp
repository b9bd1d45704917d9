// Batch, layer, RMS and group normalisation.
#include "kernels/norm/batch_norm.h"

#include "autograd/op.h"
#include "kernels/norm/layer_norm.h"
#include "ops/operands.h"

namespace lamina {
namespace {

// Parameters have the dtype of x or that of its statistics.
void check_parameter_dtype(std::string_view op, const char* name, const Array& parameter, const Array& x) {
  const Dtype t = x.dtype(), statistics = compute_dtype(t);
  check<TypeError>(parameter.dtype() == t || parameter.dtype() == statistics, op, name, " is ",
                   parameter.dtype(), " but x is ", t, "; expected ", t, " or ", statistics);
}

void check_channel_parameter(std::string_view op, const char* name, const Array& parameter, const Array& x) {
  const int64_t C = x.dim(1);
  check(parameter.ndim() == 1 && parameter.dim(0) == C, op, name, " is ", parameter.view(), "; expected (", C,
        ",), one value per channel of x ", x.view());
  check_parameter_dtype(op, name, parameter, x);
}

// --- batch_norm --------------------------------------------------------------------------------------------------

BatchNormShape shape_of(const View& x) {
  int64_t pixels = 1;
  for (int i = 2; i < x.ndim; ++i) pixels *= x.shape[i];
  return {x.shape[0], x.shape[1], pixels, pixels == 1 || prefers_channels_last(x)};
}

int64_t workspace_bytes(const View& x) { return shape_of(x).workspace() * size_of(compute_dtype(x.dtype)); }

const Register batch_norm_op{{
    .schema = "batch_norm(x, running_mean!?, running_var!?, weight?, bias?, num_batches_tracked!?, *, "
              "training: bool = False, momentum: float? = 0.1, eps: float = 1e-5) -> y, mean, rstd",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const Array &x = in[0], &batches = in[5];
          check(x.ndim() >= 2, "batch_norm", "x is ", x.view(), "; expected (N, C, ...)");
          const Dtype t = x.dtype(), statistics = compute_dtype(t);
          check_kernel_dtype("batch_norm", "x", t);
          const int64_t C = x.dim(1), count = shape_of(x.view()).count();
          constexpr const char* names[] = {"", "running_mean", "running_var", "weight", "bias"};
          for (size_t i = 1; i <= 4; ++i) {
            if (in[i]) check_channel_parameter("batch_norm", names[i], in[i], x);
          }
          check(bool(in[1]) == bool(in[2]), "batch_norm",
                "one of running_mean and running_var is missing; expected both or none");
          check(!batches || batches.size() == 1, "batch_norm", "num_batches_tracked is ", view_of(batches),
                "; expected one element");
          check<TypeError>(!batches || batches.dtype() == Dtype::int64, "batch_norm",
                           "num_batches_tracked is ", view_of(batches).dtype, "; expected int64");
          if (attrs.boolean("training")) {
            check(count > 1, "batch_norm", "x is ", x.view(),
                  "; training expected more than one value per channel");
            check(batches || !in[1] || !attrs.is_none("momentum"), "batch_norm",
                  "momentum None is an average over batches; expected num_batches_tracked");
          } else {
            check(bool(in[1]), "batch_norm", "no running statistics; expected them where training is False");
          }
          out.add({t, x.shape(), layout_of(prefers_channels_last(x.view()))});
          out.add({statistics, Shape{C}});
          out.add({statistics, Shape{C}});
          out.workspace = workspace_bytes(x.view());
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const Array x = dense(in[0], prefers_channels_last(in[0].view()));
          const bool is_cumulative = attrs.is_none("momentum");
          stream.submit(&BatchNormKernels::forward,
                        BatchNormArgs{.x = x.view(),
                                      .weight = view_of(in[3]),
                                      .bias = view_of(in[4]),
                                      .running_mean = view_of(in[1]),
                                      .running_var = view_of(in[2]),
                                      .batches = view_of(in[5]),
                                      .y = out[0].view(),
                                      .mean = out[1].view(),
                                      .rstd = out[2].view(),
                                      .workspace = out.workspace,
                                      .shape = shape_of(in[0].view()),
                                      .is_training = attrs.boolean("training"),
                                      .is_cumulative = is_cumulative,
                                      .momentum = is_cumulative ? 0 : attrs.real("momentum"),
                                      .eps = attrs.real("eps")});
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const Outputs d = eval_all<"batch_norm_backward">(
          {dy[0], s.in[0], s.in[3], s.in[4], s.out[1], s.out[2]}, {{"training", s.attrs["training"]}});
      return {d[0], Array{}, Array{}, s.needs(3) ? d[1] : Array{}, s.needs(4) ? d[2] : Array{}, Array{}};
    },
    .keeps = "x weight mean rstd",
}};

// dweight and dbias have the dtypes of weight and bias, of which only weight is read.
const Register batch_norm_backward_op{{
    .schema = "batch_norm_backward(dy, x, weight?, bias?, mean, rstd, *, training: bool = True) -> dx, "
              "dweight, dbias",
    .infer =
        [](const Inputs& in, const Attrs&, Inference& out) {
          const Array &x = in[1], &weight = in[2], &bias = in[3], &mean = in[4];
          out.add({x.dtype(), x.shape(), layout_of(prefers_channels_last(x.view()))});
          out.add({weight ? weight.dtype() : mean.dtype(), mean.shape()});
          out.add({bias ? bias.dtype() : mean.dtype(), mean.shape()});
          out.workspace = workspace_bytes(x.view());
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const bool is_channels_last = prefers_channels_last(in[1].view());
          const Array dy = dense(in[0], is_channels_last), x = dense(in[1], is_channels_last);
          stream.submit(&BatchNormKernels::backward,
                        BatchNormBackwardArgs{.dy = dy.view(),
                                              .x = x.view(),
                                              .weight = view_of(in[2]),
                                              .mean = in[4].view(),
                                              .rstd = in[5].view(),
                                              .dx = out[0].view(),
                                              .dweight = out[1].view(),
                                              .dbias = out[2].view(),
                                              .workspace = out.workspace,
                                              .shape = shape_of(in[1].view()),
                                              .is_training = attrs.boolean("training")});
        },
}};

// --- layer_norm, rms_norm, group_norm ----------------------------------------------------------------------------

// x as rows: each of the elements along the axes from number `first` on.
struct Rows {
  View x;           // dense, in the order that the kernels take: that of x if its rows lie in row-major order
  View statistics;  // a value for each row, in the order of the rows
  LayerNormShape shape;

  Rows(const View& given, int first) {
    View row = given;
    row.ndim -= first;
    std::copy_n(given.shape + first, row.ndim, row.shape);
    std::copy_n(given.strides + first, row.ndim, row.strides);
    const Shape extents(std::span(given.shape, size_t(given.ndim)));
    x = row.is_contiguous() && is_dense(given) ? Spec::like(given, given.dtype)
                                               : Spec{given.dtype, extents}.view();
    const int64_t D = row.size();
    statistics = x;
    statistics.ndim = first;
    statistics.dtype = compute_dtype(given.dtype);
    for (int i = 0; i < first; ++i) statistics.strides[i] /= larger(1, D);
    shape = {.N = statistics.size(), .G = 1, .K = D, .L = 1, .is_rows = true};
  }
};

// The first of the axes that are normalised.
int first_axis(const View& x, const Attrs& attrs) {
  return x.ndim - int(attrs.ints("normalized_shape").size());
}

// Dense parameters as a vector; absent where they have no elements.
View flat(const Array& array) {
  if (!array || array.size() == 0) return {};
  return {
      .data = array.view().data, .dtype = array.dtype(), .ndim = 1, .shape = {array.size()}, .strides = {1}};
}
Array dense_parameter(const Array& array) { return array ? contiguous(array) : array; }

int64_t bytes_of(int64_t statistics, Dtype x) { return statistics * size_of(compute_dtype(x)); }

// `out`: y, mean where x is centred, rstd.
void forward(Stream& stream, const LayerNormShape& shape, const Array& x, const Array& weight,
             const Array& bias, double eps, const Outputs& out) {
  const bool is_centred = out.size() == 3;
  const Array w = dense_parameter(weight), b = dense_parameter(bias);
  stream.submit(&LayerNormKernels::forward, LayerNormArgs{.x = x.view(),
                                                          .weight = flat(w),
                                                          .bias = flat(b),
                                                          .y = out[0].view(),
                                                          .mean = is_centred ? out[1].view() : View{},
                                                          .rstd = out[is_centred ? 2 : 1].view(),
                                                          .workspace = out.workspace,
                                                          .shape = shape,
                                                          .is_centred = is_centred,
                                                          .eps = eps});
}

// `out`: dx, dweight, and dbias where x is centred. `mean` is absent where it is not.
void backward(Stream& stream, const LayerNormShape& shape, const Array& dy, const Array& x,
              const Array& weight, const Array& mean, const Array& rstd, const Outputs& out) {
  const Array w = dense_parameter(weight);
  stream.submit(&LayerNormKernels::backward, LayerNormBackwardArgs{.dy = dy.view(),
                                                                   .x = x.view(),
                                                                   .weight = flat(w),
                                                                   .mean = view_of(mean),
                                                                   .rstd = rstd.view(),
                                                                   .dx = out[0].view(),
                                                                   .dweight = flat(out[1]),
                                                                   .dbias = mean ? flat(out[2]) : View{},
                                                                   .workspace = out.workspace,
                                                                   .shape = shape,
                                                                   .is_centred = bool(mean)});
}

// The gradient of parameters; it has no elements where they are absent.
void add_gradient(Inference& out, const Array& parameter) {
  out.add(parameter ? Spec{parameter.dtype(), parameter.shape()} : Spec{Dtype::float32, Shape{0}});
}

void infer_rows(std::string_view op, const Inputs& in, const Attrs& attrs, bool is_centred, Inference& out) {
  const View& x = in[0].view();
  check_kernel_dtype(op, "x", x.dtype);
  const Ints& wanted = attrs.ints("normalized_shape");
  check(!wanted.empty(), op, "normalized_shape is (); expected the last extents of x ", x);
  const int first = first_axis(x, attrs);
  check(first >= 0 && std::equal(wanted.begin(), wanted.end(), x.shape + first), op, "normalized_shape is ",
        Tuple{wanted.data(), int(wanted.size())}, " but x is ", x, "; expected its last extents");
  const Shape shape{std::span(wanted)};
  constexpr const char* names[] = {"x", "weight", "bias"};
  for (size_t i = 1; i < in.size(); ++i) {
    if (!in[i]) continue;
    check(in[i].shape() == shape, op, names[i], " is ", in[i].view(), "; expected ", shape,
          ", the normalized_shape");
    check_parameter_dtype(op, names[i], in[i], in[0]);
  }
  const Rows rows(x, first);
  out.add(rows.x);
  if (is_centred) out.add(rows.statistics);
  out.add(rows.statistics);
  out.workspace = bytes_of(rows.shape.forward_workspace(), x.dtype);
}

void run_rows(Stream& stream, const Inputs& in, const Attrs& attrs, double eps, const Outputs& out) {
  const Rows rows(in[0].view(), first_axis(in[0].view(), attrs));
  forward(stream, rows.shape, in_order(stream, in[0], rows.x), in[1], in.size() > 2 ? in[2] : Array{}, eps,
          out);
}

// Statistics are one for each row, so they tell which axes are normalised.
void run_rows_backward(Stream& stream, const Array& dy, const Array& x, const Array& weight,
                       const Array& mean, const Array& rstd, const Outputs& out) {
  const Rows rows(x.view(), rstd.ndim());
  const auto of_rows = [&](const Array& array, const View& order) {
    return array ? in_order(stream, array, order) : array;
  };
  backward(stream, rows.shape, of_rows(dy, rows.x), of_rows(x, rows.x), weight,
           of_rows(mean, rows.statistics), of_rows(rstd, rows.statistics), out);
}

void infer_rows_backward(const Array& x, const Array& rstd, Inference& out) {
  const Rows rows(x.view(), rstd.ndim());
  out.add(rows.x);
  out.workspace = bytes_of(rows.shape.backward_workspace(), x.dtype());
}

const Register layer_norm_op{{
    .schema =
        "layer_norm(x, weight?, bias?, *, normalized_shape: ints = (), eps: float = 1e-5) -> y, mean, rstd",
    .infer = [](const Inputs& in, const Attrs& attrs,
                Inference& out) { infer_rows("layer_norm", in, attrs, true, out); },
    .run = [](Stream& stream, const Inputs& in, const Attrs& attrs,
              const Outputs& out) { run_rows(stream, in, attrs, attrs.real("eps"), out); },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const Outputs d =
          eval_all<"layer_norm_backward">({dy[0], s.in[0], s.in[1], s.in[2], s.out[1], s.out[2]});
      return {d[0], s.needs(1) ? d[1] : Array{}, s.needs(2) ? d[2] : Array{}};
    },
    .keeps = "x weight mean rstd",
}};

const Register layer_norm_backward_op{{
    .schema = "layer_norm_backward(dy, x, weight?, bias?, mean, rstd) -> dx, dweight, dbias",
    .infer =
        [](const Inputs& in, const Attrs&, Inference& out) {
          infer_rows_backward(in[1], in[5], out);
          add_gradient(out, in[2]);
          add_gradient(out, in[3]);
        },
    .run = [](Stream& stream, const Inputs& in, const Attrs&,
              const Outputs& out) { run_rows_backward(stream, in[0], in[1], in[2], in[4], in[5], out); },
}};

// eps None: that of the statistics' dtype, as PyTorch's.
const Register rms_norm_op{{
    .schema = "rms_norm(x, weight?, *, normalized_shape: ints = (), eps: float? = None) -> y, rstd",
    .infer = [](const Inputs& in, const Attrs& attrs,
                Inference& out) { infer_rows("rms_norm", in, attrs, false, out); },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const double smallest = in[0].dtype() == Dtype::float64 ? 0x1p-52 : 0x1p-23;
          run_rows(stream, in, attrs, attrs.is_none("eps") ? smallest : attrs.real("eps"), out);
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const Outputs d = eval_all<"rms_norm_backward">({dy[0], s.in[0], s.in[1], s.out[1]});
      return {d[0], s.needs(1) ? d[1] : Array{}};
    },
    .keeps = "x weight rstd",
}};

const Register rms_norm_backward_op{{
    .schema = "rms_norm_backward(dy, x, weight?, rstd) -> dx, dweight",
    .infer =
        [](const Inputs& in, const Attrs&, Inference& out) {
          infer_rows_backward(in[1], in[3], out);
          add_gradient(out, in[2]);
        },
    .run = [](Stream& stream, const Inputs& in, const Attrs&,
              const Outputs& out) { run_rows_backward(stream, in[0], in[1], in[2], {}, in[3], out); },
}};

LayerNormShape shape_of_groups(const View& x, int64_t groups) {
  const BatchNormShape s = shape_of(x);
  return {.N = s.N, .G = groups, .K = s.C / groups, .L = s.L, .is_rows = s.is_rows};
}

const Register group_norm_op{{
    .schema = "group_norm(x, weight?, bias?, *, num_groups: int = 1, eps: float = 1e-5) -> y, mean, rstd",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const View& x = in[0].view();
          check(x.ndim >= 2, "group_norm", "x is ", x, "; expected (N, C, ...)");
          check_kernel_dtype("group_norm", "x", x.dtype);
          const int64_t C = x.shape[1], groups = attrs.integer("num_groups");
          check(groups > 0 && C % groups == 0, "group_norm", "num_groups is ", groups, " but x has ", C,
                " channels; expected a divisor of them (x ", x, ")");
          constexpr const char* names[] = {"x", "weight", "bias"};
          for (size_t i = 1; i < 3; ++i) {
            if (in[i]) check_channel_parameter("group_norm", names[i], in[i], in[0]);
          }
          out.add({x.dtype, in[0].shape(), layout_of(prefers_channels_last(x))});
          for (int i = 0; i < 2; ++i) out.add({compute_dtype(x.dtype), Shape{x.shape[0], groups}});
          out.workspace = bytes_of(shape_of_groups(x, groups).forward_workspace(), x.dtype);
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const View& x = in[0].view();
          forward(stream, shape_of_groups(x, attrs.integer("num_groups")),
                  dense(in[0], prefers_channels_last(x)), in[1], in[2], attrs.real("eps"), out);
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const Outputs d =
          eval_all<"group_norm_backward">({dy[0], s.in[0], s.in[1], s.in[2], s.out[1], s.out[2]});
      return {d[0], s.needs(1) ? d[1] : Array{}, s.needs(2) ? d[2] : Array{}};
    },
    .keeps = "x weight mean rstd",
}};

const Register group_norm_backward_op{{
    .schema = "group_norm_backward(dy, x, weight?, bias?, mean, rstd) -> dx, dweight, dbias",
    .infer =
        [](const Inputs& in, const Attrs&, Inference& out) {
          const View& x = in[1].view();
          out.add({x.dtype, in[1].shape(), layout_of(prefers_channels_last(x))});
          add_gradient(out, in[2]);
          add_gradient(out, in[3]);
          out.workspace = bytes_of(shape_of_groups(x, in[4].dim(1)).backward_workspace(), x.dtype);
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs&, const Outputs& out) {
          const bool is_channels_last = prefers_channels_last(in[1].view());
          backward(stream, shape_of_groups(in[1].view(), in[4].dim(1)), dense(in[0], is_channels_last),
                   dense(in[1], is_channels_last), in[2], in[4], in[5], out);
        },
}};

}  // namespace
}  // namespace lamina
