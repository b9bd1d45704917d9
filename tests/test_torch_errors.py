"""What goes wrong inside PyTorch raises Lamina's message, for every op and way of a call: eager, with gradients, as the
registered op, and on tensors without data. No gradient is lost silently, no memory is read that holds no elements."""

import contextlib
import re

import pytest

from cases import all_cases, materialise
from harness import as_tuple

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
ops = pytest.importorskip("lamina.torch.ops", reason="PyTorch is older than 2.10")
from torch._subclasses import FakeTensorMode  # noqa: E402

import lamina  # noqa: E402
import lamina.torch.functional as F  # noqa: E402
from test_torch_equivalents import Registered  # noqa: E402
from test_torch_ops import to_torch  # noqa: E402
from test_torch_transforms import calls_of, first_samples, requiring_grad, with_tensors  # noqa: E402

WAYS = ("eager", "with gradients", "registered", "without data")
ERRORS = [
    pytest.param(case, error, id=f"{case.op}-{error.name}")
    for case in all_cases()
    if case.op in F.__all__
    for error in case.errors
]


def call(way, function, args, **attrs):
    with contextlib.ExitStack() as stack:
        if way == "with gradients":
            args = with_tensors(args, requiring_grad)
        elif way == "registered":
            stack.enter_context(Registered())
        elif way == "without data":
            args = with_tensors(args, stack.enter_context(FakeTensorMode()).from_tensor)
        return function(*args, **attrs)


def tensors_of(args):
    for a in args:
        if isinstance(a, (list, tuple)):
            yield from tensors_of(a)
        elif isinstance(a, torch.Tensor):
            yield a


def public_calls(case, sample, dtype):
    """The calls that a function makes: name, what the public functions call, and the positional arguments."""
    for op, args in calls_of(case, sample, dtype):
        name = op._schema.name.removeprefix("lamina::")
        record = ops.RECORDS[name]
        yield name, vars(F._C)[name], args[: len(record["inputs"]) + len(record["attrs"])]


def with_one_changed(args, position, change):
    """The arguments with one of the tensors changed."""
    wanted = list(tensors_of(args))[position]
    return with_tensors(args, lambda x: change(x) if x is wanted else x)


@pytest.mark.parametrize(("case", "error"), ERRORS)
def test_wrong_operands_raise_lamina_s_message(case, error):
    for way in WAYS:
        args = to_torch(materialise(case, error, case.dtypes[0]))
        if way == "without data" and (error.is_cpu_only or error.text.startswith("lengths go")):
            continue  # values tell it
        if way == "registered" and not list(tensors_of(args)):
            continue  # PyTorch's dispatcher needs a tensor
        with pytest.raises(error.type) as raised:
            call(way, getattr(F, case.op), args, **error.attrs)
        message = str(raised.value)
        assert error.text in message, way
        assert re.fullmatch(rf"{case.op}: .+(; .+|\(.+\))", message, re.DOTALL), message


UNREADABLE = {
    "complex64": lambda x: x.to(torch.complex64),
    "float8_e5m2": lambda x: x.to(torch.float8_e5m2),
    "with 9 axes": lambda x: x.expand([1] * (9 - x.ndim) + [*x.shape]),
}


@pytest.mark.parametrize(("case", "sample", "dtype"), first_samples())
def test_operands_that_no_op_takes_are_named(case, sample, dtype):
    for name, function, args in public_calls(case, sample, dtype):
        for position in range(len(list(tensors_of(args)))):
            for what, change in UNREADABLE.items():
                changed = with_one_changed(args, position, change)
                message = rf"^{name}: \w+ is a tensor of .*{what}.*; expected at most 8"
                for way in WAYS:
                    with pytest.raises(TypeError, match=message):
                        call(way, function, changed)


@pytest.mark.parametrize(("case", "sample", "dtype"), first_samples())
def test_operands_on_two_devices_are_named(case, sample, dtype):
    for name, function, args in public_calls(case, sample, dtype):
        for position in range(len(list(tensors_of(args)))) if len(list(tensors_of(args))) > 1 else ():
            changed = with_one_changed(args, position, lambda x: x.to("meta"))
            for way in WAYS:
                message = rf"^{name}: \w+ is on (cpu but \w+ is on meta|meta but \w+ is on cpu); expected one device"
                with pytest.raises(RuntimeError, match=message):
                    call(way, function, changed)


@pytest.mark.parametrize(("case", "sample", "dtype"), first_samples())
def test_no_gradient_is_lost_silently(case, sample, dtype):
    """A bare op refuses operands that require gradients; what the public functions call records them."""
    for name, function, args in public_calls(case, sample, dtype):
        bare = getattr(torch.ops.lamina, name)
        asking = with_tensors(args, requiring_grad)
        has_gradient = ops.RECORDS[name]["differentiable"] and any(x.requires_grad for x in tensors_of(asking))
        if has_gradient:
            with pytest.raises(RuntimeError, match=rf"^{name}: .+; call lamina\.torch\.functional\.{name}$"):
                bare(*asking)
        for way in ("eager", "registered"):
            outputs = as_tuple(call(way, function, asking))
            assert any(y.requires_grad for y in outputs if y.is_floating_point()) == has_gradient, f"{name}, {way}"


def test_what_is_no_tensor_is_named():
    with pytest.raises(TypeError, match=r"matmul: b is a list; expected a torch\.Tensor"):
        F.matmul(torch.zeros(3, 3), [1.0])
    with pytest.raises(TypeError, match=r"add: expected a torch\.Tensor among the operands, not float, int"):
        F.add(1.0, 2)


# --- tensors whose memory does not hold their elements --------------------------------------------------------------


def negated(shape):
    """Imaginary parts of conjugated numbers: PyTorch leaves the memory as it is, and marks the view."""
    x = torch.randn(shape, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    return x


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4), (2, 3, 1)])
def test_negated_views_are_negated(shape):
    x = negated(shape)
    torch.testing.assert_close(F.exp(x), torch.exp(x))
    torch.testing.assert_close(F.sub(x[..., None], 1.0), x[..., None] - 1.0)
    torch.testing.assert_close(lamina.functional.exp(x), torch.exp(x))
    leaf = x.detach().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(F.exp(leaf).sum(), leaf)[0], torch.exp(x))
    y = torch.randn(shape, requires_grad=True)
    torch.testing.assert_close(torch.autograd.grad(F.exp(y), y, x)[0], torch.exp(y) * x)  # as a gradient that arrives


def test_zeros_without_memory_are_zeros():
    zeros = torch._efficientzerotensor(3)
    assert F.exp(zeros).tolist() == [1, 1, 1]
    y = torch.randn(3, requires_grad=True)
    assert torch.autograd.grad(F.exp(y), y, zeros)[0].tolist() == [0, 0, 0]


def test_a_storage_without_memory_is_refused():
    x = torch.randn(1000)
    x.untyped_storage().resize_(0)
    with pytest.raises(TypeError, match=r"exp: x is a tensor of torch\.float32"):
        F.exp(x)
