"""clip_factor: the norm of many gradients together, and what clipping multiplies them by."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def reference(grads, *, max_norm=1.0, norm_type=2.0):
    every = np.concatenate([np.abs(g).ravel() for g in grads] or [np.zeros(1)])
    if norm_type == np.inf:
        norm = every.max(initial=0)
    else:
        norm = (every**norm_type).sum() ** np.asarray(1 / norm_type, every.dtype)
    return norm, np.minimum(1, max_norm / (norm + every.dtype.type(1e-6)))


def tensors(*shapes, **more):
    return [Arr(*shape, **more) for shape in shapes]


INF = float("inf")
case = Case(
    op="clip_factor",
    reference=reference,
    gradients=(),
    wide_outputs=(0, 1),
    samples=[
        Sample("one element", tensors((1,))),
        Sample("one tensor", tensors((3, 5))),
        *[Sample(f"order {p}", tensors((9,), (2, 8), (), (17,)), norm_type=p) for p in (1.0, 2.0, INF)],
        Sample("large max_norm", tensors((5,), (7,)), max_norm=1e6),
        Sample("small max_norm", tensors((5,), (7,)), max_norm=1e-3),
        Sample("empty tensors between", tensors((0,), (3,), (0, 4), (5,), (0,))),
        Sample("only empty tensors", tensors((0,), (0, 4))),
        Sample("many small tensors", tensors(*[(i % 7 + 1,) for i in range(40)])),
        Sample("tensors that end within a chunk", tensors((16383,), (2,), (40000,), (5,)), norm_type=1.0),
        Sample("NaN", [np.array([1.0, np.nan]), np.array([2.0, INF])]),
        Sample("NaN, order inf", [np.array([1.0, np.nan]), np.array([2.0, INF])], norm_type=INF),
        Sample("infinity", [np.array([1.0, -INF]), np.array([2.0])], norm_type=1.0),
    ],
    errors=[
        Error(ValueError, "norm_type is 3; expected 1, 2 or inf", tensors((3,)), norm_type=3.0),
        Error(TypeError, "grads[1] is int64", [Arr(3), Arr(3, kind="int")]),
    ],
    bench=[
        Bench("16M elements", tensors((1 << 24,)), flops=2 << 24, bytes=4 << 24),
        Bench("100 tensors of 1000", tensors(*[(1000,)] * 100), flops=2e5, bytes=4e5),
    ],
)
