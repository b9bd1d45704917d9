// Batch normalisation: y = (x - mean[c]) * rstd[c] * weight[c] + bias[c], rstd = 1 / sqrt(var + eps).
//
// Training takes mean and the biased variance of each channel over its n = N * L elements; evaluation takes
// the running ones. Shapes: x, y, dx, dy (N, C, L), where L = H * W or 1; per channel (C,). In memory either
// planes (N, C, L) or rows (N * L, C): channels-last images and matrices. weight, bias and the running
// statistics may be absent.
//
// Backward, with xhat = (x - mean) * rstd, hence dweight = sum dy * xhat and dbias = sum dy over the channel:
//   dvar  = sum dy * weight * (x - mean) * -rstd^3 / 2,  dmean = -rstd * weight * sum dy   (sum of x - mean is 0)
//   dx    = dy * weight * rstd + dvar * 2 (x - mean) / n + dmean / n
//         = weight * rstd * (dy - dbias / n - (x - mean) * rstd * dweight / n)
// Evaluation: mean and rstd do not depend on x, so dx = weight * rstd * dy.
//
// Moments. A piece of x that fits the nearest cache (planes: 4096 elements, rows: 8 rows in registers) is swept twice:
// its mean, as the first element plus the mean difference from it, then the squares about that mean. Pieces are merged
// in the order of the shape, the last ones in double (Chan, Golub, LeVeque 1979):
//   delta = mean_b - mean_a,  mean = mean_a + delta n_b / n,  M2 = M2_a + M2_b + delta^2 n_a n_b / n.
// No square of a raw value is ever taken, so a mean far from 0 costs no digits, and a constant channel gives bias and
// nothing else; for the same reason y is computed from x - mean and not from x * scale + shift.
//
// Traffic: forward reads x twice and writes y, backward reads x and dy twice and writes dx; a few operations
// per element: bound by memory. Planes: one thread does a whole channel, N * L elements, whose second sweep
// mostly finds it in the second-level cache. Rows: blocks of rows give partial moments of all channels, which
// are merged per channel, and a second pass over the rows normalises.
#pragma once

#include "base/kernel_table.h"
#include "base/view.h"

namespace lamina {

struct BatchNormShape {
  int64_t N, C, L;
  bool is_rows;

  [[gnu::always_inline]] LAMINA_HD int64_t count() const { return N * L; }
  // Rows per block: 256 KB of float32, and enough of them to make the partial results small beside x.
  [[gnu::always_inline]] int64_t block() const { return C > 1023 ? 64 : 65536 / (C > 0 ? C : 1); }
  [[gnu::always_inline]] int64_t blocks() const { return is_rows ? (count() + block() - 1) / block() : 0; }
  // Elements (float, or double if x is double) of workspace: two partial rows per block, three of coefficients.
  [[gnu::always_inline]] int64_t workspace() const { return is_rows ? (2 * blocks() + 3) * C : 0; }
};

struct BatchNormArgs {
  View x, weight, bias;            // weight, bias: any floating dtype, any stride
  View running_mean, running_var;  // read in evaluation; updated in training where present
  View batches;        // int64 scalar: number of batches seen, incremented in training; may be absent
  View y, mean, rstd;  // mean, rstd: float, or double if x is double
  void* workspace;
  BatchNormShape shape;
  bool is_training;
  bool is_cumulative;  // momentum is 1 / batches
  double momentum, eps;
};

struct BatchNormBackwardArgs {
  View dy, x, weight, mean, rstd;
  View dx, dweight, dbias;  // each may be absent
  void* workspace;
  BatchNormShape shape;
  bool is_training;
};

struct BatchNormKernels {
  void (*forward)(const BatchNormArgs&);
  void (*backward)(const BatchNormBackwardArgs&);
};

LAMINA_KERNEL_TABLE(BatchNormKernels, batch_norm_kernels)

}  // namespace lamina
