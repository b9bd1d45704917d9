// Optimizer steps over all tensors of a model in one call (adam_, sgd_) and gradient norms (clip_grad_norm_,
// clip_factor).
#include "kernels/optim/optim.h"
#include "ops/operands.h"

namespace lamina {
namespace {

// One kind of tensor in a call: its name in messages, and its place in the kernel's table.
struct Group {
  const char* name;
  void* OptimTensor::* place;
};
constexpr Group adam_groups[] = {{"params", &OptimTensor::param}, {"grads", &OptimTensor::grad},
                                 {"exp_avgs", &OptimTensor::m},   {"exp_avg_sqs", &OptimTensor::v},
                                 {"steps", &OptimTensor::step},   {"max_exp_avg_sqs", &OptimTensor::vmax}};
constexpr Group sgd_groups[] = {{"params", &OptimTensor::param},
                                {"grads", &OptimTensor::grad},
                                {"momentum_buffers", &OptimTensor::m},
                                {"steps", &OptimTensor::step}};
constexpr size_t params = 0, grads = 1;

// The tensors of a call: for each group n arrays, all params, then all grads, and so on.
struct Groups {
  std::span<const Array> arrays;
  std::span<const Group> kinds;
  size_t n = 0;

  Groups(std::span<const Array> tensors, std::span<const Group> groups)
      : arrays(tensors), kinds(groups), n(tensors.size() / groups.size()) {}
  const Array& at(size_t group, size_t i) const { return arrays[group * n + i]; }
};

Groups adam_groups_of(const Inputs& in, const Attrs& attrs) {
  return {in.subspan(2), std::span(adam_groups).first(attrs.boolean("amsgrad") ? 6 : 5)};
}

Groups sgd_groups_of(const Inputs& in, const Attrs& attrs) {
  return {in.subspan(2), std::span(sgd_groups).first(attrs.real("momentum") != 0 ? 4 : 2)};
}

Dtype state_dtype(Dtype t) { return t == Dtype::float64 ? Dtype::float64 : Dtype::float32; }

void check_scalar(const Array& x, std::string_view op, const char* name) {
  check(x.size() == 1, op, name, " is ", x.view(), "; expected one element");
  check<TypeError>(x.dtype() == Dtype::float32 || x.dtype() == Dtype::float64, op, name, " is ", x.dtype(),
                   "; expected float32 or float64");
}

void check_at_least_zero(double value, std::string_view op, const char* name) {
  check(value >= 0, op, name, " is ", value, "; expected at least 0");
}

// Every group but steps holds arrays of the shapes of the params; state lies as its param does.
void check_groups(const Inputs& in, const Groups& g, std::string_view op) {
  check_scalar(in[0], op, "lr");
  if (in[1]) check_scalar(in[1], op, "scale");
  check(g.n * g.kinds.size() == g.arrays.size(), op, g.arrays.size(), " tensors; expected ", g.kinds.size(),
        " groups of equal length");
  for (size_t i = 0; i < g.n; ++i) {
    const Array& param = g.at(params, i);
    if (!is_kernel_dtype(param.dtype())) check_kernel_dtype(op, cat("params[", i, "]"), param.dtype());
    check(is_dense(param.view()), op, "params[", i, "] ", param.view(), " has gaps in memory; expected none");
    for (size_t k = grads; k < g.kinds.size(); ++k) {
      const Array& x = g.at(k, i);
      const char* const name = g.kinds[k].name;
      if (g.kinds[k].place == &OptimTensor::step) {
        check<TypeError>(x.dtype() == Dtype::int64 || x.dtype() == Dtype::float32, op, "steps[", i, "] is ",
                         x.dtype(), "; expected int64 or float32");
        check(x.size() == 1, op, "steps[", i, "] is ", x.view(), "; expected one element");
        continue;
      }
      const Dtype dtype = k == grads ? param.dtype() : state_dtype(param.dtype());
      check(x.shape() == param.shape(), op, name, "[", i, "] is ", x.view(), " but params[", i, "] is ",
            param.view(), "; expected equal shapes");
      check<TypeError>(x.dtype() == dtype, op, name, "[", i, "] is ", x.dtype(), " but params[", i, "] is ",
                       param.dtype(), "; expected ", dtype);
      check(k == grads || same_order(x.view(), param.view()), op, name, "[", i,
            "] does not lie in memory as params[", i, "] does; expected the same strides");
    }
  }
}

// The table of a call in device memory, a counter of blocks behind its rows, with copies of the gradients that do not
// lie as their params do.
struct Table {
  std::vector<OptimTensor> rows;
  SmallVector<Array, 4> copies;
  OptimTable in_device_memory;
};

Table make_table(Stream& stream, const Groups& g) {
  Table table;
  table.rows.resize(g.n + 1);  // the last one is 0 and no tensor: the counter
  int64_t elements = 0;
  for (size_t i = 0; i < g.n; ++i) {
    const Array& param = g.at(params, i);
    const Array grad = in_order(stream, g.at(grads, i), param.view());
    if (grad.storage().get() != g.at(grads, i).storage().get()) table.copies.push_back(grad);
    OptimTensor& row = table.rows[i];
    row.n = param.size();
    row.begin = elements;
    row.dtype = param.dtype();
    elements += row.n;
    for (size_t k = 0; k < g.kinds.size(); ++k) {
      const Array& x = k == grads ? grad : g.at(k, i);
      row.*g.kinds[k].place = x.view().data;
      if (g.kinds[k].place == &OptimTensor::step) row.step_dtype = x.dtype();
    }
  }
  const void* rows = stream.upload(table.rows.data(), int64_t(table.rows.size() * sizeof(OptimTensor)));
  auto* tensors = static_cast<OptimTensor*>(const_cast<void*>(rows));
  table.in_device_memory = {tensors, int64_t(g.n), elements, reinterpret_cast<uint32_t*>(tensors + g.n)};
  return table;
}

View view_or_none(const Array& x) { return x ? x.view() : View{}; }

int64_t coefficient_bytes(const Inputs& in, const Groups& g) {
  return in[0].device().is_cpu() ? int64_t(2 * sizeof(double) * g.n) : 0;
}

const Register adam_op{{
    .schema =
        "adam_(lr, scale?, tensors...!, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, "
        "weight_decay: float = 0, decoupled: bool = False, amsgrad: bool = False, maximize: bool = False) -> "
        "()",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          for (const char* name : {"beta1", "beta2"}) {
            const double beta = attrs.real(name);
            check(beta >= 0 && beta < 1, "adam_", name, " is ", beta, "; expected 0 <= ", name, " < 1");
          }
          check_at_least_zero(attrs.real("eps"), "adam_", "eps");
          check_at_least_zero(attrs.real("weight_decay"), "adam_", "weight_decay");
          const Groups g = adam_groups_of(in, attrs);
          check_groups(in, g, "adam_");
          out.workspace = coefficient_bytes(in, g);
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const Table table = make_table(stream, adam_groups_of(in, attrs));
          stream.submit(&OptimKernels::adam, AdamArgs{.table = table.in_device_memory,
                                                      .lr = in[0].view(),
                                                      .scale = view_or_none(in[1]),
                                                      .coefficients = static_cast<double*>(out.workspace),
                                                      .beta1 = attrs.real("beta1"),
                                                      .beta2 = attrs.real("beta2"),
                                                      .eps = attrs.real("eps"),
                                                      .weight_decay = attrs.real("weight_decay"),
                                                      .is_decoupled = attrs.boolean("decoupled"),
                                                      .has_amsgrad = attrs.boolean("amsgrad"),
                                                      .maximize = attrs.boolean("maximize")});
        },
}};

const Register sgd_op{{
    .schema = "sgd_(lr, scale?, tensors...!, *, momentum: float = 0, dampening: float = 0, weight_decay: "
              "float = 0, "
              "nesterov: bool = False, maximize: bool = False) -> ()",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const double momentum = attrs.real("momentum"), dampening = attrs.real("dampening");
          check_at_least_zero(momentum, "sgd_", "momentum");
          check_at_least_zero(attrs.real("weight_decay"), "sgd_", "weight_decay");
          check(!attrs.boolean("nesterov") || (momentum > 0 && dampening == 0), "sgd_",
                "nesterov with momentum ", momentum, " and dampening ", dampening,
                "; expected a momentum and no dampening");
          const Groups g = sgd_groups_of(in, attrs);
          check_groups(in, g, "sgd_");
          out.workspace = coefficient_bytes(in, g);
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const Table table = make_table(stream, sgd_groups_of(in, attrs));
          stream.submit(&OptimKernels::sgd, SgdArgs{.table = table.in_device_memory,
                                                    .lr = in[0].view(),
                                                    .scale = view_or_none(in[1]),
                                                    .coefficients = static_cast<double*>(out.workspace),
                                                    .momentum = attrs.real("momentum"),
                                                    .dampening = attrs.real("dampening"),
                                                    .weight_decay = attrs.real("weight_decay"),
                                                    .is_nesterov = attrs.boolean("nesterov"),
                                                    .maximize = attrs.boolean("maximize")});
        },
}};

// --- gradient norms ----------------------------------------------------------------------------------------

void infer_norm(const Inputs& in, const Attrs& attrs, Inference& out, std::string_view op) {
  const double order = attrs.real("norm_type");
  check(order == 1 || order == 2 || order == __builtin_inf(), op, "norm_type is ", order,
        "; expected 1, 2 or inf");
  Dtype dtype = Dtype::float32;
  int64_t elements = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    if (!is_kernel_dtype(in[i].dtype())) check_kernel_dtype(op, cat("grads[", i, "]"), in[i].dtype());
    if (in[i].dtype() == Dtype::float64) dtype = Dtype::float64;
    elements += in[i].size();
  }
  out.add({dtype, {}});
  out.add({dtype, {}});
  out.workspace = int64_t(sizeof(double)) * optim_chunks(elements);
}

void run_norm(Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out, bool clip_in_place) {
  const double order = attrs.real("norm_type");
  std::vector<OptimTensor> rows(in.size());
  SmallVector<Array, 4> dense;  // gradients, or copies of those that have gaps
  int64_t elements = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    const View& view = in[i].view();
    dense.push_back(in_order(stream, in[i], Spec::like(view, view.dtype)));
    rows[i].grad = dense[i].view().data;
    rows[i].n = view.size();
    rows[i].begin = elements;
    rows[i].dtype = view.dtype;
    elements += rows[i].n;
  }
  const void* table = stream.upload(rows.data(), int64_t(rows.size() * sizeof(OptimTensor)));
  stream.submit(&OptimKernels::grad_norm, GradNormArgs{.table = {static_cast<const OptimTensor*>(table),
                                                                 int64_t(in.size()), elements, nullptr},
                                                       .order = order == 1   ? NormOrder::one
                                                                : order == 2 ? NormOrder::two
                                                                             : NormOrder::infinity,
                                                       .max_norm = attrs.real("max_norm"),
                                                       .clip_in_place = clip_in_place,
                                                       .partial = static_cast<double*>(out.workspace),
                                                       .norm = out[0].view(),
                                                       .clip = out[1].view()});
  for (size_t i = 0; i < in.size() && clip_in_place; ++i)
    if (dense[i].storage().get() != in[i].storage().get())
      stream.submit(&LayoutKernels::copy, CopyArgs{.src = dense[i].view(), .dst = in[i].view()});
}

const Register clip_grad_norm_op{{
    .schema = "clip_grad_norm_(grads...!, *, max_norm: float = 1, norm_type: float = 2) -> norm, factor",
    .infer = [](const Inputs& in, const Attrs& attrs,
                Inference& out) { infer_norm(in, attrs, out, "clip_grad_norm_"); },
    .run = [](Stream& stream, const Inputs& in, const Attrs& attrs,
              const Outputs& out) { run_norm(stream, in, attrs, out, true); },
}};

const Register clip_factor_op{{
    .schema = "clip_factor(grads..., *, max_norm: float = 1, norm_type: float = 2) -> norm, factor",
    .infer = [](const Inputs& in, const Attrs& attrs,
                Inference& out) { infer_norm(in, attrs, out, "clip_factor"); },
    .run = [](Stream& stream, const Inputs& in, const Attrs& attrs,
              const Outputs& out) { run_norm(stream, in, attrs, out, false); },
}};

}  // namespace
}  // namespace lamina
