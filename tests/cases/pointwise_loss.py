"""mse_loss, l1_loss and binary_cross_entropy_with_logits: losses of elements and their targets."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def reduced(loss, reduction):
    with np.errstate(invalid="ignore"):  # the mean of nothing is NaN
        return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.sum() / loss.size


def mse_loss(x, target, *, reduction="mean"):
    return reduced((x - target) ** 2, reduction)


def l1_loss(x, target, *, reduction="mean"):
    return reduced(np.abs(x - target), reduction)


def binary_cross_entropy_with_logits(x, target, weight=None, pos_weight=None, *, reduction="mean"):
    softplus = np.log1p(np.exp(-np.abs(x))) + np.maximum(-x, 0)  # -log sigmoid(x)
    h = 1 if pos_weight is None else 1 + (pos_weight - 1) * target
    loss = (1 - target) * x + h * softplus
    return reduced(loss if weight is None else weight * loss, reduction)


def target(*shape, **more):
    return Arr(*shape, kind="uniform", low=0, high=1, **more)


SAMPLES = [
    Sample("scalar", Arr(), target()),
    Sample("one element", Arr(1), target(1)),
    *[Sample(f"{n} elements", Arr(n), target(n)) for n in (7, 8, 9, 17, 33)],
    Sample("matrix", Arr(3, 5), target(3, 5)),
    Sample("none", Arr(3, 5), target(3, 5), reduction="none"),
    Sample("sum", Arr(3, 5), target(3, 5), reduction="sum"),
    Sample("channels-last x", Arr(2, 3, 2, 2, layout="channels_last"), target(2, 3, 2, 2), reduction="none"),
    Sample("several chunks", Arr(20011), target(20011)).no_gradient(),
    Sample("several chunks, none", Arr(20011), target(20011), reduction="none").no_gradient(),
    Sample("large values", Arr(9, kind="uniform", low=-1e4, high=1e4), target(9)),
    Sample("NaN and infinity", Arr(17, kind="special"), target(17), reduction="none").no_gradient(),
    Sample("nothing", Arr(0), target(0)),
    Sample("nothing, none", Arr(0, 3), target(0, 3), reduction="none"),
]

WEIGHTED = [
    Sample("weight", Arr(3, 5), target(3, 5), Arr(3, 5, kind="positive")),
    Sample("weight per row", Arr(3, 5), target(3, 5), Arr(3, 1, kind="positive")),
    Sample("weight per batch, none", Arr(3, 9), target(3, 9), Arr(9, kind="positive"), reduction="none"),
    Sample("pos_weight per class", Arr(4, 9), target(4, 9), None, Arr(9, kind="positive")),
    Sample("both weights", Arr(4, 9), target(4, 9), Arr(4, 9, kind="positive"), Arr(9, kind="positive")),
    Sample(
        "both weights, sum",
        Arr(2, 3),
        target(2, 3),
        Arr(kind="positive"),
        Arr(2, 1, kind="positive"),
        reduction="sum",
    ),
    Sample("saturated", np.array([800.0, -800.0, 90.0, -90.0]), np.array([0.0, 1.0, 1.0, 0.0]), reduction="none"),
]


def errors():
    return [
        Error(ValueError, "target is (3,) but x is (3, 1); expected equal shapes", Arr(3, 1), target(3)),
        Error(TypeError, "target is float64; expected float32", Arr(3), target(3, dtype="float64")),
        Error(TypeError, "x is int64", Arr(3, kind="int"), Arr(3, kind="int")),
        Error(ValueError, "reduction is 'average'", Arr(3), target(3), reduction="average"),
    ]


def row(op):
    def torch(x, t):
        import torch

        return getattr(torch.nn.functional, op)(x, t)

    n = 1 << 20
    return Bench("1M elements", Arr(n), target(n), flops=3 * n, bytes=8 * n, torch=torch, backward=True)


cases = [
    Case(
        op=op.__name__,
        reference=op,
        samples=SAMPLES,
        errors=errors(),
        bench=[row(op.__name__)],
        family="loss",
    )
    for op in (mse_loss, l1_loss)
]
cases.append(
    Case(
        op="binary_cross_entropy_with_logits",
        reference=binary_cross_entropy_with_logits,
        samples=[*SAMPLES, *WEIGHTED],
        gradients=(0, 1),
        errors=[
            *errors(),
            Error(ValueError, "weight is (4,) but x is (2, 3)", Arr(2, 3), target(2, 3), Arr(4)),
            Error(ValueError, "pos_weight is (2,) but x is (2, 3)", Arr(2, 3), target(2, 3), None, Arr(2)),
            Error(TypeError, "pos_weight is float64", Arr(3), target(3), None, Arr(3, dtype="float64")),
        ],
        bench=[row("binary_cross_entropy_with_logits")],
        family="loss",
    )
)
