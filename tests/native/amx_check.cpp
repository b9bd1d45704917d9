// Products of bfloat16 matrices by AMX tiles against float64 sums, through the entry that matmul and linear use.
//
// Compiled by tests/test_native.py with LAMINA_EMULATE_AMX, for machines without tile instructions, and without it, to
// run where there are any. Integers keep every sum exact: results must equal the float64 value rounded once, bit by
// bit.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "kernels/gemm/gemm_cpu.cpp"

namespace lamina::LAMINA_ISA {
namespace {

int failures = 0;
std::mt19937_64 engine(1);

// A matrix of bfloat16 in memory of its own, with a value between any two neighbours that no kernel may touch.
struct Operand {
  std::vector<bf16> memory;
  View view;

  enum Layout { rows, columns, strided, per_column, layout_count };

  Operand(int64_t M, int64_t N, Layout layout) {
    view.dtype = Dtype::bfloat16;
    view.ndim = 2;
    view.shape[0] = M, view.shape[1] = N;
    const int64_t strides[layout_count][2] = {{N + 3, 1}, {1, M + 5}, {3 * N + 1, 3}, {0, 1}};
    view.strides[0] = strides[layout][0], view.strides[1] = strides[layout][1];
    memory.resize(size_t((M - 1) * view.strides[0] + (N - 1) * view.strides[1] + 1));
    view.data = memory.data();
  }
  bf16& at(int64_t i, int64_t j) { return memory[size_t(i * view.strides[0] + j * view.strides[1])]; }
  double value(int64_t i, int64_t j) { return double(to_float(at(i, j))); }
  template <class F>
  void fill(const F& f) {
    for (bf16& x : memory) x = to_bf16(f());
  }
};

float integer() { return float(int(engine() % 17) - 8); }
float real() { return std::normal_distribution<float>()(engine); }

void expect(bool ok, const char* what, int64_t M, int64_t N, int64_t K, double got, double want) {
  if (ok) return;
  if (++failures <= 20)
    std::printf("%s (%d, %d, %d): got %g, expected %g\n", what, int(M), int(N), int(K), got, want);
}

// a and b in the given layouts; with `epilogue`, y = relu(alpha a b + beta c + bias) + residual.
void check(int64_t M, int64_t N, int64_t K, Operand::Layout a_layout, Operand::Layout b_layout,
           Operand::Layout y_layout, bool epilogue, bool is_exact) {
  Operand a(M, K, a_layout), b(K, N, b_layout), y(M, N, y_layout), pre(M, N, Operand::rows);
  Operand c(M, N, Operand::columns), bias(M, N, Operand::per_column), residual(M, N, Operand::strided);
  for (Operand* x : {&a, &b, &c, &bias, &residual}) x->fill(is_exact ? integer : real);
  if (is_exact && M > 2) a.at(0, K / 2) = to_bf16(INFINITY), a.at(1, K - 1) = to_bf16(NAN);
  y.fill([] { return 77.0f; });
  GemmArgs args{.a = a.view, .b = b.view, .y = y.view};
  if (epilogue) {
    args.c = c.view, args.bias = bias.view, args.residual = residual.view, args.pre = pre.view;
    args.alpha = 0.5, args.beta = -2, args.activation = Activation::relu;
  }
  LAMINA_ISA::gemm_kernels.gemm(args);

  for (int64_t i = 0; i < M; ++i)
    for (int64_t j = 0; j < N; ++j) {
      double want = 0, magnitude = 0;
      for (int64_t k = 0; k < K; ++k) {
        want += a.value(i, k) * b.value(k, j);
        magnitude += std::fabs(a.value(i, k) * b.value(k, j));
      }
      if (epilogue) {
        want = 0.5 * want - 2 * c.value(i, j) + bias.value(i, j);
        magnitude += 2 * std::fabs(c.value(i, j)) + std::fabs(bias.value(i, j));
      }
      const auto agrees = [&](double got, double want) {
        if (want != want || is_exact) return std::memcmp(&got, &want, 8) == 0 || (got != got && want != want);
        // One rounding to bfloat16; a term passes 16 sums in a tile, two between tiles, and the epilogue's.
        return std::fabs(got - want) <=
               0x1p-8 * std::fabs(want) + (16 + double(K) / 16 + 8) * 0x1p-24 * magnitude;
      };
      const auto rounded = [&](double x) { return is_exact ? double(to_float(to_bf16(float(x)))) : x; };
      if (epilogue) {
        expect(agrees(pre.value(i, j), rounded(want)), "pre", M, N, K, pre.value(i, j), rounded(want));
        want = (want < 0 ? 0 : want) + residual.value(i, j);
        magnitude += std::fabs(residual.value(i, j));
      }
      expect(agrees(y.value(i, j), rounded(want)), "y", M, N, K, y.value(i, j), rounded(want));
      y.at(i, j) = to_bf16(77.0f);
    }
  for (bf16 x : y.memory)
    expect(to_float(x) == 77, "memory between the elements of y", M, N, K, to_float(x), 77);
}

// The numbers of a product of tiles that no sum of ordinary values shows.
void check_numbers() {
  const auto product = [](float a0, float b0, float a1, float b1, float sum) {
    bf16 a[amx_tile] = {}, b[amx_tile] = {};
    float c[amx_lines * amx_lines] = {sum};
    a[0] = to_bf16(a0), a[1] = to_bf16(a1), b[0] = to_bf16(b0), b[1] = to_bf16(b1);
    Tiles tiles;
    tiles.load<0>(c, 64), tiles.load<4>(a, 64), tiles.load<6>(b, 64);
    tiles.multiply<0, 4, 6>();
    tiles.store<0>(c, 64);
    return c[0];
  };
  const auto equal = [](const char* what, float got, float want) {
    expect(got == want, what, 1, 1, 2, got, want);
  };
  equal("a pair and a sum", product(2, 3, 5, 7, 100), 141);
  equal("denormal operand", product(0x1p-127f, 0x1p100f, 0, 0, 0), 0);
  equal("denormal product", product(0x1p-70f, 0x1p-60f, 0, 0, 0), 0);
  equal("denormal sum", product(0, 0, 0, 0, 0x1p-130f), 0);
  equal("smallest normal product", product(0x1p-70f, 0x1p-56f, 0, 0, 0), 0x1p-126f);
  equal("half to even, down", product(1, 1, 0, 0, 0x1p24f), 0x1p24f);
  equal("half to even, up", product(1, 1, 0, 0, 0x1p24f + 2), 0x1p24f + 4);
}

void check_sizes() {
  // Around a tile's 16 rows and columns, a block's 32 and a tile's 32 k; several chunks; several blocks of k.
  const int64_t sizes[] = {16, 17, 31, 32, 33, 63, 65, 100},
                depths[] = {1, 15, 16, 17, 31, 32, 33, 63, 65, 100};
  int64_t index = 0;
  const auto layout = [&](int64_t divisor) { return Operand::Layout(index / divisor % 3); };
  for (int64_t M : sizes)
    for (int64_t N : sizes)
      for (int64_t K : depths) {
        if (M * N * K >= amx_work)
          check(M, N, K, layout(1), layout(3), layout(9), index / 27 % 2 != 0, index % 5 != 0);
        ++index;
      }
  for (int a = 0; a < 3; ++a)
    for (int b = 0; b < 3; ++b)
      check(70, 50, 530, Operand::Layout(a), Operand::Layout(b), Operand::rows, a != b, a == b);
  check(600, 530, 40, Operand::rows, Operand::columns, Operand::rows, true, true);
  check(530, 600, 290, Operand::rows, Operand::rows, Operand::rows, false, false);
  for (int64_t n : {1, 15})
    check(n, 300, 300, Operand::rows, Operand::rows, Operand::rows, true, true);  // other paths
}

}  // namespace
}  // namespace lamina::LAMINA_ISA

int main() {
  using namespace lamina;
  using namespace lamina::LAMINA_ISA;
  if (!has_tiles()) return std::printf("no tiles\n"), 1;
  check_numbers();
  for (int threads : {1, 2}) {
    set_num_threads(threads);
    check_sizes();
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
