"""Every error sample raises its type and text, in the library's one format, and writes nothing."""

import re

import pytest

import harness
from cases import all_cases, materialise
from harness import function, memory, to_lamina

ERRORS = [pytest.param(case, error, id=f"{case.op}-{error.name}") for case in all_cases() for error in case.errors]


@pytest.mark.parametrize(("case", "error"), ERRORS)
def test_error(case, error):
    if error.is_cpu_only and harness.device != "cpu":
        pytest.skip("an error on the CPU only")
    inputs = materialise(case, error, case.dtypes[0])
    before = memory(inputs)
    with pytest.raises(error.type) as raised:
        function(case)(*to_lamina(inputs), **error.attrs)
    message = str(raised.value)
    assert error.text in message
    # `op: what is wrong, with the values; what was expected`; values in parentheses may close it
    assert re.fullmatch(rf"{case.op}: .+(; .+|\(.+\))", message, re.DOTALL), message
    assert memory(inputs) == before, f"{case.op}: an input was written to"
