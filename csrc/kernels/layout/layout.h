// Moving elements without computing on them: copies between any two layouts, and fills.
//
//   copy   dst[i0, i1, …] = src[i0, i1, …]     for views of one shape and one element size (1, 2, 4 or 8 bytes)
//   fill   dst[i0, i1, …] = value
//
// Everything that changes a memory layout is a copy: contiguous() and channels_last(), concatenation (one
// copy into a slice of the result per operand), reversal (a source with negative strides), broadcasting (with
// zero strides). Traffic: each element is read and written once; the kernel is bound by memory as long as
// both sides use whole cache lines. The plan therefore depends on strides only:
//
//   1. Drop axes of extent 1, order the axes by the stride of dst, merge neighbours that are dense in
//      both views. The last axis now is the one along which dst is densest; call it B.
//   2. If src is densest along B too: rows. A row is a memcpy (1 -> 1), a broadcast (0 -> 1), a reversal
//      (-1 -> 1) or a strided loop.
//   3. Otherwise src is densest along another axis, A, and each (A, B) plane is transposed in blocks of 16 KB,
//      a block in register tiles:
//
//            src: A ->                    V = 16 bytes of elements, L = 16-byte lanes of a register.
//         B  +------+  L*V rows of V      Lane l of register i takes row l*V + i of the tile; log2(V) stages
//         of |  | tile |  elements           interleaving within lanes transpose it, and register j is column
//         j: v  +------+                     L*V consecutive elements of dst.
//
//      The tiles of a block meet in an L1 buffer, from where dst is written in runs of 256 bytes: rows a
//      power of two apart share one L1 set, so tiles written to dst directly would evict each other half
//      filled.
#pragma once

#include "base/kernel_table.h"
#include "base/view.h"

namespace lamina {

struct CopyArgs {
  View src, dst;  // same shape and element size; src strides may be negative; dst elements are distinct
};

struct FillArgs {
  View dst;
  uint64_t bits;  // the element, in its low bytes
};

struct TriangleArgs {
  View x, y;  // (B, M, N), contiguous, any dtype
  int64_t k;
  bool is_upper;
};

struct RangeArgs {
  View y;  // (n), contiguous, float or integer; floats are computed in float64 and rounded once
  double start, step;
};

struct LayoutKernels {
  void (*copy)(const CopyArgs&);
  void (*fill)(const FillArgs&);
  void (*triangle)(const TriangleArgs&);
  void (*range)(const RangeArgs&);
};

LAMINA_KERNEL_TABLE(LayoutKernels, layout_kernels)

}  // namespace lamina
