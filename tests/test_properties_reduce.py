"""Laws of reductions, on shapes, axes and layouts drawn by hypothesis.

The values are small integers, so that sums are exact in any order and equality is equality.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lamina
import lamina.functional as F
from cases import LAYOUTS, lay_out, numpy_dtype

FEW = settings(max_examples=60, deadline=None, derandomize=True, database=None)
DTYPES = st.sampled_from(["float32", "bfloat16", "float64", "float16", "int32", "int64", "uint8", "bool"])


@st.composite
def arrays(draw, least=0):
    """An array of up to four axes, some of them long, in any dtype and layout; integers in [-3, 3]."""
    long = draw(st.integers(0, 3))
    shape = [draw(st.integers(least, 7)) for _ in range(draw(st.integers(0, 4)))]
    if shape and draw(st.booleans()):
        shape[long % len(shape)] = draw(st.sampled_from([15, 16, 17, 63, 64, 65, 130, 1023, 1025]))
    dtype = numpy_dtype(draw(DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.integers(0 if dtype.kind in "ub" else -3, 4, shape).astype(dtype)
    return lay_out(values, draw(st.sampled_from(LAYOUTS)))


@st.composite
def arrays_with_axes(draw, least=0):
    x = draw(arrays(least))
    axes = draw(st.sets(st.integers(0, x.ndim - 1))) if x.ndim else set()
    return x, tuple(draw(st.sampled_from([a, a - x.ndim])) for a in sorted(axes))


def exact(x):
    return x.astype(np.float64 if x.dtype.kind not in "iub" else np.int64)


def same(y, want):
    y = np.array(y)
    assert y.shape == want.shape
    np.testing.assert_array_equal(y.astype(np.float64), want.astype(np.float64))


@FEW
@given(arrays_with_axes(), st.booleans())
def test_sum_is_exact_on_integers(drawn, keepdim):
    x, dim = drawn
    want = exact(x).sum(axis=dim, keepdims=keepdim)
    same(
        F.sum(lamina.from_numpy(x), dim=dim, keepdim=keepdim),
        want.astype(x.dtype) if x.dtype.kind not in "iub" else want,
    )


@pytest.mark.parametrize("op", ["max", "min"])
@FEW
@given(drawn=arrays_with_axes(least=1))
def test_extremum_is_that_of_numpy(op, drawn):
    x, dim = drawn
    same(getattr(F, op)(lamina.from_numpy(x), dim=dim), getattr(np, op)(exact(x), axis=dim))


@pytest.mark.parametrize("op", ["any", "all"])
@FEW
@given(drawn=arrays_with_axes())
def test_any_and_all_are_those_of_numpy(op, drawn):
    x, dim = drawn
    same(getattr(F, op)(lamina.from_numpy(x), dim=dim), getattr(np, op)(exact(x), axis=dim))


@FEW
@given(arrays(least=1), st.data())
def test_argmax_points_at_the_first_maximum(x, data):
    dim = data.draw(st.none() | st.integers(-x.ndim, x.ndim - 1) if x.ndim else st.none())
    same(F.argmax(lamina.from_numpy(x), dim=dim), np.argmax(exact(x), axis=dim))
    same(F.argmin(lamina.from_numpy(x), dim=dim), np.argmin(exact(x), axis=dim))


@FEW
@given(arrays_with_axes())
def test_axes_may_be_reduced_one_by_one(drawn):
    x, dim = drawn
    step = lamina.from_numpy(x.astype(np.float64))
    for axis in dim:
        step = F.sum(step, dim=axis, keepdim=True)
    same(step, np.array(F.sum(lamina.from_numpy(x.astype(np.float64)), dim=dim, keepdim=True)))


@FEW
@given(arrays(least=1).filter(lambda x: x.ndim > 0), st.data())
def test_running_sums_end_in_the_sum_and_differ_by_the_elements(x, data):
    dim = data.draw(st.integers(0, x.ndim - 1))
    x = x.astype(np.float64)
    y = np.array(F.cumsum(lamina.from_numpy(x), dim=dim))
    same(np.take(y, -1, dim), np.array(F.sum(lamina.from_numpy(x), dim=dim)))
    same(np.diff(y, axis=dim, prepend=0), x)


@FEW
@given(arrays_with_axes(), st.integers(0, 2))
def test_sum_to_is_the_adjoint_of_broadcasting(drawn, dropped):
    x, dim = drawn
    x = x.astype(np.float64)
    shape = tuple(1 if i in {d % x.ndim for d in dim} else n for i, n in enumerate(x.shape))[dropped:]
    a = np.random.default_rng(0).integers(-3, 4, shape).astype(np.float64)
    y = np.array(F.sum_to(lamina.from_numpy(x), shape=shape))
    assert y.shape == shape
    assert (np.broadcast_to(a, x.shape) * x).sum() == (a * y).sum()


@FEW
@given(arrays_with_axes(least=1))
def test_variance_does_not_see_a_shift(drawn):
    x, dim = drawn
    x = x.astype(np.float64)
    variances = [np.array(F.var(lamina.from_numpy(np.asarray(x + c)), dim=dim, correction=0)) for c in (0, 1024)]
    np.testing.assert_allclose(variances[0], variances[1], rtol=1e-9, atol=1e-12)
