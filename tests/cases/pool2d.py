"""max_pool2d, avg_pool2d and their adaptive forms: windows, ties, NaN, padding and bins."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def fixed_windows(extent, kernel, stride, padding, dilation, ceil_mode):
    """Positions of every window along one axis, those outside the input included."""
    stride = kernel if stride is None else stride
    steps = extent + 2 * padding - dilation * (kernel - 1) - 1
    count = (steps + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= extent + padding:
        count -= 1
    return [o * stride - padding + dilation * np.arange(kernel) for o in range(count)]


def bins(extent, count):
    return [np.arange(o * extent // count, -(-(o + 1) * extent // count)) for o in range(count)]


def axes_of(x, kernel_size, stride, padding, dilation, ceil_mode):
    stride = (None, None) if stride is None else pair(stride)
    extents = x.shape[2:], pair(kernel_size), stride, pair(padding), pair(dilation)
    return [fixed_windows(*axis, ceil_mode) for axis in zip(*extents, strict=True)]


def inside(window, extent):
    return window[(window >= 0) & (window < extent)]


def maximum(x, rows, columns, return_indices):
    N, C, H, W = x.shape
    y = np.empty((N, C, len(rows), len(columns)), x.dtype)
    indices = np.empty(y.shape, np.int64)
    for p, h in enumerate(rows):
        for q, w in enumerate(columns):
            h, w = inside(h, H), inside(w, W)
            flat = (h[:, None] * W + w).ravel()
            taken = x.reshape(N, C, H * W)[:, :, flat]
            # the first maximum, or the last NaN
            last_nan = taken.shape[2] - 1 - np.argmax(np.isnan(taken)[:, :, ::-1], axis=2)
            first_max = np.argmax(np.where(np.isnan(taken), -np.inf, taken), axis=2)
            winner = np.where(np.isnan(taken).any(axis=2), last_nan, first_max)
            y[:, :, p, q] = np.take_along_axis(taken, winner[:, :, None], axis=2)[:, :, 0]
            indices[:, :, p, q] = flat[winner]
    return (y, indices) if return_indices else y


def average(x, rows, columns, count):
    H, W = x.shape[2:]
    y = np.empty((*x.shape[:2], len(rows), len(columns)), x.dtype)
    for p, h in enumerate(rows):
        for q, w in enumerate(columns):
            taken = x[:, :, inside(h, H)][:, :, :, inside(w, W)]
            y[:, :, p, q] = taken.sum(axis=(2, 3)) / x.dtype.type(count(h, w))
    return y


def max_pool2d(x, *, kernel_size=2, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    return maximum(x, *axes_of(x, kernel_size, stride, padding, dilation, ceil_mode), return_indices)


def avg_pool2d(
    x,
    *,
    kernel_size=2,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
):
    def count(h, w):
        if divisor_override is not None:
            return divisor_override
        margin = pair(padding) if count_include_pad else (0, 0)
        axes = zip((h, w), x.shape[2:], margin, strict=True)
        return np.prod([np.sum((v >= -m) & (v < extent + m)) for v, extent, m in axes])

    return average(x, *axes_of(x, kernel_size, stride, padding, 1, ceil_mode), count)


def grid_of(x, output_size):
    sizes = zip(pair(output_size), x.shape[2:], strict=True)
    return [bins(extent, extent if n is None else n) for n, extent in sizes]


def adaptive_avg_pool2d(x, *, output_size=1):
    return average(x, *grid_of(x, output_size), lambda h, w: len(h) * len(w))


def adaptive_max_pool2d(x, *, output_size=1, return_indices=False):
    return maximum(x, *grid_of(x, output_size), return_indices)


# Vectors have 2 to 16 lanes: outputs of planes and channels of pixels on both sides of these widths.
WIDTHS = [
    Sample(f"{w} columns, stride {s}", Arr(1, 2, 5, w, kind="distinct"), kernel_size=3, stride=s, padding=1)
    for w, s in (
        (3, 1),
        (4, 1),
        (5, 1),
        (7, 1),
        (8, 1),
        (9, 1),
        (15, 2),
        (17, 2),
        (31, 2),
        (33, 2),
        (25, 3),
        (33, 4),
    )
] + [
    Sample(
        f"{c} channels",
        Arr(1, c, 4, 5, kind="distinct", layout="channels_last"),
        kernel_size=3,
        stride=2,
        padding=1,
    )
    for c in (1, 3, 4, 7, 8, 9, 16, 17, 31, 33)
]

HALVING = {"stride": 2, "padding": 1}
WINDOWS = [
    Sample("one pixel", Arr(1, 1, 1, 1), kernel_size=1),
    Sample("one pixel, padded", Arr(1, 1, 1, 1), kernel_size=3, stride=1, padding=1),
    Sample("2 x 2 tiles", Arr(2, 3, 6, 8, kind="distinct")),
    Sample("3 x 3, overlapping", Arr(2, 3, 7, 9, kind="distinct"), kernel_size=3, stride=2, padding=1),
    Sample("3 x 3, stride 1", Arr(1, 3, 6, 7, kind="distinct"), kernel_size=3, stride=1, padding=1),
    Sample("stride > kernel", Arr(2, 2, 9, 11, kind="distinct"), kernel_size=2, stride=(3, 5)),
    Sample("stride 7", Arr(1, 2, 20, 23, kind="distinct"), kernel_size=(4, 3), stride=7, padding=1),
    Sample("window = plane", Arr(2, 5, 4, 6, kind="distinct"), kernel_size=(4, 6)),
    Sample("one row of windows", Arr(2, 3, 4, 9, kind="distinct"), kernel_size=(4, 2)),
    Sample("rectangular", Arr(1, 2, 8, 9, kind="distinct"), kernel_size=(2, 5), stride=(1, 3), padding=(1, 2)),
    Sample("prime sizes", Arr(3, 5, 11, 13, kind="distinct"), kernel_size=(5, 3), stride=(3, 2), padding=(2, 1)),
    Sample("ceil_mode overhang", Arr(1, 2, 5, 6, kind="distinct"), kernel_size=2, stride=(2, 4), ceil_mode=True),
    Sample(
        "ceil_mode overhang beyond padding",
        Arr(1, 2, 6, 7, kind="distinct"),
        kernel_size=(4, 4),
        stride=3,
        padding=(1, 2),
        ceil_mode=True,
    ),
    Sample(
        "ceil_mode drops a window in the padding",
        Arr(1, 1, 3, 3),
        kernel_size=2,
        stride=2,
        padding=1,
        ceil_mode=True,
    ),
    Sample("window > input, ceil_mode", Arr(1, 1, 1, 2), kernel_size=2, stride=2, ceil_mode=True),
    Sample("many taps", Arr(1, 2, 19, 18, kind="distinct"), kernel_size=(17, 16), stride=1),
    Sample(
        "large windows, pixels", Arr(1, 67, 5, 6, kind="distinct", layout="channels_last"), kernel_size=5, **HALVING
    ),
    Sample("rows that repeat", Arr(2, 2, 19, 11, kind="distinct"), kernel_size=(5, 2), stride=(6, 2)),
    Sample("zero batch", Arr(0, 3, 4, 4)),
    Sample("no channels", Arr(2, 0, 4, 4)),
    Sample("many planes", Arr(40, 40, 5, 5), kernel_size=3, stride=2, padding=1).no_gradient(),
    Sample("large plane", Arr(1, 2, 150, 170), kernel_size=3, stride=2, padding=1).no_gradient().only("float32"),
    Sample("many pixels", Arr(2, 70, 30, 20, layout="channels_last"), kernel_size=2).no_gradient(),
    Sample("channels sliced", Arr(2, 5, 6, 6, kind="distinct", layout="strided"), kernel_size=3, **HALVING),
]

TIES = [
    Sample(
        "ties",
        Arr(2, 3, 6, 6, kind="int", low=0, high=2, dtype="float32"),
        kernel_size=3,
        stride=2,
        padding=1,
    ).only("float32"),
    Sample(
        "ties, channels-last",
        np.round(np.sin(np.arange(576.0)) * 1.5).reshape(2, 8, 6, 6),
        kernel_size=3,
        stride=1,
    ),
    Sample("all -inf", np.full((1, 2, 4, 5), -np.inf), kernel_size=3, stride=2, padding=1),
    Sample("NaN and infinities", Arr(2, 9, 8, 8, kind="special"), kernel_size=3, stride=2, padding=1),
    Sample("two NaN in a window", np.array([[[[np.nan, 1.0], [np.nan, 2.0]]]]), kernel_size=2),
]
ALL = ("float32", "bfloat16", "float64")
POSITIONS = [
    Sample(s.name + ", indices", *s.inputs, **s.attrs, return_indices=True).only(*s.dtypes or ALL).no_gradient()
    for s in (*WINDOWS[1:6], *WIDTHS[::3], *TIES)
]

WRONG_WINDOWS = [
    Error(ValueError, "x is (2, 3, 4); expected (N, C, H, W)", Arr(2, 3, 4)),
    Error(ValueError, "x is (1, 2, 0, 4); expected at least one row and column", Arr(1, 2, 0, 4)),
    Error(TypeError, "x is int64; expected float32, bfloat16 or float64", Arr(1, 1, 4, 4, kind="int")),
    Error(ValueError, "kernel_size is (0, 2); expected at least 1", Arr(1, 1, 4, 4), kernel_size=(0, 2)),
    Error(ValueError, "stride is (1, 0); expected at least 1", Arr(1, 1, 4, 4), stride=(1, 0)),
    Error(ValueError, "padding is (-1, 0); expected at least 0", Arr(1, 1, 4, 4), padding=(-1, 0)),
    Error(ValueError, "padding is (2, 2) for windows that span 3 x 3", Arr(1, 1, 4, 4), kernel_size=3, padding=2),
    Error(ValueError, "windows span 5 x 2 but padded x has 4 x 4", Arr(1, 1, 4, 4), kernel_size=(5, 2)),
    Error(ValueError, "kernel_size has 3 integers; expected 2", Arr(1, 1, 4, 4), kernel_size=(1, 2, 3)),
]
WRONG_BINS = [
    Error(ValueError, "x is (3, 4); expected (N, C, H, W)", Arr(3, 4), output_size=(1, 1)),
    Error(ValueError, "x is (1, 2, 4, 0); expected at least one row and column", Arr(1, 2, 4, 0)),
    Error(TypeError, "x is int32", Arr(1, 1, 4, 4, kind="int", dtype="int32")),
    Error(ValueError, "output_size is (0, 2); expected at least 1", Arr(1, 1, 4, 4), output_size=(0, 2)),
]

GRIDS = [
    Sample("global", Arr(2, 3, 5, 7, kind="distinct")),
    Sample("global, channels-last", Arr(2, 19, 5, 7, kind="distinct", layout="channels_last")),
    Sample("global, long", Arr(1, 2, 40, 60)).only("float32", "bfloat16").no_gradient(),
    Sample("global, many taps", Arr(2, 3, 17, 18, kind="distinct")),
    Sample("equal bins", Arr(2, 3, 6, 8, kind="distinct"), output_size=(3, 2)),
    Sample("overlapping bins", Arr(2, 3, 7, 10, kind="distinct"), output_size=(3, 4)),
    Sample("long bins", Arr(2, 2, 21, 23, kind="distinct"), output_size=(2, 5)),
    Sample(
        "overlapping bins, channels-last",
        Arr(1, 35, 7, 10, kind="distinct", layout="channels_last"),
        output_size=(3, 4),
    ),
    Sample("equal rows, overlapping columns", Arr(1, 2, 6, 11, kind="distinct"), output_size=(3, 4)),
    Sample("more bins than pixels", Arr(1, 2, 3, 4, kind="distinct"), output_size=(5, 9)),
    Sample("None keeps an extent", Arr(1, 2, 5, 4, kind="distinct"), output_size=(None, 2)),
    Sample("prime sizes", Arr(1, 3, 13, 11, kind="distinct"), output_size=(7, 5)),
    Sample("one pixel", Arr(1, 1, 1, 1)),
    Sample("zero batch", Arr(0, 3, 4, 4), output_size=2),
]


def layer(name, function, *shape, layout="contiguous", kernel_size=3, stride=2, padding=1, dtypes=("float32",)):
    """A pooling layer as a bench row."""

    def torch(x):
        import torch.nn.functional

        return getattr(torch.nn.functional, function)(x, kernel_size, stride, padding)

    N, C, H, W = shape
    P, Q = ((n + 2 * padding - kernel_size) // stride + 1 for n in (H, W))
    return Bench(
        name,
        Arr(*shape, layout=layout),
        kernel_size=kernel_size,
        stride=stride,
        padding=padding,
        flops=N * C * P * Q * kernel_size**2,
        bytes=4 * N * C * (H * W + P * Q),
        torch=torch,
        backward=True,
        dtypes=dtypes,
    )


def layers(function):
    both = ("float32", "bfloat16")
    return [
        layer("ResNet stem, 56 x 56 3 x 3 s2", function, 32, 64, 56, 56, dtypes=both),
        layer("ResNet stem, channels-last", function, 32, 64, 56, 56, layout="channels_last", dtypes=both),
        layer("VGG, 112 x 112 2 x 2", function, 32, 64, 112, 112, kernel_size=2, padding=0),
        layer("VGG, channels-last", function, 32, 64, 112, 112, kernel_size=2, padding=0, layout="channels_last"),
        layer("inception, 28 x 28 3 x 3 s1", function, 32, 192, 28, 28, stride=1),
    ]


def grid(name, function, *shape, output_size=1, layout="contiguous"):
    def torch(x):
        import torch.nn.functional

        return getattr(torch.nn.functional, function)(x, output_size)

    N, C, H, W = shape
    return Bench(
        name,
        Arr(*shape, layout=layout),
        output_size=output_size,
        flops=N * C * H * W,
        bytes=4 * N * C * (H * W + output_size**2),
        torch=torch,
        backward=True,
    )


def grids(function):
    return [
        grid("global, 7 x 7", function, 32, 512, 7, 7),
        grid("global, channels-last", function, 32, 512, 7, 7, layout="channels_last"),
        grid("global, 56 x 56", function, 32, 64, 56, 56),
        grid("56 x 56 to 5 x 5", function, 32, 64, 56, 56, output_size=5),
    ]


cases = [
    Case(
        op="max_pool2d",
        reference=max_pool2d,
        samples=[
            *WINDOWS,
            *WIDTHS,
            *(s.no_gradient() for s in TIES),
            *POSITIONS,
            Sample(
                "dilated",
                Arr(2, 2, 9, 11, kind="distinct"),
                kernel_size=(2, 3),
                stride=2,
                padding=1,
                dilation=(3, 2),
            ),
            Sample(
                "dilated, stride 3",
                Arr(1, 2, 9, 16, kind="distinct"),
                kernel_size=3,
                stride=(1, 3),
                dilation=(1, 2),
            ),
            Sample(
                "dilated, channels-last",
                Arr(1, 9, 8, 9, kind="distinct", layout="channels_last"),
                kernel_size=2,
                stride=1,
                dilation=3,
                padding=1,
            ),
        ],
        errors=[
            *WRONG_WINDOWS,
            Error(ValueError, "dilation is (0, 1); expected at least 1", Arr(1, 1, 4, 4), dilation=(0, 1)),
            Error(
                ValueError,
                "window 0 lies in the padding with all its taps",
                Arr(1, 1, 1, 4),
                padding=(2, 0),
                dilation=(3, 1),
                stride=1,
            ),
        ],
        bench=layers("max_pool2d"),
        family="pool2d",
    ),
    Case(
        op="avg_pool2d",
        reference=avg_pool2d,
        samples=[
            *WINDOWS,
            *WIDTHS,
            Sample(
                "padding not counted",
                Arr(2, 3, 7, 6),
                kernel_size=3,
                stride=2,
                padding=1,
                count_include_pad=False,
            ),
            Sample(
                "padding not counted, channels-last",
                Arr(2, 9, 7, 6, layout="channels_last"),
                kernel_size=(3, 5),
                stride=2,
                padding=(1, 2),
                ceil_mode=True,
                count_include_pad=False,
            ),
            Sample("divisor_override", Arr(2, 3, 7, 6), kernel_size=3, stride=2, padding=1, divisor_override=5),
            Sample("divisor_override, window = plane", Arr(2, 3, 3, 3), kernel_size=3, divisor_override=-2),
            Sample("NaN and infinities", Arr(2, 9, 8, 8, kind="special"), kernel_size=3, stride=2).no_gradient(),
        ],
        errors=[
            *WRONG_WINDOWS,
            Error(ValueError, "divisor_override is 0", Arr(1, 1, 4, 4), divisor_override=0),
        ],
        bench=layers("avg_pool2d"),
        family="pool2d",
    ),
    Case(
        op="adaptive_avg_pool2d",
        reference=adaptive_avg_pool2d,
        samples=GRIDS,
        errors=WRONG_BINS,
        bench=grids("adaptive_avg_pool2d"),
        family="pool2d",
    ),
    Case(
        op="adaptive_max_pool2d",
        reference=adaptive_max_pool2d,
        samples=[
            *GRIDS,
            Sample("ties", np.round(np.sin(np.arange(140.0)) * 1.5).reshape(1, 2, 7, 10), output_size=3).no_gradient(),
            Sample(
                "overlapping bins, indices",
                Arr(2, 9, 7, 10, kind="special"),
                output_size=(3, 4),
                return_indices=True,
            ).no_gradient(),
            Sample("global, indices", Arr(2, 3, 7, 5, kind="distinct"), return_indices=True).no_gradient(),
        ],
        errors=WRONG_BINS,
        bench=grids("adaptive_max_pool2d"),
        family="pool2d",
    ),
]
