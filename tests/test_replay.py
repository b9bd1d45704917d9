"""A recorded program gives the same bits as eager execution, on the recorded values and on others."""

import pytest

import lamina
from cases import materialise
from harness import as_tuple, assert_same_bits, call, function, label, samples, to_lamina, to_numpy

# Tensors do not change devices inside a recording.
FLOAT32 = [p for p in samples() if p.values[2] == "float32" and p.values[0].op != "to_device"]


@pytest.mark.parametrize(("case", "sample", "dtype"), FLOAT32)
def test_replay(case, sample, dtype):
    @lamina.record
    def step(*tensors):
        arguments = nest(tensors, sample.inputs)
        outputs = as_tuple(function(case)(*arguments, **sample.attrs))
        return [*outputs, *(arguments[i] for i in case.mutates)]

    for number, salt in enumerate(["", "", "", "other values", "", "other values"]):  # eager, recorded, replayed …
        inputs = materialise(case, sample, dtype, salt=salt)
        want = call(case, inputs, sample.attrs)
        inputs = materialise(case, sample, dtype, salt=salt)
        got = [to_numpy(y) for y in as_tuple(step(*flat(to_lamina(inputs))))]
        for i, (y, eager) in enumerate(zip(got, want, strict=True)):
            assert_same_bits(y, eager, f"{label(case, sample)}, call {number}, output {i}, replay and eager")


def flat(inputs):
    """The tensors among the inputs, lists opened."""
    for x in inputs:
        if isinstance(x, list):
            yield from flat(x)
        elif isinstance(x, lamina.Tensor):
            yield x


def nest(tensors, pattern):
    """The inverse of `flat`: tensors where `pattern` has arrays, everything else as in the pattern."""
    remaining = iter(tensors)

    def place(entry):
        if isinstance(entry, (list, tuple)):
            return [place(e) for e in entry]
        return next(remaining) if hasattr(entry, "shape") else entry

    return [place(entry) for entry in pattern]
