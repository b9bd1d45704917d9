#include "kernels/pool2d/pool2d.h"

#include "base/integer.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "simd/lanes.h"

namespace lamina::LAMINA_ISA {
namespace {

enum class Kind { max, max_with_tap, average };

// Rows per chunk: 32 K elements are 10 to 20 us of work, well above the cost of handing a chunk to a thread.
LAMINA_INLINE int64_t rows_per_chunk(int64_t elements) { return larger(1, 32768 / larger(1, elements)); }

// The same where output rows of windows along h read rows of x with so many elements.
LAMINA_INLINE int64_t rows_per_chunk(const PoolAxis& h, int64_t elements) {
  return rows_per_chunk(PoolAxis::ceil_div(h.in, h.out) * elements);
}

// n <= N lanes. Masked stores are slow on some machines (18 uops on Zen 3), hence the branch.
template <class V, class T>
LAMINA_INLINE V load_lanes(const T* p, int64_t n) {
  return n >= V::N ? V::load(p) : V::load(p, int(n));
}
template <class V, class T>
LAMINA_INLINE void store_lanes(V v, T* p, int64_t n) {
  if (n >= V::N)
    v.store(p);
  else
    v.store(p, int(n));
}

// Calls f(n), with n a constant where it is 2 or 3, the usual extents of windows: loops over it are then unrolled.
template <int64_t n>
struct Constant {
  LAMINA_INLINE constexpr operator int64_t() const { return n; }
};
template <class F>
LAMINA_INLINE void with_constant(int64_t n, const F& f) {
  if (n == 2)
    f(Constant<2>{});
  else if (n == 3)
    f(Constant<3>{});
  else
    f(n);
}

// One vector of windows in the making. Taps are kept in floating-point lanes: exact up to 2^24.
template <Kind kind, class S>
struct Pooled {
  using V = Vec<S>;
  V value, tap;

  static constexpr S identity = kind == Kind::average ? S(0) : -S(__builtin_inf());

  LAMINA_INLINE void take(V v, V t) {
    if constexpr (kind == Kind::average) {
      value = value + v;
    } else if constexpr (kind == Kind::max) {
      value = max(value, v);
    } else {  // an equal value does not replace the first; a NaN replaces anything and yields to NaN alone
      const auto wins = gt(v, value) | is_nan(v);
      value = select(wins, v, value);
      tap = select(wins, t, tap);
    }
  }
};

template <class S>
LAMINA_INLINE void store_taps(const S* lanes, const View& taps, int64_t at, int64_t n) {
  if (taps.dtype == Dtype::uint8) {
    uint8_t* out = taps.as<uint8_t>() + at;
    for (int64_t i = 0; i < n; ++i) out[i] = uint8_t(int32_t(lanes[i]));
  } else {
    int32_t* out = taps.as<int32_t>() + at;
    for (int64_t i = 0; i < n; ++i) out[i] = int32_t(lanes[i]);
  }
}

// --- planes, forward ---------------------------------------------------------------------------------------

// Deals a line into its residue classes modulo the stride; n, the length of a class, is a multiple of 16.
template <int Stride, class S>
void deal_by(const S* __restrict line, int64_t n, S* __restrict classes) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < Stride; ++k) classes[k * n + i] = line[i * Stride + k];
}

// Pools lines along W: a line is a row of a plane with its padding, which holds the identity. Where bins are
// of unequal length, class s holds tap s of every bin instead, and the identity where a bin is shorter.
template <Kind kind, class S>
struct LinePooler {
  using V = Vec<S>;

  const PoolAxis& w;
  const int64_t lanes;   // outputs, rounded up to whole vectors
  const int64_t length;  // of a class
  const int64_t class_count;
  S *line, *classes, *first_taps;
  int64_t* offsets;  // tap s of output q lies at classes[offsets[s] + q]

  explicit LinePooler(const PoolAxis& axis)
      : w(axis),
        lanes(PoolAxis::ceil_div(w.out, V::N) * V::N),
        length(PoolAxis::ceil_div(larger(lanes + w.reach() / w.stride + 1, (w.pad + w.in) / w.stride + V::N),
                                  16) *
               16),
        class_count(w.is_adaptive ? w.kernel : w.stride),
        line(scratch<S>(Scratch::row, 2 * class_count * length + lanes)),
        classes(w.stride > 1 || w.is_adaptive ? line + class_count * length : line),
        first_taps(line + 2 * class_count * length),
        offsets(scratch<int64_t>(Scratch::pack_a, w.kernel)) {
    for (int64_t i = 0; i < 2 * class_count * length; ++i) line[i] = Pooled<kind, S>::identity;
    for (int64_t q = 0; q < lanes; ++q) first_taps[q] = q < w.out ? S(w.window(q).first) : S(0);
    for (int64_t s = 0; s < w.kernel; ++s)
      offsets[s] =
          w.is_adaptive ? s * length : s * w.dilation % w.stride * length + s * w.dilation / w.stride;
  }

  // Puts a vector at position i of the row; the last one of a row is filled up with the identity.
  template <class Lanes>
  LAMINA_INLINE void put(V v, int64_t i, Lanes lanes) const {
    lanes.keep(v, V::set1(Pooled<kind, S>::identity)).store(line + w.pad + i);
  }

  void deal() const {
    if (w.is_adaptive) {
      for (int64_t q = 0; q < w.out; ++q) {
        const PoolWindow v = w.window(q);
        for (int64_t s = 0; s < v.last; ++s) classes[s * length + q] = line[v.origin + s];
      }
      return;
    }
    switch (w.stride) {
      case 1:
        return;
      case 2:
        return deal_by<2>(line, length, classes);
      case 3:
        return deal_by<3>(line, length, classes);
      case 4:
        return deal_by<4>(line, length, classes);
      default:
        for (int64_t k = 0; k < w.stride; ++k)
          for (int64_t u = k, i = 0; u < w.pad + w.in; u += w.stride) classes[k * length + i++] = line[u];
    }
  }

  // Calls out(q, pooled) for every vector of outputs.
  template <class Out>
  LAMINA_INLINE void pool(const Out& out) const {
    deal();
    with_constant(w.kernel, [&](auto width) {
      for (int64_t q = 0; q < lanes; q += V::N) {
        Pooled<kind, S> p{V::set1(Pooled<kind, S>::identity), V::zero()};
        if constexpr (kind == Kind::max_with_tap) p.tap = V::load(first_taps + q);
        for (int64_t s = 0; s < width; ++s) p.take(V::load(classes + offsets[s] + q), V::set1(S(s)));
        out(q, p);
      }
    });
  }
};

// Without taps the order is free, and columns first leaves one line per output row to pool along W.
template <Kind kind, class T>
void pool_planes(const Pool2dArgs& a) {
  using S = Compute<T>;
  using V = Vec<S>;
  const PoolAxis &h = a.h, &w = a.w;
  const int64_t rows = a.x.shape[0] * a.x.shape[1] * h.out;
  parallel_ranges(rows, rows_per_chunk(h, w.in), [&](int64_t begin, int64_t end) {
    const LinePooler<kind, S> pooler(w);
    S* counts = scratch<S>(Scratch::tile, pooler.lanes);
    for (int64_t q = 0; q < pooler.lanes; ++q)
      counts[q] = a.divisor || q >= w.out ? S(1) : S(w.count(q, a.count_include_pad));

    for (int64_t row = begin; row < end; ++row) {
      const PoolWindow v = h.window(row % h.out);
      const T* x = a.x.as<T>() + (row / h.out * h.in + v.origin + v.first * h.dilation) * w.in;
      const int64_t step = h.dilation * w.in;
      with_constant(v.last - v.first, [&](auto height) {
        for_vectors<V>(w.in, [&](int64_t i, auto lanes) {
          Pooled<kind, S> p{lanes.load(x + i), V::zero()};
          for (int64_t r = 1; r < height; ++r) p.take(lanes.load(x + r * step + i), V::zero());
          pooler.put(p.value, i, lanes);
        });
      });
      T* y = a.y.as<T>() + row * w.out;
      const V count = V::set1(S(a.divisor ? a.divisor : h.count(row % h.out, a.count_include_pad)));
      pooler.pool([&](int64_t q, Pooled<kind, S> p) {
        if constexpr (kind == Kind::average) p.value = p.value / (count * V::load(counts + q));
        store_lanes(p.value, y + q, w.out - q);
      });
    }
  });
}

// With taps, rows first: a strict comparison then finds the first maximum in row-major order. Pooled rows are
// kept in a ring, because windows that overlap share them.
template <class T>
void pool_planes_with_taps(const Pool2dArgs& a) {
  constexpr Kind kind = Kind::max_with_tap;
  using S = Compute<T>;
  using V = Vec<S>;
  const PoolAxis &h = a.h, &w = a.w;
  const int64_t rows = a.x.shape[0] * a.x.shape[1] * h.out;
  parallel_ranges(rows, rows_per_chunk(h, w.in), [&](int64_t begin, int64_t end) {
    const LinePooler<kind, S> pooler(w);
    const int64_t lanes = pooler.lanes, ring = smaller(h.reach(), h.in);
    S* values = scratch<S>(Scratch::tile, (2 * ring + 1) * lanes);
    S *taps = values + ring * lanes, *winners = taps + ring * lanes;
    int64_t* row_in_slot = scratch<int64_t>(Scratch::pack_b, ring + h.kernel);
    int64_t* slots = row_in_slot + ring;  // where in the ring the rows of the present window lie
    for (int64_t i = 0; i < ring; ++i) row_in_slot[i] = -1;

    for (int64_t row = begin; row < end; ++row) {
      const PoolWindow v = h.window(row % h.out);
      for (int64_t r = v.first; r < v.last; ++r) {
        const int64_t x_row = row / h.out * h.in + v.origin + r * h.dilation, slot = x_row % ring;
        slots[r - v.first] = slot * lanes;
        if (row_in_slot[slot] == x_row) continue;
        row_in_slot[slot] = x_row;
        const T* x = a.x.as<T>() + x_row * w.in;
        for_vectors<V>(w.in, [&](int64_t i, auto lanes) { pooler.put(lanes.load(x + i), i, lanes); });
        pooler.pool([&](int64_t q, const Pooled<kind, S>& p) {
          p.value.store(values + slot * lanes + q);
          p.tap.store(taps + slot * lanes + q);
        });
      }
      with_constant(v.last - v.first, [&](auto height) {
        for (int64_t q = 0; q < lanes; q += V::N) {
          Pooled<kind, S> p{V::load(values + slots[0] + q), V::load(taps + slots[0] + q)};
          for (int64_t r = 1; r < height; ++r)
            p.take(V::load(values + slots[r] + q), V::load(taps + slots[r] + q) + V::set1(S(r * w.kernel)));
          store_lanes(p.value, a.y.as<T>() + row * w.out + q, w.out - q);
          (p.tap + V::set1(S(v.first * w.kernel))).store(winners + q);
        }
      });
      store_taps(winners, a.taps, row * w.out, w.out);
    }
  });
}

// The average of whole planes. Sums of at most 1024 elements, then of sums: the error is that of a short sum.
template <class T>
void average_whole_planes(const Pool2dArgs& a) {
  using V = VecOf<T>;
  const int64_t size = a.h.in * a.w.in;
  const int64_t count =
      a.divisor ? a.divisor : a.h.count(0, a.count_include_pad) * a.w.count(0, a.count_include_pad);
  parallel_ranges(a.x.shape[0] * a.x.shape[1], rows_per_chunk(size), [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const T* x = a.x.as<T>() + plane * size;
      V total = V::zero();
      for (int64_t i = 0; i < size;) {
        const int64_t stop = smaller(size, i + 1024);
        V sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};  // add: 2 per cycle, latency 3 to 4
        for (; i + 4 * V::N <= stop; i += 4 * V::N)
          for (int k = 0; k < 4; ++k) sums[k] = sums[k] + V::load(x + i + k * V::N);
        for (; i < stop; i += V::N) sums[0] = sums[0] + load_lanes<V>(x + i, stop - i);
        total = total + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
      }
      a.y.as<T>()[plane] = narrow<T>(reduce_add(total) / Compute<T>(count));
    }
  });
}

// --- pixels, forward ---------------------------------------------------------------------------------------

// One output pixel, U vectors of channels from channel c on; n = lanes of the last vector.
template <Kind kind, int U, class T>
LAMINA_INLINE void pool_pixel(const Pool2dArgs& a, const T* image, PoolWindow vh, PoolWindow vw, int64_t C,
                              int64_t c, int64_t n, Compute<T> count, int64_t out) {
  using S = Compute<T>;
  using V = Vec<S>;
  Pooled<kind, S> best[U];
  for (auto& b : best) b = {V::set1(Pooled<kind, S>::identity), V::set1(S(vh.first * a.w.kernel + vw.first))};
  for (int64_t r = vh.first; r < vh.last; ++r) {
    V row[U] = {};  // averages: a sum per row first, which keeps the rounding error that of a short sum
    for (int64_t s = vw.first; s < vw.last; ++s) {
      const T* x = image + ((vh.origin + r * a.h.dilation) * a.w.in + vw.origin + s * a.w.dilation) * C + c;
      const V tap = V::set1(S(r * a.w.kernel + s));
      for (int u = 0; u < U; ++u) {
        const V value = load_lanes<V>(x + u * V::N, U > 1 ? V::N : n);
        if constexpr (kind == Kind::average)
          row[u] = row[u] + value;
        else
          best[u].take(value, tap);
      }
    }
    if constexpr (kind == Kind::average)
      for (int u = 0; u < U; ++u) best[u].take(row[u], V::zero());
  }
  S taps[U * V::N];
  for (int u = 0; u < U; ++u) {
    if constexpr (kind == Kind::average) best[u].value = best[u].value / V::set1(count);
    store_lanes(best[u].value, a.y.as<T>() + out + u * V::N, U > 1 ? V::N : n);
    if constexpr (kind == Kind::max_with_tap) best[u].tap.store(taps + u * V::N);
  }
  if constexpr (kind == Kind::max_with_tap) store_taps(taps, a.taps, out, U > 1 ? U * V::N : n);
}

template <Kind kind, class T>
void pool_pixels(const Pool2dArgs& a) {
  constexpr int N = VecOf<T>::N,
                U = 4;  // 4 chains hide the latency of max and add, and leave registers for taps
  const PoolAxis &h = a.h, &w = a.w;
  const int64_t C = a.x.shape[1], rows = a.x.shape[0] * h.out;
  parallel_ranges(rows, rows_per_chunk(h, w.in * C), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* image = a.x.as<T>() + row / h.out * h.in * w.in * C;
      const PoolWindow vh = h.window(row % h.out);
      const int64_t count_h = h.count(row % h.out, a.count_include_pad);
      for (int64_t q = 0; q < w.out; ++q) {
        const PoolWindow vw = w.window(q);
        const auto count = Compute<T>(a.divisor ? a.divisor : count_h * w.count(q, a.count_include_pad));
        const int64_t out = (row * w.out + q) * C;
        int64_t c = 0;
        for (; c + U * N <= C; c += U * N) pool_pixel<kind, U>(a, image, vh, vw, C, c, N, count, out + c);
        for (; c < C; c += N) pool_pixel<kind, 1>(a, image, vh, vw, C, c, smaller(N, C - c), count, out + c);
      }
    }
  });
}

// --- backward of max ---------------------------------------------------------------------------------------

// dx[i * step + moves[taps[i]]] += dy[i] for i in [0, n).
template <class Tap, class T>
LAMINA_INLINE void scatter(const T* dy, const Tap* taps, int64_t n, int64_t step, const int64_t* moves,
                           Compute<T>* dx) {
  for (int64_t i = 0; i < n; ++i) dx[i * step + moves[taps[i]]] += widen(dy[i]);
}

template <class T>
LAMINA_INLINE void convert(const Compute<T>* sums, int64_t n, T* dx) {
  for_vectors<VecOf<T>>(n, [&](int64_t i, auto lanes) { lanes.store(dx + i, lanes.load(sums + i)); });
}

// Lanes are the outputs of a row (planes) or a block of channels of a pixel. Sums of T narrower than S build
// up in scratch and are rounded once.
template <class Tap, class T>
void scatter_max(const Pool2dBackwardArgs& a) {
  using S = Compute<T>;
  constexpr bool is_direct = sizeof(S) == sizeof(T);
  constexpr int64_t block = 64;  // channels per chunk: whole cache lines of dx for every T
  const PoolAxis &h = a.h, &w = a.w;
  const int64_t C = a.is_channels_last ? a.dx.shape[1] : 1, blocks = PoolAxis::ceil_div(C, block);
  const int64_t images = a.is_channels_last ? a.dx.shape[0] : a.dx.shape[0] * a.dx.shape[1];
  const Tap* taps = a.taps.as<Tap>();
  const T* dy = a.dy.as<T>();
  const int64_t size = h.in * w.in;

  parallel_ranges(images * blocks, rows_per_chunk(size * smaller(C, block)), [&](int64_t begin, int64_t end) {
    const int64_t pixel = is_direct ? C : smaller(C, block);  // distance of neighbouring pixels of the sums
    int64_t* moves = scratch<int64_t>(Scratch::pack_a, h.kernel * w.kernel);
    for (int64_t r = 0; r < h.kernel; ++r)
      for (int64_t s = 0; s < w.kernel; ++s)
        moves[r * w.kernel + s] = (r * h.dilation * w.in + s * w.dilation) * pixel;

    for (int64_t item = begin; item < end; ++item) {
      const int64_t image = item / blocks, c = item % blocks * block, n = smaller(block, C - c);
      T* dx = a.dx.as<T>() + image * size * C + c;
      S* sums;
      if constexpr (is_direct)
        sums = dx;
      else
        sums = scratch<S>(Scratch::plane, size * pixel);

      int64_t cleared = 0;  // rows: each is zeroed just before the first window reaches it
      const auto clear_to = [&](int64_t row) {
        row = smaller(row, h.in);
        if (!is_direct || n == C) {
          for (int64_t i = cleared * w.in * pixel; i < row * w.in * pixel; ++i) sums[i] = S(0);
        } else {
          for (int64_t i = cleared * w.in; i < row * w.in; ++i)
            for (int64_t k = 0; k < n; ++k) sums[i * pixel + k] = S(0);
        }
        cleared = larger(cleared, row);
      };
      for (int64_t p = 0; p < h.out; ++p) {
        const int64_t origin = h.window(p).origin, out = (image * h.out + p) * w.out * C + c;
        clear_to(origin + h.reach());
        if (a.is_channels_last || w.is_adaptive) {
          for (int64_t q = 0; q < w.out; ++q)
            scatter(dy + out + q * C, taps + out + q * C, n, 1, moves,
                    sums + (origin * w.in + w.window(q).origin) * pixel);
        } else {
          scatter(dy + out, taps + out, w.out, w.stride, moves, sums + origin * w.in - w.pad);
        }
      }
      clear_to(h.in);
      if constexpr (!is_direct) {
        if (n == C)
          convert(sums, size * C, dx);
        else
          for (int64_t i = 0; i < size; ++i) convert(sums + i * pixel, n, dx + i * C);
      }
    }
  });
}

// Where one window is the plane, its tap is the position in the plane.
template <class Tap, class T>
void scatter_whole_planes(const Pool2dBackwardArgs& a) {
  const int64_t size = a.h.in * a.w.in;
  parallel_ranges(a.dx.shape[0] * a.dx.shape[1], rows_per_chunk(size), [&](int64_t begin, int64_t end) {
    T* dx = a.dx.as<T>();
    for (int64_t i = begin * size; i < end * size; ++i) dx[i] = T{};
    for (int64_t plane = begin; plane < end; ++plane)
      dx[plane * size + a.taps.as<Tap>()[plane]] = a.dy.as<T>()[plane];
  });
}

// --- backward of average, and of max over small windows ----------------------------------------------------

// The inverse of deal_by: dx[i * stride + k - pad] = class k, element i.
template <int Stride, class T>
void interleave_by(const Compute<T>* __restrict classes, int64_t pitch, const PoolAxis& w, T* __restrict dx) {
  const int64_t stride = Stride ? Stride : w.stride, end = w.pad + w.in;
  const int64_t head = smaller(PoolAxis::ceil_div(w.pad, stride) * stride, end);
  const int64_t tail = larger(head, end / stride * stride);
  const auto get = [&](int64_t u) { dx[u - w.pad] = narrow<T>(classes[u % stride * pitch + u / stride]); };
  for (int64_t u = w.pad; u < head; ++u) get(u);
  for (int64_t i = head / stride; i < tail / stride; ++i)
    for (int64_t k = 0; k < stride; ++k) dx[i * stride + k - w.pad] = narrow<T>(classes[k * pitch + i]);
  for (int64_t u = tail; u < end; ++u) get(u);
}

template <class T>
void interleave(const Compute<T>* classes, int64_t pitch, const PoolAxis& w, T* dx) {
  switch (w.stride) {
    case 1:
      return interleave_by<1>(classes, pitch, w, dx);
    case 2:
      return interleave_by<2>(classes, pitch, w, dx);
    case 3:
      return interleave_by<3>(classes, pitch, w, dx);
    case 4:
      return interleave_by<4>(classes, pitch, w, dx);
    default:
      return interleave_by<0>(classes, pitch, w, dx);
  }
}

template <class T>
void spread_planes(const Pool2dBackwardArgs& a) {
  using S = Compute<T>;
  using V = Vec<S>;
  // Rows of columns before they are read: a load that straddles two stores waits until both have left for the cache.
  constexpr int64_t group = 8;
  const PoolAxis h = a.h, w = a.w;
  const int64_t rows = a.dx.shape[0] * a.dx.shape[1] * h.in;
  parallel_ranges(rows, rows_per_chunk(w.in), [&](int64_t begin, int64_t end) {
    // column[q] = sum over p of dy[p,q] / count(p,q); zeros on both sides stand for windows that do not exist.
    const int64_t border = PoolAxis::ceil_div(w.kernel, w.stride);
    const int64_t lanes = PoolAxis::ceil_div(larger(w.out, (w.in + w.pad) / w.stride + 1), V::N) * V::N;
    const int64_t pitch = border + lanes;
    S* columns = scratch<S>(Scratch::row, group * pitch + (1 + w.stride) * lanes);
    S *counts = columns + group * pitch, *classes = counts + lanes;
    for (int64_t i = 0; i < group * pitch; ++i) columns[i] = S(0);
    for (int64_t q = 0; q < lanes; ++q)
      counts[q] = a.divisor || q >= w.out ? S(1) : S(w.count(q, a.count_include_pad));

    int64_t first = 0, last = 0;  // the windows that cover the present row
    for (int64_t top = begin; top < end; top += group) {
      const int64_t bottom = smaller(top + group, end);
      bool equals_above[group];
      for (int64_t row = top; row < bottom; ++row) {
        const int64_t plane = row / h.in, above_first = first, above_last = last;
        S* column = columns + (row - top) * pitch + border;
        h.covering(row % h.in, &first, &last);
        bool& is_copy = equals_above[row - top];
        is_copy = row > begin && row % h.in > 0 && first == above_first && last == above_last;
        if (is_copy) continue;
        for (int64_t q = 0; q < lanes; ++q) column[q] = S(0);
        for (int64_t p = first; p < last; ++p) {
          const T* dy = a.dy.as<T>() + (plane * h.out + p) * w.out;
          const V count = V::set1(S(a.divisor ? a.divisor : h.count(p, a.count_include_pad)));
          for_vectors<V>(w.out, [&](int64_t q, auto lanes) {
            const V share = lanes.load(dy + q) / (count * V::load(counts + q));
            (V::load(column + q) + share).store(column + q);
          });
        }
      }
      for (int64_t row = top; row < bottom; ++row) {
        const S* column = columns + (row - top) * pitch + border;
        T* dx = a.dx.as<T>() + row * w.in;
        if (equals_above[row - top]) {
          for (int64_t i = 0; i < w.in; ++i) dx[i] = dx[i - w.in];
        } else if (w.is_adaptive) {
          for (int64_t i = 0; i < w.in; ++i) classes[i] = S(0);
          for (int64_t q = 0; q < w.out; ++q) {
            const PoolWindow v = w.window(q);
            for (int64_t i = v.origin; i < v.origin + v.last; ++i) classes[i] += column[q];
          }
          convert(classes, w.in, dx);
        } else {
          // Element i of class k lies under the windows i - j for which tap k + j * stride exists.
          for (int64_t k = 0; k < w.stride; ++k)
            for (int64_t i = 0; i < lanes; i += V::N) {
              V sum = V::zero();
              for (int64_t j = 0; k + j * w.stride < w.kernel; ++j) sum = sum + V::load(column + i - j);
              sum.store(classes + k * lanes + i);
            }
          interleave(classes, lanes, w, dx);
        }
      }
    }
  });
}

template <class T>
void spread_whole_planes(const Pool2dBackwardArgs& a) {
  const int64_t size = a.h.in * a.w.in;
  const int64_t count =
      a.divisor ? a.divisor : a.h.count(0, a.count_include_pad) * a.w.count(0, a.count_include_pad);
  parallel_ranges(a.dx.shape[0] * a.dx.shape[1], rows_per_chunk(size), [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const T share = narrow<T>(widen(a.dy.as<T>()[plane]) / Compute<T>(count));
      T* dx = a.dx.as<T>() + plane * size;
      for (int64_t i = 0; i < size; ++i) dx[i] = share;
    }
  });
}

// The windows [first, last) of both axes that cover a pixel of dx.
struct Covering {
  int64_t first_p, last_p, first_q, last_q;
};

// One pixel of dx, U vectors of channels; n = lanes of the last vector. dy and taps point at those channels of
// window (0, 0). factors[p - first_p, q] is 1 / count, or, of the maximum, the tap of window (p, q) that lies in
// column 0 of this row.
template <Kind kind, int U, class T>
LAMINA_INLINE void spread_pixel(const T* dy, const uint8_t* taps, const Covering& v,
                                const Compute<T>* factors, Compute<T> column, int64_t Q, int64_t C, int64_t n,
                                T* dx) {
  using V = VecOf<T>;
  V sums[U] = {};
  for (int64_t p = v.first_p; p < v.last_p; ++p)
    for (int64_t q = v.first_q; q < v.last_q; ++q) {
      const V factor = V::set1(factors[(p - v.first_p) * Q + q] + column);
      const int64_t at = (p * Q + q) * C;
      for (int u = 0; u < U; ++u) {
        const V g = load_lanes<V>(dy + at + u * V::N, U > 1 ? V::N : n);
        if constexpr (kind == Kind::max)
          sums[u] =
              select(eq(load_lanes<V>(taps + at + u * V::N, U > 1 ? V::N : n), factor), sums[u] + g, sums[u]);
        else
          sums[u] = fma(g, factor, sums[u]);
      }
    }
  for (int u = 0; u < U; ++u) store_lanes(sums[u], dx + u * V::N, U > 1 ? V::N : n);
}

template <Kind kind, class T>
void spread_pixels(const Pool2dBackwardArgs& a) {
  using S = Compute<T>;
  constexpr bool is_max = kind == Kind::max;
  constexpr int N = VecOf<T>::N, U = 4;
  const PoolAxis h = a.h, w = a.w;
  const int64_t C = a.dx.shape[1], rows = a.dx.shape[0] * h.in;
  parallel_ranges(rows, rows_per_chunk(w.in * C), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t y = row % h.in, image = row / h.in * h.out * w.out * C;
      const T* dy = a.dy.as<T>() + image;
      const uint8_t* taps = is_max ? a.taps.as<uint8_t>() + image : nullptr;
      Covering v;
      h.covering(y, &v.first_p, &v.last_p);
      S* factors = scratch<S>(Scratch::row, (v.last_p - v.first_p) * w.out);
      for (int64_t p = v.first_p; p < v.last_p; ++p)
        for (int64_t q = 0; q < w.out; ++q) {
          S& factor = factors[(p - v.first_p) * w.out + q];
          if constexpr (is_max)
            factor = S((y - h.window(p).origin) * w.kernel - w.window(q).origin);
          else
            factor = S(1) / S(a.divisor ? a.divisor
                                        : h.count(p, a.count_include_pad) * w.count(q, a.count_include_pad));
        }
      for (int64_t i = 0; i < w.in; ++i) {
        w.covering(i, &v.first_q, &v.last_q);
        T* dx = a.dx.as<T>() + (row * w.in + i) * C;
        const S column = is_max ? S(i) : S(0);
        int64_t c = 0;
        for (; c + U * N <= C; c += U * N)
          spread_pixel<kind, U>(dy + c, taps + c, v, factors, column, w.out, C, N, dx + c);
        for (; c < C; c += N)
          spread_pixel<kind, 1>(dy + c, taps + c, v, factors, column, w.out, C, smaller(N, C - c), dx + c);
      }
    }
  });
}

// --- indices -----------------------------------------------------------------------------------------------

template <class Tap>
void indices_from(const Pool2dIndicesArgs& a) {
  const PoolAxis &h = a.h, &w = a.w;
  const int64_t C = a.is_channels_last ? a.taps.shape[1] : 1;
  const int64_t rows = a.taps.size() / (w.out * C);
  parallel_ranges(rows, rows_per_chunk(w.out * C), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t q = 0; q < w.out; ++q) {
        const int64_t top = h.window(row % h.out).origin, left = w.window(q).origin;
        for (int64_t i = (row * w.out + q) * C; i < (row * w.out + q + 1) * C; ++i) {
          const int64_t tap = a.taps.as<Tap>()[i];
          a.indices.as<int64_t>()[i] =
              (top + tap / w.kernel * h.dilation) * w.in + left + tap % w.kernel * w.dilation;
        }
      }
  });
}

// --- entries -----------------------------------------------------------------------------------------------

bool is_whole(const PoolAxis& axis) {
  return axis.out == 1 && axis.pad == 0 && axis.kernel == axis.in && axis.dilation == 1;
}

template <Kind kind>
void pool(const Pool2dArgs& a) {
  if (a.y.size() == 0) return;
  dispatch_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    if (a.is_channels_last) return pool_pixels<kind, T>(a);
    if constexpr (kind == Kind::max_with_tap)
      return pool_planes_with_taps<T>(a);
    else if (kind == Kind::average && is_whole(a.h) && is_whole(a.w))
      return average_whole_planes<T>(a);
    else
      return pool_planes<kind, T>(a);
  });
}

void max_forward(const Pool2dArgs& a) { a.taps ? pool<Kind::max_with_tap>(a) : pool<Kind::max>(a); }

// True where comparing the taps of a vector of outputs is faster than scattering them one by one: the former takes
// some five instructions per tap of the window and vector, the latter some ten per output.
bool has_small_windows(const PoolAxis& h, const PoolAxis& w) {
  return h.kernel * w.kernel <= 16 && h.dilation == 1 && w.dilation == 1;
}

void max_backward(const Pool2dBackwardArgs& a) {
  if (a.dx.size() == 0) return;
  dispatch_float(a.dx.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    if (a.is_channels_last && has_small_windows(a.h, a.w)) return spread_pixels<Kind::max, T>(a);
    const bool is_plane = !a.is_channels_last && is_whole(a.h) && is_whole(a.w);
    if (a.taps.dtype == Dtype::uint8)
      is_plane ? scatter_whole_planes<uint8_t, T>(a) : scatter_max<uint8_t, T>(a);
    else
      is_plane ? scatter_whole_planes<int32_t, T>(a) : scatter_max<int32_t, T>(a);
  });
}

void average_backward(const Pool2dBackwardArgs& a) {
  if (a.dx.size() == 0) return;
  dispatch_float(a.dx.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    if (a.is_channels_last)
      spread_pixels<Kind::average, T>(a);
    else if (is_whole(a.h) && is_whole(a.w))
      spread_whole_planes<T>(a);
    else
      spread_planes<T>(a);
  });
}

void max_indices(const Pool2dIndicesArgs& a) {
  if (a.indices.size() == 0) return;
  a.taps.dtype == Dtype::uint8 ? indices_from<uint8_t>(a) : indices_from<int32_t>(a);
}

}  // namespace

const Pool2dKernels pool2d_kernels = {max_forward, pool<Kind::average>, max_backward, average_backward,
                                      max_indices};

}  // namespace lamina::LAMINA_ISA
