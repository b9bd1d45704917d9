// Losses of an element and its target: squared error, absolute error, binary cross entropy of a logit.
//
//   mse:  (x - t)²                                    dx = 2 (x - t)            dt = -dx
//   l1:   |x - t|                                     dx = sign(x - t)          dt = -dx
//   bce:  w ((1 - t) x + h softplus(-x)),   h = 1 + (u - 1) t,   w: weight, u: pos_weight
//         dx = w ((1 - t) - h sigmoid(-x))            dt = w ((u - 1) softplus(-x) - x)
// The bce form is -w (u t log sigmoid(x) + (1 - t) log(1 - sigmoid(x))) without overflow.
//
// All operands are dense with n elements in the same order; gradients are times dloss, over n for the mean.
// 8 bytes of traffic per float forward, 12 backward: bound by memory, but bce by its 40 cycles per vector.
#pragma once

#include "base/kernel_table.h"
#include "base/view.h"
#include "kernels/loss/reduction.h"

namespace lamina {

enum class PointwiseLoss : int { mse, l1, bce_with_logits };

struct PointwiseLossArgs {
  PointwiseLoss kind;
  LossReduction reduction;
  View x, target;
  View weight, pos_weight;  // bce: w and u, 1 where absent
  View loss;                // n elements, or one if reduced
  double* partial;          // workspace: one per chunk
};

struct PointwiseLossBackwardArgs {
  PointwiseLoss kind;
  LossReduction reduction;
  View x, target, weight, pos_weight, dloss;
  View dx, dtarget;  // either may be absent
};

constexpr int64_t pointwise_loss_chunks(int64_t n) {
  return (n + loss_chunk_elements - 1) / loss_chunk_elements;
}

struct PointwiseLossKernels {
  void (*forward)(const PointwiseLossArgs&);
  void (*backward)(const PointwiseLossBackwardArgs&);
};
LAMINA_KERNEL_TABLE(PointwiseLossKernels, pointwise_loss_kernels)

}  // namespace lamina
