// Optimizer steps and gradient norms over all tensors of a model in one call.
//
// Adam (Kingma, Ba, arXiv:1412.6980), AdamW (Loshchilov, Hutter, arXiv:1711.05101), per element and step t:
//   g = ±scale · grad                 minus to maximise; scale: a scalar in device memory
//   g += wd · p  (Adam)    or    p *= 1 - lr · wd  (AdamW)
//   m = b1 · m + (1 - b1) · g         v = b2 · v + (1 - b2) · g²         vmax = max(vmax, v)  (amsgrad)
//   p -= lr / (1 - b1^t) · m / (sqrt(v or vmax) / sqrt(1 - b2^t) + eps)
// SGD:
//   g = ±scale · grad + wd · p        buf = mu · buf + (1 - dampening) · g, but g at t = 1
//   p -= lr · buf    or    p -= lr · (g + mu · buf)  (Nesterov)
// Gradient norm: |g| over all elements of all tensors, order 2, 1 or inf; clip = min(1, max_norm / (|g| + 1e-6)).
//
// Everything that changes between steps is device memory: lr, scale, and the step count of every tensor,
// which the kernel increments; so a recorded call stays right. State is float32 (float64 for float64
// parameters) also where parameters are bfloat16, and arithmetic is that of the state.
//
// Traffic per float parameter: 28 bytes for Adam (p, m, v read and written, grad read), 20 for SGD with
// momentum, 4 for a norm. Arithmetic (a root and a division, about 12 cycles per vector) hides behind it:
// bound by memory.
// Plan: the tensors are seen as one sequence of elements, cut every `optim_chunk_elements` wherever tensors
// end, so a thousand small tensors cost as little as one large one, and chunks depend on shapes only. A norm
// is summed in float within a piece of a chunk and in double beyond, in the order of the chunks.
#pragma once

#include "base/kernel_table.h"
#include "base/view.h"

namespace lamina {

// One tensor of the model. All its arrays are dense in the same order.
struct OptimTensor {
  void* param;
  void* grad;
  void* m;        // Adam: mean of gradients; SGD: momentum buffer
  void* v;        // Adam: mean of squared gradients
  void* vmax;     // amsgrad: running maximum of v
  void* step;     // calls so far: an int64, or a float32 as PyTorch has it
  int64_t n;      // elements
  int64_t begin;  // elements of the tensors before this one
  Dtype dtype;    // of param and grad
  Dtype step_dtype;
};

// The number of the step that is taken, from 1. A float32 stays at 2^24, where the powers of b1 and b2 have long
// been 0.
LAMINA_HD inline int64_t step_of(const OptimTensor& t) {
  return t.step_dtype == Dtype::int64 ? *static_cast<int64_t*>(t.step) + 1
                                      : int64_t(*static_cast<float*>(t.step) + 1);
}
LAMINA_HD inline void count_step(const OptimTensor& t) {
  if (t.step_dtype == Dtype::int64)
    ++*static_cast<int64_t*>(t.step);
  else
    ++*static_cast<float*>(t.step);
}

struct OptimTable {
  const OptimTensor* tensors;  // device memory
  int64_t count, elements;
  uint32_t*
      arrived;  // of the blocks of a launch, on devices: 0 before and after; it lives as long as the table
};

struct AdamArgs {
  OptimTable table;
  View lr, scale;        // 0-d, float32 or float64; scale may be absent
  double* coefficients;  // workspace, on the CPU: lr / (1 - b1^t) and 1 / sqrt(1 - b2^t) of every tensor
  double beta1, beta2, eps, weight_decay;
  bool is_decoupled, has_amsgrad, maximize;
};

struct SgdArgs {
  OptimTable table;
  View lr, scale;
  double* coefficients;  // workspace, on the CPU: what multiplies buf and g in the new buf of every tensor
  double momentum, dampening, weight_decay;
  bool is_nesterov, maximize;
};

enum class NormOrder : int { one, two, infinity };

struct GradNormArgs {
  OptimTable table;  // only grad, n, begin and dtype are used
  NormOrder order;
  double max_norm;
  bool clip_in_place;  // multiply the gradients by clip
  double* partial;     // workspace: one per chunk
  View norm, clip;     // 0-d outputs, float32 or float64
};

constexpr int64_t optim_chunk_elements = 16384;  // 458 KB of Adam traffic: some 15 us
LAMINA_HD constexpr int64_t optim_chunks(int64_t elements) {
  return (elements + optim_chunk_elements - 1) / optim_chunk_elements;
}

struct OptimKernels {
  void (*adam)(const AdamArgs&);
  void (*sgd)(const SgdArgs&);
  void (*grad_norm)(const GradNormArgs&);
};
LAMINA_KERNEL_TABLE(OptimKernels, optim_kernels)

}  // namespace lamina
