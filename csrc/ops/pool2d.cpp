// Pooling: maxima and averages over windows, and over grids of bins that cover the plane.
#include "kernels/pool2d/pool2d.h"

#include "autograd/op.h"
#include "autograd/tape.h"
#include "ops/operands.h"

namespace lamina {
namespace {

// --- attributes and their errors -----------------------------------------------------------------------------

void check_input(const char* op, const Array& x) {
  check(x.ndim() == 4, op, "x is ", x.view(), "; expected (N, C, H, W)");
  check_kernel_dtype(op, "x", x.dtype());
  check(x.dim(2) > 0 && x.dim(3) > 0, op, "x is ", x.view(), "; expected at least one row and column");
}

struct Axes {
  PoolAxis h, w;
};

// The number of windows along an axis. With ceil_mode the last one may overhang, but starts in x or in the padding
// before it.
int64_t count_windows(const PoolAxis& a, bool ceil_mode) {
  const int64_t steps = a.in + 2 * a.pad - a.reach() + (ceil_mode ? a.stride - 1 : 0);
  if (steps < 0) return 0;
  const int64_t out = steps / a.stride + 1;
  return ceil_mode && (out - 1) * a.stride >= a.in + a.pad ? out - 1 : out;
}

// The windows of `in` (height, width) as the attributes say; not yet how many.
Axes windows_of(const Attrs& attrs, const int64_t* in, bool has_dilation) {
  const Ints& kernel = attrs.ints("kernel_size");
  const Ints& stride = attrs.is_none("stride") ? kernel : attrs.ints("stride");
  const Ints &padding = attrs.ints("padding"), ones = {1, 1};
  const Ints& dilation = has_dilation ? attrs.ints("dilation") : ones;
  const auto axis = [&](int d) {
    return PoolAxis{in[d], 0, kernel[d], stride[d], padding[d], dilation[d], false};
  };
  return {axis(0), axis(1)};
}

// The windows of x.
Axes windows_of(const Attrs& attrs, const View& x, bool has_dilation) {
  Axes axes = windows_of(attrs, x.shape + 2, has_dilation);
  for (PoolAxis* a : {&axes.h, &axes.w}) a->out = count_windows(*a, attrs.boolean("ceil_mode"));
  return axes;
}

Axes check_windows(const char* op, const Array& x, const Attrs& attrs, bool has_dilation) {
  check_input(op, x);
  const auto check_least = [&](const char* name, int64_t least) {
    if (attrs.is_none(name)) return;
    for (int64_t value : attrs.ints(name))
      check(value >= least, op, name, " is ", attrs.ints(name), "; expected at least ", least);
  };
  check_least("kernel_size", 1);
  check_least("stride", 1);
  check_least("padding", 0);
  if (has_dilation) check_least("dilation", 1);

  const Axes axes = windows_of(attrs, x.view(), has_dilation);
  for (const PoolAxis* a : {&axes.h, &axes.w}) {
    check(a->pad <= a->reach() / 2, op, "padding is ", attrs.ints("padding"), " for windows that span ",
          axes.h.reach(), " x ", axes.w.reach(), "; expected at most half of that");
    check(a->out > 0, op, "windows span ", axes.h.reach(), " x ", axes.w.reach(), " but padded x has ",
          axes.h.in + 2 * axes.h.pad, " x ", axes.w.in + 2 * axes.w.pad, " (x ", x.view(), ", padding ",
          attrs.ints("padding"), ")");
    // Taps that are far apart can step over all of x.
    for (int64_t o = 0; a->dilation > 1 && o < a->out; ++o) {
      const PoolWindow v = a->window(o);
      check(v.first < v.last, op, "window ", o, " lies in the padding with all its taps (x ", x.view(),
            ", dilation ", attrs.ints("dilation"), ", padding ", attrs.ints("padding"), ")");
    }
  }
  return axes;
}

Axes bins_of(const Attrs& attrs, const View& x) {
  const Ints& size = attrs.ints("output_size");
  return {PoolAxis::adaptive(x.shape[2], size[0]), PoolAxis::adaptive(x.shape[3], size[1])};
}

Axes check_bins(const char* op, const Array& x, const Attrs& attrs) {
  check_input(op, x);
  const Ints& size = attrs.ints("output_size");
  for (int64_t value : size) check(value >= 1, op, "output_size is ", size, "; expected at least 1");
  return bins_of(attrs, x.view());
}

// --- maximum -------------------------------------------------------------------------------------------------

// Taps are for the gradient and for indices: without a tape and unasked, they are arrays of no elements.
void infer_max(const char* op, const Axes& axes, const Inputs& in, const Attrs& attrs, Inference& out) {
  const Array& x = in[0];
  const int64_t area = axes.h.kernel * axes.w.kernel;
  check(area <= 1 << 24, op, "windows have ", area, " taps; expected at most ", 1 << 24);
  const Layout layout = layout_of(prefers_channels_last(x.view()));
  const Shape y = {x.dim(0), x.dim(1), axes.h.out, axes.w.out}, none = {0};
  const bool has_indices = attrs.boolean("return_indices"), has_taps = has_indices || keeps_for_backward();
  const Dtype tap = area <= 256 ? Dtype::uint8 : Dtype::int32;
  out.add({x.dtype(), y, layout});
  if (has_taps)
    out.add({tap, y, layout});
  else
    out.add({tap, none});
  if (has_indices)
    out.add({Dtype::int64, y, layout});
  else
    out.add({Dtype::int64, none});
}

void run_max(Stream& stream, const Axes& axes, const Inputs& in, const Outputs& out) {
  const bool is_channels_last = prefers_channels_last(in[0].view());
  const Array x = dense(in[0], is_channels_last);
  const View taps = out[1].ndim() == 4 ? out[1].view() : View{};
  stream.submit(&Pool2dKernels::max, Pool2dArgs{.x = x.view(),
                                                .y = out[0].view(),
                                                .taps = taps,
                                                .h = axes.h,
                                                .w = axes.w,
                                                .is_channels_last = is_channels_last,
                                                .count_include_pad = false,
                                                .divisor = 0});
  if (out[2].ndim() == 4)
    stream.submit(&Pool2dKernels::max_indices,
                  Pool2dIndicesArgs{taps, out[2].view(), axes.h, axes.w, is_channels_last});
}

const Register max_pool2d_op{{
    .schema =
        "max_pool2d(x, *, kernel_size: int[2] = 2, stride: int[2]? = None, padding: int[2] = 0, "
        "dilation: int[2] = 1, ceil_mode: bool = False, return_indices: bool = False) -> y, taps, indices",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          infer_max("max_pool2d", check_windows("max_pool2d", in[0], attrs, true), in, attrs, out);
        },
    .run = [](Stream& stream, const Inputs& in, const Attrs& attrs,
              const Outputs& out) { run_max(stream, windows_of(attrs, in[0].view(), true), in, out); },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const View& x = s.in[0].view();
      return {eval<"max_pool2d_backward">({dy[0], s.out[1]}, {{"size", Ints{x.shape[2], x.shape[3]}},
                                                              {"kernel_size", s.attrs["kernel_size"]},
                                                              {"stride", s.attrs["stride"]},
                                                              {"padding", s.attrs["padding"]},
                                                              {"dilation", s.attrs["dilation"]},
                                                              {"channels_last", prefers_channels_last(x)}})};
    },
    .keeps = "taps",
}};

const Register adaptive_max_pool2d_op{{
    .schema = "adaptive_max_pool2d(x, *, output_size: int[2] = 1, return_indices: bool = False) -> y, taps, "
              "indices",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          infer_max("adaptive_max_pool2d", check_bins("adaptive_max_pool2d", in[0], attrs), in, attrs, out);
        },
    .run = [](Stream& stream, const Inputs& in, const Attrs& attrs,
              const Outputs& out) { run_max(stream, bins_of(attrs, in[0].view()), in, out); },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const View& x = s.in[0].view();
      return {eval<"max_pool2d_backward">({dy[0], s.out[1]}, {{"size", Ints{x.shape[2], x.shape[3]}},
                                                              {"adaptive", true},
                                                              {"channels_last", prefers_channels_last(x)}})};
    },
    .keeps = "taps",
}};

// Windows of a backward op: `size` is the extent of dx, the numbers of windows are those of dy.
Axes backward_windows(const View& dy, const Attrs& attrs, bool has_dilation) {
  const Ints& size = attrs.ints("size");
  if (attrs.boolean("adaptive"))
    return {PoolAxis::adaptive(size[0], dy.shape[2]), PoolAxis::adaptive(size[1], dy.shape[3])};
  Axes axes = windows_of(attrs, size.data(), has_dilation);
  axes.h.out = dy.shape[2];
  axes.w.out = dy.shape[3];
  return axes;
}

void infer_backward(const Inputs& in, const Attrs& attrs, Inference& out) {
  const Array& dy = in[0];
  const Ints& size = attrs.ints("size");
  out.add(
      {dy.dtype(), Shape{dy.dim(0), dy.dim(1), size[0], size[1]}, layout_of(attrs.boolean("channels_last"))});
}

const Register max_pool2d_backward_op{{
    .schema =
        "max_pool2d_backward(dy, taps, *, size: int[2] = 1, kernel_size: int[2] = 1, stride: int[2]? = None, "
        "padding: int[2] = 0, dilation: int[2] = 1, adaptive: bool = False, channels_last: bool = False) -> "
        "dx",
    .infer = infer_backward,
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const bool is_channels_last = attrs.boolean("channels_last");
          const Axes axes = backward_windows(in[0].view(), attrs, true);
          const Array dy = dense(in[0], is_channels_last);
          stream.submit(&Pool2dKernels::max_backward, Pool2dBackwardArgs{.dy = dy.view(),
                                                                         .taps = in[1].view(),
                                                                         .dx = out[0].view(),
                                                                         .h = axes.h,
                                                                         .w = axes.w,
                                                                         .is_channels_last = is_channels_last,
                                                                         .count_include_pad = false,
                                                                         .divisor = 0});
        },
}};

// --- average -------------------------------------------------------------------------------------------------

void infer_average(const Axes& axes, const Array& x, Inference& out) {
  const Shape y = {x.dim(0), x.dim(1), axes.h.out, axes.w.out};
  out.add({x.dtype(), y, layout_of(prefers_channels_last(x.view()))});
}

void run_average(Stream& stream, const Axes& axes, const Inputs& in, const Outputs& out,
                 bool count_include_pad, int64_t divisor) {
  const bool is_channels_last = prefers_channels_last(in[0].view());
  const Array x = dense(in[0], is_channels_last);
  stream.submit(&Pool2dKernels::average, Pool2dArgs{.x = x.view(),
                                                    .y = out[0].view(),
                                                    .taps = {},
                                                    .h = axes.h,
                                                    .w = axes.w,
                                                    .is_channels_last = is_channels_last,
                                                    .count_include_pad = count_include_pad,
                                                    .divisor = divisor});
}

// 0: divide by the number of elements.
int64_t divisor_of(const Attrs& attrs) {
  return attrs.is_none("divisor_override") ? 0 : attrs.integer("divisor_override");
}

const Register avg_pool2d_op{{
    .schema = "avg_pool2d(x, *, kernel_size: int[2] = 2, stride: int[2]? = None, padding: int[2] = 0, "
              "ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int? = None) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          check(attrs.is_none("divisor_override") || attrs.integer("divisor_override") != 0, "avg_pool2d",
                "divisor_override is 0; expected another number");
          infer_average(check_windows("avg_pool2d", in[0], attrs, false), in[0], out);
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          run_average(stream, windows_of(attrs, in[0].view(), false), in, out,
                      attrs.boolean("count_include_pad"), divisor_of(attrs));
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const View& x = s.in[0].view();
      return {eval<"avg_pool2d_backward">({dy[0]}, {{"size", Ints{x.shape[2], x.shape[3]}},
                                                    {"kernel_size", s.attrs["kernel_size"]},
                                                    {"stride", s.attrs["stride"]},
                                                    {"padding", s.attrs["padding"]},
                                                    {"count_include_pad", s.attrs["count_include_pad"]},
                                                    {"divisor_override", s.attrs["divisor_override"]},
                                                    {"channels_last", prefers_channels_last(x)}})};
    },
}};

const Register adaptive_avg_pool2d_op{{
    .schema = "adaptive_avg_pool2d(x, *, output_size: int[2] = 1) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          infer_average(check_bins("adaptive_avg_pool2d", in[0], attrs), in[0], out);
        },
    .run = [](Stream& stream, const Inputs& in, const Attrs& attrs,
              const Outputs& out) { run_average(stream, bins_of(attrs, in[0].view()), in, out, false, 0); },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const View& x = s.in[0].view();
      return {eval<"avg_pool2d_backward">({dy[0]}, {{"size", Ints{x.shape[2], x.shape[3]}},
                                                    {"adaptive", true},
                                                    {"channels_last", prefers_channels_last(x)}})};
    },
}};

const Register avg_pool2d_backward_op{{
    .schema = "avg_pool2d_backward(dy, *, size: int[2] = 1, kernel_size: int[2] = 1, stride: int[2]? = None, "
              "padding: int[2] = 0, count_include_pad: bool = False, divisor_override: int? = None, "
              "adaptive: bool = False, channels_last: bool = False) -> dx",
    .infer = infer_backward,
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const bool is_channels_last = attrs.boolean("channels_last");
          const Axes axes = backward_windows(in[0].view(), attrs, false);
          const Array dy = dense(in[0], is_channels_last);
          stream.submit(&Pool2dKernels::average_backward,
                        Pool2dBackwardArgs{.dy = dy.view(),
                                           .taps = {},
                                           .dx = out[0].view(),
                                           .h = axes.h,
                                           .w = axes.w,
                                           .is_channels_last = is_channels_last,
                                           .count_include_pad = attrs.boolean("count_include_pad"),
                                           .divisor = divisor_of(attrs)});
        },
}};

}  // namespace
}  // namespace lamina
