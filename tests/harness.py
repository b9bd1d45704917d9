"""How a case is judged: calling the op, the truth, the tolerance, the comparison and numeric gradients.

The tolerance is derived, not chosen. Let y64 be the reference in float64 on the very inputs of the op
(already rounded to the working dtype) and y_low the same function in the working dtype. An op passes where

    max|y - y64| <= 3 max|y_low - y64| + floor.

The first term measures what the arithmetic of this sample costs an honest NumPy implementation; the factor 3
allows for another order of summation. The largest of a few errors says little, so for small results it is
taken over four draws of the inputs (moved by up to 1e-3). float64 has no exact reference: its error is that
of float32 times the ratio of the two eps, and a fourth part is for the error of the truth itself. The first
term may vanish by luck (one product, integers), so `floor` grants what any implementation needs. With
u = eps max|y64|, an upper bound of one unit in the last place (ULP):

    float32, float64   4 u: a SIMD elementary function is within 2 ULP, two chained ones within 4
    bfloat16, float16  1 u: computed in float32 and rounded once, but a result near a tie may fall either side

plus the smallest normal number, for results that underflow.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lamina
from cases import Arr, Case, Sample, all_cases, is_floating, numpy_dtype

SHORT = ("bfloat16", "float16")
SMALL = 2000  # elements of a result whose largest error is taken over more than one draw

# --- calling ------------------------------------------------------------------------------------------------


def function(case: Case):
    return getattr(lamina.functional, case.op)


device = "cpu"  # where the cases run: pytest --device


def to_lamina(value: Any) -> Any:
    """NumPy arrays, alone or in lists, as tensors: on the CPU on the same memory where the strides allow it, on
    another device with the same strides."""
    if isinstance(value, list):
        return [to_lamina(x) for x in value]
    if not isinstance(value, np.ndarray):
        return value
    return lamina.from_numpy(value) if device == "cpu" else on_device(value)


def on_device(x: np.ndarray) -> lamina.Tensor:
    """A tensor on the device of the test with the strides of x, and as misaligned."""
    if x.size == 0 or any(s < 0 or s % x.itemsize for s in x.strides):
        return lamina.tensor(x, device=device)
    strides = [s // x.itemsize for s in x.strides]
    offset = x.ctypes.data % 64 // x.itemsize
    span = 1 + sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True))
    memory = np.zeros(offset + span, x.dtype)
    np.lib.stride_tricks.as_strided(memory[offset:], x.shape, x.strides)[...] = x
    return lamina._C.as_strided(lamina.tensor(memory, device=device), x.shape, strides, offset)


def to_numpy(value: Any) -> np.ndarray:
    """A copy of a tensor's elements."""
    return np.array(value)


def as_tuple(value: Any) -> tuple:
    return () if value is None else tuple(value) if isinstance(value, (tuple, list)) else (value,)


def call(case: Case, inputs: list[Any], attrs: dict[str, Any]) -> list[np.ndarray]:
    """Outputs of the op on NumPy inputs, then the new values of the inputs that it updates in place."""
    tensors = to_lamina(inputs)
    outputs = as_tuple(function(case)(*tensors, **attrs))
    if device != "cpu" and not case.mutates:
        assert_unchanged(tensors, inputs)
    return [to_numpy(y) for y in (*outputs, *(tensors[i] for i in case.mutates))]


def assert_unchanged(tensors: list[Any], inputs: list[Any]) -> None:
    """Fails if an input on the device does not hold what it was given."""
    for i, (tensor, x) in enumerate(zip(tensors, inputs, strict=True)):
        if isinstance(tensor, list):
            assert_unchanged(tensor, x)
        elif isinstance(tensor, lamina.Tensor):
            assert_same_bits(to_numpy(tensor), x, f"input {i} after the call")


def label(case: Case, sample: Any, *more: str) -> str:
    return "-".join((case.op, sample.name, *more))


def dtypes_of(case: Case, sample: Sample) -> list[str]:
    """The dtypes of a sample; devices compute in float16 where the CPU computes in bfloat16. A sample whose result has
    a dtype of its own stays with it."""
    dtypes = list(case.dtypes_of(sample))
    has_float16 = device != "cpu" and "bfloat16" in dtypes and "dtype" not in sample.attrs
    return [*dtypes, "float16"] if has_float16 else dtypes


def samples(*, gradients: bool = False) -> list:
    """Test parameters (case, sample, dtype); with `gradients`, those that have a gradient to test."""
    parameters = []
    for case in all_cases():
        for sample in case.samples:
            if gradients and not differentiable_inputs(case, sample):
                continue
            marks = [pytest.mark.slow] * sample.is_slow
            for dtype in dtypes_of(case, sample):
                name = label(case, sample, dtype)
                parameters.append(pytest.param(case, sample, dtype, id=name, marks=marks))
    return parameters


def benches() -> list:
    """Test parameters (case, bench): the bench shapes, the large ones marked slow."""

    def is_large(bench):
        elements = sum(int(np.prod(x.shape)) for x in bench.inputs if isinstance(x, Arr))
        return bench.flops > 5e8 or elements > 9e6

    return [
        pytest.param(case, bench, id=label(case, bench), marks=[pytest.mark.slow] * is_large(bench))
        for case in all_cases()
        for bench in case.bench
    ]


# --- truth and tolerance ------------------------------------------------------------------------------------


@dataclass
class Expected:
    """What one output must be: y64, its dtype, and the allowed error of finite elements (None: exact)."""

    truth: np.ndarray
    dtype: np.dtype
    tolerance: float | None


def expected(case: Case, inputs: list[Any], attrs: dict[str, Any], dtype: str) -> list[Expected]:
    """What the outputs must be, followed by the new values of the inputs that the op updates in place."""
    truths = reference(case, cast(inputs, np.float64), attrs)
    n_outputs = len(truths) - len(case.mutates)
    dtypes = [output_dtype(case, i, dtype) for i in range(n_outputs)] + [inputs[i].dtype for i in case.mutates]
    errors = rounding_errors(case, inputs, attrs, dtypes, SMALL // max(1, min(y.size for y in truths)))
    results = []
    for truth, error, out in zip(truths, errors, dtypes, strict=True):
        if not is_floating(truth.dtype):
            results.append(Expected(truth, truth.dtype, None))
            continue
        size = np.abs(truth[np.isfinite(truth)]).max(initial=0)
        ulps = 1 if out.itemsize == 2 else 4
        factor = 4 if out == np.float64 else 3
        floor = ulps * eps_of(out) * size + float(ml_dtypes.finfo(out).tiny)
        results.append(Expected(truth, out, factor * error + floor))
    return results


def reference(case: Case, inputs: list[Any], attrs: dict[str, Any]) -> list[np.ndarray]:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [np.asarray(y) for y in as_tuple(case.reference(*inputs, **attrs))]


def output_dtype(case: Case, output: int, dtype: str) -> np.dtype:
    return numpy_dtype("float32" if dtype in SHORT and output in case.wide_outputs else dtype)


def rounding_errors(
    case: Case, inputs: list[Any], attrs: dict[str, Any], dtypes: list[np.dtype], draws: int
) -> list[float]:
    """max|y_low - y64| of every output, over at most four draws of the inputs; see the head of this file."""
    rng = np.random.default_rng(0)
    errors = [0.0] * len(dtypes)
    for draw in range(max(1, min(draws, 4))):
        varied = cast(inputs, np.float32)  # float32 is the working dtype of the short ones, and stands for float64
        varied = vary(varied, -1e-3, 0, rng) if draw else varied
        lows, exacts = (reference(case, x, attrs) for x in (varied, cast(varied, np.float64)))
        for i, (low, exact, out) in enumerate(zip(lows, exacts, dtypes, strict=True)):
            if is_floating(exact.dtype):
                errors[i] = max(errors[i], largest_error(low, exact, out))
    return errors


def largest_error(low: np.ndarray, exact: np.ndarray, out: np.dtype) -> float:
    """max|y_low - y64| over the elements that are finite in both, y_low in the dtype of the output."""
    with np.errstate(all="ignore"):
        low = low.astype(np.float32 if out == np.float64 else out).astype(np.float64)
        error = np.abs(low - exact)
    scale = eps_of("float64") / eps_of("float32") if out == np.float64 else 1
    return scale * error[np.isfinite(error)].max(initial=0)


def vary(value: Any, low: float, high: float, rng: np.random.Generator) -> Any:
    """Every element of the floating arrays moved by a random relative change between `low` and `high`."""
    if isinstance(value, list):
        return [vary(x, low, high, rng) for x in value]
    if isinstance(value, np.ndarray) and is_floating(value.dtype):
        change = 1 + rng.uniform(low, high, value.shape)
        return np.asarray(value * change.astype(value.dtype))
    return value


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
            f"{where}: y{_at(at)} = {y[at]!s}; expected {want.truth[at]!s} within {tolerance:.3g} ({_share(wrong)})"
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


def tape_vjp(case: Case, inputs: list[Any], attrs: dict[str, Any], wrt: list[int], dys: list[Any]) -> list[np.ndarray]:
    """Gradients by the tape of the inputs at positions `wrt`, given those of the outputs (None: unused)."""
    tensors = to_lamina([x.copy() if i in case.mutates else x for i, x in enumerate(inputs)])
    with lamina.Tape() as tape:
        for i in wrt:
            tape.watch(tensors[i])
        outputs = as_tuple(function(case)(*tensors, **attrs))
        used = [
            (y, to_lamina(dy.astype(to_numpy(y).dtype))) for y, dy in zip(outputs, dys, strict=True) if dy is not None
        ]
        y, seed = used[0]
        if len(used) > 1:  # through one scalar, so that the vjp receives all output gradients at once
            y, seed = sum(lamina.functional.sum(y * dy) for y, dy in used), None
    gradients = tape.gradient(y, [tensors[i] for i in wrt], seed)
    return [to_numpy(g) for g in gradients]


def expected_gradients(vjp, inputs: list[Any], dys: list[Any], dtype: str, rng) -> list[tuple[np.ndarray, float]]:
    """What `vjp(inputs, dys)` gives in float64, and the error that is allowed in `dtype`.

    The tolerance is derived from the problem: rounding the operands anew (a relative change of eps/2) moves the exact
    gradient by some amount, and whoever stores operands in this dtype makes an error of that order. We allow four times
    the movement, maximised over three random roundings, plus four units in the last place of the largest element.
    """
    exact_inputs, exact_dys = cast(inputs, np.float64), cast(dys, np.float64)
    exact = vjp(exact_inputs, exact_dys)
    eps = eps_of(dtype)
    movement = np.zeros(len(exact))
    for _ in range(3):
        moved = vjp(*(vary(x, -eps / 2, eps / 2, rng) for x in (exact_inputs, exact_dys)))
        movement = np.maximum(movement, [np.abs(a - b).max(initial=0) for a, b in zip(moved, exact, strict=True)])
    return [(want, 4 * m + 4 * eps * np.abs(want).max(initial=0)) for want, m in zip(exact, movement, strict=True)]


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
