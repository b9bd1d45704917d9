// 2-d convolution (cross-correlation), its gradients, and with them transposed convolution.
//
//   y[n, o, p, q] = bias[o] + sum_{r, s, c} x[n, gC + c, p sh + r dh - top, q sw + s dw - left] weight[o, c, r, s]
//
// Shapes  x (N, C, H, W), weight (O, C / G, R, S), bias (O), y (N, O, P, Q); group g of G owns channels
//   [g C/G, (g+1) C/G) of x and [g O/G, (g+1) O/G) of y. x is zero outside its borders.
// Memory  x and y are channels-last: a pixel is a row of channels. weight is dense or strided, in any order.
//
// Backward. y is linear in each operand, so with dy given
//   dx[n, c, h, w]    = sum of dy[n, o, p, q] weight[o, c, r, s] over p sh + r dh - top = h, q sw + s dw - left = w, o
//   dweight[o, c, r, s] = sum_{n, p, q} dy[n, o, p, q] x[n, c, p sh + r dh - top, q sw + s dw - left]
//   dbias[o]          = sum_{n, p, q} dy[n, o, p, q]
// For fixed (h mod sh, w mod sw) the taps r, s that meet dx form arithmetic progressions, and p = h div sh + const - k:
// dx is sh sw interleaved convolutions of stride 1, none of which multiplies by a stuffed zero. A transposed
// convolution is the same sum (plus bias): its input takes the place of dy, its output that of dx.
//
// Work  2 N P Q O R S C / G flops each; traffic at least x + y + weight. Bound by arithmetic from about C = O = 32 on;
//   depthwise (C = O = G: 2 R S flops per element of y) is bound by memory.
// Plan  implicit_gemm: rows = pixels of the result, K = taps x channels, columns = channels of the result. The weights
//   are packed per call into panels [panel][tap][k][tile_columns], which costs one pass over them. The micro-kernel of
//   kernels/gemm reads the pixels under a tap through a table of row pointers, where a pixel outside the border is a row
//   of zeros: no im2col, and padding, stride and dilation look alike.
//
//        for a block of ~240 pixels (across rows and images), for a chunk of K (~256: its panel stays in L1),
//          for each panel, for each tile of pixels:  tile += rows under the chunk's taps x panel
//
//   merged_taps: few channels (stems). x is copied once into a zero-padded plane, where the S taps of a filter row read
//   S C consecutive elements: R taps with K = S C. On devices K = R S C, from patches of x in shared memory (stem.cuh).
//   Reads x in any layout.
//   depthwise: vectors over channels, all taps of 4 pixels in registers.
//   dweight: K = pixels. x and dy of ~256 pixels are packed into panels once and serve all taps by shifting the start.
//   dbias is summed from dy where dweight's kernel has it at hand, and costs no pass of its own.
//   On devices a block sums a tile of the product, whose operands come to shared memory straight from the pixels
//   (implicit.cuh), on the matrix units or the ordinary cores, whichever takes fewer cycles; depthwise as above.
// Determinism  tasks and partial sums are cut by shape only; partial sums are added in order. Chunks of K are summed
//   from zero and then added, so that rounding errors grow with the chunk plus the number of chunks, not their product.
// Sources  row pointers: M. Dukhan, "The Indirect Convolution Algorithm", arXiv:1907.02129.
#pragma once

#include "base/kernel_table.h"
#include "base/precision.h"
#include "base/view.h"

namespace lamina {

enum class ConvPass { forward, backward_input, backward_weight };
enum class ConvAlgorithm { implicit_gemm, merged_taps, depthwise };

// The operands of one convolution. Each kernel writes some of them from the others:
//   forward          y      from x, weight, bias
//   backward_input   x      from y, weight, bias (bias (C): of a transposed convolution)
//   backward_weight  weight from x, y, and bias, the sums of y, if there is one
// An absent bias has no data. padding is (top, left); bottom and right follow from the shape of y.
struct Conv2dArgs {
  View x = {}, weight = {}, bias = {}, y = {};
  int64_t stride[2] = {1, 1}, padding[2] = {0, 0}, dilation[2] = {1, 1};
  int64_t groups = 1;
  void* workspace = nullptr;
  Float32Precision precision = Float32Precision::highest;  // on devices
};

// What a kernel will do for a problem. Workspace regions are offsets in elements of the compute type.
struct Conv2dPlan {
  ConvAlgorithm algorithm;
  int64_t block_pixels;  // pixels of the result per task (dweight: pixels per packed block)
  int64_t block_panels;  // panels of columns per task
  int64_t partials;      // partial sums of dweight and dbias
  int64_t zeros, bias, panels, source, staging;
  int64_t workspace_bytes;
};

struct Conv2dKernels {
  // Reads shapes, dtypes and strides of the operands, and no data.
  Conv2dPlan (*choose_algorithm)(ConvPass, const Conv2dArgs&);
  void (*forward)(const Conv2dArgs&);
  void (*backward_input)(const Conv2dArgs&);
  void (*backward_weight)(const Conv2dArgs&);
};

LAMINA_KERNEL_TABLE(Conv2dKernels, conv2d_kernels)

}  // namespace lamina
