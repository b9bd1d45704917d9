// Layer, RMS and group normalisation: each of N samples has G groups, which are normalised on their own,
//
//   y = (x - mean[n, g]) * rstd[n, g] * weight[c] + bias[c],   rstd = 1 / sqrt(var + eps),
//
// with the mean and the biased variance of the D = K * L elements of the group: K channels of L pixels. Channels
// count through all groups, c = g * K + k. Group norm: x is (N, C, ...), C = G * K. Layer norm: G = L = 1, a group is
// a row of D elements, each with parameters of its own. RMS norm: the same about 0, mean = 0 and var = mean of x^2,
// no bias, L = 1.
// Shapes: x, y, dx, dy have N * G * K * L elements; in memory (N, G, K, L), planes, or (N, L, G, K), rows of C channels:
// channels-last images, and whatever has L = 1. mean, rstd (N, G); per channel (C,), dense. Parameters may be absent.
//
// Backward, with xhat = (x - mean) * rstd and g = dy * weight (as in batch_norm.h, but for g, which varies in a group):
//   dweight = sum_{n, l} dy * xhat,   dbias = sum_{n, l} dy
//   dx      = rstd * (g - sum g / D - xhat * sum (g * xhat) / D)         RMS norm: without sum g / D
//
// Moments as in batch_norm.h: no square of a raw value is taken (but by RMS norm, which is made of them), and y comes
// from x - mean.
//
// Traffic: forward reads x and writes y, backward reads dy and x and writes dx, once each from memory where a group (in
// channels-last images: a sample) fits the caches. Some 10 operations per element: bound by memory.
// Plan. L = 1: the rows of a group stay in the first-level cache between sweeps, the last of which prefetches the next
// rows. Backward takes 2 samples at a time, so that the sums of columns, dweight and dbias, are loaded and stored once
// for both (4 samples would fill the cache: 1.3 times as long for rows of 1024 floats); each block of samples has its
// own, which are added up at the end. Planes: a thread has a group, and leaves the sums of its channels for the end.
// Channels-last images: as batch_norm's rows, in each sample; blocks of rows give partial results of all channels.
#pragma once

#include "base/integer.h"
#include "base/kernel_table.h"
#include "base/view.h"

namespace lamina {

struct LayerNormShape {
  int64_t N, G, K, L;
  bool is_rows;  // memory is (N, L, G, K); implied by L = 1

  [[gnu::always_inline]] LAMINA_HD int64_t C() const { return G * K; }
  [[gnu::always_inline]] LAMINA_HD int64_t D() const { return K * L; }
  [[gnu::always_inline]] LAMINA_HD int64_t size() const { return N * C() * L; }

  // Rows in a block: enough to make the partial results of its columns small beside x.
  [[gnu::always_inline]] int64_t block() const { return larger(32, 32768 / larger(1, C())); }
  [[gnu::always_inline]] int64_t blocks_per_sample() const { return ceil_div(L, block()); }
  // Parts of which each leaves partial results of all channels.
  [[gnu::always_inline]] int64_t blocks() const {
    if (L == 1) return ceil_div(N, block());
    return is_rows ? N * blocks_per_sample() : N;
  }
  // Elements (float, or double if x is double) of workspace: parameters, and two partial rows per block.
  [[gnu::always_inline]] int64_t forward_workspace() const {
    return 2 * C() * (1 + (is_rows && L > 1 ? blocks() : 0));
  }
  [[gnu::always_inline]] int64_t backward_workspace() const { return C() + 2 * C() * blocks() + 2 * N * G; }
};

struct LayerNormArgs {
  View x, weight, bias;
  View y, mean, rstd;  // mean, rstd: float, or double if x is double; mean is absent if x is not centred
  void* workspace;
  LayerNormShape shape;
  bool is_centred;  // about the mean; else, as RMS norm, about 0
  double eps;
};

struct LayerNormBackwardArgs {
  View dy, x, weight, mean, rstd;
  View dx, dweight, dbias;  // dweight, dbias may be absent
  void* workspace;
  LayerNormShape shape;
  bool is_centred;
};

struct LayerNormKernels {
  void (*forward)(const LayerNormArgs&);
  void (*backward)(const LayerNormBackwardArgs&);
};

LAMINA_KERNEL_TABLE(LayerNormKernels, layer_norm_kernels)

}  // namespace lamina
