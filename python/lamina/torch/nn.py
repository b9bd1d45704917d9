"""``torch.nn``'s layers with Lamina's kernels: every layer that Lamina has an op for.

Each class derives from PyTorch's of the same name and changes ``forward`` alone: arguments, initial values, state
dicts, hooks and ``repr`` are PyTorch's, and either loads what the other saved. The few options that the kernels do not
have are refused by the constructor. Dropout draws other numbers than PyTorch's, from the same generator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lamina.nn.attention import apply_multihead_attention
from lamina.nn.normalization import apply_batch_norm
from lamina.torch import functional as F

# Filled below: PyTorch's layer, the layer that takes its place, and the options that it must have: values or types.
COUNTERPARTS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {}
_EXPECTED: dict[type[torch.nn.Module], dict[str, Any]] = {}

Layer = TypeVar("Layer", bound=type[torch.nn.Module])


def obstacle(module: torch.nn.Module, base: type[torch.nn.Module]) -> str | None:
    """Why the kernels cannot do what a layer of PyTorch's class `base` is set to do; None if they can."""
    for name, expected in _EXPECTED[base].items():
        value = getattr(module, name)
        if not (isinstance(value, expected) if isinstance(expected, type) else value == expected):
            return f"{name} is {value!r}; expected {getattr(expected, '__name__', repr(expected))}"
    return None


def _counterpart(base: type[torch.nn.Module], **expected: Any) -> Callable[[Layer], Layer]:
    """Registers a class as the counterpart of PyTorch's; its constructor refuses other than expected options."""

    def register(cls: Layer) -> Layer:
        COUNTERPARTS[base], _EXPECTED[base] = cls, expected
        if expected:
            construct = cls.__init__

            @functools.wraps(construct)
            def __init__(self: torch.nn.Module, *args: Any, **options: Any) -> None:
                construct(self, *args, **options)
                if reason := obstacle(self, base):
                    raise ValueError(f"{base.__name__}: {reason}")

            cls.__init__ = __init__  # type: ignore[method-assign]
        return cls

    return register


def _layer(base: Layer, function: Callable, tensors: str = "", attributes: str = "", **expected: Any) -> Layer:
    """The class whose forward is a function of its inputs, then of its `tensors`, with its `attributes` by keyword."""
    tensor_names, attribute_names = tensors.split(), attributes.split()

    def forward(self: torch.nn.Module, *inputs: Tensor) -> Any:
        operands = [getattr(self, name) for name in tensor_names]
        return function(*inputs, *operands, **{name: getattr(self, name) for name in attribute_names})

    doc = f"``torch.nn.{base.__name__}`` by ``lamina.torch.functional.{function.__name__}``: see there for arguments."
    cls: Any = type(base.__name__, (base,), {"forward": forward, "__module__": __name__, "__doc__": doc})
    return _counterpart(base, **expected)(cls)


def _of_images(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function for images without a batch too: (C, H, W)."""

    @functools.wraps(function)
    def call(x: Tensor, *args: Any, **attributes: Any) -> Any:
        if x.ndim != 3:
            return function(x, *args, **attributes)
        y = function(x[None], *args, **attributes)
        return y[0] if isinstance(y, Tensor) else tuple(part[0] for part in y)

    return call


# --- activations and dropout -------------------------------------------------------------------------------------

ReLU = _layer(torch.nn.ReLU, F.relu, inplace=False)
LeakyReLU = _layer(torch.nn.LeakyReLU, F.leaky_relu, attributes="negative_slope", inplace=False)
ELU = _layer(torch.nn.ELU, F.elu, attributes="alpha", inplace=False)
GELU = _layer(torch.nn.GELU, F.gelu, attributes="approximate")
SiLU = _layer(torch.nn.SiLU, F.silu, inplace=False)
Sigmoid = _layer(torch.nn.Sigmoid, F.sigmoid)
Tanh = _layer(torch.nn.Tanh, F.tanh)
Softplus = _layer(torch.nn.Softplus, F.softplus, beta=1, threshold=20)
Softmax = _layer(torch.nn.Softmax, F.softmax, attributes="dim", dim=int)
LogSoftmax = _layer(torch.nn.LogSoftmax, F.log_softmax, attributes="dim", dim=int)
Dropout = _layer(torch.nn.Dropout, F.dropout, attributes="p training", inplace=False)
Dropout2d = _layer(torch.nn.Dropout2d, F.dropout2d, attributes="p training", inplace=False)

# --- losses ------------------------------------------------------------------------------------------------------

MSELoss = _layer(torch.nn.MSELoss, F.mse_loss, attributes="reduction")
L1Loss = _layer(torch.nn.L1Loss, F.l1_loss, attributes="reduction")
BCEWithLogitsLoss = _layer(
    torch.nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits, "weight pos_weight", "reduction"
)
NLLLoss = _layer(torch.nn.NLLLoss, F.nll_loss, "weight", "ignore_index reduction")
CrossEntropyLoss = _layer(
    torch.nn.CrossEntropyLoss, F.cross_entropy, "weight", "ignore_index label_smoothing reduction"
)

# --- pooling, products, tables, convolution -----------------------------------------------------------------------

MaxPool2d = _layer(
    torch.nn.MaxPool2d,
    _of_images(F.max_pool2d),
    attributes="kernel_size stride padding dilation ceil_mode return_indices",
)
AvgPool2d = _layer(
    torch.nn.AvgPool2d,
    _of_images(F.avg_pool2d),
    attributes="kernel_size stride padding ceil_mode count_include_pad divisor_override",
)
AdaptiveAvgPool2d = _layer(torch.nn.AdaptiveAvgPool2d, _of_images(F.adaptive_avg_pool2d), attributes="output_size")
AdaptiveMaxPool2d = _layer(
    torch.nn.AdaptiveMaxPool2d, _of_images(F.adaptive_max_pool2d), attributes="output_size return_indices"
)
Linear = _layer(torch.nn.Linear, F.linear, "weight bias")
Embedding = _layer(
    torch.nn.Embedding,
    F.embedding,
    "weight",
    "padding_idx",
    max_norm=None,
    scale_grad_by_freq=False,
    sparse=False,
)

_conv2d, _conv_transpose2d = _of_images(F.conv2d), _of_images(F.conv_transpose2d)


@_counterpart(torch.nn.Conv2d)
class Conv2d(torch.nn.Conv2d):
    """``torch.nn.Conv2d`` by ``lamina.torch.functional.conv2d``; other margins than zeros by ``pad``."""

    def forward(self, input: Tensor) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            margins = tuple(self._reversed_padding_repeated_twice)
            input, padding = _of_images(F.pad)(input, padding=margins, mode=self.padding_mode), 0
        return _conv2d(
            input,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )


@_counterpart(torch.nn.ConvTranspose2d)
class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """``torch.nn.ConvTranspose2d`` by ``lamina.torch.functional.conv_transpose2d``."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        geometry: list[Any] = [self.stride, self.padding, self.kernel_size, 2, self.dilation]
        output_padding = self._output_padding(input, output_size, *geometry)
        return _conv_transpose2d(
            input,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=tuple(output_padding),
            dilation=self.dilation,
            groups=self.groups,
        )


# --- normalisation -----------------------------------------------------------------------------------------------


class _BatchNorm(torch.nn.modules.batchnorm._BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        return apply_batch_norm(F.batch_norm, self, input)


@_counterpart(torch.nn.BatchNorm1d)
class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` by ``lamina.torch.functional.batch_norm``."""


@_counterpart(torch.nn.BatchNorm2d)
class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` by ``lamina.torch.functional.batch_norm``."""


LayerNorm = _layer(torch.nn.LayerNorm, F.layer_norm, "weight bias", "normalized_shape eps")
RMSNorm = _layer(torch.nn.RMSNorm, F.rms_norm, "weight", "normalized_shape eps")
GroupNorm = _layer(torch.nn.GroupNorm, F.group_norm, "weight bias", "num_groups eps")


# --- attention ---------------------------------------------------------------------------------------------------


@_counterpart(torch.nn.MultiheadAttention, bias_k=None, add_zero_attn=False)
class MultiheadAttention(torch.nn.MultiheadAttention):
    """``torch.nn.MultiheadAttention`` by ``lamina.torch.functional.scaled_dot_product_attention``.

    With ``need_weights=True``, PyTorch's default, weights are computed by ops of their own.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
        return apply_multihead_attention(F, self, query, key, value, *args, **options)


# --- recurrence --------------------------------------------------------------------------------------------------


@_counterpart(torch.nn.LSTMCell)
class LSTMCell(torch.nn.LSTMCell):
    """``torch.nn.LSTMCell`` by ``lamina.torch.functional.lstm_cell``."""

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        if input.ndim == 1:
            h, c = self.forward(input[None], None if hx is None else (hx[0][None], hx[1][None]))
            return h[0], c[0]
        h, c = (input.new_zeros(len(input), self.hidden_size),) * 2 if hx is None else hx
        return F.lstm_cell(input, h, c, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)


@_counterpart(torch.nn.LSTM, proj_size=0)
class LSTM(torch.nn.LSTM):
    """``torch.nn.LSTM`` by ``lamina.torch.functional.lstm``; packed sequences by its ``lengths``."""

    def forward(self, input: Any, hx: tuple[Tensor, Tensor] | None = None) -> Any:
        if isinstance(input, PackedSequence):
            return self._of_packed(input, hx)
        if input.ndim == 2:
            axis = 0 if self.batch_first else 1
            states = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
            y, (h, c) = self.forward(input.unsqueeze(axis), states)
            return y.squeeze(axis), (h.squeeze(1), c.squeeze(1))
        return self._run(input, hx, None, self.batch_first)

    def _of_packed(self, input: PackedSequence, hx: tuple[Tensor, Tensor] | None) -> Any:
        # In the order of the packed data: longest first.
        x, lengths = pad_packed_sequence(PackedSequence(input.data, input.batch_sizes))
        if hx is not None:
            hx = self.permute_hidden(hx, input.sorted_indices)
        y, states = self._run(x, hx, lengths.to(x.device), False)
        packed = pack_padded_sequence(y, lengths).data
        result = PackedSequence(packed, input.batch_sizes, input.sorted_indices, input.unsorted_indices)
        return result, self.permute_hidden(states, input.unsorted_indices)

    def _run(self, x: Tensor, hx: Any, lengths: Tensor | None, batch_first: bool) -> Any:
        y, h, c = F.lstm(
            x,
            [getattr(self, name) for name in self._flat_weights_names],
            *(hx or (None, None)),
            lengths,
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            batch_first=batch_first,
            dropout=self.dropout if self.training else 0.0,
        )
        return y, (h, c)


__all__ = [base.__name__ for base in COUNTERPARTS]
