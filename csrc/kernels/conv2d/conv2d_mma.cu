// Convolutions of bf16 and f16 on the matrix units.
#include "kernels/conv2d/mma.cuh"

namespace lamina::LAMINA_DEVICE {

template <class T>
void sum_over_taps_by_mma(const char* name, const Conv2dArgs& a, bool is_backward, int, bool is_large) {
  is_large ? launch_tap_sum_mma<T, T, 1, true>(name, a, is_backward)
           : launch_tap_sum_mma<T, T, 1, false>(name, a, is_backward);
}

template <class T>
void sum_over_pixels_by_mma(const Conv2dArgs& a, int, bool is_large) {
  is_large ? launch_pixel_sum_mma<T, T, 1, true>(a) : launch_pixel_sum_mma<T, T, 1, false>(a);
}

template void sum_over_taps_by_mma<bf16>(const char*, const Conv2dArgs&, bool, int, bool);
template void sum_over_taps_by_mma<f16>(const char*, const Conv2dArgs&, bool, int, bool);
template void sum_over_pixels_by_mma<bf16>(const Conv2dArgs&, int, bool);
template void sum_over_pixels_by_mma<f16>(const Conv2dArgs&, int, bool);

}  // namespace lamina::LAMINA_DEVICE
