// LSTM: one layer over whole sequences, in one or both directions, and the cell, which is a sequence of one step.
// Several layers are a loop in Python. A fourth output, the reserve, holds what backward needs: it has rows only where a
// tape is open.
#include "kernels/lstm/lstm.h"
#include "autograd/tape.h"
#include "ops/operands.h"

namespace lamina {
namespace {

// An output that infer declared without elements is one that nobody asked for.
View result_of(const Array& array) {
  View v = array.view();
  if (v.size() == 0) v.data = nullptr;
  return v;
}

// --- operands: four arrays per direction, both the states of the direction ---------------------------------------

struct Weights {
  Array w_ih, w_hh, b_ih, b_hh;
};

Weights contiguous(const Weights& w) {
  const auto dense = [](const Array& a) { return a ? lamina::contiguous(a) : a; };
  return {dense(w.w_ih), dense(w.w_hh), dense(w.b_ih), dense(w.b_hh)};
}

// An array whose last axis the kernels can read as vectors.
Array with_unit_stride(const Array& a) {
  return !a || a.dim(a.ndim() - 1) <= 1 || a.view().strides[a.ndim() - 1] == 1 ? a : contiguous(a);
}

View time_major(View v, bool batch_first) {
  if (batch_first && v.ndim) {
    std::swap(v.shape[0], v.shape[1]);
    std::swap(v.strides[0], v.strides[1]);
  }
  return v;
}

View shifted(View v, int64_t elements) {
  if (v.data) v.data = static_cast<char*>(v.data) + elements * size_of(v.dtype);
  return v;
}

// Direction d of states (directions, B, H).
View state_of(const View& v, int d) {
  if (v.ndim == 0) return v;
  View state = shifted(v, d * v.strides[0]);
  state.ndim = 2;
  for (int i = 0; i < 2; ++i) state.shape[i] = v.shape[i + 1], state.strides[i] = v.strides[i + 1];
  return state;
}

// The features of direction d in a result (T, B, directions * H).
View half_of(const View& v, int d, int64_t H) {
  if (v.ndim == 0) return v;
  View half = shifted(v, d * H);
  half.shape[2] = H;
  return half;
}

// (B, n) as one step (1, B, n).
View as_step(const View& v) {
  View step = v;
  step.ndim = 3;
  step.shape[0] = 1, step.strides[0] = v.shape[0] * v.strides[0];
  for (int i = 0; i < 2; ++i) step.shape[i + 1] = v.shape[i], step.strides[i + 1] = v.strides[i];
  return step;
}

void check_dtypes(const char* op, std::initializer_list<std::pair<const char*, const Array*>> operands) {
  const Array& x = *operands.begin()->second;
  check_kernel_dtype(op, "x", x.dtype());
  for (const auto& [name, array] : operands)
    check<TypeError>(!*array || array->dtype() == x.dtype(), op, name, " is ",
                     *array ? array->dtype() : x.dtype(), " but x is ", x.dtype(), "; expected one dtype");
}

// The weights of one direction; `suffix` names it in messages.
void check_weights(const char* op, const Weights& w, int64_t I, int64_t H, const char* suffix) {
  check(w.w_ih.ndim() == 2 && w.w_ih.dim(0) == 4 * H && w.w_ih.dim(1) == I, op, "weight_ih", suffix, " is ",
        w.w_ih.view(), "; expected ", Shape{4 * H, I}, ", (4H, I) for the I of x and the H of weight_hh");
  check(w.w_hh.ndim() == 2 && w.w_hh.dim(0) == 4 * H && w.w_hh.dim(1) == H, op, "weight_hh", suffix, " is ",
        w.w_hh.view(), "; expected (4H, H)");
  const auto check_bias = [&](const char* name, const Array& b) {
    check(!b || (b.ndim() == 1 && b.dim(0) == 4 * H), op, name, suffix, " is ", view_of(b), "; expected (",
          4 * H, ",), (4H,) for the H of weight_hh");
  };
  check_bias("bias_ih", w.b_ih);
  check_bias("bias_hh", w.b_hh);
}

int64_t hidden_size(const char* op, const Array& w_hh) {
  check(w_hh.ndim() == 2 && w_hh.dim(1) >= 1 && w_hh.dim(0) == 4 * w_hh.dim(1), op, "weight_hh is ",
        w_hh.view(), "; expected (4H, H) with H of at least 1");
  return w_hh.dim(1);
}

// A tape that is open may ask for gradients: then the forward pass fills a reserve.
Spec reserve_spec(const LstmSize& z, int directions) {
  const int64_t rows = keeps_for_backward() ? directions * z.T * z.B : 0;
  return {compute_dtype(z.dtype), {rows, current_kernels<LstmKernels>().reserve_columns(z)}};
}

View reserve_of(const View& v, int d, const LstmSize& z) {
  View reserve = shifted(v, d * z.T * z.B * v.strides[0]);
  reserve.shape[0] = z.T * z.B;
  return reserve;
}

// --- the cell ----------------------------------------------------------------------------------------------------

LstmSize cell_size(const Array& x, const Array& w_hh) {
  return {1, x.dim(0), x.dim(1), w_hh.dim(1), x.dtype()};
}

void infer_cell(const Inputs& in, const Attrs&, Inference& out) {
  const char* op = "lstm_cell";
  const Array &x = in[0], &h = in[1], &c = in[2];
  const Weights w{in[3], in[4], in[5], in[6]};
  check(x.ndim() == 2, op, "x is ", x.view(), "; expected (B, I)");
  check_dtypes(op, {{"x", &x},
                    {"h", &h},
                    {"c", &c},
                    {"weight_ih", &w.w_ih},
                    {"weight_hh", &w.w_hh},
                    {"bias_ih", &w.b_ih},
                    {"bias_hh", &w.b_hh}});
  const int64_t H = hidden_size(op, w.w_hh);
  check_weights(op, w, x.dim(1), H, "");
  const Shape state{x.dim(0), H};
  check(h.shape() == state, op, "h is ", h.view(), "; expected ", state, ", (B, H)");
  check(c.shape() == state, op, "c is ", c.view(), "; expected ", state, ", (B, H)");
  const LstmSize z = cell_size(x, w.w_hh);
  out.add({x.dtype(), state});
  out.add({x.dtype(), state});
  out.add(reserve_spec(z, 1));
  out.workspace = current_kernels<LstmKernels>().forward_workspace(z);
}

void run_cell(Stream& stream, const Inputs& in, const Attrs&, const Outputs& out) {
  const Array x = with_unit_stride(in[0]);
  const Weights w = contiguous(Weights{in[3], in[4], in[5], in[6]});
  LstmArgs args;
  args.x = as_step(x.view());
  args.h0 = in[1].view(), args.c0 = in[2].view();
  args.w_ih = w.w_ih.view(), args.w_hh = w.w_hh.view(), args.b_ih = view_of(w.b_ih),
  args.b_hh = view_of(w.b_hh);
  args.h_n = result_of(out[0]), args.c_n = result_of(out[1]);
  args.reserve = result_of(out[2]);
  args.precision = float32_precision;
  args.workspace = out.workspace;
  stream.submit(&LstmKernels::forward, args);
}

Gradients vjp_cell(const Saved& s, const Inputs& dy) {
  const Outputs g = eval_all<"lstm_cell_backward">(
      {s.in[0], s.in[1], s.in[2], s.in[3], s.in[4], s.out[2], dy[0], dy[1]}, {{"dx", s.needs(0)}});
  return {g[0], g[1], g[2], g[3], g[4], s.in[5] ? g[5] : Array{}, s.in[6] ? g[5] : Array{}};
}

const Register cell{{
    .schema = "lstm_cell(x, h, c, weight_ih, weight_hh, bias_ih?, bias_hh?) -> h_next, c_next, reserve",
    .infer = infer_cell,
    .run = run_cell,
    .vjp = vjp_cell,
    .keeps = "x h c weight_ih weight_hh reserve",
}};

const Register cell_backward{{
    .schema =
        "lstm_cell_backward(x, h, c, weight_ih, weight_hh, reserve, dh_next?, dc_next?, *, dx: bool = True)"
        " -> dx, dh, dc, dweight_ih, dweight_hh, dbias",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const LstmSize z = cell_size(in[0], in[4]);
          const Shape state{z.B, z.H};
          out.add({z.dtype, {attrs.boolean("dx") ? z.B : 0, z.I}});
          for (int i = 0; i < 2; ++i) out.add({z.dtype, state});
          out.add({z.dtype, {4 * z.H, z.I}});
          out.add({z.dtype, {4 * z.H, z.H}});
          out.add({z.dtype, {4 * z.H}});
          out.workspace = current_kernels<LstmKernels>().backward_workspace(z);
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs&, const Outputs& out) {
          const Array x = with_unit_stride(in[0]), w_ih = contiguous(in[3]), w_hh = contiguous(in[4]);
          LstmBackwardArgs args;
          args.x = as_step(x.view());
          args.h0 = in[1].view(), args.c0 = in[2].view();
          args.w_ih = w_ih.view(), args.w_hh = w_hh.view();
          args.reserve = in[5].view();
          args.dh_n = view_of(in[6]), args.dc_n = view_of(in[7]);
          args.dx = as_step(result_of(out[0]));
          args.dh0 = result_of(out[1]), args.dc0 = result_of(out[2]);
          args.dw_ih = result_of(out[3]), args.dw_hh = result_of(out[4]), args.db = result_of(out[5]);
          args.precision = float32_precision;
          args.workspace = out.workspace;
          stream.submit(&LstmKernels::backward, args);
        },
}};

// --- the layer ---------------------------------------------------------------------------------------------------
// Inputs: x 0, h0 5, c0 6, lengths 7, and four arrays per direction, from 1 and from 8 on.

int first_of(int d) { return d ? 8 : 1; }
int directions_of(const Inputs& in) { return in[8] ? 2 : 1; }
Weights weights_of(const Inputs& in, int d) {
  const Array* w = &in[size_t(first_of(d))];
  return {w[0], w[1], w[2], w[3]};
}

LstmSize layer_size(const Array& x, const Array& w_hh, const Attrs& attrs) {
  const bool batch_first = attrs.boolean("batch_first");
  return {x.dim(batch_first), x.dim(!batch_first), x.dim(2), w_hh.dim(1), x.dtype()};
}

void infer_layer(const Inputs& in, const Attrs& attrs, Inference& out) {
  const char* op = "lstm_layer";
  const Array &x = in[0], &h0 = in[5], &c0 = in[6], &lengths = in[7];
  const bool batch_first = attrs.boolean("batch_first");
  const Weights forward = weights_of(in, 0), reverse = weights_of(in, 1);
  check(x.ndim() == 3, op, "x is ", x.view(), "; expected ", batch_first ? "(B, T, I)" : "(T, B, I)");
  check_dtypes(op, {{"x", &x},
                    {"weight_ih", &in[1]},
                    {"weight_hh", &in[2]},
                    {"bias_ih", &in[3]},
                    {"bias_hh", &in[4]},
                    {"h0", &h0},
                    {"c0", &c0},
                    {"weight_ih_reverse", &in[8]},
                    {"weight_hh_reverse", &in[9]},
                    {"bias_ih_reverse", &in[10]},
                    {"bias_hh_reverse", &in[11]}});
  const int64_t H = hidden_size(op, forward.w_hh);
  check_weights(op, forward, x.dim(2), H, "");
  check(bool(reverse.w_ih) == bool(reverse.w_hh) && (reverse.w_ih || (!reverse.b_ih && !reverse.b_hh)), op,
        "the reverse direction lacks weight_ih_reverse or weight_hh_reverse; expected both, or none of its "
        "arrays");
  if (reverse.w_ih) check_weights(op, reverse, x.dim(2), H, "_reverse");

  const LstmSize z = layer_size(in[0], in[2], attrs);
  const int directions = directions_of(in);
  const Shape state{directions, z.B, H};
  check(bool(h0) == bool(c0), op, h0 ? "h0 is given without c0" : "c0 is given without h0",
        "; expected both or none");
  for (const auto& [name, array] : {std::pair{"h0", &h0}, std::pair{"c0", &c0}})
    check(!*array || array->shape() == state, op, name, " is ", view_of(*array), "; expected ", state,
          ", (directions, B, H)");
  check<TypeError>(!lengths || lengths.dtype() == Dtype::int64, op, "lengths is ",
                   lengths ? lengths.dtype() : Dtype::int64, "; expected int64");
  check(!lengths || (lengths.ndim() == 1 && lengths.dim(0) == z.B), op, "lengths is ", view_of(lengths),
        "; expected (", z.B, ",), one length per sequence");

  out.add({z.dtype, {x.dim(0), x.dim(1), directions * H}});
  out.add({z.dtype, state});
  out.add({z.dtype, state});
  out.add(reserve_spec(z, directions));
  out.workspace = current_kernels<LstmKernels>().forward_workspace(z);
}

void run_layer(Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
  const LstmSize z = layer_size(in[0], in[2], attrs);
  const bool batch_first = attrs.boolean("batch_first");
  const Array x = with_unit_stride(in[0]);
  for (int d = 0; d < directions_of(in); ++d) {
    const Weights w = contiguous(weights_of(in, d));
    LstmArgs args;
    args.x = time_major(x.view(), batch_first);
    args.h0 = state_of(view_of(in[5]), d), args.c0 = state_of(view_of(in[6]), d);
    args.w_ih = w.w_ih.view(), args.w_hh = w.w_hh.view(), args.b_ih = view_of(w.b_ih),
    args.b_hh = view_of(w.b_hh);
    args.lengths = view_of(in[7]);
    args.reverse = d == 1;
    args.y = time_major(half_of(result_of(out[0]), d, z.H), batch_first);
    args.h_n = state_of(result_of(out[1]), d), args.c_n = state_of(result_of(out[2]), d);
    args.reserve = reserve_of(result_of(out[3]), d, z);
    args.precision = float32_precision;
    args.workspace = out.workspace;
    stream.submit(&LstmKernels::forward, args);
  }
}

Gradients vjp_layer(const Saved& s, const Inputs& dy) {
  const Outputs g = eval_all<"lstm_layer_backward">(
      {s.in[0], s.in[1], s.in[2], s.in[5], s.in[6], s.in[7], s.in[8], s.in[9], s.out[3], dy[0], dy[1], dy[2]},
      {{"batch_first", s.attrs["batch_first"]}, {"dx", s.needs(0)}});
  Gradients dx;
  dx.resize(12);
  dx[0] = g[0];
  if (s.in[5]) dx[5] = g[1], dx[6] = g[2];
  for (int d = 0; d < directions_of(s.in); ++d) {
    const int i = first_of(d);
    dx[i] = g[3 + 3 * d], dx[i + 1] = g[4 + 3 * d];
    for (int bias : {i + 2, i + 3})
      if (s.in[bias]) dx[bias] = g[5 + 3 * d];
  }
  return dx;
}

const Register layer{{
    .schema =
        "lstm_layer(x, weight_ih, weight_hh, bias_ih?, bias_hh?, h0?, c0?, lengths?, weight_ih_reverse?,"
        " weight_hh_reverse?, bias_ih_reverse?, bias_hh_reverse?, *, batch_first: bool = False)"
        " -> y, h_n, c_n, reserve",
    .infer = infer_layer,
    .run = run_layer,
    .vjp = vjp_layer,
    .keeps = "x weight_ih weight_hh h0 c0 lengths weight_ih_reverse weight_hh_reverse reserve",
}};

const Register layer_backward{{
    .schema = "lstm_layer_backward(x, weight_ih, weight_hh, h0?, c0?, lengths?, weight_ih_reverse?, "
              "weight_hh_reverse?,"
              " reserve, dy?, dh_n?, dc_n?, *, batch_first: bool = False, dx: bool = True)"
              " -> dx, dh0, dc0, dweight_ih, dweight_hh, dbias,"
              " dweight_ih_reverse, dweight_hh_reverse, dbias_reverse",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const LstmSize z = layer_size(in[0], in[2], attrs);
          const int directions = in[6] ? 2 : 1;
          const Shape x = in[0].shape(), state{in[3] ? directions : 0, z.B, z.H};
          out.add({z.dtype, {attrs.boolean("dx") ? x[0] : 0, x[1], x[2]}});
          for (int i = 0; i < 2; ++i) out.add({z.dtype, state});
          for (int d = 0; d < 2; ++d) {
            const int64_t rows = d < directions ? 4 * z.H : 0;
            out.add({z.dtype, {rows, z.I}});
            out.add({z.dtype, {rows, z.H}});
            out.add({z.dtype, {rows}});
          }
          out.workspace = current_kernels<LstmKernels>().backward_workspace(z);
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const LstmSize z = layer_size(in[0], in[2], attrs);
          const bool batch_first = attrs.boolean("batch_first");
          const Array x = with_unit_stride(in[0]), dy = with_unit_stride(in[9]);
          for (int d = 0; d < (in[6] ? 2 : 1); ++d) {
            const Array w_ih = contiguous(in[d ? 6 : 1]), w_hh = contiguous(in[d ? 7 : 2]);
            LstmBackwardArgs args;
            args.x = time_major(x.view(), batch_first);
            args.h0 = state_of(view_of(in[3]), d), args.c0 = state_of(view_of(in[4]), d);
            args.w_ih = w_ih.view(), args.w_hh = w_hh.view();
            args.lengths = view_of(in[5]);
            args.reverse = d == 1;
            args.reserve = reserve_of(in[8].view(), d, z);
            args.dy = time_major(half_of(view_of(dy), d, z.H), batch_first);
            args.dh_n = state_of(view_of(in[10]), d), args.dc_n = state_of(view_of(in[11]), d);
            args.dx = time_major(result_of(out[0]), batch_first);
            args.adds_to_dx = d == 1;
            args.dh0 = state_of(result_of(out[1]), d), args.dc0 = state_of(result_of(out[2]), d);
            args.dw_ih = result_of(out[3 + 3 * d]), args.dw_hh = result_of(out[4 + 3 * d]);
            args.db = result_of(out[5 + 3 * d]);
            args.precision = float32_precision;
            args.workspace = out.workspace;
            stream.submit(&LstmKernels::backward, args);
          }
        },
}};

}  // namespace
}  // namespace lamina
