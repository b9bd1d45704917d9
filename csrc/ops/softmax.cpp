// softmax, log_softmax.
#include "kernels/softmax/softmax.h"

#include "ops/operands.h"

namespace lamina {
namespace {

int softmax_axis(const Array& x, const Attrs& attrs, std::string_view op) {
  const int64_t dim = attrs.integer("dim"), n = std::max(x.ndim(), 1);
  check(dim >= -n && dim < n, op, "dim is ", dim, " but x is ", x.view(), "; expected ", -n, " to ", n - 1);
  return int(dim < 0 ? dim + n : dim);
}

template <bool logarithm>
void infer(const Inputs& in, const Attrs& attrs, Inference& out) {
  constexpr const char* op = logarithm ? "log_softmax" : "softmax";
  const Array& x = in[0];
  check_kernel_dtype(op, "x", x.dtype());
  out.add(
      {x.dtype(), x.shape(), layout_of(seen_along(x.view(), softmax_axis(x, attrs, op)).is_channels_last)});
}

template <bool logarithm>
void run(Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
  const Axis axis = seen_along(in[0].view(), softmax_axis(in[0], attrs, "softmax"));
  const Array x = dense(in[0], axis.is_channels_last);
  stream.submit(&SoftmaxKernels::forward, SoftmaxArgs{.x = x.view(),
                                                      .y = out[0].view(),
                                                      .outer = axis.O,
                                                      .C = axis.C,
                                                      .inner = axis.I,
                                                      .logarithm = logarithm});
}

template <bool logarithm>
Gradients vjp(const Saved& s, const Inputs& dy) {
  return {eval<"softmax_backward">({s.out[0], dy[0]}, {{"dim", s.attrs["dim"]}, {"logarithm", logarithm}})};
}

const Register softmax_op{{
    .schema = "softmax(x, *, dim: int = -1) -> y",
    .infer = infer<false>,
    .run = run<false>,
    .vjp = vjp<false>,
    .keeps = "y",
}};

const Register log_softmax_op{{
    .schema = "log_softmax(x, *, dim: int = -1) -> y",
    .infer = infer<true>,
    .run = run<true>,
    .vjp = vjp<true>,
    .keeps = "y",
}};

const Register softmax_backward_op{{
    .schema = "softmax_backward(y, dy, *, dim: int = -1, logarithm: bool = False) -> dx",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const Axis axis = seen_along(in[0].view(), softmax_axis(in[0], attrs, "softmax_backward"));
          out.add({in[0].dtype(), in[0].shape(), layout_of(axis.is_channels_last)});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const Axis axis = seen_along(in[0].view(), softmax_axis(in[0], attrs, "softmax_backward"));
          const Array y = dense(in[0], axis.is_channels_last), dy = dense(in[1], axis.is_channels_last);
          stream.submit(&SoftmaxKernels::backward,
                        SoftmaxBackwardArgs{.y = y.view(),
                                            .dy = dy.view(),
                                            .dx = out[0].view(),
                                            .outer = axis.O,
                                            .C = axis.C,
                                            .inner = axis.I,
                                            .logarithm = attrs.boolean("logarithm")});
        },
}};

}  // namespace
}  // namespace lamina
