// Convolutions of float32 on the matrix units, as planes of bf16.
#include "kernels/conv2d/mma.cuh"

namespace lamina::LAMINA_DEVICE {

template <>
void sum_over_taps_by_mma<float>(const char* name, const Conv2dArgs& a, bool is_backward, int planes,
                                 bool is_large) {
  with_planes<float>(planes, [&](auto n, auto) {
    is_large ? launch_tap_sum_mma<float, bf16, n(), true>(name, a, is_backward)
             : launch_tap_sum_mma<float, bf16, n(), false>(name, a, is_backward);
  });
}

template <>
void sum_over_pixels_by_mma<float>(const Conv2dArgs& a, int planes, bool is_large) {
  with_planes<float>(planes, [&](auto n, auto) {
    is_large ? launch_pixel_sum_mma<float, bf16, n(), true>(a)
             : launch_pixel_sum_mma<float, bf16, n(), false>(a);
  });
}

}  // namespace lamina::LAMINA_DEVICE
