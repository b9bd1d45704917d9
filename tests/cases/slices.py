"""slice, flip, split, chunk."""

import numpy as np

from cases import Arr, Case, Error, Sample


def sliced(x, *, starts=(), sizes=(), steps=(), squeeze=()):
    index = np.ix_(*(s + k * np.arange(n) for s, n, k in zip(starts, sizes, steps, strict=True)))
    return x[index].reshape([n for i, n in enumerate(sizes) if i not in squeeze])


def flip(x, *, dims=()):
    return np.flip(x, dims)


def split(x, *, split_size=1, dim=0):
    bounds = range(split_size, x.shape[dim], split_size) if isinstance(split_size, int) else np.cumsum(split_size)[:-1]
    return tuple(np.split(x, bounds, dim))


def chunk(x, *, chunks=1, dim=0):
    return split(x, split_size=max(1, -(-x.shape[dim] // chunks)), dim=dim)


cases = [
    Case(
        op="slice",
        reference=sliced,
        samples=[
            Sample("part", Arr(5, 6), starts=(1, 2), sizes=(3, 2), steps=(1, 1)),
            Sample("steps", Arr(7, 9), starts=(0, 1), sizes=(4, 3), steps=(2, 3)),
            Sample("backwards", Arr(5, 6), starts=(4, 5), sizes=(5, 3), steps=(-1, -2)),
            Sample("one backwards", Arr(3, 70), starts=(0, 69), sizes=(3, 70), steps=(1, -1)),
            Sample("squeezed", Arr(5, 6, 2), starts=(3, 0, 1), sizes=(1, 6, 1), steps=(1, 1, 1), squeeze=(0, 2)),
            Sample("squeezed backwards", Arr(5, 6), starts=(3, 5), sizes=(1, 6), steps=(1, -1), squeeze=(0,)),
            Sample("nothing", Arr(5, 6), starts=(0, 0), sizes=(0, 6), steps=(1, 1)),
            Sample("empty", Arr(0, 6), starts=(0, 1), sizes=(0, 2), steps=(1, 2)),
            Sample("element", Arr(5, 6), starts=(2, 3), sizes=(1, 1), steps=(1, 1), squeeze=(0, 1)),
            Sample("scalar", Arr(), starts=(), sizes=(), steps=()),
        ],
        errors=[
            Error(ValueError, "elements 1 to 5 of axis 0", Arr(5), starts=(1,), sizes=(5,), steps=(1,)),
            Error(ValueError, "elements 1 to -1 of axis 0", Arr(5), starts=(1,), sizes=(3,), steps=(-1,)),
            Error(ValueError, "one each per axis", Arr(5, 2), starts=(1,), sizes=(1,), steps=(1,)),
            Error(ValueError, "squeeze has 0", Arr(5), starts=(0,), sizes=(2,), steps=(1,), squeeze=(0,)),
        ],
        family="layout",
    ),
    Case(
        op="flip",
        reference=flip,
        samples=[
            Sample("rows", Arr(5, 6), dims=(0,)),
            Sample("columns", Arr(3, 33), dims=(-1,)),
            Sample("both", Arr(5, 6), dims=(0, 1)),
            Sample("none", Arr(5, 6), dims=()),
            Sample("empty", Arr(0, 6), dims=(0, 1)),
        ],
        errors=[Error(ValueError, "dim is 2", Arr(2, 3), dims=(2,))],
        family="layout",
    ),
    Case(
        op="split",
        reference=split,
        samples=[
            Sample("even", Arr(6, 4), split_size=2),
            Sample("rest", Arr(7, 4), split_size=3),
            Sample("larger than the axis", Arr(3, 4), split_size=9),
            Sample("sizes", Arr(4, 6), split_size=(1, 0, 5), dim=-1),
            Sample("empty", Arr(0, 6), split_size=2, dim=1),
        ],
        errors=[
            Error(ValueError, "split_size is 0", Arr(4), split_size=0),
            Error(ValueError, "sizes (1, 2); expected a sum of 4", Arr(4), split_size=(1, 2)),
            Error(ValueError, "dim is 1", Arr(4), split_size=2, dim=1),
        ],
        family="layout",
    ),
    Case(
        op="chunk",
        reference=chunk,
        samples=[
            Sample("even", Arr(6, 4), chunks=3),
            Sample("rest", Arr(4, 7), chunks=3, dim=1),
            Sample("more than elements", Arr(2, 3), chunks=5),
            Sample("empty", Arr(4, 0), chunks=2),
        ],
        errors=[Error(ValueError, "chunks is 0", Arr(4), chunks=0)],
        family="layout",
    ),
]
