// Losses: cross_entropy, nll_loss, mse_loss, l1_loss, binary_cross_entropy_with_logits.
#include "kernels/loss/cross_entropy.h"
#include "kernels/loss/pointwise.h"
#include "ops/operands.h"

namespace lamina {
namespace {

LossReduction reduction_of(const Attrs& attrs, std::string_view op) {
  const std::string& name = attrs.string("reduction");
  if (name == "none") return LossReduction::none;
  if (name == "sum") return LossReduction::sum;
  check(name == "mean", op, "reduction is '", name, "'; expected 'none', 'mean' or 'sum'");
  return LossReduction::mean;
}

// --- losses over classes -----------------------------------------------------------------------------------

// The class axis of (N, C, d1, ...) and (C,).
Axis class_axis(const Array& x) { return seen_along(x.view(), x.ndim() == 1 ? 0 : 1); }

Shape without_classes(const Array& x) {
  Shape positions = x.shape();
  const int axis = x.ndim() == 1 ? 0 : 1;
  for (int i = axis; i + 1 < positions.ndim; ++i) positions[i] = positions[i + 1];
  --positions.ndim;
  return positions;
}

bool has_labels(const Array& target) { return !is_floating(target.dtype()); }

// Labels are data: they can be read now, but not when a recorded program is replayed (there they give NaN).
template <class T>
void check_labels(const Array& target, int64_t C, int64_t ignore_index, std::string_view op) {
  const Array labels = contiguous(target);
  const T* label = labels.view().as<T>();
  for (int64_t i = 0; i < labels.size(); ++i)
    check((label[i] >= 0 && label[i] < C) || label[i] == ignore_index, op, "target has class ",
          int64_t(label[i]), " at position ", i, " but x is of ", C, " classes; expected 0 to ", C - 1,
          " or ignore_index ", ignore_index);
}

void check_class_loss(const Array& x, const Array& target, const Array& weight, const Attrs& attrs,
                      std::string_view op, bool may_be_probabilities) {
  check_kernel_dtype(op, "x", x.dtype());
  check(x.ndim() >= 1, op, "x is ", x.view(), "; expected (N, C), (N, C, d1, ...) or (C,)");
  const int64_t C = class_axis(x).C;
  check(C > 0, op, "x is ", x.view(), "; expected at least one class");
  reduction_of(attrs, op);
  if (weight) {
    check(weight.shape() == Shape{C}, op, "weight is ", weight.view(), " but x is ", x.view(), "; expected ",
          Shape{C});
    check<TypeError>(weight.dtype() == x.dtype(), op, "weight is ", weight.dtype(), "; expected ", x.dtype(),
                     " as x");
  }
  if (!has_labels(target) && may_be_probabilities) {
    check<TypeError>(target.dtype() == x.dtype(), op, "target is ", target.dtype(),
                     "; expected class indices (int64 or "
                     "int32) or probabilities (",
                     x.dtype(), " as x)");
    check(target.shape() == x.shape(), op, "target of probabilities is ", target.view(), "; expected ",
          x.view(), " as x");
    return;
  }
  check<TypeError>(target.dtype() == Dtype::int64 || target.dtype() == Dtype::int32, op, "target is ",
                   target.dtype(), "; expected int64 or int32");
  check(target.shape() == without_classes(x), op, "target is ", target.view(), " but x is ", x.view(),
        "; expected ", without_classes(x));
  if (!target.device().is_cpu() || !target.view().data || !Stream::can_check_values()) return;
  const int64_t ignore_index = attrs.integer("ignore_index");
  if (target.dtype() == Dtype::int64)
    check_labels<int64_t>(target, C, ignore_index, op);
  else
    check_labels<int32_t>(target, C, ignore_index, op);
}

// The operands of a kernel, and what keeps copies of them alive until it is submitted.
struct ClassOperands {
  Axis axis;
  Array target, weight;
  ClassLoss to;
};

ClassOperands class_operands(const Array& x, const Array& target, const Array& weight, const Attrs& attrs,
                             double label_smoothing) {
  ClassOperands o;
  o.axis = class_axis(x);
  o.target = has_labels(target) ? contiguous(target) : dense(target, o.axis.is_channels_last);
  if (weight) o.weight = contiguous(weight);
  o.to = {.target = o.target.view(),
          .weight = weight ? o.weight.view() : View{},
          .O = o.axis.O,
          .C = o.axis.C,
          .I = o.axis.I,
          .ignore_index = attrs.integer("ignore_index"),
          .label_smoothing = label_smoothing,
          .reduction = reduction_of(attrs, "loss")};
  return o;
}

Shape loss_shape(const Array& x, const Attrs& attrs, std::string_view op) {
  return reduction_of(attrs, op) == LossReduction::none ? without_classes(x) : Shape{};
}

const Register cross_entropy_op{{
    .schema = "cross_entropy(x, target, weight?, *, ignore_index: int = -100, label_smoothing: float = 0, "
              "reduction: str = 'mean') -> loss, stats, total",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const Array& x = in[0];
          check_class_loss(x, in[1], in[2], attrs, "cross_entropy", true);
          const double smoothing = attrs.real("label_smoothing");
          check(smoothing >= 0 && smoothing <= 1, "cross_entropy", "label_smoothing is ", smoothing,
                "; expected 0 to 1");
          const Axis axis = class_axis(x);
          out.add({x.dtype(), loss_shape(x, attrs, "cross_entropy")});
          out.add({compute_dtype(x.dtype()), {2, axis.O * axis.I}});
          out.add({compute_dtype(x.dtype()), {}});
          out.workspace = 2 * int64_t(sizeof(double)) * class_loss_tasks(axis.O, axis.C, axis.I).chunks();
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const ClassOperands o = class_operands(in[0], in[1], in[2], attrs, attrs.real("label_smoothing"));
          const Array logits = dense(in[0], o.axis.is_channels_last);
          stream.submit(&ClassLossKernels::cross_entropy,
                        CrossEntropyArgs{.to = o.to,
                                         .logits = logits.view(),
                                         .loss = out[0].view(),
                                         .stats = out[1].view(),
                                         .total = out[2].view(),
                                         .partial = static_cast<double*>(out.workspace)});
        },
    .vjp =
        [](const Saved& s, const Inputs& dy) {
          const auto by = [&](bool for_target) {
            return eval<"cross_entropy_backward">({dy[0], s.in[0], s.in[1], s.out[1], s.out[2], s.in[2]},
                                                  {{"ignore_index", s.attrs["ignore_index"]},
                                                   {"label_smoothing", s.attrs["label_smoothing"]},
                                                   {"reduction", s.attrs["reduction"]},
                                                   {"for_target", for_target}});
          };
          return Gradients{s.needs(0) ? by(false) : Array{}, s.needs(1) ? by(true) : Array{}, Array{}};
        },
    .keeps = "x target weight stats total",
}};

const Register cross_entropy_backward_op{{
    .schema = "cross_entropy_backward(dloss, x, target, stats, total, weight?, *, ignore_index: int = -100, "
              "label_smoothing: float = 0, reduction: str = 'mean', for_target: bool = False) -> d",
    .infer =
        [](const Inputs& in, const Attrs&, Inference& out) {
          out.add({in[1].dtype(), in[1].shape(), layout_of(class_axis(in[1]).is_channels_last)});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const ClassOperands o = class_operands(in[1], in[2], in[5], attrs, attrs.real("label_smoothing"));
          const Array dloss = contiguous(in[0]), logits = dense(in[1], o.axis.is_channels_last);
          const bool for_target = attrs.boolean("for_target");
          stream.submit(&ClassLossKernels::cross_entropy_backward,
                        CrossEntropyBackwardArgs{.to = o.to,
                                                 .logits = logits.view(),
                                                 .stats = in[3].view(),
                                                 .total = in[4].view(),
                                                 .dloss = dloss.view(),
                                                 .dlogits = for_target ? View{} : out[0].view(),
                                                 .dtarget = for_target ? out[0].view() : View{}});
        },
}};

const Register nll_loss_op{{
    .schema =
        "nll_loss(x, target, weight?, *, ignore_index: int = -100, reduction: str = 'mean') -> loss, total",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const Array& x = in[0];
          check_class_loss(x, in[1], in[2], attrs, "nll_loss", false);
          out.add({x.dtype(), loss_shape(x, attrs, "nll_loss")});
          out.add({compute_dtype(x.dtype()), {}});
          out.workspace = 2 * int64_t(sizeof(double)) * nll_chunks(in[1].size());
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const ClassOperands o = class_operands(in[0], in[1], in[2], attrs, 0);
          const Array x = dense(in[0], o.axis.is_channels_last);
          stream.submit(&ClassLossKernels::nll, NllArgs{.to = o.to,
                                                        .x = x.view(),
                                                        .loss = out[0].view(),
                                                        .total = out[1].view(),
                                                        .partial = static_cast<double*>(out.workspace)});
        },
    .vjp =
        [](const Saved& s, const Inputs& dy) {
          return Gradients{eval<"nll_loss_backward">({dy[0], s.in[0], s.in[1], s.out[1], s.in[2]},
                                                     {{"ignore_index", s.attrs["ignore_index"]},
                                                      {"reduction", s.attrs["reduction"]}}),
                           Array{}, Array{}};
        },
    .keeps = "target weight total",
}};

const Register nll_loss_backward_op{{
    .schema = "nll_loss_backward(dloss, x, target, total, weight?, *, ignore_index: int = -100, "
              "reduction: str = 'mean') -> dx",
    .infer =
        [](const Inputs& in, const Attrs&, Inference& out) {
          out.add({in[1].dtype(), in[1].shape(), layout_of(class_axis(in[1]).is_channels_last)});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const ClassOperands o = class_operands(in[1], in[2], in[4], attrs, 0);
          const Array dloss = contiguous(in[0]);
          stream.submit(
              &ClassLossKernels::nll_backward,
              NllBackwardArgs{.to = o.to, .total = in[3].view(), .dloss = dloss.view(), .dx = out[0].view()});
        },
}};

// --- losses of elements ------------------------------------------------------------------------------------

constexpr const char* pointwise_names[] = {"mse_loss", "l1_loss", "binary_cross_entropy_with_logits"};

// The order in memory in which all operands are read and gradients are written: that of x.
View pointwise_order(const Array& x) { return Spec::like(x.view(), x.dtype()); }

// A weight of elements, repeated to the shape of x.
Array weights_like(Stream& stream, const Array& weight, const Array& x) {
  if (!weight) return {};
  View seen;
  broadcast(weight.view(), x.shape(), &seen);
  return in_order(stream, weight.with_view(seen), pointwise_order(x));
}

template <PointwiseLoss kind>
void infer_pointwise(const Inputs& in, const Attrs& attrs, Inference& out) {
  constexpr const char* op = pointwise_names[int(kind)];
  const Array &x = in[0], &target = in[1];
  check_kernel_dtype(op, "x", x.dtype());
  check(target.shape() == x.shape(), op, "target is ", target.view(), " but x is ", x.view(),
        "; expected equal shapes");
  check<TypeError>(target.dtype() == x.dtype(), op, "target is ", target.dtype(), "; expected ", x.dtype(),
                   " as x");
  for (size_t i = 2; i < in.size(); ++i) {
    if (!in[i]) continue;
    const char* name = i == 2 ? "weight" : "pos_weight";
    View seen;
    check(broadcast(in[i].view(), x.shape(), &seen), op, name, " is ", in[i].view(), " but x is ", x.view(),
          "; expected a shape that broadcasts to that of x");
    check<TypeError>(in[i].dtype() == x.dtype(), op, name, " is ", in[i].dtype(), "; expected ", x.dtype(),
                     " as x");
  }
  if (reduction_of(attrs, op) == LossReduction::none)
    out.add(pointwise_order(x));
  else
    out.add({x.dtype(), {}});
  out.workspace = int64_t(sizeof(double)) * pointwise_loss_chunks(x.size());
}

template <PointwiseLoss kind>
void run_pointwise(Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
  const View order = pointwise_order(in[0]);
  const Array x = in_order(stream, in[0], order), target = in_order(stream, in[1], order);
  const Array weight = in.size() > 2 ? weights_like(stream, in[2], in[0]) : Array{};
  const Array pos_weight = in.size() > 3 ? weights_like(stream, in[3], in[0]) : Array{};
  stream.submit(&PointwiseLossKernels::forward,
                PointwiseLossArgs{.kind = kind,
                                  .reduction = reduction_of(attrs, "loss"),
                                  .x = x.view(),
                                  .target = target.view(),
                                  .weight = weight ? weight.view() : View{},
                                  .pos_weight = pos_weight ? pos_weight.view() : View{},
                                  .loss = out[0].view(),
                                  .partial = static_cast<double*>(out.workspace)});
}

template <PointwiseLoss kind>
Gradients vjp_pointwise(const Saved& s, const Inputs& dy) {
  const bool has_weights = s.in.size() > 2;
  const auto by = [&](bool for_target) {
    return eval<"pointwise_loss_backward">(
        {dy[0], s.in[0], s.in[1], has_weights ? s.in[2] : Array{}, has_weights ? s.in[3] : Array{}},
        {{"kind", int64_t(kind)}, {"reduction", s.attrs["reduction"]}, {"for_target", for_target}});
  };
  Gradients d{s.needs(0) ? by(false) : Array{}, s.needs(1) ? by(true) : Array{}};
  d.resize(s.in.size());
  return d;
}

const Register mse_loss_op{{
    .schema = "mse_loss(x, target, *, reduction: str = 'mean') -> loss",
    .infer = infer_pointwise<PointwiseLoss::mse>,
    .run = run_pointwise<PointwiseLoss::mse>,
    .vjp = vjp_pointwise<PointwiseLoss::mse>,
    .keeps = "x target",
}};

const Register l1_loss_op{{
    .schema = "l1_loss(x, target, *, reduction: str = 'mean') -> loss",
    .infer = infer_pointwise<PointwiseLoss::l1>,
    .run = run_pointwise<PointwiseLoss::l1>,
    .vjp = vjp_pointwise<PointwiseLoss::l1>,
    .keeps = "x target",
}};

const Register binary_cross_entropy_with_logits_op{{
    .schema = "binary_cross_entropy_with_logits(x, target, weight?, pos_weight?, *, reduction: str = 'mean') "
              "-> loss",
    .infer = infer_pointwise<PointwiseLoss::bce_with_logits>,
    .run = run_pointwise<PointwiseLoss::bce_with_logits>,
    .vjp = vjp_pointwise<PointwiseLoss::bce_with_logits>,
    .keeps = "x target weight pos_weight",
}};

const Register pointwise_loss_backward_op{{
    .schema = "pointwise_loss_backward(dloss, x, target, weight?, pos_weight?, *, kind: int = 0, "
              "reduction: str = 'mean', for_target: bool = False) -> d",
    .infer = [](const Inputs& in, const Attrs&, Inference& out) { out.add(pointwise_order(in[1])); },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const View order = out[0].view();
          const LossReduction reduction = reduction_of(attrs, "loss");
          const Array x = in_order(stream, in[1], order), target = in_order(stream, in[2], order);
          const Array weight = weights_like(stream, in[3], in[1]),
                      pos_weight = weights_like(stream, in[4], in[1]);
          const Array dloss = reduction == LossReduction::none ? in_order(stream, in[0], order) : in[0];
          const bool for_target = attrs.boolean("for_target");
          stream.submit(&PointwiseLossKernels::backward,
                        PointwiseLossBackwardArgs{.kind = PointwiseLoss(attrs.integer("kind")),
                                                  .reduction = reduction,
                                                  .x = x.view(),
                                                  .target = target.view(),
                                                  .weight = weight ? weight.view() : View{},
                                                  .pos_weight = pos_weight ? pos_weight.view() : View{},
                                                  .dloss = dloss.view(),
                                                  .dx = for_target ? View{} : out[0].view(),
                                                  .dtarget = for_target ? out[0].view() : View{}});
        },
}};

}  // namespace
}  // namespace lamina
