"""tril, triu, progression."""

import numpy as np

from cases import Arr, Case, Error, Sample

SAMPLES = [
    Sample("square", Arr(5, 5)),
    Sample("wide", Arr(3, 7), diagonal=1),
    Sample("tall", Arr(7, 3), diagonal=-2),
    Sample("batch", Arr(2, 3, 4, 4)),
    Sample("nothing kept or all", Arr(3, 3), diagonal=9),
    Sample("all kept or nothing", Arr(3, 3), diagonal=-9),
    Sample("empty", Arr(0, 3)),
    Sample("integers", Arr(3, 4, kind="int")),
]


def progression(*, start=0.0, step=1.0, size=0, dtype="float32"):
    return (start + np.arange(size) * step).astype("float64" if dtype in ("float32", "bfloat16") else dtype)


cases = [
    Case(
        op="tril",
        reference=lambda x, *, diagonal=0: np.tril(x, diagonal),
        samples=SAMPLES,
        errors=[Error(ValueError, "x is (3,)", Arr(3))],
        family="layout",
    ),
    Case(
        op="triu",
        reference=lambda x, *, diagonal=0: np.triu(x, diagonal),
        samples=SAMPLES,
        errors=[Error(ValueError, "x is (3,)", Arr(3))],
        family="layout",
    ),
    Case(
        op="progression",
        reference=progression,
        dtypes=("float32",),
        samples=[
            Sample("counting", size=70, step=1.0),
            Sample("fractions", start=-1.5, step=0.125, size=33),
            Sample("nothing"),
            Sample("bfloat16", start=0.1, step=0.3, size=9, dtype="bfloat16").only("bfloat16"),
            Sample("float64", start=0.1, step=0.3, size=9, dtype="float64").only("float64"),
            Sample("integers", start=5, step=-3, size=40, dtype="int64"),
        ],
        errors=[Error(ValueError, "size is -1", size=-1)],
        family="layout",
    ),
]
