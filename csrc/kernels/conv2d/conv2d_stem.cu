// Convolutions of few channels on the matrix units, of every type that these take.
#include "kernels/conv2d/stem.cuh"

namespace lamina::LAMINA_DEVICE {

template <class T>
void stem_over_taps(const char* name, const Conv2dArgs& a, int planes) {
  with_planes<T>(
      planes, [&](auto n, auto element) { launch_stem<T, typename decltype(element)::type, n()>(name, a); });
}

template <class T>
void stem_over_pixels(const Conv2dArgs& a, int planes) {
  const int64_t columns = a.weight.shape[1] * a.weight.shape[2] * a.weight.shape[3];
  with_planes<T>(planes, [&](auto n, auto element) {
    using Element = typename decltype(element)::type;
    columns <= stem_columns(narrow_stem) ? launch_stem_gradient<T, Element, n(), narrow_stem>(a)
                                         : launch_stem_gradient<T, Element, n(), wide_stem(n())>(a);
  });
}

template void stem_over_taps<bf16>(const char*, const Conv2dArgs&, int);
template void stem_over_taps<f16>(const char*, const Conv2dArgs&, int);
template void stem_over_taps<float>(const char*, const Conv2dArgs&, int);
template void stem_over_pixels<bf16>(const Conv2dArgs&, int);
template void stem_over_pixels<f16>(const Conv2dArgs&, int);
template void stem_over_pixels<float>(const Conv2dArgs&, int);

}  // namespace lamina::LAMINA_DEVICE
