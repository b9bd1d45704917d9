// Elements chosen by index arrays: index_select, embedding, gather, one_hot.
#include "kernels/layout/index.h"
#include "autograd/op.h"
#include "ops/operands.h"

namespace lamina {
namespace {

// Indices are integers in [0, n). The values of a recorded program come later: there the kernel clamps.
void check_index(std::string_view op, const Array& index, int64_t n, std::string_view name = "index") {
  const View& v = index.view();
  check<TypeError>(v.dtype == Dtype::int64 || v.dtype == Dtype::int32, op, name, " is ", v.dtype,
                   "; expected int64 or int32");
  check(n > 0 || v.size() == 0, op, name, " is ", v, ", into an axis of extent 0; expected no index");
  if (!index.device().is_cpu() || !v.data || !Stream::can_check_values()) return;
  const auto scan = [&](const auto* data) {
    const int64_t size = v.size();
    const bool is_contiguous = v.is_contiguous();
    const auto element = [&](int64_t i) -> int64_t {
      if (is_contiguous) return data[i];
      int64_t offset = 0;
      for (int d = v.ndim - 1; d >= 0; i /= v.shape[d--]) offset += i % v.shape[d] * v.strides[d];
      return data[offset];
    };
    bool is_inside = true;
    for (int64_t i = 0; i < size; ++i) is_inside &= uint64_t(element(i)) < uint64_t(n);
    for (int64_t i = 0; !is_inside && i < size; ++i)
      check(uint64_t(element(i)) < uint64_t(n), op, name, " has ", element(i), "; expected 0 to ", n - 1);
  };
  if (v.dtype == Dtype::int32)
    scan(v.as<const int32_t>());
  else
    scan(v.as<const int64_t>());
}

// The shape of x with the axes of index in the place of axis `axis`.
Shape selected_shape(std::string_view op, const View& x, const View& index, int axis) {
  check(x.ndim - 1 + index.ndim <= max_ndim, op, "the result of indices ", index, " into ", x, " has ",
        x.ndim - 1 + index.ndim, " axes; expected at most ", max_ndim);
  Shape shape;
  for (int i = 0; i < axis; ++i) shape.dims[shape.ndim++] = x.shape[i];
  for (int i = 0; i < index.ndim; ++i) shape.dims[shape.ndim++] = index.shape[i];
  for (int i = axis + 1; i < x.ndim; ++i) shape.dims[shape.ndim++] = x.shape[i];
  return shape;
}

// A contiguous array seen as (O, N, I): axes before `axis`, `count` axes from it on, axes after.
View seen_as_rows(const Array& x, int axis, int count) {
  int64_t O = 1, N = 1, I = 1;
  for (int i = 0; i < x.ndim(); ++i) (i < axis ? O : i < axis + count ? N : I) *= x.dim(i);
  View v = Spec{x.dtype(), {O, N, I}}.view();
  v.data = x.view().data;
  return v;
}

void select(Stream& stream, const Array& x, const Array& index, int axis, const Array& y) {
  const Array dense = contiguous(x), dense_index = contiguous(index);
  stream.submit(&IndexKernels::select, SelectArgs{.x = seen_as_rows(dense, axis, 1),
                                                  .index = dense_index.view(),
                                                  .y = seen_as_rows(y, axis, index.ndim())});
}

const Register index_select_op{{
    .schema = "index_select(x, index, *, dim: int = 0) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const View &x = in[0].view(), &index = in[1].view();
          const int axis = axis_of("index_select", attrs.integer("dim"), x);
          check_index("index_select", in[1], x.shape[axis]);
          out.add({x.dtype, selected_shape("index_select", x, index, axis)});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          select(stream, in[0], in[1], axis_of("index_select", attrs.integer("dim"), in[0].view()), out[0]);
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const int axis = axis_of("index_select", s.attrs.integer("dim"), s.in[0].view());
      return {eval<"index_select_backward">({dy[0], s.in[1]}, {{"dim", axis}, {"size", s.in[0].dim(axis)}}),
              {}};
    },
    .keeps = "index",
}};

const Register index_select_backward_op{{
    .schema = "index_select_backward(dy, index, *, dim: int = 0, size: int = 0, skipped: int = -1) -> dx",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const int axis = int(attrs.integer("dim"));
          Shape shape;
          for (int i = 0; i < axis; ++i) shape.dims[shape.ndim++] = in[0].dim(i);
          shape.dims[shape.ndim++] = attrs.integer("size");
          for (int i = axis + in[1].ndim(); i < in[0].ndim(); ++i) shape.dims[shape.ndim++] = in[0].dim(i);
          out.add({in[0].dtype(), shape});
          out.workspace = (attrs.integer("size") + 1 + in[1].size()) * int64_t(sizeof(int64_t));
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const Array dy = contiguous(in[0]), index = contiguous(in[1]);
          const int axis = int(attrs.integer("dim"));
          stream.submit(&IndexKernels::select_backward,
                        SelectBackwardArgs{.dy = seen_as_rows(dy, axis, index.ndim()),
                                           .index = index.view(),
                                           .dx = seen_as_rows(out[0], axis, 1),
                                           .skipped = attrs.integer("skipped"),
                                           .workspace = out.workspace});
        },
}};

// The row of a weight that is never trained; -1: none.
int64_t padding_of(const Attrs& attrs, const Array& weight) {
  if (attrs.is_none("padding_idx")) return -1;
  const int64_t i = attrs.integer("padding_idx");
  return i < 0 ? i + weight.dim(0) : i;
}

const Register embedding_op{{
    .schema = "embedding(indices, weight, *, padding_idx: int? = None) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const View &indices = in[0].view(), &weight = in[1].view();
          check(weight.ndim == 2, "embedding", "weight is ", weight, "; expected (V, D)");
          const int64_t V = weight.shape[0], padding = padding_of(attrs, in[1]);
          if (!attrs.is_none("padding_idx"))
            check(0 <= padding && padding < V, "embedding", "padding_idx is ", attrs.integer("padding_idx"),
                  "; expected a row of weight ", weight);
          check_index("embedding", in[0], V, "indices");
          out.add({weight.dtype, selected_shape("embedding", weight, indices, 0)});
        },
    .run = [](Stream& stream, const Inputs& in, const Attrs&,
              const Outputs& out) { select(stream, in[1], in[0], 0, out[0]); },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      return {{},
              eval<"index_select_backward">(
                  {dy[0], s.in[0]},
                  {{"dim", 0}, {"size", s.in[1].dim(0)}, {"skipped", padding_of(s.attrs, s.in[1])}})};
    },
    .keeps = "indices",
}};

const Register gather_op{{
    .schema = "gather(x, index, *, dim: int = 0) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const View &x = in[0].view(), &index = in[1].view();
          const int axis = axis_of("gather", attrs.integer("dim"), x);
          bool fits = index.ndim == x.ndim;
          for (int i = 0; fits && i < x.ndim; ++i) fits = i == axis || index.shape[i] <= x.shape[i];
          check(fits, "gather", "index is ", index, "; expected at most ", x, " as x, except along axis ",
                axis);
          check_index("gather", in[1], x.shape[axis]);
          out.add({x.dtype, in[1].shape()});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const Array index = contiguous(in[1]);
          const int axis = axis_of("gather", attrs.integer("dim"), in[0].view());
          stream.submit(
              &IndexKernels::gather,
              GatherArgs{.x = in[0].view(), .index = index.view(), .y = out[0].view(), .axis = axis});
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const Shape shape = s.in[0].shape();
      return {eval<"gather_backward">({dy[0], s.in[1]},
                                      {{"dim", axis_of("gather", s.attrs.integer("dim"), s.in[0].view())},
                                       {"shape", Ints(shape.dims, shape.dims + shape.ndim)}}),
              {}};
    },
    .keeps = "index",
}};

const Register gather_backward_op{{
    .schema = "gather_backward(dy, index, *, dim: int = 0, shape: ints = ()) -> dx",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const Ints& shape = attrs.ints("shape");
          const Spec dx{in[0].dtype(), Shape(std::span<const int64_t>(shape.data(), shape.size()))};
          out.add(dx);
          if (size_of(dx.dtype) == 2) out.workspace = dx.shape.size() * int64_t(sizeof(float));
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const Array dy = contiguous(in[0]), index = contiguous(in[1]);
          stream.submit(&IndexKernels::gather_backward, GatherBackwardArgs{.dy = dy.view(),
                                                                           .index = index.view(),
                                                                           .dx = out[0].view(),
                                                                           .axis = int(attrs.integer("dim")),
                                                                           .workspace = out.workspace});
        },
}};

const Register one_hot_op{{
    .schema = "one_hot(index, *, num_classes: int = 1, dtype: dtype = float32) -> y",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const int64_t n = attrs.integer("num_classes");
          check(n >= 1, "one_hot", "num_classes is ", n, "; expected at least 1");
          check_index("one_hot", in[0], n);
          check(in[0].ndim() < max_ndim, "one_hot", "index is ", in[0].view(), "; expected at most ",
                max_ndim - 1, " axes");
          Shape shape = in[0].shape();
          shape.dims[shape.ndim++] = n;
          out.add({attrs.dtype("dtype"), shape});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs&, const Outputs& out) {
          const Array index = contiguous(in[0]);
          View y = seen_as_rows(out[0], 0, index.ndim());  // (1, M, N)
          y = Spec{y.dtype, {y.shape[1], y.shape[2]}}.view();
          y.data = out[0].view().data;
          stream.submit(&IndexKernels::one_hot, OneHotArgs{.index = index.view(), .y = y});
        },
}};

}  // namespace
}  // namespace lamina
