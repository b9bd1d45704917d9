// wgmma: a warp group of 128 threads multiplies tiles in shared memory, asynchronously. sm_90a only.
//
//   wgmma_fence(acc);                                       // before the first, and after registers were written
//   for (…) wgmma<bf16, N>(acc, a, b, accumulates);         // acc (64, N) = (accumulates ? acc : 0) + a b
//   wgmma_commit();
//   wgmma_wait<0>(acc);                                     // only now acc is to be read
//
// A is (64, k), B is (k, N), with k = 16 for bf16 and f16 and 8 for tf32. Warp w of the group has rows 16 w to 16 w + 15 of
// the accumulators: acc[4 j + 0..3] are the fragment C of mma.cuh for columns 8 j to 8 j + 7. N: 8, or a
// multiple of 16 up to 256.
//
// Operands are described by 64-bit descriptors. Tiles are of rows of 32, 64 or 128 bytes, swizzled as TMA writes them:
//   K-major    element (mn, k) in row mn: rows of `span` bytes; 8 rows make a group, groups follow at `stride` bytes
//   MN-major   element (mn, k) in row k; 8 rows make a group, at `stride` bytes; `leading` is from one span of mn to the
//              next. bf16 and f16 only.
// The next k of a K-major tile is advance(d, 32), of an MN-major one advance(d, 2 * stride).
#pragma once

#include "base/dtype.h"
#include "base/tensor_layout.h"
#include "prim/thread.cuh"

namespace lamina::LAMINA_DEVICE::prim {

enum class Major { k, mn };

// `shared`: begins where the swizzle's pattern does, 8 spans aligned, or is advanced from there.
LAMINA_PRIM uint64_t wgmma_descriptor(const void* shared, Swizzle swizzle, int leading, int stride) {
#if defined(LAMINA_SIM)
  return simt::wgmma_descriptor(shared, swizzle, leading, stride);
#else
  const uint64_t layout = swizzle == Swizzle::none ? 0 : uint64_t(4 - int(swizzle));
  auto field = [](uint32_t bytes) { return uint64_t((bytes & 0x3ffff) >> 4); };
  return field(shared_address(shared)) | field(uint32_t(leading)) << 16 | field(uint32_t(stride)) << 32 |
         layout << 62;
#endif
}

// Of a K-major tile whose rows are as long as the swizzle.
LAMINA_PRIM uint64_t wgmma_descriptor_k(const void* shared, Swizzle swizzle) {
  return wgmma_descriptor(shared, swizzle, 16, 8 * (16 << int(swizzle)));
}

// Of an MN-major tile: `rows` of k in each slab of one span of mn, slabs one after the other.
LAMINA_PRIM uint64_t wgmma_descriptor_mn(const void* shared, Swizzle swizzle, int rows) {
  return wgmma_descriptor(shared, swizzle, rows * (16 << int(swizzle)), 8 * (16 << int(swizzle)));
}

LAMINA_PRIM uint64_t advance(uint64_t descriptor, int bytes) { return descriptor + uint64_t(bytes >> 4); }

// Keeps the compiler from moving accesses of accumulators over what follows.
template <int Size>
LAMINA_PRIM void keep(float (&accumulators)[Size]) {
#if !defined(LAMINA_SIM)
#pragma unroll
  for (int i = 0; i < Size; ++i) asm volatile("" : "+f"(accumulators[i])::"memory");
#else
  (void)accumulators;
#endif
}

// Orders register writes before the wgmmas that follow.
template <int... Sizes>
LAMINA_PRIM void wgmma_fence(float (&... accumulators)[Sizes]) {
#if defined(LAMINA_SIM)
  ((void)accumulators, ...);
  simt::wgmma_fence();
#elif LAMINA_HAS_SM90A
  (keep(accumulators), ...);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

LAMINA_PRIM void wgmma_commit() {
#if defined(LAMINA_SIM)
  simt::wgmma_commit();
#elif LAMINA_HAS_SM90A
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Waits for all but the Pending latest groups.
template <int Pending, int... Sizes>
LAMINA_PRIM void wgmma_wait(float (&... accumulators)[Sizes]) {
#if defined(LAMINA_SIM)
  ((void)accumulators, ...);
  simt::wgmma_wait(Pending);
#elif LAMINA_HAS_SM90A
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
  (keep(accumulators), ...);
#endif
}

#if LAMINA_HAS_SM90A

// The accumulators as operands: numbers for the text and constraints, for g groups of eight.
#define LAMINA_8(i)                                                                           \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), \
      "+f"(c[i + 6]), "+f"(c[i + 7])
#define LAMINA_NUMBERS_0 "%0, %1, %2, %3"  // for N = 8
#define LAMINA_NUMBERS_1 "%0, %1, %2, %3, %4, %5, %6, %7"
#define LAMINA_NUMBERS_2 LAMINA_NUMBERS_1 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define LAMINA_NUMBERS_3 LAMINA_NUMBERS_2 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define LAMINA_NUMBERS_4 LAMINA_NUMBERS_3 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define LAMINA_NUMBERS_5 LAMINA_NUMBERS_4 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define LAMINA_NUMBERS_6 LAMINA_NUMBERS_5 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define LAMINA_NUMBERS_7 LAMINA_NUMBERS_6 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define LAMINA_NUMBERS_8 LAMINA_NUMBERS_7 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define LAMINA_NUMBERS_9 LAMINA_NUMBERS_8 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define LAMINA_NUMBERS_10 LAMINA_NUMBERS_9 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define LAMINA_NUMBERS_11 LAMINA_NUMBERS_10 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define LAMINA_NUMBERS_12 LAMINA_NUMBERS_11 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define LAMINA_NUMBERS_13 LAMINA_NUMBERS_12 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define LAMINA_NUMBERS_14 LAMINA_NUMBERS_13 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define LAMINA_NUMBERS_15 LAMINA_NUMBERS_14 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define LAMINA_NUMBERS_16 LAMINA_NUMBERS_15 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define LAMINA_OPERANDS_0 "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
#define LAMINA_OPERANDS_1 LAMINA_8(0)
#define LAMINA_OPERANDS_2 LAMINA_OPERANDS_1, LAMINA_8(8)
#define LAMINA_OPERANDS_3 LAMINA_OPERANDS_2, LAMINA_8(16)
#define LAMINA_OPERANDS_4 LAMINA_OPERANDS_3, LAMINA_8(24)
#define LAMINA_OPERANDS_5 LAMINA_OPERANDS_4, LAMINA_8(32)
#define LAMINA_OPERANDS_6 LAMINA_OPERANDS_5, LAMINA_8(40)
#define LAMINA_OPERANDS_7 LAMINA_OPERANDS_6, LAMINA_8(48)
#define LAMINA_OPERANDS_8 LAMINA_OPERANDS_7, LAMINA_8(56)
#define LAMINA_OPERANDS_9 LAMINA_OPERANDS_8, LAMINA_8(64)
#define LAMINA_OPERANDS_10 LAMINA_OPERANDS_9, LAMINA_8(72)
#define LAMINA_OPERANDS_11 LAMINA_OPERANDS_10, LAMINA_8(80)
#define LAMINA_OPERANDS_12 LAMINA_OPERANDS_11, LAMINA_8(88)
#define LAMINA_OPERANDS_13 LAMINA_OPERANDS_12, LAMINA_8(96)
#define LAMINA_OPERANDS_14 LAMINA_OPERANDS_13, LAMINA_8(104)
#define LAMINA_OPERANDS_15 LAMINA_OPERANDS_14, LAMINA_8(112)
#define LAMINA_OPERANDS_16 LAMINA_OPERANDS_15, LAMINA_8(120)

// One instruction: `shape` after m64, `text` from A on, where the predicate p says whether to accumulate.
#define LAMINA_WGMMA(shape, g, accumulates, text, ...)                                                  \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" accumulates                                         \
               ", 0;\nwgmma.mma_async.sync.aligned.m64" shape " {" LAMINA_NUMBERS_##g "}, " text ";\n}" \
               : LAMINA_OPERANDS_##g                                                                    \
               : __VA_ARGS__)

// The instructions for N columns. i0 … are the numbers of the operands that follow the accumulators.
#define LAMINA_WGMMA_N(N, g, i0, i1, i2, i3, i4)                                                        \
  if constexpr (Columns == N && dtype_of<T> == Dtype::bfloat16)                                         \
    LAMINA_WGMMA("n" #N "k16.f32.bf16.bf16", g, i2, "%" i0 ", %" i1 ", p, 1, 1, %" i3 ", %" i4, "l"(a), \
                 "l"(b), "r"(int(accumulates)), "n"(int(A)), "n"(int(B)));                              \
  if constexpr (Columns == N && dtype_of<T> == Dtype::float16)                                          \
    LAMINA_WGMMA("n" #N "k16.f32.f16.f16", g, i2, "%" i0 ", %" i1 ", p, 1, 1, %" i3 ", %" i4, "l"(a),   \
                 "l"(b), "r"(int(accumulates)), "n"(int(A)), "n"(int(B)));                              \
  if constexpr (Columns == N && dtype_of<T> == Dtype::float32)                                          \
    LAMINA_WGMMA("n" #N "k8.f32.tf32.tf32", g, i2, "%" i0 ", %" i1 ", p, 1, 1", "l"(a), "l"(b),         \
                 "r"(int(accumulates)));

// The same with A in registers.
#define LAMINA_WGMMA_R(N, g, i0, i1, i2, i3, i4, i5, i6)                                                     \
  if constexpr (Columns == N && dtype_of<T> == Dtype::bfloat16)                                              \
    LAMINA_WGMMA("n" #N "k16.f32.bf16.bf16", g, i5,                                                          \
                 "{%" i0 ", %" i1 ", %" i2 ", %" i3 "}, %" i4 ", p, 1, 1, %" i6, "r"(a[0]), "r"(a[1]),       \
                 "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulates)), "n"(int(B)));                          \
  if constexpr (Columns == N && dtype_of<T> == Dtype::float16)                                               \
    LAMINA_WGMMA("n" #N "k16.f32.f16.f16", g, i5,                                                            \
                 "{%" i0 ", %" i1 ", %" i2 ", %" i3 "}, %" i4 ", p, 1, 1, %" i6, "r"(a[0]), "r"(a[1]),       \
                 "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulates)), "n"(int(B)));                          \
  if constexpr (Columns == N && dtype_of<T> == Dtype::float32)                                               \
    LAMINA_WGMMA("n" #N "k8.f32.tf32.tf32", g, i5, "{%" i0 ", %" i1 ", %" i2 ", %" i3 "}, %" i4 ", p, 1, 1", \
                 "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulates)));

// Calls F(N, groups of eight accumulators, numbers of the seven operands after them).
#define LAMINA_FOR_COLUMNS(F)                                 \
  F(8, 0, "4", "5", "6", "7", "8", "9", "10")                 \
  F(16, 1, "8", "9", "10", "11", "12", "13", "14")            \
  F(32, 2, "16", "17", "18", "19", "20", "21", "22")          \
  F(48, 3, "24", "25", "26", "27", "28", "29", "30")          \
  F(64, 4, "32", "33", "34", "35", "36", "37", "38")          \
  F(80, 5, "40", "41", "42", "43", "44", "45", "46")          \
  F(96, 6, "48", "49", "50", "51", "52", "53", "54")          \
  F(112, 7, "56", "57", "58", "59", "60", "61", "62")         \
  F(128, 8, "64", "65", "66", "67", "68", "69", "70")         \
  F(144, 9, "72", "73", "74", "75", "76", "77", "78")         \
  F(160, 10, "80", "81", "82", "83", "84", "85", "86")        \
  F(176, 11, "88", "89", "90", "91", "92", "93", "94")        \
  F(192, 12, "96", "97", "98", "99", "100", "101", "102")     \
  F(208, 13, "104", "105", "106", "107", "108", "109", "110") \
  F(224, 14, "112", "113", "114", "115", "116", "117", "118") \
  F(240, 15, "120", "121", "122", "123", "124", "125", "126") \
  F(256, 16, "128", "129", "130", "131", "132", "133", "134")

#define LAMINA_WGMMA_SHARED(N, g, i0, i1, i2, i3, i4, i5, i6) LAMINA_WGMMA_N(N, g, i0, i1, i2, i3, i4)

#endif

// T: bf16, f16, or float for tf32.
template <class T, int Columns, Major A = Major::k, Major B = Major::k>
LAMINA_PRIM void wgmma(float (&c)[Columns / 2], uint64_t a, uint64_t b, bool accumulates) {
  static_assert(Columns == 8 || (Columns % 16 == 0 && Columns >= 16 && Columns <= 256));
  static_assert(sizeof(T) == 2 || (A == Major::k && B == Major::k));
#if defined(LAMINA_SIM)
  simt::wgmma({dtype_of<T>, Columns, A == Major::mn, B == Major::mn}, c, a, nullptr, b, accumulates);
#elif LAMINA_HAS_SM90A
  LAMINA_FOR_COLUMNS(LAMINA_WGMMA_SHARED)
#endif
}

// A in registers, each warp's 16 rows as the fragment A of mma.cuh.
template <class T, int Columns, Major B = Major::k>
LAMINA_PRIM void wgmma(float (&c)[Columns / 2], const uint32_t (&a)[4], uint64_t b, bool accumulates) {
  static_assert(Columns == 8 || (Columns % 16 == 0 && Columns >= 16 && Columns <= 256));
  static_assert(sizeof(T) == 2 || B == Major::k);
#if defined(LAMINA_SIM)
  simt::wgmma({dtype_of<T>, Columns, false, B == Major::mn}, c, 0, a, b, accumulates);
#elif LAMINA_HAS_SM90A
  LAMINA_FOR_COLUMNS(LAMINA_WGMMA_R)
#endif
}

}  // namespace lamina::LAMINA_DEVICE::prim
