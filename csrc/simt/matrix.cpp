// Matrix units: ldmatrix, stmatrix, mma.sync and wgmma.
//
// Fragments, with g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
//   A (16, 16)  registers 0 to 3: rows g, g + 8, g, g + 8; columns 2t, 2t, 2t + 8, 2t + 8 and the next one
//   B (16, 8)   registers 0, 1: rows 2t, 2t + 8 and the next one; column g
//   C (16, 8)   0 to 3: row g columns 2t, 2t + 1, then row g + 8; wgmma has one such block for each 8 columns
//   tf32, k8    A registers: rows g, g + 8, g, g + 8; columns t, t, t + 4, t + 4. B: rows t, t + 4; column g
//
// Products are exact and are summed exactly with the accumulator over the k of an instruction; the sum is cut, not
// rounded, to float32. Whether a tensor core keeps more or fewer bits has not been compared.
#include <cstring>

#include "simt/state.h"

namespace lamina::simt {
namespace {

constexpr int max_k = 16;

using Left = double[16][max_k];    // A of a warp
using Right = double[max_k][256];  // B

int k_of(Dtype t) { return t == Dtype::float32 ? 8 : 16; }

// Element i of a word of the fragment: two 16-bit elements, or one of 32 bits, of which tf32 has the upper 19.
double element(Dtype t, uint32_t word, int i) {
  const auto half = uint16_t(word >> (16 * i));
  if (t == Dtype::bfloat16) return to_float(bf16{half});
  if (t == Dtype::float16) return to_float(f16{half});
  float f;
  word &= 0xffffe000u;
  std::memcpy(&f, &word, 4);
  return f;
}

float truncated(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, 8);
  bits &= ~uint64_t(0x1fffffff);
  std::memcpy(&x, &bits, 8);
  return float(x);
}

// c (16, n) = (accumulates ? c : 0) + a (16, k) b (k, n). Half of the simulator's time in matrix products.
#if defined(__x86_64__)
[[gnu::target_clones("avx512f", "avx2", "default")]]
#endif
[[gnu::optimize("O3")]] void multiply(float* c, const Left& a, const Right& b, int k, int n,
                                      bool accumulates) {
  for (int i = 0; i < 16; ++i) {
    double sum[256];
    for (int j = 0; j < n; ++j) sum[j] = accumulates ? c[i * n + j] : 0.0;
    for (int l = 0; l < k; ++l)
      for (int j = 0; j < n; ++j) sum[j] += a[i][l] * b[l][j];
    for (int j = 0; j < n; ++j) c[i * n + j] = truncated(sum[j]);
  }
}

// Register r of the lane's A: rows g and g + 8, first and second half of k.
void unpack_a(Left& a, Dtype t, int lane, const uint32_t* registers) {
  const int g = lane / 4, c = lane % 4;
  for (int r = 0; r < 4; ++r) {
    const int row = g + 8 * (r % 2);
    if (t == Dtype::float32) {
      a[row][c + 4 * (r / 2)] = element(t, registers[r], 0);
    } else {
      for (int i = 0; i < 2; ++i) a[row][2 * c + 8 * (r / 2) + i] = element(t, registers[r], i);
    }
  }
}

// Calls visit(register, row, column) for the accumulators of a lane, n columns.
template <class F>
void for_accumulators(int lane, int n, F visit) {
  for (int j = 0; j < n / 8; ++j)
    for (int r = 0; r < 4; ++r) visit(4 * j + r, lane / 4 + 8 * (r / 2), 8 * j + 2 * (lane % 4) + r % 2);
}

struct Fragments {
  float* accumulators;
  const uint32_t *a, *b;
};

struct Rows {
  uint32_t* registers;
  char* row;
};

// ldmatrix and stmatrix: lane l has the address of row l % 8 of matrix l / 8.
void move_matrices(const char* name, Rows rows, int count, bool is_transposed, bool is_load) {
  const int lane = engine().running().lane;
  if (lane < 8 * count) {
    is_load ? tsan::read(rows.row, 16) : tsan::write(rows.row, 16);
    const tsan::Ignore ignore;
    if (!is_load) require(90, name);
    check_aligned(rows.row, 16);
    locate(rows.row, 16, name);
  }
  const tsan::Ignore ignore;
  meet(name, 0xffffffffu, &rows, [=](void* const* operands, uint32_t) {
    auto of = [&](int l) -> Rows& { return *static_cast<Rows*>(operands[l]); };
    for (int matrix = 0; matrix < count; ++matrix)
      for (int l = 0; l < warp_size; ++l)
        for (int i = 0; i < 2; ++i) {
          int row = l / 4, column = 2 * (l % 4) + i;
          if (is_transposed) std::swap(row, column);
          char* in_memory = of(8 * matrix + row).row + 2 * column;
          char* in_register = reinterpret_cast<char*>(of(l).registers + matrix) + 2 * i;
          is_load ? std::memcpy(in_register, in_memory, 2) : std::memcpy(in_memory, in_register, 2);
        }
  });
}

}  // namespace

void load_matrices(uint32_t* registers, const void* row, int count, bool is_transposed) {
  move_matrices("ldmatrix", {registers, static_cast<char*>(const_cast<void*>(row))}, count, is_transposed,
                true);
}

void store_matrices(const uint32_t* registers, void* row, int count, bool is_transposed) {
  move_matrices("stmatrix", {const_cast<uint32_t*>(registers), static_cast<char*>(row)}, count, is_transposed,
                false);
}

void mma(Dtype dtype, float* accumulators, const uint32_t* a, const uint32_t* b) {
  const tsan::Ignore ignore;
  Fragments mine = {accumulators, a, b};
  meet("mma", 0xffffffffu, &mine, [=](void* const* operands, uint32_t) {
    auto of = [&](int lane) -> Fragments& { return *static_cast<Fragments*>(operands[lane]); };
    Left left;
    Right right;
    float c[16 * 8];
    for (int lane = 0; lane < warp_size; ++lane) {
      unpack_a(left, dtype, lane, of(lane).a);
      const int g = lane / 4, t = lane % 4;
      for (int r = 0; r < 2; ++r) {
        if (dtype == Dtype::float32) {
          right[t + 4 * r][g] = element(dtype, of(lane).b[r], 0);
        } else {
          for (int i = 0; i < 2; ++i) right[2 * t + 8 * r + i][g] = element(dtype, of(lane).b[r], i);
        }
      }
      for_accumulators(lane, 8,
                       [&](int r, int row, int column) { c[row * 8 + column] = of(lane).accumulators[r]; });
    }
    multiply(c, left, right, k_of(dtype), 8, true);
    for (int lane = 0; lane < warp_size; ++lane)
      for_accumulators(lane, 8,
                       [&](int r, int row, int column) { of(lane).accumulators[r] = c[row * 8 + column]; });
  });
}

// --- wgmma ---------------------------------------------------------------------------------------------------------

namespace {

// Fields of the 64-bit descriptor of a matrix in shared memory, in bytes.
struct Descriptor {
  int64_t start, leading, stride;
  int span;  // bytes that the swizzle permutes; 16: none

  explicit Descriptor(uint64_t bits)
      : start(int64_t(bits & 0x3fff) << 4),
        leading(int64_t(bits >> 16 & 0x3fff) << 4),
        stride(int64_t(bits >> 32 & 0x3fff) << 4),
        span(bits >> 62 ? 256 >> (bits >> 62) : 16) {}

  // Where the 16 bytes lie that hold elements (mn, k) onwards, along k if K-major and along mn if not. The canonical
  // layouts are those of CUTLASS's mma_sm90_desc.hpp, as of the PTX ISA's "Shared Memory Matrix Layout".
  int64_t chunk(int mn, int k, int per_chunk, bool is_mn_major) const {
    int64_t at = start;
    if (!is_mn_major) {
      at += mn % 8 * span + mn / 8 * stride + k / per_chunk * (span == 16 ? leading : 16);
    } else if (span == 16) {
      at += mn / per_chunk * stride + k % 8 * 16 + k / 8 * leading;
    } else {
      const int per_row = per_chunk * span / 16;
      at += mn % per_row / per_chunk * 16 + mn / per_row * leading + k % 8 * span + k / 8 * stride;
    }
    return at ^ ((at >> 7 & (span / 16 - 1)) << 4);
  }
};

// Elements (first + i, k) of an operand, i < count, as visit(i, k, value).
template <class F>
void read_operand(const Block& block, uint64_t descriptor, Dtype t, bool is_mn_major, int first, int count,
                  F visit) {
  const Descriptor d(descriptor);
  const int k = k_of(t), per_chunk = 16 / int(size_of(t)), per_word = 4 / int(size_of(t));
  const int step_mn = is_mn_major ? per_chunk : 1, step_k = is_mn_major ? 1 : per_chunk;
  for (int mn = first / step_mn * step_mn; mn < first + count; mn += step_mn)
    for (int l = 0; l < k; l += step_k) {
      const int64_t at = d.chunk(mn, l, per_chunk, is_mn_major);
      if (at + 16 > block.shared.bytes()) throw StateError(cat("wgmma reads shared + ", at));
      uint32_t words[4];
      read_published(words, block, at, 16);
      for (int i = 0; i < per_chunk; ++i) {
        const int to = is_mn_major ? mn + i - first : mn - first;
        visit(to, is_mn_major ? l : l + i, element(t, words[i / per_word], i % per_word));
      }
    }
}

struct WgmmaOperands {
  float* accumulators;
  const uint32_t* a;
};

}  // namespace

uint64_t wgmma_descriptor(const void* shared, Swizzle swizzle, int64_t leading, int64_t stride) {
  const tsan::Ignore ignore;
  const Place place = locate(shared, 16, "wgmma descriptor");
  if (place.offset % 16 || leading % 16 || stride % 16) fail("a wgmma descriptor counts in 16 bytes");
  const uint64_t layout = swizzle == Swizzle::none ? 0 : uint64_t(4 - int(swizzle));
  auto field = [](int64_t bytes) { return uint64_t(bytes >> 4 & 0x3fff); };
  return field(place.offset) | field(leading) << 16 | field(stride) << 32 | layout << 62;
}

void wgmma_fence() {
  warp_converge("wgmma_fence");
  engine().running().warp->is_fenced = true;
}

void wgmma(WgmmaShape s, float* accumulators, uint64_t a, const uint32_t* a_registers, uint64_t b,
           bool accumulates) {
  const tsan::Ignore ignore;
  if (sim::device_properties().architecture != 90) fail("only sm_90 has wgmma");
  if (s.n % 8 || s.n < 8 || s.n > 256) fail("wgmma has 8 to 256 columns in steps of 8");
  if (s.dtype == Dtype::float32 && (s.is_a_mn_major || s.is_b_mn_major)) fail("wgmma of tf32 is K-major");
  Thread& caller = engine().running();
  if (caller.block->threads.size() % 128) fail("wgmma is for whole warp groups");
  WgmmaOperands mine = {accumulators, a_registers};
  meet("wgmma", 0xffffffffu, &mine, [=, &caller](void* const* operands, uint32_t) {
    auto of = [&](int lane) -> WgmmaOperands& { return *static_cast<WgmmaOperands*>(operands[lane]); };
    Warp& w = *caller.warp;
    if (!w.is_fenced) fail("wgmma without a wgmma_fence since the last wgmma_wait");
    // The accumulators go into the operation and become NaN in the registers.
    float* key = of(0).accumulators;
    Accumulators& c = w.accumulators[key];
    if (!c.in_flight) {
      c.n = s.n;
      c.values.resize(size_t(16 * s.n));
      for (int lane = 0; lane < warp_size; ++lane) {
        float* registers = c.registers[lane] = of(lane).accumulators;
        for_accumulators(lane, s.n, [&](int r, int row, int column) {
          c.values[size_t(row * s.n + column)] = registers[r];
          std::memset(registers + r, 0xff, 4);
        });
      }
    }
    if (c.n != s.n) fail("wgmmas in flight have one accumulator as different shapes");
    ++c.in_flight;
    struct Rows {
      Left values;
    };
    auto left = std::make_shared<Rows>();
    if (of(0).a)
      for (int lane = 0; lane < warp_size; ++lane) unpack_a(left->values, s.dtype, lane, of(lane).a);
    const bool is_a_in_registers = of(0).a != nullptr;
    const int first_row = w.index % 4 * 16;
    const Block* block = w.block;
    w.wgmmas.issue({.name = "wgmma", .land = [=, &w] {
                      if (!is_a_in_registers)
                        read_operand(*block, a, s.dtype, s.is_a_mn_major, first_row, 16,
                                     [&](int i, int k, double x) { left->values[i][k] = x; });
                      Right right;
                      read_operand(*block, b, s.dtype, s.is_b_mn_major, 0, s.n,
                                   [&](int i, int k, double x) { right[k][i] = x; });
                      tsan::release(&w.wgmmas.order);
                      const tsan::Ignore inner;
                      Accumulators& sums = w.accumulators[key];
                      multiply(sums.values.data(), left->values, right, k_of(s.dtype), s.n, accumulates);
                      if (--sums.in_flight) return;
                      for (int lane = 0; lane < warp_size; ++lane)
                        for_accumulators(lane, s.n, [&](int r, int row, int column) {
                          sums.registers[lane][r] = sums.values[size_t(row * s.n + column)];
                        });
                      w.accumulators.erase(key);
                    }});
  });
}

void wgmma_commit() {
  const tsan::Ignore ignore;
  Groups* groups = &engine().running().warp->wgmmas;
  int lane = engine().running().lane;
  meet("wgmma_commit", 0xffffffffu, &lane, [=](void* const*, uint32_t) { groups->commit(true); });
}

void wgmma_wait(int pending) {
  const tsan::Ignore ignore;
  Warp* w = engine().running().warp;
  meet("wgmma_wait", 0xffffffffu, nullptr, [=](void* const*, uint32_t) {
    w->wgmmas.wait(pending);
    w->is_fenced = false;
  });
  tsan::acquire(&w->wgmmas.order);
}

}  // namespace lamina::simt
