"""The harness can fail: wrong ops and references are caught, each with a message that names the fault."""

import numpy as np
import pytest

import harness
import test_gradients
import test_values
from cases import Arr, Case, Sample, materialise

SAMPLE = Sample("a matrix", Arr(5, 7))


def wide_exp(x):
    """exp of float32 arrays, computed in float64 and rounded once."""
    return np.exp(np.asarray(x), dtype=np.float64).astype(np.float32)


def judge(monkeypatch, op, reference=np.exp, **options):
    """Runs the value test on a NumPy function that plays the op."""
    monkeypatch.setattr(harness, "function", lambda case: op)
    monkeypatch.setattr(harness, "to_lamina", lambda inputs: inputs)
    case = Case("played", reference, samples=[SAMPLE], **options)
    test_values.test_value(case, SAMPLE, "float32")


def one_off(x, change):
    y = wide_exp(x)
    y[2, 3] = change(y[2, 3])
    return y


def test_right_op_passes(monkeypatch):
    judge(monkeypatch, wide_exp)


def test_error_of_four_tolerances(monkeypatch):
    [x] = materialise(Case("played", np.exp, [SAMPLE]), SAMPLE, "float32")
    [want] = harness.expected(Case("played", np.exp, [SAMPLE]), [x], {}, "float32")
    with pytest.raises(AssertionError, match=r"y\[2, 3\].*1 of 35 elements differ"):
        judge(monkeypatch, lambda x: one_off(x, lambda v: v + np.float32(4 * want.tolerance)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_unexpected_special_value(monkeypatch, value):
    with pytest.raises(AssertionError, match=r"y\[2, 3\]"):
        judge(monkeypatch, lambda x: one_off(x, lambda v: value))


def test_missing_nan(monkeypatch):
    def reference(x):
        y = np.exp(x)
        y[2, 3] = np.nan
        return y

    with pytest.raises(AssertionError, match=r"y\[2, 3\].*expected nan"):
        judge(monkeypatch, wide_exp, reference)


def test_wrong_shape(monkeypatch):
    with pytest.raises(AssertionError, match="shape"):
        judge(monkeypatch, lambda x: wide_exp(x)[:, :-1])


def test_wrong_dtype(monkeypatch):
    with pytest.raises(AssertionError, match="dtype float64; expected float32"):
        judge(monkeypatch, lambda x: np.exp(np.asarray(x), dtype=np.float64))


def test_missing_output(monkeypatch):
    with pytest.raises(AssertionError, match="1 outputs; expected 2"):
        judge(monkeypatch, wide_exp, lambda x: (np.exp(x), x))


def test_written_input(monkeypatch):
    def op(x):
        y = wide_exp(x)
        x[0, 0] += 1
        return y

    with pytest.raises(AssertionError, match="an input was written to"):
        judge(monkeypatch, op)


def test_read_of_a_gap(monkeypatch):
    """An op that ignores strides reads the poison between the elements."""

    def op(x):
        flat = np.lib.stride_tricks.as_strided(x, (x.size,), (x.itemsize,)) if x.size else x
        return wide_exp(flat).reshape(x.shape)

    with pytest.raises(AssertionError, match=r"transposed|strided"):
        judge(monkeypatch, op)


def test_second_run_differs(monkeypatch):
    noise = iter(np.float32([1, 1 + 2**-23] * 100))
    with pytest.raises(AssertionError, match="two runs"):
        judge(monkeypatch, lambda x: wide_exp(x) * next(noise))


def test_wrong_gradient(rng):
    right = Case("exp", np.exp, samples=[SAMPLE], dtypes=["float64"])
    test_gradients.test_gradient(right, SAMPLE, "float64", rng)
    wrong = Case("exp", lambda x: np.exp(x) + 1e-4 * np.sum(x), samples=[SAMPLE], dtypes=["float64"])
    with pytest.raises(AssertionError, match="gradient of input 0"):
        test_gradients.test_gradient(wrong, SAMPLE, "float64", rng)


def test_imprecise_gradient(monkeypatch, rng):
    case = Case("exp", np.exp, samples=[SAMPLE])
    test_gradients.test_gradient_precision(case, SAMPLE, "float32", rng)
    exact = harness.to_numpy

    def imprecise(tensor):
        y = exact(tensor)
        return y if y.dtype == np.float64 else y * np.float32(1 + 1e-5)

    monkeypatch.setattr(harness, "to_numpy", imprecise)
    with pytest.raises(AssertionError, match="gradient of input 0"):
        test_gradients.test_gradient_precision(case, SAMPLE, "float32", rng)


def test_values_of_a_sample_do_not_depend_on_the_layout():
    from cases import LAYOUTS

    case = Case("played", np.exp, samples=[Sample("four axes", Arr(2, 3, 4, 5))])
    plain = materialise(case, case.samples[0], "float32")[0]
    for layout in LAYOUTS:
        x = materialise(case, case.samples[0], "float32", layout)[0]
        want = np.broadcast_to(plain[:1], plain.shape) if layout == "expanded" else plain
        assert np.array_equal(x, want), layout


def test_memory_covers_the_whole_buffer():
    x = materialise(Case("played", np.exp, [SAMPLE]), SAMPLE, "float32", "strided")
    assert len(harness.memory(x)[0]) >= 4 * x[0].size * x[0].itemsize
