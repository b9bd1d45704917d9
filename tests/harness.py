"""How a case is judged: calling the op, the truth, the tolerance, the comparison and numeric gradients.

The tolerance is derived, not chosen. Let y64 be the reference in float64 on the very inputs of the op
(already rounded to the working dtype; in long double where that is float64) and y_low the same function in
the working dtype. An op passes where

    max|y - y64| <= 3 max|y_low - y64| + floor.

The first term measures what the arithmetic of this sample costs an honest NumPy implementation; the factor 3
allows for another order of summation. It may vanish by luck (one product, integers), so `floor` grants what
any implementation needs. With u = eps max|y64|, an upper bound of one unit in the last place (ULP):

    float32, float64   4 u: a SIMD elementary function is within 2 ULP, two chained ones within 4
    bfloat16, float16  1 u: computed in float32 and rounded once, but a result near a tie may fall either side

plus the smallest normal number, for results that underflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lamina
from cases import Arr, Case, Sample, all_cases, is_floating, numpy_dtype

SHORT = ("bfloat16", "float16")

# --- calling ------------------------------------------------------------------------------------------------


def function(case: Case):
    return getattr(lamina.functional, case.op)


def to_lamina(value: Any) -> Any:
    """NumPy arrays, alone or in lists, as tensors on the same memory where the strides allow it."""
    if isinstance(value, list):
        return [to_lamina(x) for x in value]
    return lamina.from_numpy(value) if isinstance(value, np.ndarray) else value


def to_numpy(value: Any) -> np.ndarray:
    """A copy of a tensor's elements."""
    return np.array(value)


def as_tuple(value: Any) -> tuple:
    return () if value is None else tuple(value) if isinstance(value, (tuple, list)) else (value,)


def call(case: Case, inputs: list[Any], attrs: dict[str, Any]) -> list[np.ndarray]:
    """Outputs of the op on NumPy inputs, then the new values of the inputs that it updates in place."""
    tensors = to_lamina(inputs)
    outputs = as_tuple(function(case)(*tensors, **attrs))
    return [to_numpy(y) for y in (*outputs, *(tensors[i] for i in case.mutates))]


def label(case: Case, sample: Any, *more: str) -> str:
    return "-".join((case.op, sample.name, *more))


def samples(*, gradients: bool = False) -> list:
    """Test parameters (case, sample, dtype); with `gradients`, those that have a gradient to test."""
    parameters = []
    for case in all_cases():
        for sample in case.samples:
            if gradients and not differentiable_inputs(case, sample):
                continue
            marks = [pytest.mark.slow] * sample.is_slow
            for dtype in case.dtypes_of(sample):
                name = label(case, sample, dtype)
                parameters.append(pytest.param(case, sample, dtype, id=name, marks=marks))
    return parameters


# --- truth and tolerance ------------------------------------------------------------------------------------


@dataclass
class Expected:
    """What one output must be: y64, its dtype, and the allowed error of finite elements (None: exact)."""

    truth: np.ndarray
    dtype: np.dtype
    tolerance: float | None


def expected(case: Case, inputs: list[Any], attrs: dict[str, Any], dtype: str) -> list[Expected]:
    """Runs the reference in float64 (long double where float64 is the working dtype) and in the working dtype."""
    work = np.float32 if dtype in SHORT else numpy_dtype(dtype)
    with np.errstate(all="ignore"):
        exact = np.longdouble if work == np.float64 else np.float64
        truths = as_tuple(case.reference(*cast(inputs, exact), **attrs))
        lows = as_tuple(case.reference(*cast(inputs, work), **attrs))
    n_outputs = len(truths) - len(case.mutates)
    results = []
    for i, (truth, low) in enumerate(zip(truths, lows, strict=True)):
        truth, low = np.asarray(truth), np.asarray(low)
        if not is_floating(truth.dtype):
            results.append(Expected(truth, truth.dtype, None))
        else:
            out = output_dtype(case, i, dtype) if i < n_outputs else inputs[case.mutates[i - n_outputs]].dtype
            results.append(Expected(truth, out, tolerance(truth, low, out)))
    return results


def output_dtype(case: Case, output: int, dtype: str) -> np.dtype:
    return numpy_dtype("float32" if dtype in SHORT and output in case.wide_outputs else dtype)


def tolerance(truth: np.ndarray, low: np.ndarray, dtype: np.dtype) -> float:
    """3 max|y_low - y64| + floor over the elements that are finite in both; see the head of this file."""
    with np.errstate(all="ignore"):
        low = low.astype(dtype).astype(truth.dtype)
        finite = np.isfinite(truth) & np.isfinite(low)
        error, size = np.abs(low - truth)[finite], np.abs(truth)[finite]
    if not size.size:
        return 0.0
    ulps = 1 if dtype.itemsize == 2 else 4
    return float(3 * error.max() + ulps * eps_of(dtype) * size.max() + float(ml_dtypes.finfo(dtype).tiny))


def eps_of(dtype: np.dtype | str) -> float:
    return float(ml_dtypes.finfo(numpy_dtype(dtype) if isinstance(dtype, str) else dtype).eps)


def cast(value: Any, dtype: Any) -> Any:
    """Copies in row-major order, floating arrays in `dtype`."""
    if isinstance(value, list):
        return [cast(x, dtype) for x in value]
    if isinstance(value, np.ndarray):
        return value.astype(dtype if is_floating(value.dtype) else value.dtype, order="C")
    return value


# --- comparison ---------------------------------------------------------------------------------------------


def compare(y: np.ndarray, want: Expected, where: str) -> None:
    """Fails, naming the worst element, unless shape, dtype and every element (NaN, too) are right."""
    assert y.shape == want.truth.shape, f"{where}: shape {y.shape}; expected {want.truth.shape}"
    assert y.dtype == want.dtype, f"{where}: dtype {y.dtype}; expected {want.dtype}"
    if want.tolerance is None:
        error, tolerance = (y != want.truth).astype(float), 0.0
    else:
        tolerance = want.tolerance
        with np.errstate(all="ignore"):
            rounded = want.truth.astype(want.dtype).astype(np.float64)  # infinite where the dtype overflows
            y = y.astype(np.float64)
            is_same = (y == rounded) | (np.isnan(y) & np.isnan(rounded))
            error = np.where(is_same, 0.0, np.abs(y - want.truth))
            error[(~np.isfinite(rounded) & ~is_same) | np.isnan(error)] = np.inf
    wrong = error > tolerance
    if wrong.any():
        at = np.unravel_index(np.argmax(error), y.shape)
        raise AssertionError(
            f"{where}: y{_at(at)} = {y[at]!s}; expected {want.truth[at]!s} within {tolerance:.3g} "
            f"({_share(wrong)})"
        )


def assert_same_bits(a: np.ndarray, b: np.ndarray, where: str) -> None:
    assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{where}: {a.dtype}{a.shape} and {b.dtype}{b.shape}"
    bits = f"u{a.itemsize}"
    wrong = np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(b).view(bits)
    if wrong.any():
        at = np.unravel_index(np.argmax(wrong), a.shape)
        raise AssertionError(f"{where}: y{_at(at)} is {a[at]!s} and {b[at]!s} ({_share(wrong)})")


def _share(wrong: np.ndarray) -> str:
    return f"{int(wrong.sum())} of {wrong.size} elements differ"


def _at(index: tuple) -> str:
    return f"[{', '.join(str(int(i)) for i in index)}]"


def memory(inputs: list[Any]) -> list[bytes]:
    """The bytes of the buffers under the inputs, with what lies between strided elements and around them."""
    found = []
    for x in inputs:
        if isinstance(x, list):
            found += memory(x)
        elif isinstance(x, np.ndarray):
            while isinstance(x.base, np.ndarray):
                x = x.base
            found.append(x.tobytes())
    return found


# --- gradients ----------------------------------------------------------------------------------------------


def differentiable_inputs(case: Case, sample: Sample) -> list[int]:
    """Positions of the inputs whose gradients are tested at this sample."""

    def is_differentiable(x):
        if isinstance(x, Arr):
            return 0 not in x.shape and is_floating(x.dtype_under("float64"))
        return isinstance(x, np.ndarray) and x.size > 0 and is_floating(x.dtype)

    if not sample.has_gradient or any(getattr(x, "kind", "") == "special" for x in sample.inputs):
        return []
    wanted = range(len(sample.inputs)) if case.gradients is None else case.gradients
    return [i for i in wanted if i < len(sample.inputs) and is_differentiable(sample.inputs[i])]


def tape_vjp(
    case: Case, inputs: list[Any], attrs: dict[str, Any], wrt: list[int], dys: list[Any]
) -> list[np.ndarray]:
    """Gradients by the tape of the inputs at positions `wrt`, given those of the outputs (None: unused)."""
    tensors = to_lamina([x.copy() if i in case.mutates else x for i, x in enumerate(inputs)])
    with lamina.Tape() as tape:
        for i in wrt:
            tape.watch(tensors[i])
        outputs = as_tuple(function(case)(*tensors, **attrs))
        used = [(y, lamina.from_numpy(dy)) for y, dy in zip(outputs, dys, strict=True) if dy is not None]
        y, seed = used[0]
        if len(used) > 1:  # through one scalar, so that the vjp receives all output gradients at once
            y, seed = sum(lamina.functional.sum(y * dy) for y, dy in used), None
    gradients = tape.gradient(y, [tensors[i] for i in wrt], seed)
    return [to_numpy(g) for g in gradients]


def numeric_derivative(f, x: np.ndarray, direction: np.ndarray, step: float = 1e-5) -> float:
    """(f(x + h v) - f(x - h v)) / 2h. Truncation h^2/6 f''' and rounding eps f / h are both near 1e-11."""
    return (f(x + step * direction) - f(x - step * direction)) / (2 * step)


def directions(shape: tuple[int, ...], rng: np.random.Generator, limit: int = 24):
    """Every unit vector if there are at most `limit`, else `limit` of them and eight dense random directions.

    A wrong element of the gradient g shows in g.v for a random v almost surely; unit vectors make it
    readable.
    """
    n = int(np.prod(shape))
    for at in range(n) if n <= limit else rng.choice(n, limit, replace=False):
        unit = np.zeros(n)
        unit[at] = 1
        yield unit.reshape(shape)
    if n > limit:
        for _ in range(8):
            yield rng.standard_normal(shape)
