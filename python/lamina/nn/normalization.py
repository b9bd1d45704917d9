"""Normalisation and dropout layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from lamina import _C, creation
from lamina import functional as F
from lamina._C import Tensor
from lamina.nn.module import Module, Parameter


def apply_batch_norm(batch_norm: Callable[..., Any], layer: Any, x: Any) -> Any:
    """What a batch-norm layer does in its mode, Lamina's or PyTorch's: they have the same attributes.

    Args: batch_norm: ``functional.batch_norm`` for the arrays that the layer works on.
    """
    uses_batch = layer.training or layer.running_mean is None
    updates = layer.training and layer.track_running_stats
    keeps = updates or not uses_batch
    return batch_norm(
        x,
        layer.running_mean if keeps else None,
        layer.running_var if keeps else None,
        layer.weight,
        layer.bias,
        layer.num_batches_tracked if updates else None,
        training=uses_batch,
        momentum=layer.momentum,
        eps=layer.eps,
    )


class _BatchNorm(Module):
    """y = (x − mean) / √(var + eps) · weight + bias, per channel.

    Training uses the statistics of the batch and moves the running ones by ``momentum`` (None: their plain average);
    evaluation uses the running ones.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics.
        affine: whether there are ``weight`` (ones) and ``bias`` (zeros).
        track_running_stats: whether there are running statistics; without, batches are used in evaluation too.
        dtype: of the parameters.

    Source: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167
    """

    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    _expected: ClassVar[tuple[tuple[int, ...], str]]  # numbers of axes, and how the shape is written

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: Any = _C.float32,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.register_parameter("weight", Parameter(creation.ones(num_features, dtype=dtype)) if affine else None)
        self.register_parameter("bias", Parameter(creation.zeros(num_features, dtype=dtype)) if affine else None)
        self.register_buffer("running_mean", creation.zeros(num_features) if track_running_stats else None)
        self.register_buffer("running_var", creation.ones(num_features) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", creation.zeros(dtype=_C.int64) if track_running_stats else None)

    def forward(self, x: Tensor) -> Tensor:
        ndims, shape = self._expected
        if x.ndim not in ndims:
            raise ValueError(f"{type(self).__name__}: x is {x.shape}; expected {shape}")
        return apply_batch_norm(F.batch_norm, self, x)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}"


class BatchNorm1d(_BatchNorm):
    __doc__ = f"""Batch normalisation of (N, C) or (N, C, L). {_BatchNorm.__doc__}"""
    _expected = ((2, 3), "(N, C) or (N, C, L)")


class BatchNorm2d(_BatchNorm):
    __doc__ = f"""Batch normalisation of (N, C, H, W). {_BatchNorm.__doc__}"""
    _expected = ((4,), "(N, C, H, W)")


class Dropout(Module):
    """In training, zeroes elements with probability ``p`` and scales the others by 1 / (1 − p); else y = x.

    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p is {p}; expected a probability in [0, 1]")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, p=self.p, training=self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"
