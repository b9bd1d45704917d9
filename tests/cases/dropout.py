"""dropout, dropout2d: the mask that a state stands for.

The mask follows the elements in memory order, so the samples have one axis; tests/test_random.py tests other layouts.
"""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample
from cases._philox import TILE, words

STATE = np.array([42, 7])


def kept(state, n, p):
    """128 draws of 16 bits per tile: 16 low halves, then 16 high halves, of each quarter."""
    tiles = -(-n // 128)
    w = words(state, TILE * tiles).reshape(tiles, 4, 1, 16)
    draws = np.concatenate([w & 0xFFFF, w >> 16], axis=2).reshape(-1)[:n]
    return draws >= int(p * 65536 + 0.5)


def advanced(state, n):
    return np.array([state[0], state[1] + -(-n // 128)], np.int64)


def reference(x, state, *, p=0.5, training=True):
    if not training:
        return x, state
    scale = 1 / (1 - p) if p < 1 else 0.0
    return np.where(kept(state, x.size, p).reshape(x.shape), x * x.dtype.type(scale), 0), advanced(state, x.size)


def of_channels(x, state, *, p=0.5, training=True):
    if not training:
        return x, state
    factor, after = reference(np.ones((*x.shape[:2], 1, 1), x.dtype), state, p=p)
    return x * factor, after


def torch_dropout(x, state):
    from torch.nn.functional import dropout

    return dropout(x, 0.5)


cases = [
    Case(
        op="dropout",
        reference=reference,
        samples=[
            *(Sample(f"n = {n}", Arr(n), STATE.copy(), p=0.3) for n in (0, 1, 127, 128, 129, 1000)),
            Sample("scalar", Arr(), STATE.copy()),
            Sample("many tiles", Arr(100_003), STATE.copy(), p=0.25).no_gradient(),
            Sample("p = 0", Arr(50), STATE.copy(), p=0.0),
            Sample("p = 1", Arr(50), STATE.copy(), p=1.0),
            Sample("not training", Arr(50), STATE.copy(), training=False),
            Sample("special values", Arr(300, kind="special"), STATE.copy()),
        ],
        errors=[
            Error(ValueError, "p is 1.5", Arr(3), STATE.copy(), p=1.5),
            Error(ValueError, "p is -0.5", Arr(3), STATE.copy(), p=-0.5),
            Error(TypeError, "x is int64", Arr(3, kind="int"), STATE.copy()),
            Error(TypeError, "state is int32", Arr(3), np.zeros(2, np.int32)),
            Error(ValueError, "state is (3,)", Arr(3), np.zeros(3, np.int64)),
        ],
        bench=[
            Bench("4M", Arr(1 << 22), STATE.copy(), p=0.5, torch=torch_dropout, dtypes=("float32", "bfloat16")),
            Bench("64K", Arr(1 << 16), STATE.copy(), p=0.5, torch=torch_dropout),
        ],
        mutates=(1,),
    ),
    Case(
        op="dropout2d",
        reference=of_channels,
        samples=[
            Sample("channels", Arr(3, 5, 4, 4), STATE.copy(), p=0.5),
            Sample("one channel", Arr(1, 1, 2, 3), STATE.copy(), p=0.5),
            Sample("no images", Arr(0, 3, 2, 2), STATE.copy(), p=0.5),
            Sample("not training", Arr(2, 3, 2, 2), STATE.copy(), training=False),
        ],
        mutates=(1,),
        family="dropout",
    ),
]
