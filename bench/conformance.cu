// Runs every device primitive whose result is a matter of layout or rounding, and says what came out.
//
//   conformance <folder>
//
// A line of JSON for each check: whether the outputs equal the definition in the comments of csrc/prim/, or null where
// there is none, as for rounding inside of a matrix unit. Outputs that differ, or have no definition, are written to
// <folder>/<name>.bin as 32-bit words. `python -m bench.conformance` compiles this for the GPU at hand and keeps both in
// tests/golden; tests/test_simt.py runs it on the simulated device and holds that to the definitions and to the files.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/launch.h"
#include "prim/prim.cuh"

#if !defined(LAMINA_SIM)
#include "devices/check_cuda.h"
#endif

namespace lamina::LAMINA_DEVICE {
namespace {

using Words = std::vector<uint32_t>;

struct Result {
  Words measured, defined;  // defined: empty where there is no definition
};

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

template <class T>
Words words_of(const std::vector<T>& values) {
  Words words((values.size() * sizeof(T) + 3) / 4);
  std::memcpy(words.data(), values.data(), values.size() * sizeof(T));
  return words;
}

// An array on the device and its contents.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : size_(values.size()) {
#if defined(LAMINA_SIM)
    data_ = static_cast<T*>(std::aligned_alloc(256, (size_ * sizeof(T) + 255) / 256 * 256));
    std::memcpy(data_, values.data(), size_ * sizeof(T));
#else
    check_cuda(cudaMalloc(&data_, size_ * sizeof(T)), "cudaMalloc");
    check_cuda(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
#endif
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
#if defined(LAMINA_SIM)
    std::free(data_);
#else
    cudaFree(data_);
#endif
  }
  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> out(size_);
#if defined(LAMINA_SIM)
    std::memcpy(out.data(), data_, size_ * sizeof(T));
#else
    check_cuda(cudaMemcpy(out.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "kernel");
#endif
    return out;
  }

 private:
  size_t size_;
  T* data_ = nullptr;
};

// Small integers other than 0, so that products are exact and a zero fill shows.
template <class T>
std::vector<T> integers(size_t n, uint32_t seed) {
  std::vector<T> out(n);
  for (T& x : out) {
    seed = seed * 1664525u + 1013904223u;
    x = narrow<T>(float(int(seed >> 24) % 13 - 7) + (int(seed >> 24) % 13 < 7 ? 0.0f : 1.0f));
  }
  return out;
}

// --- ldmatrix and stmatrix: lanes' registers against elements 0 to 255 of four matrices --------------------------

struct MatrixShared {
  uint16_t elements[4][8][8];
};

template <int Count, bool IsTransposed>
__global__ void __launch_bounds__(32) load_matrices_kernel(uint32_t* out) {
  auto& s = prim::shared_memory<MatrixShared>();
  const int lane = prim::lane();
  for (int i = lane; i < 256; i += 32) (&s.elements[0][0][0])[i] = uint16_t(i);
  prim::block_sync();
  uint32_t registers[Count];
  prim::load_matrices<Count, IsTransposed>(registers, s.elements[lane / 8][lane % 8]);
  for (int i = 0; i < Count; ++i) out[Count * lane + i] = registers[i];
}

template <int Count, bool IsTransposed>
__global__ void __launch_bounds__(32) store_matrices_kernel(uint32_t* out) {
  auto& s = prim::shared_memory<MatrixShared>();
  const int lane = prim::lane();
  for (int i = lane; i < 256; i += 32) (&s.elements[0][0][0])[i] = 0xffff;
  prim::block_sync();
  uint32_t registers[Count];
  for (int i = 0; i < Count; ++i)
    registers[i] = uint32_t(2 * (32 * i + lane)) | uint32_t(2 * (32 * i + lane) + 1) << 16;
  prim::store_matrices<Count, IsTransposed>(s.elements[lane / 8][lane % 8], registers);
  prim::block_sync();
  for (int i = lane; i < 128; i += 32) out[i] = reinterpret_cast<uint32_t*>(&s.elements[0][0][0])[i];
}

template <int Count, bool IsTransposed>
Result load_matrices() {
  DeviceArray<uint32_t> out(Words(32 * Count));
  launch("load_matrices", load_matrices_kernel<Count, IsTransposed>,
         {.grid = {1}, .block = {32}, .shared = sizeof(MatrixShared)}, out.data());
  Words defined;
  for (int lane = 0; lane < 32; ++lane)
    for (int m = 0; m < Count; ++m) {
      const int g = lane / 4, t = lane % 4;
      auto element = [&](int i) {
        return uint32_t(64 * m + (IsTransposed ? 8 * (2 * t + i) + g : 8 * g + 2 * t + i));
      };
      defined.push_back(element(0) | element(1) << 16);
    }
  return {out.values(), defined};
}

template <int Count, bool IsTransposed>
Result store_matrices() {
  DeviceArray<uint32_t> out(Words(128));
  launch("store_matrices", store_matrices_kernel<Count, IsTransposed>,
         {.grid = {1}, .block = {32}, .shared = sizeof(MatrixShared)}, out.data());
  std::vector<uint16_t> defined(256, 0xffff);
  for (int lane = 0; lane < 32; ++lane)
    for (int m = 0; m < Count; ++m)
      for (int i = 0; i < 2; ++i) {
        const int row = IsTransposed ? 2 * (lane % 4) + i : lane / 4;
        const int column = IsTransposed ? lane / 4 : 2 * (lane % 4) + i;
        defined[size_t(64 * m + 8 * row + column)] = uint16_t(2 * (32 * m + lane) + i);
      }
  return {out.values(), words_of(defined)};
}

// --- mma.sync: c (16, 8) = a (16, k) b (k, 8) + c; fragments are filled as csrc/prim/mma.cuh says ------------------

template <class T>
constexpr int k_of = sizeof(T) == 4 ? 8 : 16;

template <class T>
__device__ uint32_t fragment_word(const T* first, int stride) {
  uint32_t word = 0;
  if constexpr (sizeof(T) == 4)
    memcpy(&word, first, 4);
  else
    word = uint32_t(first[0].bits) | uint32_t(first[stride].bits) << 16;
  return word;
}

template <class T>
__global__ void __launch_bounds__(32) mma_kernel(const T* a, const T* b, float* c) {
  constexpr int k = k_of<T>;
  const int g = prim::lane() / 4, t = prim::lane() % 4, wide = sizeof(T) == 4 ? 1 : 2;
  uint32_t left[4], right[2];
  float sum[4];
  for (int r = 0; r < 4; ++r)
    left[r] = fragment_word(a + (g + 8 * (r % 2)) * k + wide * t + 4 * wide * (r / 2), 1);
  for (int r = 0; r < 2; ++r) right[r] = fragment_word(b + (wide * t + 4 * wide * r) * 8 + g, 8);
  for (int r = 0; r < 4; ++r) sum[r] = c[(g + 8 * (r / 2)) * 8 + 2 * t + r % 2];
  if constexpr (sizeof(T) == 4)
    prim::mma_tf32(sum, left, right);
  else
    prim::mma<T>(sum, left, right);
  for (int r = 0; r < 4; ++r) c[(g + 8 * (r / 2)) * 8 + 2 * t + r % 2] = sum[r];
}

template <class T>
std::vector<float> run_mma(const std::vector<T>& a, const std::vector<T>& b, const std::vector<float>& c) {
  DeviceArray<T> left(a), right(b);
  DeviceArray<float> sum(c);
  launch("mma", mma_kernel<T>, {.grid = {1}, .block = {32}}, left.data(), right.data(), sum.data());
  return sum.values();
}

// c (M, N) + a b, with a (M, K) and b (K, N) read through functions of their indices.
template <class A, class B>
Words product(int M, int N, int K, const std::vector<float>& c, A a, B b) {
  Words out;
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n) {
      float sum = c.empty() ? 0.0f : c[size_t(m * N + n)];
      for (int k = 0; k < K; ++k) sum += a(m, k) * b(k, n);
      out.push_back(bits_of(sum));
    }
  return out;
}

template <class T>
Result mma_layout() {
  constexpr int k = k_of<T>;
  const auto a = integers<T>(16 * k, 1), b = integers<T>(k * 8, 2);
  const auto c = integers<float>(16 * 8, 3);
  return {words_of(run_mma(a, b, c)),
          product(
              16, 8, k, c, [&](int m, int i) { return widen(a[size_t(m * k + i)]); },
              [&](int i, int n) { return widen(b[size_t(i * 8 + n)]); })};
}

// How sums are rounded: c = ±2^24, where an ulp is 2, plus products of 2^-6 to 2^5 in each row, of either sign.
template <class T>
void rounding_operands(std::vector<T>& a, std::vector<T>& b, std::vector<float>& c, int rows, int columns) {
  constexpr int k = k_of<T>;
  a.resize(size_t(rows * k));
  b.resize(size_t(k * columns));
  c.resize(size_t(rows * columns));
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < k; ++j)
      a[size_t(i * k + j)] = narrow<T>(std::ldexp(j % 3 == 2 ? -1.0f : 1.0f, i % 12 - 6));
  for (int j = 0; j < k; ++j)
    for (int n = 0; n < columns; ++n) b[size_t(j * columns + n)] = narrow<T>(j <= 2 * (n % 8) ? 1.25f : 0.0f);
  for (int i = 0; i < rows * columns; ++i) c[size_t(i)] = i % 2 ? -16777216.0f : 16777216.0f;
}

template <class T>
Result mma_rounding() {
  std::vector<T> a, b;
  std::vector<float> c;
  rounding_operands(a, b, c, 16, 8);
  return {words_of(run_mma(a, b, c)), {}};
}

// Which bits of a float32 operand tf32 takes.
Result tf32_operands() {
  std::vector<float> a(16 * 8), b(8 * 8), c(16 * 8);
  for (int i = 0; i < 16; ++i) a[size_t(i * 8)] = 1.0f + std::ldexp(1.0f, -8 - i) + std::ldexp(1.0f, -23);
  for (int n = 0; n < 8; ++n) b[size_t(n)] = n % 2 ? -1.0f : 1.0f;
  return {words_of(run_mma(a, b, c)), {}};
}

// --- wgmma: c (64, 64) = a (64, K) b (K, 64), operands in each layout, laid out by TMA where they are swizzled ----

struct WgmmaShared {
  alignas(1024) char a[8192];
  alignas(1024) char b[8192];
  prim::Mbarrier full;
};

template <class T>
struct WgmmaArgs {
  prim::TensorMap map_a, map_b;
  const T *a, *b;
  float* c;
};

template <class T, Swizzle S>
constexpr int depth = S == Swizzle::none ? k_of<T> : (16 << int(S)) / int(sizeof(T));

// Loads x, (64, K) if K-major and (K, 64) if not, and describes it.
template <class T, Swizzle S, prim::Major Order>
__device__ uint64_t load_operand(char* shared, const prim::TensorMap& map, const T* x, prim::Mbarrier* full) {
  constexpr int K = depth<T, S>, per_chunk = 16 / int(sizeof(T)), span = (16 << int(S)) / int(sizeof(T));
  if constexpr (S == Swizzle::none) {
    for (int i = int(threadIdx.x); i < 64 * K; i += int(blockDim.x)) {
      const int mn = i / K, k = i % K;
      if constexpr (Order == prim::Major::k) {
        const int at = mn / 8 * 256 + k / per_chunk * 128 + mn % 8 * 16 + k % per_chunk * int(sizeof(T));
        memcpy(shared + at, x + mn * K + k, sizeof(T));
      } else {
        const int at = k / 8 * 1024 + mn / per_chunk * 128 + k % 8 * 16 + mn % per_chunk * int(sizeof(T));
        memcpy(shared + at, x + k * 64 + mn, sizeof(T));
      }
    }
    return Order == prim::Major::k ? prim::wgmma_descriptor(shared, S, 128, 256)
                                   : prim::wgmma_descriptor(shared, S, 1024, 128);
  } else if constexpr (Order == prim::Major::k) {
    if (threadIdx.x == 0) prim::tensor_load(shared, map, {0, 0}, full);
    return prim::wgmma_descriptor_k(shared, S);
  } else {
    if (threadIdx.x == 0)
      for (int i = 0; i < 64 / span; ++i)
        prim::tensor_load(shared + i * K * (16 << int(S)), map, {i * span, 0}, full);
    return prim::wgmma_descriptor_mn(shared, S, K);
  }
}

template <class T, Swizzle S, prim::Major A, prim::Major B, bool InRegisters>
__global__ void __launch_bounds__(128) wgmma_kernel(const __grid_constant__ WgmmaArgs<T> args) {
  if constexpr (prim::has_wgmma) {
    constexpr int K = depth<T, S>, steps = K / k_of<T>;
    auto& s = prim::shared_memory<WgmmaShared>();
    if (threadIdx.x == 0) {
      prim::mbarrier_init(&s.full, 1);
      prim::fence_mbarrier_init();
      if (S != Swizzle::none) prim::mbarrier_expect(&s.full, 2 * 64 * K * int(sizeof(T)));
    }
    prim::block_sync();
    const uint64_t a = load_operand<T, S, A>(s.a, args.map_a, args.a, &s.full);
    const uint64_t b = load_operand<T, S, B>(s.b, args.map_b, args.b, &s.full);
    prim::fence_async();
    if (threadIdx.x == 0) prim::mbarrier_arrive(&s.full);
    prim::mbarrier_wait(&s.full, 0);
    prim::block_sync();
    const int warp = prim::warp(), g = prim::lane() / 4, t = prim::lane() % 4, wide = sizeof(T) == 4 ? 1 : 2;
    auto index = [&](int i) { return (16 * warp + g + 8 * (i / 2 % 2)) * 64 + i / 4 * 8 + 2 * t + i % 2; };
    float c[32];
    for (int i = 0; i < 32; ++i) c[i] = args.c[index(i)];
    uint32_t rows[steps][4];
    if constexpr (InRegisters)
      for (int i = 0; i < steps; ++i)
        for (int r = 0; r < 4; ++r) {
          const int row = 16 * warp + g + 8 * (r % 2), k = i * k_of<T> + wide * t + 4 * wide * (r / 2);
          rows[i][r] = fragment_word(args.a + row * K + k, 1);
        }
    prim::wgmma_fence(c);
#pragma unroll
    for (int i = 0; i < steps; ++i) {
      const uint64_t b_step = prim::advance(b, i * (B == prim::Major::k ? 32 : 2 * 8 * (16 << int(S))));
      if constexpr (InRegisters) {
        prim::wgmma<T, 64, B>(c, rows[i], b_step, true);
      } else {
        const uint64_t a_step = prim::advance(a, i * (A == prim::Major::k ? 32 : 2 * 8 * (16 << int(S))));
        prim::wgmma<T, 64, A, B>(c, a_step, b_step, true);
      }
    }
    prim::wgmma_commit();
    prim::wgmma_wait<0>(c);
    for (int i = 0; i < 32; ++i) args.c[index(i)] = c[i];
  }
}

template <class T, Swizzle S, prim::Major A, prim::Major B, bool InRegisters = false>
std::vector<float> run_wgmma(const std::vector<T>& a, const std::vector<T>& b, const std::vector<float>& c) {
  constexpr int K = depth<T, S>, span = (16 << int(S)) / int(sizeof(T));
  DeviceArray<T> left(a), right(b);
  DeviceArray<float> sum(c);
  auto map = [&](T* x, prim::Major order) {
    if (S == Swizzle::none) return prim::TensorMap{};
    const bool is_k = order == prim::Major::k;
    return prim::encode({.data = x,
                         .dtype = dtype_of<T>,
                         .rank = 2,
                         .dims = {is_k ? K : 64, is_k ? 64 : K},
                         .strides = {0, (is_k ? K : 64) * int64_t(sizeof(T))},
                         .box = {span, is_k ? 64 : K},
                         .swizzle = S});
  };
  const WgmmaArgs<T> args = {map(left.data(), A), map(right.data(), B), left.data(), right.data(),
                             sum.data()};
  launch("wgmma", wgmma_kernel<T, S, A, B, InRegisters>,
         {.grid = {1}, .block = {128}, .shared = sizeof(WgmmaShared)}, args);
  return sum.values();
}

template <class T, Swizzle S, prim::Major A, prim::Major B, bool InRegisters = false>
Result wgmma_layout() {
  constexpr int K = depth<T, S>;
  const auto a = integers<T>(64 * K, 1), b = integers<T>(64 * K, 2);
  const auto c = integers<float>(64 * 64, 3);
  return {words_of(run_wgmma<T, S, A, B, InRegisters>(a, b, c)),
          product(
              64, 64, K, c,
              [&](int m, int k) { return widen(a[size_t(A == prim::Major::k ? m * K + k : k * 64 + m)]); },
              [&](int k, int n) { return widen(b[size_t(B == prim::Major::k ? n * K + k : k * 64 + n)]); })};
}

template <class T>
Result wgmma_rounding() {
  std::vector<T> a, b;
  std::vector<float> c;
  rounding_operands(a, b, c, 64, 64);
  return {words_of(run_wgmma<T, Swizzle::none, prim::Major::k, prim::Major::mn>(a, b, c)), {}};
}

// --- TMA -------------------------------------------------------------------------------------------------------------

struct TileShared {
  alignas(1024) uint32_t tile[2048];
  prim::Mbarrier full;
};

struct TileArgs {
  prim::TensorMap map;
  int at[5], offsets[3];
  int words;
  bool is_im2col;
  uint32_t* out;
};

template <int Rank>
__global__ void __launch_bounds__(128) tile_load_kernel(const __grid_constant__ TileArgs args) {
  auto& s = prim::shared_memory<TileShared>();
  int at[Rank];
  for (int i = 0; i < Rank; ++i) at[i] = args.at[i];
  if (threadIdx.x == 0) {
    prim::mbarrier_init(&s.full, 1);
    prim::fence_mbarrier_init();
    prim::mbarrier_arrive_expect(&s.full, 4 * args.words);
    if (!args.is_im2col) prim::tensor_load(s.tile, args.map, at, &s.full);
    if constexpr (Rank >= 3) {
      int offsets[Rank - 2];
      for (int i = 0; i < Rank - 2; ++i) offsets[i] = args.offsets[i];
      if (args.is_im2col) prim::tensor_load_im2col(s.tile, args.map, at, offsets, &s.full);
    }
  }
  prim::block_sync();
  prim::mbarrier_wait(&s.full, 0);
  for (int i = int(threadIdx.x); i < args.words; i += 128) args.out[i] = s.tile[i];
}

// A tile of float32 0, 1, 2, … as it lies in shared memory. `expected`: element of the tile to element of the tensor,
// or -1 where there is none.
template <int Rank, class F>
Result tile_load(TensorLayout layout, std::vector<int> at, std::vector<int> offsets, int words, F expected) {
  int64_t elements = 1;
  for (int d = 0; d < Rank; ++d) elements *= layout.dims[d];
  std::vector<float> x(static_cast<size_t>(elements));
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(i + 1);
  DeviceArray<float> tensor(x);
  DeviceArray<uint32_t> out(Words(static_cast<size_t>(words)));
  layout.data = tensor.data();
  layout.rank = Rank;
  for (int d = 1; d < Rank; ++d)
    layout.strides[d] = d > 1 ? layout.strides[d - 1] * layout.dims[d - 1] : 4 * layout.dims[0];
  TileArgs args = {prim::encode(layout), {}, {}, words, layout.is_im2col, out.data()};
  for (size_t i = 0; i < at.size(); ++i) args.at[i] = at[i];
  for (size_t i = 0; i < offsets.size(); ++i) args.offsets[i] = offsets[i];
  launch("tile_load", tile_load_kernel<Rank>, {.grid = {1}, .block = {128}, .shared = sizeof(TileShared)},
         args);
  Words defined(static_cast<size_t>(words));
  for (int i = 0; i < words; ++i) {
    const int64_t element = expected(i);
    const int byte = 4 * i, swizzled = byte ^ ((byte >> 7 & ((1 << int(layout.swizzle)) - 1)) << 4);
    defined[size_t(swizzled / 4)] = bits_of(element < 0 ? 0.0f : x[size_t(element)]);
  }
  return {out.values(), defined};
}

// A box that begins at (-3, 20) of a (40, 50) tensor (innermost axis first), so that it leaves it on two sides.
template <Swizzle S>
Result tile_swizzle() {
  constexpr int row = S == Swizzle::none ? 8 : (16 << int(S)) / 4;
  return tile_load<2>({.dims = {40, 50}, .box = {row, 40}, .swizzle = S}, {-3, 20}, {}, 40 * row, [](int i) {
    const int x = i % row - 3, y = i / row + 20;
    return x >= 0 && y < 50 ? y * 40 + x : -1;
  });
}

Result tile_of_four_axes() {
  return tile_load<4>({.dims = {8, 5, 6, 7}, .box = {8, 2, 3, 2}}, {4, 4, -1, 6}, {}, 8 * 2 * 3 * 2,
                      [](int i) {
                        const int x = i % 8 + 4, y = i / 8 % 2 + 4, z = i / 16 % 3 - 1, w = i / 48 + 6;
                        return x < 8 && y < 5 && z >= 0 && w < 7 ? ((w * 6 + z) * 5 + y) * 8 + x : -1;
                      });
}

Result tile_with_steps() {
  return tile_load<2>({.dims = {16, 30}, .box = {16, 20}, .steps = {1, 3}}, {0, 5}, {}, 16 * 7,
                      [](int i) { return (i / 16 * 3 + 5) < 30 ? (i / 16 * 3 + 5) * 16 + i % 16 : -1; });
}

// The pixels under tap (offset_h, offset_w) of a 3 x 3 filter with padding 1: 8 channels of a (2, 5, 6) image, from
// output pixel `first` on.
template <int Stride>
Result tile_im2col() {
  constexpr int W = 6, H = 5, N = 2, pixels = 16, first = 3, offset_w = 2, offset_h = 1;
  constexpr int columns = (W - 1) / Stride + 1, rows = (H - 1) / Stride + 1;
  const TensorLayout layout = {.dims = {8, W, H, N},
                               .steps = {1, Stride, Stride, 1, 1},
                               .is_im2col = true,
                               .lower = {-1, -1},
                               .upper = {-1, -1},
                               .channels = 8,
                               .pixels = pixels};
  const int w = first % columns * Stride - 1, h = first / columns % rows * Stride - 1;
  return tile_load<4>(layout, {0, w, h, 0}, {offset_w, offset_h}, 8 * pixels, [](int i) {
    const int pixel = first + i / 8, x = pixel % columns * Stride - 1 + offset_w,
              y = pixel / columns % rows * Stride - 1 + offset_h, n = pixel / (columns * rows);
    return x >= 0 && x < W && y >= 0 && y < H && n < N ? ((n * H + y) * W + x) * 8 + i % 8 : -1;
  });
}

// A swizzled tile stored, then added to, over the edge of a (40, 50) tensor.
template <bool Adds>
__global__ void __launch_bounds__(128) tile_store_kernel(const __grid_constant__ prim::TensorMap map) {
  auto& s = prim::shared_memory<TileShared>();
  for (int i = int(threadIdx.x); i < 32 * 40; i += 128)
    s.tile[(4 * i ^ ((4 * i >> 7 & 7) << 4)) / 4] = prim::bit_cast<uint32_t>(float(i + 1));
  prim::fence_async();
  prim::block_sync();
  if (threadIdx.x == 0) {
    if (Adds)
      prim::tensor_add(map, {20, -8}, s.tile);
    else
      prim::tensor_store(map, {20, -8}, s.tile);
    prim::bulk_commit();
    prim::bulk_wait<0>();
  }
}

template <bool Adds>
Result tile_store() {
  DeviceArray<float> x(std::vector<float>(40 * 50, 1.0f));
  const prim::TensorMap map = prim::encode({.data = x.data(),
                                            .dtype = Dtype::float32,
                                            .rank = 2,
                                            .dims = {40, 50},
                                            .strides = {0, 160},
                                            .box = {32, 40},
                                            .swizzle = Swizzle::b128});
  launch("tile_store", tile_store_kernel<Adds>, {.grid = {1}, .block = {128}, .shared = sizeof(TileShared)},
         map);
  Words defined;
  for (int y = 0; y < 50; ++y)
    for (int column = 0; column < 40; ++column) {
      const bool is_written = y < 32 && column >= 20;
      const float written = float((y + 8) * 32 + column - 20 + 1) + (Adds ? 1.0f : 0.0f);
      defined.push_back(bits_of(is_written ? written : 1.0f));
    }
  return {words_of(x.values()), defined};
}

// Bytes in a row: in, on to the other block of a cluster, and out.
struct BulkShared {
  alignas(128) uint32_t in[256], from_other[256];
  prim::Mbarrier full[2];
};

__global__ void __launch_bounds__(32) bulk_kernel(const uint32_t* x, uint32_t* y) {
  auto& s = prim::shared_memory<BulkShared>();
  const int rank = prim::cluster_rank();
  const bool is_first = threadIdx.x == 0;
  if (is_first) {
    for (auto& barrier : s.full) {
      prim::mbarrier_init(&barrier, 1);
      prim::mbarrier_arrive_expect(&barrier, sizeof(s.in));
    }
    prim::fence_mbarrier_init();
  }
  prim::cluster_sync();
  if (is_first) prim::bulk_load(s.in, x + 256 * rank, sizeof(s.in), &s.full[0]);
  prim::mbarrier_wait(&s.full[0], 0);
  if (is_first) prim::bulk_copy_remote(s.from_other, s.in, sizeof(s.in), &s.full[1], rank ^ 1);
  prim::mbarrier_wait_cluster(&s.full[1], 0);
  if (is_first) {
    prim::bulk_store(y + 256 * rank, s.from_other, sizeof(s.in));
    prim::bulk_commit();
    prim::bulk_wait<0>();
  }
  prim::cluster_sync();
}

Result bulk_copies() {
  Words x(512), defined(512);
  for (uint32_t i = 0; i < 512; ++i) {
    x[i] = i;
    defined[i] = i ^ 256;
  }
  DeviceArray<uint32_t> from(x), to(Words(512));
  launch("bulk", bulk_kernel, {.grid = {2}, .block = {32}, .shared = sizeof(BulkShared), .cluster = {2}},
         from.data(), to.data());
  return {to.values(), defined};
}

// --- warps and conversions -------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(32) warp_kernel(uint32_t* out) {
  const int lane = prim::lane();
  const uint32_t results[] = {uint32_t(prim::shuffle_xor(lane, 5)),
                              uint32_t(prim::shuffle_up(lane, 3)),
                              uint32_t(prim::shuffle_down(lane, 3)),
                              uint32_t(prim::shuffle_from(lane, 7)),
                              prim::ballot(lane % 3 == 0),
                              prim::any(lane == 31),
                              prim::all(lane < 31),
                              uint32_t(prim::warp_sum(lane)),
                              uint32_t(prim::warp_max<8>(lane)),
                              uint32_t(prim::shuffle_xor(int64_t(lane) << 33, 1) >> 33)};
  for (int i = 0; i < 10; ++i) out[10 * lane + i] = results[i];
}

Result warps() {
  DeviceArray<uint32_t> out(Words(320));
  launch("warps", warp_kernel, {.grid = {1}, .block = {32}}, out.data());
  Words defined;
  for (uint32_t l = 0; l < 32; ++l)
    for (uint32_t x :
         {l ^ 5, l < 3 ? l : l - 3, l + 3 < 32 ? l + 3 : l, 7u, 0x49249249u, 1u, 0u, 496u, l | 7, l ^ 1})
      defined.push_back(x);
  return {out.values(), defined};
}

template <class T>
__global__ void __launch_bounds__(128) convert_kernel(const float* x, uint32_t* out, int n) {
  for (int i = 2 * int(threadIdx.x); i < n; i += 256) {
    const T single = prim::narrow<T>(x[i]);
    const auto pair = prim::narrow_pair<T>(x[i], x[i + 1]);
    const uint32_t bits = prim::bit_cast<uint32_t>(prim::widen(single));
    out[i] = uint32_t(single.bits) | uint32_t(pair[1].bits) << 16;
    out[i + 1] = bits;
  }
}

// All exponents, and mantissas about each tie.
template <class T>
Result conversions() {
  std::vector<float> x;
  for (uint32_t exponent = 0; exponent < 255; ++exponent)
    for (uint32_t mantissa : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0x18000u, 0xfffu, 0x1000u, 0x1001u, 0x3000u,
                              0x7fffffu, 0x400000u, 0x7f8000u, 0x7ff000u}) {
      const uint32_t bits = exponent << 23 | mantissa;
      float value;
      std::memcpy(&value, &bits, 4);
      x.push_back(value);
      x.push_back(-value);
    }
  x.push_back(INFINITY);
  x.push_back(-INFINITY);
  DeviceArray<float> from(x);
  DeviceArray<uint32_t> to(Words(x.size()));
  launch("convert", convert_kernel<T>, {.grid = {1}, .block = {128}}, from.data(), to.data(), int(x.size()));
  Words defined;
  for (size_t i = 0; i < x.size(); i += 2) {
    defined.push_back(uint32_t(narrow<T>(x[i]).bits) | uint32_t(narrow<T>(x[i + 1]).bits) << 16);
    defined.push_back(bits_of(widen(narrow<T>(x[i]))));
  }
  return {to.values(), defined};
}

struct Check {
  const char* name;
  int architecture;  // the first that has it
  Result (*run)();
};

constexpr auto K = prim::Major::k, MN = prim::Major::mn;

const Check checks[] = {
    {"warps", 80, warps},
    {"convert_bf16", 80, conversions<bf16>},
    {"convert_f16", 80, conversions<f16>},
    {"load_matrices_1", 80, load_matrices<1, false>},
    {"load_matrices_2", 80, load_matrices<2, false>},
    {"load_matrices_4", 80, load_matrices<4, false>},
    {"load_matrices_1_transposed", 80, load_matrices<1, true>},
    {"load_matrices_2_transposed", 80, load_matrices<2, true>},
    {"load_matrices_4_transposed", 80, load_matrices<4, true>},
    {"store_matrices_1", 90, store_matrices<1, false>},
    {"store_matrices_2", 90, store_matrices<2, false>},
    {"store_matrices_4", 90, store_matrices<4, false>},
    {"store_matrices_1_transposed", 90, store_matrices<1, true>},
    {"store_matrices_2_transposed", 90, store_matrices<2, true>},
    {"store_matrices_4_transposed", 90, store_matrices<4, true>},
    {"mma_bf16", 80, mma_layout<bf16>},
    {"mma_f16", 80, mma_layout<f16>},
    {"mma_tf32", 80, mma_layout<float>},
    {"mma_bf16_rounding", 80, mma_rounding<bf16>},
    {"mma_f16_rounding", 80, mma_rounding<f16>},
    {"mma_tf32_rounding", 80, mma_rounding<float>},
    {"tf32_operands", 80, tf32_operands},
    {"tile_none", 90, tile_swizzle<Swizzle::none>},
    {"tile_b32", 90, tile_swizzle<Swizzle::b32>},
    {"tile_b64", 90, tile_swizzle<Swizzle::b64>},
    {"tile_b128", 90, tile_swizzle<Swizzle::b128>},
    {"tile_of_four_axes", 90, tile_of_four_axes},
    {"tile_with_steps", 90, tile_with_steps},
    {"tile_im2col", 90, tile_im2col<1>},
    {"tile_im2col_stride_2", 90, tile_im2col<2>},
    {"tile_store", 90, tile_store<false>},
    {"tile_add", 90, tile_store<true>},
    {"bulk_copies", 90, bulk_copies},
    {"wgmma_bf16_none_k", 90, wgmma_layout<bf16, Swizzle::none, K, K>},
    {"wgmma_bf16_b32_k", 90, wgmma_layout<bf16, Swizzle::b32, K, K>},
    {"wgmma_bf16_b64_k", 90, wgmma_layout<bf16, Swizzle::b64, K, K>},
    {"wgmma_bf16_b128_k", 90, wgmma_layout<bf16, Swizzle::b128, K, K>},
    {"wgmma_bf16_none_mn", 90, wgmma_layout<bf16, Swizzle::none, MN, MN>},
    {"wgmma_bf16_b32_mn", 90, wgmma_layout<bf16, Swizzle::b32, MN, MN>},
    {"wgmma_bf16_b64_mn", 90, wgmma_layout<bf16, Swizzle::b64, MN, MN>},
    {"wgmma_bf16_b128_mn", 90, wgmma_layout<bf16, Swizzle::b128, MN, MN>},
    {"wgmma_bf16_b128_k_mn", 90, wgmma_layout<bf16, Swizzle::b128, K, MN>},
    {"wgmma_bf16_b128_mn_k", 90, wgmma_layout<bf16, Swizzle::b128, MN, K>},
    {"wgmma_bf16_b128_registers", 90, wgmma_layout<bf16, Swizzle::b128, K, K, true>},
    {"wgmma_f16_b128_k", 90, wgmma_layout<f16, Swizzle::b128, K, K>},
    {"wgmma_f16_b128_registers_mn", 90, wgmma_layout<f16, Swizzle::b128, K, MN, true>},
    {"wgmma_bf16_rounding", 90, wgmma_rounding<bf16>},
    {"wgmma_f16_rounding", 90, wgmma_rounding<f16>},
    {"wgmma_tf32_none_k", 90, wgmma_layout<float, Swizzle::none, K, K>},
    {"wgmma_tf32_b32_k", 90, wgmma_layout<float, Swizzle::b32, K, K>},
    {"wgmma_tf32_b64_k", 90, wgmma_layout<float, Swizzle::b64, K, K>},
    {"wgmma_tf32_b128_k", 90, wgmma_layout<float, Swizzle::b128, K, K>},
    {"wgmma_tf32_b128_registers", 90, wgmma_layout<float, Swizzle::b128, K, K, true>},
};

}  // namespace

// The number of checks that failed.
int conform(const std::string& folder) {
  int failures = 0;
  for (const Check& check : checks) {
    const int architecture = device_properties().architecture;
    const bool is_wgmma = std::strncmp(check.name, "wgmma", 5) == 0;
    if (architecture < check.architecture || (is_wgmma && architecture != 90)) continue;
    const char* verdict = "false";
    try {
      const Result r = check.run();
      verdict = r.defined.empty() ? "null" : r.measured == r.defined ? "true" : "false";
      if (r.measured != r.defined) {
        std::ofstream out(folder + "/" + check.name + ".bin", std::ios::binary);
        out.write(reinterpret_cast<const char*>(r.measured.data()), std::streamsize(4 * r.measured.size()));
      }
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s: %s\n", check.name, error.what());
    }
    failures += std::strcmp(verdict, "false") == 0;
    std::printf("{\"name\": \"%s\", \"is_as_defined\": %s}\n", check.name, verdict);
  }
  return failures;
}

}  // namespace lamina::LAMINA_DEVICE

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: conformance <folder>\n");
    return 2;
  }
  try {
    return lamina::LAMINA_DEVICE::conform(argv[1]) ? 1 : 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
