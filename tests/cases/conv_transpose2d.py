"""conv_transpose2d: every input pixel adds a filter to the output."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample

from .conv2d import borders, pair


def reference(x, weight, bias=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    (sh, sw), (dh, dw), extra = pair(stride), pair(dilation), pair(output_padding)
    (top, bottom), (left, right) = borders(padding, weight, dilation)
    (N, C, H, W), (_, O, R, S) = x.shape, weight.shape
    rows, columns = (H - 1) * sh + dh * (R - 1) + 1 + extra[0], (W - 1) * sw + dw * (S - 1) + 1 + extra[1]
    full = np.zeros((N, O * groups, rows, columns), x.dtype)
    for g in range(groups):
        channels = slice(g * C // groups, (g + 1) * C // groups)
        products = np.einsum("nchw,cors->rsnohw", x[:, channels], weight[channels])
        for r in range(R):
            for s in range(S):
                at_rows = slice(r * dh, r * dh + (H - 1) * sh + 1, sh)
                at_columns = slice(s * dw, s * dw + (W - 1) * sw + 1, sw)
                full[:, g * O : (g + 1) * O, at_rows, at_columns] += products[r, s]
    y = full[:, :, top : rows - bottom, left : columns - right]
    return y if bias is None else y + bias[:, None, None]


def layer(name, N, C, H, O, K, stride, padding, output_padding=0, **more):
    """A square layer as a bench row."""
    P = (H - 1) * stride - 2 * padding + K + output_padding

    def torch(x, weight):
        from torch.nn.functional import conv_transpose2d

        return conv_transpose2d(x, weight, None, stride, padding, output_padding)

    return Bench(
        name,
        Arr(N, C, H, H, layout="channels_last"),
        Arr(C, O, K, K),
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        flops=2 * N * H * H * C * O * K * K,
        bytes=4 * (N * C * H * H + C * O * K * K + N * O * P * P),
        torch=torch,
        **more,
    )


case = Case(
    op="conv_transpose2d",
    reference=reference,
    samples=[
        Sample("one pixel", Arr(1, 1, 1, 1), Arr(1, 1, 1, 1), None),
        Sample("one pixel, 3 x 3 filter", Arr(1, 2, 1, 1), Arr(2, 3, 3, 3), Arr(3)),
        Sample("1 x 1 filter", Arr(2, 5, 4, 3), Arr(5, 7, 1, 1), Arr(7)),
        Sample("3 x 3 filter", Arr(2, 8, 5, 6), Arr(8, 9, 3, 3), Arr(9), padding=1),
        Sample("stride 2", Arr(2, 6, 4, 5), Arr(6, 4, 3, 3), Arr(4), stride=2, padding=1),
        Sample(
            "stride 2, output padding", Arr(1, 6, 4, 5), Arr(6, 4, 3, 3), Arr(4), stride=2, padding=1, output_padding=1
        ),
        Sample("stride > kernel", Arr(1, 3, 3, 4), Arr(3, 4, 2, 1), Arr(4), stride=(3, 4)),
        Sample("stride > kernel, output padding", Arr(1, 3, 3, 2), Arr(3, 4, 1, 1), stride=3, output_padding=(2, 1)),
        Sample("4 x 4 filter, stride 2", Arr(1, 9, 3, 4), Arr(9, 5, 4, 4), stride=2, padding=1),
        Sample("asymmetric padding", Arr(1, 4, 4, 5), Arr(4, 3, 3, 3), padding=(2, 0, 1, 3)),
        Sample("padding per axis", Arr(1, 2, 4, 5), Arr(2, 4, 3, 5), padding=(1, 2)),
        Sample("dilation", Arr(1, 3, 4, 5), Arr(3, 4, 3, 3), Arr(4), padding=2, dilation=2),
        Sample("dilation and stride", Arr(1, 3, 4, 5), Arr(3, 4, 3, 2), stride=2, padding=1, dilation=(3, 4)),
        Sample("output padding > stride", Arr(1, 3, 4, 5), Arr(3, 4, 2, 2), dilation=3, output_padding=(2, 1)),
        Sample("dilation a multiple of stride", Arr(1, 3, 4, 5), Arr(3, 4, 2, 3), stride=2, dilation=(2, 4)),
        Sample("groups", Arr(2, 6, 4, 4), Arr(6, 2, 3, 3), Arr(4), stride=2, groups=2),
        Sample("depthwise", Arr(1, 9, 4, 5), Arr(9, 1, 3, 3), Arr(9), padding=1, groups=9),
        Sample("depthwise, stride 2", Arr(1, 9, 4, 5), Arr(9, 1, 3, 3), stride=2, groups=9),
        Sample("depth multiplier", Arr(1, 5, 4, 4), Arr(5, 3, 2, 2), Arr(15), stride=2, groups=5),
        Sample("33 to 65 channels", Arr(1, 33, 3, 4), Arr(33, 65, 2, 2), Arr(65), stride=2).no_gradient(),
        Sample("prime sizes", Arr(3, 13, 5, 7), Arr(13, 17, 5, 3), Arr(17), stride=(2, 3), padding=2).no_gradient(),
        Sample("large K", Arr(1, 700, 3, 3), Arr(700, 3, 2, 2)).no_gradient(),
        Sample("no images", Arr(0, 3, 4, 4), Arr(3, 5, 3, 3), Arr(5)),
        Sample("no channels", Arr(2, 0, 4, 4), Arr(0, 5, 3, 3), Arr(5)),
        Sample("no filters", Arr(2, 3, 4, 4), Arr(3, 0, 3, 3)),
        Sample(
            "NaN and infinity", Arr(1, 3, 5, 5, kind="special"), Arr(3, 4, 2, 2, kind="positive"), stride=2
        ).no_gradient(),
    ],
    errors=[
        Error(ValueError, "conv_transpose2d: x is (3, 4, 4); expected (N, C, H, W)", Arr(3, 4, 4), Arr(3, 5, 3, 3)),
        Error(ValueError, "weight is (27, 5); expected four axes", Arr(1, 3, 4, 4), Arr(27, 5)),
        Error(
            ValueError,
            "weight has 4 input channels but x has 3 (x (1, 3, 4, 4), weight (4, 5, 3, 3), groups 1)",
            Arr(1, 3, 4, 4),
            Arr(4, 5, 3, 3),
        ),
        Error(ValueError, "groups 2 does not divide the 3 channels", Arr(1, 3, 4, 4), Arr(3, 5, 3, 3), groups=2),
        Error(ValueError, "bias is (5,); expected (10,)", Arr(1, 4, 4, 4), Arr(4, 5, 3, 3), Arr(5), groups=2),
        Error(ValueError, "stride is (0, 0); expected at least 1", Arr(1, 3, 4, 4), Arr(3, 5, 3, 3), stride=0),
        Error(
            ValueError,
            "output_padding is (2, 0); expected at least 0 and less than",
            Arr(1, 3, 4, 4),
            Arr(3, 5, 3, 3),
            stride=2,
            output_padding=(2, 0),
        ),
        Error(ValueError, "the result would have 0 rows", Arr(1, 3, 2, 4), Arr(3, 5, 1, 1), padding=1),
        Error(TypeError, "x is int64; expected float32", Arr(1, 3, 4, 4, kind="int"), Arr(3, 5, 3, 3)),
        Error(
            TypeError,
            "weight is float64 but x is float32",
            Arr(1, 3, 4, 4, dtype="float32"),
            Arr(3, 5, 3, 3, dtype="float64"),
        ),
    ],
    bench=[
        layer("gan 128-64 4x4 16 stride 2", 8, 128, 16, 64, 4, 2, 1, backward=True),
        layer("gan 64-3 4x4 32 stride 2", 8, 64, 32, 3, 4, 2, 1, backward=True),
        layer("unet 256-128 2x2 28 stride 2", 2, 256, 28, 128, 2, 2, 0, backward=True),
    ],
)
