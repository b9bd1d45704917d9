// Which source positions an output position of a convolution reads, on each axis and in each direction: for the CPU and
// for devices.
#pragma once

#include "base/integer.h"
#include "kernels/conv2d/conv2d.h"

namespace lamina {

[[gnu::always_inline]] LAMINA_HD inline int64_t common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// A count as a type, for generic lambdas.
template <int N>
struct Count {
  static constexpr int value = N;
};

// One axis: for k in [0, taps), result position start + i * pitch reads source position
// i * step + offset + k * offset_step (zero outside [0, source)) with filter row tap + k * tap_step.
struct TapAxis {
  int64_t count, start, pitch;
  int64_t source, step, offset, offset_step;
  int64_t taps, tap, tap_step;

  // The positions [first, last) that read inside the source under the tap with this offset.
  [[gnu::always_inline]] LAMINA_HD void inside(int64_t offset, int64_t* first, int64_t* last) const {
    *first = offset < 0 ? smaller(count, ceil_div(-offset, step)) : 0;
    *last = offset < source ? larger(*first, smaller(count, ceil_div(source - offset, step))) : *first;
  }
  // The taps [first, last) under which position i reads inside the source.
  [[gnu::always_inline]] LAMINA_HD void valid_taps(int64_t i, int64_t* first, int64_t* last) const {
    int64_t a = 0, b = taps;
    const auto outside = [&](int64_t k) {
      return uint64_t(i * step + offset + k * offset_step) >= uint64_t(source);
    };
    while (a < b && outside(a)) ++a;
    while (a < b && outside(b - 1)) --b;
    *first = a;
    *last = b;
  }
};

// Axis d (0: height, 1: width) of the forward pass: y reads x.
[[gnu::always_inline]] LAMINA_HD inline TapAxis forward_axis(const Conv2dArgs& a, int d) {
  return {.count = a.y.shape[2 + d],
          .start = 0,
          .pitch = 1,
          .source = a.x.shape[2 + d],
          .step = a.stride[d],
          .offset = -a.padding[d],
          .offset_step = a.dilation[d],
          .taps = a.weight.shape[2 + d],
          .tap = 0,
          .tap_step = 1};
}

// The positions of x that are `phase` modulo the stride read dy: i stride + phase = p stride + r dilation - padding.
// Of its taps r, the first solves r dilation = phase + padding (mod stride), and the others follow in steps of
// stride / gcd(dilation, stride).
[[gnu::always_inline]] LAMINA_HD inline TapAxis backward_axis(const Conv2dArgs& a, int d, int64_t phase) {
  const int64_t stride = a.stride[d], dilation = a.dilation[d], taps = a.weight.shape[2 + d];
  const int64_t tap_step = stride / common_divisor(dilation, stride);
  int64_t tap = 0;
  while (tap < tap_step && (phase + a.padding[d] - tap * dilation) % stride != 0) ++tap;
  const bool meets = tap < tap_step && tap < taps;
  return {.count = ceil_div(a.x.shape[2 + d] - phase, stride),
          .start = phase,
          .pitch = stride,
          .source = a.y.shape[2 + d],
          .step = 1,
          .offset = meets ? (phase + a.padding[d] - tap * dilation) / stride : 0,
          .offset_step = -(tap_step * dilation / stride),
          .taps = meets ? ceil_div(taps - tap, tap_step) : 0,
          .tap = tap,
          .tap_step = tap_step};
}

}  // namespace lamina
