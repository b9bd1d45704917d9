"""Recurrent layers."""

from __future__ import annotations

import math
from typing import Any

from lamina import _C, creation
from lamina import functional as F
from lamina._C import Tensor
from lamina.nn import init
from lamina.nn.module import Module, Parameter


class _LSTMBase(Module):
    """What the layers hold: weights (4H, I) and (4H, H) and biases, all U(−1/√H, 1/√H) at first."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool) -> None:
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ValueError(
                f"{type(self).__name__}: input_size {input_size}, hidden_size {hidden_size}; expected at least 1"
            )
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias

    def _add_weights(self, inputs: int, dtype: Any, suffix: str = "") -> None:
        rows = 4 * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, inputs),
            "weight_hh": (rows, self.hidden_size),
        }
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        bound = 1 / math.sqrt(self.hidden_size)
        for name, shape in shapes.items():
            parameter = Parameter(creation.empty(*shape, dtype=dtype))
            init.uniform_(parameter, -bound, bound)
            self.register_parameter(name + suffix, parameter)


class LSTM(_LSTMBase):
    """LSTM layers over whole sequences; formulas in ``functional.lstm_cell`` and ``functional.lstm``.

    Args:
        input_size: I, features of a step.
        hidden_size: H, units of a layer.
        num_layers: L, layers on top of each other.
        bias: whether there are biases.
        batch_first: whether x and y are (B, T, …) instead of (T, B, …).
        dropout: probability with which outputs of layers below the last are zeroed in training.
        bidirectional: whether a second direction (D = 2) runs from the last step to the first.
        dtype: of the parameters.

    Shapes: x (T, B, I) and states (L·D, B, H) → y (T, B, D·H) and states of the same shape; without B for one
    sequence. ``lengths`` (B,) int64 stop sequences early, in place of PyTorch's packed sequences: see
    ``functional.lstm_layer``. Parameters are named as PyTorch's: ``weight_ih_l0``, ``bias_hh_l1_reverse`` …
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = _C.float32,
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        if num_layers < 1:
            raise ValueError(f"LSTM: num_layers is {num_layers}; expected at least 1")
        if not 0 <= dropout <= 1:
            raise ValueError(f"LSTM: dropout is {dropout}; expected a probability in [0, 1]")
        self.num_layers, self.batch_first = num_layers, batch_first
        self.dropout, self.bidirectional = dropout, bidirectional
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else hidden_size * (2 if bidirectional else 1)
            for direction in ("", "_reverse") if bidirectional else ("",):
                self._add_weights(inputs, dtype, f"_l{layer}{direction}")

    def forward(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h0, c0 = hx or (None, None)
        if is_unbatched := x.ndim == 2:
            axis = 0 if self.batch_first else 1
            x = F.unsqueeze(x, dim=axis)
            h0, c0 = (None if s is None else F.unsqueeze(s, dim=1) for s in (h0, c0))
        y, h_n, c_n = F.lstm(
            x,
            list(self.parameters()),
            h0,
            c0,
            lengths,
            num_layers=self.num_layers,
            bidirectional=self.bidirectional,
            batch_first=self.batch_first,
            dropout=self.dropout if self.training else 0.0,
        )
        if is_unbatched:
            return F.squeeze(y, dim=axis), (F.squeeze(h_n, dim=1), F.squeeze(c_n, dim=1))
        return y, (h_n, c_n)

    def extra_repr(self) -> str:
        shown = f"{self.input_size}, {self.hidden_size}"
        for name, default in (
            ("num_layers", 1),
            ("bias", True),
            ("batch_first", False),
            ("dropout", 0.0),
            ("bidirectional", False),
        ):
            if getattr(self, name) != default:
                shown += f", {name}={getattr(self, name)}"
        return shown


class LSTMCell(_LSTMBase):
    """One step of an LSTM; formulas in ``functional.lstm_cell``.

    Args:
        input_size: I, features of the input.
        hidden_size: H, units.
        bias: whether there are biases.
        dtype: of the parameters.

    Shapes: x (B, I) and states (B, H) → (h', c'), both (B, H); without B for one sequence. States are zeros
    where none are given. Parameters: ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, dtype: Any = _C.float32) -> None:
        super().__init__(input_size, hidden_size, bias)
        self._add_weights(input_size, dtype)

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        if x.ndim == 1:
            states = None if hx is None else (F.unsqueeze(hx[0], dim=0), F.unsqueeze(hx[1], dim=0))
            h, c = self.forward(F.unsqueeze(x, dim=0), states)
            return F.squeeze(h, dim=0), F.squeeze(c, dim=0)
        if hx is None:
            zeros = creation.zeros(x.shape[0], self.hidden_size, dtype=x.dtype, device=x.device)
            hx = zeros, zeros
        return F.lstm_cell(x, *hx, *self.parameters())

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias}"
