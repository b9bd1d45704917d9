// Depthwise convolution: one filter per channel, so vectors run over channels and taps are added up in registers.
#pragma once

#include "base/parallel.h"
#include "kernels/conv2d/geometry.h"
#include "simd/vec.h"

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
  const S* weights;  // [R * S][channels]
  int64_t filter_width;
  const S* bias;
};

// `Pixels` neighbours j, j + 1 … of one row, all of which read inside the source under every tap of [l0, l1). Sliding:
// three neighbouring taps, under which n neighbouring pixels read n + 2 pixels of the source, each loaded once.
template <int Pixels, bool Sliding, class T>
[[gnu::noinline]] void depthwise_pixels(const DepthwiseSum<T>& p, const T* image, T* result_row, int64_t i,
                                        int64_t j, int64_t k0, int64_t k1, int64_t l0, int64_t l1) {
  using S = Compute<T>;
  using V = Vec<S>;
  // 4 pixels x 2 vectors: 8 sums in flight for two FMA units of latency 4. Sliding needs the registers for pixels.
  constexpr int NV = Sliding ? 1 : 2;
  const TapAxis &h = p.h, &w = p.w;
  const int64_t result_pixel = w.pitch * p.result_pixel, neighbour = w.step * p.source_pixel;
  const int64_t column = Sliding ? smaller(0, 2 * w.offset_step) : l0 * w.offset_step;
  const T* const corner = image + (i * h.step + h.offset + k0 * h.offset_step) * p.source_row +
                          (j * w.step + w.offset + column) * p.source_pixel;
  T* const out = result_row + j * result_pixel;
  // Locals, because vector stores may alias whatever p points to.
  const int64_t C = p.channels, rows = k1 - k0, columns = l1 - l0;
  const int64_t x_row = h.offset_step * p.source_row, x_column = w.offset_step * p.source_pixel;
  const int64_t weight_row = h.tap_step * p.filter_width * C, weight_column = w.tap_step * C;
  const int64_t from_weight = Sliding && w.offset_step < 0 ? 2 * weight_column : l0 * weight_column;
  const int64_t sliding_step = w.offset_step < 0 ? -weight_column : weight_column;
  const S* const weights = p.weights + ((h.tap + k0 * h.tap_step) * p.filter_width + w.tap) * C + from_weight;
  const S* const biases = p.bias;
  const auto channels = [&](int64_t c, auto vectors, auto load, auto store) {
    constexpr int n = decltype(vectors)::value;
    V acc[Pixels][n];
#pragma GCC unroll 4
    for (int v = 0; v < n; ++v) {
      const V bias = load(biases + c + v * V::N);
#pragma GCC unroll 4
      for (int t = 0; t < Pixels; ++t) acc[t][v] = bias;
    }
    const T* x_at = corner + c;
    const S* weight_at = weights + c;
    for (int64_t k = 0; k < rows; ++k, x_at += x_row, weight_at += weight_row) {
      const T* x = x_at;
      const S* weight = weight_at;
      if constexpr (Sliding) {
        V pixel[Pixels + 2];
#pragma GCC unroll 8
        for (int t = 0; t < Pixels + 2; ++t, x += neighbour) pixel[t] = load(x);
#pragma GCC unroll 4
        for (int u = 0; u < 3; ++u, weight += sliding_step) {
          const V tap = load(weight);
#pragma GCC unroll 4
          for (int t = 0; t < Pixels; ++t) acc[t][0] = fma(pixel[t + u], tap, acc[t][0]);
        }
      } else {
        for (int64_t l = 0; l < columns; ++l, x += x_column, weight += weight_column) {
#pragma GCC unroll 4
          for (int v = 0; v < n; ++v) {
            const V tap = load(weight + v * V::N);
#pragma GCC unroll 4
            for (int t = 0; t < Pixels; ++t)
              acc[t][v] = fma(load(x + t * neighbour + v * V::N), tap, acc[t][v]);
          }
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
  for (; c + NV * V::N <= C; c += NV * V::N) channels(c, Count<NV>{}, whole_load, whole_store);
  for (; c < C; c += V::N) {
    const int n = int(smaller(V::N, C - c));
    channels(
        c, Count<1>{}, [n](const auto* from) { return V::load(from, n); },
        [n](V v, T* to) { v.store(to, n); });
  }
}

template <class T>
void depthwise_sum(const DepthwiseSum<T>& p) {
  const TapAxis &h = p.h, &w = p.w;
  const int64_t row_flops = w.count * p.channels * larger(1, h.taps * w.taps) * 2;
  const bool sliding =
      w.taps == 3 && w.step == 1 && w.tap_step == 1 && (w.offset_step == 1 || w.offset_step == -1);
  // Positions [j0, j1) read inside the source under every tap.
  int64_t j0 = 0, j1 = w.count;
  for (int64_t l = 0; l < w.taps; ++l) {
    int64_t first, last;
    w.inside(w.offset + l * w.offset_step, &first, &last);
    j0 = larger(j0, first), j1 = smaller(j1, last);
  }
  parallel_ranges(p.images * h.count, larger(1, 100000 / larger(1, row_flops)),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t row = begin; row < end; ++row) {
                      const int64_t n = row / h.count, i = row % h.count;
                      const T* const image = p.source + n * p.source_image;
                      T* const result = p.result + n * p.result_image +
                                        (h.start + i * h.pitch) * p.result_row + w.start * p.result_pixel;
                      int64_t k0, k1;
                      h.valid_taps(i, &k0, &k1);
                      for (int64_t j = 0; j < w.count;) {
                        if (j >= j0 && j + 4 <= j1) {
                          if (sliding)
                            depthwise_pixels<4, true>(p, image, result, i, j, k0, k1, 0, w.taps);
                          else
                            depthwise_pixels<4, false>(p, image, result, i, j, k0, k1, 0, w.taps);
                          j += 4;
                        } else {
                          int64_t l0, l1;
                          w.valid_taps(j, &l0, &l1);
                          depthwise_pixels<1, false>(p, image, result, i, j, k0, k1, l0, l1);
                          j += 1;
                        }
                      }
                    }
                  });
}

// Partial sums over output rows [begin, end) of all images: sum[tap][c] = sum of dy * x under the tap, and where
// `bias_sum`, bias_sum[c] = sum of dy.
template <class T>
void depthwise_gradient(const Conv2dArgs& a, const TapAxis& h, const TapAxis& w, int64_t begin, int64_t end,
                        Compute<T>* sum, Compute<T>* bias_sum) {
  using V = VecOf<T>;
  constexpr int NV = 4;
  const int64_t C = a.x.shape[1], W = a.x.shape[3], H = a.x.shape[2];
  __builtin_memset(sum, 0, size_t(h.taps * w.taps * C) * sizeof(Compute<T>));
  if (bias_sum) __builtin_memset(bias_sum, 0, size_t(C) * sizeof(Compute<T>));
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
          channels(
              c, Count<NV>{}, [](const auto* from) { return V::load(from); },
              [](V v, Compute<T>* to) { v.store(to); });
        for (; c < C; c += V::N) {
          const int n = int(smaller(V::N, C - c));
          channels(
              c, Count<1>{}, [n](const auto* from) { return V::load(from, n); },
              [n](V v, Compute<T>* to) { v.store(to, n); });
        }
      }
    }
    for (int64_t c = 0; bias_sum && c < C; c += V::N) {
      const int n = int(smaller(V::N, C - c));
      V acc = V::zero();
      for (int64_t j = 0; j < w.count; ++j) acc = acc + V::load(dy + j * C + c, n);
      (V::load(bias_sum + c, n) + acc).store(bias_sum + c, n);
    }
  }
}

}  // namespace lamina::LAMINA_ISA
