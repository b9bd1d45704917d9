// One direction of one LSTM layer, over a whole sequence; with T = 1 it is the LSTM cell.
//
//   a[t] = W_ih x[t] + b_ih + W_hh h[t-1] + b_hh        pre-activations of H units for gates i, f, g, o
//   i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)
//   g = tanh(a_g)
//   c[t] = f c[t-1] + i g
//   h[t] = o tanh(c[t]),  y[t] = h[t]
//
// T steps, B sequences, I inputs, H units: x (T, B, I), y (T, B, H), w_ih (4H, I), w_hh (4H, H),
// biases (4H), h0, c0, h_n, c_n (B, H). A sequence of length L < T takes L steps only: its final state
// is that after step L - 1, and its y beyond is 0. `reverse` runs each from its last step to its first.
//
// Backward, with dh and dc the gradients that arrive from step t + 1:
//   dh += dy[t],  dc += dh o (1 - tanh(c[t])^2)
//   da_i = dc g i (1 - i)         da_f = dc c[t-1] f (1 - f)
//   da_g = dc i (1 - g^2)         da_o = dh tanh(c[t]) o (1 - o)
//   then dc = dc f, dh = da W_hh for the step before; and, as products over many steps,
//   dW_ih = da^T x,  dW_hh = da^T h[t-1],  db = sum of da,  dx = da W_ih
//
// Work: 8 H (I + H) flops per row (t, b) forward, twice that backward. The weights are read once per step:
// arithmetic bounds it from B of about 8, the bandwidth of the cache that holds the weights below.
//
// Plan: sequences are ordered by falling length, so those still running at step s are the first count[s].
// The input product is made for many steps at once, then each step adds h W_hh to it. Gates lie
// interleaved, four vectors for the same units, so the cell finds a tile's sums in L1. Sequences do not
// depend on each other: threads take blocks of them through many steps without meeting. The reserve
// keeps, per row, the four gates and the cell for backward, in the order in which they were computed.
#pragma once

#include "base/kernel_table.h"
#include "base/precision.h"
#include "base/view.h"

namespace lamina {

struct LstmArgs {
  View x;           // any strides, the last 1
  View h0, c0;      // absent: zeros
  View w_ih, w_hh;  // contiguous
  View b_ih, b_hh;  // contiguous, or absent
  View lengths;     // int64 (B,), taken as min(max(length, 0), T); absent: all T
  bool reverse = false;
  View y;         // any strides, the last 1; absent: not wanted
  View h_n, c_n;  // contiguous
  View reserve;   // (T * B, reserve_columns); absent: no backward will follow
  Float32Precision precision = Float32Precision::highest;  // of float32 products on devices
  void* workspace = nullptr;
};

struct LstmBackwardArgs {
  View x, h0, c0, w_ih, w_hh, lengths;  // as forward
  bool reverse = false;
  View reserve;
  View dy;                  // (T, B, H), any strides, the last 1; absent: zeros, as are dh_n and dc_n
  View dh_n, dc_n;          // contiguous
  View dx;                  // any strides, the last 1; any result may be absent
  bool adds_to_dx = false;  // dx +=, for the second of two directions
  View dh0, dc0;            // contiguous
  View dw_ih, dw_hh, db;    // contiguous; db is the gradient of either bias
  Float32Precision precision = Float32Precision::highest;
  void* workspace = nullptr;
};

struct LstmSize {
  int64_t T, B, I, H;
  Dtype dtype;
};

struct LstmKernels {
  void (*forward)(const LstmArgs&);
  void (*backward)(const LstmBackwardArgs&);
  int64_t (*reserve_columns)(const LstmSize&);  // of the compute dtype
  int64_t (*forward_workspace)(const LstmSize&);
  int64_t (*backward_workspace)(const LstmSize&);
};

LAMINA_KERNEL_TABLE(LstmKernels, lstm_kernels)

}  // namespace lamina
