"""``torch.optim``'s optimizers, in order of increasing complexity: one kernel call steps all parameters of a group.

Constructors, parameter groups, hooks and state dicts are PyTorch's own: schedulers, ``GradScaler`` and checkpoints work
with either. What differs:

* ``foreach`` and ``fused`` are accepted and mean nothing: there is one implementation, and it is fused;
  ``capturable`` and ``differentiable`` are refused;
* state of bfloat16 parameters is float32;
* the parameters of a group lie on one device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lamina import _C

__all__ = ["SGD", "Adam", "AdamW"]


class _OneCall(torch.optim.Optimizer):
    """What the optimizers share; comes before PyTorch's class among the bases. A subclass defines ``_step_group``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        for name in ("capturable", "differentiable"):
            if options.pop(name, False):
                raise ValueError(f"{type(self).__name__}: {name} is True; expected False (the kernel is neither)")
        super().__init__(*args, **{**options, "foreach": None, "fused": None})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient.

        Args: closure: computes the loss and its gradients anew.
        Returns: the loss that the closure gave, or None.
        Raises: TypeError for sparse or complex gradients, or dtypes without a kernel; ValueError for gaps in memory.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            if any(grad.layout is not torch.strided for grad in grads):
                raise TypeError(f"{type(self).__name__}: a gradient is sparse; expected dense ones")
            self._step_group(group, _scalar(group["lr"], params[0].device), params, grads)
            torch.autograd.graph.increment_version(params)  # so that autograd notices a backward pass that comes late
        return loss

    def _step_group(
        self, group: dict[str, Any], lr: torch.Tensor, params: list[torch.Tensor], grads: list[torch.Tensor]
    ) -> None:
        raise NotImplementedError

    def _states(self, params: list[torch.Tensor], names: Sequence[str]) -> list[torch.Tensor]:
        """The tensors of those names: all of the first name, then all of the second, and so on."""
        states = [self.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            if len(state) < len(names):
                self._add_states(p, state, names)
        return [state[name] for name in names for state in states]

    def _add_states(self, parameter: torch.Tensor, state: dict[str, torch.Tensor], names: Sequence[str]) -> None:
        for name in names:
            if name not in state:
                state[name] = (
                    torch.zeros((), device=parameter.device, dtype=torch.float32)
                    if name == "step"
                    else torch.zeros_like(parameter, dtype=_state_dtype(parameter))
                )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the state of this optimizer, or of PyTorch's of the same name.

        Args: state_dict: what ``state_dict()`` of either gave; its tensors are copied.
        Raises: ValueError for other groups of parameters.
        """
        super().load_state_dict(state_dict)
        params = [p for group in self.param_groups for p in group["params"]]
        positions = [i for group in state_dict["param_groups"] for i in group["params"]]
        for p, i in zip(params, positions, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if value is None:
                    del self.state[p][name]
                elif name == "step":
                    self.state[p][name] = _scalar(value, p.device).float().clone()
                else:  # PyTorch gave it the dtype of the parameter; the kernel wants its own, and the strides of p
                    self.state[p][name] = torch.empty_like(p, dtype=_state_dtype(p)).copy_(value)


def _state_dtype(parameter: torch.Tensor) -> torch.dtype:
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def _scalar(value: Any, device: torch.device) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().to(device)
    return torch.full((), value, dtype=torch.float64, device=device)


class SGD(_OneCall, torch.optim.SGD):
    """p −= lr · b with b = momentum b + (1 − dampening) g, where g = grad + weight_decay · p; the first b is g.

    Args: those of ``torch.optim.SGD``.
    Note: next to PyTorch's ``momentum_buffer`` the state holds a ``step`` count, which PyTorch's optimizer disregards.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html
    """

    def _step_group(
        self, group: dict[str, Any], lr: torch.Tensor, params: list[torch.Tensor], grads: list[torch.Tensor]
    ) -> None:
        _C.exchanged.sgd_(
            lr,
            None,
            [*params, *grads, *(self._states(params, ("momentum_buffer", "step")) if group["momentum"] else ())],
            group["momentum"],
            group["dampening"],
            float(group["weight_decay"]),
            group["nesterov"],
            group["maximize"],
        )

    def _add_states(self, parameter: torch.Tensor, state: dict[str, torch.Tensor], names: Sequence[str]) -> None:
        if "momentum_buffer" in state:  # PyTorch's: a buffer that exists has made its first step
            state["step"] = torch.ones((), device=parameter.device, dtype=torch.float32)
        super()._add_states(parameter, state, names)


class _AdamStep(_OneCall):
    def _step_group(
        self, group: dict[str, Any], lr: torch.Tensor, params: list[torch.Tensor], grads: list[torch.Tensor]
    ) -> None:
        names = ("exp_avg", "exp_avg_sq", "step", "max_exp_avg_sq")[: 4 if group["amsgrad"] else 3]
        _C.exchanged.adam_(
            lr,
            None,
            [*params, *grads, *self._states(params, names)],
            *(float(beta) for beta in group["betas"]),
            group["eps"],
            float(group["weight_decay"]),
            group["decoupled_weight_decay"],
            group["amsgrad"],
            group["maximize"],
        )


class Adam(_AdamStep, torch.optim.Adam):
    """p −= lr · m̂ / (√v̂ + eps), with m and v running means of g and g², and g = grad + weight_decay · p.

    Args: those of ``torch.optim.Adam``.
    Note: formulas in ``lamina.optim.Adam``.
    Source: https://arxiv.org/abs/1412.6980

    >>> model = torch.nn.Linear(4, 2)
    >>> optimizer = lamina.torch.optim.Adam(model.parameters(), lr=1e-3)
    """


class AdamW(_AdamStep, torch.optim.AdamW):
    """Adam with decoupled weight decay: p *= 1 − lr · weight_decay before each step, and g = grad.

    Args: those of ``torch.optim.AdamW``.
    Source: https://arxiv.org/abs/1711.05101
    """
