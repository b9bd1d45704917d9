"""conv2d: padded windows times filters."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def borders(padding, weight, dilation):
    """(top, bottom), (left, right)."""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(pair(dilation), weight.shape[2:], strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    if len(padding) == 2:
        return tuple((p, p) for p in padding)
    return tuple(padding[:2]), tuple(padding[2:])


def windows(x, R, S, stride, dilation):
    """(N, C, P, Q, R, S): the elements of padded x under the filter at each position."""
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    spans = (dh * (R - 1) + 1, dw * (S - 1) + 1)
    view = np.lib.stride_tricks.sliding_window_view(x, spans, axis=(2, 3))
    return view[:, :, ::sh, ::sw, ::dh, ::dw]


def reference(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    O, C, R, S = weight.shape
    x = np.pad(x, ((0, 0), (0, 0), *borders(padding, weight, dilation)))
    N, _, P, Q = windows(x, R, S, stride, dilation).shape[:4]
    y = np.empty((N, O, P, Q), x.dtype)
    for g in range(groups):
        of_group = windows(x[:, g * C : (g + 1) * C], R, S, stride, dilation)
        filters = slice(g * O // groups, (g + 1) * O // groups)
        y[:, filters] = np.einsum("ncpqrs,ocrs->nopq", of_group, weight[filters])
    return y if bias is None else y + bias[:, None, None]


def layer(name, N, C, H, O, K, *, stride=1, padding=0, groups=1, bias=False, **more):
    """A square layer as a bench row."""
    P = (H + 2 * padding - K) // stride + 1

    def torch(x, weight, bias=None):
        from torch.nn.functional import conv2d

        return conv2d(x, weight, bias, stride, padding, 1, groups)

    inputs = [Arr(N, C, H, H, layout="channels_last"), Arr(O, C // groups, K, K)] + [Arr(O)] * bias
    return Bench(
        name,
        *inputs,
        stride=stride,
        padding=padding,
        groups=groups,
        flops=2 * N * P * P * O * (C // groups) * K * K,
        bytes=4 * (N * C * H * H + O * (C // groups) * K * K + N * O * P * P),
        torch=torch,
        **more,
    )


# A vector has 4, 8 or 16 floats and a panel up to 64 columns; channels on both sides of these widths.
WIDTHS = [
    Sample(f"{C} to {O} channels", Arr(1, C, 4, 5), Arr(O, C, 3, 3), Arr(O), padding=1)
    for C, O in [(3, 5), (7, 9), (9, 7), (15, 17), (17, 15), (16, 16), (33, 63), (5, 65)]
]

case = Case(
    op="conv2d",
    reference=reference,
    samples=[
        Sample("one pixel", Arr(1, 1, 1, 1), Arr(1, 1, 1, 1), None),
        Sample("one pixel, 3 x 3 filter", Arr(1, 2, 1, 1), Arr(3, 2, 3, 3), Arr(3), padding=1),
        Sample("1 x 1 filter", Arr(2, 5, 4, 3), Arr(7, 5, 1, 1), Arr(7)),
        Sample("1 x 1 filter, stride 2", Arr(2, 5, 5, 4), Arr(7, 5, 1, 1), stride=2),
        Sample("3 x 3 filter", Arr(2, 8, 6, 6), Arr(8, 8, 3, 3), Arr(8), padding=1),
        Sample("stride > kernel", Arr(1, 3, 9, 10), Arr(4, 3, 2, 1), Arr(4), stride=(3, 4)),
        Sample("stride 2", Arr(2, 4, 7, 8), Arr(6, 4, 3, 3), Arr(6), stride=2, padding=1),
        Sample("unequal strides", Arr(1, 20, 7, 8), Arr(6, 20, 3, 2), stride=(1, 3)),
        Sample("asymmetric padding", Arr(1, 18, 4, 5), Arr(4, 18, 3, 3), padding=(2, 0, 1, 3)),
        Sample("padding per axis", Arr(1, 2, 4, 5), Arr(4, 2, 3, 5), padding=(1, 2)),
        Sample("padding same", Arr(1, 2, 5, 4), Arr(3, 2, 4, 3), padding="same"),
        Sample("padding same, dilated", Arr(1, 2, 5, 4), Arr(3, 2, 2, 3), padding="same", dilation=(3, 2)),
        Sample("padding valid", Arr(1, 2, 5, 4), Arr(3, 2, 4, 3), padding="valid"),
        Sample("padding > kernel", Arr(1, 17, 2, 3), Arr(4, 17, 2, 2), Arr(4), padding=4),
        Sample("padding > kernel, few channels", Arr(1, 2, 2, 3), Arr(4, 2, 2, 2), padding=(4, 3, 0, 5)),
        Sample("dilation", Arr(1, 3, 9, 8), Arr(4, 3, 3, 3), Arr(4), padding=2, dilation=2),
        Sample("dilation and stride", Arr(1, 18, 11, 9), Arr(4, 18, 3, 2), stride=2, padding=1, dilation=(3, 4)),
        Sample("dilation a multiple of stride", Arr(1, 4, 10, 10), Arr(3, 4, 2, 3), stride=2, dilation=(2, 4)),
        Sample("groups", Arr(2, 6, 5, 5), Arr(4, 3, 3, 3), Arr(4), padding=1, groups=2),
        Sample("groups of 17 to 18 channels", Arr(1, 34, 3, 4), Arr(36, 17, 2, 2), groups=2),
        Sample("depthwise", Arr(2, 7, 6, 9), Arr(7, 1, 3, 3), Arr(7), padding=1, groups=7),
        Sample("depthwise, 35 channels, stride 2", Arr(1, 35, 7, 11), Arr(35, 1, 3, 3), stride=2, padding=1, groups=35),
        Sample(
            "depthwise, dilated, uneven",
            Arr(1, 5, 8, 9),
            Arr(5, 1, 2, 5),
            padding=(3, 0, 1, 4),
            dilation=(2, 1),
            groups=5,
        ),
        Sample("depthwise, 16 channels", Arr(2, 16, 5, 9), Arr(16, 1, 3, 3), Arr(16), padding=1, groups=16),
        Sample("depthwise, 16 channels, stride 2", Arr(1, 16, 6, 11), Arr(16, 1, 3, 3), stride=2, padding=1, groups=16),
        Sample("depthwise, 16 channels, 5 x 5", Arr(1, 16, 7, 6), Arr(16, 1, 5, 5), Arr(16), padding=2, groups=16),
        Sample("depth multiplier", Arr(1, 5, 5, 5), Arr(15, 1, 3, 3), Arr(15), padding=1, groups=5),
        Sample("prime sizes", Arr(3, 13, 11, 7), Arr(17, 13, 5, 3), Arr(17), stride=(2, 1), padding=2).no_gradient(),
        Sample("7 x 7 filter, stride 2", Arr(1, 3, 15, 17), Arr(8, 3, 7, 7), Arr(8), stride=2, padding=3).no_gradient(),
        Sample("wide row", Arr(1, 3, 1, 300), Arr(4, 3, 1, 3)).no_gradient(),
        Sample("tall column", Arr(1, 17, 300, 1), Arr(4, 17, 3, 1), padding=(1, 0)).no_gradient(),
        Sample("large K", Arr(1, 700, 3, 3), Arr(5, 700, 3, 3)).no_gradient(),
        Sample("many taps", Arr(1, 2, 20, 21), Arr(3, 2, 17, 19), dilation=1).no_gradient(),
        Sample("many taps, dilated", Arr(1, 2, 21, 24), Arr(3, 2, 9, 11), dilation=2).no_gradient(),
        Sample("channels-last weight", Arr(1, 8, 4, 4), Arr(9, 8, 3, 3, layout="channels_last"), padding=1),
        Sample("channels-last x", Arr(2, 20, 4, 4, layout="channels_last"), Arr(9, 20, 3, 3), padding=1),
        Sample("many channels", Arr(2, 40, 7, 8), Arr(72, 40, 3, 3), Arr(72), padding=1),
        Sample(
            "many channels, stride 2, none a multiple of 8", Arr(2, 70, 9, 8), Arr(68, 70, 3, 3), stride=2, padding=1
        ),
        Sample("many channels, groups", Arr(1, 96, 12, 12), Arr(80, 48, 3, 3), padding=1, groups=2).no_gradient(),
        Sample("many pixels", Arr(1, 32, 32, 32), Arr(128, 32, 3, 3), Arr(128), padding=1).no_gradient(),
        Sample("no images", Arr(0, 3, 4, 4), Arr(5, 3, 3, 3), Arr(5)),
        Sample("no channels", Arr(2, 0, 4, 4), Arr(5, 0, 3, 3), Arr(5)),
        Sample("no filters", Arr(2, 3, 4, 4), Arr(0, 3, 3, 3)),
        Sample("only padding", Arr(2, 3, 0, 4), Arr(5, 3, 2, 2), Arr(5), padding=1),
        Sample(
            "NaN and infinity", Arr(1, 20, 6, 6, kind="special"), Arr(4, 20, 3, 3, kind="positive"), padding=1
        ).no_gradient(),
        Sample(
            "NaN and infinity, few channels", Arr(1, 2, 6, 6, kind="special"), Arr(4, 2, 3, 3, kind="positive")
        ).no_gradient(),
        Sample(
            "NaN and infinity, depthwise", Arr(1, 9, 6, 6, kind="special"), Arr(9, 1, 3, 3, kind="positive"), groups=9
        ).no_gradient(),
        *WIDTHS,
    ],
    errors=[
        Error(ValueError, "conv2d: x is (3, 4, 4); expected (N, C, H, W)", Arr(3, 4, 4), Arr(5, 3, 3, 3)),
        Error(ValueError, "conv2d: weight is (5, 27); expected four axes", Arr(1, 3, 4, 4), Arr(5, 27)),
        Error(
            ValueError,
            "conv2d: weight has 3 input channels but x has 8 (x (2, 8, 32, 32), weight (16, 3, 3, 3), groups 1)",
            Arr(2, 8, 32, 32),
            Arr(16, 3, 3, 3),
        ),
        Error(ValueError, "groups 3 does not divide the 4 channels", Arr(1, 6, 4, 4), Arr(4, 2, 3, 3), groups=3),
        Error(ValueError, "groups is 0; expected at least 1", Arr(1, 6, 4, 4), Arr(4, 2, 3, 3), groups=0),
        Error(ValueError, "bias is (4,); expected (5,)", Arr(1, 3, 4, 4), Arr(5, 3, 3, 3), Arr(4)),
        Error(ValueError, "bias is (5, 1); expected (5,)", Arr(1, 3, 4, 4), Arr(5, 3, 3, 3), Arr(5, 1)),
        Error(ValueError, "stride is (1, 0); expected at least 1", Arr(1, 3, 4, 4), Arr(5, 3, 3, 3), stride=(1, 0)),
        Error(ValueError, "dilation is (0, 0); expected at least 1", Arr(1, 3, 4, 4), Arr(5, 3, 3, 3), dilation=0),
        Error(
            ValueError,
            "padding is (0, 0, -1, 0); expected no negative",
            Arr(1, 3, 4, 4),
            Arr(5, 3, 3, 3),
            padding=(0, 0, -1, 0),
        ),
        Error(ValueError, "the kernel spans 5 rows but padded x has 4", Arr(1, 3, 4, 8), Arr(5, 3, 5, 3)),
        Error(
            ValueError,
            "the kernel spans 9 columns but padded x has 8",
            Arr(1, 3, 4, 6),
            Arr(5, 3, 1, 5),
            padding=1,
            dilation=2,
        ),
        Error(ValueError, "expected kernel extents of at least 1", Arr(1, 3, 4, 4), Arr(5, 3, 0, 3)),
        Error(
            ValueError, "padding is 'full'; expected 'same', 'valid'", Arr(1, 3, 4, 4), Arr(5, 3, 3, 3), padding="full"
        ),
        Error(
            ValueError, "padding is 'same' but stride is 2", Arr(1, 3, 4, 4), Arr(5, 3, 3, 3), padding="same", stride=2
        ),
        Error(TypeError, "x is int64; expected float32", Arr(1, 3, 4, 4, kind="int"), Arr(5, 3, 3, 3)),
        Error(
            TypeError,
            "weight is float64 but x is float32",
            Arr(1, 3, 4, 4, dtype="float32"),
            Arr(5, 3, 3, 3, dtype="float64"),
        ),
        Error(
            TypeError,
            "bias is float64 but x is float32",
            Arr(1, 3, 4, 4, dtype="float32"),
            Arr(5, 3, 3, 3, dtype="float32"),
            Arr(5, dtype="float64"),
        ),
    ],
    bench=[
        layer("resnet 64 3x3 56", 8, 64, 56, 64, 3, padding=1, backward=True),
        layer("resnet 128 3x3 28", 8, 128, 28, 128, 3, padding=1, backward=True),
        layer("resnet 128 3x3 56 stride 2", 8, 128, 56, 128, 3, stride=2, padding=1, backward=True),
        layer("resnet 256 3x3 14", 8, 256, 14, 256, 3, padding=1, backward=True, dtypes=("float32", "bfloat16")),
        layer("resnet 512 3x3 7", 8, 512, 7, 512, 3, padding=1, backward=True),
        layer("resnet 512 3x3 7, one image", 1, 512, 7, 512, 3, padding=1),
        layer("resnet 64-256 1x1 56", 8, 64, 56, 256, 1, backward=True),
        layer("resnet 512-2048 1x1 7", 8, 512, 7, 2048, 1, backward=True),
        layer("resnet stem 7x7 224 stride 2", 4, 3, 224, 64, 7, stride=2, padding=3),
        layer("vgg 64-128 3x3 112", 2, 64, 112, 128, 3, padding=1, backward=True),
        layer("cifar stem 3-64 3x3 32", 32, 3, 32, 64, 3, padding=1, bias=True, backward=True),
        layer("lenet 1-6 5x5 28", 64, 1, 28, 6, 5, padding=2, bias=True, backward=True),
        layer("lenet 6-16 5x5 14", 64, 6, 14, 16, 5, bias=True, backward=True),
        layer("mobilenet depthwise 64 3x3 56", 8, 64, 56, 64, 3, padding=1, groups=64, backward=True),
        layer("mobilenet depthwise 256 3x3 28 stride 2", 8, 256, 28, 256, 3, stride=2, padding=1, groups=256),
    ],
)
