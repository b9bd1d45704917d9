"""uniform, normal, randint, bernoulli, randperm: NumPy on the same Philox words."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample
from cases._philox import TILE, advanced, pairs, words

STATE = np.array([0x0123456789ABCDEF, 5])
CARRY = np.array([-1, 2**28 - 1])  # counters that pass 2^32
BITS = {"float32": 24, "bfloat16": 8}


def uniform(state, *, shape=(), low=0.0, high=1.0, dtype="float32"):
    n = int(np.prod(shape))
    if dtype == "float64":
        u, used = (pairs(state, n) >> np.uint64(11)) * 2.0**-53, 2 * n
    else:
        u, used = (words(state, n) >> (32 - BITS[dtype])) * 2.0 ** -BITS[dtype], n
    return low + (high - low) * u.reshape(shape), advanced(state, used)


def box_muller(radius, angle):
    """Words (or pairs) in rows of 16: those of the radius, then those of the angle."""
    r = np.sqrt(-2 * np.log(radius))
    return r * np.cos(2 * np.pi * angle), r * np.sin(2 * np.pi * angle)


def normal(state, *, shape=(), mean=0.0, std=1.0, dtype="float32"):
    n = int(np.prod(shape))
    if dtype == "float64":
        tiles = -(-n // 32)
        u = ((pairs(state, 32 * tiles) >> np.uint64(11)) * 2.0**-53).reshape(tiles, 2, 16)
        z = np.stack(box_muller(1 - u[:, 0], u[:, 1]), 1)
        used = 2 * n
    else:
        tiles = -(-n // TILE)
        w = words(state, TILE * tiles).reshape(tiles, 2, 2, 16)
        # the half is added in float32, as the kernel does: near 1 it decides what the logarithm is
        radius = (w[:, :, 0] >> 8).astype(np.float32) + np.float32(0.5)
        x, y, used = *direction(w[:, :, 1]), n
        r = np.sqrt(-2 * np.log(radius.astype(np.float64) * 2.0**-24))
        z = np.stack([r * x, r * y], 2)
    return mean + std * z.reshape(-1)[:n].reshape(shape), advanced(state, used)


def direction(w):
    """Two bits choose the quadrant by reflection and negation, 24 the angle within it."""
    t = ((w << 2 >> 8).astype(np.float32) + np.float32(0.5)).astype(np.float64) * 2.0**-24 - 0.5
    x, y = np.cos(np.pi / 2 * t), np.sin(np.pi / 2 * t)
    is_swapped, sign = (w >> 30 & 1).astype(bool), 1 - 2 * (w >> 31).astype(np.float64)
    return sign * np.where(is_swapped, y, x), sign * np.where(is_swapped, x, y)


def randint(state, *, shape=(), low=0, high=2, dtype="int64"):
    n = int(np.prod(shape))
    values = [low + (int(bits) * (high - low) >> 64) for bits in pairs(state, n)]
    return np.array(values, dtype).reshape(shape), advanced(state, 2 * n)


def bernoulli(p, state):
    u = (words(state, p.size) >> 8) * 2.0**-24
    return (u.reshape(p.shape) < p).astype(p.dtype), advanced(state, p.size)


def randperm(state, *, n=0):
    y = np.arange(n)
    for k, bits in enumerate(pairs(state, n)):
        other = k + (int(bits) * (n - k) >> 64)
        y[k], y[other] = y[other], y[k]
    return y, advanced(state, 2 * n)


def by_dtype(name, **attrs):
    """One sample per dtype that has a kernel."""
    return [
        Sample(f"{name}, {dtype}", STATE.copy(), dtype=dtype, **attrs).only(dtype)
        for dtype in ("float32", "bfloat16", "float64")
    ]


def bad_state(text, type=ValueError, **attrs):
    state = np.zeros(3, np.int64) if type is ValueError else np.zeros(2, np.int32)
    return Error(type, text, state, **attrs)


SIZES = [(), (0,), (1,), (63,), (64,), (65,), (7, 300)]
FLOATS = [s for shape in SIZES for s in by_dtype(str(shape), shape=shape)]
COMMON = {"gradients": (), "mutates": (0,), "family": "random"}
ONE = {"dtypes": ("float32",)}

cases = [
    Case(
        op="uniform",
        reference=uniform,
        samples=[
            *FLOATS,
            *by_dtype("other range", shape=(100,), low=-3.0, high=5.0),
            Sample("carry", CARRY.copy(), shape=(99,)).only("float32"),
        ],
        errors=[
            bad_state("state is (3,)"),
            bad_state("state is int32", TypeError),
            Error(ValueError, "low is 2, high 1", STATE.copy(), low=2, high=1),
            Error(ValueError, "shape is (-1,)", STATE.copy(), shape=(-1,)),
            Error(TypeError, "dtype is float16", STATE.copy(), dtype="float16").on_cpu(),
        ],
        bench=[Bench("4M", STATE.copy(), shape=(1 << 22,), torch=lambda s: _torch().rand(1 << 22))],
        **COMMON,
    ),
    Case(
        op="normal",
        reference=normal,
        samples=[
            *FLOATS,
            *by_dtype("mean and std", shape=(100,), mean=1.0, std=0.5),
            Sample("carry", CARRY.copy(), shape=(99,)).only("float32"),
        ],
        errors=[
            bad_state("state is (3,)"),
            Error(ValueError, "std is -1", STATE.copy(), std=-1),
            Error(TypeError, "dtype is int64", STATE.copy(), dtype="int64"),
        ],
        bench=[Bench("4M", STATE.copy(), shape=(1 << 22,), torch=lambda s: _torch().randn(1 << 22))],
        **COMMON,
    ),
    Case(
        op="randint",
        reference=randint,
        samples=[
            *(Sample(f"{shape}", STATE.copy(), shape=shape, high=10) for shape in SIZES),
            Sample("all of int64", STATE.copy(), shape=(40,), low=-(2**63), high=2**63 - 1),
            Sample("int32", STATE.copy(), shape=(40,), low=-(2**31), high=2**31, dtype="int32"),
            Sample("uint8", STATE.copy(), shape=(40,), low=0, high=256, dtype="uint8"),
        ],
        errors=[
            bad_state("state is (3,)"),
            Error(ValueError, "low is 3, high 3", STATE.copy(), low=3, high=3),
            Error(ValueError, "high 300", STATE.copy(), high=300, dtype="uint8"),
            Error(TypeError, "dtype is float32", STATE.copy(), dtype="float32"),
        ],
        bench=[
            Bench(
                "4M",
                STATE.copy(),
                shape=(1 << 22,),
                high=1000,
                torch=lambda s: _torch().randint(1000, (1 << 22,)),
            )
        ],
        **COMMON,
        **ONE,
    ),
    Case(
        op="bernoulli",
        reference=bernoulli,
        samples=[
            *(Sample(f"{shape}", Arr(*shape, kind="uniform", low=0, high=1), STATE.copy()) for shape in SIZES),
            Sample("0, 1 and NaN", np.array([0.0, 1.0, np.nan, 2.0, -1.0]), STATE.copy()),
        ],
        errors=[
            Error(TypeError, "p is int64", Arr(3, kind="int"), STATE.copy()),
            Error(ValueError, "state is (3,)", Arr(3), np.zeros(3, np.int64)),
        ],
        bench=[
            Bench(
                "4M",
                Arr(1 << 22, kind="uniform", low=0, high=1),
                STATE.copy(),
                torch=lambda p, s: _torch().bernoulli(p),
            )
        ],
        **{**COMMON, "mutates": (1,)},
    ),
    Case(
        op="randperm",
        reference=randperm,
        samples=[Sample(f"n = {n}", STATE.copy(), n=n) for n in (0, 1, 2, 31, 32, 33, 1000)],
        errors=[bad_state("state is (3,)"), Error(ValueError, "n is -1", STATE.copy(), n=-1)],
        bench=[Bench("1M", STATE.copy(), n=1 << 20, torch=lambda s: _torch().randperm(1 << 20))],
        **COMMON,
        **ONE,
    ),
]


def _torch():
    import torch

    return torch
