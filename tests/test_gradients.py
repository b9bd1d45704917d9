"""Gradients by the tape against numeric derivatives of the float64 reference.

float64 is held to the derivative itself, shorter dtypes to the float64 gradient.
"""

import numpy as np
import pytest

from cases import Arr, is_floating, materialise
from harness import (
    Expected,
    cast,
    compare,
    differentiable_inputs,
    directions,
    expected_gradients,
    label,
    numeric_derivative,
    output_dtype,
    reference,
    samples,
    tape_vjp,
)

PARAMETERS = samples(gradients=True)
EXACT = [p for p in PARAMETERS if p.values[2] == "float64"]
SHORTER = [p for p in PARAMETERS if p.values[2] != "float64"]


def output_gradients(case, inputs, attrs, rng):
    """A random float64 dy for every floating output, None for the others."""
    results = reference(case, inputs, attrs)
    outputs = results[: len(results) - len(case.mutates)]
    if not any(is_floating(y.dtype) for y in outputs):
        pytest.skip("no floating output")
    if any(is_floating(y.dtype) and y.dtype != np.float64 for y in outputs):
        pytest.skip("the result is rounded to a shorter dtype")
    return [np.asarray(rng.standard_normal(y.shape)) if is_floating(y.dtype) else None for y in outputs]


@pytest.mark.parametrize(("case", "sample", "dtype"), EXACT)
def test_gradient(case, sample, dtype, rng):
    inputs = materialise(case, sample, dtype)
    wrt = [i for i in differentiable_inputs(case, sample) if inputs[i].dtype == np.float64]
    dys = output_gradients(case, inputs, sample.attrs, rng)
    gradients = tape_vjp(case, inputs, sample.attrs, wrt, dys)

    def loss(position, x):
        changed = [x if i == position else v for i, v in enumerate(inputs)]
        outputs = reference(case, changed, sample.attrs)
        return sum(np.vdot(dy, y) for y, dy in zip(outputs, dys, strict=False) if dy is not None)

    for i, gradient in zip(wrt, gradients, strict=True):
        where = f"{label(case, sample)}, gradient of input {i}"
        x = np.array(inputs[i])
        assert (gradient.shape, gradient.dtype) == (x.shape, x.dtype), where
        for v in directions(x.shape, rng):
            numeric = numeric_derivative(lambda x, i=i: loss(i, x), x, v)
            exact = np.vdot(gradient, v)
            # truncation grows with derivatives of the size of g, rounding (1e-11) with the terms of the loss
            bound = 1e-6 * np.vdot(np.abs(gradient), np.abs(v)) + 1e-9 * (1 + abs(loss(i, x)))
            at = np.argwhere(v)[0].tolist() if np.count_nonzero(v) == 1 else "along a random direction"
            is_right = abs(numeric - exact) <= bound or (np.isnan(numeric) and np.isnan(exact))
            assert is_right, f"{where}, {at}: {exact:.9g}; numeric {numeric:.9g}"


def is_floating_operand(case, sample, i):
    x = sample.inputs[i]
    is_asked = case.gradients is None or i in case.gradients
    return is_asked and isinstance(x, Arr) and is_floating(x.dtype_under("float32"))


def watched(case, sample):
    return [i for i in range(len(sample.inputs)) if is_floating_operand(case, sample, i)]


EMPTY = [
    p
    for p in samples()
    if watched(*p.values[:2]) and any(isinstance(x, Arr) and 0 in x.shape for x in p.values[1].inputs)
]


@pytest.mark.parametrize(("case", "sample", "dtype"), EMPTY)
def test_gradients_where_there_are_no_elements(case, sample, dtype):
    """Those of the empty operands are empty, and all are made without harm."""
    inputs = materialise(case, sample, dtype)
    wrt = watched(case, sample)
    outputs = reference(case, cast(inputs, np.float64), sample.attrs)
    outputs = outputs[: len(outputs) - len(case.mutates)]
    dys = [np.ones(y.shape) if is_floating(y.dtype) else None for y in outputs]
    if all(dy is None for dy in dys):
        pytest.skip("no floating output")
    for i, gradient in zip(wrt, tape_vjp(case, inputs, sample.attrs, wrt, dys), strict=True):
        assert (gradient.shape, gradient.dtype) == (inputs[i].shape, inputs[i].dtype)


@pytest.mark.parametrize(("case", "sample", "dtype"), SHORTER)
def test_gradient_precision(case, sample, dtype, rng):
    wrt = differentiable_inputs(case, sample)
    inputs = materialise(case, sample, dtype)
    dys = [
        None if dy is None else dy.astype(output_dtype(case, i, dtype))
        for i, dy in enumerate(output_gradients(case, cast(inputs, np.float64), sample.attrs, rng))
    ]

    def vjp(inputs, dys):
        return tape_vjp(case, inputs, sample.attrs, wrt, dys)

    wants = expected_gradients(vjp, inputs, dys, dtype, rng)
    for i, got, (want, tolerance) in zip(wrt, vjp(inputs, dys), wants, strict=True):
        where = f"{label(case, sample, dtype)}, gradient of input {i}"
        compare(got, Expected(want, inputs[i].dtype, tolerance), where)
