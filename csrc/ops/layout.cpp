// Shapes and layouts: reshape, permute, expand, slice, concat, pad, tril, triu, progression.
//
// The first four give views on the memory of x where strides allow it. Their derivatives are their own kind: a reshape
// back, the inverse permutation, the sum over repeated axes, zeros with dy in the slice.
#include "kernels/layout/layout.h"
#include "autograd/op.h"
#include "kernels/layout/pad.h"
#include "ops/operands.h"

namespace lamina {
namespace {

Ints ints_of(const Shape& shape) { return {shape.dims, shape.dims + shape.ndim}; }
void submit_copy(Stream& stream, const View& src, const View& dst) {
  if (dst.size() > 0) stream.submit(&LayoutKernels::copy, CopyArgs{.src = src, .dst = dst});
}

void submit_zeros(Stream& stream, const View& dst) {
  if (dst.size() > 0) stream.submit(&LayoutKernels::fill, FillArgs{.dst = dst, .bits = 0});
}

// The part of v that begins at `start` along an axis and has n elements `step` apart. Only the source of a copy may
// have a negative step.
View part(View v, int axis, int64_t start, int64_t n, int64_t step = 1) {
  if (v.data) v.data = static_cast<char*>(v.data) + start * v.strides[axis] * size_of(v.dtype);
  v.shape[axis] = n;
  v.strides[axis] *= step;
  return v;
}

// --- reshape -----------------------------------------------------------------------------------------------------

// Gives y, whose shape is set, the strides that make it a view of x's elements in row-major order; false if none do.
// Axes of x that are dense among themselves form a run; each must be cut exactly by the axes of y.
bool reshape_strides(const View& x, View& y) {
  int at = y.ndim - 1;
  for (int i = x.ndim - 1; i >= 0;) {
    if (x.shape[i] == 1) {
      --i;
      continue;
    }
    const int64_t stride = x.strides[i];
    int64_t run = x.shape[i--];
    for (; i >= 0 && (x.shape[i] == 1 || x.strides[i] == run * stride); --i) run *= x.shape[i];
    for (int64_t covered = 1; covered < run; --at) {
      if (at < 0 || run % (covered * y.shape[at]) != 0) return false;
      y.strides[at] = covered * stride;
      covered *= y.shape[at];
    }
  }
  for (; at >= 0; --at) y.strides[at] = at + 1 < y.ndim ? y.shape[at + 1] * y.strides[at + 1] : 1;
  return true;
}

const Register reshape_op{{
    .schema = "reshape(x, *, shape: ints = ()) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const View& x = in[0].view();
          const Ints& wanted = attrs.ints("shape");
          check(wanted.size() <= max_ndim, "reshape", "shape is ", wanted, "; expected at most ", max_ndim,
                " axes");
          Shape shape{std::span<const int64_t>(wanted.data(), wanted.size())};
          int unknown = -1;
          int64_t known = 1;
          for (int i = 0; i < shape.ndim; ++i) {
            const bool is_unknown = shape[i] == -1 && unknown < 0;
            check(is_unknown || shape[i] >= 0, "reshape", "shape is ", wanted,
                  "; expected extents, at most one of them -1");
            if (is_unknown)
              unknown = i;
            else
              known *= shape[i];
          }
          if (unknown >= 0 && known > 0) shape[unknown] = x.size() / known;
          check((unknown < 0 || known > 0) && shape.size() == x.size(), "reshape", "shape is ", wanted,
                "; expected ", x.size(), " elements as in x ", x);
          View y = Spec{x.dtype, shape}.view();
          if (x.size() == 0 || !reshape_strides(x, y)) return out.add({x.dtype, shape});
          y.data = x.data;
          out.alias(y);
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs&, const Outputs& out) {
          View y = Spec{in[0].dtype(), in[0].shape()}.view();  // the result, seen in the shape of x
          y.data = out[0].view().data;
          submit_copy(stream, in[0].view(), y);
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      return {eval<"reshape">({dy[0]}, {{"shape", ints_of(s.in[0].shape())}})};
    },
}};

// --- permute, expand ---------------------------------------------------------------------------------------------

const Register permute_op{{
    .schema = "permute(x, *, dims: ints = ()) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const View& x = in[0].view();
          const Ints& dims = attrs.ints("dims");
          View y = x;
          uint32_t seen = 0;
          bool is_permutation = int(dims.size()) == x.ndim;
          for (int i = 0; is_permutation && i < x.ndim; ++i) {
            const int64_t axis = dims[i] < 0 ? dims[i] + x.ndim : dims[i];
            is_permutation = axis >= 0 && axis < x.ndim && (seen >> axis & 1) == 0;
            if (!is_permutation) break;
            seen |= 1u << axis;
            y.shape[i] = x.shape[axis];
            y.strides[i] = x.strides[axis];
          }
          check(is_permutation, "permute", "dims are ", dims, "; expected each axis of x ", x, " once");
          out.alias(y);
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const Ints& dims = s.attrs.ints("dims");
      Ints inverse;
      inverse.resize(dims.size());
      for (size_t i = 0; i < dims.size(); ++i)
        inverse[size_t(dims[i] < 0 ? dims[i] + int64_t(dims.size()) : dims[i])] = int64_t(i);
      return {eval<"permute">({dy[0]}, {{"dims", inverse}})};
    },
}};

const Register expand_op{{
    .schema = "expand(x, *, shape: ints = ()) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const View& x = in[0].view();
          const Ints& shape = attrs.ints("shape");
          const int added = int(shape.size()) - x.ndim;
          bool is_possible = added >= 0 && shape.size() <= max_ndim;
          View y{.data = x.data, .dtype = x.dtype, .ndim = int(shape.size())};
          for (int i = 0; is_possible && i < y.ndim; ++i) {
            const int64_t own = i < added ? 1 : x.shape[i - added];
            const bool is_kept = i >= added && (shape[i] == own || shape[i] == -1);
            is_possible = is_kept || (own == 1 && shape[i] >= 0);
            y.shape[i] = is_kept ? own : shape[i];
            y.strides[i] = is_kept ? x.strides[i - added] : 0;
          }
          check(is_possible, "expand", "shape is ", shape, "; expected one to which x ", x, " broadcasts");
          out.alias(y);
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      return {eval<"sum_to">({dy[0]}, {{"shape", ints_of(s.in[0].shape())}})};
    },
}};

// --- slice -------------------------------------------------------------------------------------------------------

struct SliceAttrs {
  const Ints &starts, &sizes, &steps, &squeeze;
  explicit SliceAttrs(const Attrs& a)
      : starts(a.ints("starts")),
        sizes(a.ints("sizes")),
        steps(a.ints("steps")),
        squeeze(a.ints("squeeze")) {}

  bool is_squeezed(int axis) const {
    return std::find(squeeze.begin(), squeeze.end(), axis) != squeeze.end();
  }
  View of(View x) const {
    for (int i = 0; i < x.ndim; ++i) x = part(x, i, starts[i], sizes[i], steps[i]);
    return x;
  }
};

const Register slice_op{{
    .schema = "slice(x, *, starts: ints = (), sizes: ints = (), steps: ints = (), squeeze: ints = ()) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const View& x = in[0].view();
          const SliceAttrs a(attrs);
          const auto n = size_t(x.ndim);
          check(a.starts.size() == n && a.sizes.size() == n && a.steps.size() == n, "slice", "starts ",
                a.starts, ", sizes ", a.sizes, ", steps ", a.steps, "; expected one each per axis of x ", x);
          bool is_view = true;
          for (int i = 0; i < x.ndim; ++i) {
            const int64_t first = a.starts[i], last = first + (a.sizes[i] - 1) * a.steps[i];
            check(a.sizes[i] == 0 ||
                      (a.sizes[i] > 0 && first >= 0 && first < x.shape[i] && last >= 0 && last < x.shape[i]),
                  "slice", "elements ", first, " to ", last, " of axis ", i, "; expected elements of x ", x);
            is_view &= a.steps[i] >= 0 || a.sizes[i] <= 1;
          }
          const View whole = a.of(x);
          View y{.data = whole.data, .dtype = x.dtype, .ndim = 0};
          for (int i = 0; i < x.ndim; ++i) {
            if (a.is_squeezed(i)) {
              check(a.sizes[i] == 1, "slice", "squeeze has ", i, ", an axis of ", a.sizes[i],
                    " elements; expected 1");
              continue;
            }
            y.shape[y.ndim] = whole.shape[i];
            y.strides[y.ndim++] = whole.shape[i] > 1 ? whole.strides[i] : 1;
          }
          if (is_view)
            out.alias(y);
          else
            out.add({x.dtype, Shape(std::span(y.shape, size_t(y.ndim)))});
        },
    .run =  // a negative step: the copy reads backwards
    [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
      const View part = SliceAttrs(attrs).of(in[0].view());
      View y = Spec{in[0].dtype(), Shape(std::span(part.shape, size_t(part.ndim)))}.view();
      y.data = out[0].view().data;
      submit_copy(stream, part, y);
    },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      return {eval<"slice_backward">({dy[0]}, {{"shape", ints_of(s.in[0].shape())},
                                               {"starts", s.attrs["starts"]},
                                               {"sizes", s.attrs["sizes"]},
                                               {"steps", s.attrs["steps"]},
                                               {"squeeze", s.attrs["squeeze"]}})};
    },
}};

// Zeros of the given shape, with dy in the slice.
const Register slice_backward_op{{
    .schema =
        "slice_backward(dy, *, shape: ints = (), starts: ints = (), sizes: ints = (), steps: ints = (), "
        "squeeze: ints = ()) -> dx",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const Ints& shape = attrs.ints("shape");
          out.add({in[0].dtype(), Shape(std::span<const int64_t>(shape.data(), shape.size()))});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const SliceAttrs a(attrs);
          const View& dx = out[0].view();
          submit_zeros(stream, dx);
          View src{.data = in[0].view().data, .dtype = dx.dtype, .ndim = dx.ndim}, dst = dx;
          for (int i = 0, own = 0; i < dx.ndim; ++i) {
            src.shape[i] = a.sizes[i];
            src.strides[i] = a.is_squeezed(i) ? 0 : in[0].view().strides[own++];
            // What was read backwards is written forwards, from a source read backwards.
            const bool is_reversed = a.steps[i] < 0;
            const int64_t last = a.starts[i] + (a.sizes[i] - 1) * a.steps[i];
            dst = part(dst, i, is_reversed ? last : a.starts[i], a.sizes[i],
                       is_reversed ? -a.steps[i] : a.steps[i]);
            if (is_reversed) src = part(src, i, a.sizes[i] - 1, a.sizes[i], -1);
          }
          submit_copy(stream, src, dst);
        },
}};

// --- concat ------------------------------------------------------------------------------------------------------

const Register concat_op{{
    .schema = "concat(xs..., *, dim: int = 0) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          check(!in.empty(), "concat", "xs is empty; expected at least one tensor");
          const View& first = in[0].view();
          const int axis = axis_of("concat", attrs.integer("dim"), first);
          Shape shape = in[0].shape();
          shape[axis] = 0;
          bool is_channels_last = true;
          for (size_t k = 0; k < in.size(); ++k) {
            const View& x = in[k].view();
            check<TypeError>(x.dtype == first.dtype, "concat", "xs[", k, "] is ", x.dtype, "; expected ",
                             first.dtype, " as xs[0]");
            bool fits = x.ndim == first.ndim;
            for (int i = 0; fits && i < x.ndim; ++i) fits = i == axis || x.shape[i] == first.shape[i];
            check(fits, "concat", "xs[", k, "] is ", x, "; expected ", first, " as xs[0], except along axis ",
                  axis);
            shape[axis] += x.shape[axis];
            is_channels_last &= x.is_channels_last() && !x.is_contiguous();
          }
          out.add({first.dtype, shape, is_channels_last ? Layout::channels_last : Layout::contiguous});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const View& y = out[0].view();
          const int axis = axis_of("concat", attrs.integer("dim"), y);
          int64_t start = 0;
          for (const Array& x : in) {
            submit_copy(stream, x.view(), part(y, axis, start, x.dim(axis)));
            start += x.dim(axis);
          }
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const View& y = dy[0].view();
      const int axis = axis_of("concat", s.attrs.integer("dim"), y);
      Ints starts, steps;
      for (int i = 0; i < y.ndim; ++i) {
        starts.push_back(0);
        steps.push_back(1);
      }
      Gradients dxs;
      for (size_t k = 0; k < s.in.size(); ++k) {
        const Ints sizes = ints_of(s.in[k].shape());
        dxs.push_back(s.needs(k)
                          ? eval<"slice">({dy[0]}, {{"starts", starts}, {"sizes", sizes}, {"steps", steps}})
                          : Array{});
        starts[size_t(axis)] += s.in[k].dim(axis);
      }
      return dxs;
    },
}};

// --- pad ---------------------------------------------------------------------------------------------------------

PadMode pad_mode(const std::string& name) {
  constexpr std::string_view names[] = {"constant", "reflect", "replicate", "circular"};
  for (int i = 0; i < 4; ++i)
    if (name == names[i]) return PadMode(i);
  fail("pad", "mode is '", name, "'; expected 'constant', 'reflect', 'replicate' or 'circular'");
}

// Padding of one axis: `padding` lists (before, after) pairs from the last axis on.
struct Margin {
  int64_t before = 0, after = 0;
};
Margin margin_of(const Ints& padding, int axis, int ndim) {
  const auto k = size_t(2 * (ndim - 1 - axis));
  return k < padding.size() ? Margin{padding[k], padding[k + 1]} : Margin{};
}

void pad_infer(const Inputs& in, const Attrs& attrs, Inference& out) {
  const View& x = in[0].view();
  const Ints& padding = attrs.ints("padding");
  const PadMode mode = pad_mode(attrs.string("mode"));
  const auto axes = int(padding.size() / 2);
  check(padding.size() % 2 == 0 && axes <= x.ndim, "pad", "padding is ", padding,
        "; expected a pair (before, after) for some of the axes of x ", x, ", the last axis first");
  check(mode == PadMode::constant || axes <= 2, "pad", "padding is ", padding, " in mode '",
        attrs.string("mode"), "'; expected at most two axes");
  Shape shape = in[0].shape();
  for (int i = 0; i < x.ndim; ++i) {
    const Margin m = margin_of(padding, i, x.ndim);
    const int64_t n = x.shape[i];
    const int64_t limit = mode == PadMode::constant   ? INT64_MAX
                          : mode == PadMode::reflect  ? std::max<int64_t>(n - 1, 0)
                          : mode == PadMode::circular ? n
                          : n > 0                     ? INT64_MAX
                                                      : 0;
    check(m.before >= 0 && m.after >= 0 && std::max(m.before, m.after) <= limit, "pad", "padding of axis ", i,
          " is (", m.before, ", ", m.after, "); expected 0 or more",
          limit == INT64_MAX ? "" : cat(", up to ", limit), " in mode '", attrs.string("mode"), "' for x ",
          x);
    shape[i] += m.before + m.after;
  }
  out.add({x.dtype, shape,
           x.is_channels_last() && !x.is_contiguous() ? Layout::channels_last : Layout::contiguous});
}

// Fills the margins of one axis of y, whose middle is complete, from slices of that middle.
void fill_margins(Stream& stream, const View& y, int axis, Margin m, PadMode mode) {
  const int64_t n = y.shape[axis] - m.before - m.after, begin = m.before, end = m.before + n;
  const View before = part(y, axis, 0, m.before), after = part(y, axis, end, m.after);
  switch (mode) {
    case PadMode::reflect:
      submit_copy(stream, part(y, axis, begin + m.before, m.before, -1), before);
      submit_copy(stream, part(y, axis, end - 2, m.after, -1), after);
      break;
    case PadMode::replicate:
      submit_copy(stream, part(y, axis, begin, m.before, 0), before);
      submit_copy(stream, part(y, axis, end - 1, m.after, 0), after);
      break;
    case PadMode::circular:
      submit_copy(stream, part(y, axis, end - m.before, m.before), before);
      submit_copy(stream, part(y, axis, begin, m.after), after);
      break;
    case PadMode::constant:
      break;
  }
}

void pad_block(Stream& stream, const View& x, const View& y, const Attrs& attrs) {
  const Ints& padding = attrs.ints("padding");
  const PadMode mode = pad_mode(attrs.string("mode"));
  if (mode == PadMode::constant && !padding.empty())
    stream.submit(&LayoutKernels::fill, FillArgs{.dst = y, .bits = bits_of(attrs.real("value"), y.dtype)});
  View middle = y;
  for (int i = 0; i < x.ndim; ++i) middle = part(middle, i, margin_of(padding, i, x.ndim).before, x.shape[i]);
  submit_copy(stream, x, middle);
  // Axis by axis from the last: margins of the next are copied from rows that are complete.
  View complete = middle;
  for (int i = x.ndim - 1; i >= 0 && mode != PadMode::constant; --i) {
    const Margin m = margin_of(padding, i, x.ndim);
    complete = part(complete, i, -m.before, y.shape[i]);
    fill_margins(stream, complete, i, m, mode);
  }
}

const Register pad_op{{
    .schema = "pad(x, *, padding: ints = (), mode: str = 'constant', value: float = 0) -> y",
    .infer = pad_infer,
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const View &x = in[0].view(), &y = out[0].view();
          if (y.size() == 0) return;
          // A few samples at a time: the passes over y that follow the first find it in the cache of a core. A GPU's
          // holds all of y or little of it, and each pass is a launch.
          constexpr int64_t block_bytes = 256 << 10;
          const bool is_whole = x.ndim == 0 || x.shape[0] != y.shape[0] || !out[0].device().is_cpu();
          const int64_t N = is_whole ? 1 : y.shape[0];
          const int64_t n = std::max<int64_t>(1, block_bytes * N / (y.size() * size_of(y.dtype)));
          for (int64_t at = 0; at < N; at += n) {
            const int64_t count = std::min(n, N - at);
            pad_block(stream, is_whole ? x : part(x, 0, at, count), is_whole ? y : part(y, 0, at, count),
                      attrs);
          }
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const Ints& padding = s.attrs.ints("padding");
      if (s.attrs.string("mode") != "constant" && !padding.empty())
        return {eval<"pad_backward">({dy[0]}, {{"padding", padding}, {"mode", s.attrs["mode"]}})};
      Ints starts, steps;
      for (int i = 0; i < dy[0].ndim(); ++i) {
        starts.push_back(margin_of(padding, i, dy[0].ndim()).before);
        steps.push_back(1);
      }
      const Ints sizes = ints_of(s.in[0].shape());
      return {eval<"slice">({dy[0]}, {{"starts", starts}, {"sizes", sizes}, {"steps", steps}})};
    },
}};

const Register pad_backward_op{{
    .schema = "pad_backward(dy, *, padding: ints = (), mode: str = 'reflect') -> dx",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          Shape shape = in[0].shape();
          for (int i = 0; i < shape.ndim; ++i) {
            const Margin m = margin_of(attrs.ints("padding"), i, shape.ndim);
            shape[i] -= m.before + m.after;
          }
          out.add({in[0].dtype(), shape});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const Array dense = contiguous(in[0]);
          const Ints& padding = attrs.ints("padding");
          const int ndim = dense.ndim();
          // (B, rows, columns): a vector has one row; all axes before the last two are one.
          const auto planes = [&](const Array& a) {
            const int64_t columns = a.dim(ndim - 1), rows = ndim > 1 ? a.dim(ndim - 2) : 1;
            View v =
                Spec{a.dtype(), {columns * rows > 0 ? a.size() / (columns * rows) : 0, rows, columns}}.view();
            v.data = a.view().data;
            return v;
          };
          stream.submit(&PadKernels::backward,
                        PadBackwardArgs{.dy = planes(dense),
                                        .dx = planes(out[0]),
                                        .top = ndim > 1 ? margin_of(padding, ndim - 2, ndim).before : 0,
                                        .left = margin_of(padding, ndim - 1, ndim).before,
                                        .mode = pad_mode(attrs.string("mode"))});
        },
}};

// --- tril, triu --------------------------------------------------------------------------------------------------

void triangle(Stream& stream, const Array& x, const Array& y, int64_t k, bool is_upper) {
  const Array dense = contiguous(x);
  const int64_t M = x.dim(x.ndim() - 2), N = x.dim(x.ndim() - 1);
  TriangleArgs args{.x = Spec{x.dtype(), {M * N > 0 ? x.size() / (M * N) : 0, M, N}}.view(),
                    .y = {},
                    .k = k,
                    .is_upper = is_upper};
  args.y = args.x;
  args.x.data = dense.view().data;
  args.y.data = y.view().data;
  stream.submit(&LayoutKernels::triangle, args);
}

void triangle_infer(std::string_view op, const Inputs& in, Inference& out) {
  check(in[0].ndim() >= 2, op, "x is ", in[0].view(), "; expected (..., M, N)");
  out.add({in[0].dtype(), in[0].shape()});
}

const Register tril_op{{
    .schema = "tril(x, *, diagonal: int = 0) -> y",
    .infer = [](const Inputs& in, const Attrs&, Inference& out) { triangle_infer("tril", in, out); },
    .run = [](Stream& stream, const Inputs& in, const Attrs& attrs,
              const Outputs& out) { triangle(stream, in[0], out[0], attrs.integer("diagonal"), false); },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      return {eval<"tril">({dy[0]}, {{"diagonal", s.attrs["diagonal"]}})};
    },
}};

const Register triu_op{{
    .schema = "triu(x, *, diagonal: int = 0) -> y",
    .infer = [](const Inputs& in, const Attrs&, Inference& out) { triangle_infer("triu", in, out); },
    .run = [](Stream& stream, const Inputs& in, const Attrs& attrs,
              const Outputs& out) { triangle(stream, in[0], out[0], attrs.integer("diagonal"), true); },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      return {eval<"triu">({dy[0]}, {{"diagonal", s.attrs["diagonal"]}})};
    },
}};

// --- progression -------------------------------------------------------------------------------------------------

const Register progression_op{{
    .schema = "progression(*, start: float = 0, step: float = 1, size: int = 0, dtype: dtype = float32) -> y",
    .infer =
        [](const Inputs&, const Attrs& attrs, Inference& out) {
          const int64_t n = attrs.integer("size");
          check(n >= 0, "progression", "size is ", n, "; expected 0 or more");
          out.add({attrs.dtype("dtype"), {n}});
        },
    .run =
        [](Stream& stream, const Inputs&, const Attrs& attrs, const Outputs& out) {
          stream.submit(
              &LayoutKernels::range,
              RangeArgs{.y = out[0].view(), .start = attrs.real("start"), .step = attrs.real("step")});
        },
}};

}  // namespace
}  // namespace lamina
