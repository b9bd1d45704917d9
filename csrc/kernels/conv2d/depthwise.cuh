// Depthwise convolutions, one filter per channel, on a device: bound by memory, so nothing but the pixels may cost.
//
//   over taps     a thread has V channels, 16 bytes, of `run` neighbouring pixels of a row. Under the usual filters the
//                 pixels that they read overlap: each is loaded once per filter row and meets every tap that reads it,
//                 with the filter row's weights in registers. Of 3 x 3 taps, 4 pixels read 3 x 6 packs, not 3 x 12.
//   over pixels   a thread has V channels of `taps` sums, and that of dy, and walks over pixels, of which it loads dy once;
//                 threads along y join their sums as a tree. Ranges of pixels leave partial sums, as those of PixelSum.
//
// The weights come as (R, S, C) in compute precision: a pass over them that is small beside the pixels.
#pragma once

#include "kernels/conv2d/implicit.cuh"

namespace lamina::LAMINA_DEVICE {

constexpr int depthwise_threads = 256;

// Pixels of a thread: 16 sums.
template <int V>
inline constexpr int depthwise_run = V == 8 ? 2 : 4;

template <class S, int V>
LAMINA_PRIM void add_product(prim::Pack<S, V>& sum, const prim::Pack<S, V>& a, const prim::Pack<S, V>& b) {
#pragma unroll
  for (int v = 0; v < V; ++v) sum[v] = prim::fma(a[v], b[v], sum[v]);
}

// The pack at column `at` of a line of W pixels, zeros outside.
template <int V, class T>
LAMINA_PRIM prim::Pack<Compute<T>, V> load_pixel(const T* line, int at, int W, int64_t pixel) {
  if (uint32_t(at) >= uint32_t(W)) return {};
  return prim::widen(prim::load_vector<V>(line + at * pixel));
}

// Taps, Step: of a row of a filter of a single phase whose taps read neighbouring pixels. Taps = 0: any others.
template <class T, int V, int Taps, int Step>
__global__ void __launch_bounds__(depthwise_threads, 2)
    depthwise_kernel(TapSum p, const Compute<T>* weights) {
  using S = Compute<T>;
  constexpr int run = depthwise_run<V>;
  const View &source = p.source(), &result = p.result();
  const int64_t C = source.shape[1], c = (int64_t(blockIdx.y) * blockDim.x + threadIdx.x) * V;
  if (c >= C) return;
  for (int64_t phase = blockIdx.z; phase < p.phases; phase += gridDim.z) {
    const int64_t phases_w = p.is_backward ? p.phases_of(1) : 1;
    const Axis h = p.axis(0, phase / phases_w), w = p.axis(1, phase % phases_w);
    const int filter_width = int(p.a.weight.shape[3]), runs = (w.count + run - 1) / run;
    const int64_t all_runs = result.shape[0] * h.count * runs;
    for (int64_t index = int64_t(blockIdx.x) * blockDim.y + threadIdx.y; index < all_runs;
         index += int64_t(gridDim.x) * blockDim.y) {
      const int64_t line = index / runs, image = line / h.count;
      const int i = int(line - image * h.count), j = int(index - line * runs) * run;
      prim::Pack<S, V> sums[run] = {};
      for (int r = 0; r < h.taps; ++r) {
        const int down = i * h.step + h.offset + r * h.offset_step;
        if (uint32_t(down) >= uint32_t(h.source)) continue;
        const T* x = source.as<const T>() + (image * h.source + down) * w.source * C + c;
        const S* filter = weights + ((h.tap + r * h.tap_step) * filter_width + w.tap) * C + c;
        if constexpr (Taps > 0) {
          // Backward, taps run against the pixels.
          const int first = w.offset_step < 0 ? Taps - 1 : 0, column = j * Step + w.offset - first;
          prim::Pack<S, V> row[Taps];
#pragma unroll
          for (int s = 0; s < Taps; ++s)
            row[s] = prim::load_vector<V>(filter + (w.offset_step < 0 ? first - s : s) * C);
#pragma unroll
          for (int at = 0; at < (run - 1) * Step + Taps; ++at) {
            const auto value = load_pixel<V>(x, column + at, w.source, C);
#pragma unroll
            for (int s = 0; s < Taps; ++s)
              if (at >= s && (at - s) % Step == 0 && (at - s) / Step < run)
                add_product(sums[(at - s) / Step], value, row[s]);
          }
        } else {
          for (int s = 0; s < w.taps; ++s) {
            const auto weight = prim::load_vector<V>(filter + s * w.tap_step * C);
            const int column = j * w.step + w.offset + s * w.offset_step;
#pragma unroll
            for (int t = 0; t < run; ++t)
              add_product(sums[t], load_pixel<V>(x, column + t * w.step, w.source, C), weight);
          }
        }
      }
      T* y = result.as<T>() +
             ((image * result.shape[2] + h.start + i * h.pitch) * result.shape[3] + w.start) * C + c;
#pragma unroll
      for (int t = 0; t < run; ++t) {
        if (j + t >= w.count) break;
        if (p.a.bias) {
#pragma unroll
          for (int v = 0; v < V; ++v)
            sums[t][v] += prim::widen(p.a.bias.as<const T>()[(c + v) * p.a.bias.strides[0]]);
        }
        prim::store_vector(y + (j + t) * w.pitch * C, prim::narrow<T>(sums[t]));
      }
    }
  }
}

// to (R * S, C) from weight (C, 1, R, S).
template <class T>
__global__ void __launch_bounds__(depthwise_threads) pack_taps_kernel(View weight, Compute<T>* to) {
  const int64_t C = weight.shape[0], S = weight.shape[3], size = C * weight.shape[2] * S;
  for (int64_t i = int64_t(blockIdx.x) * depthwise_threads + threadIdx.x; i < size;
       i += int64_t(gridDim.x) * depthwise_threads) {
    const int64_t tap = i / C, c = i - tap * C, r = tap / S, s = tap - r * S;
    const int64_t at = c * weight.strides[0] + r * weight.strides[2] + s * weight.strides[3];
    to[i] = prim::widen(weight.as<const T>()[at]);
  }
}

constexpr int gradient_taps = 9;  // sums of a thread, and one of dy: 80 registers at 8 channels

template <class S, int V>
struct DepthwiseShared {
  prim::Pack<S, V> sums[depthwise_threads];
};

// Block (i, j, k): range i of the pixels, packs of channels from j * blockDim.x on, the taps from 9 k on.
// Of 8 channels, sums and addresses take a few registers more than two blocks on an SM leave them.
template <class T, int V>
__global__ void __launch_bounds__(depthwise_threads, V > 4 ? 1 : 2)
    depthwise_gradient_kernel(PixelSum p, Compute<T>* partial) {
  using S = Compute<T>;
  auto& shared = prim::shared_memory<DepthwiseShared<S, V>>();
  const View &x = p.a.x, &y = p.a.y;
  const int64_t C = y.shape[1], c = (int64_t(blockIdx.y) * blockDim.x + threadIdx.x) * V;
  const int H = int(x.shape[2]), W = int(x.shape[3]);
  const int64_t taps_w = p.a.weight.shape[3], taps = p.columns;

  for (int64_t first_tap = int64_t(blockIdx.z) * gradient_taps; first_tap < taps;
       first_tap += int64_t(gridDim.z) * gradient_taps) {
    const bool sums_dy = p.a.bias && first_tap == 0;
    prim::Pack<S, V> sums[gradient_taps] = {}, sum_of_dy = {};
    int down[gradient_taps], right[gradient_taps];
#pragma unroll
    for (int t = 0; t < gradient_taps; ++t) {
      const int64_t tap = first_tap + t, r = tap / taps_w, s = tap - r * taps_w;
      down[t] = tap < taps ? int(r * p.a.dilation[0] - p.a.padding[0]) : INT32_MIN;  // far above every pixel
      right[t] = int(s * p.a.dilation[1] - p.a.padding[1]);
    }
    const int64_t begin = blockIdx.x * p.range, end = c < C ? smaller(p.pixels, begin + p.range) : begin;
    for (int64_t pixel = begin + threadIdx.y; pixel < end; pixel += blockDim.y) {
      const int64_t n = p.image.quotient(pixel), rest = pixel - n * p.image.divisor,
                    row = p.line.quotient(rest);
      const int h = int(row * p.a.stride[0]), w = int((rest - row * p.line.divisor) * p.a.stride[1]);
      const auto dy = prim::widen(prim::load_vector<V>(y.as<const T>() + pixel * C + c));
      if (sums_dy) {
#pragma unroll
        for (int v = 0; v < V; ++v) sum_of_dy[v] += dy[v];
      }
      const T* corner = x.as<const T>() + n * H * W * C + c;
#pragma unroll
      for (int t = 0; t < gradient_taps; ++t) {
        const uint32_t at = uint32_t(h) + uint32_t(down[t]);
        if (at < uint32_t(H))
          add_product(sums[t], dy, load_pixel<V>(corner + int64_t(at) * W * C, w + right[t], W, C));
      }
    }

    auto* mine = &shared.sums[prim::thread()];
#pragma unroll
    for (int t = 0; t <= gradient_taps; ++t) {
      const bool is_dy = t == gradient_taps;
      prim::block_sync();  // all have read the sums of the tap before
      *mine = is_dy ? sum_of_dy : sums[t];
      for (int half = int(blockDim.y) / 2; half > 0; half /= 2) {
        prim::block_sync();  // sums of the step before
        if (int(threadIdx.y) < half) {
#pragma unroll
          for (int v = 0; v < V; ++v) (*mine)[v] += mine[half * int(blockDim.x)][v];
        }
      }
      if (threadIdx.y == 0 && c < C && (is_dy ? sums_dy : first_tap + t < taps)) {
        Compute<T>* to = partial + blockIdx.x * p.size();
#pragma unroll
        for (int v = 0; v < V; ++v)
          to[is_dy ? p.weights() + c + v : (c + v) * taps + first_tap + t] = (*mine)[v];
      }
    }
  }
}

}  // namespace lamina::LAMINA_DEVICE
