"""Losses as modules."""

from __future__ import annotations

from lamina import functional as F
from lamina._C import Tensor
from lamina.nn.module import Module


class CrossEntropyLoss(Module):
    """−log softmax(x)[target], from logits.

    Args:
        weight: (C,) weight of each class, or None.
        ignore_index: a label that costs nothing.
        reduction: "mean", "sum" or "none".
        label_smoothing: share of the target probability that is spread over all classes.

    Shapes: x (N, C) or (N, C, ...); target (N,) or (N, ...) class indices, or probabilities of the shape of x.
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index, self.reduction, self.label_smoothing = ignore_index, reduction, label_smoothing

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            x,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class _Loss(Module):
    """A loss whose only option is the reduction."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class MSELoss(_Loss):
    """(x − target)², reduced by "mean", "sum" or "none"."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(x, target, reduction=self.reduction)


class L1Loss(_Loss):
    """|x − target|, reduced by "mean", "sum" or "none"."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(x, target, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Binary cross-entropy of sigmoid(x) against target in [0, 1], computed without overflow.

    Args:
        weight: factor of each loss, of a shape that broadcasts to that of x, or None.
        reduction: "mean", "sum" or "none".
        pos_weight: factor of the loss of positive targets, likewise; above 1 it favours recall.
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean", pos_weight: Tensor | None = None) -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, target, self.weight, self.pos_weight, reduction=self.reduction)


class NLLLoss(_Loss):
    """−weight[target] x[target], from log-probabilities x.

    Args:
        weight: (C,) weight of each class, or None.
        ignore_index: a label that costs nothing.
        reduction: "mean", "sum" or "none".

    Shapes: x (N, C) or (N, C, ...); target (N,) or (N, ...) class indices.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(x, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)
