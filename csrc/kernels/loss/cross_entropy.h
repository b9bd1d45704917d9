// Cross entropy from logits, fused with log_softmax; and the negative log likelihood of given
// log-probabilities.
//
//   log p[c] = (x[c] - s) - log sum_k exp(x[k] - s),   s = max x            for each of the N positions
//   class index t:     loss = -(1 - e) w[t] log p[t] - e/C sum_c w[c] log p[c];   0 where t = ignore_index
//   probabilities q:   loss = -sum_c w[c] q'[c] log p[c],   q' = (1 - e) q + e/C
//   nll:               loss = -w[t] x[t]
// mean: sum of losses / sum of w[t] over the positions not ignored (for probabilities / N), as in PyTorch.
//
// logits (O, C, I), dense: O positions before the class axis, I after it in memory (I = 1 also for the
// channels of a channels-last image). target, loss: (O, I); probabilities: as logits; w: (C,), 1 if absent;
// e: label_smoothing.
//
// Backward. d log p[k] / dx[c] = 1[k = c] - p[c], hence with g = dloss, over the divisor of the mean,
//   class index:    dx[c] = g (p[c] ((1 - e) w[t] + e/C sum_k w[k]) - e/C w[c] - 1[c = t] (1 - e) w[t])
//   probabilities:  dx[c] = g (p[c] sum_k w[k] q'[k] - w[c] q'[c])      dq[c] = -g (1 - e) w[c] log p[c]
// Forward keeps s and log sum exp(x - s) of every position, apart: p from their sum would lose the digits
// that large logits take. Backward is one pass that computes p again, so no array of the size of the logits
// is kept.
//
// Traffic: 4 bytes per float logit forward, 8 backward, one exp each; log_softmax as an op of its own would
// add 16.
// A label outside [0, C) that is not ignore_index gives NaN and is never used as an address: in a replayed
// program no one can refuse it any more.
#pragma once

#include "base/kernel_table.h"
#include "base/view.h"
#include "kernels/loss/reduction.h"

namespace lamina {

struct ClassLoss {
  View target;  // int64 or int32 labels, or probabilities in the dtype of the logits
  View weight;  // absent, or (C,) in the dtype of the logits
  int64_t O, C, I;
  int64_t ignore_index;
  double label_smoothing;
  LossReduction reduction;
};

struct CrossEntropyArgs {
  ClassLoss to;
  View logits;
  View loss;        // (O, I), or 0-d if reduced
  View stats;       // (2, O, I) in the compute dtype: s, then log sum exp(x - s)
  View total;       // 0-d in the compute dtype: the divisor of the mean
  double* partial;  // workspace: two per chunk of class_loss_tasks
};

struct CrossEntropyBackwardArgs {
  ClassLoss to;
  View logits, stats, total, dloss;
  View dlogits, dtarget;  // either may be absent; dtarget for probabilities only
};

struct NllArgs {
  ClassLoss to;
  View x, loss, total;  // x: (O, C, I) log-probabilities
  double* partial;      // workspace: two per chunk of nll_chunks
};

struct NllBackwardArgs {
  ClassLoss to;
  View total, dloss, dx;
};

// The tasks of cross_entropy: rows where I = 1, else tiles of neighbouring columns; `grain` of them make a
// chunk.
struct ClassLossTasks {
  int64_t tiles, items, grain;  // tiles per position of O; O * tiles items
  constexpr int64_t chunks() const { return (items + grain - 1) / grain; }
};
constexpr int64_t class_loss_tile = 64;  // 4 cache lines of float from each of the C rows
constexpr ClassLossTasks class_loss_tasks(int64_t O, int64_t C, int64_t I) {
  const int64_t tiles = (I + class_loss_tile - 1) / class_loss_tile;
  const int64_t work = (C > 0 ? C : 1) * (I < class_loss_tile ? I : class_loss_tile);
  return {tiles, O * tiles, work > 0 && work < loss_chunk_elements ? loss_chunk_elements / work : 1};
}
constexpr int64_t nll_chunks(int64_t positions) {
  return (positions + loss_chunk_elements - 1) / loss_chunk_elements;
}

struct ClassLossKernels {
  void (*cross_entropy)(const CrossEntropyArgs&);
  void (*cross_entropy_backward)(const CrossEntropyBackwardArgs&);
  void (*nll)(const NllArgs&);
  void (*nll_backward)(const NllBackwardArgs&);
};
LAMINA_KERNEL_TABLE(ClassLossKernels, class_loss_kernels)

}  // namespace lamina
