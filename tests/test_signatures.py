"""The hand-written functions agree with the records, are documented, run their examples, and have a case."""

import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import lamina
import lamina.functional
from cases import all_cases

RECORDS = lamina._C.schemas()
FUNCTIONS = {
    name: function
    for name, function in vars(lamina.functional).items()
    if inspect.isfunction(function) and function.__module__ == "lamina.functional" and name[0] != "_"
}
# Without those for PyTorch and JAX, and the CUDA library, which lies beside them.
MODULES = [
    module.name
    for module in pkgutil.walk_packages(lamina.__path__, "lamina.")
    if not any(part in module.name for part in ("._", ".torch", ".jax", ".lib"))
]
NAMESPACE = {"lamina": lamina, "np": np, "nn": lamina.nn, "optim": lamina.optim, "F": lamina.functional}


def is_internal(name: str) -> bool:
    """Backward passes, in-place steps, and what `lamina.full`, `zeros`, `ones` and their like are made of."""
    return "_backward" in name or name.endswith("_") or name in ("full", "fill_like")


@pytest.mark.parametrize("name", sorted(set(RECORDS) | set(FUNCTIONS)))
def test_every_op_has_a_function_and_every_function_a_case(name):
    if name in RECORDS and not is_internal(name):
        assert name in FUNCTIONS, "an op without a function in lamina.functional"
    if name in FUNCTIONS:
        assert name in {case.op for case in all_cases()}, "a function without a case in tests/cases"


@pytest.mark.parametrize("name", sorted(set(RECORDS) & set(FUNCTIONS)))
def test_signature_is_that_of_the_record(name):
    record = RECORDS[name]
    parameters = list(inspect.signature(FUNCTIONS[name]).parameters.values())
    inputs = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    attrs = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert [p.name for p in inputs] == [i["name"] for i in record["inputs"]]
    ends_open = any(p.kind is p.VAR_POSITIONAL for p in inputs)  # then nothing before it can have a default
    for p, i in zip(inputs, record["inputs"], strict=True):
        want = None if i["optional"] and not ends_open else p.empty
        assert p.default is want, f"{name}: default of {p.name}"
    assert list(attrs) == [a["name"] for a in record["attrs"]]
    for a in record["attrs"]:
        assert same_default(attrs[a["name"]], a), f"{name}: {a['name']} = {attrs[a['name']]}; record {a['default']}"


def same_default(value, attr) -> bool:
    """True iff the record turns `value` into its own default: one integer may stand for k equal ones."""
    if attr["count"] and isinstance(value, int):
        value = (value,) * attr["count"]
    if isinstance(value, (tuple, list)):
        return attr["default"] is not None and tuple(value) == tuple(attr["default"])
    return value == attr["default"]


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_function_is_documented(name):
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    assert text.split("\n")[0].endswith((".", ":")), "the first line is a sentence or a formula"
    for part in ("Args:", "Returns:"):
        assert part in text, f"the docstring has no {part}"
    for parameter in inspect.signature(FUNCTIONS[name]).parameters:
        assert parameter in text, f"the docstring does not name {parameter}"


@pytest.mark.parametrize("name", ["lamina", *MODULES])
def test_examples(name):
    module = importlib.import_module(name)
    results = doctest.testmod(module, extraglobs=NAMESPACE, optionflags=doctest.ELLIPSIS)
    assert results.failed == 0
