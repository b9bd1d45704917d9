// Scaled dot-product attention, without the matrix of scores in memory:
//
//   s[i, j] = scale * sum_e query[i, e] key[j, e] + mask[i, j],    p[i, :] = softmax(s[i, :]),
//   y[i, :] = sum_j keep[i, j] / (1 - dropout_p) * p[i, j] value[j, :],    logsumexp[i] = log sum_j exp s[i, j]
//
// Shapes: query (N, L, E), key (M, S, E), value (M, S, V), mask (N, L, S), y (N, L, V), logsumexp (N, L), where N and M
// stand for all leading axes of a view, row-major, and N = group * M: query head n reads the key head n / group. Any
// strides, but elements along the last axis of all but the mask are neighbours, and logsumexp is contiguous. A boolean
// mask is -inf where false. is_causal: s = -inf for j > i. A row of -inf alone has y = 0 and no gradients.
//
// keep[i, j] of head n is draw j % 128 of tile (n L + i) ceil(S / 128) + j / 128 of dropout's stream (dropout.h) at `pair`:
// backward draws it again.
//
// Backward, with p recomputed as exp(s - logsumexp), r = keep / (1 - dropout_p), and g = dy value^T:
//   dvalue[j] = sum_i r p[i, j] dy[i],     dp = r g,     ds = p (dp - sum_j p dp),
// where sum_j p[i, j] dp[i, j] = sum_j r p g = dy[i] . y[i] = D[i] needs no score. Hence
//   ds = p (r g - D),    dquery = scale ds key,    dkey = scale ds^T query,    dmask = ds.
//
// Work: 2 L S (E + V) flops forward, 2 L S (3 E + 2 V) backward; causal half of that. Traffic: the operands, a key block
// once per block of queries and reverse, from the caches. Multiply-adds bound it, beside an exponential per score.
//
// Plan, forward: a block of queries holds its y, its maxima and its sums of exponentials while blocks of keys pass by;
// when the maximum of a row grows, what was summed is scaled down. At the end rows are divided by their sums.
// Backward: a block of keys holds its dkey and dvalue while blocks of queries pass by. dquery is the sum over blocks of
// keys in their order: no sum depends on the number of threads.
//
// Sources: Milakov and Gimelshein, "Online normalizer calculation for softmax" (arXiv:1805.02867); Dao et al.,
// "FlashAttention" (arXiv:2205.14135), Dao, "FlashAttention-2" (arXiv:2307.08691).
#pragma once

#include "base/integer.h"
#include "base/kernel_table.h"
#include "base/view.h"
#include "kernels/dropout/dropout.h"

namespace lamina {

struct AttentionArgs {
  View query, key, value;
  View mask;          // may be absent; bool, query's dtype or float
  View y, logsumexp;  // logsumexp: float, or double if query is double
  View pair;          // read where dropout_p > 0
  double scale, dropout_p;
  int64_t group;
  bool is_causal;
};

struct AttentionBackwardArgs {
  AttentionArgs forward;  // as it was called, y and logsumexp as it left them
  View dy;
  View dquery, dkey, dvalue;  // of the shapes of query, key and value
  View dmask;                 // optional; (N, L, S)
  void* workspace;            // attention_workspace elements
};

LAMINA_HD inline int64_t rows_of(const View& v) { return v.shape[v.ndim - 2]; }
LAMINA_HD inline int64_t columns_of(const View& v) { return v.shape[v.ndim - 1]; }
LAMINA_HD inline int64_t row_stride_of(const View& v) { return v.strides[v.ndim - 2]; }
inline int64_t heads_of(const View& v) {
  int64_t n = 1;
  for (int i = 0; i < v.ndim - 2; ++i) n *= v.shape[i];
  return n;
}
// Where the matrix of head n begins, in elements.
LAMINA_HD inline int64_t offset_of_head(const View& v, int64_t n) {
  int64_t offset = 0;
#if defined(__CUDACC__)
#pragma unroll 1  // seldom more than two axes, and a division each
#endif
  for (int i = v.ndim - 3; i >= 0; --i) {
    offset += n % v.shape[i] * v.strides[i];
    n /= v.shape[i];
  }
  return offset;
}

// Backward on the CPU cuts the keys into parts, whose shares of dquery are summed at the end: few parts, as each takes the
// memory of a dquery, but more than one where heads alone would leave cores idle.
struct KeyParts {
  int64_t count, size;
};
inline KeyParts choose_key_parts(const View& key) {
  const int64_t S = rows_of(key), wanted = heads_of(key) >= 32 ? 1 : 4;
  const int64_t size = larger(512, round_up(ceil_div(S, wanted), dropout_elements_per_tile));
  return {larger(1, ceil_div(S, size)), size};
}
// Elements (float, or double) of workspace for backward: the shares of dquery (CPU), D (devices).
inline int64_t attention_workspace(const View& query, const View& key) {
  return heads_of(query) * rows_of(query) * larger(1, choose_key_parts(key).count * columns_of(query));
}

struct AttentionKernels {
  void (*forward)(const AttentionArgs&);
  void (*backward)(const AttentionBackwardArgs&);
};

LAMINA_KERNEL_TABLE(AttentionKernels, attention_kernels)

}  // namespace lamina
