// Copies and fills: contiguous, channels_last, clone, copy_, to_device, full, fill_like.
#include "autograd/op.h"
#include "kernels/layout/layout.h"
#include "ops/operands.h"

namespace lamina {
namespace {

void copy(Stream& stream, const Inputs& in, const Attrs&, const Outputs& out) {
  stream.submit(&LayoutKernels::copy, CopyArgs{.src = in[0].view(), .dst = out[0].view()});
}

// The gradient of a copy is dy, in whatever layout it came.
Gradients pass_on(const Saved&, const Inputs& dy) { return {dy[0]}; }

const Register contiguous_op{{
    .schema = "contiguous(x) -> y",
    .infer =
        [](const Inputs& in, const Attrs&, Inference& out) {
          if (in[0].is_contiguous())
            out.alias(in[0].view());
          else
            out.add({in[0].dtype(), in[0].shape()});
        },
    .run = copy,
    .vjp = pass_on,
}};

const Register channels_last_op{{
    .schema = "channels_last(x) -> y",
    .infer =
        [](const Inputs& in, const Attrs&, Inference& out) {
          check(in[0].ndim() == 4, "channels_last", "x is ", in[0].view(), "; expected (N, C, H, W)");
          if (in[0].is_channels_last())
            out.alias(in[0].view());
          else
            out.add({in[0].dtype(), in[0].shape(), Layout::channels_last});
        },
    .run = copy,
    .vjp = pass_on,
}};

const Register clone_op{{
    .schema = "clone(x) -> y",
    .infer = [](const Inputs& in, const Attrs&,
                Inference& out) { out.add(Spec::like(in[0].view(), in[0].dtype())); },
    .run = copy,
    .vjp = pass_on,
}};

// Writes src into the memory of dst; both have one shape and dtype.
const Register copy_into_op{{
    .schema = "copy_(dst!, src) -> ()",
    .infer =
        [](const Inputs& in, const Attrs&, Inference&) {
          check(in[0].shape() == in[1].shape(), "copy_", "src is ", in[1].view(), "; expected ", in[0].view(),
                " as dst");
          check<TypeError>(in[0].dtype() == in[1].dtype(), "copy_", "src is ", in[1].dtype(), "; expected ",
                           in[0].dtype(), " as dst");
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs&, const Outputs&) {
          stream.submit(&LayoutKernels::copy, CopyArgs{.src = in[1].view(), .dst = in[0].view()});
        },
}};

// The same elements in the memory of another device, in the same order; x itself if it is there already.
const Register to_device_op{{
    .schema = "to_device(x, *, device: str = 'cpu') -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          out.device = parse_device(attrs.string("device"));
          if (out.device == in[0].device())
            out.alias(in[0].view());
          else
            out.add(Spec::like(in[0].view(), in[0].dtype()));
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs&, const Outputs& out) {
          const Array x = in_order(stream, in[0], out[0].view()), &y = out[0];
          Stream& mover = x.device().is_cpu() ? current_stream(y.device()) : stream;
          mover.copy(y.view().data, y.device(), x.view().data, x.device(), x.bytes());
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      return {eval<"to_device">({dy[0]}, {{"device", name_of(s.in[0].device())}})};
    },
}};

void fill(Stream& stream, const Inputs&, const Attrs& attrs, const Outputs& out) {
  const View& y = out[0].view();
  stream.submit(&LayoutKernels::fill, FillArgs{.dst = y, .bits = bits_of(attrs.real("value"), y.dtype)});
}

const Register full_op{{
    .schema = "full(*, shape: ints = (), value: float = 0, dtype: dtype = float32) -> y",
    .infer =
        [](const Inputs&, const Attrs& attrs, Inference& out) {
          const Ints& shape = attrs.ints("shape");
          check(shape.size() <= max_ndim, "full", "shape is ", shape, "; expected at most ", max_ndim,
                " axes");
          for (int64_t extent : shape)
            check(extent >= 0, "full", "shape is ", shape, "; expected no negative extent");
          out.add({attrs.dtype("dtype"), Shape(std::span<const int64_t>(shape.data(), shape.size()))});
        },
    .run = fill,
}};

const Register fill_like_op{{
    .schema = "fill_like(x, *, value: float = 0, dtype: dtype? = None) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          out.add(Spec::like(in[0].view(), attrs.is_none("dtype") ? in[0].dtype() : attrs.dtype("dtype")));
        },
    .run = fill,
}};

}  // namespace
}  // namespace lamina
