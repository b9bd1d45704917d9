"""Attention layers."""

from __future__ import annotations

import functools
import math
from typing import Any

from lamina import _C, creation
from lamina import functional as F
from lamina._C import Tensor
from lamina.nn import init
from lamina.nn.linear import Linear
from lamina.nn.module import Module, Parameter


def apply_multihead_attention(
    F: Any,
    layer: Any,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    """What a layer of attention with several heads does, Lamina's or PyTorch's: they have the same attributes.

    Args: F: functions for the arrays that the layer works on. The others: as in ``MultiheadAttention``.
    """
    if is_causal and attn_mask is None:
        raise ValueError("MultiheadAttention: is_causal without attn_mask; expected the mask that it is a hint about")
    has_batch = query.ndim == 3
    if not has_batch:
        query, key, value = (x.unsqueeze(0 if layer.batch_first else 1) for x in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    to_heads, from_heads = ((0, 2, 1, 3), (0, 2, 1, 3)) if layer.batch_first else ((1, 2, 0, 3), (2, 0, 1, 3))

    def heads(x: Any) -> Any:
        """(N, H, L, E / H), of (N, L, E) or (L, N, E), where it lies."""
        return x.reshape(*x.shape[:2], layer.num_heads, -1).permute(*to_heads)

    q, k, v = (heads(x) for x in _projected(F, layer, query, key, value))
    if attn_mask is not None and attn_mask.ndim == 3:  # (N H, L, S)
        attn_mask = attn_mask.reshape(q.shape[0], layer.num_heads, *attn_mask.shape[1:])
    if key_padding_mask is not None:
        key_padding_mask = key_padding_mask.reshape(q.shape[0], 1, 1, -1)
    dropout = layer.dropout if layer.training else 0.0
    scale = 1 / math.sqrt(q.shape[-1])
    weights = None
    if need_weights:
        scores = F.matmul(q * scale, k, transpose_b=True)
        mask = _merged(F, q.dtype, attn_mask, key_padding_mask)
        if mask is not None:
            scores = F.where(mask, scores, -math.inf) if _is_boolean(mask) else scores + mask
        weights = F.softmax(scores, dim=-1)
        weights = F.dropout(weights, p=dropout) if dropout > 0 else weights
        y = F.matmul(weights, v)
        weights = F.mean(weights, dim=1) if average_attn_weights else weights
        weights = weights if has_batch else weights[0]
    else:
        is_causal = is_causal and key_padding_mask is None
        mask = _merged(F, q.dtype, None if is_causal else attn_mask, key_padding_mask)
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout, is_causal=is_causal, scale=scale)
    y = y.permute(*from_heads)
    y = F.linear(y.reshape(*y.shape[:2], -1), layer.out_proj.weight, layer.out_proj.bias)
    return y if has_batch else y.squeeze(0 if layer.batch_first else 1), weights


def _projected(F: Any, layer: Any, query: Any, key: Any, value: Any) -> tuple[Any, ...]:
    """query, key and value times their weights; in one product where they are one array."""
    bias = layer.in_proj_bias
    if query is key is value and layer.in_proj_weight is not None:
        return F.linear(query, layer.in_proj_weight, bias).chunk(3, -1)
    if layer.in_proj_weight is None:
        weights: Any = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    else:
        weights = layer.in_proj_weight.chunk(3, 0)
    biases = (None,) * 3 if bias is None else bias.chunk(3, 0)
    return tuple(F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))


def _merged(F: Any, dtype: Any, *masks: Any) -> Any:
    """One mask for ``scaled_dot_product_attention``: of bool, True where a key takes part, if all are; None of none."""
    seen = [F.logical_not(mask) if _is_boolean(mask) else mask for mask in masks if mask is not None]
    if all(_is_boolean(mask) for mask in seen):
        return functools.reduce(F.logical_and, seen) if seen else None
    terms = (F.log(mask.to(dtype)) if _is_boolean(mask) else mask.to(dtype) for mask in seen)  # log 0 is -inf
    return functools.reduce(F.add, terms)


def _is_boolean(mask: Any) -> bool:
    return str(mask.dtype).endswith("bool")


class MultiheadAttention(Module):
    """y = concat(head₁ … head_H) W_oᵀ + b_o, each head being attention of E/H features of the projected inputs.

    Args:
        embed_dim: E, features of query and of y.
        num_heads: H, which divides E.
        dropout: probability with which weights are zeroed in training.
        bias: whether projections add biases.
        kdim, vdim: features of key and of value; by default E.
        batch_first: whether arrays are (N, L, E) instead of (L, N, E).
        dtype: of the parameters.

    Shapes: query (L, N, E), key (S, N, kdim), value (S, N, vdim), or without N → y as query, and weights (N, L, S), or
    (N, H, L, S) unless ``average_attn_weights``. ``need_weights=False`` gives None for them, and is faster.
    ``in_proj_weight`` (3E, E), or ``q_proj_weight``, ``k_proj_weight`` and ``v_proj_weight`` where kdim or vdim is
    given; ``in_proj_bias`` (3E,); ``out_proj`` a ``Linear``.
    Masks: ``attn_mask`` (L, S) or (N·H, L, S), ``key_padding_mask`` (N, S); of bool, True where a key takes **no**
    part; else added to the scores. ``is_causal`` says that ``attn_mask`` is the causal one.
    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
    """

    in_proj_bias: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        dtype: Any = _C.float32,
    ) -> None:
        super().__init__()
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                f"MultiheadAttention: embed_dim is {embed_dim}, num_heads {num_heads}; expected num_heads to divide it"
            )
        if not 0 <= dropout <= 1:
            raise ValueError(f"MultiheadAttention: dropout is {dropout}; expected a probability in [0, 1]")
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.kdim, self.vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        is_one = self.kdim == self.vdim == embed_dim
        shapes = {
            "in_proj_weight": (3 * embed_dim, embed_dim) if is_one else None,
            "q_proj_weight": None if is_one else (embed_dim, embed_dim),
            "k_proj_weight": None if is_one else (embed_dim, self.kdim),
            "v_proj_weight": None if is_one else (embed_dim, self.vdim),
        }
        for name, shape in shapes.items():
            parameter = None if shape is None else Parameter(creation.empty(*shape, dtype=dtype))
            self.register_parameter(name, parameter)
            if parameter is not None:
                init.xavier_uniform_(parameter)
        self.register_parameter("in_proj_bias", Parameter(creation.zeros(3 * embed_dim, dtype=dtype)) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, dtype=dtype)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        return apply_multihead_attention(
            F, self, query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
        )

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"
