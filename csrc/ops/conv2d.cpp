// Convolution and transposed convolution. A transposed convolution is the gradient of a convolution to its input, so
// both share their kernels: what is dy to the one is the input of the other.
#include "kernels/conv2d/conv2d.h"
#include "autograd/op.h"
#include "ops/operands.h"

namespace lamina {
namespace {

using Kernel = void (*Conv2dKernels::*)(const Conv2dArgs&);

// --- attributes and their errors ---------------------------------------------------------------------------------

// What both ops ask of their operands.
void check_operands(const char* op, const Inputs& in, const Attrs& attrs) {
  const Array &x = in[0], &weight = in[1], &bias = in[2];
  check(x.ndim() == 4, op, "x is ", x.view(), "; expected (N, C, H, W)");
  check(weight.ndim() == 4, op, "weight is ", weight.view(), "; expected four axes");
  const Dtype t = x.dtype();
  check_kernel_dtype(op, "x", t);
  check<TypeError>(weight.dtype() == t, op, "weight is ", weight.dtype(), " but x is ", t,
                   "; expected one dtype");
  check<TypeError>(!bias || bias.dtype() == t, op, "bias is ", bias ? bias.dtype() : t, " but x is ", t,
                   "; expected one dtype");
  check(weight.dim(2) > 0 && weight.dim(3) > 0, op, "weight is ", weight.view(),
        "; expected kernel extents of at least 1");
  for (const char* name : {"stride", "dilation"})
    for (int64_t value : attrs.ints(name))
      check(value >= 1, op, name, " is ", attrs.ints(name), "; expected at least 1");
  for (int64_t value : attrs.ints("padding"))
    check(value >= 0, op, "padding is ", attrs.ints("padding"), "; expected no negative value");
  const int64_t groups = attrs.integer("groups");
  check(groups >= 1, op, "groups is ", groups, "; expected at least 1");
  check(weight.dim(0) % groups == 0, op, "groups ", groups, " does not divide the ", weight.dim(0),
        " channels of axis 0 of weight ", weight.view());
}

void check_bias(const char* op, const Array& bias, int64_t channels) {
  check(!bias || (bias.ndim() == 1 && bias.dim(0) == channels), op, "bias is ", bias ? bias.view() : View{},
        "; expected (", channels, ",), one value per output channel");
}

// --- kernels' arguments ------------------------------------------------------------------------------------------

Conv2dArgs arguments(const Attrs& attrs, const View& x, const View& weight, const View& y) {
  Conv2dArgs args = {.x = x, .weight = weight, .bias = {}, .y = y};
  const Ints &stride = attrs.ints("stride"), &padding = attrs.ints("padding"),
             &dilation = attrs.ints("dilation");
  for (int d = 0; d < 2; ++d) {
    args.stride[d] = stride[d];
    args.padding[d] = padding[2 * d];
    args.dilation[d] = dilation[d];
  }
  args.groups = attrs.integer("groups");
  args.precision = float32_precision;
  return args;
}

int64_t workspace(ConvPass pass, const Conv2dArgs& args) {
  return current_kernels<Conv2dKernels>().choose_algorithm(pass, args).workspace_bytes;
}

void submit(Stream& stream, Kernel kernel, Conv2dArgs args, const Array& bias, const Outputs& out) {
  args.bias = view_of(bias);
  args.workspace = out.workspace;
  stream.submit(kernel, args);
}

// x as a pass reads it: merged taps take any layout, so that the image of a first layer is never converted.
Array source_of(ConvPass pass, const Attrs& attrs, const Array& x, const View& weight, const View& y) {
  const Conv2dPlan plan =
      current_kernels<Conv2dKernels>().choose_algorithm(pass, arguments(attrs, x.view(), weight, y));
  return plan.algorithm == ConvAlgorithm::merged_taps ? x : channels_last(x);
}

// y = conv(x).
void run_forward(Stream& stream, const Attrs& attrs, const Array& x, const Array& weight, const Array& bias,
                 const Outputs& out) {
  const Array source = source_of(ConvPass::forward, attrs, x, weight.view(), out[0].view());
  submit(stream, &Conv2dKernels::forward, arguments(attrs, source.view(), weight.view(), out[0].view()), bias,
         out);
}

// x from y: a gradient, or a transposed convolution.
void run_backward_input(Stream& stream, const Attrs& attrs, const Array& y, const Array& weight,
                        const Array& bias, const Outputs& out) {
  const Array source = channels_last(y);
  submit(stream, &Conv2dKernels::backward_input,
         arguments(attrs, out[0].view(), weight.view(), source.view()), bias, out);
}

// The gradient to an input, with the attributes of the op it belongs to.
template <OpName name>
Array input_gradient(const Array& dy, const Array& weight, const Attrs& attrs, const Array& x) {
  return eval<name>({dy, weight}, {{"size", Ints{x.dim(2), x.dim(3)}},
                                   {"stride", attrs["stride"]},
                                   {"padding", attrs["padding"]},
                                   {"dilation", attrs["dilation"]},
                                   {"groups", attrs["groups"]}});
}

// The gradient to the weight of the convolution of x that gives y, and where asked for the sums of dy.
Outputs weight_gradient(const Array& x, const Array& dy, const Attrs& attrs, const Array& weight, bool sums) {
  return eval_all<"conv2d_backward_weight">({x, dy}, {{"kernel", Ints{weight.dim(2), weight.dim(3)}},
                                                      {"stride", attrs["stride"]},
                                                      {"padding", attrs["padding"]},
                                                      {"dilation", attrs["dilation"]},
                                                      {"groups", attrs["groups"]},
                                                      {"sums", sums}});
}

// The gradient to a bias alone.
Array channel_sums(const Array& dy) { return eval<"sum">({dy}, {{"dim", Ints{0, 2, 3}}}); }

// --- convolution -------------------------------------------------------------------------------------------------

const Register conv2d_op{{
    .schema = "conv2d(x, weight, bias?, *, stride: int[2] = 1, padding: int[4] = 0, dilation: int[2] = 1, "
              "groups: int = 1) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          check_operands("conv2d", in, attrs);
          const Array &x = in[0], &weight = in[1];
          const int64_t groups = attrs.integer("groups");
          check(weight.dim(1) * groups == x.dim(1), "conv2d", "weight has ", weight.dim(1) * groups,
                " input channels but x has ", x.dim(1), " (x ", x.view(), ", weight ", weight.view(),
                ", groups ", groups, ")");
          check_bias("conv2d", in[2], weight.dim(0));
          Shape y = {x.dim(0), weight.dim(0), 0, 0};
          for (int d = 0; d < 2; ++d) {
            const int64_t reach = attrs.ints("dilation")[d] * (weight.dim(2 + d) - 1) + 1;
            const int64_t padded =
                x.dim(2 + d) + attrs.ints("padding")[2 * d] + attrs.ints("padding")[2 * d + 1];
            check(reach <= padded, "conv2d", "the kernel spans ", reach, d ? " columns" : " rows",
                  " but padded x has ", padded, " (x ", x.view(), ", weight ", weight.view(), ", padding ",
                  attrs.ints("padding"), ", dilation ", attrs.ints("dilation"), ")");
            y[2 + d] = (padded - reach) / attrs.ints("stride")[d] + 1;
          }
          out.add({x.dtype(), y, Layout::channels_last});
          out.workspace =
              workspace(ConvPass::forward, arguments(attrs, x.view(), weight.view(), out.views[0]));
        },
    .run = [](Stream& stream, const Inputs& in, const Attrs& attrs,
              const Outputs& out) { run_forward(stream, attrs, in[0], in[1], in[2], out); },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const Array &x = s.in[0], &weight = s.in[1];
      Gradients grads{{}, {}, {}};
      if (s.needs(0)) grads[0] = input_gradient<"conv2d_backward_input">(dy[0], weight, s.attrs, x);
      if (s.needs(1)) {
        const Outputs both = weight_gradient(x, dy[0], s.attrs, weight, s.needs(2));
        grads[1] = both[0];
        if (s.needs(2)) grads[2] = both[1];
      } else if (s.needs(2)) {
        grads[2] = channel_sums(dy[0]);
      }
      return grads;
    },
    .keeps = "x weight",
}};

const Register conv2d_backward_input_op{{
    .schema =
        "conv2d_backward_input(dy, weight, *, size: int[2] = 0, stride: int[2] = 1, padding: int[4] = 0, "
        "dilation: int[2] = 1, groups: int = 1) -> dx",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const Array &dy = in[0], &weight = in[1];
          const Ints& size = attrs.ints("size");
          out.add({dy.dtype(), Shape{dy.dim(0), weight.dim(1) * attrs.integer("groups"), size[0], size[1]},
                   Layout::channels_last});
          out.workspace =
              workspace(ConvPass::backward_input, arguments(attrs, out.views[0], weight.view(), dy.view()));
        },
    .run = [](Stream& stream, const Inputs& in, const Attrs& attrs,
              const Outputs& out) { run_backward_input(stream, attrs, in[0], in[1], Array{}, out); },
}};

// dbias is summed where asked for, while dy is read for dweight.
const Register conv2d_backward_weight_op{{
    .schema = "conv2d_backward_weight(x, dy, *, kernel: int[2] = 1, stride: int[2] = 1, padding: int[4] = 0, "
              "dilation: int[2] = 1, groups: int = 1, sums: bool = False) -> dweight, dbias",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const Array &x = in[0], &dy = in[1];
          const Ints& kernel = attrs.ints("kernel");
          out.add({x.dtype(), Shape{dy.dim(1), x.dim(1) / attrs.integer("groups"), kernel[0], kernel[1]}});
          out.add({x.dtype(), Shape{attrs.boolean("sums") ? dy.dim(1) : 0}});
          out.workspace =
              workspace(ConvPass::backward_weight, arguments(attrs, x.view(), out.views[0], dy.view()));
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const Array dy = channels_last(in[1]);
          const Array x = source_of(ConvPass::backward_weight, attrs, in[0], out[0].view(), dy.view());
          submit(stream, &Conv2dKernels::backward_weight,
                 arguments(attrs, x.view(), out[0].view(), dy.view()),
                 attrs.boolean("sums") ? out[1] : Array{}, out);
        },
}};

// --- transposed convolution --------------------------------------------------------------------------------------

const Register conv_transpose2d_op{{
    .schema = "conv_transpose2d(x, weight, bias?, *, stride: int[2] = 1, padding: int[4] = 0, "
              "output_padding: int[2] = 0, dilation: int[2] = 1, groups: int = 1) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          check_operands("conv_transpose2d", in, attrs);
          const Array &x = in[0], &weight = in[1];
          const int64_t channels = weight.dim(1) * attrs.integer("groups");
          check(weight.dim(0) == x.dim(1), "conv_transpose2d", "weight has ", weight.dim(0),
                " input channels but x has ", x.dim(1), " (x ", x.view(), ", weight ", weight.view(),
                ", groups ", attrs.integer("groups"), ")");
          check_bias("conv_transpose2d", in[2], channels);
          const Ints &padding = attrs.ints("padding"), &extra = attrs.ints("output_padding");
          Shape y = {x.dim(0), channels, 0, 0};
          for (int d = 0; d < 2; ++d) {
            const int64_t stride = attrs.ints("stride")[d], dilation = attrs.ints("dilation")[d];
            check(extra[d] >= 0 && extra[d] < std::max(stride, dilation), "conv_transpose2d",
                  "output_padding is ", extra, "; expected at least 0 and less than stride or dilation, ",
                  std::max(stride, dilation));
            y[2 + d] = (x.dim(2 + d) - 1) * stride + dilation * (weight.dim(2 + d) - 1) + 1 - padding[2 * d] -
                       padding[2 * d + 1] + extra[d];
            check(x.dim(2 + d) > 0 && y[2 + d] > 0, "conv_transpose2d", "the result would have ", y[2 + d],
                  d ? " columns" : " rows", " (x ", x.view(), ", weight ", weight.view(), ", padding ",
                  padding, "); expected at least 1");
          }
          out.add({x.dtype(), y, Layout::channels_last});
          out.workspace =
              workspace(ConvPass::backward_input, arguments(attrs, out.views[0], weight.view(), x.view()));
        },
    .run = [](Stream& stream, const Inputs& in, const Attrs& attrs,
              const Outputs& out) { run_backward_input(stream, attrs, in[0], in[1], in[2], out); },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const Array &x = s.in[0], &weight = s.in[1];
      return {
          s.needs(0) ? input_gradient<"conv_transpose2d_backward_input">(dy[0], weight, s.attrs, x) : Array{},
          s.needs(1) ? weight_gradient(dy[0], x, s.attrs, weight, false)[0] : Array{},
          s.needs(2) ? channel_sums(dy[0]) : Array{}};
    },
    .keeps = "x weight",
}};

// A convolution over dy. Its result may be smaller than what padding and stride would give, because output padding adds
// rows and columns that no element of x reaches.
const Register conv_transpose2d_backward_input_op{{
    .schema = "conv_transpose2d_backward_input(dy, weight, *, size: int[2] = 0, stride: int[2] = 1, "
              "padding: int[4] = 0, dilation: int[2] = 1, groups: int = 1) -> dx",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const Array &dy = in[0], &weight = in[1];
          const Ints& size = attrs.ints("size");
          out.add({dy.dtype(), Shape{dy.dim(0), weight.dim(0), size[0], size[1]}, Layout::channels_last});
          out.workspace =
              workspace(ConvPass::forward, arguments(attrs, dy.view(), weight.view(), out.views[0]));
        },
    .run = [](Stream& stream, const Inputs& in, const Attrs& attrs,
              const Outputs& out) { run_forward(stream, attrs, in[0], in[1], Array{}, out); },
}};

}  // namespace
}  // namespace lamina
