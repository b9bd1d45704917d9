"""Laws of pooling and batch normalisation on random shapes, windows and layouts."""

import numpy as np
import pytest

import lamina
import lamina.functional as F

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
st = hypothesis.strategies


@st.composite
def windows(draw):
    """A shape, the attributes of a pooling that fits it, and a layout."""
    kernel, stride = draw(st.tuples(*[st.integers(1, 5)] * 2)), draw(st.tuples(*[st.integers(1, 5)] * 2))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    extents = [draw(st.integers(max(1, k - 2 * p), 20)) for k, p in zip(kernel, padding, strict=True)]
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 19)), *extents)
    attrs = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": draw(st.booleans())}
    return shape, attrs, draw(st.booleans())


def values(shape, is_channels_last, seed=0):
    x = lamina.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
    return F.channels_last(x) if is_channels_last else x


def gradient(function, x, dy):
    with lamina.Tape() as tape:
        tape.watch(x)
        y = function(x)
    return np.array(tape.gradient(y, [x], lamina.from_numpy(dy))[0])


few = hypothesis.settings(max_examples=60, deadline=None)


@few
@hypothesis.given(windows())
def test_layouts_give_the_same_maxima(case):
    shape, attrs, _ = case
    results = []
    for is_channels_last in (False, True):
        x = values(shape, is_channels_last)
        y, indices = F.max_pool2d(x, **attrs, return_indices=True)
        dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
        dx = gradient(lambda x: F.max_pool2d(x, **attrs), x, dy)
        results.append([np.array(y), np.array(indices), dx])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@few
@hypothesis.given(windows())
def test_indices_point_at_the_maxima(case):
    shape, attrs, is_channels_last = case
    x = values(shape, is_channels_last)
    y, indices = F.max_pool2d(x, **attrs, return_indices=True)
    planes = np.array(x).reshape(*shape[:2], -1)
    found = np.take_along_axis(planes, np.array(indices).reshape(*shape[:2], -1), axis=2)
    np.testing.assert_array_equal(found.reshape(y.shape), np.array(y))


@few
@hypothesis.given(windows())
def test_minimum_average_maximum(case):
    shape, attrs, is_channels_last = case
    x = values(shape, is_channels_last)
    low = -np.array(F.max_pool2d(-x, **attrs))
    middle = np.array(F.avg_pool2d(x, **attrs, count_include_pad=False))
    high = np.array(F.max_pool2d(x, **attrs))
    slack = 1e-6 * (1 + np.abs(middle))
    assert (low <= middle + slack).all()
    assert (middle <= high + slack).all()


@few
@hypothesis.given(windows())
def test_every_gradient_arrives_once(case):
    shape, attrs, is_channels_last = case
    x = values(shape, is_channels_last)
    dy = np.ones(F.max_pool2d(x, **attrs).shape, np.float32)
    assert gradient(lambda x: F.max_pool2d(x, **attrs), x, dy).sum() == dy.sum()
    # each window's shares of an average of x alone sum to 1
    shares = gradient(lambda x: F.avg_pool2d(x, **attrs, count_include_pad=False), x, dy)
    np.testing.assert_allclose(shares.sum(dtype=np.float64), dy.sum(), rtol=1e-5)


@few
@hypothesis.given(
    st.tuples(st.integers(1, 2), st.integers(1, 19), st.integers(1, 20), st.integers(1, 20)),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.booleans(),
)
def test_bins_of_equal_length_are_windows(shape, grid, is_channels_last):
    shape = (*shape[:2], shape[2] * grid[0], shape[3] * grid[1])
    x = values(shape, is_channels_last)
    kernel = (shape[2] // grid[0], shape[3] // grid[1])
    for adaptive, fixed in ((F.adaptive_max_pool2d, F.max_pool2d), (F.adaptive_avg_pool2d, F.avg_pool2d)):
        np.testing.assert_array_equal(np.array(adaptive(x, output_size=grid)), np.array(fixed(x, kernel_size=kernel)))


@few
@hypothesis.given(
    st.tuples(st.integers(1, 9), st.integers(1, 35), st.integers(1, 12), st.integers(1, 12)),
    st.booleans(),
    st.floats(-1e4, 1e4),
)
def test_normalised_moments(shape, is_channels_last, offset):
    hypothesis.assume(shape[0] * shape[2] * shape[3] > 1)
    x = values(shape, is_channels_last) + offset
    y = np.array(F.batch_norm(x, training=True, eps=0.01), dtype=np.float64)
    exact = np.array(x, dtype=np.float64)
    var = exact.var(axis=(0, 2, 3))
    # the mean is rounded to float32: half a unit in the last place, in units of the deviation
    slack = 1e-5 + abs(offset) * 2**-23 / np.sqrt(var + 0.01)
    assert (np.abs(y.mean(axis=(0, 2, 3))) <= slack).all()
    np.testing.assert_allclose(y.var(axis=(0, 2, 3)), var / (var + 0.01), rtol=1e-4, atol=1e-5)
