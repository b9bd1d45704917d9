// Compares every function of Vec with scalar arithmetic, lane by lane and bit by bit, on random values among which are
// NaN, infinities, signed zeros, halves and large numbers. Compiled by tests/test_native.py with the flags of a level.
#include <cmath>
#include <cstdio>
#include <random>

#include "simd/vec.h"

namespace lamina::LAMINA_ISA {
namespace {

int failures = 0;
std::mt19937_64 engine(1);

int64_t integer(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(engine);
}

template <class S>
S value() {
  const S x = S(std::uniform_real_distribution<double>(-2, 2)(engine));
  switch (integer(0, 11)) {
    case 0:
      return S(NAN);
    case 1:
      return S(INFINITY);
    case 2:
      return S(-INFINITY);
    case 3:
      return S(0);
    case 4:
      return S(-0.0);
    case 5:
      return x * S(1e6);
    case 6:
      return S(int(x * 10)) + S(0.5);
    case 7:
      return x * S(1e12);
    default:
      return x;
  }
}

template <class S>
bool is_same(S a, S b) {
  return (a != a && b != b) || std::memcmp(&a, &b, sizeof a) == 0;
}

template <class S>
void expect(const char* what, S got, S want) {
  if (is_same(got, want)) return;
  if (++failures <= 20) std::printf("%s: got %a, expected %a\n", what, double(got), double(want));
}

template <class S, class F>
void expect_lanes(const char* what, Vec<S> got, F want) {
  S lanes[Vec<S>::N];
  got.store(lanes);
  for (int i = 0; i < Vec<S>::N; ++i) expect(what, lanes[i], S(want(i)));
}

template <class S>
void check_floats() {
  using V = Vec<S>;
  constexpr int N = V::N;
  S a[N], b[N], c[N];
  for (int i = 0; i < N; ++i) a[i] = value<S>(), b[i] = value<S>(), c[i] = value<S>();
  const V A = V::load(a), B = V::load(b), C = V::load(c);
  // Adding zero makes the two zeros equal: min and max may give either.
  const auto larger = [](S x, S y) { return (x != x ? x : y != y ? y : x > y ? x : y) + S(0); };
  const auto smaller = [](S x, S y) { return (x != x ? x : y != y ? y : x < y ? x : y) + S(0); };

  expect_lanes("add", A + B, [&](int i) { return a[i] + b[i]; });
  expect_lanes("sub", A - B, [&](int i) { return a[i] - b[i]; });
  expect_lanes("mul", A * B, [&](int i) { return a[i] * b[i]; });
  expect_lanes("div", A / B, [&](int i) { return a[i] / b[i]; });
  expect_lanes("neg", -A, [&](int i) { return -a[i]; });
  expect_lanes("abs", abs(A), [&](int i) { return std::fabs(a[i]); });
#if defined(__FMA__) || defined(__aarch64__)
  expect_lanes("fma", fma(A, B, C), [&](int i) { return std::fma(a[i], b[i], c[i]); });
  expect_lanes("fnma", fnma(A, B, C), [&](int i) { return std::fma(-a[i], b[i], c[i]); });
#endif
  expect_lanes("sqrt", sqrt(A), [&](int i) { return std::sqrt(a[i]); });
  expect_lanes("floor", floor(A), [&](int i) { return std::floor(a[i]); });
  expect_lanes("ceil", ceil(A), [&](int i) { return std::ceil(a[i]); });
  expect_lanes("trunc", trunc(A), [&](int i) { return std::trunc(a[i]); });
  expect_lanes("round", round(A), [&](int i) { return std::nearbyint(a[i]); });
  expect_lanes("max", max(A, B) + V::zero(), [&](int i) { return larger(a[i], b[i]); });
  expect_lanes("min", min(A, B) + V::zero(), [&](int i) { return smaller(a[i], b[i]); });
  expect_lanes("lt", select(lt(A, B), A, C), [&](int i) { return a[i] < b[i] ? a[i] : c[i]; });
  expect_lanes("le", select(le(A, B), A, C), [&](int i) { return a[i] <= b[i] ? a[i] : c[i]; });
  expect_lanes("gt", select(gt(A, B), A, C), [&](int i) { return a[i] > b[i] ? a[i] : c[i]; });
  expect_lanes("ge", select(ge(A, B), A, C), [&](int i) { return a[i] >= b[i] ? a[i] : c[i]; });
  expect_lanes("eq", select(eq(A, B), A, C), [&](int i) { return a[i] == b[i] ? a[i] : c[i]; });
  expect_lanes("ne", select(ne(A, B), A, C), [&](int i) { return a[i] != b[i] ? a[i] : c[i]; });
  expect_lanes("is_nan", select(is_nan(A), B, C), [&](int i) { return a[i] != a[i] ? b[i] : c[i]; });
  expect_lanes("masks", select((lt(A, B) & ~ge(B, C)) | eq(A, C), A, C),
               [&](int i) { return (a[i] < b[i] && !(b[i] >= c[i])) || a[i] == c[i] ? a[i] : c[i]; });
  expect_lanes("iota", V::iota(), [&](int i) { return S(i); });
  expect_lanes("set1", V::set1(b[0]), [&](int) { return b[0]; });

  const int n = int(integer(0, N));
  uint8_t bytes[N];
  for (auto& byte : bytes) byte = uint8_t(integer(0, 255));
  expect_lanes("load of bytes", V::load(bytes), [&](int i) { return bytes[i]; });
  expect_lanes("load of n bytes", V::load(bytes, n), [&](int i) { return i < n ? bytes[i] : 0; });
  expect_lanes("load of n", V::load(a, n), [&](int i) { return i < n ? a[i] : S(0); });
  expect_lanes("first", select(V::first(n), A, B), [&](int i) { return i < n ? a[i] : b[i]; });
  S stored[N];
  for (S& x : stored) x = S(7);
  A.store(stored, n);
  for (int i = 0; i < N; ++i) expect("store of n", stored[i], i < n ? a[i] : S(7));

  uint32_t less = 0;
  for (int i = 0; i < N; ++i) less |= uint32_t(a[i] < b[i]) << i;
  expect("bits", double(bits(lt(A, B))), double(less));
  expect("any", double(any(lt(A, B))), double(less != 0));
  expect("all", double(all(lt(A, B))), double(less == (1u << N) - 1));

  S most = a[0], least = a[0];
  for (int i = 1; i < N; ++i) most = larger(most, a[i]), least = smaller(least, a[i]);
  expect("reduce_max", reduce_max(A) + S(0), most + S(0));
  expect("reduce_min", reduce_min(A) + S(0), least + S(0));

  S small[N], exponent[N], sum = 0;
  for (int i = 0; i < N; ++i) sum += small[i] = S(integer(0, 1000));
  expect("reduce_add", reduce_add(V::load(small)), sum);
  for (S& e : exponent) e = S(integer(V::min_exponent - 1, V::max_exponent + 1));
  expect_lanes("pow2", pow2(V::load(exponent)), [&](int i) {
    return exponent[i] < V::min_exponent ? S(0) : std::ldexp(S(1), int(exponent[i]));
  });
  for (S& e : exponent) e = S(integer(2 * V::min_exponent, 2 * V::max_exponent));
  expect_lanes("ldexp", ldexp(A, V::load(exponent)),
               [&](int i) { return std::ldexp(a[i], int(exponent[i])); });
  for (S& x : small) x = std::ldexp(S(integer(1000, 2000)) / S(2000), int(integer(-50, 50)));
  V whole;
  int k;
  expect_lanes("frexp", frexp(V::load(small), &whole), [&](int i) { return std::frexp(small[i], &k); });
  expect_lanes("exponent of frexp", whole, [&](int i) { return std::frexp(small[i], &k), S(k); });
}

template <class H>  // bf16 or f16
void check_short() {
  using V = Vec<float>;
  constexpr int N = V::N;
  H given[N], stored[N];
  float x[N];
  for (H& h : given) h.bits = uint16_t(integer(0, 0xffff));
  for (float& f : x) f = value<float>();
  const int n = int(integer(0, N));
  expect_lanes("load of short", V::load(given), [&](int i) { return to_float(given[i]); });
  expect_lanes("load of n short", V::load(given, n), [&](int i) { return i < n ? to_float(given[i]) : 0; });
  V::load(x).store(stored);
  for (int i = 0; i < N; ++i) expect("store of short", to_float(stored[i]), to_float(narrow<H>(x[i])));
  for (H& h : stored) h.bits = 0x1234;
  V::load(x).store(stored, n);
  for (int i = 0; i < N; ++i)
    expect("store of n short", to_float(stored[i]), to_float(i < n ? narrow<H>(x[i]) : H{0x1234}));
}

void check_integers() {
  using V = Vec<uint32_t>;
  uint32_t a[V::N], b[V::N], low[V::N], high[V::N], mixed[V::N];
  float shifted[V::N];
  for (int i = 0; i < V::N; ++i) a[i] = uint32_t(engine()), b[i] = uint32_t(engine());
  V L, H;
  mul_wide(V::load(a), V::load(b), &L, &H);
  L.store(low);
  H.store(high);
  ((V::load(a) + V::set1(7)) ^ (V::load(b) >> 5)).store(mixed);
  to_float(V::load(a) >> 8).store(shifted);
  for (int i = 0; i < V::N; ++i) {
    const uint64_t product = uint64_t(a[i]) * b[i];
    expect("low half", double(low[i]), double(uint32_t(product)));
    expect("high half", double(high[i]), double(uint32_t(product >> 32)));
    expect("integer arithmetic", double(mixed[i]), double((a[i] + 7) ^ (b[i] >> 5)));
    expect("to_float", shifted[i], float(a[i] >> 8));
  }
}

}  // namespace
}  // namespace lamina::LAMINA_ISA

int main() {
  using namespace lamina;
  using namespace lamina::LAMINA_ISA;
  for (int i = 0; i < 20000; ++i) {
    check_floats<float>();
    check_floats<double>();
    check_short<bf16>();
    check_short<f16>();
    check_integers();
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
