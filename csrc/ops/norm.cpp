// Batch normalisation.
#include "kernels/norm/norm.h"

#include "autograd/op.h"
#include "ops/operands.h"

namespace lamina {
namespace {

// Channels are the last axis in memory of matrices and of channels-last images; x is made dense in one of two orders.
bool prefers_channels_last(const View& x) {
  return x.ndim == 4 && x.shape[1] > 1 && x.strides[1] == 1 && !x.is_contiguous();
}
Array dense(const Array& x, bool is_channels_last) {
  return is_channels_last ? channels_last(x) : contiguous(x);
}

BatchNormShape shape_of(const View& x) {
  int64_t pixels = 1;
  for (int i = 2; i < x.ndim; ++i) pixels *= x.shape[i];
  return {x.shape[0], x.shape[1], pixels, pixels == 1 || prefers_channels_last(x)};
}

Dtype statistics_dtype(Dtype t) { return t == Dtype::float64 ? t : Dtype::float32; }

int64_t workspace_bytes(const View& x) {
  return shape_of(x).workspace() * size_of(statistics_dtype(x.dtype));
}

View view_of(const Array& array) { return array ? array.view() : View{}; }

const Register batch_norm_op{{
    .schema = "batch_norm(x, running_mean!?, running_var!?, weight?, bias?, num_batches_tracked!?, *, "
              "training: bool = False, momentum: float? = 0.1, eps: float = 1e-5) -> y, mean, rstd",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const Array &x = in[0], &batches = in[5];
          check(x.ndim() >= 2, "batch_norm", "x is ", x.view(), "; expected (N, C, ...)");
          const Dtype t = x.dtype(), statistics = statistics_dtype(t);
          check_kernel_dtype("batch_norm", "x", t);
          const int64_t C = x.dim(1), count = shape_of(x.view()).count();
          constexpr const char* names[] = {"", "running_mean", "running_var", "weight", "bias"};
          for (size_t i = 1; i <= 4; ++i) {
            if (!in[i]) continue;
            check(in[i].ndim() == 1 && in[i].dim(0) == C, "batch_norm", names[i], " is ", in[i].view(),
                  "; expected (", C, ",), one value per channel of x ", x.view());
            check<TypeError>(in[i].dtype() == t || in[i].dtype() == statistics, "batch_norm", names[i],
                             " is ", in[i].dtype(), " but x is ", t, "; expected ", t, " or ", statistics);
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
          out.add(
              {t, x.shape(), prefers_channels_last(x.view()) ? Layout::channels_last : Layout::contiguous});
          out.add({statistics, Shape{C}});
          out.add({statistics, Shape{C}});
          out.workspace = workspace_bytes(x.view());
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const Array x = dense(in[0], prefers_channels_last(in[0].view()));
          const bool is_cumulative = attrs.is_none("momentum");
          stream.submit(&NormKernels::batch_norm,
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
          out.add({x.dtype(), x.shape(),
                   prefers_channels_last(x.view()) ? Layout::channels_last : Layout::contiguous});
          out.add({weight ? weight.dtype() : mean.dtype(), mean.shape()});
          out.add({bias ? bias.dtype() : mean.dtype(), mean.shape()});
          out.workspace = workspace_bytes(x.view());
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const bool is_channels_last = prefers_channels_last(in[1].view());
          const Array dy = dense(in[0], is_channels_last), x = dense(in[1], is_channels_last);
          stream.submit(&NormKernels::batch_norm_backward,
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

}  // namespace
}  // namespace lamina
