// The driver of elementwise kernels on a GPU: how a thread gets its elements and puts its results.
//
// A thread takes V consecutive points at a time, in the memory order of y, which is dense: 16 bytes of the operands'
// dtype T. Each operand has an Access, one for the whole launch, so that what is dense moves in packs, whatever the
// others are:
//
//   in_line    element i of y belongs to element i of the operand        one pack at i
//   packed     dense along the last axis                                 one pack at the place of point i
//   repeated   constant along the last axis, or everywhere               one element for the V points
//   gathered   all others, and what is left at the end of y              V elements, each by index arithmetic
//   absent     no operand: zeros
//
// An operation is one lambda on numbers; a kernel holds all operations of its arity and chooses by a switch, the same
// for all threads, once for a pack. Instantiations are dtypes only. Numbers are float for the short floating dtypes and
// int32 for bool and uint8, as on the CPU; integers wrap.
#pragma once

#include "base/check.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/layout/space.cuh"
#include "prim/prim.cuh"

namespace lamina::LAMINA_DEVICE {

void unary(const ElementwiseArgs&);
void unary_backward(const ElementwiseArgs&);
void binary(const ElementwiseArgs&);
void ternary(const ElementwiseArgs&);
void cast(const ElementwiseArgs&);

// The type in which elements of T are computed on.
template <class T>
struct NumberOf {
  using type = Compute<T>;
};
template <>
struct NumberOf<bool> {
  using type = int32_t;
};
template <>
struct NumberOf<uint8_t> {
  using type = int32_t;
};
template <class T>
using Number = typename NumberOf<T>::type;

// An element from a number. Floating values go to integers towards zero, to the narrow ones by way of int64, so that
// they wrap as in C.
template <class T, class S>
LAMINA_PRIM T element_of(S x) {
  if constexpr (dtype_of<T> == Dtype::boolean)
    return x != S(0);
  else if constexpr (is_floating(dtype_of<T>))
    return prim::narrow<T>(Compute<T>(x));
  else if constexpr (is_floating(dtype_of<S>))
    return T(int64_t(x));
  else
    return T(x);
}

template <class T>
inline constexpr int points = sizeof(T) == 1 ? 8 : 16 / int(sizeof(T));

enum class Access : uint8_t { absent, in_line, packed, repeated, gathered };

// The arguments of a kernel of so many operands.
template <int Arity>
struct Elementwise {
  Space<Arity + 1> space;  // the last operand is y
  void* data[Arity + 1];
  Access access[Arity + 1];
  Dtype result;  // of y
  int op;
  double p[2];
};

// With the accesses for V points at a time.
template <int V, int Arity>
Elementwise<Arity> plan(const ElementwiseArgs& args) {
  View views[Arity + 1];
  for (int k = 0; k < Arity; ++k) views[k] = args.x[k];
  views[Arity] = args.y;
  const Space<Arity + 1> space(views);
  Elementwise<Arity> e = {.space = space,
                          .data = {},
                          .access = {},
                          .result = args.y.dtype,
                          .op = args.op,
                          .p = {args.p[0], args.p[1]}};
  for (int k = 0; k <= Arity; ++k) {
    const int64_t bytes = V * size_of(views[k].dtype);
    const bool is_aligned = prim::is_aligned(views[k].template as<char>(), bytes < 16 ? bytes : 16);
    const bool is_repeated = space.is_constant(k) || (space.inner_stride(k) == 0 && space.inner() % V == 0);
    e.data[k] = views[k].data;
    e.access[k] = !views[k]                             ? Access::absent
                  : space.is_dense(k) && is_aligned     ? Access::in_line
                  : is_repeated                         ? Access::repeated
                  : space.has_packs(k, V) && is_aligned ? Access::packed
                                                        : Access::gathered;
  }
  if (!space.is_dense(Arity)) fail<StateError>("elementwise", "y has gaps; expected dense memory");
  return e;
}

// Elements of operand k for `count` points from `first` on.
template <class T, int V, int Arity>
LAMINA_PRIM prim::Pack<T, V> load(const Elementwise<Arity>& e, int k, int64_t first, int count) {
  const T* x = static_cast<const T*>(e.data[k]);
  prim::Pack<T, V> pack = {};
  const bool is_whole = count == V;
  const Access access = e.access[k];
  if (access == Access::in_line && is_whole) {
    pack = prim::load_vector<V>(x + first);
  } else if (access == Access::packed && is_whole) {
    pack = prim::load_vector<V>(x + e.space.offset(k, first));
  } else if (access == Access::repeated) {
    const T value = x[e.space.offset(k, first)];
#pragma unroll
    for (int v = 0; v < V; ++v) pack[v] = value;
  } else if (access != Access::absent) {
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (v < count) pack[v] = x[e.space.offset(k, first + v)];
  }
  return pack;
}

template <class T, int V, int Arity>
LAMINA_PRIM prim::Pack<Number<T>, V> load_numbers(const Elementwise<Arity>& e, int k, int64_t first,
                                                  int count) {
  const prim::Pack<T, V> pack = load<T, V>(e, k, first, count);
  prim::Pack<Number<T>, V> numbers;
#pragma unroll
  for (int v = 0; v < V; ++v) numbers[v] = prim::widen(pack[v]);
  return numbers;
}

// Puts elements of y.
template <class T, int V, int Arity>
LAMINA_PRIM void store(const Elementwise<Arity>& e, int64_t first, int count, const prim::Pack<T, V>& pack) {
  T* y = static_cast<T*>(e.data[Arity]) + first;
  if (e.access[Arity] == Access::in_line && count == V) {
    prim::store_vector(y, pack);
  } else {
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (v < count) y[v] = pack[v];
  }
}

template <class T, class S, int V, int Arity>
LAMINA_PRIM void store_numbers(const Elementwise<Arity>& e, int64_t first, int count,
                               const prim::Pack<S, V>& numbers) {
  prim::Pack<T, V> pack;
#pragma unroll
  for (int v = 0; v < V; ++v) pack[v] = element_of<T>(numbers[v]);
  store(e, first, count, pack);
}

// Calls f(first point, number of points) for the packs of this thread.
template <int V, int Arity, class F>
LAMINA_PRIM void for_packs(const Elementwise<Arity>& e, F f) {
  for_items<V>(e.space.size, [&](int64_t first) {
    const int64_t rest = e.space.size - first;
    f(first, rest < V ? int(rest) : V);
  });
}

// Launches kernel(Elementwise<Arity>) for V points at a time.
template <int V, int Arity>
void launch_elementwise(const char* name, void (*kernel)(Elementwise<Arity>), const ElementwiseArgs& args) {
  if (args.y.size() == 0) return;
  const Elementwise<Arity> e = plan<V, Arity>(args);
  launch(name, kernel, spread((e.space.size + V - 1) / V), e);
}

// Arithmetic of integers in the unsigned type of their size, where it wraps; of floating numbers as it is.
template <class S>
struct WrappingOf {
  using type = S;
};
template <>
struct WrappingOf<int32_t> {
  using type = uint32_t;
};
template <>
struct WrappingOf<int64_t> {
  using type = uint64_t;
};
template <class S>
using Wrapping = typename WrappingOf<S>::type;

}  // namespace lamina::LAMINA_DEVICE
