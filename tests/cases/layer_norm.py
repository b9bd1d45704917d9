"""layer_norm, rms_norm, group_norm."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def normalised(x, axes, eps):
    first = x[tuple(slice(1) if i in axes else slice(None) for i in range(x.ndim))]  # costs no digits far from 0
    mean = first + (x - first).mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt((x - first).var(axis=axes, keepdims=True) + x.dtype.type(eps))


def affine(y, weight, bias):
    return y * (1 if weight is None else weight) + (0 if bias is None else bias)


def last_axes(x, shape):
    return tuple(range(x.ndim - np.size(shape), x.ndim))


def layer_norm(x, weight=None, bias=None, *, normalized_shape, eps=1e-5):
    return affine(normalised(x, last_axes(x, normalized_shape), eps), weight, bias)


def rms_norm(x, weight=None, *, normalized_shape, eps=None):
    mean = (x * x).mean(axis=last_axes(x, normalized_shape), keepdims=True)
    # in float64 the reference also stands for float32, whose eps it does not know: samples give one
    return affine(x / np.sqrt(mean + x.dtype.type(np.finfo(x.dtype).eps if eps is None else eps)), weight, None)


def group_norm(x, weight=None, bias=None, *, num_groups=1, eps=1e-5):
    N, C = x.shape[:2]
    groups = x.reshape(N, num_groups, C // num_groups, *x.shape[2:])
    y = normalised(groups, tuple(range(2, groups.ndim)), eps).reshape(x.shape)
    return affine(y, *(None if p is None else p.reshape(C, *[1] * (x.ndim - 2)) for p in (weight, bias)))


# --- rows ------------------------------------------------------------------------------------------------------------

ROWS = [  # name, x, axes that are normalised
    ("matrix", (6, 5), 1),
    ("sequence", (2, 3, 7), 1),
    ("two axes", (3, 2, 5, 4), 2),
    ("all axes", (3, 4), 2),
    ("vector", (11,), 1),
    ("one row", (1, 9), 1),
    ("prime sizes", (13, 31), 1),
    ("four rows and one", (5, 16), 1),
    ("no rows", (0, 5), 1),
    ("empty rows", (3, 0), 1),
]
# A piece of 4096 elements and one; blocks of 32 and of more rows; rows of a device block's registers and one.
LARGE_ROWS = [
    ("row = a piece + 1", (3, 4097)),
    ("many rows", (1050, 33)),
    ("blocks of rows", (70, 1030)),
    ("long rows", (2, 8200)),
]
WIDTHS = (3, 4, 7, 8, 9, 15, 16, 17, 31, 33)


def row_samples(parameters, **attrs):
    """`parameters`: the operands after x for a shape."""
    return [
        *(
            Sample(name, Arr(*x), *parameters(*x[-n:]), normalized_shape=x[-n:], **attrs)
            for name, x, n in ROWS
        ),
        *(
            Sample(name, Arr(*x), *parameters(x[1]), normalized_shape=x[1], **attrs)
            .only("float32", "bfloat16")
            .no_gradient()
            for name, x in LARGE_ROWS
        ),
        *(
            Sample(f"rows of {D}", Arr(6, D), *parameters(D), normalized_shape=D, **attrs)
            .only("float32", "bfloat16")
            for D in WIDTHS
        ),
        Sample("no parameters", Arr(4, 3, 5), normalized_shape=5, **attrs),
        Sample("weight only", Arr(4, 3, 5), Arr(5), normalized_shape=5, **attrs),
        Sample("rows in another order", Arr(3, 4, 5, layout="transposed"), normalized_shape=5, **attrs),
        Sample("float32 parameters", Arr(4, 6), *(as_float32(p) for p in parameters(6)), normalized_shape=6, **attrs)
        .only("float32", "bfloat16"),
        Sample("NaN and infinity in two rows", np.array([[np.nan, 1.0], [1.0, np.inf], [1.0, 0.5]]), normalized_shape=2,
               **attrs).no_gradient(),
    ]  # fmt: skip


def as_float32(p):
    return Arr(*p.shape, dtype="float32")


def two(*shape):
    return Arr(*shape), Arr(*shape)


LAYER = [
    *row_samples(two),
    Sample("bias only", Arr(4, 3, 5), None, Arr(5), normalized_shape=5),
    Sample("large eps", Arr(4, 3), *two(3), normalized_shape=3, eps=3.0),
    Sample("mean far from 0", Arr(8, 64, kind="uniform", low=1000, high=1001), normalized_shape=64).only("float32"),
    Sample("constant", Arr(6, 3, kind="uniform", low=2, high=2), normalized_shape=3).no_gradient(),
]

RMS = [
    *row_samples(lambda *shape: (Arr(*shape),), eps=1e-5),
    Sample("large eps", Arr(4, 3), Arr(3), normalized_shape=3, eps=3.0),
    Sample("eps of float64", Arr(3, 4, kind="uniform", low=-1e-8, high=1e-8), normalized_shape=4)
    .only("float64")
    .no_gradient(),
    Sample("zeros", Arr(2, 4, kind="uniform", low=0, high=0), normalized_shape=4).no_gradient(),
]

ROW_ERRORS = [
    (ValueError, "normalized_shape is (); expected the last extents of x (4, 3)", (Arr(4, 3),), {}),
    (ValueError, "normalized_shape is (4,) but x is (4, 3)", (Arr(4, 3),), {"normalized_shape": 4}),
    (ValueError, "normalized_shape is (2, 4, 3) but x is (4, 3)", (Arr(4, 3),), {"normalized_shape": (2, 4, 3)}),
    (ValueError, "weight is (2,); expected (3,), the normalized_shape", (Arr(4, 3), Arr(2)), {"normalized_shape": 3}),
    (TypeError, "x is int64", (Arr(4, 3, kind="int"),), {"normalized_shape": 3}),
    (TypeError, "weight is float64 but x is float32", (Arr(4, 3), Arr(3, dtype="float64")), {"normalized_shape": 3}),
]


def row_errors(*more):
    return [Error(kind, text, *inputs, **attrs) for kind, text, inputs, attrs in (*ROW_ERRORS, *more)]


# --- groups ----------------------------------------------------------------------------------------------------------

GROUPS = [  # name, x, groups
    ("matrix", (6, 8), 2),
    ("sequence", (3, 4, 7), 2),
    ("image", (2, 6, 5, 4), 3),
    ("one group", (3, 4, 5, 2), 1),
    ("instances", (3, 4, 5, 2), 4),
    ("volume", (2, 4, 3, 2, 3), 2),
    ("one pixel", (5, 6, 1, 1), 2),
    ("prime sizes", (3, 14, 3, 5), 7),
    ("packs of channels", (2, 16, 3, 8), 2),
    ("no samples", (0, 4, 3, 3), 2),
    ("no channels", (2, 0, 3, 3), 2),
    ("no pixels", (2, 4, 0, 3), 2),
]
LARGE_GROUPS = [
    ("group = a piece + 1", (2, 2, 17, 241), 2),
    ("many samples", (300, 12, 3), 3),
    ("small planes", (20, 6, 9, 9), 3),
    ("wide", (66, 1030), 2),
    ("many pixels", (2, 8, 60, 67), 2),
]

GROUP = [
    *(Sample(name, Arr(*x), *two(x[1]), num_groups=G) for name, x, G in GROUPS),
    *(
        Sample(f"{name}, channels-last", Arr(*x, layout="channels_last"), *two(x[1]), num_groups=G)
        for name, x, G in GROUPS
        if len(x) == 4
    ),
    *(
        Sample(name, Arr(*x), *two(x[1]), num_groups=G).only("float32", "bfloat16").no_gradient()
        for name, x, G in LARGE_GROUPS
    ),
    *(
        Sample(f"{name}, channels-last", Arr(*x, layout="channels_last"), *two(x[1]), num_groups=G)
        .only("float32", "bfloat16")
        .no_gradient()
        for name, x, G in LARGE_GROUPS
        if len(x) == 4
    ),
    Sample("no parameters", Arr(4, 6, 5, 2), num_groups=3),
    Sample("weight only", Arr(4, 6, 5), Arr(6), num_groups=3),
    Sample("bias only, channels-last", Arr(4, 6, 5, 2, layout="channels_last"), None, Arr(6), num_groups=3),
    Sample("float32 parameters", Arr(4, 6, 3), *(as_float32(p) for p in two(6)), num_groups=2)
    .only("float32", "bfloat16"),
    Sample("large eps", Arr(4, 6, 3), *two(6), num_groups=2, eps=3.0),
    Sample("mean far from 0", Arr(3, 4, 6, 6, kind="uniform", low=1000, high=1001), num_groups=2).only("float32"),
    Sample("mean far from 0, channels-last",
           Arr(3, 4, 6, 6, kind="uniform", low=1000, high=1001, layout="channels_last"), num_groups=2).only("float32"),
    Sample("constant", Arr(3, 4, 2, kind="uniform", low=2, high=2), num_groups=2).no_gradient(),
    Sample("NaN in one group", np.array([[np.nan, 1.0, 2.0, 0.5], [1.0, 2.0, np.inf, 0.5]]), num_groups=2)
    .no_gradient(),
]  # fmt: skip

GROUP_ERRORS = [
    Error(ValueError, "x is (3,); expected (N, C, ...)", Arr(3)),
    Error(ValueError, "num_groups is 4 but x has 6 channels", Arr(2, 6, 3), num_groups=4),
    Error(ValueError, "num_groups is 0 but x has 6 channels", Arr(2, 6, 3), num_groups=0),
    Error(ValueError, "weight is (2,); expected (6,), one value per channel of x (2, 6, 3)", Arr(2, 6, 3), Arr(2)),
    Error(ValueError, "bias is (6, 1); expected (6,)", Arr(2, 6, 3), None, Arr(6, 1)),
    Error(TypeError, "x is int64", Arr(2, 6, kind="int")),
    Error(TypeError, "weight is float64 but x is float32", Arr(2, 6), Arr(6, dtype="float64")),
]

# --- benchmarks ------------------------------------------------------------------------------------------------------

FLOATS = ("float32", "bfloat16")
TRANSFORMERS = [("32 × 128, 768", 4096, 768), ("8 × 1024, 1024", 8192, 1024), ("small", 16, 64)]


def layer(name, M, D):
    def torch(x, weight, bias):
        import torch.nn.functional

        return torch.nn.functional.layer_norm(x, (D,), weight, bias)

    return Bench(name, Arr(M, D), *two(D), normalized_shape=D, flops=8.0 * M * D, bytes=8.0 * M * D, torch=torch,
                 backward=True, dtypes=FLOATS)  # fmt: skip


def rms(name, M, D):
    def torch(x, weight):
        import torch.nn.functional

        return torch.nn.functional.rms_norm(x, (D,), weight)

    return Bench(name, Arr(M, D), Arr(D), normalized_shape=D, flops=5.0 * M * D, bytes=8.0 * M * D, torch=torch,
                 backward=True, dtypes=FLOATS)  # fmt: skip


def group(name, G, *shape, layout="contiguous"):
    def torch(x, weight, bias):
        import torch.nn.functional

        return torch.nn.functional.group_norm(x, G, weight, bias)

    size = float(np.prod(shape))
    return Bench(name, Arr(*shape, layout=layout), *two(shape[1]), num_groups=G, flops=8 * size, bytes=8 * size,
                 torch=torch, backward=True, dtypes=FLOATS)  # fmt: skip


cases = [
    Case(
        op="layer_norm",
        reference=layer_norm,
        samples=LAYER,
        errors=row_errors((ValueError, "bias is (3, 1); expected (3,), the normalized_shape",
                           (Arr(4, 3), None, Arr(3, 1)), {"normalized_shape": 3})),
        bench=[layer(*row) for row in TRANSFORMERS],
    ),
    Case(
        op="rms_norm",
        reference=rms_norm,
        samples=RMS,
        errors=row_errors(),
        bench=[rms(*row) for row in TRANSFORMERS],
    ),
    Case(
        op="group_norm",
        reference=group_norm,
        samples=GROUP,
        errors=GROUP_ERRORS,
        bench=[
            group("32 groups of 256 channels", 32, 8, 256, 32, 32),
            group("32 groups of 256 channels, channels-last", 32, 8, 256, 32, 32, layout="channels_last"),
            group("instances", 64, 8, 64, 56, 56),
        ],
    ),
]  # fmt: skip
