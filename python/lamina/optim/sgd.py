"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from lamina import _C
from lamina._C import Tensor
from lamina.optim.optimizer import Optimizer, ParameterGroup, _require


class SGD(Optimizer):
    """p −= lr · b with b = momentum b + (1 − dampening) g, where g = grad + weight_decay · p.

    The first b is g. With ``nesterov``, p −= lr (g + momentum b).

    Args:
        params: parameters, or dicts of groups.
        lr: learning rate, or a Tensor of one element.
        momentum, dampening, weight_decay, nesterov: as above.
        maximize: ascend instead.

    Raises: ValueError for negative values, or nesterov without momentum or with dampening.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html
    """

    state_names: ClassVar[dict[str, str | None]] = {"momentum_buffer": "momentum"}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check(self, group: ParameterGroup) -> None:
        momentum, dampening = group["momentum"], group["dampening"]
        _require(momentum >= 0, "momentum", momentum, "at least 0")
        _require(group["weight_decay"] >= 0, "weight_decay", group["weight_decay"], "at least 0")
        _require(
            not group["nesterov"] or (momentum > 0 and dampening == 0),
            "nesterov",
            f"True with momentum {momentum} and dampening {dampening}",
            "a momentum and no dampening",
        )

    def _step_group(
        self,
        group: ParameterGroup,
        scale: Tensor | None,
        params: list[Tensor],
        grads: list[Tensor],
        positions: Sequence[int],
    ) -> None:
        tensors = [*params, *grads]
        if group["momentum"] != 0:
            tensors += self._states(group, params, positions, ("momentum_buffer", "step"))
        _C.sgd_(
            group.lr_on(params[0].device),
            scale,
            tensors,
            group["momentum"],
            group["dampening"],
            group["weight_decay"],
            group["nesterov"],
            group["maximize"],
        )

    def _loadable(self, values: dict[str, Any]) -> dict[str, Any]:
        # PyTorch saves no step count: a buffer that exists has made its first step.
        return {"step": 1, **super()._loadable(values)}
