// Depthwise convolution: one filter per channel, so vectors run over channels and taps are added up in registers.
#pragma once

#include "base/parallel.h"
#include "kernels/conv2d/geometry.h"

namespace lamina::LAMINA_ISA {

// result[n, i, j, c] = bias[c] + sum over taps of source[pixel under the tap][c] * weights[tap][c].
template <class T>
struct DepthwiseSum {
  using S = Compute<T>;
  TapAxis h, w;
  int64_t images, channels;
  const T* source;  // strides in elements
  int64_t source_image, source_row, source_pixel;
  T* result;
  int64_t result_image, result_row, result_pixel;
  const S* weights;       // [R * S][channels]
  int64_t filter_width;
  const S* bias;
};

// `Pixels` neighbours j, j + 1 … of one row, all of which read inside the source under every tap of [l0, l1).
template <int Pixels, class T>
[[gnu::noinline]] void depthwise_pixels(const DepthwiseSum<T>& p, const T* image, T* result_row, int64_t i, int64_t j,
                                        int64_t k0, int64_t k1, int64_t l0, int64_t l1) {
  using V = VecOf<T>;
  constexpr int NV = 2;  // 4 pixels x 2 vectors: 8 sums in flight for two FMA units of latency 4
  const int64_t neighbour = p.w.step * p.source_pixel, result_pixel = p.w.pitch * p.result_pixel;
  const T* const corner = image + (i * p.h.step + p.h.offset) * p.source_row + (j * p.w.step + p.w.offset) * p.source_pixel;
  T* const out = result_row + j * result_pixel;
  const auto channels = [&](int64_t c, auto vectors, auto load, auto store) {
    constexpr int n = decltype(vectors)::value;
    V acc[Pixels][n];
#pragma GCC unroll 4
    for (int v = 0; v < n; ++v) {
      const V bias = load(p.bias + c + v * V::N);
#pragma GCC unroll 4
      for (int t = 0; t < Pixels; ++t) acc[t][v] = bias;
    }
    for (int64_t k = k0; k < k1; ++k) {
      const T* x = corner + k * p.h.offset_step * p.source_row + l0 * p.w.offset_step * p.source_pixel + c;
      const auto* w = p.weights + ((p.h.tap + k * p.h.tap_step) * p.filter_width + p.w.tap + l0 * p.w.tap_step) * p.channels + c;
      for (int64_t l = l0; l < l1; ++l, x += p.w.offset_step * p.source_pixel, w += p.w.tap_step * p.channels) {
#pragma GCC unroll 4
        for (int v = 0; v < n; ++v) {
          const V weight = load(w + v * V::N);
#pragma GCC unroll 4
          for (int t = 0; t < Pixels; ++t) acc[t][v] = fma(load(x + t * neighbour + v * V::N), weight, acc[t][v]);
        }
      }
    }
#pragma GCC unroll 4
    for (int t = 0; t < Pixels; ++t)
#pragma GCC unroll 4
      for (int v = 0; v < n; ++v) store(acc[t][v], out + t * result_pixel + c + v * V::N);
  };
  const auto whole_load = [](const auto* from) { return V::load(from); };
  const auto whole_store = [](V v, T* to) { v.store(to); };
  int64_t c = 0;
  for (; c + NV * V::N <= p.channels; c += NV * V::N) channels(c, Count<NV>{}, whole_load, whole_store);
  for (; c < p.channels; c += V::N) {
    const int n = int(smaller(V::N, p.channels - c));
    channels(c, Count<1>{}, [n](const auto* from) { return V::load(from, n); },
             [n](V v, T* to) { v.store(to, n); });
  }
}

template <class T>
void depthwise_sum(const DepthwiseSum<T>& p) {
  const TapAxis &h = p.h, &w = p.w;
  const int64_t row_flops = w.count * p.channels * larger(1, h.taps * w.taps) * 2;
  parallel_ranges(p.images * h.count, larger(1, 100000 / larger(1, row_flops)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / h.count, i = row % h.count;
      const T* const image = p.source + n * p.source_image;
      T* const result = p.result + n * p.result_image + (h.start + i * h.pitch) * p.result_row + w.start * p.result_pixel;
      int64_t k0, k1;
      h.valid_taps(i, &k0, &k1);
      for (int64_t j = 0; j < w.count;) {
        int64_t l0, l1, m0, m1;
        w.valid_taps(j, &l0, &l1);
        w.valid_taps(j + 3, &m0, &m1);
        if (j + 4 <= w.count && l1 - l0 == w.taps && m1 - m0 == w.taps) {
          depthwise_pixels<4>(p, image, result, i, j, k0, k1, l0, l1);
          j += 4;
        } else {
          depthwise_pixels<1>(p, image, result, i, j, k0, k1, l0, l1);
          j += 1;
        }
      }
    }
  });
}

// Partial sums over output rows [begin, end) of all images: sum[tap][c] = sum of dy * x under the tap.
template <class T>
void depthwise_gradient(const Conv2dArgs& a, const TapAxis& h, const TapAxis& w, int64_t begin, int64_t end,
                        Compute<T>* sum) {
  using V = VecOf<T>;
  constexpr int NV = 4;
  const int64_t C = a.x.shape[1], W = a.x.shape[3], H = a.x.shape[2];
  __builtin_memset(sum, 0, size_t(h.taps * w.taps * C) * sizeof(Compute<T>));
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / h.count, i = row % h.count;
    const T* const dy = a.y.as<const T>() + row * w.count * C;
    int64_t k0, k1;
    h.valid_taps(i, &k0, &k1);
    for (int64_t k = k0; k < k1; ++k) {
      const T* const x = a.x.as<const T>() + (n * H + i * h.step + h.offset + k * h.offset_step) * W * C;
      for (int64_t l = 0; l < w.taps; ++l) {
        const int64_t shift = w.offset + l * w.offset_step;
        int64_t j0, j1;
        w.inside(shift, &j0, &j1);
        if (j0 == j1) continue;
        Compute<T>* const to = sum + (k * w.taps + l) * C;
        const auto channels = [&](int64_t c, auto vectors, auto load, auto store) {
          constexpr int NV = decltype(vectors)::value;
          V acc[NV];
          for (int v = 0; v < NV; ++v) acc[v] = V::zero();
          const T* g = dy + j0 * C + c;
          const T* s = x + (j0 * w.step + shift) * C + c;
          for (int64_t j = j0; j < j1; ++j, g += C, s += w.step * C)
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) acc[v] = fma(load(g + v * V::N), load(s + v * V::N), acc[v]);
          for (int v = 0; v < NV; ++v) store(load(to + c + v * V::N) + acc[v], to + c + v * V::N);
        };
        int64_t c = 0;
        for (; c + NV * V::N <= C; c += NV * V::N)
          channels(c, Count<NV>{}, [](const auto* from) { return V::load(from); },
                   [](V v, Compute<T>* to) { v.store(to); });
        for (; c < C; c += V::N) {
          const int n = int(smaller(V::N, C - c));
          channels(c, Count<1>{}, [n](const auto* from) { return V::load(from, n); },
                   [n](V v, Compute<T>* to) { v.store(to, n); });
        }
      }
    }
  }
}

}  // namespace lamina::LAMINA_ISA
