"""Embedding layers."""

from __future__ import annotations

from typing import Any

from lamina import _C, creation
from lamina import functional as F
from lamina._C import Tensor
from lamina.nn import init
from lamina.nn.module import Module, Parameter
from lamina.tensor import asarray


class Embedding(Module):
    """y[…, d] = weight[indices[…], d]: a table of vectors, looked up by number.

    Args:
        num_embeddings: V, rows of the table.
        embedding_dim: D, their width.
        padding_idx: a row, in [−V, V), that is 0 at first and gets no gradient.
        dtype: of the table.

    PyTorch's ``max_norm``, ``scale_grad_by_freq`` and ``sparse`` are not there.

    Shapes: indices (…) of int64 or int32 in [0, V) → y (…, D); ``weight`` (V, D), N(0, 1) at first.
    """

    weight: Parameter

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *, dtype: Any = _C.float32
    ) -> None:
        super().__init__()
        self._set(Parameter(creation.empty(num_embeddings, embedding_dim, dtype=dtype)), padding_idx)
        init.normal_(self.weight)
        if self.padding_idx is not None:
            init.zeros_(self.weight.detach()[self.padding_idx])

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None) -> Embedding:
        """The layer whose table is a given one.

        Args:
            embeddings: (V, D) Tensor, whose memory is shared, or array.
            freeze: whether training leaves the table as it is.
            padding_idx: a row that gets no gradient.

        Raises: ValueError for an array of other than two axes, or a padding_idx that is no row of it.
        """
        layer = cls.__new__(cls)
        Module.__init__(layer)
        layer._set(Parameter(asarray(embeddings)), padding_idx)
        layer.freeze(freeze)
        return layer

    def _set(self, weight: Parameter, padding_idx: int | None) -> None:
        if weight.ndim != 2:
            raise ValueError(f"Embedding: the table is {weight.shape}; expected (V, D)")
        rows, self.embedding_dim = weight.shape
        if padding_idx is not None and not -rows <= padding_idx < rows:
            raise ValueError(f"Embedding: padding_idx is {padding_idx}; expected one of {rows} rows")
        self.num_embeddings = rows
        self.padding_idx = None if padding_idx is None else padding_idx % rows
        self.weight = weight

    def forward(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self.weight, padding_idx=self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
