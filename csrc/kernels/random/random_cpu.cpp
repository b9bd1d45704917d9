#include "kernels/random/random.h"

#include "base/parallel.h"
#include "kernels/random/philox.h"
#include "simd/vec.h"

namespace lamina::LAMINA_ISA {
namespace {

using U = Philox::U;
using V = Vec<float>;
constexpr int64_t tile_words = random_words_per_tile;
constexpr int64_t tiles_per_chunk = 256;  // 16k words, about 8 us

// Calls make(out, i, tile) for each tile of `size` elements of y, the first being i; the last tile may be
// written to a buffer of which only a part is kept.
template <int Size, class T, class F>
LAMINA_INLINE void generate(T* y, int64_t n, const F& make) {
  parallel_ranges((n + Size - 1) / Size, tiles_per_chunk, [&](int64_t begin, int64_t end) {
    T last[Size];
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t i = tile * Size, count = n - i;
      make(count < Size ? last : y + i, i, tile);
      if (count < Size) __builtin_memcpy(y + i, last, size_t(count) * sizeof(T));
    }
  });
}

// 64-bit number e of a tile, e < 32: words w and w + 1 of counter l, where e = 16 * w / 2 + l.
struct Pairs {
  uint32_t words[tile_words];
  LAMINA_INLINE Pairs(const Philox& philox, int64_t tile) {
    U w[4][Philox::vectors];
    philox.generate(tile, w);
    for (int k = 0; k < 4; ++k)
      for (int v = 0; v < Philox::vectors; ++v) w[k][v].store(words + 16 * k + v * U::N);
  }
  LAMINA_INLINE uint64_t operator[](int e) const {
    const int first = e / 16 * 32 + e % 16;
    return uint64_t(words[first]) << 32 | words[first + 16];
  }
};

LAMINA_INLINE double unit_double(uint64_t bits) { return double(bits >> 11) * 0x1p-53; }

// --- uniform ----------------------------------------------------------------------------------------------------

template <class T>
void uniform_float(const UniformArgs& a) {
  constexpr int digits = sizeof(T) == 4 ? 24 : 8;  // as many as T holds, so that rounding never reaches 1
  const Philox philox(a.state);
  const V scale = V::set1(float(a.high - a.low) / float(1 << digits)), low = V::set1(float(a.low));
  generate<tile_words>(a.y.as<T>(), a.y.size(), [&](T* out, int64_t, int64_t tile) {
    U w[4][Philox::vectors];
    philox.generate(tile, w);
    for (int k = 0; k < 4; ++k)
      for (int v = 0; v < Philox::vectors; ++v)
        (low + scale * to_float(w[k][v] >> (32 - digits))).store(out + 16 * k + v * U::N);
  });
}

void uniform_double(const UniformArgs& a) {
  const Philox philox(a.state);
  generate<tile_words / 2>(a.y.as<double>(), a.y.size(), [&](double* out, int64_t, int64_t tile) {
    const Pairs bits(philox, tile);
    for (int e = 0; e < tile_words / 2; ++e) out[e] = a.low + (a.high - a.low) * unit_double(bits[e]);
  });
}

void uniform(const UniformArgs& a) {
  switch (a.y.dtype) {
    case Dtype::float32:
      return uniform_float<float>(a);
    case Dtype::bfloat16:
      return uniform_float<bf16>(a);
    default:
      return uniform_double(a);
  }
}

// --- normal -----------------------------------------------------------------------------------------------------

// ln(u) for normal u in (0, 1]: u = 2^e * (1 + x) with 1 + x in [sqrt(1/2), sqrt(2)), polynomial of Cephes
// logf.
LAMINA_INLINE V log_unit(V u) {
  V e;
  const V m = frexp(u, &e);
  const V one = V::set1(1.0f);
  const auto is_low = lt(m, V::set1(0.707106781186547524f));
  e = select(is_low, e - one, e);
  const V x = select(is_low, m + m, m) - one;
  V p = V::set1(7.0376836292e-2f);
  for (float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                  2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
    p = p * x + V::set1(c);
  const V xx = x * x;
  // ln 2 in two parts: e times the first is exact.
  return x * xx * p + e * V::set1(-2.12194440e-4f) - V::set1(0.5f) * xx + x + e * V::set1(0.693359375f);
}

// cos and sin of a uniform angle from 32 random bits: one bit reflects at the diagonal, one negates, and the
// others place the angle in (-pi/4, pi/4), where the polynomials of Cephes sinf and cosf hold.
LAMINA_INLINE void random_direction(U bits, V* x, V* y) {
  const V half = V::set1(0.5f);
  const auto is_swapped = gt(to_float((bits + bits) >> 31), half);
  const auto is_negative = gt(to_float(bits >> 31), half);
  const U twice = bits + bits, rest = (twice + twice) >> 8;  // the 24 bits below the two
  const V t = (to_float(rest) + half) * V::set1(0x1p-24f) - half;
  const V a = t * V::set1(1.57079632679489662f), z = a * a;
  const V s =
      ((V::set1(-1.9515295891e-4f) * z + V::set1(8.3321608736e-3f)) * z + V::set1(-1.6666654611e-1f)) * z *
          a +
      a;
  const V c = ((V::set1(2.443315711809948e-5f) * z + V::set1(-1.388731625493765e-3f)) * z +
               V::set1(4.166664568298827e-2f)) *
                  z * z -
              half * z + V::set1(1.0f);
  const V u = select(is_swapped, s, c), v = select(is_swapped, c, s);
  *x = select(is_negative, -u, u);
  *y = select(is_negative, -v, v);
}

template <class T>
void normal_float(const NormalArgs& a) {
  const Philox philox(a.state);
  const V mean = V::set1(float(a.mean)), std = V::set1(float(a.std));
  generate<tile_words>(a.y.as<T>(), a.y.size(), [&](T* out, int64_t, int64_t tile) {
    U w[4][Philox::vectors];
    philox.generate(tile, w);
#pragma GCC unroll 4
    for (int v = 0; v < Philox::vectors; ++v) {
#pragma GCC unroll 2
      for (int k = 0; k < 4; k += 2) {
        // The half keeps u above 0; r ends at sqrt(50 ln 2) = 5.9.
        const V u = (to_float(w[k][v] >> 8) + V::set1(0.5f)) * V::set1(0x1p-24f);
        const V r = std * sqrt(V::set1(-2.0f) * log_unit(u));
        V x, y;
        random_direction(w[k + 1][v], &x, &y);
        (mean + r * x).store(out + 16 * k + v * U::N);
        (mean + r * y).store(out + 16 * k + 16 + v * U::N);
      }
    }
  });
}

void normal_double(const NormalArgs& a) {
  const Philox philox(a.state);
  generate<tile_words / 2>(a.y.as<double>(), a.y.size(), [&](double* out, int64_t, int64_t tile) {
    const Pairs bits(philox, tile);
    for (int l = 0; l < 16; ++l) {
      const double r = a.std * __builtin_sqrt(-2.0 * __builtin_log(1.0 - unit_double(bits[l])));
      const double angle = 6.283185307179586 * unit_double(bits[16 + l]);
      out[l] = a.mean + r * __builtin_cos(angle);
      out[16 + l] = a.mean + r * __builtin_sin(angle);
    }
  });
}

void normal(const NormalArgs& a) {
  switch (a.y.dtype) {
    case Dtype::float32:
      return normal_float<float>(a);
    case Dtype::bfloat16:
      return normal_float<bf16>(a);
    default:
      return normal_double(a);
  }
}

// --- integers ---------------------------------------------------------------------------------------------------

// floor(u * range) with u = bits * 2^-64.
LAMINA_INLINE uint64_t below(uint64_t range, uint64_t bits) {
  return uint64_t((unsigned __int128)(bits)*range >> 64);
}

template <class T>
void randint_typed(const RandintArgs& a) {
  const Philox philox(a.state);
  const uint64_t range = uint64_t(a.high) - uint64_t(a.low);
  generate<tile_words / 2>(a.y.as<T>(), a.y.size(), [&](T* out, int64_t, int64_t tile) {
    const Pairs bits(philox, tile);
    for (int e = 0; e < tile_words / 2; ++e) out[e] = T(uint64_t(a.low) + below(range, bits[e]));
  });
}

void randint(const RandintArgs& a) {
  switch (a.y.dtype) {
    case Dtype::uint8:
      return randint_typed<uint8_t>(a);
    case Dtype::int32:
      return randint_typed<int32_t>(a);
    default:
      return randint_typed<int64_t>(a);
  }
}

void randperm(const RandpermArgs& a) {
  const Philox philox(a.state);
  const int64_t n = a.y.size();
  int64_t* y = a.y.as<int64_t>();
  for (int64_t i = 0; i < n; ++i) y[i] = i;
  for (int64_t i = 0; i < n; i += tile_words / 2) {
    const Pairs bits(philox, i / (tile_words / 2));
    for (int64_t k = i; k < n && k < i + tile_words / 2; ++k) {
      const int64_t other = k + int64_t(below(uint64_t(n - k), bits[int(k - i)]));
      const int64_t value = y[k];
      y[k] = y[other];
      y[other] = value;
    }
  }
}

// --- bernoulli --------------------------------------------------------------------------------------------------

template <class T>
void bernoulli_typed(const BernoulliArgs& a) {
  const Philox philox(a.state);
  const int64_t n = a.y.size();
  const T* p = a.p.as<const T>();
  generate<tile_words>(a.y.as<T>(), n, [&](T* out, int64_t i, int64_t tile) {
    U w[4][Philox::vectors];
    philox.generate(tile, w);
    float u[tile_words];
    for (int k = 0; k < 4; ++k)
      for (int v = 0; v < Philox::vectors; ++v)
        (to_float(w[k][v] >> 8) * V::set1(0x1p-24f)).store(u + 16 * k + v * U::N);
    const int count = int(n - i < tile_words ? n - i : tile_words);
    for (int e = 0; e < count; ++e)
      out[e] = narrow<T>(Compute<T>(u[e]) < widen(p[i + e]) ? Compute<T>(1) : Compute<T>(0));
  });
}

void bernoulli(const BernoulliArgs& a) {
  dispatch_float(a.y.dtype, [&](auto t) { bernoulli_typed<typename decltype(t)::type>(a); });
}

void advance(const AdvanceArgs& a) {
  int64_t* state = a.state.as<int64_t>();
  if (a.before) __builtin_memcpy(a.before.data, state, 16);
  state[1] += a.tiles;
}

}  // namespace

const RandomKernels random_kernels = {uniform, normal, randint, bernoulli, randperm, advance};

}  // namespace lamina::LAMINA_ISA
