// Random numbers on a GPU: the same numbers as on the CPU (random.h), for the same state. So that their bits agree too,
// this file is compiled without contraction to FMA, and logarithm, sine and cosine of normal float32 numbers are the
// same polynomials; float64 has the device's own functions and differs in the last places.
//
// A thread takes a counter (philox.cuh). A permutation is shuffled by all threads at once and is still the one that the
// loop over swaps gives:
//
//   for k = 0 … n - 1: swap y[k], y[other[k]],   other[k] >= k drawn by the k-th number
//
// Before swap k, position p >= k holds what the last swap m < k with other[m] = p brought there: the content of position
// m before swap m. If there is none, it still holds p. So y[k] follows a chain: (p, at) = (other[k], k), then (m, m) as
// long as there is an m < at with other[m] = p, and ends with p. Chains are O(log n) long on average; the m of a position
// are found by binary search among the entries (other[m], m), sorted.
#include "kernels/random/random.h"

#include "kernels/layout/sort.cuh"
#include "kernels/random/philox.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

constexpr int words = random_words_per_tile, pairs = words / 2;

using Words = prim::Pack<uint32_t, 4>;

// Number h (0 or 1) of 64 bits of a counter; numbers of a counter are 16 apart.
LAMINA_PRIM uint64_t pair(const Words& w, int h) { return uint64_t(w[2 * h]) << 32 | w[2 * h + 1]; }

LAMINA_PRIM double unit_double(uint64_t bits) { return double(bits >> 11) * 0x1p-53; }

template <class T>
LAMINA_PRIM void put(T* y, int64_t n, int64_t i, Compute<T> value) {
  if (i < n) y[i] = prim::narrow<T>(value);
}

// --- uniform -----------------------------------------------------------------------------------------------------

template <class T>
__global__ __launch_bounds__(spread_threads) void uniform_kernel(T* y, int64_t n, const int64_t* state,
                                                                 double low, double high) {
  if constexpr (dtype_of<T> == Dtype::float64) {
    for_counters<pairs>(n, state, [&](int64_t i, const Words& w) {
      for (int h = 0; h < 2; ++h) put(y, n, i + 16 * h, low + (high - low) * unit_double(pair(w, h)));
    });
  } else {  // as many bits as T holds, so that rounding never reaches 1
    constexpr int digits = dtype_of<T> == Dtype::bfloat16 ? 8 : dtype_of<T> == Dtype::float16 ? 11 : 24;
    const float scale = float(high - low) / float(1 << digits), start = float(low);
    for_counters<words>(n, state, [&](int64_t i, const Words& w) {
#pragma unroll
      for (int k = 0; k < 4; ++k) put(y, n, i + 16 * k, start + scale * float(w[k] >> (32 - digits)));
    });
  }
}

void uniform(const UniformArgs& a) {
  const int64_t n = a.y.size();
  dispatch_device_float(a.y.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    launch("uniform", uniform_kernel<T>, spread_counters<sizeof(T) == 8 ? pairs : words>(n), a.y.as<T>(), n,
           a.state.as<const int64_t>(), a.low, a.high);
  });
}

// --- normal ------------------------------------------------------------------------------------------------------

// ln(u) for normal u in (0, 1]: u = 2^e * (1 + x) with 1 + x in [sqrt(1/2), sqrt(2)), polynomial of Cephes logf.
LAMINA_PRIM float log_unit(float u) {
  uint32_t bits;
  memcpy(&bits, &u, 4);
  float e = float(int(bits >> 23) - 126), m;
  bits = (bits & 0x007fffffu) | 0x3f000000u;  // the mantissa in [1/2, 1)
  memcpy(&m, &bits, 4);
  const bool is_low = m < 0.707106781186547524f;
  e = is_low ? e - 1.0f : e;
  const float x = (is_low ? m + m : m) - 1.0f, xx = x * x;
  float p = 7.0376836292e-2f;
  p = p * x + -1.1514610310e-1f;
  p = p * x + 1.1676998740e-1f;
  p = p * x + -1.2420140846e-1f;
  p = p * x + 1.4249322787e-1f;
  p = p * x + -1.6668057665e-1f;
  p = p * x + 2.0000714765e-1f;
  p = p * x + -2.4999993993e-1f;
  p = p * x + 3.3333331174e-1f;
  // ln 2 in two parts: e times the first is exact.
  return x * xx * p + e * -2.12194440e-4f - 0.5f * xx + x + e * 0.693359375f;
}

// cos and sin of a uniform angle from 32 random bits: one bit reflects at the diagonal, one negates, and the others
// place the angle in (-pi/4, pi/4), where the polynomials of Cephes sinf and cosf hold.
LAMINA_PRIM void random_direction(uint32_t bits, float* x, float* y) {
  const float t = (float(bits << 2 >> 8) + 0.5f) * 0x1p-24f - 0.5f;
  const float a = t * 1.57079632679489662f, z = a * a;
  const float s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z + -1.6666654611e-1f) * z * a + a;
  const float c = ((2.443315711809948e-5f * z + -1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z -
                  0.5f * z + 1.0f;
  const bool is_swapped = bits >> 30 & 1, is_negative = bits >> 31;
  const float u = is_swapped ? s : c, v = is_swapped ? c : s;
  *x = is_negative ? -u : u;
  *y = is_negative ? -v : v;
}

template <class T>
__global__ __launch_bounds__(spread_threads) void normal_kernel(T* y, int64_t n, const int64_t* state,
                                                                double mean, double std) {
  if constexpr (dtype_of<T> == Dtype::float64) {
    for_counters<pairs>(n, state, [&](int64_t i, const Words& w) {
      const double r = std * prim::sqrt(-2.0 * prim::log(1.0 - unit_double(pair(w, 0))));
      const double angle = 6.283185307179586 * unit_double(pair(w, 1));
      put(y, n, i, mean + r * prim::cos(angle));
      put(y, n, i + 16, mean + r * prim::sin(angle));
    });
  } else {
    const float center = float(mean), scale = float(std);
    for_counters<words>(n, state, [&](int64_t i, const Words& w) {
#pragma unroll
      for (int k = 0; k < 4; k += 2) {
        const float u = (float(w[k] >> 8) + 0.5f) * 0x1p-24f;  // above 0; r ends at sqrt(50 ln 2) = 5.9
        const float r = scale * prim::sqrt(-2.0f * log_unit(u));
        float x, z;
        random_direction(w[k + 1], &x, &z);
        put(y, n, i + 16 * k, center + r * x);
        put(y, n, i + 16 * k + 16, center + r * z);
      }
    });
  }
}

void normal(const NormalArgs& a) {
  const int64_t n = a.y.size();
  dispatch_device_float(a.y.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    launch("normal", normal_kernel<T>, spread_counters<sizeof(T) == 8 ? pairs : words>(n), a.y.as<T>(), n,
           a.state.as<const int64_t>(), a.mean, a.std);
  });
}

// --- integers ----------------------------------------------------------------------------------------------------

template <class T>
__global__ __launch_bounds__(spread_threads) void randint_kernel(T* y, int64_t n, const int64_t* state,
                                                                 uint64_t low, uint64_t range) {
  for_counters<pairs>(n, state, [&](int64_t i, const Words& w) {
    for (int h = 0; h < 2; ++h) put(y, n, i + 16 * h, T(low + prim::multiply_high(pair(w, h), range)));
  });
}

void randint(const RandintArgs& a) {
  const int64_t n = a.y.size();
  const auto run = [&](auto t) {
    using T = typename decltype(t)::type;
    launch("randint", randint_kernel<T>, spread_counters<pairs>(n), a.y.as<T>(), n,
           a.state.as<const int64_t>(), uint64_t(a.low), uint64_t(a.high) - uint64_t(a.low));
  };
  switch (a.y.dtype) {
    case Dtype::uint8:
      return run(Type<uint8_t>{});
    case Dtype::int32:
      return run(Type<int32_t>{});
    default:
      return run(Type<int64_t>{});
  }
}

// y[k] = other[k], and its entry.
__global__ __launch_bounds__(spread_threads) void swaps_kernel(int64_t* y, Entry* swaps, int64_t n,
                                                               const int64_t* state) {
  for_counters<pairs>(n, state, [&](int64_t i, const Words& w) {
    for (int h = 0; h < 2; ++h) {
      const int64_t k = i + 16 * h;
      if (k >= n) break;
      y[k] = k + int64_t(prim::multiply_high(pair(w, h), uint64_t(n - k)));
      swaps[k] = {y[k], k};
    }
  });
}

__global__ __launch_bounds__(spread_threads) void shuffle_kernel(int64_t* y, const Entry* swaps, int64_t n) {
  for_items(n, [&](int64_t k) {
    int64_t position = y[k], at = k;
    for (;;) {
      const int64_t next = find_entry(swaps, 0, n, {position, at});
      if (next == 0 || swaps[next - 1].place != position) break;
      position = at = swaps[next - 1].source;
    }
    y[k] = position;
  });
}

void randperm(const RandpermArgs& a) {
  const int64_t n = a.y.size();
  const DeviceScratch<Entry> unsorted(n), spare(n);
  int64_t* y = a.y.as<int64_t>();
  launch("swaps", swaps_kernel, spread_counters<pairs>(n), y, unsorted.data(), n,
         a.state.as<const int64_t>());
  const Entry* swaps = sort_entries(unsorted, spare, n);
  launch("shuffle", shuffle_kernel, spread(n), y, swaps, n);
}

// --- bernoulli ---------------------------------------------------------------------------------------------------

template <class T>
__global__ __launch_bounds__(spread_threads) void bernoulli_kernel(const T* p, T* y, int64_t n,
                                                                   const int64_t* state) {
  for_counters<words>(n, state, [&](int64_t i, const Words& w) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int64_t at = i + 16 * k;
      const Compute<T> u = float(w[k] >> 8) * 0x1p-24f;
      if (at < n) y[at] = prim::narrow<T>(u < prim::widen(p[at]) ? Compute<T>(1) : Compute<T>(0));
    }
  });
}

void bernoulli(const BernoulliArgs& a) {
  const int64_t n = a.y.size();
  dispatch_device_float(a.y.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    launch("bernoulli", bernoulli_kernel<T>, spread_counters<words>(n), a.p.as<const T>(), a.y.as<T>(), n,
           a.state.as<const int64_t>());
  });
}

// --- state -------------------------------------------------------------------------------------------------------

__global__ __launch_bounds__(1) void advance_kernel(int64_t* state, int64_t* before, int64_t tiles) {
  if (before) {
    before[0] = state[0];
    before[1] = state[1];
  }
  state[1] += tiles;
}

void advance(const AdvanceArgs& a) {
  launch("advance", advance_kernel, {.grid = {1}, .block = {1}}, a.state.as<int64_t>(),
         a.before.as<int64_t>(), a.tiles);
}

}  // namespace

const RandomKernels random_kernels = {uniform, normal, randint, bernoulli, randperm, advance};

}  // namespace lamina::LAMINA_DEVICE
