"""Lamina's ops under PyTorch's compiler, its function transforms, autocast, and its own checks of custom ops."""

import numpy as np
import pytest

from cases import materialise
from harness import as_tuple, samples
from test_torch_ops import to_torch

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
ops = pytest.importorskip("lamina.torch.ops", reason="PyTorch is older than 2.10")
from torch.autograd import forward_ad  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import lamina.torch.functional as F  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # PyTorch's compiler warns of itself
functional = torch.nn.functional


# --- the compiler --------------------------------------------------------------------------------------------------


def block(x, weight, bias):
    return F.softmax(F.linear(F.relu(F.conv2d(x, weight, bias, padding=1)).mean((2, 3)), torch.eye(4)), dim=-1)


def training_block(x, weight, bias, running_mean, running_var):
    """Ops that update a state."""
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training=True)
    return F.dropout(F.relu(y), p=0.5)


def recurrent(x, *weights):
    return F.lstm(x, weights, num_layers=2, dropout=0.2)[0]


def operands_of(function):
    torch.manual_seed(0)
    if function is block:
        return torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(4, requires_grad=True)
    if function is training_block:
        weights = (torch.rand(3, requires_grad=True), torch.randn(3, requires_grad=True))
        return torch.randn(4, 3, 5, 5, requires_grad=True), *weights, torch.zeros(3), torch.ones(3)
    return torch.randn(5, 2, 3), *torch.nn.LSTM(3, 4, num_layers=2).parameters()


def outcome(function, operands):
    """The result, the gradients, and what the operands have become."""
    torch.manual_seed(1)
    y = function(*operands)
    wrt = [t for t in operands if t.requires_grad]
    return y, torch.autograd.grad(y, wrt, torch.ones_like(y).cumsum(0)), operands


@pytest.mark.parametrize("function", [block, training_block, recurrent])
def test_the_compiler_sees_through(function):
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(outcome(compiled, operands_of(function)), outcome(function, operands_of(function)))


@pytest.mark.slow
@pytest.mark.parametrize("function", [block, recurrent])
def test_inductor_compiles(function):
    compiled = torch.compile(function, fullgraph=True, options={"fallback_random": True})  # states as eager draws them
    torch.testing.assert_close(outcome(compiled, operands_of(function)), outcome(function, operands_of(function)))


def test_export():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4)

        def forward(self, x):
            y = F.linear(x, self.linear.weight, self.linear.bias, activation="gelu")
            norm = self.norm
            return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    model, x = Model().eval(), torch.randn(3, 6)
    program = torch.export.export(model, (x,))
    assert "lamina.linear.default" in {str(n.target) for n in program.graph.nodes}
    torch.testing.assert_close(program.module()(x), model(x))


# --- function transforms -------------------------------------------------------------------------------------------


def test_grad_and_jacrev():
    x, weight, bias = (t.detach() for t in operands_of(block))
    w = weight.clone().requires_grad_()
    want = torch.autograd.grad(block(x, w, bias).square().sum(), w)[0]
    torch.testing.assert_close(torch.func.grad(lambda w: block(x, w, bias).square().sum())(weight), want)
    a, b = torch.randn(3, 4), torch.randn(4, 2)
    want = torch.func.jacrev(lambda a: torch.tanh(a @ b))(a)
    torch.testing.assert_close(torch.func.jacrev(lambda a: F.tanh(F.matmul(a, b)))(a), want)


@pytest.mark.parametrize(
    ("ours", "theirs", "shapes", "in_dims"),
    [
        (F.add, torch.add, [(3, 4, 5), (3, 5)], (0, 0)),
        (F.mul, torch.mul, [(4, 3, 5), (5,)], (1, None)),
        (F.relu, torch.relu, [(2, 3)], -1),
        (F.matmul, torch.matmul, [(3, 4, 5), (5, 2)], (0, None)),
        (F.matmul, torch.matmul, [(4, 5), (2, 5, 3, 6)], (None, 2)),
        (F.matmul, torch.matmul, [(3, 5), (5, 2)], (0, None)),
        (lambda x: F.softmax(x, dim=-1), lambda x: torch.softmax(x, -1), [(3, 4, 5)], 1),
        (lambda x: F.sum(x, dim=0), lambda x: torch.sum(x, 0), [(3, 4, 5)], 2),
        (lambda *xs: F.concat(xs), lambda *xs: torch.cat(xs), [(3, 4), (2, 3)], (0, 1)),
        (F.conv2d, functional.conv2d, [(2, 1, 3, 5, 5), (2, 4, 3, 3, 3)], 0),
        (F.linear, functional.linear, [(3, 4, 5), (6, 5), (6,)], (0, None, None)),
    ],
    ids=["add", "mul", "relu", "matmul", "matmul batches", "vectors", "softmax", "sum", "concat", "conv2d", "linear"],
)
def test_vmap(ours, theirs, shapes, in_dims):
    xs = [torch.randn(shape) for shape in shapes]
    want = torch.func.vmap(theirs, in_dims)(*xs)
    torch.testing.assert_close(torch.func.vmap(ours, in_dims)(*xs), want, rtol=1e-5, atol=1e-5)
    gradient = [
        torch.func.vmap(torch.func.grad(lambda *xs, f=f: f(*xs).square().sum()), in_dims)(*xs) for f in (ours, theirs)
    ]
    torch.testing.assert_close(*gradient, rtol=1e-4, atol=1e-4)


def test_nested_vmap():
    a, b = torch.randn(2, 3, 4), torch.randn(5, 4)
    outer = [torch.func.vmap(torch.func.vmap(f, (0, None)), (None, 0))(a, b) for f in (F.mul, torch.mul)]
    torch.testing.assert_close(*outer)


def test_what_is_no_first_reverse_derivative_raises():
    x = torch.randn(3)

    def f(x):
        return F.tanh(x).sum() + x.square().sum()

    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(f, (x,), (torch.ones(3),))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        F.tanh(forward_ad.make_dual(x, torch.ones(3)))
    with pytest.raises(RuntimeError, match="tanh: differentiated twice; expected first derivatives"):
        torch.func.jacrev(torch.func.grad(f))(x)


# --- autocast ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "shapes", "dtype"),
    [
        (F.matmul, torch.matmul, [(3, 8), (8, 4)], torch.bfloat16),
        (F.linear, functional.linear, [(3, 8), (4, 8), (4,)], torch.bfloat16),
        (F.conv2d, functional.conv2d, [(2, 3, 6, 6), (4, 3, 3, 3), (4,)], torch.bfloat16),
        (lambda x: F.softmax(x.bfloat16(), dim=-1), lambda x: torch.softmax(x, -1), [(3, 8)], torch.float32),
        (lambda x, t: F.mse_loss(x.bfloat16(), t), functional.mse_loss, [(3, 8), (3, 8)], torch.float32),
        (lambda x, t: F.concat([x.bfloat16(), t]), lambda *xs: torch.cat(xs), [(3, 8), (2, 8)], torch.float32),
        (F.add, torch.add, [(3, 8), (8,)], torch.float32),
    ],
    ids=["matmul", "linear", "conv2d", "softmax", "mse_loss", "concat", "add"],
)
def test_autocast(ours, theirs, shapes, dtype):
    torch.manual_seed(0)
    results = []
    for function in (ours, theirs):
        torch.manual_seed(1)
        xs = [torch.randn(shape, requires_grad=True) for shape in shapes]
        with torch.autocast("cpu", torch.bfloat16):
            y = function(*xs)
        if function is ours:
            assert y.dtype == dtype
        results.append((y.float(), *torch.autograd.grad(y.float().square().sum(), xs)))
    for y, want in zip(*results, strict=True):  # both round to 8 bits, in products of different order
        assert torch.linalg.vector_norm(y - want) < 2e-2 * torch.linalg.vector_norm(want)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        torch.testing.assert_close(ours(*xs).float(), results[0][0])


def test_autocast_of_the_registered_op():
    x, w = torch.randn(3, 8), torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.ops.lamina.linear(x, w, None, None)[0].dtype == torch.bfloat16
        assert torch.ops.lamina.softmax(x.bfloat16()).dtype == torch.float32
        assert F.linear(x.double(), w.double()).dtype == torch.float64
        compiled = torch.compile(F.linear, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, w), F.linear(x, w))


# --- PyTorch's checks ----------------------------------------------------------------------------------------------


class Calls(TorchDispatchMode):
    """The registered ops that are called, with their arguments."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "lamina":
            self.found.append((function, args))
        return function(*args, **(kwargs or {}))


def as_list(value):
    return value if isinstance(value, list) else [value]


def first_samples(dtype="float32", *, is_empty=False):
    """One sample of every op, the smallest; with or without an operand that has an axis of extent 0."""
    chosen = {}
    for p in samples():
        case, sample, its_dtype = p.values
        sizes = [np.size(x) for given in materialise(*p.values) for x in as_list(given) if x is not None]
        if its_dtype == dtype and case.op in F.__all__ and not sample.is_slow and (0 in sizes) == is_empty:
            chosen[case.op] = min(chosen.get(case.op, (sum(sizes), p)), (sum(sizes), p), key=lambda found: found[0])
    return [
        pytest.param(*p.values, id=f"{name}-{'empty' if is_empty else dtype}")
        for name, (_, p) in sorted(chosen.items())
    ]


def calls_of(case, sample, dtype):
    with Calls() as calls:
        getattr(F, case.op)(*to_torch(materialise(case, sample, dtype)), **sample.attrs)
    return calls.found


def vjp_calls_of(case, sample, dtype):
    """The calls of registered gradients, of all floating operands."""
    args = with_tensors(to_torch(materialise(case, sample, dtype)), requiring_grad)
    with Calls() as calls:
        ys = [y for y in as_tuple(getattr(F, case.op)(*args, **sample.attrs)) if y.requires_grad]
        if ys:
            torch.autograd.backward(ys, [torch.ones_like(y) for y in ys])
    return [(op, args) for op, args in calls.found if op._schema.name.endswith("_vjp")]


def with_tensors(args, change):
    if isinstance(args, (list, tuple)):
        return type(args)(with_tensors(a, change) for a in args)
    return change(args) if isinstance(args, torch.Tensor) else args


def strided(x):
    return torch.stack([x, x], -1)[..., 0]


def expanded(x):
    return x[:1].expand_as(x) if x.ndim and len(x) else x


def requiring_grad(x):
    return x.detach().clone().requires_grad_(x.is_floating_point())


def has_gradient(op):
    return hasattr(torch.ops.lamina, f"{op._schema.name.removeprefix('lamina::')}_vjp")


def results_of(op, args):
    """What the op gives, but for what only its backward pass reads: that need not be written as a whole."""
    named = zip(ops.RECORDS[op._schema.name.removeprefix("lamina::")]["outputs"], as_tuple(op(*args)), strict=False)
    return [y for name, y in named if name != "reserve"]


CHANGES = {"as it is": lambda x: x, "strided": strided, "expanded": expanded}


@pytest.mark.parametrize(("case", "sample", "dtype"), first_samples())
def test_layouts_do_not_matter(case, sample, dtype):
    """Operands of other strides give what their contiguous copies give: called, registered, and backwards."""
    for op, args in calls_of(case, sample, dtype):
        for name, change in CHANGES.items():
            changed = with_tensors(args, change)
            dense = with_tensors(changed, lambda x: x.clone(memory_format=torch.contiguous_format))
            close = {
                "rtol": 1e-5,
                "atol": 1e-6,
                "equal_nan": True,
                "msg": lambda text, name=name, op=op: f"{op}, {name}: {text}",
            }
            torch.testing.assert_close(results_of(op, changed), results_of(op, dense), **close)
            results = []
            for operands in (changed, dense) if has_gradient(op) else ():
                leaves = []

                def leaf(x, leaves=leaves):
                    if not x.is_floating_point():
                        return x
                    leaves.append(x.detach().requires_grad_())
                    return leaves[-1]

                ys = [y for y in as_tuple(op(*with_tensors(operands, leaf))) if y.requires_grad and y.numel()]
                if ys:
                    dys = [torch.ones_like(y) for y in ys]
                    results.append(torch.autograd.grad(ys, leaves, dys, allow_unused=True))
            if results:
                torch.testing.assert_close(*results, **close)


QUICK_CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")
CHECKED = [*first_samples(), *first_samples("bfloat16"), *first_samples(is_empty=True)]


@pytest.mark.parametrize(("case", "sample", "dtype"), CHECKED)
def test_registered_ops_pass_pytorch_s_quick_checks(case, sample, dtype):
    for op, args in calls_of(case, sample, dtype):
        torch.library.opcheck(op, with_tensors(args, requiring_grad), test_utils=QUICK_CHECKS)
    for op, args in vjp_calls_of(case, sample, dtype):
        torch.library.opcheck(op, with_tensors(args, torch.Tensor.detach), test_utils=QUICK_CHECKS)


def test_every_registered_op_is_checked():
    checked = {op._schema.name for p in CHECKED for of in (calls_of, vjp_calls_of) for op, _ in of(*p.values)}
    registered = {*ops.NAMES, *(f"{name}_vjp" for name in ops.NAMES if ops.RECORDS[name]["differentiable"])}
    assert checked == {f"lamina::{name}" for name in registered}


@pytest.mark.slow
@pytest.mark.parametrize(("case", "sample", "dtype"), CHECKED)
def test_every_registered_op_passes_pytorch_s_checks(case, sample, dtype):
    for op, args in calls_of(case, sample, dtype):
        # The last check compares all outputs, and NaN (the variance of one number) with itself as unequal. What an LSTM
        # reserves for its backward pass is not written as a whole.
        is_comparable = not case.op.startswith("lstm") and not any(y.isnan().any() for y in as_tuple(op(*args)))
        checks = (*QUICK_CHECKS, *["test_aot_dispatch_dynamic"] * is_comparable)
        for change in (*CHANGES.values(), requiring_grad):
            changed = with_tensors(args, lambda x, change=change: change(x) if x.is_floating_point() else x)
            torch.library.opcheck(op, changed, test_utils=checks)
