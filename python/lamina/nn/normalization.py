"""Normalisation and dropout layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class _Affine(Module):
    """Holds ``weight`` (ones) and ``bias`` (zeros) of a shape, or None for those that a layer does without."""

    weight: Parameter | None
    bias: Parameter | None

    def __init__(self, shape: int | tuple[int, ...], has_weight: bool, has_bias: bool, dtype: Any) -> None:
        super().__init__()
        self.register_parameter("weight", Parameter(creation.ones(shape, dtype=dtype)) if has_weight else None)
        self.register_parameter("bias", Parameter(creation.zeros(shape, dtype=dtype)) if has_bias else None)


class LayerNorm(_Affine):
    """y = (x − mean) / √(var + eps) · weight + bias over the last axes, as ``functional.layer_norm``.

    Args:
        normalized_shape: the last extents of x, or one integer for the last.
        eps: added to the variance.
        elementwise_affine: whether there is ``weight`` (ones), normalized_shape.
        bias: whether there is ``bias`` (zeros) beside it.
        dtype: of the parameters.

    Source: Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: Any = _C.float32,
    ) -> None:
        shape = _extents(normalized_shape)
        super().__init__(shape, elementwise_affine, elementwise_affine and bias, dtype)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight, self.bias, normalized_shape=self.normalized_shape, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(_Affine):
    """y = x / √(mean(x²) + eps) · weight over the last axes, as ``functional.rms_norm``.

    Args:
        normalized_shape: the last extents of x, or one integer for the last.
        eps: added to the mean of squares; None: the distance from 1 to the next number of the statistics' dtype.
        elementwise_affine: whether there is ``weight`` (ones), normalized_shape.
        dtype: of the parameter.

    Source: Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        dtype: Any = _C.float32,
    ) -> None:
        shape = _extents(normalized_shape)
        super().__init__(shape, elementwise_affine, False, dtype)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight, normalized_shape=self.normalized_shape, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(_Affine):
    """y = (x − mean) / √(var + eps) · weight + bias per sample and group of channels, as ``functional.group_norm``.

    Args:
        num_groups: a divisor of the number of channels.
        num_channels: C.
        eps: added to the variance.
        affine: whether there are ``weight`` (ones) and ``bias`` (zeros), (C,).
        dtype: of the parameters.

    Source: Wu and He 2018, https://arxiv.org/abs/1803.08494
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, dtype: Any = _C.float32
    ) -> None:
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"GroupNorm: num_groups is {num_groups}; expected a divisor of {num_channels} channels")
        super().__init__(num_channels, affine, affine, dtype)
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.weight, self.bias, num_groups=self.num_groups, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class InstanceNorm2d(_Affine):
    """y = (x − mean) / √(var + eps) · weight + bias per sample and channel of (N, C, H, W), or (C, H, W).

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: of the running statistics, which there are none of; accepted for the place that it has in PyTorch.
        affine: whether there are ``weight`` (ones) and ``bias`` (zeros), (C,).
        track_running_stats: has to be False.
        dtype: of the parameters.

    Source: Ulyanov, Vedaldi and Lempitsky 2016, https://arxiv.org/abs/1607.08022
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        dtype: Any = _C.float32,
    ) -> None:
        if track_running_stats:
            raise ValueError("InstanceNorm2d: track_running_stats is True; expected False, the statistics of instances")
        super().__init__(num_features, affine, affine, dtype)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in (3, 4) or x.shape[-3] != self.num_features:
            image = f"{self.num_features}, H, W)"
            raise ValueError(f"InstanceNorm2d: x is {x.shape}; expected (N, {image} or ({image}")
        if x.ndim == 3:
            return self.forward(x[None])[0]
        return F.group_norm(x, self.weight, self.bias, num_groups=self.num_features, eps=self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


def _extents(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


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
