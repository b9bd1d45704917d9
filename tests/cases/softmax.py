"""softmax and log_softmax along any axis."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def softmax(x, *, dim=-1):
    if x.ndim == 0:
        return np.exp(x - x)
    e = np.exp(x - x.max(dim, keepdims=True, initial=-np.inf))
    return e / e.sum(dim, keepdims=True)


def log_softmax(x, *, dim=-1):
    if x.ndim == 0:
        return x - x
    shifted = x - x.max(dim, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(dim, keepdims=True))


INF = float("inf")
SAMPLES = [
    Sample("scalar", Arr()),
    Sample("one element", Arr(1, 1)),
    Sample("vector", Arr(11)),
    Sample("10 classes", Arr(7, 10)),
    Sample("10 classes, several tiles of rows", Arr(131, 10)),
    *[Sample(f"row of {C}", Arr(3, C)) for C in (7, 8, 9, 15, 16, 17, 31, 33, 67)],
    Sample("axis 0", Arr(13, 5), dim=0),
    Sample("axis 0 of 64 columns", Arr(3, 64), dim=0),
    Sample("axis 0 of 65 columns", Arr(3, 65), dim=0),
    Sample("middle axis", Arr(2, 5, 3), dim=1),
    Sample("channels of an image", Arr(2, 21, 3, 5), dim=1),
    Sample("channels of a channels-last image", Arr(2, 21, 3, 5, layout="channels_last"), dim=1),
    Sample("width of a channels-last image", Arr(2, 3, 4, 5, layout="channels_last"), dim=-1),
    Sample("more rows than a block of columns", Arr(70, 3), dim=0),
    Sample("more than a block in a row", Arr(2, 2049)).no_gradient(),
    Sample("row beyond the cache", Arr(1, 70001)).no_gradient(),
    Sample("many columns, many rows", Arr(200, 130), dim=0).no_gradient(),
    Sample("large values", np.array([[1e4, 1e4 + 1, -1e4], [-3e4, -3e4, -3e4]])).no_gradient(),
    Sample("-inf among others", np.array([[0.0, -INF, 1.0], [-INF, 2.0, -INF]])).no_gradient(),
    Sample("a row of -inf", np.array([[-INF, -INF, -INF], [1.0, 2.0, 3.0]])).no_gradient(),
    Sample("a column of -inf", np.array([[-INF, 1.0], [-INF, 2.0]]), dim=0).no_gradient(),
    Sample("NaN and infinity", Arr(4, 9, kind="special")),
    Sample("NaN and infinity in columns", Arr(9, 4, kind="special"), dim=0),
    Sample("NaN beside -inf", np.array([[np.nan, -INF, -INF], [INF, 0.0, 1.0]])).no_gradient(),
    Sample("no rows", Arr(0, 4)),
    Sample("rows of nothing", Arr(3, 0)),
    Sample("no columns", Arr(3, 0), dim=0),
]


def errors(op):
    return [
        Error(ValueError, "dim is 2 but x is (3, 4); expected -2 to 1", Arr(3, 4), dim=2),
        Error(ValueError, "dim is -3", Arr(3, 4), dim=-3),
        Error(TypeError, "x is int64", Arr(3, 4, kind="int")),
    ]


def benches(name):
    def torch(dim):
        def call(x):
            import torch

            return getattr(torch.nn.functional, name)(x, dim)

        return call

    # The rows' output gradient is 1 everywhere, and of that softmax makes nothing but rounding.
    def row(title, *shape, dim=-1, **more):
        n = int(np.prod(shape))
        return Bench(
            title,
            Arr(*shape),
            dim=dim,
            flops=5 * n,
            bytes=8 * n,
            torch=torch(dim),
            backward=name == "log_softmax",
            **more,
        )

    return [
        row("4096 x 1024", 4096, 1024, dtypes=("float32", "bfloat16")),
        row("4096 x 10", 4096, 10),
        row("64 x 50257", 64, 50257),
        row("channels of 8 x 64 x 64 x 64", 8, 64, 64, 64, dim=1),
    ]


cases = [
    Case(
        op=op.__name__,
        reference=op,
        samples=SAMPLES,
        errors=errors(op),
        bench=benches(op.__name__),
        family="softmax",
    )
    for op in (softmax, log_softmax)
]
