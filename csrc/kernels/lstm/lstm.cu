// Device kernels of lstm.h.
//
// Plan. One product makes the pre-activations of all steps from x; then each step adds h W_hh^T to its own and turns them
// into h, c and y. The weights are copied first, so that the four gates of a unit are neighbours: whoever holds the sums
// of four neighbouring columns has all that the cell of a unit needs.
//
//               columns 4 u + (i, f, g, o)
//        +--------------------------------------+       One launch per step: a block sums a tile, 32 sequences of 8
//   h    |  h W_hh^T  +  pre-activations of t   |       units, and its threads finish the cells whose sums they take
//        +--------------------------------------+       from shared memory.
//
// With many sequences, in float64, or where float32 may lose digits to be faster, the product is a launch of its own, and
// the cells are another. Rows of the reserve are (t, b) in that order: 4 H columns of gates, which lie where the
// pre-activations were, then H of c. h goes from one buffer to another and back, as all blocks of a step read all of it.
// A sequence takes part in step t while t is below its length; otherwise its state stays and its y is 0, so neither
// direction needs an order of sequences, and lengths are read by the device alone.
//
// Backward goes through the steps in the opposite order: cells leave da and h[t-1] as rows (t, b), 0 where the sequence
// takes no part, and clear dh where it does; the product dh += da W_hh then carries dh to the step before in either case.
// The sums over steps are three products and a sum of columns at the end.
//
// Everything is computed in the compute dtype: operands in bfloat16 and float16 are copied to float32 first, and their
// products need two bfloat16 planes (base/precision.h), which hold more digits than their elements have.
// Traffic: a step reads W_hh, 16 H^2 bytes, and 20 H bytes per sequence; from the second-level cache where W_hh fits it.
#include "kernels/lstm/lstm.h"

#include <algorithm>
#include <utility>

#include "base/launch.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/simt.cuh"
#include "prim/prim.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

constexpr int row_threads = 256, cell_threads = 128;
constexpr int reserve_parts = 5;  // i, f, g, o, c

// The tile of a fused step. Four sub-tiles of 4 x 4 sums per warp and row of threads: H / 8 blocks, which keep one SM in
// eight of a large GPU busy at H = 128, and all at H = 1024.
using StepTile = SimtTile<32, 32, 4, 4>;
// With more sequences than this a step is bound by its multiply-adds, of which larger tiles do more.
constexpr int64_t most_fused = 2 * StepTile::M;

// --- rows --------------------------------------------------------------------------------------------------------

// Element e of a view (T, B, n) in row-major order.
LAMINA_PRIM int64_t place_of(const View& v, int64_t e) {
  const int64_t row = e / v.shape[2], t = row / v.shape[1];
  return t * v.strides[0] + (row - t * v.shape[1]) * v.strides[1] + (e - row * v.shape[2]) * v.strides[2];
}

// to = v, in row-major order; zeros where v is absent.
template <class T>
__global__ __launch_bounds__(row_threads) void load_rows_kernel(View v, int64_t n, Compute<T>* to) {
  for (int64_t e = int64_t(blockIdx.x) * row_threads + prim::thread(); e < n;
       e += int64_t(gridDim.x) * row_threads)
    to[e] = v ? prim::widen(v.as<const T>()[place_of(v, e)]) : Compute<T>(0);
}
// v = from, or v += from.
template <class T>
__global__ __launch_bounds__(row_threads) void store_rows_kernel(const Compute<T>* from, int64_t n, View v,
                                                                 bool adds) {
  for (int64_t e = int64_t(blockIdx.x) * row_threads + prim::thread(); e < n;
       e += int64_t(gridDim.x) * row_threads) {
    T& to = v.as<T>()[place_of(v, e)];
    to = prim::narrow<T>(adds ? prim::widen(to) + from[e] : from[e]);
  }
}
// The biases of columns 4 u + gate.
template <class T>
__global__ __launch_bounds__(row_threads) void sum_biases_kernel(View b_ih, View b_hh, int64_t n,
                                                                 Compute<T>* bias) {
  for (int64_t j = int64_t(blockIdx.x) * row_threads + prim::thread(); j < n;
       j += int64_t(gridDim.x) * row_threads) {
    const int64_t row = j % 4 * (n / 4) + j / 4;
    Compute<T> sum = 0;
    if (b_ih) sum += prim::widen(b_ih.as<const T>()[row]);
    if (b_hh) sum += prim::widen(b_hh.as<const T>()[row]);
    bias[j] = sum;
  }
}

Launch per_element(int64_t n) {
  return {.grid = {std::min(ceil_div(n, row_threads), grid_limit)}, .block = {row_threads}};
}
Launch per_cell(const LstmSize& z) {
  return {.grid = {ceil_div(z.H, cell_threads), std::min(z.B, grid_limit)}, .block = {cell_threads}};
}

// A view of one to three axes as one of three.
View as_rows(const View& v) {
  View rows = v;
  for (; rows.ndim < 3; ++rows.ndim)
    for (int d = 2; d >= 0; --d) {
      rows.shape[d] = d ? rows.shape[d - 1] : 1;
      rows.strides[d] = d ? rows.strides[d - 1] : 0;
    }
  return rows;
}

// Weights (4H, K), which are dense, as (H, 4, K).
View by_units(const View& w) {
  View v{.data = w.data, .dtype = w.dtype, .ndim = 3};
  const int64_t H = w.shape[0] / 4, K = w.shape[1];
  v.shape[0] = H, v.shape[1] = 4, v.shape[2] = K;
  v.strides[0] = K, v.strides[1] = H * K, v.strides[2] = 1;
  return v;
}

template <class T>
void load_rows(const View& v, int64_t n, Compute<T>* to) {
  launch("lstm_load", load_rows_kernel<T>, per_element(n), as_rows(v), n, to);
}
template <class T>
void store_rows(const Compute<T>* from, const View& v, bool adds = false) {
  if (v) launch("lstm_store", store_rows_kernel<T>, per_element(v.size()), from, v.size(), as_rows(v), adds);
}

// Dense rows of a view in the compute dtype: the view itself where it lies so, else a copy.
template <class T>
struct DenseRows {
  using S = Compute<T>;
  DenseRows(const View& v)
      : copy_(is_dense(v) ? 0 : v.size()), data_(is_dense(v) ? v.as<S>() : copy_.data()) {
    if (!is_dense(v)) load_rows<T>(v, v.size(), copy_);
  }
  S* data() const { return data_; }

 private:
  static bool is_dense(const View& v) { return sizeof(T) == sizeof(S) && v.is_contiguous(); }
  DeviceScratch<S> copy_;
  S* data_;
};

// Where a result in the compute dtype is made: in place, or in scratch memory that `finish` rounds to the view.
template <class T>
struct DenseResult {
  using S = Compute<T>;
  DenseResult(const View& v, bool adds = false)
      : view_(v),
        adds_(adds),
        copy_(is_direct() ? 0 : v.size()),
        data_(is_direct() ? v.as<S>() : copy_.data()) {}
  S* data() const { return data_; }
  void finish() const {
    if (!is_direct()) store_rows<T>(data_, view_, adds_);
  }

 private:
  bool is_direct() const { return sizeof(T) == sizeof(S) && view_.is_contiguous() && !adds_; }
  View view_;
  bool adds_;
  DeviceScratch<S> copy_;
  S* data_;
};

// --- products ----------------------------------------------------------------------------------------------------

template <class S>
View matrix(S* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride = 1) {
  View v{.data = data, .dtype = dtype_of<S>, .ndim = 2};
  v.shape[0] = rows, v.shape[1] = columns;
  v.strides[0] = row_stride, v.strides[1] = column_stride;
  return v;
}
View transposed(View v) {
  std::swap(v.shape[0], v.shape[1]);
  std::swap(v.strides[0], v.strides[1]);
  return v;
}

// y = a b, or y += a b; products of one dtype.
struct Products {
  Float32Precision precision;
  void operator()(const View& a, const View& b, const View& y, bool adds = false,
                  const View& bias = {}) const {
    GemmArgs g;
    g.a = a, g.b = b, g.y = y, g.bias = bias;
    if (adds) g.c = y, g.beta = 1;
    g.precision = precision;
    gemm_kernels.gemm(g);
  }
};
template <class T>
Products products_of(Float32Precision precision) {
  return {sizeof(T) == 2 ? Float32Precision::high : precision};
}

template <class Args>
LstmSize size_of_args(const Args& a) {
  return {a.x.shape[0], a.x.shape[1], a.x.shape[2], a.w_hh.shape[1], a.x.dtype};
}

// --- forward -----------------------------------------------------------------------------------------------------

LAMINA_PRIM int64_t length_of(const View& lengths, int64_t b, int64_t T) {
  if (!lengths) return T;
  const int64_t length = lengths.as<const int64_t>()[b * lengths.strides[0]];
  return length < 0 ? 0 : length < T ? length : T;
}

// Step t. `gates`: the pre-activations of its rows, `ld` apart.
template <class T>
struct Step {
  using S = Compute<T>;
  LstmArgs a;
  int64_t t;
  S* gates;
  int64_t ld;
  const S* h_last;
  S *h, *c;

  LAMINA_PRIM int64_t sequences() const { return a.x.shape[1]; }
  LAMINA_PRIM int64_t units() const { return a.w_hh.shape[1]; }

  // The cell of a unit. `sums` come to its pre-activations.
  LAMINA_PRIM void cell(int64_t b, int64_t unit, const prim::Pack<S, 4>& sums) const {
    const int64_t H = units(), at = b * H + unit;
    const bool takes_part = t < length_of(a.lengths, b, a.x.shape[0]);
    S h_new = 0;
    if (takes_part) {
      const auto pre = fetch<4>(Matrix<const S>{gates, ld, 1}, b, 4 * unit, 4);
      const S i = prim::sigmoid(pre[0] + sums[0]), f = prim::sigmoid(pre[1] + sums[1]);
      const S g = prim::tanh(pre[2] + sums[2]), o = prim::sigmoid(pre[3] + sums[3]);
      const S c_new = prim::fma(f, c[at], i * g);
      h_new = o * prim::tanh(c_new);
      c[at] = c_new;
      if (a.reserve) {
        put<4>(Matrix<S>{gates, ld, 1}, b, 4 * unit, 4, prim::Pack<S, 4>{{i, f, g, o}});
        gates[b * ld + 4 * H + unit] = c_new;
      }
    }
    h[at] = takes_part ? h_new : h_last[at];
    if (a.y) a.y.as<T>()[t * a.y.strides[0] + b * a.y.strides[1] + unit] = prim::narrow<T>(h_new);
  }

  // As the epilogue of a product: the sums of the columns from 4 u on.
  LAMINA_PRIM void operator()(int64_t b, int64_t column, const prim::Pack<S, 4>& sums) const {
    if (b < sequences() && column < 4 * units()) cell(b, column / 4, sums);
  }
};

template <class T>
__global__ __launch_bounds__(cell_threads) void cell_kernel(Step<T> step) {
  const int64_t unit = int64_t(blockIdx.x) * cell_threads + prim::thread();
  if (unit >= step.units()) return;
  for (int64_t b = blockIdx.y; b < step.sequences(); b += gridDim.y) step.cell(b, unit, {});
}

// w: (H, 4, H). `K`: H, or 0 where h is zeros.
template <class T>
__global__ __launch_bounds__(StepTile::threads) void step_kernel(Step<T> step, const float* w, int64_t K) {
  auto& shared = prim::shared_memory<SimtShared<float, StepTile>>();
  const int64_t H = step.units(), row = int64_t(blockIdx.y) * StepTile::M,
                column = int64_t(blockIdx.x) * StepTile::N;
  SliceLoader<float, StepTile::K, StepTile::M, StepTile::threads> a(step.h_last + row * H, H, 1,
                                                                    step.sequences() - row);
  SliceLoader<float, StepTile::K, StepTile::N, StepTile::threads> b(w + column * H, H, 1, 4 * H - column);
  SimtSums<float, StepTile> total = {};
  multiply<float, StepTile>(shared, K, a, b, total);
  finish_tile<float, StepTile>(shared, total, row, column, step);
}

// The step as one launch, if it is one.
template <class T>
bool launch_fused(const Step<T>& step, const Compute<T>* w, int64_t K) {
  if constexpr (sizeof(Compute<T>) == sizeof(float)) {  // an epilogue gets 16 bytes: the sums of a unit
    const int64_t B = step.sequences(), H = step.units();
    const auto precision = step.a.precision;
    const bool may_lose_digits = std::is_same_v<T, float> && (precision == Float32Precision::high ||
                                                              precision == Float32Precision::medium);
    if (may_lose_digits || B > most_fused) return false;
    launch("lstm_step", step_kernel<T>,
           {.grid = {ceil_div(4 * H, StepTile::N), ceil_div(B, StepTile::M)},
            .block = {StepTile::threads},
            .shared = sizeof(SimtShared<float, StepTile>)},
           step, w, K);
    return true;
  }
  return false;
}

template <class T>
void forward_typed(const LstmArgs& a) {
  using S = Compute<T>;
  const LstmSize z = size_of_args(a);
  const int64_t rows = z.T * z.B, columns = 4 * z.H, states = z.B * z.H;
  const Products multiply = products_of<T>(a.precision);
  const DenseRows<T> x(a.x);
  const DeviceScratch<S> w_ih(columns * z.I), w_hh(columns * z.H), bias(columns), h(2 * states), c(states),
      scratch(a.reserve ? 0 : rows * columns);
  S* const gates = a.reserve ? a.reserve.as<S>() : scratch.data();
  const int64_t ld = a.reserve ? a.reserve.shape[1] : columns;

  load_rows<T>(by_units(a.w_ih), columns * z.I, w_ih);
  load_rows<T>(by_units(a.w_hh), columns * z.H, w_hh);
  launch("lstm_biases", sum_biases_kernel<T>, per_element(columns), a.b_ih, a.b_hh, columns, bias.data());
  multiply(matrix(x.data(), rows, z.I, z.I), transposed(matrix(w_ih.data(), columns, z.I, z.I)),
           matrix(gates, rows, columns, ld), false, matrix(bias.data(), rows, columns, 0));
  S *h_last = h.data(), *h_new = h.data() + states;
  load_rows<T>(a.h0, states, h_last);
  load_rows<T>(a.c0, states, c);
  for (int64_t s = 0; s < z.T; ++s) {
    const int64_t t = a.reverse ? z.T - 1 - s : s;
    const Step<T> step{a, t, gates + t * z.B * ld, ld, h_last, h_new, c};
    const int64_t K = s > 0 || a.h0 ? z.H : 0;
    if (!launch_fused(step, w_hh.data(), K)) {
      if (K > 0)
        multiply(matrix(h_last, z.B, z.H, z.H), transposed(matrix(w_hh.data(), columns, z.H, z.H)),
                 matrix(step.gates, z.B, columns, ld), true);
      launch("lstm_cell", cell_kernel<T>, per_cell(z), step);
    }
    std::swap(h_last, h_new);
  }
  store_rows<T>(h_last, a.h_n);
  store_rows<T>(c, a.c_n);
}

// --- backward ----------------------------------------------------------------------------------------------------

// Step t: da and h[t-1] of its rows, and dh and dc on their way to the step before.
template <class T>
__global__ __launch_bounds__(cell_threads) void cell_backward_kernel(LstmBackwardArgs a, int64_t t,
                                                                     Compute<T>* da, Compute<T>* h_last,
                                                                     Compute<T>* dh, Compute<T>* dc) {
  using S = Compute<T>;
  const int64_t B = a.x.shape[1], H = a.w_hh.shape[1],
                unit = int64_t(blockIdx.x) * cell_threads + prim::thread();
  if (unit >= H) return;
  const int64_t ld = a.reserve.shape[1], t_last = a.reverse ? t + 1 : t - 1;
  for (int64_t b = blockIdx.y; b < B; b += gridDim.y) {
    const int64_t length = length_of(a.lengths, b, a.x.shape[0]), at = b * H + unit;
    S* const d = da + b * 4 * H + unit;
    if (t >= length) {
      d[0] = d[H] = d[2 * H] = d[3 * H] = h_last[at] = 0;
      continue;
    }
    S c_before = 0, h_before = 0;
    if (t_last >= 0 && t_last < length) {
      const S* before = a.reserve.as<const S>() + (t_last * B + b) * ld;
      c_before = before[4 * H + unit];
      h_before = before[4 * unit + 3] * prim::tanh(c_before);
    } else if (a.h0) {
      c_before = prim::widen(a.c0.as<const T>()[b * a.c0.strides[0] + unit * a.c0.strides[1]]);
      h_before = prim::widen(a.h0.as<const T>()[b * a.h0.strides[0] + unit * a.h0.strides[1]]);
    }
    h_last[at] = h_before;

    const Matrix<const S> saved = {a.reserve.as<const S>(), ld, 1};
    const auto gates = fetch<4>(saved, t * B + b, 4 * unit, 4);
    const S i = gates[0], f = gates[1], g = gates[2], o = gates[3],
            tanh_c = prim::tanh(*saved.at(t * B + b, 4 * H + unit));
    S dh_now = dh[at];
    if (a.dy) dh_now += prim::widen(a.dy.as<const T>()[t * a.dy.strides[0] + b * a.dy.strides[1] + unit]);
    const S dc_now = prim::fma(dh_now * o, 1 - tanh_c * tanh_c, dc[at]);
    d[0] = dc_now * g * i * (1 - i);
    d[H] = dc_now * c_before * f * (1 - f);
    d[2 * H] = dc_now * i * (1 - g * g);
    d[3 * H] = dh_now * tanh_c * o * (1 - o);
    dh[at] = 0;  // the product adds da W_hh
    dc[at] = dc_now * f;
  }
}

template <class T>
void backward_typed(const LstmBackwardArgs& a) {
  using S = Compute<T>;
  const LstmSize z = size_of_args(a);
  const int64_t rows = z.T * z.B, columns = 4 * z.H, states = z.B * z.H;
  const Products multiply = products_of<T>(a.precision);
  const DenseRows<T> x(a.x), w_ih(a.w_ih), w_hh(a.w_hh);
  const DeviceScratch<S> da(rows * columns), h_last(rows * z.H), dh(states), dc(states);
  load_rows<T>(a.dh_n, states, dh);
  load_rows<T>(a.dc_n, states, dc);
  for (int64_t s = z.T - 1; s >= 0; --s) {
    const int64_t t = a.reverse ? z.T - 1 - s : s;
    S* const step = da.data() + t * z.B * columns;
    launch("lstm_cell_backward", cell_backward_kernel<T>, per_cell(z), a, t, step, h_last.data() + t * states,
           dh.data(), dc.data());
    multiply(matrix(step, z.B, columns, columns), matrix(w_hh.data(), columns, z.H, z.H),
             matrix(dh.data(), z.B, z.H, z.H), true);
  }
  store_rows<T>(dh, a.dh0);
  store_rows<T>(dc, a.dc0);

  const View all = matrix(da.data(), rows, columns, columns);
  if (a.dw_ih) {
    const DenseResult<T> dw(a.dw_ih);
    multiply(transposed(all), matrix(x.data(), rows, z.I, z.I), matrix(dw.data(), columns, z.I, z.I));
    dw.finish();
  }
  if (a.dw_hh) {
    const DenseResult<T> dw(a.dw_hh);
    multiply(transposed(all), matrix(h_last.data(), rows, z.H, z.H), matrix(dw.data(), columns, z.H, z.H));
    dw.finish();
  }
  if (a.db) {
    const DenseResult<T> db(a.db);
    EpilogueBackwardArgs sum;
    sum.dy = all;
    sum.dbias = matrix(db.data(), 1, columns, columns);
    gemm_kernels.epilogue_backward(sum);
    db.finish();
  }
  if (a.dx) {
    const DenseResult<T> dx(a.dx, a.adds_to_dx);
    multiply(all, matrix(w_ih.data(), columns, z.I, z.I), matrix(dx.data(), rows, z.I, z.I));
    dx.finish();
  }
}

void forward(const LstmArgs& a) {
  dispatch_device_float(a.x.dtype, [&](auto t) { forward_typed<typename decltype(t)::type>(a); });
}
void backward(const LstmBackwardArgs& a) {
  dispatch_device_float(a.x.dtype, [&](auto t) { backward_typed<typename decltype(t)::type>(a); });
}

int64_t reserve_columns(const LstmSize& z) { return reserve_parts * z.H; }
int64_t no_workspace(const LstmSize&) { return 0; }

}  // namespace

const LstmKernels lstm_kernels = {.forward = forward,
                                  .backward = backward,
                                  .reserve_columns = reserve_columns,
                                  .forward_workspace = no_workspace,
                                  .backward_workspace = no_workspace};

}  // namespace lamina::LAMINA_DEVICE
