"""Lamina's ops inside PyTorch: the cases give what they give on Lamina's own tensors, gradients too. What PyTorch's
compiler, transforms and checks make of them is in test_torch_transforms.py."""

import shutil
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from cases import materialise
from harness import as_tuple, assert_same_bits, call, differentiable_inputs, label, samples, tape_vjp

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
ops = pytest.importorskip("lamina.torch.ops", reason="PyTorch is older than 2.10")
import lamina.torch.functional as F  # noqa: E402


def float32_first(parameters):
    """The parameters, other dtypes than float32 marked slow."""
    for p in parameters:
        marks = [*p.marks, *[pytest.mark.slow] * (p.values[2] != "float32")]
        yield pytest.param(*p.values, id=p.id, marks=marks)


HERE = [p for p in samples() if p.values[0].op in F.__all__]
VALUES = list(float32_first(HERE))
WITH_GRADIENT = list(float32_first(p for p in HERE if differentiable_inputs(p.values[0], p.values[1])))


def to_torch(value):
    if isinstance(value, list):
        return [to_torch(v) for v in value]
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.name == "bfloat16":
        return to_torch(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value if all(s >= 0 for s in value.strides) else value.copy())


def to_numpy(y):
    y = y.detach()
    return y.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if y.dtype == torch.bfloat16 else y.numpy()


@pytest.mark.parametrize(("case", "sample", "dtype"), VALUES)
def test_an_op_gives_what_it_gives_on_own_tensors(case, sample, dtype):
    want = call(case, materialise(case, sample, dtype), sample.attrs)
    inputs = to_torch(materialise(case, sample, dtype))
    got = as_tuple(getattr(F, case.op)(*inputs, **sample.attrs))
    got = [to_numpy(y) for y in (*got, *(inputs[i] for i in case.mutates))]
    for i, (y, own) in enumerate(zip(got, want, strict=True)):
        assert_same_bits(y, own, f"{label(case, sample, dtype)}, output {i}")


@pytest.mark.parametrize(("case", "sample", "dtype"), WITH_GRADIENT)
def test_gradients_are_those_of_the_tape(case, sample, dtype, rng):
    inputs = materialise(case, sample, dtype)
    wrt = [i for i in differentiable_inputs(case, sample) if isinstance(inputs[i], np.ndarray)]
    if not wrt:
        pytest.skip("the operands are a list")
    tensors = to_torch(materialise(case, sample, dtype))
    for i in wrt:
        tensors[i].requires_grad_()
    outputs = as_tuple(getattr(F, case.op)(*tensors, **sample.attrs))
    dys = [rng.standard_normal(y.shape).astype(to_numpy(y).dtype) if y.requires_grad else None for y in outputs]
    if all(dy is None for dy in dys):
        pytest.skip("no output has a gradient")
    used = [(y, to_torch(dy)) for y, dy in zip(outputs, dys, strict=True) if dy is not None]
    got = torch.autograd.grad(
        [y for y, _ in used], [tensors[i] for i in wrt], [dy for _, dy in used], allow_unused=True
    )
    want = tape_vjp(case, inputs, sample.attrs, wrt, dys)
    for i, g, own in zip(wrt, got, want, strict=True):
        g = np.zeros_like(own) if g is None else to_numpy(g)
        assert_same_bits(g, own, f"{label(case, sample, dtype)}, input {i}")


def test_second_derivatives_raise():
    x = torch.randn(3, requires_grad=True)
    (dx,) = torch.autograd.grad(F.tanh(x).sum() + x.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="tanh: differentiated twice; expected first derivatives"):
        dx.sum().backward()


def test_gradients_share_no_memory():
    sizes = {"x": (2, 3), "h": (2, 4), "c": (2, 4), "w": (16, 3), "v": (16, 4), "bias_ih": (16,), "bias_hh": (16,)}
    operands = [torch.randn(size, requires_grad=True) for size in sizes.values()]
    F.lstm_cell(*operands)[0].sum().backward()
    a, b = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    dy = torch.ones(3)
    F.add(a, b).backward(dy)
    gradients = [t.grad for t in (*operands, a, b)] + [dy]
    assert len({g.data_ptr() for g in gradients}) == len(gradients)


def test_what_the_gradient_does_not_read_may_change():
    x, w = torch.randn(3, 3, requires_grad=True), torch.randn(3, 3, requires_grad=True)
    a, b = -x, -w
    y = F.add(a, b)
    a.mul_(2)
    y.sum().backward()
    torch.testing.assert_close(x.grad, -torch.ones(3, 3))
    y = F.matmul(-x, b)
    b.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("other", [2, 2.5, True, torch.tensor(1.5), torch.tensor([3, 4]), torch.tensor(2.0).bfloat16()])
def test_operands_meet_in_one_dtype(dtype, other):
    x = torch.tensor([1.0, 2.0]).to(dtype)
    want = x.double() * other
    y = F.mul(x, other)
    torch.testing.assert_close(y.double(), want.double())
    if not dtype.is_floating_point:
        return
    x.requires_grad_()
    other = other.requires_grad_() if isinstance(other, torch.Tensor) and other.is_floating_point() else other
    F.mul(x, other).sum().backward()
    assert x.grad.dtype == dtype
    torch.testing.assert_close(x.grad.double(), torch.ones(2, dtype=torch.float64) * other)
    if isinstance(other, torch.Tensor) and other.requires_grad:
        assert other.grad == 3
        assert other.grad.dtype == other.dtype
        other.grad, other.requires_grad = None, False


def test_only_what_asks_for_a_gradient_records():
    x = torch.randn(3, requires_grad=True)
    assert F.relu(x).requires_grad
    assert F.relu(torch.nn.Parameter(torch.ones(2))).requires_grad
    assert not F.relu(x.detach()).requires_grad
    assert not F.sign(x.detach()).requires_grad
    with torch.no_grad():
        assert not F.relu(x).requires_grad
    with torch.inference_mode():
        assert not F.relu(x).requires_grad
    values, indices = F.max_pool2d(torch.randn(1, 1, 4, 4, requires_grad=True), kernel_size=2, return_indices=True)
    assert values.requires_grad
    assert not indices.requires_grad


def test_subclasses_and_modes_see_the_registered_op():
    from torch._subclasses import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        seen = ()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen = (*self.seen, str(function))
            return function(*args, **(kwargs or {}))

    x = torch.randn(3, 4)
    with Names() as names:
        torch.testing.assert_close(F.softmax(x), torch.softmax(x, -1))
    assert "lamina.softmax.default" in names.seen

    class Named(torch.Tensor):
        pass

    assert isinstance(F.softmax(x.as_subclass(Named)), torch.Tensor)
    with FakeTensorMode():
        y = F.matmul(torch.empty(3, 4), torch.empty(4, 3, requires_grad=True))
    assert y.shape == (3, 3)
    assert y.requires_grad
    assert F.matmul(x.to("meta"), torch.empty(4, 5, device="meta")).shape == (3, 5)


def test_short_and_channels_last_tensors():
    x = torch.randn(2, 16, 9, 9).to(memory_format=torch.channels_last).to(torch.bfloat16)
    w = torch.randn(8, 16, 3, 3).to(torch.bfloat16)
    y = F.conv2d(x, w)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), torch.nn.functional.conv2d(x.float(), w.float()), rtol=2e-2, atol=5e-2)


def test_an_open_tape_of_lamina_asks_for_nothing():
    """Its taps are what max_pool2d keeps for a backward pass; the op that is registered says that there are none."""
    import lamina

    x = torch.randn(1, 2, 4, 4)
    with lamina.Tape():
        _, taps, *_ = torch.ops.lamina.max_pool2d(x)
    assert taps.numel() == 0


def test_memory_is_flat():
    import lamina

    x = torch.randn(64, 64, requires_grad=True)
    F.softmax(x, dim=-1).sum().backward()
    before = lamina.memory_stats()["bytes_in_use"]
    for _ in range(1000):
        x.grad = None
        F.softmax(x, dim=-1).sum().backward()
    assert lamina.memory_stats()["bytes_in_use"] == before


def test_pytorch_s_generator_decides_what_is_dropped():
    x = torch.ones(4000)
    torch.manual_seed(3)
    first, second = F.dropout(x), F.dropout(x)
    assert not torch.equal(first, second)
    assert 0.4 < (first == 0).float().mean() < 0.6
    torch.manual_seed(3)
    torch.testing.assert_close(F.dropout(x), first)


def test_checkpointing_draws_the_same_numbers_again():
    x = torch.ones(1000, requires_grad=True)
    y = torch.utils.checkpoint.checkpoint(lambda x: F.dropout(x * x, p=0.3), x, use_reentrant=False)
    y.sum().backward()
    torch.testing.assert_close(x.grad, 2 * y.detach())


SAME_FIELDS = {  # own declaration and its fields -> those of the header that PyTorch ships
    "Version": ("DLPackVersion", {"major": "major", "minor": "minor"}),
    "Device": ("DLDevice", {"type": "device_type", "id": "device_id"}),
    "DataType": ("DLDataType", {"code": "code", "bits": "bits", "lanes": "lanes"}),
    "Tensor": (
        "DLTensor",
        {n: n for n in ("data", "device", "ndim", "dtype", "shape", "strides", "byte_offset")},
    ),
    "Managed": ("DLManagedTensor", {"tensor": "dl_tensor", "context": "manager_ctx", "deleter": "deleter"}),
    "ManagedVersioned": (
        "DLManagedTensorVersioned",
        {"version": "version", "context": "manager_ctx", "deleter": "deleter", "flags": "flags", "tensor": "dl_tensor"},
    ),
    "ExchangeApi": (
        "DLPackExchangeAPI",
        {
            "version": "header.version",
            "previous": "header.prev_api",
            "allocate": "managed_tensor_allocator",
            "managed_from_object": "managed_tensor_from_py_object_no_sync",
            "object_from_managed": "managed_tensor_to_py_object_no_sync",
            "view_of_object": "dltensor_from_py_object_no_sync",
            "current_stream": "current_work_stream",
        },
    ),
}
SAME_VALUES = {
    "flag_read_only": "DLPACK_FLAG_BITMASK_READ_ONLY",
    "flag_is_copied": "DLPACK_FLAG_BITMASK_IS_COPIED",
    "device_cpu": "kDLCPU",
    "device_cuda": "kDLCUDA",
    "code_int": "kDLInt",
    "code_uint": "kDLUInt",
    "code_float": "kDLFloat",
    "code_bfloat": "kDLBfloat",
    "code_bool": "kDLBool",
}


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_own_declarations_of_dlpack_are_those_of_pytorch_s_header(tmp_path):
    asserts = [f"sizeof(dlpack::{own}) == sizeof({their})" for own, (their, _) in SAME_FIELDS.items()]
    asserts += [
        f"offsetof(dlpack::{own}, {field}) == offsetof({their}, {their_field})"
        for own, (their, fields) in SAME_FIELDS.items()
        for field, their_field in fields.items()
    ]
    asserts += [f"dlpack::{own} == {their}" for own, their in SAME_VALUES.items()]
    source = tmp_path / "check.cpp"
    headers = ["<cstddef>", "<ATen/dlpack.h>", '"interop/dlpack.h"']
    lines = [f"#include {header}" for header in headers] + ["using namespace lamina;"]
    source.write_text("\n".join([*lines, *(f'static_assert({a}, "{a}");' for a in asserts), ""]))
    includes = ["-I", Path(torch.__file__).parent / "include", "-I", Path(__file__).parent.parent / "csrc"]
    command = ["g++", "-std=c++20", "-fsyntax-only", "-Wno-invalid-offsetof", *includes, source]
    subprocess.run(command, check=True)
