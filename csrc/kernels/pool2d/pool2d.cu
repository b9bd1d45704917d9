// Pooling on a device; kernels/pool2d/pool2d.h has the mathematics.
//
// Planes are pixels of one channel: N images of (H, W, C) lanes, or N * C images of (H, W, 1). So there is one kernel
// for both orders of memory, and neighbouring threads have neighbouring addresses in both.
//
//   pool        a thread per output and 16 bytes of channels (planes: one output), which reads the taps of its window:
//               reads of windows that overlap meet in L1.
//   pool_large  windows of many taps leave too few threads, so a row of threads along y shares the taps of an output
//               and joins its results as a tree.
//   spread      backward, a thread per dx: it gathers dy over the windows that cover it, which needs neither atomics
//               nor zeroed memory, and adds them in row-major order. A tap per dy says whether the maximum was here.
//
// Traffic: each element once from memory, R * S times from L1. 768 threads of an SM with two loads of 16 bytes each in
//   flight wait for 24 KB; 4.3 TB/s at a latency of 600 ns takes 20 KB on each of 132 SMs.
#include <algorithm>

#include "base/check.h"
#include "base/launch.h"
#include "kernels/pool2d/pool2d.h"
#include "prim/prim.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

constexpr int block_threads = 256;  // three blocks fit an SM: up to 80 registers a thread

enum class Kind { max, max_with_taps, average };

// V outputs in the making: neighbouring channels.
template <Kind kind, class S, int V>
struct Pooled {
  prim::Pack<S, V> value;
  prim::Pack<int32_t, V> tap;

  static LAMINA_PRIM Pooled start(int32_t first_tap) {
    Pooled p;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      p.value[v] = kind == Kind::average ? S(0) : prim::lowest<S>();
      p.tap[v] = first_tap;
    }
    return p;
  }

  // Taps come in row-major order: an equal value does not replace the first; a NaN replaces anything.
  LAMINA_PRIM void take(const prim::Pack<S, V>& x, int32_t x_tap) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if constexpr (kind == Kind::average) {
        value[v] += x[v];
      } else if constexpr (kind == Kind::max) {
        value[v] = prim::max(value[v], x[v]);
      } else {
        const bool wins = x[v] > value[v] || prim::is_nan(x[v]);
        value[v] = wins ? x[v] : value[v];
        tap[v] = wins ? x_tap : tap[v];
      }
    }
  }

  // The same for results whose taps lie on either side of each other.
  LAMINA_PRIM void join(const Pooled& other) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const S x = other.value[v], mine = value[v];
      if constexpr (kind == Kind::average) {
        value[v] += x;
      } else {
        const bool wins = prim::is_nan(x) ? !prim::is_nan(mine) || other.tap[v] > tap[v]
                                          : x > mine || (x == mine && other.tap[v] < tap[v]);
        value[v] = wins ? x : mine;
        tap[v] = wins ? other.tap[v] : tap[v];
      }
    }
  }
};

template <int V>
LAMINA_PRIM void store_taps(const View& taps, int64_t at, const prim::Pack<int32_t, V>& tap) {
  if (taps.dtype == Dtype::uint8) {
    prim::Pack<uint8_t, V> bytes;
#pragma unroll
    for (int v = 0; v < V; ++v) bytes[v] = uint8_t(tap[v]);
    prim::store_vector(taps.as<uint8_t>() + at, bytes);
  } else {
    prim::store_vector(taps.as<int32_t>() + at, tap);
  }
}

template <int V>
LAMINA_PRIM prim::Pack<int32_t, V> load_taps(const View& taps, int64_t at) {
  if (taps.dtype != Dtype::uint8) return prim::load_vector<V>(taps.as<const int32_t>() + at);
  const auto bytes = prim::load_vector<V>(taps.as<const uint8_t>() + at);
  prim::Pack<int32_t, V> tap;
#pragma unroll
  for (int v = 0; v < V; ++v) tap[v] = bytes[v];
  return tap;
}

using Axis = PoolAxisOf<int32_t>;
using Window = PoolWindowOf<int32_t>;

// The windows, and the divisors of averages.
struct Windows {
  Axis h, w;
  bool count_include_pad = false;
  int64_t divisor = 0;

  static Axis axis(const PoolAxis& a) {
    constexpr int64_t most = 1 << 30;
    check(a.in < most && a.out < most && a.reach() < most, "pool2d", "an axis has ", a.in, " elements and ",
          a.out, " windows that span ", a.reach(), "; expected less than ", most, " on this device");
    return {int(a.in), int(a.out), int(a.kernel), int(a.stride), int(a.pad), int(a.dilation), a.is_adaptive};
  }

  template <class S>
  LAMINA_PRIM S count(int p, int q) const {
    return divisor ? S(divisor) : S(h.count(p, count_include_pad)) * S(w.count(q, count_include_pad));
  }
};

template <class Args>
Windows windows_of(const Args& a) {
  return {Windows::axis(a.h), Windows::axis(a.w), a.count_include_pad, a.divisor};
}

template <Kind kind, class T, int V>
LAMINA_PRIM void store(const Pool2dArgs& a, const Windows& windows, int p, int q, int64_t at,
                       Pooled<kind, Compute<T>, V> pooled) {
  if constexpr (kind == Kind::average) {
    const auto count = windows.count<Compute<T>>(p, q);
#pragma unroll
    for (int v = 0; v < V; ++v) pooled.value[v] /= count;
  }
  prim::store_vector(a.y.as<T>() + at, prim::narrow<T>(pooled.value));
  if constexpr (kind == Kind::max_with_taps) store_taps(a.taps, at, pooled.tap);
}

// --- a thread per element ------------------------------------------------------------------------------------

// A tensor as rows (image, line) of columns (pixel, pack of channels).
struct Grid {
  int64_t images, rows, columns;
  int lines, pixels, packs;

  Grid(const View& t, bool is_channels_last, int pack)
      : images(is_channels_last ? t.shape[0] : t.shape[0] * t.shape[1]),
        rows(images * t.shape[2]),
        columns(is_channels_last ? t.shape[3] * (t.shape[1] / pack) : t.shape[3]),
        lines(int(t.shape[2])),
        pixels(int(t.shape[3])),
        packs(int(columns / t.shape[3])) {}

  Launch launch() const {
    const int64_t width = std::min<int64_t>(columns, block_threads), height = block_threads / width;
    return {.grid = {std::min<int64_t>(ceil_div(rows, height), INT32_MAX),
                     std::min<int64_t>(ceil_div(columns, width), grid_limit)},
            .block = {width, height}};
  }

  // Calls f(image, line, pixel, pack) for the elements of this thread.
  template <class F>
  LAMINA_PRIM void for_each(F f) const {
    for (int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y; row < rows;
         row += int64_t(gridDim.x) * blockDim.y) {
      const int64_t image = row / lines;
      const int line = int(row - image * lines);
      for (int64_t column = int64_t(blockIdx.y) * blockDim.x + threadIdx.x; column < columns;
           column += int64_t(gridDim.y) * blockDim.x) {
        const int pixel = int(packs == 1 ? column : column / packs);
        f(image, line, pixel, int(column - int64_t(pixel) * packs));
      }
    }
  }
};

template <Kind kind, class T, int V>
__global__ void __launch_bounds__(block_threads, 3) pool_kernel(Pool2dArgs a, Windows windows, Grid y) {
  using Sum = Pooled<kind, Compute<T>, V>;
  const Axis &h = windows.h, &w = windows.w;
  const int64_t C = int64_t(y.packs) * V;
  y.for_each([&](int64_t image, int p, int q, int pack) {
    const Window vh = h.window(p), vw = w.window(q);
    const T* corner = a.x.as<const T>() + ((image * h.in + vh.origin) * w.in + vw.origin) * C + pack * V;
    Sum sum = Sum::start(vh.first * w.kernel + vw.first);
    for (int r = vh.first; r < vh.last; ++r) {
      const T* line = corner + int64_t(r * h.dilation) * w.in * C;
      Sum row = kind == Kind::average ? Sum::start(0) : sum;  // sums of rows keep the rounding error short
#pragma unroll 2                                              // two loads in flight, see above
      for (int s = vw.first; s < vw.last; ++s)
        row.take(prim::widen(prim::load_vector<V>(line + s * w.dilation * C)), r * w.kernel + s);
      if constexpr (kind == Kind::average)
        sum.take(row.value, 0);
      else
        sum = row;
    }
    store<kind, T>(a, windows, p, q, ((image * h.out + p) * w.out + q) * C + pack * V, sum);
  });
}

template <Kind kind, class T, int V>
__global__ void __launch_bounds__(block_threads, 3)
    spread_kernel(Pool2dBackwardArgs a, Windows windows, Grid dx) {
  using S = Compute<T>;
  const Axis &h = windows.h, &w = windows.w;
  const int64_t C = int64_t(dx.packs) * V;
  dx.for_each([&](int64_t image, int i, int j, int pack) {
    int first_p, last_p, first_q, last_q;
    h.covering(i, &first_p, &last_p);
    w.covering(j, &first_q, &last_q);
    prim::Pack<S, V> sum = {};
    for (int p = first_p; p < last_p; ++p) {
      const int down = i - h.window(p).origin, r = down / h.dilation;
      if (r * h.dilation != down) continue;
      for (int q = first_q; q < last_q; ++q) {
        const int right = j - w.window(q).origin, s = right / w.dilation;
        if (s * w.dilation != right) continue;
        const int64_t at = ((image * h.out + p) * w.out + q) * C + pack * V;
        const auto dy = prim::widen(prim::load_vector<V>(a.dy.as<const T>() + at));
        if constexpr (kind == Kind::max) {
          const auto tap = load_taps<V>(a.taps, at);
#pragma unroll
          for (int v = 0; v < V; ++v) sum[v] += tap[v] == r * w.kernel + s ? dy[v] : S(0);
        } else {
          const S share = S(1) / windows.count<S>(p, q);
#pragma unroll
          for (int v = 0; v < V; ++v) sum[v] += dy[v] * share;
        }
      }
    }
    prim::store_vector(a.dx.as<T>() + ((image * h.in + i) * w.in + j) * C + pack * V, prim::narrow<T>(sum));
  });
}

__global__ void __launch_bounds__(block_threads, 3)
    indices_kernel(Pool2dIndicesArgs a, Windows windows, Grid taps) {
  const Axis &h = windows.h, &w = windows.w;
  taps.for_each([&](int64_t image, int p, int q, int c) {
    const int64_t at = ((image * h.out + p) * w.out + q) * taps.packs + c;
    const int tap = load_taps<1>(a.taps, at)[0], r = tap / w.kernel, s = tap - r * w.kernel;
    const int row = h.window(p).origin + r * h.dilation, column = w.window(q).origin + s * w.dilation;
    a.indices.as<int64_t>()[at] = int64_t(row) * w.in + column;
  });
}

// --- a row of threads per output -----------------------------------------------------------------------------

template <Kind kind, class S, int V>
struct LargeShared {
  Pooled<kind, S, V> results[block_threads];
};

// Threads: x packs of channels, y taps, z outputs.
template <Kind kind, class T, int V>
__global__ void __launch_bounds__(block_threads, 3) pool_large_kernel(Pool2dArgs a, Windows windows, Grid y) {
  using Sum = Pooled<kind, Compute<T>, V>;
  auto& s = prim::shared_memory<LargeShared<kind, Compute<T>, V>>();
  const Axis &h = windows.h, &w = windows.w;
  const int64_t C = int64_t(y.packs) * V;
  const int pack = int(blockIdx.y * blockDim.x + threadIdx.x);
  const int64_t output = int64_t(blockIdx.x) * blockDim.z + threadIdx.z, row = output / w.out;
  const bool is_inside = pack < y.packs && row < y.rows;
  const int64_t image = row / h.out;
  const int q = int(output - row * w.out), p = int(row - image * h.out);

  Sum sum = Sum::start(INT32_MAX);
  if (is_inside) {
    const Window vh = h.window(p), vw = w.window(q);
    const T* corner = a.x.as<const T>() + ((image * h.in + vh.origin) * w.in + vw.origin) * C + pack * V;
    const int width = vw.last - vw.first, taps = (vh.last - vh.first) * width;
    for (int i = int(threadIdx.y); i < taps; i += int(blockDim.y)) {
      const int r = vh.first + i / width, t = vw.first + i % width;
      Sum one = Sum::start(r * w.kernel + t);
      one.value =
          prim::widen(prim::load_vector<V>(corner + (int64_t(r * h.dilation) * w.in + t * w.dilation) * C));
      sum.join(one);
    }
  }
  Sum* mine = &s.results[prim::thread()];
  *mine = sum;
  for (int half = int(blockDim.y) / 2; half > 0; half /= 2) {
    prim::block_sync();  // results of the step before
    if (int(threadIdx.y) < half) mine->join(mine[half * int(blockDim.x)]);
  }
  if (is_inside && threadIdx.y == 0) store<kind, T>(a, windows, p, q, output * C + pack * V, *mine);
}

int64_t power_of_two(int64_t at_least) {
  int64_t n = 1;
  while (n < at_least) n *= 2;
  return n;
}

// A thread has four taps at least: fewer would cost more to join than to read.
template <class Shared>
Launch large_launch(const Grid& y, int64_t taps) {
  const int64_t x = power_of_two(std::min<int64_t>(y.packs, 32));
  const int64_t rows = std::min(block_threads / x, power_of_two(ceil_div(taps, 4)));
  const int64_t outputs = block_threads / (x * rows);
  return {.grid = {ceil_div(y.images * y.lines * y.pixels, outputs), ceil_div(y.packs, x)},
          .block = {x, rows, outputs},
          .shared = sizeof(Shared)};
}

// --- entries -------------------------------------------------------------------------------------------------

// Calls f(T, V): with V channels in 16 bytes where all operands allow it.
template <class F>
void dispatch(const View& t, bool is_channels_last, std::initializer_list<View> operands, F f) {
  dispatch_device_float(t.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    constexpr int V = prim::vector_of<T>;
    bool is_aligned = is_channels_last && t.shape[1] % V == 0;
    for (const View& v : operands) is_aligned &= prim::is_aligned(v.as<const char>());
    if (is_aligned)
      f(type, std::integral_constant<int, V>{});
    else
      f(type, std::integral_constant<int, 1>{});
  });
}

template <Kind kind>
void pool(const Pool2dArgs& a) {
  if (a.y.size() == 0) return;
  dispatch(a.x, a.is_channels_last, {a.x, a.y, a.taps}, [&](auto type, auto pack) {
    using T = typename decltype(type)::type;
    constexpr int V = decltype(pack)::value;
    const Grid y(a.y, a.is_channels_last, V);
    const int64_t taps = a.h.kernel * a.w.kernel;
    if (taps < 32) return launch("pool2d", pool_kernel<kind, T, V>, y.launch(), a, windows_of(a), y);
    using Shared = LargeShared<kind, Compute<T>, V>;
    launch("pool2d_large", pool_large_kernel<kind, T, V>, large_launch<Shared>(y, taps), a, windows_of(a), y);
  });
}

void max_forward(const Pool2dArgs& a) { a.taps ? pool<Kind::max_with_taps>(a) : pool<Kind::max>(a); }

template <Kind kind>
void spread(const Pool2dBackwardArgs& a) {
  if (a.dx.size() == 0) return;
  dispatch(a.dx, a.is_channels_last, {a.dx, a.dy, a.taps}, [&](auto type, auto pack) {
    using T = typename decltype(type)::type;
    constexpr int V = decltype(pack)::value;
    const Grid dx(a.dx, a.is_channels_last, V);
    launch("pool2d_backward", spread_kernel<kind, T, V>, dx.launch(), a, windows_of(a), dx);
  });
}

void max_indices(const Pool2dIndicesArgs& a) {
  if (a.indices.size() == 0) return;
  const Grid taps(a.taps, a.is_channels_last, 1);
  launch("pool2d_indices", indices_kernel, taps.launch(), a, Windows{Windows::axis(a.h), Windows::axis(a.w)},
         taps);
}

}  // namespace

const Pool2dKernels pool2d_kernels = {max_forward, pool<Kind::average>, spread<Kind::max>,
                                      spread<Kind::average>, max_indices};

}  // namespace lamina::LAMINA_DEVICE
