// Functions of two and three operands: a line each in the tables below. `where` and its derivatives move elements
// without computing on them, so they have kernels by element size.
#include "kernels/elementwise/elementwise.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

// Squares, the most frequent powers, cost a comparison.
template <class S>
LAMINA_PRIM S power(S a, S b) {
  return b == S(2) ? a * a : prim::pow(a, b);
}

// Calls apply(f), where y = f(a, b).
template <class S, class F>
LAMINA_PRIM void dispatch_binary(int op, F apply) {
  using U = Wrapping<S>;
  switch (op) {
    case binary_op("add"):
      return apply([](S a, S b) { return S(U(a) + U(b)); });
    case binary_op("sub"):
      return apply([](S a, S b) { return S(U(a) - U(b)); });
    case binary_op("mul"):
      return apply([](S a, S b) { return S(U(a) * U(b)); });
    case binary_op("maximum"):
      return apply([](S a, S b) { return prim::max(a, b); });
    case binary_op("minimum"):
      return apply([](S a, S b) { return prim::min(a, b); });
    case binary_op("eq"):
      return apply([](S a, S b) { return S(a == b); });
    case binary_op("ne"):
      return apply([](S a, S b) { return S(a != b); });
    case binary_op("lt"):
      return apply([](S a, S b) { return S(a < b); });
    case binary_op("le"):
      return apply([](S a, S b) { return S(a <= b); });
    case binary_op("gt"):
      return apply([](S a, S b) { return S(a > b); });
    case binary_op("ge"):
      return apply([](S a, S b) { return S(a >= b); });
    case binary_op("logical_and"):
      return apply([](S a, S b) { return S(a != S(0) && b != S(0)); });
    case binary_op("logical_or"):
      return apply([](S a, S b) { return S(a != S(0) || b != S(0)); });
    case binary_op("logical_xor"):
      return apply([](S a, S b) { return S((a != S(0)) != (b != S(0))); });
  }
  if constexpr (is_floating(dtype_of<S>)) {
    switch (op) {
      case binary_op("div"):
        return apply([](S a, S b) { return a / b; });
      case binary_op("pow"):
        return apply([](S a, S b) { return power(a, b); });
    }
  }
}

// Calls apply(f), where y = f(a, b, c).
template <class S, class F>
LAMINA_PRIM void dispatch_ternary(int op, F apply) {
  switch (op) {
    case ternary_op("div_backward"):
      return apply([](S dy, S y, S b) { return -dy * y / b; });
    case ternary_op("pow_backward_base"):  // 0 where b = 0, whatever a^-1 is
      return apply([](S dy, S a, S b) {
        if (b == S(2)) return dy * (a + a);
        return b == S(0) ? S(0) : dy * b * prim::pow(a, b - S(1));
      });
    case ternary_op("pow_backward_exponent"):  // 0 where a = 0 and b >= 0: the limit of a^b log a
      return apply(
          [](S dy, S a, S b) { return a == S(0) && b >= S(0) ? S(0) : dy * power(a, b) * prim::log(a); });
    case ternary_op("maximum_backward"):
      return apply([](S dy, S a, S b) { return a < b ? S(0) : a == b ? dy * S(0.5) : dy; });
  }
}

template <class T>
__global__ __launch_bounds__(spread_threads) void binary_kernel(Elementwise<2> e) {
  constexpr int V = points<T>;
  using S = Number<T>;
  for_packs<V>(e, [&](int64_t first, int count) {
    const prim::Pack<S, V> a = load_numbers<T, V>(e, 0, first, count),
                           b = load_numbers<T, V>(e, 1, first, count);
    prim::Pack<S, V> y = {};
    dispatch_binary<S>(e.op, [&](auto f) {
#pragma unroll
      for (int v = 0; v < V; ++v) y[v] = f(a[v], b[v]);
    });
    if (e.result == Dtype::boolean)
      store_numbers<bool>(e, first, count, y);
    else
      store_numbers<T>(e, first, count, y);
  });
}

template <class T>
__global__ __launch_bounds__(spread_threads) void ternary_kernel(Elementwise<3> e) {
  constexpr int V = points<T>;
  using S = Number<T>;
  for_packs<V>(e, [&](int64_t first, int count) {
    const prim::Pack<S, V> a = load_numbers<T, V>(e, 0, first, count),
                           b = load_numbers<T, V>(e, 1, first, count),
                           c = load_numbers<T, V>(e, 2, first, count);
    prim::Pack<S, V> y = {};
    dispatch_ternary<S>(e.op, [&](auto f) {
#pragma unroll
      for (int v = 0; v < V; ++v) y[v] = f(a[v], b[v], c[v]);
    });
    store_numbers<T>(e, first, count, y);
  });
}

// y = b where a, else c, for elements of the size of E.
template <class E>
__global__ __launch_bounds__(spread_threads) void where_kernel(Elementwise<3> e) {
  constexpr int V = points<E>;
  for_packs<V>(e, [&](int64_t first, int count) {
    const prim::Pack<bool, V> a = load<bool, V>(e, 0, first, count);
    const prim::Pack<E, V> b = load<E, V>(e, 1, first, count), c = load<E, V>(e, 2, first, count);
    prim::Pack<E, V> y;
#pragma unroll
    for (int v = 0; v < V; ++v) y[v] = a[v] ? b[v] : c[v];
    store(e, first, count, y);
  });
}

// A condition that is not bool is made so first.
void where(const ElementwiseArgs& args) {
  const View& condition = args.x[0];
  if (condition.dtype != Dtype::boolean) {
    const DeviceScratch<bool> truth(condition.size());
    ElementwiseArgs to_bool = {.op = 0, .compute = condition.dtype, .x = {condition}, .y = condition};
    to_bool.y.dtype = Dtype::boolean;
    to_bool.y.data = truth;
    int64_t stride = 1;
    for (int d = condition.ndim - 1; d >= 0; --d) {
      to_bool.y.strides[d] = stride;
      stride *= condition.shape[d];
    }
    cast(to_bool);
    ElementwiseArgs with_bool = args;
    with_bool.x[0] = to_bool.y;
    return where(with_bool);
  }
  dispatch_element(args.y.dtype, [&](auto e) {
    using E = typename decltype(e)::type;
    launch_elementwise<points<E>>("where", where_kernel<E>, args);
  });
}

}  // namespace

void binary(const ElementwiseArgs& args) {
  const View absent = {.dtype = args.y.dtype};
  if (args.op == binary_op("where_backward_a")) {
    ElementwiseArgs where_a = args;
    where_a.x[2] = absent;
    return where(where_a);
  }
  if (args.op == binary_op("where_backward_b")) {
    ElementwiseArgs where_b = args;
    where_b.x[2] = args.x[1];
    where_b.x[1] = absent;
    return where(where_b);
  }
  dispatch_any(args.x[0].dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    launch_elementwise<points<T>>("binary", binary_kernel<T>, args);
  });
}

void ternary(const ElementwiseArgs& args) {
  if (args.op == ternary_op("where")) return where(args);
  dispatch_device_float(args.x[0].dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    launch_elementwise<points<T>>("ternary", ternary_kernel<T>, args);
  });
}

}  // namespace lamina::LAMINA_DEVICE
