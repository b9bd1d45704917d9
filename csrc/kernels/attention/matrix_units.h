// Which calls the matrix units take, and those calls (attention_mma.cu).
#pragma once

#include "kernels/attention/attention.h"

namespace lamina::LAMINA_DEVICE {

// Whether rows are whole pieces of 16 bytes.
inline bool has_aligned_rows(const View& x) {
  bool is_aligned = reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && columns_of(x) % 8 == 0;
  for (int i = 0; i < x.ndim - 1; ++i) is_aligned &= x.shape[i] == 1 || x.strides[i] % 8 == 0;
  return is_aligned;
}
inline bool suits_matrix_units(const AttentionArgs& a) {
  return size_of(a.query.dtype) == 2 && larger(columns_of(a.query), columns_of(a.value)) <= 128 &&
         has_aligned_rows(a.query) && has_aligned_rows(a.key) && has_aligned_rows(a.value) &&
         has_aligned_rows(a.y);
}
inline bool suits_matrix_units(const AttentionBackwardArgs& b) {
  return suits_matrix_units(b.forward) && has_aligned_rows(b.dy) && has_aligned_rows(b.dquery) &&
         has_aligned_rows(b.dkey) && has_aligned_rows(b.dvalue);
}

void forward_mma(const AttentionArgs&);
void backward_mma(const AttentionBackwardArgs&);  // D is in the workspace

}  // namespace lamina::LAMINA_DEVICE
