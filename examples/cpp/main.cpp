// Lamina's kernels on memory of one's own: a matrix product with a fused epilogue, and a convolution.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <lamina/kernels/conv2d/conv2d.h>
#include <lamina/kernels/gemm/gemm.h>

using namespace lamina;

int main() {
  // y = relu(a b): tables of kernels are those of the best instruction set that this machine has
  constexpr int64_t M = 2, N = 3, K = 4;
  const std::vector<float> a(M * K, 1.0f), b(K * N, 0.5f);
  std::vector<float> y(M * N);
  gemm_kernels(DeviceType::cpu)
      ->gemm({.a = row_major(a.data(), {M, K}),
              .b = row_major(b.data(), {K, N}),
              .y = row_major(y.data(), {M, N}),
              .activation = Activation::relu});
  std::printf("gemm: %g\n", y[0]);

  // a 3 x 3 convolution of images in channels-last memory, with zeros around them
  constexpr int64_t C = 8, O = 16, H = 5, W = 5;
  const std::vector<float> image(H * W * C, 1.0f), weight(O * C * 3 * 3, 0.25f);
  std::vector<float> result(H * W * O);
  Conv2dArgs conv{.x = channels_last(image.data(), 1, C, H, W),
                  .weight = row_major(weight.data(), {O, C, 3, 3}),
                  .y = channels_last(result.data(), 1, O, H, W),
                  .padding = {1, 1}};
  const Conv2dKernels& kernels = *conv2d_kernels(DeviceType::cpu);
  conv.workspace =
      std::aligned_alloc(64, (kernels.choose_algorithm(ConvPass::forward, conv).workspace_bytes | 63) + 1);
  kernels.forward(conv);
  std::printf("conv2d: corner %g, centre %g\n", result[0], result[(2 * W + 2) * O]);
  std::free(conv.workspace);
}
