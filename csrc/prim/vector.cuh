// Pack<T, N>: N elements that move in one instruction, and their loads and stores.
//
// Addresses are aligned to the pack. A pack of more than 16 bytes moves in pieces of 16. `streaming`: data that this
// kernel touches once and that should not displace others from the caches.
#pragma once

#include <cstring>

#include "prim/thread.cuh"

namespace lamina::LAMINA_DEVICE::prim {

template <class T, int N>
struct alignas(sizeof(T) * N <= 16 ? sizeof(T) * N : 16) Pack {
  T v[N];
  LAMINA_PRIM T& operator[](int i) { return v[i]; }
  LAMINA_PRIM const T& operator[](int i) const { return v[i]; }
};

// Elements of T in 16 bytes.
template <class T>
inline constexpr int vector_of = 16 / int(sizeof(T));

// True iff p may be loaded as packs of `bytes` bytes.
template <class T>
LAMINA_HD inline bool is_aligned(const T* p, int64_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(p) % uintptr_t(bytes) == 0;
}

#if defined(LAMINA_SIM)

template <int N, class T>
inline Pack<T, N> load_vector(const T* p) {
  Pack<T, N> pack;
  simt::check_aligned(p, alignof(Pack<T, N>));
  std::memcpy(&pack, p, sizeof(pack));
  return pack;
}
template <int N, class T>
inline void store_vector(T* p, const Pack<T, N>& pack) {
  simt::check_aligned(p, alignof(Pack<T, N>));
  std::memcpy(p, &pack, sizeof(pack));
}
template <int N, class T>
inline Pack<T, N> load_vector_streaming(const T* p) {
  return load_vector<N>(p);
}
template <int N, class T>
inline void store_vector_streaming(T* p, const Pack<T, N>& pack) {
  store_vector(p, pack);
}

#else

// The machine word that a pack moves as, or moves as several of.
template <int Bytes>
struct Word;
template <>
struct Word<1> {
  using type = uint8_t;
};
template <>
struct Word<2> {
  using type = uint16_t;
};
template <>
struct Word<4> {
  using type = uint32_t;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

// Calls move(i) for each word of the pack, with the pack as words.
template <class T, int N, class F>
LAMINA_PRIM void for_words(F move) {
  using W = typename Word<alignof(Pack<T, N>)>::type;
#pragma unroll
  for (int i = 0; i < int(sizeof(Pack<T, N>) / sizeof(W)); ++i) move(i, W{});
}

template <int N, class T>
LAMINA_PRIM Pack<T, N> load_vector(const T* p) {
  Pack<T, N> pack;
  for_words<T, N>(
      [&]<class W>(int i, W) { reinterpret_cast<W*>(&pack)[i] = reinterpret_cast<const W*>(p)[i]; });
  return pack;
}
template <int N, class T>
LAMINA_PRIM void store_vector(T* p, const Pack<T, N>& pack) {
  for_words<T, N>(
      [&]<class W>(int i, W) { reinterpret_cast<W*>(p)[i] = reinterpret_cast<const W*>(&pack)[i]; });
}

// From and to global memory.
template <int N, class T>
LAMINA_PRIM Pack<T, N> load_vector_streaming(const T* p) {
  Pack<T, N> pack;
  for_words<T, N>(
      [&]<class W>(int i, W) { reinterpret_cast<W*>(&pack)[i] = __ldcs(reinterpret_cast<const W*>(p) + i); });
  return pack;
}
template <int N, class T>
LAMINA_PRIM void store_vector_streaming(T* p, const Pack<T, N>& pack) {
  for_words<T, N>(
      [&]<class W>(int i, W) { __stcs(reinterpret_cast<W*>(p) + i, reinterpret_cast<const W*>(&pack)[i]); });
}

#endif

}  // namespace lamina::LAMINA_DEVICE::prim
