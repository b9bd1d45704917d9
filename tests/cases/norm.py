"""batch_norm: without and with running statistics, which training updates in place."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def per_channel(v, x, default):
    v = np.full(x.shape[1], default, x.dtype) if v is None else v
    return v.reshape(-1, *[1] * (x.ndim - 2))


def reference(x, mean=None, var=None, weight=None, bias=None, batches=None, *, training=False, momentum=0.1, eps=1e-5):
    moved = []
    if training:
        axes = tuple(i for i in range(x.ndim) if i != 1)
        count = x.size // max(1, x.shape[1])
        first = x[(slice(1), slice(None), *[slice(1)] * (x.ndim - 2))]  # costs no digits where the mean is far from 0
        centred = x - first
        batch_mean, batch_var = first.reshape(-1) + centred.mean(axis=axes), centred.var(axis=axes)
        if mean is not None:
            batches = None if batches is None else batches + 1
            m = mean.dtype.type(1 / batches.item() if momentum is None else momentum)
            unbiased = batch_var * mean.dtype.type(count / (count - 1))
            moved = [(1 - m) * mean + m * batch_mean, (1 - m) * var + m * unbiased]
            moved += [] if batches is None else [batches]
        mean, var = batch_mean, batch_var
    elif mean is not None:
        moved = [mean, var]
    rstd = 1 / np.sqrt(var + x.dtype.type(eps))
    y = (x - per_channel(mean, x, 0)) * per_channel(rstd, x, 1) * per_channel(weight, x, 1) + per_channel(bias, x, 0)
    return (y, *moved) if moved else y


def affine(C):
    return Arr(C), Arr(C)


def running(C):
    """Written in place, hence never in the layout "expanded"."""
    return Arr(C, layout="misaligned"), Arr(C, kind="positive", layout="strided")


SHAPES = [
    ("matrix", (6, 5)),
    ("sequence", (3, 4, 7)),
    ("image", (3, 4, 5, 6)),
    ("one image", (1, 3, 4, 4)),
    ("one pixel per image", (9, 5, 1, 1)),
    ("one channel", (3, 1, 4, 5)),
    ("prime sizes", (5, 7, 3, 11)),
    ("no channels", (3, 0, 4, 4)),
]
# Planes of a vector and one, pieces of 4096 elements and one, blocks of rows and one.
LARGE = [
    ("small planes", (60, 3, 9, 9)),
    ("plane = a piece + 1", (2, 2, 17, 241)),
    ("many rows", (1300, 51)),
    ("wide rows", (66, 1030)),
]

TRAINING = [
    *(Sample(name, Arr(*shape), None, None, *affine(shape[1]), training=True) for name, shape in SHAPES),
    *(
        Sample(name, Arr(*shape), None, None, *affine(shape[1]), training=True)
        .only("float32", "bfloat16")
        .no_gradient()
        for name, shape in LARGE
    ),
    *(
        Sample(
            f"{C} channels, channels-last",
            Arr(2, C, 3, 4, layout="channels_last"),
            None,
            None,
            *affine(C),
            training=True,
        )
        for C in (2, 3, 4, 7, 8, 9, 16, 17)
    ),
    Sample("two rows", Arr(2, 3), training=True).no_gradient(),  # a sum of nothing but rounding errors
    Sample("no weight, no bias", Arr(4, 3, 5, 2), training=True),
    Sample("weight only", Arr(4, 3, 5, 2), None, None, Arr(3), training=True),
    Sample(
        "bias only, channels-last",
        Arr(4, 3, 5, 2, layout="channels_last"),
        None,
        None,
        None,
        Arr(3),
        training=True,
    ),
    Sample("large eps", Arr(4, 3, 5), None, None, *affine(3), training=True, eps=3.0),
    Sample("mean far from 0", Arr(8, 3, 6, 6, kind="uniform", low=1000, high=1001), training=True).only("float32"),
    Sample("mean far from 0, rows", Arr(300, 9, kind="uniform", low=1000, high=1001), training=True).only("float32"),
    Sample("constant", Arr(6, 3, kind="uniform", low=2, high=2), training=True).no_gradient(),
    Sample("NaN in two channels", np.array([[np.nan, 1.0, np.inf], [1.0, 2.0, 0.5]]), training=True).no_gradient(),
]

TRACKING = [
    *(
        Sample(f"training, {name}", Arr(*shape), *running(shape[1]), *affine(shape[1]), training=True)
        for name, shape in SHAPES
    ),
    Sample(
        "training, channels-last",
        Arr(2, 9, 3, 4, layout="channels_last"),
        *running(9),
        *affine(9),
        training=True,
    ),
    Sample("momentum 0.7", Arr(4, 3, 5), *running(3), training=True, momentum=0.7),
    *(Sample(f"evaluation, {name}", Arr(*shape), *running(shape[1]), *affine(shape[1])) for name, shape in SHAPES),
    Sample("evaluation, channels-last", Arr(2, 9, 3, 4, layout="channels_last"), *running(9), *affine(9)),
    Sample("evaluation, no weight", Arr(2, 5, 3, 4), *running(5), None, Arr(5)),
    Sample("evaluation, zero batch", Arr(0, 5, 3, 4), *running(5), *affine(5)),
    Sample("evaluation, infinity", np.array([[np.inf, 1.0], [0.0, np.nan]]), *running(2)).no_gradient(),
]

COUNTING = [
    Sample(
        "average of three batches",
        Arr(4, 3, 5),
        *running(3),
        *affine(3),
        np.array([2]),
        training=True,
        momentum=None,
    ),
    Sample("first batch", Arr(4, 3, 5), *running(3), *affine(3), np.array([0]), training=True, momentum=None),
    Sample(
        "counted, momentum 0.2",
        Arr(4, 3, 5),
        *running(3),
        *affine(3),
        np.array([6]),
        training=True,
        momentum=0.2,
    ),
]

ERRORS = [
    Error(ValueError, "x is (3,); expected (N, C, ...)", Arr(3), training=True),
    Error(TypeError, "x is int64", Arr(3, 2, kind="int"), training=True),
    Error(ValueError, "weight is (2,); expected (3,)", Arr(4, 3), None, None, Arr(2), training=True),
    Error(ValueError, "bias is (3, 1); expected (3,)", Arr(4, 3), None, None, None, Arr(3, 1), training=True),
    Error(
        TypeError,
        "weight is float64 but x is float32",
        Arr(4, 3),
        None,
        None,
        Arr(3, dtype="float64"),
        training=True,
    ),
    Error(ValueError, "training expected more than one value per channel", Arr(1, 3, 1, 1), training=True),
    Error(ValueError, "no running statistics", Arr(4, 3)),
    Error(ValueError, "one of running_mean and running_var is missing", Arr(4, 3), Arr(3), training=True),
    Error(ValueError, "running_var is (4,); expected (3,)", Arr(4, 3), Arr(3), Arr(4)),
    Error(ValueError, "expected num_batches_tracked", Arr(4, 3), *running(3), training=True, momentum=None),
    Error(
        ValueError,
        "num_batches_tracked is (2,); expected one element",
        Arr(4, 3),
        *running(3),
        None,
        None,
        np.array([0, 0]),
        training=True,
    ),
    Error(
        TypeError,
        "num_batches_tracked is float32; expected int64",
        Arr(4, 3),
        *running(3),
        None,
        None,
        np.zeros(1, np.float32),
        training=True,
    ),
]


def layer(name, *shape, layout="contiguous", training=True, dtypes=("float32",)):
    def torch(x, mean, var, weight, bias):
        import torch.nn.functional

        statistics = (None, None) if training else (mean, var)
        return torch.nn.functional.batch_norm(x, *statistics, weight, bias, training)

    C = shape[1]
    return Bench(
        name,
        Arr(*shape, layout=layout),
        *((None, None) if training else running(C)),
        *affine(C),
        training=training,
        flops=8 * float(np.prod(shape)),
        bytes=(12 if training else 8) * float(np.prod(shape)),
        torch=torch,
        backward=training,
        dtypes=dtypes,
    )


cases = [
    Case(
        op="batch_norm",
        reference=reference,
        samples=TRAINING,
        errors=ERRORS,
        bench=[
            layer("image, 56 x 56", 32, 64, 56, 56, dtypes=("float32", "bfloat16")),
            layer("image, channels-last", 32, 64, 56, 56, layout="channels_last", dtypes=("float32", "bfloat16")),
            layer("image, 7 x 7", 32, 512, 7, 7),
            layer("matrix", 4096, 1024),
            layer("evaluation", 32, 64, 56, 56, training=False),
        ],
    ),
    Case(op="batch_norm", reference=reference, samples=TRACKING, mutates=(1, 2), gradients=(0, 3, 4)),
    Case(op="batch_norm", reference=reference, samples=COUNTING, mutates=(1, 2, 5), gradients=(0, 3, 4)),
]
