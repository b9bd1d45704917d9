"""clone, contiguous, channels_last, to_device, full, fill_like."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample

SHAPES = [
    Sample("scalar", Arr()),
    Sample("empty", Arr(3, 0, 2)),
    Sample("one element", Arr(1, 1, 1)),
    Sample("vector", Arr(1031)),
    Sample("matrix", Arr(33, 70)),
    Sample("primes", Arr(3, 5, 7, 11)),
    Sample("transposed", Arr(65, 67, layout="transposed")),
    Sample("channels last", Arr(2, 19, 5, 9, layout="channels_last")),
    Sample("three channels last", Arr(2, 3, 17, 9, layout="channels_last")),
    Sample("integers", Arr(9, 8, kind="int", layout="transposed")),
    Sample("booleans", Arr(40, 36, kind="bool", layout="transposed")),
    Sample("eight axes", Arr(2, 1, 3, 2, 1, 2, 3, 2, layout="transposed")),
    Sample("special values", Arr(64, 40, kind="special", layout="transposed")),
]


def filled(*, shape=(), value=0.0, dtype="float32"):
    return np.full(shape, value, "float64" if dtype in ("float32", "bfloat16") else dtype)


def filled_like(x, *, value=0.0, dtype=None):
    return np.full(x.shape, value, dtype or x.dtype)


def torch_channels_last(x):
    import torch

    return x.contiguous(memory_format=torch.channels_last)


cases = [
    Case(
        op="clone",
        reference=lambda x: x,
        samples=SHAPES,
        bench=[Bench("4M", Arr(1 << 22), torch=lambda x: x.clone())],
        family="layout",
    ),
    Case(op="to_device", reference=lambda x, **attrs: x, samples=SHAPES, family="layout"),
    Case(
        op="contiguous",
        reference=lambda x: x,
        samples=SHAPES,
        bench=[
            Bench("transposed 4096", Arr(4096, 4096, layout="transposed"), torch=lambda x: x.contiguous()),
            Bench("transposed 512", Arr(512, 512, layout="transposed"), torch=lambda x: x.contiguous()),
            Bench(
                "from channels last",
                Arr(32, 64, 56, 56, layout="channels_last"),
                torch=lambda x: x.contiguous(),
            ),
        ],
        family="layout",
    ),
    Case(
        op="channels_last",
        reference=lambda x: x,
        samples=[
            Sample("one pixel", Arr(2, 3, 1, 1)),
            Sample("one channel", Arr(2, 1, 5, 4)),
            Sample("three channels", Arr(2, 3, 17, 9)),
            Sample("prime sizes", Arr(2, 19, 5, 9)),
            Sample("already", Arr(2, 8, 3, 3, layout="channels_last")),
            Sample("empty", Arr(2, 0, 3, 3)),
            Sample("blocks", Arr(1, 130, 9, 17)),
        ],
        errors=[Error(ValueError, "x is (2, 3)", Arr(2, 3))],
        bench=[
            Bench("64x56x56", Arr(32, 64, 56, 56), torch=torch_channels_last),
            Bench("3x224x224", Arr(8, 3, 224, 224), torch=torch_channels_last),
        ],
        family="layout",
    ),
    Case(
        op="full",
        reference=filled,
        dtypes=("float32",),
        samples=[
            Sample("scalar", value=2.5),
            Sample("empty", shape=(0, 3)),
            Sample("matrix", shape=(33, 70), value=-1.25),
            Sample("bfloat16", shape=(1031,), value=3.0, dtype="bfloat16").only("bfloat16"),
            Sample("float64", shape=(5, 1, 3), value=0.1, dtype="float64").only("float64"),
            Sample("integers", shape=(40,), value=-7, dtype="int64"),
            Sample("booleans", shape=(40,), value=1, dtype="bool"),
        ],
        errors=[
            Error(ValueError, "shape is (2, -1)", shape=(2, -1)),
            Error(ValueError, "expected at most 8 axes", shape=(1,) * 9),
        ],
        family="layout",
    ),
    Case(
        op="fill_like",
        reference=filled_like,
        samples=[
            *(Sample(s.name, *s.inputs, value=2) for s in SHAPES[:8]),
            Sample("other dtype", Arr(7, 3), value=1, dtype="int64"),
        ],
        gradients=(),
        family="layout",
    ),
]
