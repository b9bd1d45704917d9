"""reshape, flatten, squeeze, unsqueeze, permute, transpose, expand."""

import numpy as np

from cases import Arr, Case, Error, Sample


def reshape(x, *, shape=()):
    return x.reshape(shape)


def flatten(x, *, start_dim=0, end_dim=-1):
    if x.ndim == 0:
        return x.reshape(1)
    end = end_dim % x.ndim + 1
    return x.reshape(*x.shape[: start_dim % x.ndim], -1 if x.size else 0, *x.shape[end:])


def squeeze(x, *, dim=None):
    if dim is None:
        return np.squeeze(x)
    return np.squeeze(x, dim) if x.shape[dim] == 1 else x


cases = [
    Case(
        op="reshape",
        reference=reshape,
        samples=[
            Sample("split an axis", Arr(6, 4), shape=(2, 3, 4)),
            Sample("merge axes", Arr(2, 3, 4), shape=(6, 4)),
            Sample("regroup", Arr(4, 6), shape=(3, 8)),
            Sample("minus one", Arr(4, 6), shape=(2, -1)),
            Sample("minus one of nothing", Arr(0, 4), shape=(-1, 2)),
            Sample("to scalar", Arr(1, 1), shape=()),
            Sample("from scalar", Arr(), shape=(1, 1, 1)),
            Sample("empty", Arr(0, 4), shape=(2, 0, 7)),
            Sample("axes of one", Arr(1, 6, 1), shape=(6, 1, 1, 1)),
            Sample("view of a transpose", Arr(6, 5, layout="transposed"), shape=(2, 3, 5)),
            Sample("copy of a transpose", Arr(6, 5, layout="transposed"), shape=(30,)),
            Sample("broadcast", Arr(3, 4, layout="expanded"), shape=(12,)),
            Sample("channels last", Arr(2, 3, 4, 5, layout="channels_last"), shape=(2, 60)),
        ],
        errors=[
            Error(ValueError, "expected 6 elements", Arr(2, 3), shape=(4,)),
            Error(ValueError, "at most one of them -1", Arr(2, 3), shape=(-1, -1)),
            Error(ValueError, "shape is (-2, 3)", Arr(2, 3), shape=(-2, 3)),
            Error(ValueError, "expected 6 elements", Arr(2, 3), shape=(4, -1)),
            Error(ValueError, "expected 0 elements", Arr(0, 3), shape=(0, -1)),
            Error(ValueError, "expected at most 8 axes", Arr(1), shape=(1,) * 9),
        ],
        family="layout",
    ),
    Case(
        op="flatten",
        reference=flatten,
        samples=[
            Sample("all", Arr(2, 3, 4)),
            Sample("from axis 1", Arr(2, 3, 4), start_dim=1),
            Sample("middle", Arr(2, 3, 4, 5), start_dim=1, end_dim=2),
            Sample("one axis", Arr(2, 3), start_dim=1, end_dim=1),
            Sample("scalar", Arr()),
            Sample("empty", Arr(2, 0, 3)),
        ],
        errors=[Error(ValueError, "dim is 2", Arr(2, 3), start_dim=2)],
        family="layout",
    ),
    Case(
        op="squeeze",
        reference=squeeze,
        samples=[
            Sample("all", Arr(1, 3, 1, 2)),
            Sample("one", Arr(1, 3, 1, 2), dim=-2),
            Sample("longer axis stays", Arr(1, 3), dim=1),
            Sample("to scalar", Arr(1, 1)),
            Sample("empty", Arr(0, 1, 3)),
        ],
        errors=[Error(ValueError, "dim is 2", Arr(1, 3), dim=2)],
        family="layout",
    ),
    Case(
        op="unsqueeze",
        reference=lambda x, *, dim=0: np.expand_dims(x, dim),
        samples=[
            Sample("front", Arr(2, 3)),
            Sample("middle", Arr(2, 3), dim=1),
            Sample("back", Arr(2, 3), dim=-1),
            Sample("scalar", Arr()),
            Sample("empty", Arr(0, 3), dim=1),
        ],
        errors=[Error(ValueError, "dim is 3", Arr(2, 3), dim=3)],
        family="layout",
    ),
    Case(
        op="permute",
        reference=lambda x, *, dims=(): x.transpose(dims),
        samples=[
            Sample("matrix", Arr(3, 5), dims=(1, 0)),
            Sample("rotation", Arr(2, 3, 4), dims=(1, 2, 0)),
            Sample("negative", Arr(2, 3, 4), dims=(-1, 0, -2)),
            Sample("scalar", Arr(), dims=()),
            Sample("empty", Arr(0, 3), dims=(1, 0)),
        ],
        errors=[
            Error(ValueError, "dims are (0, 0)", Arr(2, 3), dims=(0, 0)),
            Error(ValueError, "dims are (0,)", Arr(2, 3), dims=(0,)),
            Error(ValueError, "dims are (0, 2)", Arr(2, 3), dims=(0, 2)),
        ],
        family="layout",
    ),
    Case(
        op="transpose",
        reference=lambda x, *, dim0=-2, dim1=-1: x.swapaxes(dim0, dim1),
        samples=[
            Sample("last two", Arr(2, 3, 4)),
            Sample("outer", Arr(2, 3, 4), dim0=0, dim1=-1),
            Sample("same", Arr(2, 3), dim0=1, dim1=1),
            Sample("empty", Arr(2, 0, 3), dim0=0, dim1=1),
        ],
        errors=[Error(ValueError, "dim is 2", Arr(2, 3), dim0=2)],
        family="layout",
    ),
    Case(
        op="expand",
        reference=lambda x, *, shape=(): np.broadcast_to(
            x, [x.shape[i - len(shape) + x.ndim] if n == -1 else n for i, n in enumerate(shape)]
        ),
        samples=[
            Sample("row", Arr(1, 4), shape=(3, 4)),
            Sample("column", Arr(3, 1), shape=(-1, 4)),
            Sample("new axes", Arr(4), shape=(2, 3, 4)),
            Sample("scalar", Arr(), shape=(2, 2)),
            Sample("same", Arr(2, 3), shape=(2, 3)),
            Sample("to nothing", Arr(1, 3), shape=(0, 3)),
            Sample("empty", Arr(0, 1), shape=(2, 0, 3)),
            Sample("middle", Arr(2, 1, 3), shape=(2, 5, 3)),
        ],
        errors=[
            Error(ValueError, "shape is (3, 3)", Arr(2, 3), shape=(3, 3)),
            Error(ValueError, "shape is (3,)", Arr(2, 3), shape=(3,)),
            Error(ValueError, "shape is (-1, 2, 3)", Arr(2, 3), shape=(-1, 2, 3)),
        ],
        family="layout",
    ),
]
