"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from lamina import _C
from lamina._C import Tensor
from lamina.optim.optimizer import Optimizer, ParameterGroup, _require


class Adam(Optimizer):
    """p −= lr · m̂ / (sqrt(v̂) + eps), with m and v running means of g and g², and g = grad + weight_decay · p.

    m = b1 m + (1 − b1) g, m̂ = m / (1 − b1^t); v = b2 v + (1 − b2) g², v̂ = v / (1 − b2^t), with t the number
    of steps of the parameter. With ``amsgrad``, v̂ is made of the largest v so far.

    Args:
        params: parameters, or dicts of groups.
        lr: learning rate, or a Tensor of one element.
        betas: (b1, b2).
        eps: added to the root.
        weight_decay: as above.
        amsgrad: whether to use the largest v.
        maximize: ascend instead.

    Raises: ValueError for negative values, or betas outside [0, 1).

    Note: one kernel call per group steps all its tensors. m and v are float32 also for bfloat16 parameters.
        The step
        counts and the learning rate are device memory: a recorded step stays right.

    Source: https://arxiv.org/abs/1412.6980

    >>> p = nn.Parameter(lamina.tensor([1.0, -2.0]))
    >>> with lamina.Tape() as tape: loss = F.sum(p * p)
    >>> tape.backward(loss); optim.Adam([p], lr=0.1).step(); p
    Parameter(tensor([ 0.9, -1.9]))
    """

    state_names: ClassVar[dict[str, str | None]] = {
        "exp_avg": None,
        "exp_avg_sq": None,
        "max_exp_avg_sq": "amsgrad",
    }
    _decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check(self, group: ParameterGroup) -> None:
        for i, beta in enumerate(group["betas"]):
            _require(0 <= beta < 1, f"betas[{i}]", beta, "0 <= beta < 1")
        _require(group["eps"] >= 0, "eps", group["eps"], "at least 0")
        _require(group["weight_decay"] >= 0, "weight_decay", group["weight_decay"], "at least 0")

    def _step_group(
        self,
        group: ParameterGroup,
        scale: Tensor | None,
        params: list[Tensor],
        grads: list[Tensor],
        positions: Sequence[int],
    ) -> None:
        names = ("exp_avg", "exp_avg_sq", "step", "max_exp_avg_sq")[: 4 if group["amsgrad"] else 3]
        _C.adam_(
            group.lr_on(params[0].device),
            scale,
            [*params, *grads, *self._states(group, params, positions, names)],
            *group["betas"],
            group["eps"],
            group["weight_decay"],
            self._decoupled,
            group["amsgrad"],
            group["maximize"],
        )


class AdamW(Adam):
    """Adam with decoupled weight decay: p *= 1 − lr · weight_decay before each step, and g = grad.

    Args: as for ``Adam``; ``weight_decay`` is 0.01 by default.

    Source: https://arxiv.org/abs/1711.05101
    """

    _decoupled: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
