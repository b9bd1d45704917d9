// Matrix fragments in the registers of a warp, and mma.sync on them. sm_80 and later; stmatrix: sm_90.
//
// With g = lane / 4 and t = lane % 4, two 16-bit elements to a register, the one of lower index in its low half:
//   A (16, 16)  a[0..3]: rows g, g + 8, g, g + 8; columns 2t, 2t, 2t + 8, 2t + 8 and the next
//   B (16, 8)   b[0..1]: rows 2t, 2t + 8 and the next; column g
//   C (16, 8)   c[0..3]: row g columns 2t, 2t + 1; row g + 8 columns 2t, 2t + 1
//   tf32, k8    a[0..3]: rows g, g + 8, g, g + 8; columns t, t, t + 4, t + 4;  b[0..1]: rows t, t + 4; column g
// All lanes of the warp call these together.
#pragma once

#include "base/dtype.h"
#include "prim/thread.cuh"

namespace lamina::LAMINA_DEVICE::prim {

// Loads Count (8, 8) matrices of 16-bit elements. Lane l has the address of the 16 bytes that are row l % 8 of matrix
// l / 8; register m of lane l gets elements (g, 2t) and (g, 2t + 1) of matrix m, or (2t, g) and (2t + 1, g) if transposed.
template <int Count, bool IsTransposed = false>
LAMINA_PRIM void load_matrices(uint32_t (&registers)[Count], const void* row) {
  static_assert(Count == 1 || Count == 2 || Count == 4);
#if defined(LAMINA_SIM)
  simt::load_matrices(registers, row, Count, IsTransposed);
#else
  const uint32_t at = shared_address(row);
  if constexpr (Count == 1 && !IsTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(registers[0])
                 : "r"(at)
                 : "memory");
  if constexpr (Count == 1 && IsTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(registers[0])
                 : "r"(at)
                 : "memory");
  if constexpr (Count == 2 && !IsTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(at)
                 : "memory");
  if constexpr (Count == 2 && IsTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(at)
                 : "memory");
  if constexpr (Count == 4 && !IsTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(at)
                 : "memory");
  if constexpr (Count == 4 && IsTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(at)
                 : "memory");
#endif
}

// The reverse of load_matrices.
template <int Count, bool IsTransposed = false>
LAMINA_PRIM void store_matrices(void* row, const uint32_t (&registers)[Count]) {
  static_assert(Count == 1 || Count == 2 || Count == 4);
#if defined(LAMINA_SIM)
  simt::store_matrices(registers, row, Count, IsTransposed);
#elif LAMINA_HAS_SM90
  const uint32_t at = shared_address(row);
  if constexpr (Count == 1 && !IsTransposed)
    asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(at), "r"(registers[0])
                 : "memory");
  if constexpr (Count == 1 && IsTransposed)
    asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(at), "r"(registers[0])
                 : "memory");
  if constexpr (Count == 2 && !IsTransposed)
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(at), "r"(registers[0]),
                 "r"(registers[1])
                 : "memory");
  if constexpr (Count == 2 && IsTransposed)
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(at),
                 "r"(registers[0]), "r"(registers[1])
                 : "memory");
  if constexpr (Count == 4 && !IsTransposed)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
                 "r"(registers[0]), "r"(registers[1]), "r"(registers[2]), "r"(registers[3])
                 : "memory");
  if constexpr (Count == 4 && IsTransposed)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
                 "r"(registers[0]), "r"(registers[1]), "r"(registers[2]), "r"(registers[3])
                 : "memory");
#endif
}

// c += a b for T bf16 or f16.
template <class T>
LAMINA_PRIM void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(LAMINA_SIM)
  simt::mma(dtype_of<T>, c, a, b);
#else
  if constexpr (dtype_of<T> == Dtype::bfloat16)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// c += a b for float32 operands, of which the unit takes the upper 19 bits: (16, 8) by (8, 8).
LAMINA_PRIM void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(LAMINA_SIM)
  simt::mma(Dtype::float32, c, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

}  // namespace lamina::LAMINA_DEVICE::prim
