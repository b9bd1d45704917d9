"""Chains of reshapes, permutations, slices and their like against NumPy, on arrays with all kinds of strides."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import lamina
from cases import LAYOUTS, lay_out
from lamina import functional as F

MANY = settings(max_examples=300, deadline=None, derandomize=True, database=None)


@st.composite
def basic_index(draw, shape):
    """A tuple of integers, slices, None and ... that indexes an array of this shape."""
    entries = []
    for n in shape[: draw(st.integers(0, len(shape)))]:
        if n and draw(st.integers(0, 3)) == 0:
            entries.append(draw(st.integers(-n, n - 1)))
        else:
            bound = st.none() | st.integers(-n - 1, n + 1)
            step = draw(st.none() | st.integers(-3, 3).filter(bool))
            entries.append(slice(draw(bound), draw(bound), step))
    if draw(st.booleans()):
        entries.insert(draw(st.integers(0, len(entries))), None)
    if len(entries) == len([e for e in entries if e is None]) or draw(st.integers(0, 2)) == 0:
        entries.append(...)
    return tuple(entries)


@st.composite
def factors(draw, size):
    """Extents with this product, or with one -1 among them."""
    extents = []
    while size > 1 and len(extents) < 4:
        divisors = [d for d in range(2, size + 1) if size % d == 0]
        extents.append(draw(st.sampled_from(divisors)))
        size //= extents[-1]
    extents += [size]
    if draw(st.booleans()):
        extents[draw(st.integers(0, len(extents) - 1))] = -1
    return tuple(extents)


def step(draw, shape):
    """One movement as a pair of functions: on a Tensor, on an ndarray."""
    ndim, size = len(shape), int(np.prod(shape))
    kind = draw(st.sampled_from(["reshape", "permute", "index", "flip", "unsqueeze", "expand", "concat", "pad"]))
    if kind == "reshape" and size > 0:
        new = draw(factors(size))
        return lambda x: x.reshape(new), lambda a: a.reshape(new)
    if kind == "permute":
        dims = draw(st.permutations(range(ndim)))
        return lambda x: x.permute(*dims) if dims else x, lambda a: a.transpose(dims)
    if kind == "flip" and ndim:
        dim = draw(st.integers(-ndim, ndim - 1))
        return lambda x: x.flip(dim), lambda a: np.flip(a, dim)
    if kind == "unsqueeze" and ndim < 6:
        dim = draw(st.integers(-ndim - 1, ndim))
        return lambda x: x.unsqueeze(dim), lambda a: np.expand_dims(a, dim)
    if kind == "expand" and size < 500 and ndim < 6:
        new = (draw(st.integers(1, 3)), *(draw(st.integers(1, 3)) if n == 1 else n for n in shape))
        return lambda x: x.expand(new), lambda a: np.broadcast_to(a, new)
    if kind == "concat" and ndim and size < 500:
        dim = draw(st.integers(-ndim, ndim - 1))
        return lambda x: F.concat([x, x], dim=dim), lambda a: np.concatenate([a, a], dim)
    if kind == "pad" and ndim and size < 500:
        before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        margins = [(0, 0)] * (ndim - 1) + [(before, after)]
        return lambda x: F.pad(x, padding=(before, after)), lambda a: np.pad(a, margins)
    index = draw(basic_index(shape))
    return lambda x: x[index], lambda a: a[index]


def chain(draw, shape):
    """Up to five movements, as one pair of functions."""
    steps = []
    probe = np.zeros(shape)
    for _ in range(draw(st.integers(1, 5))):
        steps.append(step(draw, probe.shape))
        probe = steps[-1][1](probe)

    def run(which, x):
        for functions in steps:
            x = functions[which](x)
        return x

    return lambda x: run(0, x), lambda a: run(1, a)


SHAPES = st.lists(st.integers(0, 7) | st.sampled_from([1, 17, 33]), max_size=4).filter(lambda s: np.prod(s) < 5000)


@MANY
@given(st.data(), SHAPES, st.sampled_from(LAYOUTS), st.sampled_from(["float32", "float64", "uint8", "float16"]))
def test_chain_of_movements(data, shape, layout, dtype):
    moved, expected = chain(data.draw, tuple(shape))
    a = lay_out(np.arange(np.prod(shape)).reshape(shape).astype(dtype), layout)
    y, want = np.array(moved(lamina.from_numpy(a))), expected(a)
    assert (y.shape, y.dtype) == (want.shape, want.dtype)
    np.testing.assert_array_equal(y, want)


@MANY
@given(st.data(), SHAPES.filter(np.prod), st.sampled_from(LAYOUTS))
def test_gradient_is_the_transposed_movement(data, shape, layout):
    """Movements are linear maps: <f(x), dy> = <x, f'(dy)>, here without rounding, as all values are small integers."""
    moved, expected = chain(data.draw, tuple(shape))
    rng = np.random.default_rng(len(shape))
    a = lay_out(rng.integers(-9, 9, shape).astype(np.float64), layout)
    dy = rng.integers(-9, 9, expected(a).shape).astype(np.float64)
    x = lamina.from_numpy(a)
    with lamina.Tape() as tape:
        tape.watch(x)
        y = moved(x)
    (dx,) = tape.gradient(y, [x], lamina.from_numpy(dy))
    assert dx.shape == a.shape
    assert np.vdot(expected(a), dy) == np.vdot(a, np.array(dx))


@MANY
@given(st.data(), SHAPES.filter(lambda s: len(s) > 0 and min(s) > 0))
def test_one_array_of_integers(data, shape):
    """x[:, i, ...] with an array i, next to a slice and a new axis."""
    a = np.arange(np.prod(shape)).reshape(shape)
    axis = data.draw(st.integers(0, len(shape) - 1))
    indices = np.array(data.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=5)))
    index = (*[slice(None)] * axis, indices, ...)
    np.testing.assert_array_equal(np.array(lamina.from_numpy(a)[index]), a[index])
    index = (None, *index)
    np.testing.assert_array_equal(np.array(lamina.from_numpy(a)[index]), a[index])
