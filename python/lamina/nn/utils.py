"""What training loops do with parameters and gradients."""

from __future__ import annotations

from collections.abc import Iterable

from lamina import _C
from lamina import functional as F
from lamina._C import Tensor


def get_total_norm(
    tensors: Iterable[Tensor] | Tensor, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """The norm of all elements of all tensors together.

    Args:
        tensors: one tensor or any number of them.
        norm_type: 1, 2 or inf.
        error_if_nonfinite: whether to raise if the norm is NaN or infinite (reads the value, so not while
            recording).

    Returns: Tensor of no axes, float32 (float64 if one of the tensors is).

    Raises: RuntimeError for a norm that is not finite, if asked to.
    """
    norm, _ = F.clip_factor(_listed(tensors), norm_type=norm_type)
    if error_if_nonfinite:
        _check_finite(norm, "get_total_norm")
    return norm


def clip_factor(parameters: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2.0) -> Tensor:
    """min(1, max_norm / (norm of all gradients + 1e-6)), to be given to ``optimizer.step(scale=...)``.

    That clips as ``clip_grad_norm_`` does, but inside the optimizer's own pass over the gradients.
    """
    return F.clip_factor(_gradients(parameters), max_norm=float(max_norm), norm_type=float(norm_type))[1]


def clip_grad_norm_(
    parameters: Iterable[Tensor] | Tensor,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Multiplies all gradients by min(1, max_norm / (norm + 1e-6)), in place.

    Args:
        parameters: one parameter or any number of them; those without a gradient are left out.
        max_norm: largest norm that stays as it is.
        norm_type: 1, 2 or inf.
        error_if_nonfinite: whether to raise, before gradients change, if the norm is NaN or infinite.

    Returns: the norm before, of no axes.

    Raises: ValueError for other norm types; RuntimeError for a norm that is not finite, if asked to.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
    """
    grads = _gradients(parameters)
    if error_if_nonfinite:
        _check_finite(get_total_norm(grads, norm_type), "clip_grad_norm_")
    return _C.clip_grad_norm_(grads, float(max_norm), float(norm_type))[0]


def _listed(tensors: Iterable[Tensor] | Tensor) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _gradients(parameters: Iterable[Tensor] | Tensor) -> list[Tensor]:
    return [grad for p in _listed(parameters) if (grad := p.grad) is not None]


def _check_finite(norm: Tensor, name: str) -> None:
    value = float(norm)
    if value != value or value == float("inf"):
        raise RuntimeError(f"{name}: the norm is {value}; expected a finite one (error_if_nonfinite=True)")
