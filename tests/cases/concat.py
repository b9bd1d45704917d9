"""concat, stack."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def concat(xs, *, dim=0):
    return np.concatenate(xs, dim)


def stack(xs, *, dim=0):
    return np.stack(xs, dim)


def torch_cat(xs):
    import torch

    return torch.cat(xs, 1)


cases = [
    Case(
        op="concat",
        reference=concat,
        samples=[
            Sample("rows", [Arr(2, 3), Arr(4, 3)]),
            Sample("columns", [Arr(3, 2), Arr(3, 5), Arr(3, 1)], dim=1),
            Sample("last axis", [Arr(2, 3, 4), Arr(2, 3, 7)], dim=-1),
            Sample("one tensor", [Arr(2, 3)]),
            Sample("with an empty one", [Arr(0, 3), Arr(2, 3)]),
            Sample("channels", [Arr(2, 3, 4, 5), Arr(2, 8, 4, 5)], dim=1),
            Sample(
                "channels last",
                [Arr(2, 3, 4, 5, layout="channels_last"), Arr(2, 8, 4, 5, layout="channels_last")],
                dim=1,
            ),
            Sample("mixed layouts", [Arr(3, 5, layout="transposed"), Arr(3, 5, layout="strided")], dim=1),
            Sample("integers", [Arr(3, kind="int"), Arr(2, kind="int")]),
        ],
        errors=[
            Error(ValueError, "xs is empty", []),
            Error(ValueError, "xs[1] is (2, 4)", [Arr(2, 3), Arr(2, 4)]),
            Error(ValueError, "xs[1] is (2,)", [Arr(2, 3), Arr(2)]),
            Error(TypeError, "xs[1] is int64", [Arr(3), Arr(3, kind="int")]),
            Error(ValueError, "dim is 2", [Arr(2, 3)], dim=2),
        ],
        bench=[
            Bench("channels", [Arr(16, 64, 56, 56), Arr(16, 64, 56, 56)], dim=1, torch=torch_cat),
            Bench("features", [Arr(4096, 128), Arr(4096, 64)], dim=1, torch=torch_cat),
        ],
        family="layout",
    ),
    Case(
        op="stack",
        reference=stack,
        samples=[
            Sample("front", [Arr(2, 3), Arr(2, 3)]),
            Sample("back", [Arr(2, 3), Arr(2, 3), Arr(2, 3)], dim=-1),
            Sample("scalars", [Arr(), Arr()]),
            Sample("empty", [Arr(0, 3), Arr(0, 3)], dim=1),
        ],
        family="layout",
    ),
]
