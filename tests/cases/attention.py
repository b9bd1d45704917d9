"""scaled_dot_product_attention: masks, causal, grouped heads, dropout."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample
from cases._philox import TILE, words

STATE = np.array([42, 7])
INF = float("inf")


def kept(state, rows, columns, p):
    """Every row of scores has tiles of its own: 128 draws of 16 bits, in the order of dropout."""
    tiles = -(-columns // 128)
    w = words(state, TILE * tiles * rows).reshape(rows * tiles, 4, 1, 16)
    draws = np.concatenate([w & 0xFFFF, w >> 16], axis=2).reshape(rows, 128 * tiles)[:, :columns]
    return draws >= int(p * 65536 + 0.5)


def reference(q, k, v, mask=None, state=None, *, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    if enable_gqa:
        k, v = (np.repeat(x, q.shape[-3] // x.shape[-3], axis=-3) for x in (k, v))
    E = q.shape[-1]
    scale = q.dtype.type(scale if scale is not None else 1 / np.sqrt(E) if E else 1)
    s = scale * np.matmul(q, np.swapaxes(k, -1, -2))
    s = np.broadcast_to(s, (*np.broadcast_shapes(s.shape[:-2], v.shape[:-2]), *s.shape[-2:]))
    if mask is not None:
        s = np.where(mask, s, -INF) if mask.dtype == bool else s + mask.astype(s.dtype)
    if is_causal:
        s = np.where(np.tri(*s.shape[-2:], dtype=bool), s, s.dtype.type(-INF))
    top = s.max(-1, keepdims=True, initial=-INF)
    e = np.exp(s - np.where(np.isneginf(top), 0, top)).astype(s.dtype)
    total = e.sum(-1, keepdims=True)
    p = e / np.where(total == 0, 1, total)
    if dropout_p:
        keep = kept(state, p[..., 0].size, p.shape[-1], dropout_p).reshape(p.shape)
        p = np.where(keep, p * p.dtype.type(1 / (1 - dropout_p) if dropout_p < 1 else 0), 0)
    y = np.matmul(p, v)
    if state is None:
        return y
    tiles = p[..., 0].size * -(-p.shape[-1] // 128) if dropout_p else 0
    return y, np.array([state[0], state[1] + tiles], np.int64)


def heads(B, H, L, E, layout=None):
    """(B, H, L, E), in memory as (B, L, H, E) where that is asked for."""
    return Arr(B, H, L, E) if layout is None else Arr(B, H, L, E, layout=layout)


def qkv(L, S, E, V=None, leading=(2, 3)):
    return Arr(*leading, L, E), Arr(*leading, S, E), Arr(*leading, S, E if V is None else V)


def seen(L, S):
    """A mask in which some keys are seen by none, and the second query sees none."""
    mask = np.random.default_rng(0).random((L, S)) < 0.6
    mask[:, S // 2] = False
    mask[1 % L] = False
    return mask


SAMPLES = [
    Sample("one of all", *qkv(1, 1, 1)),
    Sample("no leading axes", *qkv(5, 7, 4, leading=())),
    Sample("one leading axis", *qkv(5, 7, 4, leading=(3,))),
    Sample("three leading axes", *qkv(3, 4, 2, leading=(2, 1, 2))),
    Sample("more values than features", *qkv(6, 5, 3, 11)),
    Sample("fewer values than features", *qkv(6, 5, 9, 1)),
    *(
        Sample(f"{L} queries, {S} keys, {E} features", *qkv(L, S, E, leading=(2,)))
        for L, S, E in [
            (6, 16, 8),
            (7, 17, 7),
            (49, 127, 16),
            (47, 129, 9),
            (13, 33, 17),
        ]
    ),
    Sample("several blocks", *qkv(130, 300, 8, leading=(2,))).no_gradient(),
    Sample("several parts", *qkv(400, 530, 8, 5, leading=(1,))).no_gradient(),
    Sample("causal, 8 features", *qkv(70, 67, 8, leading=()), is_causal=True),
    Sample("grouped, masked, 8 features", Arr(4, 35, 8), Arr(2, 70, 8), Arr(2, 70, 16), Arr(35, 70), enable_gqa=True),
    Sample("head of 64", *qkv(20, 24, 64, leading=(1, 2))).no_gradient(),
    Sample("head of 80", *qkv(7, 5, 80, leading=())),
    Sample("head of 128", *qkv(20, 24, 128, leading=(1, 2))).no_gradient(),
    Sample("head of 136", *qkv(7, 5, 136, 192, leading=())),
    Sample("head of 300", *qkv(9, 8, 300, 270, leading=(1, 2))).no_gradient(),
    Sample("causal", *qkv(9, 9, 4), is_causal=True),
    Sample("causal, more queries", *qkv(9, 5, 4), is_causal=True),
    Sample("causal, more keys", *qkv(5, 9, 4), is_causal=True),
    Sample("causal, several blocks", *qkv(150, 150, 8, leading=(1,)), is_causal=True).no_gradient(),
    Sample("causal, several parts", *qkv(600, 700, 4, leading=(1,)), is_causal=True).no_gradient(),
    Sample("scale", *qkv(5, 7, 4), scale=0.3),
    Sample("scale 0", *qkv(5, 7, 4), scale=0.0),
    Sample("negative scale", *qkv(5, 7, 4), scale=-0.3),
    Sample("boolean mask", *qkv(5, 7, 4), seen(5, 7)),
    Sample("boolean mask of several blocks", *qkv(70, 140, 8, leading=(1, 2)), seen(70, 140)).no_gradient(),
    Sample("mask of keys", *qkv(5, 7, 4), np.array([True, False] * 7).reshape(2, 1, 1, 7)),
    Sample("mask of heads", *qkv(5, 7, 4), Arr(3, 5, 7)),
    Sample("mask of a row", *qkv(5, 7, 4), Arr(7)),
    Sample("mask of a column", *qkv(5, 7, 4), Arr(5, 1)).no_gradient(),  # its gradient is nothing but rounding
    Sample("mask for each", *qkv(5, 7, 4), Arr(2, 3, 5, 7)),
    Sample("transposed mask", *qkv(5, 7, 4), Arr(5, 7, layout="transposed")),
    Sample("float32 mask", *qkv(5, 7, 4), Arr(5, 7, dtype="float32")).only("float32", "bfloat16"),
    Sample("mask of -inf", *qkv(5, 7, 4), np.where(seen(5, 7), 0.0, -INF)).no_gradient(),
    Sample("mask and causal", *qkv(5, 7, 4), Arr(5, 7), is_causal=True),
    Sample(
        "mask and causal, several parts", *qkv(200, 600, 4, leading=(1,)), Arr(200, 600), is_causal=True
    ).no_gradient(),
    Sample("broadcast keys", Arr(2, 3, 5, 4), Arr(1, 3, 7, 4), Arr(3, 7, 4)),
    Sample("broadcast queries", Arr(1, 1, 5, 4), Arr(2, 3, 7, 4), Arr(2, 1, 7, 6)),
    Sample("grouped heads", Arr(2, 6, 5, 4), Arr(2, 2, 7, 4), Arr(2, 2, 7, 3), enable_gqa=True),
    Sample("grouped heads, masked", Arr(2, 4, 5, 4), Arr(1, 2, 7, 4), Arr(2, 2, 7, 4), Arr(4, 5, 7), enable_gqa=True),
    Sample("one head of keys", Arr(4, 5, 4), Arr(1, 7, 4), Arr(1, 7, 4), is_causal=True, enable_gqa=True),
    Sample("heads behind the sequence", *(Arr(2, 3, n, 8, layout="channels_last") for n in (5, 7, 7))),
    Sample("large scores", *(Arr(1, 4, 6, kind="uniform", low=-30, high=30) for _ in range(3))).no_gradient(),
    Sample(
        "infinity and NaN", np.array([[INF, 1.0], [np.nan, 1.0], [1.0, 2.0]]), *qkv(3, 3, 2, leading=())[1:]
    ).no_gradient(),
    Sample("no heads", *qkv(3, 4, 2, leading=(0, 2))),
    Sample("no queries", *qkv(0, 4, 2)),
    Sample("no keys", *qkv(3, 0, 2)),
    Sample("no features", *qkv(3, 4, 0, 2)),
    Sample("no values", *qkv(3, 4, 2, 0)),
]
DROPOUT = [
    Sample("dropout", *qkv(5, 7, 4), None, STATE.copy(), dropout_p=0.3),
    Sample("dropout of several tiles", *qkv(70, 300, 8, leading=(2,)), None, STATE.copy(), dropout_p=0.5).no_gradient(),
    Sample(
        "dropout, masked, grouped",
        Arr(4, 5, 4),
        Arr(2, 7, 4),
        Arr(2, 7, 4),
        Arr(5, 7),
        STATE.copy(),
        dropout_p=0.25,
        is_causal=True,
        enable_gqa=True,
    ),
    Sample("dropout, 8 features", *qkv(20, 40, 8, leading=(2,)), None, STATE.copy(), dropout_p=0.3),
    Sample(
        "dropout of several tiles and blocks, grouped",
        Arr(2, 66, 8),
        Arr(1, 132, 8),
        Arr(1, 132, 16),
        None,
        STATE.copy(),
        dropout_p=0.3,
        enable_gqa=True,
    ),
    Sample(
        "dropout, head of 72, causal", *qkv(18, 140, 72, leading=()), None, STATE.copy(), dropout_p=0.4, is_causal=True
    ),
    Sample("dropout of all", *qkv(5, 7, 4), None, STATE.copy(), dropout_p=1.0),
    Sample("no dropout", *qkv(5, 7, 4), None, STATE.copy()),
]

ERRORS = [
    Error(ValueError, "query is (4,); expected (..., sequence, features)", Arr(4), Arr(3, 4), Arr(3, 4)),
    Error(ValueError, "key is (3, 5) but query is (2, 4); expected 4 features", Arr(2, 4), Arr(3, 5), Arr(3, 4)),
    Error(ValueError, "value is (2, 4) but key is (3, 4); expected one value", Arr(2, 4), Arr(3, 4), Arr(2, 4)),
    Error(
        ValueError,
        "query is (2, 2, 4); expected it to broadcast to (3, 2, 4)",
        Arr(2, 2, 4),
        Arr(3, 3, 4),
        Arr(3, 3, 4),
    ),
    Error(
        ValueError,
        "attn_mask is (3, 2); expected it to broadcast to (2, 3)",
        Arr(2, 4),
        Arr(3, 4),
        Arr(3, 4),
        Arr(3, 2),
    ),
    Error(TypeError, "key is float64 but query is float32", Arr(2, 4), Arr(3, 4, dtype="float64"), Arr(3, 4)),
    Error(TypeError, "query is int64", *(Arr(3, 4, kind="int") for _ in range(3))),
    Error(TypeError, "attn_mask is int64 but query is float32", Arr(2, 4), Arr(3, 4), Arr(3, 4), Arr(2, 3, kind="int")),
    Error(ValueError, "dropout_p is 1.5", Arr(2, 4), Arr(3, 4), Arr(3, 4), None, STATE.copy(), dropout_p=1.5),
    Error(TypeError, "state is int32", Arr(2, 4), Arr(3, 4), Arr(3, 4), None, np.zeros(2, np.int32), dropout_p=0.5),
    Error(ValueError, "expected (..., heads, sequence, features)", Arr(2, 4), Arr(3, 4), Arr(3, 4), enable_gqa=True),
    Error(
        ValueError,
        "expected a number of heads that divides 4",
        Arr(4, 2, 4),
        Arr(3, 3, 4),
        Arr(3, 3, 4),
        enable_gqa=True,
    ),
    Error(ValueError, "expected 3 heads", Arr(6, 2, 4), Arr(3, 3, 4), Arr(2, 3, 4), enable_gqa=True),
]


def row(name, B, H, L, E, is_causal=False):
    def torch(q, k, v):
        import torch.nn.functional

        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal)

    flops = 4.0 * B * H * L * L * E * (0.5 if is_causal else 1)
    return Bench(
        name,
        *(Arr(B, H, L, E) for _ in range(3)),
        is_causal=is_causal,
        flops=flops,
        bytes=16.0 * B * H * L * E,
        torch=torch,
        backward=True,
        backward_flops=2.5 * flops,
        dtypes=("float32", "bfloat16"),
    )


cases = [
    Case(
        op="scaled_dot_product_attention",
        reference=reference,
        samples=SAMPLES,
        errors=ERRORS,
        bench=[
            row("8 x 12 heads, 128", 8, 12, 128, 64),
            row("8 x 12 heads, 128, causal", 8, 12, 128, 64, is_causal=True),
            row("2 x 12 heads, 1024", 2, 12, 1024, 64),
            row("2 x 12 heads, 1024, causal", 2, 12, 1024, 64, is_causal=True),
        ],
        family="attention",
    ),
    Case(
        op="scaled_dot_product_attention",
        reference=reference,
        samples=DROPOUT,
        mutates=(4,),
        family="attention",
    ),
]
