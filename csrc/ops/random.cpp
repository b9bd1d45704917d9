// Random numbers and dropout. Each op takes the state of a generator, an int64[2] {seed, offset}, and advances it on
// the device: a replayed program draws new numbers.
#include "kernels/random/random.h"
#include "autograd/op.h"
#include "kernels/dropout/dropout.h"
#include "kernels/layout/layout.h"
#include "ops/generator.h"
#include "ops/operands.h"

namespace lamina {
namespace {

void add_shape(std::string_view op, const Attrs& attrs, Inference& out) {
  const Ints& shape = attrs.ints("shape");
  bool is_shape = shape.size() <= max_ndim;
  for (int64_t extent : shape) is_shape &= extent >= 0;
  check(is_shape, op, "shape is ", Tuple{shape.data(), int(shape.size())}, "; expected at most ", max_ndim,
        " extents, none negative");
  out.add({attrs.dtype("dtype"), Shape(std::span<const int64_t>(shape.data(), shape.size()))});
}

int64_t words_of(const Array& y) { return y.dtype() == Dtype::float64 ? 2 : 1; }

const Register uniform_op{{
    .schema =
        "uniform(state!, *, shape: ints = (), low: float = 0, high: float = 1, dtype: dtype = float32) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          check_state("uniform", in[0]);
          check_kernel_dtype("uniform", "dtype", attrs.dtype("dtype"));
          const double low = attrs.real("low"), high = attrs.real("high");
          check(low <= high, "uniform", "low is ", low, ", high ", high, "; expected low <= high");
          add_shape("uniform", attrs, out);
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const Array& y = out[0];
          stream.submit(&RandomKernels::uniform, UniformArgs{.y = y.view(),
                                                             .state = in[0].view(),
                                                             .low = attrs.real("low"),
                                                             .high = attrs.real("high")});
          advance(stream, in[0], random_tiles(y.size(), words_of(y)));
        },
}};

const Register normal_op{{
    .schema =
        "normal(state!, *, shape: ints = (), mean: float = 0, std: float = 1, dtype: dtype = float32) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          check_state("normal", in[0]);
          check_kernel_dtype("normal", "dtype", attrs.dtype("dtype"));
          check(attrs.real("std") >= 0, "normal", "std is ", attrs.real("std"), "; expected 0 or more");
          add_shape("normal", attrs, out);
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const Array& y = out[0];
          stream.submit(&RandomKernels::normal, NormalArgs{.y = y.view(),
                                                           .state = in[0].view(),
                                                           .mean = attrs.real("mean"),
                                                           .std = attrs.real("std")});
          advance(stream, in[0], random_tiles(y.size(), words_of(y)));
        },
}};

const Register randint_op{{
    .schema = "randint(state!, *, shape: ints = (), low: int = 0, high: int = 2, dtype: dtype = int64) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          check_state("randint", in[0]);
          const Dtype dtype = attrs.dtype("dtype");
          check<TypeError>(dtype == Dtype::int64 || dtype == Dtype::int32 || dtype == Dtype::uint8, "randint",
                           "dtype is ", dtype, "; expected int64, int32 or uint8");
          const int64_t low = attrs.integer("low"), high = attrs.integer("high");
          const int64_t least = dtype == Dtype::int64 ? INT64_MIN : dtype == Dtype::int32 ? INT32_MIN : 0;
          const int64_t most = dtype == Dtype::int64   ? INT64_MAX
                               : dtype == Dtype::int32 ? INT32_MAX
                                                       : UINT8_MAX;
          check(low < high && low >= least && high - 1 <= most, "randint", "low is ", low, ", high ", high,
                "; expected low < high, and values that ", dtype, " holds");
          add_shape("randint", attrs, out);
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          stream.submit(&RandomKernels::randint, RandintArgs{.y = out[0].view(),
                                                             .state = in[0].view(),
                                                             .low = attrs.integer("low"),
                                                             .high = attrs.integer("high")});
          advance(stream, in[0], random_tiles(out[0].size(), 2));
        },
}};

const Register bernoulli_op{{
    .schema = "bernoulli(p, state!) -> y",
    .infer =
        [](const Inputs& in, const Attrs&, Inference& out) {
          check_kernel_dtype("bernoulli", "p", in[0].dtype());
          check_state("bernoulli", in[1]);
          out.add({in[0].dtype(), in[0].shape()});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs&, const Outputs& out) {
          const Array p = contiguous(in[0]);
          stream.submit(&RandomKernels::bernoulli,
                        BernoulliArgs{.p = p.view(), .y = out[0].view(), .state = in[1].view()});
          advance(stream, in[1], random_tiles(p.size(), 1));
        },
}};

const Register randperm_op{{
    .schema = "randperm(state!, *, n: int = 0) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          check_state("randperm", in[0]);
          check(attrs.integer("n") >= 0, "randperm", "n is ", attrs.integer("n"), "; expected 0 or more");
          out.add({Dtype::int64, {attrs.integer("n")}});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs&, const Outputs& out) {
          stream.submit(&RandomKernels::randperm, RandpermArgs{.y = out[0].view(), .state = in[0].view()});
          advance(stream, in[0], random_tiles(out[0].size(), 2));
        },
}};

// --- dropout -----------------------------------------------------------------------------------------------------

// The mask follows the elements in the memory order of y, so x is brought into it where it lies otherwise.
void apply_mask(Stream& stream, const View& x, const View& y, const View& pair, double p) {
  bool is_same_order = true;
  for (int i = 0; i < y.ndim; ++i) is_same_order &= y.shape[i] == 1 || x.strides[i] == y.strides[i];
  if (!is_same_order) stream.submit(&LayoutKernels::copy, CopyArgs{.src = x, .dst = y});
  stream.submit(&DropoutKernels::apply,
                DropoutArgs{.x = is_same_order ? x : y, .y = y, .pair = pair, .p = p});
}

const Register dropout_op{{
    .schema = "dropout(x, state!?, *, p: float = 0.5, training: bool = True) -> y, pair",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          check_kernel_dtype("dropout", "x", in[0].dtype());
          check_state("dropout", in[1]);
          check(attrs.real("p") >= 0 && attrs.real("p") <= 1, "dropout", "p is ", attrs.real("p"),
                "; expected a probability from 0 to 1");
          out.add(Spec::like(in[0].view(), in[0].dtype()));
          out.add({Dtype::int64, {2}});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const bool is_training = attrs.boolean("training");
          advance(stream, in[1], is_training ? dropout_tiles(in[0].size()) : 0, out[1].view());
          apply_mask(stream, in[0].view(), out[0].view(), out[1].view(), is_training ? attrs.real("p") : 0.0);
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      return {eval<"dropout_backward">({dy[0], s.out[1], s.out[0]},
                                       {{"p", s.attrs.boolean("training") ? s.attrs.real("p") : 0.0}}),
              {}};
    },
    .keeps = "pair",
}};

// `y` gives the memory order only.
const Register dropout_backward_op{{
    .schema = "dropout_backward(dy, pair, y, *, p: float = 0.5) -> dx",
    .infer =
        [](const Inputs& in, const Attrs&, Inference& out) {
          View dx = in[2].view();
          dx.data = nullptr;
          out.add(dx);
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          apply_mask(stream, in[0].view(), out[0].view(), in[1].view(), attrs.real("p"));
        },
}};

}  // namespace
}  // namespace lamina
