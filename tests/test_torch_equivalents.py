"""Lamina's ops against PyTorch's own: values and gradients of every op that PyTorch has, too, called eagerly and as the
registered op, in float32 and bfloat16, in all memory layouts, and with axes of extent 0.

PyTorch's op stands in the case for the NumPy reference, so that truth and tolerance are those of harness.py. The
default run takes the sharpest sample of every op and an empty one, `pytest -m slow` the others.
"""

import contextlib
import dataclasses
import inspect

import numpy as np
import pytest

from cases import lay_out, materialise
from harness import Expected, as_tuple, assert_same_bits, compare, expected, expected_gradients, label, samples
from test_torch_ops import to_numpy, to_torch
from test_values import layouts_of

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
ops = pytest.importorskip("lamina.torch.ops", reason="PyTorch is older than 2.10")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import lamina  # noqa: E402
import lamina.torch.functional as F  # noqa: E402

functional = torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch warns of its own ops

# --- PyTorch's ops ---------------------------------------------------------------------------------------------------

OWN_NUMBERS = "draws its own random numbers from the state that it is given"
WITHOUT_EQUIVALENT = dict.fromkeys(
    ("uniform", "normal", "randint", "bernoulli", "randperm", "dropout", "dropout2d"), OWN_NUMBERS
)


def slice_(x, starts, sizes, steps, squeeze):
    for axis, (start, size, step) in enumerate(zip(starts, sizes, steps, strict=True)):
        x = x.index_select(axis, start + step * torch.arange(size))
    return x.reshape([n for i, n in enumerate(sizes) if i not in squeeze])


def reduction(theirs):
    """PyTorch reduces all axes where it is told none."""

    def reduce(x, dim, **more):
        return theirs(x[..., None], dim=-1, **{**more, "keepdim": False}) if dim == () else theirs(x, dim=dim, **more)

    return reduce


def extreme(theirs):
    return reduction(lambda x, dim, keepdim: theirs(x, () if dim is None else dim, keepdim))


def prod(x, dim, keepdim):
    axes = sorted({d % x.ndim for d in (range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim)})
    for axis in reversed(axes):
        x = torch.prod(x, axis, keepdim)
    return x


def pad(x, padding, mode, value):
    if mode == "constant":
        return functional.pad(x, padding, mode, value)
    return functional.pad(x, padding, mode) if x.ndim > 2 else functional.pad(x[None], padding, mode)[0]


def padded(x, padding):
    """With a margin of (top, bottom, left, right), cropped where that is negative."""
    top, bottom, left, right = padding
    return functional.pad(x, (left, right, top, bottom))


def has_a_number_per_side(padding):
    return not isinstance(padding, (int, str)) and len(padding) == 4


def conv2d(x, weight, bias, *, padding, **more):
    if not x.shape[1]:  # sums of nothing, for which PyTorch gives no channels: one of zeros adds nothing
        x, weight = (functional.pad(t, (0, 0, 0, 0, 0, 1)) for t in (x, weight))
    if has_a_number_per_side(padding):
        x, padding = padded(x, padding), 0
    return functional.conv2d(x, weight, bias, padding=padding, **more)


def conv_transpose2d(x, weight, bias, *, padding, **more):
    if has_a_number_per_side(padding):
        return padded(functional.conv_transpose2d(x, weight, bias, **more), [-p for p in padding])
    return functional.conv_transpose2d(x, weight, bias, padding=padding, **more)


def batch_norm(x, mean, var, weight, bias, batches, *, training, momentum, eps):
    if training and batches is not None:
        batches += 1
    momentum = 1 / batches.item() if momentum is None else momentum
    return functional.batch_norm(x, mean, var, weight, bias, training, momentum, eps)


def of_rows(theirs):
    """A normalisation whose shape may be an integer."""

    def normalise(x, *parameters, normalized_shape, eps):
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        return theirs(x, shape, *parameters, eps)

    return normalise


def of_numbers(theirs):
    return lambda x, **more: theirs(x.byte() if x.dtype == torch.bool else x, **more)


def lstm_cell(x, h, c, *weights):
    return torch.lstm_cell(x, (h, c), *weights)


def lstm_layer(x, w, v, b, d, h0, c0, lengths, w_r, v_r, b_r, d_r, *, batch_first):
    weights = [t for t in (w, v, b, d, w_r, v_r, b_r, d_r) if t is not None]
    return lstm(x, weights, h0, c0, lengths, num_layers=1, bidirectional=w_r is not None, batch_first=batch_first)


def lstm(x, weights, h0, c0, lengths, *, num_layers, bidirectional, batch_first, dropout=0.0):
    batch, hidden = x.shape[0 if batch_first else 1], weights[1].shape[1]
    zeros = x.new_zeros(num_layers * (1 + bidirectional), batch, hidden)
    states = (zeros, zeros) if h0 is None else (h0, c0)
    has_biases = weights[2 % len(weights)].ndim == 1
    options = has_biases, num_layers, dropout, torch.is_grad_enabled(), bidirectional
    if lengths is None:
        return torch.lstm(x, states, weights, *options, batch_first)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
    order = packed.sorted_indices
    states = [s[:, order] for s in states]
    y, *last = torch.lstm(packed.data, packed.batch_sizes, states, weights, *options)
    packed = packed._replace(data=y)
    steps = x.shape[1 if batch_first else 0]
    y, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first, total_length=steps)
    return y, *(s[:, packed.unsorted_indices] for s in last)


def matmul(a, b, *, transpose_a, transpose_b):
    return (a.mT if transpose_a else a) @ (b.mT if transpose_b else b)


def gemm(a, b, c, *, alpha, beta, **transposes):
    y = alpha * matmul(a, b, **transposes)
    return y if c is None else y + beta * c


def linear(x, weight, bias, residual, *, activation):
    y = functional.linear(x, weight, bias)
    y = y if activation == "none" else getattr(functional, activation)(y)
    return y if residual is None else y + residual


def group_norm(x, weight, bias, num_groups, eps):
    if weight is None and bias is not None:  # PyTorch's backward fails
        weight = torch.ones_like(bias)
    return functional.group_norm(x, num_groups, weight, bias, eps)


def attention(query, key, value, mask, state, *, is_causal, **more):
    mask = None if mask is None else torch.atleast_2d(mask)  # PyTorch refuses one of a single axis
    if is_causal and mask is not None:  # PyTorch takes one of them where there are gradients
        mask = mask.expand(query.shape[-2], key.shape[-2])
        mask, is_causal = mask + torch.full_like(mask, -torch.inf).triu(1), False
    return functional.scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal, **more)


def with_long_labels(name):
    """A loss of labels, which PyTorch wants as int64."""
    theirs = getattr(functional, name)
    return lambda x, target, weight, **more: theirs(
        x, target if target.is_floating_point() else target.long(), weight, **more
    )


# Where a name or an argument differs; the others are found by name, in `torch.nn.functional` or `torch`.
THEIRS = {
    "contiguous": torch.clone,
    "channels_last": lambda x: x.clone(memory_format=torch.channels_last),
    "fill_like": lambda x, value, dtype: torch.full_like(x, value, dtype=dtype),
    "squeeze": lambda x, dim: torch.squeeze(x) if dim is None else torch.squeeze(x, dim),
    "expand": lambda x, shape: x.expand(shape),
    "slice": slice_,
    "split": lambda x, split_size, dim: torch.split(x, split_size, dim),
    "pad": pad,
    "index_select": lambda x, index, dim: x[(slice(None),) * (dim % x.ndim) + (index.long(),)],
    "embedding": lambda indices, weight, padding_idx: functional.embedding(indices.long(), weight, padding_idx),
    "gather": lambda x, index, dim: x.gather(dim, index.long()),
    "clamp": lambda x, min, max: x.clamp(min, max).to(x.dtype),
    "one_hot": lambda index, num_classes, dtype: functional.one_hot(index.long(), num_classes).to(dtype),
    "sign": lambda x: torch.where(torch.isnan(x), x, torch.sign(x)),  # PyTorch's sign of NaN is 0
    "where": lambda condition, a, b: torch.where(condition != 0, a, b),
    "cast": lambda x, dtype: x.to(dtype),
    "prod": prod,
    "max": extreme(torch.amax),
    "min": extreme(torch.amin),
    "norm": reduction(torch.linalg.vector_norm),
    **{name: reduction(getattr(torch, name)) for name in ("sum", "mean", "var")},
    **{name: of_numbers(getattr(torch, name)) for name in ("argmax", "argmin")},
    "cumsum": lambda x, dim, reverse: x.flip(dim).cumsum(dim).flip(dim) if reverse else x.cumsum(dim),
    "sum_to": lambda x, shape: x.sum_to_size(shape),
    "conv2d": conv2d,
    "conv_transpose2d": conv_transpose2d,
    "batch_norm": batch_norm,
    "layer_norm": of_rows(functional.layer_norm),
    "rms_norm": of_rows(functional.rms_norm),
    "group_norm": group_norm,
    "cross_entropy": with_long_labels("cross_entropy"),
    "nll_loss": with_long_labels("nll_loss"),
    "binary_cross_entropy_with_logits": lambda x, target, weight, pos_weight, reduction: (
        functional.binary_cross_entropy_with_logits(x, target, weight, reduction=reduction, pos_weight=pos_weight)
    ),
    "lstm_cell": lstm_cell,
    "lstm_layer": lstm_layer,
    "lstm": lstm,
    "matmul": matmul,
    "gemm": gemm,
    "linear": linear,
    "scaled_dot_product_attention": attention,
}


def call_theirs(case, tensors, attrs):
    """PyTorch's op with the defaults of Lamina's, absent operands as None."""
    parameters = inspect.signature(getattr(F, case.op)).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    absent = [p.default for p in parameters if p.kind is not p.KEYWORD_ONLY][len(tensors) :]
    attrs = {**defaults, **attrs}
    if attrs.get("dtype"):
        attrs["dtype"] = getattr(torch, lamina._C.dtype_of(attrs["dtype"]).name)
    theirs = THEIRS.get(case.op) or getattr(functional, case.op, None) or getattr(torch, case.op)
    return as_tuple(theirs(*tensors, *absent, **attrs))


# --- samples ---------------------------------------------------------------------------------------------------------


def flat(values):
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from flat(value)
        elif value is not None:
            yield value


def is_empty(sample):
    return any(0 in x.shape for x in flat(sample.inputs))


def sharpness(p):
    """Samples with a gradient before others; then by operands and attributes; then by elements, if they are few."""
    _, sample, _ = p.values
    operands = list(flat(sample.inputs))
    elements = sum(np.prod(x.shape) for x in operands)
    is_special = any(getattr(x, "kind", "") == "special" for x in operands)
    good = sample.has_gradient and not is_special and not is_empty(sample) and elements < 3000 and not p.marks
    return good, len(operands) + len(sample.attrs), elements


def chosen():
    """All that is compared, marked slow but for the sharpest sample of every op in either dtype, and an empty one."""
    groups = {}
    for p in samples():
        case, sample, dtype = p.values
        has_equivalent = (
            case.op in F.__all__ and case.op not in WITHOUT_EQUIVALENT and not sample.attrs.get("dropout_p")
        )
        if dtype in ("float32", "bfloat16") and has_equivalent:
            groups.setdefault((case.op, dtype, is_empty(sample)), []).append(p)
    for (_, dtype, of_empty), group in groups.items():
        first = group[0] if of_empty else max(group, key=sharpness)
        for p in group:
            is_slow = p is not first or (of_empty and dtype == "bfloat16")
            yield pytest.param(*p.values, id=p.id, marks=[pytest.mark.slow] * is_slow)


def is_differentiable(p):
    case, sample, _ = p.values
    is_special = any(getattr(x, "kind", "") == "special" for x in flat(sample.inputs))
    has_vjp = case.op not in ops.RECORDS or ops.RECORDS[case.op]["differentiable"]
    return has_vjp and case.gradients != () and sample.has_gradient and not is_special


VALUES = list(chosen())
GRADIENTS = [p for p in VALUES if is_differentiable(p)]


def test_every_registered_op_has_an_equivalent_or_a_reason():
    compared, with_gradient = ({p.values[0].op for p in parameters} for parameters in (VALUES, GRADIENTS))
    for name in {*ops.NAMES, *F.__all__}:
        is_listed = name in WITHOUT_EQUIVALENT
        assert (name in compared) != is_listed, f"{name}: neither compared with PyTorch's op nor listed with a reason"
    assert with_gradient >= {name for name in compared & set(ops.NAMES) if ops.RECORDS[name]["differentiable"]}


def test_every_op_has_a_sample_with_an_axis_of_extent_0():
    assert {p.values[0].op for p in VALUES if is_empty(p.values[1])} == {p.values[0].op for p in VALUES}


@contextlib.contextmanager
def skip_where_pytorch_refuses(sample):
    """PyTorch has no answer for some operands without elements."""
    try:
        yield
    except (RuntimeError, IndexError) as error:
        if not is_empty(sample):
            raise
        pytest.skip(f"PyTorch: {error}")


# --- values ----------------------------------------------------------------------------------------------------------


class Registered(TorchDispatchMode):
    """Under any dispatch mode the functions call the registered ops."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def call_ours(case, tensors, attrs):
    return as_tuple(getattr(F, case.op)(*tensors, **attrs))


def values(function, case, inputs, attrs):
    """The outputs, then the new values of the operands that are updated."""
    tensors = to_torch(inputs)
    with torch.no_grad():
        outputs = function(case, tensors, attrs)
    return [to_numpy(y) for y in (*outputs, *(tensors[i] for i in case.mutates))]


@pytest.mark.parametrize(("case", "sample", "dtype"), VALUES)
def test_values(case, sample, dtype):
    by_pytorch = dataclasses.replace(
        case, reference=lambda *inputs, **attrs: values(call_theirs, case, list(inputs), attrs)
    )
    for layout in layouts_of(sample):

        def inputs(layout=layout):
            return materialise(case, sample, dtype, layout)

        with skip_where_pytorch_refuses(sample):
            wants = expected(by_pytorch, inputs(), sample.attrs, dtype)
        got = values(call_ours, case, inputs(), sample.attrs)
        with Registered():
            registered = values(call_ours, case, inputs(), sample.attrs)
        for i, (y, again, want) in enumerate(zip(got, registered, wants, strict=True)):
            where = f"{label(case, sample, dtype)}, {layout}, output {i}"
            compare(y, want, where)
            assert_same_bits(again, y, f"{where} of the registered op")


# --- gradients -------------------------------------------------------------------------------------------------------


def recorded(function, case, inputs, attrs):
    """The tensors that gradients are asked of, in lists, too, and the outputs."""
    tensors = to_torch(inputs)
    differentiable = [x for i, x in enumerate(tensors) if case.gradients is None or i in case.gradients]
    leaves = [x.requires_grad_() for x in flat(differentiable) if x.is_floating_point()]
    return leaves, function(case, tensors, attrs)


def gradients(function, case, inputs, dys, attrs):
    """By PyTorch's autograd; zeros where there are none."""
    leaves, outputs = recorded(function, case, inputs, attrs)
    ys = [y for y in outputs if y.requires_grad]
    found = torch.autograd.grad(ys, leaves, to_torch(dys), allow_unused=True)
    return [to_numpy(torch.zeros_like(x) if g is None else g) for x, g in zip(leaves, found, strict=True)]


def operands(case, sample, dtype, layout):
    """The inputs; "expanded" only the first: errors of sums of equal terms are not random, as the tolerance has it."""
    inputs = materialise(case, sample, dtype, layout)
    return [*inputs[:1], *materialise(case, sample, dtype)[1:]] if layout == "expanded" else inputs


@pytest.mark.parametrize(("case", "sample", "dtype"), GRADIENTS)
def test_gradients(case, sample, dtype, rng):
    for layout in layouts_of(sample):

        def inputs(layout=layout):
            return operands(case, sample, dtype, layout)

        def theirs(inputs, dys):
            return gradients(call_theirs, case, inputs, dys, sample.attrs)

        with skip_where_pytorch_refuses(sample):
            _, outputs = recorded(call_theirs, case, inputs(), sample.attrs)
        leaves, own_outputs = recorded(call_ours, case, inputs(), sample.attrs)
        assert [y.requires_grad for y in own_outputs] == [y.requires_grad for y in outputs], label(case, sample)
        dys = [
            lay_out(rng.standard_normal(tuple(y.shape)).astype(to_numpy(y).dtype), layout)
            for y in own_outputs
            if y.requires_grad
        ]
        if not dys:
            pytest.skip("no output has a gradient")
        wants = expected_by(theirs, case, inputs(), dys, dtype, rng)
        if is_empty(sample) and any(np.isnan(want).any() for want, _ in wants):
            pytest.skip("PyTorch: NaN for a sum of nothing")
        got = gradients(call_ours, case, inputs(), dys, sample.attrs)
        with Registered():
            registered = gradients(call_ours, case, inputs(), dys, sample.attrs)
        for i, (g, again, (want, tolerance)) in enumerate(zip(got, registered, wants, strict=True)):
            where = f"{label(case, sample, dtype)}, {layout}, gradient {i}"
            compare(g, Expected(want, to_numpy(leaves[i].detach()).dtype, tolerance), where)
            assert_same_bits(again, g, f"{where} of the registered op")


def expected_by(theirs, case, inputs, dys, dtype, rng):
    """What gradients must be, and the allowed error: in float32 that of PyTorch's float32, in bfloat16, where ops read
    rounded results of their own, that of rounding the operands."""
    if dtype != "float32":
        return expected_gradients(theirs, inputs, dys, dtype, rng)
    backward = dataclasses.replace(case, reference=lambda *args: theirs([*args[:-1]], args[-1]), mutates=())
    return [(want.truth, want.tolerance) for want in expected(backward, [*inputs, dys], {}, dtype)]
