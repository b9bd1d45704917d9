// Copies and fills on a GPU. What moves is the widest unit, 1 to 16 bytes, in which both sides lie whole.
//
//   units   src and dst are densest along the same axis, or one of the two dense axes is short: a thread takes one unit
//           of dst, in the order of dst, and finds src by index arithmetic (space.cuh). Whole warps write whole lines;
//           lines of src that are read in parts stay in the first-level cache from one axis step to the next.
//   tiles   src is densest along A, dst along B: planes of A and B go through shared memory in tiles of 32 x 32, of 64 x
//           64 for units of 1 and 2 bytes.
//
//             src  A ->                      tile                      dst  B ->
//          B  ----------   rows in one     +------+   columns in    A  ----------
//          |  ----------   go              |      |   one go        |  ----------
//          v                               +------+                 v
//
//           A row of the tile is an odd number of words long: 32 neighbours of a column then lie in different banks.
//
// Traffic: every element once in each direction.
#include "kernels/layout/layout.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "kernels/layout/space.cuh"
#include "kernels/layout/unit.cuh"
#include "prim/prim.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

constexpr int64_t long_run = 64 * 1024;          // bytes: its time is a launch's
constexpr int tile_columns = 32, tile_rows = 8;  // the threads of a tile
constexpr int64_t shortest_side = 16;            // of a plane for tiles: below, half of a tile would be empty
constexpr int units_at_once = 4;                 // of a thread, so that their latencies overlap

// Makes the widest units that all views allow the points of the space; returns their size in bytes.
template <int Operands>
int64_t widen_units(Space<Operands>& space, const View (&views)[Operands]) {
  const int64_t element = size_of(views[0].dtype);
  int64_t unit = widest_unit;
  const auto fits = [&](int k) {
    return space.has_packs(k, unit / element) && prim::is_aligned(views[k].template as<char>(), unit);
  };
  for (int k = 0; k < Operands; ++k)
    while (unit > element && !fits(k)) unit /= 2;
  space.pack(unit / element);
  return unit;
}

// Calls f(views), or, where they are one long run that does not end with a whole unit, f(all but the end), f(the end).
template <int Operands, class F>
void split_run(const View (&views)[Operands], F f) {
  const Space<Operands> space(views);
  const int64_t element = size_of(views[0].dtype),
                whole = space.size / (widest_unit / element) * (widest_unit / element);
  bool is_split = space.size > whole && space.size * element >= long_run;
  for (int k = 0; k < Operands; ++k) is_split &= space.is_dense(k);
  if (!is_split) return f(views);
  for (const auto& [begin, end] : {std::pair(int64_t(0), whole), std::pair(whole, space.size)}) {
    View parts[Operands];
    for (int k = 0; k < Operands; ++k)
      parts[k] = {.data = views[k].template as<char>() + begin * element,
                  .dtype = views[k].dtype,
                  .ndim = 1,
                  .shape = {end - begin},
                  .strides = {1}};
    f(parts);
  }
}

// --- copy --------------------------------------------------------------------------------------------------------

template <class E>
__global__ __launch_bounds__(spread_threads) void copy_kernel(Space<2> space, const E* src, E* dst) {
  const int64_t span = int64_t(blockDim.x) * units_at_once;
  for (int64_t first = blockIdx.x * span + threadIdx.x; first < space.size; first += gridDim.x * span) {
    E unit[units_at_once];
    int64_t at[units_at_once][2];
#pragma unroll
    for (int u = 0; u < units_at_once; ++u) {
      const int64_t i = first + u * int64_t(blockDim.x);
      if (i >= space.size) break;
      space.offsets(i, at[u]);
      unit[u] = src[at[u][0]];
    }
#pragma unroll
    for (int u = 0; u < units_at_once; ++u)
      if (first + u * int64_t(blockDim.x) < space.size) dst[at[u][1]] = unit[u];
  }
}

// An axis of the planes: its extent, and its strides in src and dst.
struct Side {
  int64_t n, src, dst;
};
struct Planes {
  Space<2> outer;  // the axes besides A and B
  Side a, b;
  prim::Divider tiles_a, tiles_b;  // tiles along each
  int64_t size() const { return outer.size * tiles_a.divisor * tiles_b.divisor; }
};

// A thread has 16 loads of 1 or 2 bytes, or 4 of the wider units, none of which waits for another.
template <class E>
struct Tile {
  static constexpr int side = sizeof(E) <= 2 ? 64 : 32, padding = sizeof(E) < 4 ? 4 / sizeof(E) : 1;
  E unit[side][side + padding];
};

template <class E>
__global__ __launch_bounds__(tile_columns* tile_rows) void transpose_kernel(Planes p, int64_t tiles,
                                                                            const E* src, E* dst) {
  constexpr int side = Tile<E>::side;
  auto& s = prim::shared_memory<Tile<E>>();
  const int x = int(threadIdx.x), y = int(threadIdx.y);
  // Calls f(row, column) for the elements of this thread.
  const auto for_elements = [&](auto f) {
#pragma unroll
    for (int row = 0; row < side; row += tile_rows)
#pragma unroll
      for (int column = 0; column < side; column += tile_columns) f(row + y, column + x);
  };
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const int64_t line = p.tiles_b.quotient(t), plane = p.tiles_a.quotient(line);
    const int64_t a = (line - plane * p.tiles_a.divisor) * side, b = (t - line * p.tiles_b.divisor) * side;
    const int64_t na = p.a.n - a, nb = p.b.n - b;
    int64_t at[2];
    p.outer.offsets(plane, at);
    const E* from = src + at[0] + a * p.a.src + b * p.b.src;
    E* to = dst + at[1] + a * p.a.dst + b * p.b.dst;
    for_elements([&](int i, int j) {
      if (i < nb && j < na) s.unit[i][j] = from[i * p.b.src + j * p.a.src];
    });
    prim::block_sync();  // the tile is complete
    for_elements([&](int i, int j) {
      if (i < na && j < nb) to[i * p.a.dst + j * p.b.dst] = s.unit[j][i];
    });
    prim::block_sync();  // the tile has been read
  }
}

// The axis along which src is densest; the last one if it is that, or if a broadcast is written along it.
int densest_axis(const Space<2>& space) {
  const int last = space.ndim - 1;
  const auto magnitude = [&](int d) { return std::abs(space.strides[0][d]); };
  int densest = last;
  if (last < 0 || magnitude(last) == 0) return last;
  for (int d = 0; d < last; ++d)
    if (magnitude(d) && magnitude(d) < magnitude(densest)) densest = d;
  return densest;
}

Planes make_planes(const Space<2>& space, int axis_a, int tile) {
  const int axis_b = space.ndim - 1;
  View outer[2];
  for (int d = 0; d < axis_b; ++d) {
    if (d == axis_a) continue;
    for (int k = 0; k < 2; ++k) {
      outer[k].shape[outer[k].ndim] = space.extent[d].divisor;
      outer[k].strides[outer[k].ndim++] = space.strides[k][d];
    }
  }
  const auto side = [&](int d) {
    return Side{space.extent[d].divisor, space.strides[0][d], space.strides[1][d]};
  };
  const auto tiles = [&](int d) { return prim::Divider((space.extent[d].divisor + tile - 1) / tile); };
  return {Space<2>(outer), side(axis_a), side(axis_b), tiles(axis_a), tiles(axis_b)};
}

void copy_run(const View (&views)[2]) {
  Space<2> space(views);
  const int64_t unit = widen_units(space, views);
  const int axis_a = densest_axis(space), axis_b = space.ndim - 1;
  dispatch_unit(unit, [&](auto e) {
    using E = typename decltype(e)::type;
    const E* src = views[0].as<const E>();
    E* dst = views[1].as<E>();
    if (axis_a == axis_b || space.extent[axis_a].divisor < shortest_side || space.inner() < shortest_side)
      return launch("copy", copy_kernel<E>, spread((space.size + units_at_once - 1) / units_at_once), space,
                    src, dst);
    const Planes planes = make_planes(space, axis_a, Tile<E>::side);
    launch("transpose", transpose_kernel<E>,
           {.grid = {std::min<int64_t>(planes.size(), INT32_MAX)},
            .block = {tile_columns, tile_rows},
            .shared = sizeof(Tile<E>)},
           planes, planes.size(), src, dst);
  });
}

void copy(const CopyArgs& args) {
  if (args.dst.size() > 0) split_run({args.src, args.dst}, copy_run);
}

// --- fill --------------------------------------------------------------------------------------------------------

template <class E>
__global__ __launch_bounds__(spread_threads) void fill_kernel(Space<1> space, E value, E* dst) {
  for_items(space.size, [&](int64_t i) {
    int64_t at[1];
    space.offsets(i, at);
    dst[at[0]] = value;
  });
}

void fill(const FillArgs& args) {
  if (args.dst.size() == 0) return;
  const int64_t element = size_of(args.dst.dtype);
  char bytes[widest_unit];  // of the widest unit
  for (int64_t at = 0; at < widest_unit; at += element) std::memcpy(bytes + at, &args.bits, size_t(element));
  split_run({args.dst}, [&](const View(&views)[1]) {
    Space<1> space(views);
    dispatch_unit(widen_units(space, views), [&](auto e) {
      using E = typename decltype(e)::type;
      E value;
      std::memcpy(&value, bytes, sizeof(E));
      launch("fill", fill_kernel<E>, spread(space.size), space, value, views[0].as<E>());
    });
  });
}

// --- triangle, range ---------------------------------------------------------------------------------------------

// Row i keeps its columns below i + k + 1 (lower) or from i + k on (upper).
template <class E>
__global__ __launch_bounds__(spread_threads) void triangle_kernel(const E* x, E* y, int64_t size,
                                                                  prim::Divider rows, prim::Divider columns,
                                                                  int64_t k, bool is_upper) {
  for_items(size, [&](int64_t at) {
    const int64_t row = columns.quotient(at), j = at - row * columns.divisor;
    const int64_t i = row - rows.quotient(row) * rows.divisor;
    y[at] = (is_upper ? j >= i + k : j <= i + k) ? x[at] : E(0);
  });
}

void triangle(const TriangleArgs& a) {
  if (a.y.size() == 0) return;
  dispatch_element(a.y.dtype, [&](auto e) {
    using E = typename decltype(e)::type;
    launch("triangle", triangle_kernel<E>, spread(a.y.size()), a.x.as<const E>(), a.y.as<E>(), a.y.size(),
           prim::Divider(a.y.shape[1]), prim::Divider(a.y.shape[2]), a.k, a.is_upper);
  });
}

template <class T>
__global__ __launch_bounds__(spread_threads) void range_kernel(T* y, int64_t n, double start, double step) {
  for_items(n, [&](int64_t i) {
    if constexpr (is_floating(dtype_of<T>))
      y[i] = prim::narrow<T>(Compute<T>(start + double(i) * step));
    else
      y[i] = T(int64_t(start) + i * int64_t(step));
  });
}

void range(const RangeArgs& a) {
  dispatch_any(a.y.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    launch("range", range_kernel<T>, spread(a.y.size()), a.y.as<T>(), a.y.size(), a.start, a.step);
  });
}

}  // namespace

const LayoutKernels layout_kernels = {copy, fill, triangle, range};

}  // namespace lamina::LAMINA_DEVICE
