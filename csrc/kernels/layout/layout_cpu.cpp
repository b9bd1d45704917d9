#include <utility>

#include "base/integer.h"
#include "base/parallel.h"
#include "kernels/layout/layout.h"
#include "simd/vec.h"

namespace lamina::LAMINA_ISA {
namespace {

constexpr int64_t block_bytes = 16 << 10;  // half of L1
constexpr int64_t run_bytes = 256;         // what a block writes to dst in one piece
constexpr int64_t chunk_bytes =
    64 << 10;  // rows: large against the 0.1 us of claiming a chunk, small against L2

LAMINA_INLINE int64_t magnitude(int64_t a) { return a < 0 ? -a : a; }

// One loop of a copy: extent, and strides of src and dst in elements.
struct Axis {
  int64_t n, s, d;
};

struct Axes {
  int count = 0;
  Axis axis[max_ndim + 2];  // two more than a view has: blocks split A and B

  LAMINA_INLINE Axis& operator[](int i) { return axis[i]; }
  LAMINA_INLINE const Axis& operator[](int i) const { return axis[i]; }
  LAMINA_INLINE void append(Axis a) { axis[count++] = a; }
  LAMINA_INLINE int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < count; ++i) n *= axis[i].n;
    return n;
  }
};

// The axes in order of descending dst stride, merged where both views are dense. Never empty.
Axes merged_axes(const View& src, const View& dst) {
  Axes sorted;
  for (int i = 0; i < dst.ndim; ++i) {
    if (dst.shape[i] == 1) continue;
    const Axis a = {dst.shape[i], src.strides[i], dst.strides[i]};
    int at = sorted.count++;
    for (; at > 0 && sorted[at - 1].d < a.d; --at) sorted[at] = sorted[at - 1];
    sorted[at] = a;
  }
  Axes merged;
  for (int i = 0; i < sorted.count; ++i) {
    const Axis a = sorted[i];
    if (merged.count > 0) {
      Axis& outer = merged[merged.count - 1];
      if (outer.s == a.s * a.n && outer.d == a.d * a.n) {
        outer = {outer.n * a.n, a.s, a.d};
        continue;
      }
    }
    merged.append(a);
  }
  if (merged.count == 0) merged.append({1, 1, 1});
  return merged;
}

// Runs body(src, dst, index) for the points [begin, end) of the grid `axes`, the last axis fastest.
template <class E, class F>
LAMINA_INLINE void walk(const Axes& axes, const E* src, E* dst, int64_t begin, int64_t end, const F& body) {
  int64_t index[max_ndim + 2] = {};
  int64_t rest = begin;
  for (int i = axes.count - 1; i >= 0; --i) {
    index[i] = rest % axes[i].n;
    rest /= axes[i].n;
    src += index[i] * axes[i].s;
    dst += index[i] * axes[i].d;
  }
  for (int64_t at = begin; at < end; ++at) {
    body(src, dst, index);
    for (int i = axes.count - 1; i >= 0; --i) {
      src += axes[i].s;
      dst += axes[i].d;
      if (++index[i] < axes[i].n) break;
      src -= axes[i].n * axes[i].s;
      dst -= axes[i].n * axes[i].d;
      index[i] = 0;
    }
  }
}

template <class E>
LAMINA_INLINE void copy_row(const E* src, int64_t s, E* dst, int64_t d, int64_t n) {
  if (d == 1 && s == 1) {
    __builtin_memcpy(dst, src, size_t(n) * sizeof(E));
  } else if (d == 1 && s == 0) {
    const E value = *src;
    for (int64_t i = 0; i < n; ++i) dst[i] = value;
  } else if (d == 1 && s == -1) {
    for (int64_t i = 0; i < n; ++i) dst[i] = src[-i];
  } else {
    for (int64_t i = 0; i < n; ++i) dst[i * d] = src[i * s];
  }
}

template <class E>
void copy_rows(const Axes& axes, const E* src, E* dst) {
  const Axis row = axes[axes.count - 1];
  const int64_t piece = smaller(row.n, chunk_bytes / int64_t(sizeof(E))), pieces = ceil_div(row.n, piece);
  Axes grid = axes;
  grid[grid.count - 1] = {pieces, piece * row.s, piece * row.d};
  const int last = grid.count - 1;
  parallel_ranges(grid.size(), larger(1, chunk_bytes / (piece * int64_t(sizeof(E)))),
                  [&](int64_t begin, int64_t end) {
                    walk(grid, src, dst, begin, end, [&](const E* s, E* d, const int64_t* index) {
                      copy_row(s, row.s, d, row.d, smaller(piece, row.n - index[last] * piece));
                    });
                  });
}

// --- Register tiles ---------------------------------------------------------------------------------------------

template <class E, int Lanes>
struct Tile {
  static constexpr int V = 16 / sizeof(E), rows = V * Lanes, columns = V;
  typedef E Lane __attribute__((vector_size(16)));
  typedef E Register __attribute__((vector_size(16 * Lanes)));

  // Lane l of the result is the 16 bytes at src + l * V * stride.
  LAMINA_INLINE static Register gather(const E* src, int64_t stride) {
    if constexpr (Lanes == 1) {
      Register r;
      __builtin_memcpy(&r, src, 16);
      return r;
    } else {
      using Half = Tile<E, Lanes / 2>;
      return join(Half::gather(src, stride), Half::gather(src + Half::rows * stride, stride),
                  std::make_integer_sequence<int, rows>{});
    }
  }
  template <class Half, int... I>
  LAMINA_INLINE static Register join(Half a, Half b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, I...);
  }
  // Within each lane: a0 b0 a1 b1 … of the first halves (Side 0) or the second halves (Side 1).
  template <int Side, int... I>
  LAMINA_INLINE static Register interleave(Register a, Register b, std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (I / V * V + Side * V / 2 + I % V / 2 + I % 2 * rows)...);
  }

  // dst[j * d + i] = src[i * s + j] for i < rows, j < columns.
  LAMINA_INLINE static void transpose(const E* src, int64_t s, E* dst, int64_t d) {
    constexpr std::make_integer_sequence<int, rows> lanes;
    Register r[V], t[V];
#pragma GCC unroll 16
    for (int i = 0; i < V; ++i) r[i] = gather(src + i * s, s);
#pragma GCC unroll 4
    for (int stage = 1; stage < V; stage *= 2) {
#pragma GCC unroll 16
      for (int i = 0; i < V / 2; ++i) {
        t[2 * i] = interleave<0>(r[i], r[i + V / 2], lanes);
        t[2 * i + 1] = interleave<1>(r[i], r[i + V / 2], lanes);
      }
#pragma GCC unroll 16
      for (int i = 0; i < V; ++i) r[i] = t[i];
    }
#pragma GCC unroll 16
    for (int j = 0; j < V; ++j) __builtin_memcpy(dst + j * d, &r[j], sizeof(Register));
  }
};

// A block of a plane: src is (nb, na) with strides (sb, sa), dst is (na, nb) with strides (da, db).
struct Block {
  int64_t na, sa, da, nb, sb, db;
};

// Whole tiles; the last of each direction is moved back to overlap its neighbour.
template <class E, int Lanes>
LAMINA_INLINE void transpose_tiles(const E* src, int64_t sb, E* dst, int64_t da, int64_t na, int64_t nb) {
  using T = Tile<E, Lanes>;
  for (int64_t b = 0; b < nb; b += T::rows) {
    const int64_t b0 = smaller(b, nb - T::rows);
    for (int64_t a = 0; a < na; a += T::columns) {
      const int64_t a0 = smaller(a, na - T::columns);
      T::transpose(src + b0 * sb + a0, sb, dst + a0 * da + b0, da);
    }
  }
}

// A few planes to one row of pixels and back: simple loops, which the compiler vectorises with permutations.
template <class E, int N>
LAMINA_INLINE void interleave_planes(const E* __restrict src, int64_t plane, E* __restrict dst, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    for (int c = 0; c < N; ++c) dst[i * N + c] = src[c * plane + i];
}
template <class E, int N>
LAMINA_INLINE void separate_planes(const E* __restrict src, E* __restrict dst, int64_t plane, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    for (int c = 0; c < N; ++c) dst[c * plane + i] = src[i * N + c];
}

template <class E>
void transpose_block(const E* src, E* dst, const Block& b) {
  constexpr int lanes = sizeof(Vec<float>) / 16;
  constexpr int64_t pitch = run_bytes / sizeof(E);
  if (b.sa == 1 && b.db == 1) {
    if (b.nb == 3 && b.da == 3) return interleave_planes<E, 3>(src, b.sb, dst, b.na);
    if (b.na == 3 && b.sb == 3) return separate_planes<E, 3>(src, dst, b.da, b.nb);
    if (b.na >= Tile<E, lanes>::columns && b.nb == pitch) {
      alignas(64) E buffer[block_bytes / sizeof(E)];
      transpose_tiles<E, lanes>(src, b.sb, buffer, pitch, b.na, b.nb);
      for (int64_t a = 0; a < b.na; ++a) __builtin_memcpy(dst + a * b.da, buffer + a * pitch, run_bytes);
      return;
    }
    if (b.na >= Tile<E, lanes>::columns && b.nb >= Tile<E, lanes>::rows)
      return transpose_tiles<E, lanes>(src, b.sb, dst, b.da, b.na, b.nb);
    if (b.na >= Tile<E, 1>::columns && b.nb >= Tile<E, 1>::rows)
      return transpose_tiles<E, 1>(src, b.sb, dst, b.da, b.na, b.nb);
  }
  for (int64_t i = 0; i < b.na; ++i)
    for (int64_t j = 0; j < b.nb; ++j) dst[i * b.da + j * b.db] = src[i * b.sa + j * b.sb];
}

// Transposes every plane of axis k (A) and the last axis (B).
template <class E>
void copy_planes(const Axes& axes, int k, const E* src, E* dst) {
  const Axis a = axes[k], b = axes[axes.count - 1];
  const int64_t block_b = smaller(b.n, run_bytes / int64_t(sizeof(E)));
  const int64_t block_a = smaller(a.n, block_bytes / int64_t(sizeof(E)) / block_b);
  Axes grid;
  for (int i = 0; i < axes.count - 1; ++i)
    if (i != k) grid.append(axes[i]);
  const int ia = grid.count, ib = ia + 1;
  grid.append({ceil_div(a.n, block_a), block_a * a.s, block_a * a.d});
  grid.append({ceil_div(b.n, block_b), block_b * b.s, block_b * b.d});
  const int64_t grain = larger(1, block_bytes / (block_a * block_b * int64_t(sizeof(E))));
  parallel_ranges(grid.size(), grain, [&](int64_t begin, int64_t end) {
    walk(grid, src, dst, begin, end, [&](const E* s, E* d, const int64_t* index) {
      transpose_block(s, d,
                      {smaller(block_a, a.n - index[ia] * block_a), a.s, a.d,
                       smaller(block_b, b.n - index[ib] * block_b), b.s, b.d});
    });
  });
}

template <class E>
void copy_typed(const View& src, const View& dst) {
  const Axes axes = merged_axes(src, dst);
  const int last = axes.count - 1;
  int k = last;
  if (axes[last].s != 0) {  // a broadcast row is best written as such
    for (int i = 0; i < last; ++i)
      if (axes[i].s != 0 && magnitude(axes[i].s) < magnitude(axes[k].s)) k = i;
  }
  if (k == last)
    copy_rows(axes, src.as<const E>(), dst.as<E>());
  else
    copy_planes(axes, k, src.as<const E>(), dst.as<E>());
}

void copy(const CopyArgs& args) {
  if (args.dst.size() == 0) return;
  dispatch_element(args.dst.dtype,
                   [&](auto t) { copy_typed<typename decltype(t)::type>(args.src, args.dst); });
}

// A copy from one broadcast element.
void fill(const FillArgs& args) {
  uint64_t bits = args.bits;
  View value = args.dst;
  value.data = &bits;  // the low bytes come first on every machine Lamina is built for
  for (int i = 0; i < value.ndim; ++i) value.strides[i] = 0;
  copy({value, args.dst});
}

// Row i keeps its columns below i + k + 1 (lower) or from i + k on (upper).
void triangle(const TriangleArgs& a) {
  const int64_t M = a.y.shape[1], N = a.y.shape[2], bytes = size_of(a.y.dtype);
  if (a.y.size() == 0) return;
  const char* x = a.x.as<const char>();
  char* y = a.y.as<char>();
  parallel_ranges(a.y.shape[0] * M, larger(1, chunk_bytes / (N * bytes)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * N * bytes, i = row % M;
      const int64_t edge = smaller(larger(a.is_upper ? i + a.k : i + a.k + 1, 0), N) * bytes,
                    rest = N * bytes - edge;
      if (a.is_upper) {
        __builtin_memset(y + at, 0, size_t(edge));
        __builtin_memcpy(y + at + edge, x + at + edge, size_t(rest));
      } else {
        __builtin_memcpy(y + at, x + at, size_t(edge));
        __builtin_memset(y + at + edge, 0, size_t(rest));
      }
    }
  });
}

template <class T>
void range_typed(const RangeArgs& a) {
  T* y = a.y.as<T>();
  parallel_ranges(a.y.size(), chunk_bytes / 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if constexpr (is_floating(dtype_of<T>))
        y[i] = narrow<T>(Compute<T>(a.start + double(i) * a.step));
      else
        y[i] = T(int64_t(a.start) + i * int64_t(a.step));
    }
  });
}

void range(const RangeArgs& a) {
  dispatch_any(a.y.dtype, [&](auto t) { range_typed<typename decltype(t)::type>(a); });
}

}  // namespace

const LayoutKernels layout_kernels = {copy, fill, triangle, range};

}  // namespace lamina::LAMINA_ISA
