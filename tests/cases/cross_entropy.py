"""cross_entropy and nll_loss: losses over classes, from labels or probabilities."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def along_classes(weight, x):
    """The (C,) weights, ones if absent, shaped to multiply x along its class axis."""
    axis = 0 if x.ndim == 1 else 1
    weight = np.ones(x.shape[axis], x.dtype) if weight is None else weight
    return weight.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def picked(x, labels, ignore_index):
    """x at the label of each position (at class 0 where ignored)."""
    axis = 0 if x.ndim == 1 else 1
    safe = np.where(labels == ignore_index, 0, labels)
    return np.take_along_axis(x, np.expand_dims(safe, axis), axis).squeeze(axis)


def reduced(loss, divisor, reduction):
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.sum() / divisor


def nll_loss(x, target, weight=None, *, ignore_index=-100, reduction="mean"):
    counts = target != ignore_index
    weights = np.where(counts, picked(np.broadcast_to(along_classes(weight, x), x.shape), target, ignore_index), 0)
    loss = np.where(counts, -weights * picked(x, target, ignore_index), 0).astype(x.dtype)
    return reduced(loss, weights.sum(dtype=x.dtype), reduction)


def cross_entropy(x, target, weight=None, *, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    axis = 0 if x.ndim == 1 else 1
    shifted = x - x.max(axis, keepdims=True, initial=-np.inf)
    log_p = shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))
    w, C = along_classes(weight, x), x.shape[axis]
    if target.dtype.kind != "i":
        mixed = (1 - label_smoothing) * target + label_smoothing / C
        loss = -(w * mixed * log_p).sum(axis)
        return reduced(loss, max(loss.size, 0), reduction)
    hard = nll_loss(log_p, target, weight, ignore_index=ignore_index, reduction=reduction)
    if label_smoothing == 0:
        return hard
    counts = target != ignore_index
    weights = np.where(counts, picked(np.broadcast_to(w, x.shape), target, ignore_index), 0)
    smooth = np.where(counts, -(w * log_p).sum(axis), 0)
    smooth = reduced(smooth, weights.sum(dtype=x.dtype), reduction)
    return (1 - label_smoothing) * hard + label_smoothing / C * smooth


def labels(*shape, C, dtype="int64"):
    return Arr(*shape, kind="int", high=C, dtype=dtype)


def weights(C):
    return Arr(C, kind="positive")


def probabilities(*shape):
    return Arr(*shape, kind="uniform", low=0, high=1)


INF = float("inf")
SHARED = [
    Sample("one class", Arr(3, 1), labels(3, C=1)),
    Sample("10 classes", Arr(6, 10), labels(6, C=10)),
    Sample("int32 labels", Arr(6, 10), labels(6, C=10, dtype="int32")),
    *[Sample(f"{C} classes", Arr(3, C), labels(3, C=C)) for C in (7, 8, 9, 17, 33)],
    Sample("one position without a batch", Arr(5), np.array(3)),
    Sample("none", Arr(6, 5), labels(6, C=5), reduction="none"),
    Sample("sum", Arr(6, 5), labels(6, C=5), reduction="sum"),
    Sample("weights", Arr(6, 5), labels(6, C=5), weights(5)),
    Sample("weights, sum", Arr(6, 5), labels(6, C=5), weights(5), reduction="sum"),
    Sample("ignored labels", Arr(9, 4), labels(9, C=4), ignore_index=2),
    Sample(
        "ignored labels, weights, none",
        Arr(9, 4),
        labels(9, C=4),
        weights(4),
        ignore_index=2,
        reduction="none",
    ),
    Sample("negative ignore_index", Arr(4, 3), np.array([0, -100, 2, -100])),
    Sample("all ignored", Arr(2, 3), np.array([-1, -1]), ignore_index=-1).no_gradient(),
    Sample("all ignored, sum", Arr(2, 3), np.array([-1, -1]), ignore_index=-1, reduction="sum"),
    Sample("sequence", Arr(2, 5, 3), labels(2, 3, C=5)),
    Sample("image", Arr(2, 7, 3, 5), labels(2, 3, 5, C=7), weights(7)),
    Sample("image, none", Arr(2, 3, 2, 3), labels(2, 2, 3, C=3), reduction="none"),
    Sample("channels-last image", Arr(2, 7, 3, 5, layout="channels_last"), labels(2, 3, 5, C=7), weights(7)),
    Sample("image, ignored labels", Arr(2, 3, 2, 4), labels(2, 2, 4, C=3), ignore_index=1),
    Sample("65 columns", Arr(1, 3, 65), labels(1, 65, C=3)),
    Sample("several chunks of rows", Arr(900, 20), labels(900, C=20)).no_gradient(),
    Sample("several chunks of tiles", Arr(3, 11, 20, 40), labels(3, 20, 40, C=11)).no_gradient(),
    Sample("more than a block of classes", Arr(2, 4099), labels(2, C=4099)).no_gradient(),
    Sample("no positions", Arr(0, 3), labels(0, C=3)),
    Sample("no positions, none", Arr(0, 3), labels(0, C=3), reduction="none"),
    Sample("no columns", Arr(2, 3, 0), labels(2, 0, C=3), reduction="sum"),
]

SMOOTHED = [
    Sample("smoothing", Arr(6, 10), labels(6, C=10), label_smoothing=0.1),
    Sample("smoothing, weights", Arr(6, 5), labels(6, C=5), weights(5), label_smoothing=0.3),
    Sample(
        "smoothing, ignored labels, weights",
        Arr(9, 4),
        labels(9, C=4),
        weights(4),
        ignore_index=1,
        label_smoothing=0.2,
    ),
    Sample("smoothing, none", Arr(4, 9), labels(4, C=9), label_smoothing=0.2, reduction="none"),
    Sample("only smoothing", Arr(4, 9), labels(4, C=9), label_smoothing=1.0),
    Sample(
        "smoothing, image",
        Arr(2, 5, 3, 4),
        labels(2, 3, 4, C=5),
        weights(5),
        ignore_index=3,
        label_smoothing=0.2,
    ),
    Sample("probabilities", Arr(6, 5), probabilities(6, 5)),
    Sample("probabilities, one position", Arr(7), probabilities(7)),
    Sample("probabilities, weights, smoothing", Arr(4, 9), probabilities(4, 9), weights(9), label_smoothing=0.2),
    Sample("probabilities, none", Arr(4, 9), probabilities(4, 9), weights(9), reduction="none"),
    Sample("probabilities, sum", Arr(4, 9), probabilities(4, 9), reduction="sum"),
    Sample("probabilities, image", Arr(2, 3, 4, 5), probabilities(2, 3, 4, 5), weights(3), label_smoothing=0.1),
    Sample(
        "probabilities, channels-last image",
        Arr(2, 3, 4, 5, layout="channels_last"),
        probabilities(2, 3, 4, 5),
    ),
    Sample("probabilities, 65 columns, none", Arr(1, 3, 65), probabilities(1, 3, 65), reduction="none"),
]

UNUSUAL = [
    Sample("large logits", np.array([[1e4, 1e4 - 3], [-2e4, -2e4]]), np.array([1, 0])).no_gradient(),
    Sample("-inf among others", np.array([[0.0, -INF, 1.0]]), np.array([2])).no_gradient(),
    Sample("-inf at the label", np.array([[0.0, -INF, 1.0]]), np.array([1])).no_gradient(),
    Sample("a row of -inf", np.array([[-INF, -INF], [0.0, 1.0]]), np.array([1, 1]), reduction="none").no_gradient(),
    Sample("NaN and infinity", Arr(4, 9, kind="special"), labels(4, C=9), reduction="none"),
    Sample("NaN and infinity in columns", Arr(1, 9, 4, kind="special"), labels(1, 4, C=9), reduction="none"),
]


def errors(op, *, takes_probabilities):
    x, t = Arr(4, 5), labels(4, C=5)
    own = [
        Error(
            ValueError, "target has class 5 at position 1 but x is of 5 classes", Arr(2, 5), np.array([0, 5])
        ).on_cpu(),
        Error(ValueError, "target has class -1 at position 0", Arr(2, 5), np.array([-1, 0])).on_cpu(),
        Error(ValueError, "target has class -100", Arr(2, 5), np.array([-100, 0]), ignore_index=1).on_cpu(),
        Error(ValueError, "target is (3,) but x is (4, 5); expected (4,)", x, labels(3, C=5)),
        Error(ValueError, "expected (2, 6)", Arr(2, 5, 6), labels(2, C=5)),
        Error(ValueError, "reduction is 'avg'", x, t, reduction="avg"),
        Error(ValueError, "weight is (4,)", x, t, weights(4)),
        Error(TypeError, "weight is float64", x, t, Arr(5, dtype="float64")),
        Error(ValueError, "expected (N, C)", Arr(), np.array(0)),
        Error(ValueError, "expected at least one class", Arr(4, 0), labels(4, C=1)),
        Error(TypeError, "x is int64", Arr(4, 5, kind="int"), t),
        Error(TypeError, "target is bool", x, Arr(4, kind="bool")),
    ]
    if not takes_probabilities:
        return [*own, Error(TypeError, "target is float32; expected int64 or int32", x, probabilities(4, 5))]
    return [
        *own,
        Error(ValueError, "target of probabilities is (4,)", x, probabilities(4)),
        Error(TypeError, "target is float64", x, Arr(4, 5, dtype="float64")),
        Error(ValueError, "label_smoothing is 1.5", x, t, label_smoothing=1.5),
        Error(ValueError, "label_smoothing is -0.1", x, t, label_smoothing=-0.1),
    ]


def row(name, op, *shape, **more):
    def torch(x, target):
        import torch

        return getattr(torch.nn.functional, op)(x, target)

    n = int(np.prod(shape))
    positions = (shape[0], *shape[2:])
    target = labels(*positions, C=shape[1])
    return Bench(name, Arr(*shape), target, flops=5 * n, bytes=4 * n, torch=torch, backward=True, **more)


cases = [
    Case(
        op="cross_entropy",
        reference=cross_entropy,
        samples=[*SHARED, *SMOOTHED, *UNUSUAL],
        gradients=(0, 1),
        errors=errors("cross_entropy", takes_probabilities=True),
        bench=[
            row("4096 x 1024", "cross_entropy", 4096, 1024, dtypes=("float32", "bfloat16")),
            row("4096 x 10", "cross_entropy", 4096, 10),
            row("256 x 50257", "cross_entropy", 256, 50257),
            row("4 x 21 x 256 x 256", "cross_entropy", 4, 21, 256, 256),
        ],
        family="loss",
    ),
    Case(
        op="nll_loss",
        reference=nll_loss,
        samples=SHARED,
        gradients=(0,),
        errors=errors("nll_loss", takes_probabilities=False),
        bench=[row("4096 x 1024", "nll_loss", 4096, 1024)],
        family="loss",
    ),
]
