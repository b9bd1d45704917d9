"""Shapes that nobody thought of: the references of the cases on shapes drawn by hypothesis."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cases import LAYOUTS, Case, all_cases, lay_out, numpy_dtype
from harness import call, compare, expected

CASES = {case.op: case for case in all_cases()}
DTYPES = st.sampled_from(["float32", "bfloat16", "float64"])
FEW = settings(max_examples=50, deadline=None, derandomize=True, database=None)
extents = st.integers(0, 9)
positive = st.integers(1, 9)


def judge(case: Case, dtype: str, layout: str, *shapes, **attrs) -> None:
    """The op on normal values of these shapes (None: operand absent) against its reference."""
    rng = np.random.default_rng(math.prod(d + 2 for shape in shapes if shape for d in shape))
    values = [None if s is None else rng.standard_normal(s).astype(numpy_dtype(dtype)) for s in shapes]
    inputs = [None if v is None else lay_out(v, layout) for v in values]
    wants = expected(case, inputs, attrs, dtype)
    for i, (y, want) in enumerate(zip(call(case, inputs, attrs), wants, strict=True)):
        compare(y, want, f"{case.op} {shapes} {attrs} {dtype} {layout}, output {i}")


def window(draw):
    """Kernel, stride, padding per axis of a pooling window (padding at most half the kernel)."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    return kernel, stride, padding


@FEW
@given(st.data(), DTYPES, st.sampled_from(LAYOUTS))
def test_conv2d(data, dtype, layout):
    draw = data.draw
    groups, c, o = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 20))
    n, h, w = draw(st.integers(0, 2)), draw(positive), draw(positive)
    kernel, stride, dilation = (draw(st.tuples(st.integers(1, 4), st.integers(1, 4))) for _ in range(3))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    assume(all(d * (k - 1) < i + 2 * p for d, k, i, p in zip(dilation, kernel, (h, w), padding, strict=True)))
    attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    bias = (o * groups,) if draw(st.booleans()) else None
    judge(CASES["conv2d"], dtype, layout, (n, c * groups, h, w), (o * groups, c, *kernel), bias, **attrs)


@pytest.mark.parametrize("op", ["max_pool2d", "avg_pool2d"])
@FEW
@given(data=st.data(), dtype=DTYPES, layout=st.sampled_from(LAYOUTS))
def test_pool2d(op, data, dtype, layout):
    kernel, stride, padding = window(data.draw)
    n, c, h, w = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 20), positive, positive))
    assume(all(k <= i + 2 * p for k, i, p in zip(kernel, (h, w), padding, strict=True)))
    judge(CASES[op], dtype, layout, (n, c, h, w), kernel_size=kernel, stride=stride, padding=padding)


@FEW
@given(st.data(), DTYPES, st.sampled_from(LAYOUTS))
def test_matmul(data, dtype, layout):
    m, n, k = (data.draw(st.integers(0, 40)) for _ in range(3))
    batch = data.draw(st.lists(st.integers(1, 3), max_size=2))
    of_a, of_b = ([1 if data.draw(st.booleans()) else d for d in batch] for _ in range(2))
    judge(CASES["matmul"], dtype, layout, (*of_a, m, k), (*of_b, k, n))


@pytest.mark.parametrize("op", ["add", "div", "maximum"])
@FEW
@given(data=st.data(), dtype=DTYPES, layout=st.sampled_from(LAYOUTS))
def test_broadcasting(op, data, dtype, layout):
    shape = data.draw(st.lists(extents, max_size=5))
    a, b = ([1 if data.draw(st.booleans()) else d for d in shape] for _ in range(2))
    judge(CASES[op], dtype, layout, a[data.draw(st.integers(0, len(a))) :], b)


@pytest.mark.parametrize("op", ["sum", "mean", "softmax", "argmax", "cumsum"])
@FEW
@given(data=st.data(), dtype=DTYPES, layout=st.sampled_from(LAYOUTS[:-1]))
def test_along_an_axis(op, data, dtype, layout):
    shape = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    judge(CASES[op], dtype, layout, shape, dim=dim)
