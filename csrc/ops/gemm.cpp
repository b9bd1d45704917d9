// Matrix products: matmul, gemm, linear.
//
// Transposes and broadcasts are views: no operand is copied to be multiplied, forwards or backwards, unless the
// gradient of a broadcast operand sums over axes that do not lie in step in memory.
#include "kernels/gemm/gemm.h"

#include "autograd/op.h"
#include "autograd/tape.h"
#include "ops/operands.h"

namespace lamina {
namespace {

// --- views -------------------------------------------------------------------------------------------------------

View transposed(View v) {
  std::swap(v.shape[v.ndim - 2], v.shape[v.ndim - 1]);
  std::swap(v.strides[v.ndim - 2], v.strides[v.ndim - 1]);
  return v;
}

View with_axis(View v, int axis) {
  std::copy_backward(v.shape + axis, v.shape + v.ndim, v.shape + v.ndim + 1);
  std::copy_backward(v.strides + axis, v.strides + v.ndim, v.strides + v.ndim + 1);
  v.shape[axis] = 1;
  v.strides[axis] = 0;
  ++v.ndim;
  return v;
}

// v with stride 0 along the axes of `shape` that it lacks or has with extent 1.
View expanded(const View& v, const Shape& shape) {
  View out = v;
  out.ndim = shape.ndim;
  for (int i = shape.ndim - 1, j = v.ndim - 1; i >= 0; --i, --j) {
    out.shape[i] = shape[i];
    out.strides[i] = j >= 0 && v.shape[j] == shape[i] ? v.strides[j] : 0;
  }
  return out;
}

// A dense view of that shape on the memory of x, which is dense.
View reshaped(const View& x, const Shape& shape) {
  View v = Spec{x.dtype, shape}.view();
  v.data = x.data;
  return v;
}
Array reshaped(const Array& x, const Shape& shape) { return x.with_view(reshaped(x.view(), shape)); }

Shape shape_of(const View& v) { return Shape(std::span(v.shape, size_t(v.ndim))); }

// x with the axes [first, first + count) as one: a view where they lie in step in memory, else a copy.
Array joined(const Array& x, int first, int count) {
  const auto join = [&](const View& v, bool* is_in_step) {
    View out = v;
    out.shape[first] = 1;
    out.strides[first] = 0;
    *is_in_step = true;
    for (int i = first + count - 1; i >= first; --i) {
      if (v.shape[i] == 1) continue;
      if (out.shape[first] == 1)
        out.strides[first] = v.strides[i];
      else
        *is_in_step &= v.strides[i] == out.shape[first] * out.strides[first];
      out.shape[first] *= v.shape[i];
    }
    std::copy(v.shape + first + count, v.shape + v.ndim, out.shape + first + 1);
    std::copy(v.strides + first + count, v.strides + v.ndim, out.strides + first + 1);
    out.ndim = v.ndim - count + 1;
    return out;
  };
  bool is_in_step;
  const View view = join(x.view(), &is_in_step);
  if (is_in_step || x.size() == 0) return x.with_view(view);
  const Array dense = eval<"contiguous">({x});
  return dense.with_view(join(dense.view(), &is_in_step));
}

// (..., N) as (rows, N).
Array as_rows(const Array& x) {
  return x.ndim() == 1 ? x.with_view(with_axis(x.view(), 0)) : joined(x, 0, x.ndim() - 1);
}

// --- operands of a product ---------------------------------------------------------------------------------------

void check_dtypes(const char* op, const char* name, const Array& x, const char* other_name,
                  const Array& other) {
  const Dtype t = x.dtype();
  check_kernel_dtype(op, name, t);
  check<TypeError>(!other || other.dtype() == t, op, name, " is ", t, " but ", other_name, " is ",
                   other ? other.dtype() : t, "; expected one dtype");
}

// a as (..., M, K) and b as (..., K, N): one axis is a row on the left, a column on the right.
View left_matrix(const View& a, bool is_transposed) {
  if (a.ndim == 1) return with_axis(a, 0);
  return is_transposed ? transposed(a) : a;
}
View right_matrix(const View& b, bool is_transposed) {
  if (b.ndim == 1) return with_axis(b, 1);
  return is_transposed ? transposed(b) : b;
}

// (..., M, N), the batch axes broadcast.
Shape product_shape(const char* op, const Array& a, const Array& b, bool transpose_a, bool transpose_b) {
  check_dtypes(op, "a", a, "b", b);
  for (const auto& [name, x, is_transposed] :
       {std::tuple("a", &a, transpose_a), std::tuple("b", &b, transpose_b)})
    check(x->ndim() >= 1 + is_transposed, op, name, " is ", x->view(), "; expected ",
          is_transposed ? "two axes or more to transpose" : "one axis or more");
  const View l = left_matrix(a.view(), transpose_a), r = right_matrix(b.view(), transpose_b);
  const int64_t K = l.shape[l.ndim - 1], K_of_b = r.shape[r.ndim - 2];
  check(K == K_of_b, op, "a sums over ", K, " elements but b over ", K_of_b, " (a ", a.view(), ", b ",
        b.view(), transpose_a ? ", transpose_a" : "", transpose_b ? ", transpose_b" : "", ")");
  Shape shape;
  shape.ndim = std::max(l.ndim, r.ndim);
  for (int i = 0; i < shape.ndim - 2; ++i) {
    const int l_axis = i - shape.ndim + l.ndim, r_axis = i - shape.ndim + r.ndim;
    const int64_t m = l_axis >= 0 ? l.shape[l_axis] : 1, n = r_axis >= 0 ? r.shape[r_axis] : 1;
    check(m == n || m == 1 || n == 1, op, "batch axes of a and b do not broadcast (a ", a.view(), ", b ",
          b.view(), ")");
    shape[i] = m == 1 ? n : m;
  }
  shape[shape.ndim - 2] = l.shape[l.ndim - 2];
  shape[shape.ndim - 1] = r.shape[r.ndim - 1];
  return shape;
}

View batch_expanded(const View& v, const Shape& product) {
  Shape shape = product;
  shape[shape.ndim - 2] = v.shape[v.ndim - 2];
  shape[shape.ndim - 1] = v.shape[v.ndim - 1];
  return expanded(v, shape);
}

// Shape of a product without the axes that one-dimensional operands do not have.
Shape result_shape(const Shape& product, const Array& a, const Array& b) {
  Shape shape = product;
  if (b.ndim() == 1) --shape.ndim;
  if (a.ndim() == 1) {
    shape[shape.ndim - (b.ndim() == 1 ? 1 : 2)] = shape[shape.ndim - 1];
    --shape.ndim;
  }
  return shape;
}

// The shape of a product again, from that of its result.
Shape product_shape(const View& result, const Array& a, const Array& b) {
  View v = b.ndim() == 1 ? with_axis(result, result.ndim) : result;
  if (a.ndim() == 1) v = with_axis(v, v.ndim - 1);
  return shape_of(v);
}

GemmArgs product_args(const Array& a, const Array& b, const Attrs& attrs, const Array& y) {
  const Shape product = product_shape(y.view(), a, b);
  return {.a = batch_expanded(left_matrix(a.view(), attrs.boolean("transpose_a")), product),
          .b = batch_expanded(right_matrix(b.view(), attrs.boolean("transpose_b")), product),
          .y = reshaped(y.view(), product),
          .precision = float32_precision};
}

// --- gradients of a product ----------------------------------------------------------------------------------------

// x with the axes `kept`, then those of `rest` as one.
Array arranged(const Array& x, const View& v, std::span<const int> kept, std::span<const int> rest) {
  View out = v;
  out.ndim = 0;
  const auto append = [&](int axis) {
    out.shape[out.ndim] = v.shape[axis];
    out.strides[out.ndim++] = v.strides[axis];
  };
  for (int axis : kept) append(axis);
  for (int axis : rest) append(axis);
  return joined(x.with_view(out), int(kept.size()), int(rest.size()));
}

// The gradient of an operand: out[kept, i, j] = alpha * sum over (broadcast, s) of p[kept, broadcast, i, s] *
// q[kept, broadcast, j, s], where the operand was broadcast along the batch axes `broadcast`. They join the axis s, so
// that the sum over them is part of the product.
Array operand_gradient(const Array& operand, const View& matrix, const Array& p, const View& p_view,
                       const Array& q, const View& q_view, const Shape& product, double alpha) {
  const int batch_axes = product.ndim - 2;
  SmallVector<int, 8> kept, summed;
  for (int i = 0; i < batch_axes; ++i) {
    const int axis = i - product.ndim + matrix.ndim;
    (axis >= 0 && matrix.shape[axis] == product[i] ? kept : summed).push_back(i);
  }
  kept.push_back(batch_axes);
  summed.push_back(batch_axes + 1);
  const auto matrices = [&](const Array& x, const View& view) {
    return arranged(x, batch_expanded(view, product), kept, summed);
  };
  const Array gradient =
      eval<"gemm">({matrices(p, p_view), matrices(q, q_view), {}}, {{"alpha", alpha}, {"transpose_b", true}});
  return reshaped(gradient, operand.shape());
}

// Gradients of a and b of y = alpha * left * right: dl = dy r^T and dr = l^T dy, or their transposes, whichever is in
// the order of the operand.
void product_gradients(const Saved& s, const Array& dy, double alpha, Gradients& grads) {
  const Array &a = s.in[0], &b = s.in[1];
  const bool transpose_a = s.attrs.boolean("transpose_a"), transpose_b = s.attrs.boolean("transpose_b");
  const View l = left_matrix(a.view(), transpose_a), r = right_matrix(b.view(), transpose_b);
  const Shape product = product_shape(dy.view(), a, b);
  const Array g = dy.ndim() == product.ndim ? dy : reshaped(contiguous(dy), product);
  const View &n = g.view(), t = transposed(n), lt = transposed(l);
  if (s.needs(0))
    grads[0] = transpose_a ? operand_gradient(a, l, b, r, g, n, product, alpha)
                           : operand_gradient(a, l, g, n, b, r, product, alpha);
  if (s.needs(1))
    grads[1] = transpose_b ? operand_gradient(b, r, g, t, a, lt, product, alpha)
                           : operand_gradient(b, r, a, lt, g, t, product, alpha);
}

// --- matmul ------------------------------------------------------------------------------------------------------

void infer_matmul(const Inputs& in, const Attrs& attrs, Inference& out) {
  const Shape product =
      product_shape("matmul", in[0], in[1], attrs.boolean("transpose_a"), attrs.boolean("transpose_b"));
  out.add({in[0].dtype(), result_shape(product, in[0], in[1])});
}

void run_matmul(Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
  stream.submit(&GemmKernels::gemm, product_args(in[0], in[1], attrs, out[0]));
}

Gradients matmul_vjp(const Saved& s, const Inputs& dy) {
  Gradients grads{{}, {}};
  product_gradients(s, dy[0], 1, grads);
  return grads;
}

const Register matmul{{
    .schema = "matmul(a, b, *, transpose_a: bool = False, transpose_b: bool = False) -> y",
    .infer = infer_matmul,
    .run = run_matmul,
    .vjp = matmul_vjp,
    .keeps = "a b",
}};

// --- gemm --------------------------------------------------------------------------------------------------------

Shape gemm_shape(const Inputs& in, const Attrs& attrs) {
  const Array &a = in[0], &b = in[1], &c = in[2];
  for (const auto& [name, x] : {std::pair("a", &a), std::pair("b", &b)})
    check(x->ndim() >= 2, "gemm", name, " is ", x->view(), "; expected two axes or more");
  const Shape product =
      product_shape("gemm", a, b, attrs.boolean("transpose_a"), attrs.boolean("transpose_b"));
  if (!c) return product;
  check_dtypes("gemm", "c", c, "a", a);
  bool fits = c.ndim() <= product.ndim;
  for (int i = 0; fits && i < c.ndim(); ++i)
    fits = c.dim(i) == 1 || c.dim(i) == product[i + product.ndim - c.ndim()];
  check(fits, "gemm", "c is ", c.view(), "; expected a shape that broadcasts to ", product, " (a ", a.view(),
        ", b ", b.view(), ")");
  return product;
}

void infer_gemm(const Inputs& in, const Attrs& attrs, Inference& out) {
  out.add({in[0].dtype(), gemm_shape(in, attrs)});
}

void run_gemm(Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
  GemmArgs args = product_args(in[0], in[1], attrs, out[0]);
  args.alpha = attrs.real("alpha");
  if (in[2]) {
    args.c = expanded(in[2].view(), out[0].shape());
    args.beta = attrs.real("beta");
  }
  stream.submit(&GemmKernels::gemm, args);
}

// beta * dy, summed over the axes along which c was broadcast: a product with a column of ones. Where there are none,
// a product over no elements at all leaves beta * dy.
Array gradient_of_c(const Array& c, const Array& dy, double beta) {
  if (c.shape() == dy.shape()) {
    if (beta == 1) return dy;
    Shape left = dy.shape(), right = dy.shape();
    left[left.ndim - 1] = right[right.ndim - 2] = 0;
    return eval<"gemm">({Array(Spec{dy.dtype(), left}), Array(Spec{dy.dtype(), right}), dy},
                        {{"beta", beta}});
  }
  SmallVector<int, 8> kept, summed;
  for (int i = 0; i < dy.ndim(); ++i) {
    const int axis = i - dy.ndim() + c.ndim();
    (axis >= 0 && c.dim(axis) == dy.dim(i) ? kept : summed).push_back(i);
  }
  Array x = arranged(dy, dy.view(), kept, summed);
  if (x.ndim() == 1) x = x.with_view(with_axis(x.view(), 0));
  const int64_t n = x.dim(x.ndim() - 1);
  const Array one = eval<"full">({}, {{"value", 1.0}, {"dtype", dy.dtype()}});
  const Array ones = one.with_view(expanded(one.view(), Shape{n, 1}));
  return reshaped(eval<"gemm">({x, ones, {}}, {{"alpha", beta}}), c.shape());
}

Gradients gemm_vjp(const Saved& s, const Inputs& dy) {
  Gradients grads{{}, {}, {}};
  product_gradients(s, dy[0], s.attrs.real("alpha"), grads);
  if (s.needs(2)) grads[2] = gradient_of_c(s.in[2], dy[0], s.attrs.real("beta"));
  return grads;
}

const Register gemm{{
    .schema = "gemm(a, b, c?, *, alpha: float = 1, beta: float = 1, transpose_a: bool = False, "
              "transpose_b: bool = False) -> y",
    .infer = infer_gemm,
    .run = run_gemm,
    .vjp = gemm_vjp,
    .keeps = "a b",
}};

// --- linear ------------------------------------------------------------------------------------------------------

Activation activation_of(const Attrs& attrs) { return *parse_activation(attrs.string("activation")); }

// The derivatives of gelu and silu are functions of the value before them; those of the others, of the value after
// them, which the residual hides.
bool needs_pre(Activation activation, bool has_residual) {
  return activation == Activation::gelu || activation == Activation::silu ||
         (activation != Activation::none && has_residual);
}

// pre, the value before the activation, is written only while a tape records and only for the vjp that needs it;
// otherwise it has no elements.
void infer_linear(const Inputs& in, const Attrs& attrs, Inference& out) {
  const Array &x = in[0], &weight = in[1], &bias = in[2], &residual = in[3];
  check_dtypes("linear", "x", x, "weight", weight);
  check(x.ndim() >= 1, "linear", "x is ", x.view(), "; expected (..., in_features)");
  check(weight.ndim() == 2, "linear", "weight is ", weight.view(), "; expected (out_features, in_features)");
  const int64_t N = weight.dim(0), K = weight.dim(1), last = x.dim(x.ndim() - 1);
  check(last == K, "linear", "x has ", last, " features but weight takes ", K, " (x ", x.view(), ", weight ",
        weight.view(), ")");
  if (bias) {
    check_dtypes("linear", "bias", bias, "x", x);
    check(bias.ndim() == 1 && bias.dim(0) == N, "linear", "bias is ", bias.view(), "; expected (", N,
          ",) as weight ", weight.view());
  }
  Shape shape = x.shape();
  shape[shape.ndim - 1] = N;
  if (residual) {
    check_dtypes("linear", "residual", residual, "x", x);
    check(residual.shape() == shape, "linear", "residual is ", residual.view(), "; expected ", shape,
          " as the result");
  }
  const std::string& name = attrs.string("activation");
  check(bool(parse_activation(name)), "linear", "activation is '", name,
        "'; expected none, relu, gelu, silu, sigmoid or tanh");
  out.add({x.dtype(), shape});
  const bool keeps_pre = keeps_for_backward() && needs_pre(activation_of(attrs), bool(residual));
  out.add({x.dtype(), keeps_pre ? shape : Shape{0}});
}

void run_linear(Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
  const View x = left_matrix(in[0].view(), false);
  Shape product = shape_of(x);
  product[product.ndim - 1] = in[1].dim(0);
  GemmArgs args{.a = x,
                .b = batch_expanded(transposed(in[1].view()), product),
                .y = reshaped(out[0].view(), product),
                .activation = activation_of(attrs),
                .precision = float32_precision};
  if (in[2]) args.bias = expanded(in[2].view(), product);
  if (in[3]) args.residual = expanded(in[3].view(), product);
  if (out[1].size() > 0) args.pre = reshaped(out[1].view(), product);
  stream.submit(&GemmKernels::gemm, args);
}

Gradients linear_vjp(const Saved& s, const Inputs& dy) {
  const Array &x = s.in[0], &weight = s.in[1];
  const Activation activation = activation_of(s.attrs);
  const bool saves_pre = needs_pre(activation, bool(s.in[3]));
  Array g = as_rows(dy[0]), dbias;
  if (activation != Activation::none || s.needs(2)) {
    const Array saved = activation == Activation::none ? Array{} : as_rows(s.out[saves_pre ? 1 : 0]);
    const Outputs both = eval_all<"linear_backward_epilogue">(
        {g, saved},
        {{"activation", s.attrs["activation"]}, {"from_output", !saves_pre}, {"sums", bool(s.needs(2))}});
    if (saved) g = both[0];
    dbias = both[1];
  }
  Gradients grads{{}, {}, {}, {}};
  if (s.needs(0)) {
    grads[0] = eval<"matmul">({g, weight});
    if (x.ndim() != 2) grads[0] = reshaped(grads[0], x.shape());
  }
  if (s.needs(1)) grads[1] = eval<"matmul">({g, as_rows(x)}, {{"transpose_a", true}});
  if (s.needs(2)) grads[2] = dbias;
  if (s.needs(3)) grads[3] = dy[0];
  return grads;
}

const Register linear{{
    .schema = "linear(x, weight, bias?, residual?, *, activation: str = 'none') -> y, pre",
    .infer = infer_linear,
    .run = run_linear,
    .vjp = linear_vjp,
    .keeps = "x weight y pre",
}};

// g = dy * act'(saved) where saved is given, and the sums of its columns where asked for. All matrices.
const Register linear_backward_epilogue{{
    .schema = "linear_backward_epilogue(dy, saved?, *, activation: str = 'none', from_output: bool = False, "
              "sums: bool = True) -> g, dbias",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const Array& dy = in[0];
          out.add({dy.dtype(), in[1] ? dy.shape() : Shape{0}});
          out.add({dy.dtype(), {attrs.boolean("sums") ? dy.dim(1) : 0}});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          EpilogueBackwardArgs args{.dy = in[0].view(),
                                    .activation = activation_of(attrs),
                                    .saved_is_y = attrs.boolean("from_output")};
          if (in[1]) {
            args.saved = in[1].view();
            args.g = out[0].view();
          }
          if (attrs.boolean("sums")) args.dbias = out[1].view();
          stream.submit(&GemmKernels::epilogue_backward, args);
        },
}};

}  // namespace
}  // namespace lamina
