"""Lamina's ops inside JAX: the cases give what they give on Lamina's own tensors, gradients too, under jit, scan and
vmap; the handler speaks with several versions of XLA; errors arrive as exceptions.

The default run takes one sample per op; `pytest -m slow tests/test_jax.py` takes all, in all dtypes, and installs
other versions of jaxlib.
"""

import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lamina
from cases import all_cases, is_floating, materialise
from harness import as_tuple, assert_same_bits, call, differentiable_inputs, label, samples, tape_vjp

pytest.importorskip("jax", reason="JAX is not installed (pip install jax)")
import jax.ffi
import jax.numpy as jnp
from jax.test_util import check_grads

from lamina.jax import functional as F
from lamina.jax import random_state

ROOT = Path(__file__).resolve().parent.parent
OTHER_VERSIONS = ("0.6.1", "0.8.1")


def representative(parameters, default="float32"):
    """The parameters, all marked slow but for one sample per op, in the default dtype."""
    seen = set()
    for p in parameters:
        case, _, dtype = p.values
        is_first = dtype == default and case.op not in seen and not p.marks
        seen |= {case.op} if is_first else set()
        yield pytest.param(*p.values, id=p.id, marks=[] if is_first else [pytest.mark.slow])


HERE = [p for p in samples() if p.values[0].op in F.__all__]
VALUES = list(representative(HERE))
WITH_GRADIENT = list(representative(p for p in HERE if differentiable_inputs(p.values[0], p.values[1])))


def wide_types(is_on=True):
    """JAX with float64 and int64."""
    return (jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64)(is_on)


def types_for(dtype, inputs):
    """The types that a sample needs."""
    big_integers = [x for x in flat(inputs) if x.dtype == np.int64 and x.size and np.abs(x).max() >= 2**31]
    return wide_types(dtype == "float64" or len(big_integers) > 0)


def to_jax(value):
    if isinstance(value, list):
        return [to_jax(v) for v in value]
    return jnp.asarray(value) if isinstance(value, np.ndarray) else value


def is_array(value):
    return isinstance(value, (np.ndarray, jax.Array))


def row_major(value):
    """The memory order of XLA, which decides in which order sums are made."""
    if isinstance(value, list):
        return [row_major(v) for v in value]
    return np.array(value, order="C") if isinstance(value, np.ndarray) else value


def assert_equal(got, want, where):
    assert len(got) >= len(want), where
    for i, (y, own) in enumerate(zip(got, want, strict=False)):
        y = np.asarray(y)
        if own.dtype.name == "bfloat16":  # NumPy knows no NaN of it
            y, own = y.astype(np.float32), own.astype(np.float32)
        np.testing.assert_array_equal(y, own, err_msg=f"{where}, output {i}")


@pytest.mark.parametrize(("case", "sample", "dtype"), VALUES)
def test_an_op_gives_what_it_gives_on_own_tensors(case, sample, dtype):
    inputs = row_major(materialise(case, sample, dtype))
    others = place(inputs, (np.asarray(np.flip(x)) for x in flat(inputs)))
    wants = [call(case, row_major(operands), sample.attrs) for operands in (inputs, others)]

    def function(operands):
        remaining = iter(operands)
        return as_tuple(getattr(F, case.op)(*place(inputs, remaining), **sample.attrs))

    with types_for(dtype, inputs):
        assert_equal(function([jnp.asarray(x) for x in flat(inputs)]), wants[0], label(case, sample, dtype))
        both = [jnp.stack(pair) for pair in zip(flat(inputs), flat(others), strict=True)]

        @jax.jit
        def transformed(both):
            _, scanned = jax.lax.scan(lambda carry, xs: (carry, function(xs)), 0, both, length=2)
            return scanned, jax.vmap(function, axis_size=2)(both)

        scanned, mapped = transformed(both)
        for how, results in (("scan", scanned), ("vmap", mapped)):
            for row, want in enumerate(wants):
                assert_equal([y[row] for y in results], want, f"{label(case, sample, dtype)}, {how}")


def flat(inputs):
    for x in inputs:
        if isinstance(x, list):
            yield from flat(x)
        elif is_array(x):
            yield x


def place(pattern, remaining):
    """The inverse of `flat`: arrays where `pattern` has them, everything else as in the pattern."""
    return [
        place(entry, remaining) if isinstance(entry, list) else next(remaining) if is_array(entry) else entry
        for entry in pattern
    ]


def watched_by(case, sample, inputs):
    """Of the arrays among the inputs, those in lists, too: whether a gradient is tested here."""
    tested = differentiable_inputs(case, sample)
    if case.gradients is None and sample.has_gradient:
        tested += [i for i, x in enumerate(inputs) if isinstance(x, list)]
    return [i in tested and is_floating(x.dtype) for i, entry in enumerate(inputs) for x in flat([entry])]


def as_function(case, sample, inputs, is_watched):
    """The floating outputs as a function of the watched operands, and these."""
    arrays = [jnp.asarray(x) for x in flat(inputs)]

    def function(*watched):
        watched = iter(watched)
        operands = [next(watched) if w else x for w, x in zip(is_watched, arrays, strict=True)]
        results = as_tuple(getattr(F, case.op)(*place(inputs, iter(operands)), **sample.attrs))
        return [y for y in results[: len(results) - len(case.mutates)] if jnp.issubdtype(y.dtype, jnp.floating)]

    return function, list(itertools.compress(arrays, is_watched))


@pytest.mark.parametrize(("case", "sample", "dtype"), WITH_GRADIENT)
def test_gradients_are_those_of_the_tape(case, sample, dtype, rng):
    inputs = row_major(materialise(case, sample, dtype))
    wrt = [i for i in differentiable_inputs(case, sample) if isinstance(inputs[i], np.ndarray)]
    results = call(case, row_major(materialise(case, sample, dtype)), sample.attrs)
    dys = [
        np.asarray(rng.standard_normal(y.shape)).astype(y.dtype) if is_floating(y.dtype) else None
        for y in results[: len(results) - len(case.mutates)]
    ]
    if not wrt or all(dy is None for dy in dys):
        pytest.skip("the operands are a list" if not wrt else "no output has a gradient")
    is_watched = [i in wrt for i, entry in enumerate(inputs) for _ in flat([entry])]

    with types_for(dtype, inputs):
        function, watched = as_function(case, sample, inputs, is_watched)

        def gradients(watched, dys):
            return jax.vjp(function, *watched)[1](dys)

        @jax.jit
        def transformed(watched, dys):
            twice = [jnp.stack([x, x]) for x in watched], [jnp.stack([dy, 2 * dy]) for dy in dys]
            return gradients(watched, dys), jax.vmap(gradients)(*twice)

        one, two = transformed(watched, [jnp.asarray(dy) for dy in dys if dy is not None])
    wants = tape_vjp(case, inputs, sample.attrs, wrt, dys)
    for i, g, pair, own in zip(wrt, one, two, wants, strict=True):
        where = f"{label(case, sample, dtype)}, input {i}"
        assert_same_bits(np.asarray(g), own, where)
        for row, scale in zip(pair, (1, 2), strict=True):  # gradients are linear, and doubling is exact
            assert_same_bits(np.asarray(row), own * own.dtype.type(scale), f"{where}, vmap")


FLOAT64 = [p for p in HERE if p.values[2] == "float64" and any(watched_by(*p.values[:2], materialise(*p.values)))]


@pytest.mark.parametrize(("case", "sample", "dtype"), list(representative(FLOAT64, "float64")))
def test_gradients_are_derivatives(case, sample, dtype):
    inputs = row_major(materialise(case, sample, dtype))
    with wide_types():
        function, watched = as_function(case, sample, inputs, watched_by(case, sample, inputs))
        if not jax.eval_shape(function, *watched):
            pytest.skip("no output has a gradient")
        check_grads(jax.jit(function), watched, order=1, modes=["rev"])


# --- errors ----------------------------------------------------------------------------------------------------------

# JAX's short integers are widened, and lengths are not read: they are taken as min(max(length, 0), T).
NO_ERRORS = ("state is int32", "lengths ")
ERRORS = [
    (case, error)
    for case in all_cases()
    if case.op in F.__all__
    for error in case.errors
    if not error.text.startswith(NO_ERRORS)
]


@pytest.mark.parametrize(("case", "error"), ERRORS, ids=[f"{case.op}-{error.name}" for case, error in ERRORS])
def test_wrong_operands_raise_lamina_s_message(case, error):
    with wide_types():
        inputs = to_jax(materialise(case, error, case.dtypes[0]))
        with pytest.raises((error.type, jax.errors.JaxRuntimeError)) as raised:  # wrong values show when they are read
            jax.block_until_ready(getattr(F, case.op)(*inputs, **error.attrs))
    assert error.text in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run softmax: _; dim=7", "softmax: dim is 7 but x is"),
        ("run transpose: _; ", "transpose: there is no such op"),
        ("run sum: _; dim=None, keepdim=False", r"sum: a result is \(\); expected \(2, 3\)"),
        ("run add: _ _; ", "xla: a call has 1 buffers; expected more"),
    ],
)
def test_errors_while_a_program_runs_are_exceptions(text, message):
    x = jnp.ones((2, 3))
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(jax.ffi.ffi_call("lamina", jax.ShapeDtypeStruct(x.shape, x.dtype))(x, call=text))
    np.testing.assert_array_equal(F.relu(x), x)  # and the next call is well


def test_values_are_checked_at_each_call():
    select = jax.jit(F.index_select)
    x = jnp.arange(4.0)
    np.testing.assert_array_equal(select(x, jnp.array([3, 0])), [3, 0])
    with pytest.raises(Exception, match="index has 9; expected 0 to 3"):
        jax.block_until_ready(select(x, jnp.array([1, 9])))
    np.testing.assert_array_equal(select(x, jnp.array([1, 2])), [1, 2])


def test_operands_may_be_one_array_in_one_call_and_not_in_the_next(operands):
    x, y = operands[0], operands[0] + 1
    multiply = jax.jit(F.mul)
    for a, b in ((x, x), (x, y), (y, x), (y, y)):
        np.testing.assert_array_equal(multiply(a, b), a * b)


def test_equal_calls_on_operands_of_other_types():
    """In one program, twice: a call is traced for each shape and dtype."""
    a, b = jnp.asarray(np.random.default_rng(0).integers(-9, 9, (2, 6)).astype(np.float32))
    shapes = [((2, 3), (3, 2)), ((3, 2), (2, 3)), ((6, 1), (1, 6)), ((6,), (6,))]
    pairs = [(a.reshape(i).astype(t), b.reshape(j).astype(t)) for i, j in shapes for t in (jnp.float32, jnp.bfloat16)]
    multiply = jax.jit(lambda pairs: [F.matmul(x, y) for x, y in pairs])
    for _ in range(2):
        for (x, y), z in zip(pairs, multiply(pairs), strict=True):
            np.testing.assert_array_equal(z, jnp.matmul(x, y))


def test_what_has_no_derivative_says_so():
    x = jnp.ones(3)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(F.exp, (x,), (x,))
    with pytest.raises(ValueError, match="FFI call to `lamina` cannot be differentiated"):
        jax.hessian(lambda x: F.exp(x).sum())(x)


def test_arrays_of_other_libraries_are_refused():
    with pytest.raises(TypeError, match=r"add: an operand is a lamina array; expected JAX arrays"):
        F.add(jnp.ones(2), lamina.ones(2))


def test_subnormal_numbers_are_numbers():
    tiny = jnp.asarray(np.array([1e-40, -3e-42, 2e-39], np.float32))
    np.testing.assert_array_equal(np.asarray(jax.jit(F.square)(F.sqrt(F.abs(tiny)))) > 0, True)
    np.testing.assert_array_equal(np.asarray(jax.jit(F.gt)(tiny, jnp.zeros(3))), [True, False, True])
    np.testing.assert_array_equal(np.asarray(F.mul(tiny, 1.0)), np.asarray(tiny))


def test_states_are_given_and_returned():
    with pytest.raises(TypeError, match=r"dropout: state is None; expected the state of a generator"):
        F.dropout(jnp.ones(3))
    lamina.manual_seed(5)
    own = lamina.functional.dropout(lamina.ones(100), p=0.5)
    y, state = F.dropout(jnp.ones(100), random_state(5), p=0.5)
    np.testing.assert_array_equal(y, own.numpy())
    assert state.tolist() == list(lamina.random.default_generator.get_state())
    again, _ = jax.jit(lambda state: F.dropout(jnp.ones(100), state, p=0.5))(state)
    assert (again != y).any()
    x, mean, var = jnp.arange(12.0).reshape(6, 2), jnp.zeros(2), jnp.ones(2)
    y, new_mean, _ = F.batch_norm(x, mean, var, training=True)
    np.testing.assert_allclose(new_mean, 0.1 * x.mean(0), rtol=1e-6)
    np.testing.assert_array_equal(mean, 0)  # JAX's arrays do not change
    np.testing.assert_array_equal(F.batch_norm(x, training=True), y)


# --- programs --------------------------------------------------------------------------------------------------------


def network(x, weight, bias):
    y = F.relu(F.conv2d(x, weight, bias, padding=1))
    return F.cross_entropy(F.mean(y, dim=(2, 3)), jnp.array([0, 2]))


@pytest.fixture
def operands(rng):
    shapes = (2, 3, 6, 6), (4, 3, 3, 3), (4,)
    return [jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]


def test_gradients_of_a_network(operands):
    with wide_types():
        check_grads(network, [x.astype(jnp.float64) for x in operands], order=1, modes=["rev"])
    eager = jax.grad(network, argnums=1)(*operands)
    np.testing.assert_array_equal(jax.jit(jax.grad(network, argnums=1))(*operands), eager)


def test_lists_among_the_attributes_may_change_after_the_call():
    sizes = [3]
    op = lamina.jax.ops.OPS["slice"]
    first = op(jnp.arange(5.0), [0], sizes, [1], [])
    sizes[0] = 2  # callers reuse lists
    np.testing.assert_array_equal(first, [0, 1, 2])
    gradient = jax.grad(lambda x: op(x, (0,), (3,), (1,), ()).sum())
    np.testing.assert_array_equal(gradient(jnp.arange(5.0)), [1, 1, 1, 0, 0])


def test_control_flow_and_checkpoints(operands):
    x = operands[0]
    block = jax.checkpoint(lambda x: F.tanh(F.mul(x, 2.0)).sum())
    np.testing.assert_array_equal(jax.grad(block)(x), jax.grad(lambda x: F.tanh(F.mul(x, 2.0)).sum())(x))
    chosen = jax.jit(lambda is_positive, x: jax.lax.cond(is_positive, F.relu, F.neg, x))
    np.testing.assert_array_equal(chosen(True, x), F.relu(x))
    np.testing.assert_array_equal(chosen(False, x), F.neg(x))
    doubled = jax.lax.while_loop(lambda x: x.max() < 100, lambda x: F.mul(x, 2.0), jnp.ones(3))
    np.testing.assert_array_equal(doubled, 128)


def test_gradients_that_are_not_asked_for_are_not_computed(operands):
    program = str(jax.make_jaxpr(jax.grad(network, argnums=1))(*operands))
    assert "vjp conv2d: float32[2,3,6,6]" not in program  # its values are read
    assert "| 0 1 0;" in program


def test_a_stored_program_runs_in_another_process(operands, tmp_path):
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed, which jax.export needs")
    export = pytest.importorskip("jax.export", reason="jax.export cannot be imported", exc_type=ImportError)
    x = operands[0]
    checks = [export.DisabledSafetyCheck.custom_call("lamina")]
    stored = export.export(jax.jit(lambda x: F.softmax(x, dim=1)), disabled_checks=checks)(x)
    (tmp_path / "program").write_bytes(stored.serialize())
    np.save(tmp_path / "x.npy", x)
    program = (
        "import sys, numpy as np, lamina.jax; from pathlib import Path; from jax import export; p = Path(sys.argv[1]);"
        "f = export.deserialize((p / 'program').read_bytes()); np.save(p / 'y.npy', f.call(np.load(p / 'x.npy')))"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), F.softmax(x, dim=1))


def test_calls_outside_of_jit_are_not_traced_again(monkeypatch):
    x = jnp.ones((4, 4))
    F.softmax(x, dim=1)
    traced, infer = [], lamina._C.infer_exchanged
    monkeypatch.setattr(lamina._C, "infer_exchanged", lambda *args: traced.append(args) or infer(*args))
    F.softmax(x, dim=1)
    assert not traced
    F.softmax(x, dim=0)
    assert traced


def test_an_open_tape_of_lamina_changes_nothing():
    x = jnp.arange(16.0).reshape(1, 1, 4, 4)
    compiled = jax.jit(F.max_pool2d)
    with lamina.Tape():
        inside = compiled(x)
    np.testing.assert_array_equal(inside, compiled(x))
    np.testing.assert_array_equal(inside, F.max_pool2d(x))


def test_memory_is_xla_s_and_flat():
    f = jax.jit(lambda x: F.softmax(F.linear(x, x), dim=-1))
    x = jnp.ones((64, 64))
    jax.block_until_ready(f(x))
    before = lamina.memory_stats()["bytes_in_use"]
    for _ in range(1000):
        y = f(x)
    jax.block_until_ready(y)
    assert lamina.memory_stats()["bytes_in_use"] == before


# --- versions --------------------------------------------------------------------------------------------------------

FIELDS = """
XLA_FFI_Extension_Base Extension type next
XLA_FFI_Api_Version Version major_version:major minor_version:minor
XLA_FFI_Metadata Metadata api_version:version traits
XLA_FFI_Metadata_Extension MetadataExtension metadata
XLA_FFI_Error_Create_Args ErrorCreateArgs message errc:code
XLA_FFI_Stream_Get_Args StreamGetArgs ctx:context stream
XLA_FFI_DeviceOrdinal_Get_Args DeviceOrdinalGetArgs ctx:context device_ordinal:ordinal
XLA_FFI_Api Api api_version:version XLA_FFI_Error_Create:error_create XLA_FFI_Stream_Get:stream_get \
    XLA_FFI_DeviceOrdinal_Get:device_ordinal_get
XLA_FFI_Buffer Buffer dtype data rank dims
XLA_FFI_ByteSpan ByteSpan ptr:data len:size
XLA_FFI_Args Buffers size types args:buffers
XLA_FFI_Rets Buffers size types rets:buffers
XLA_FFI_Attrs Attributes size types names attrs:values
XLA_FFI_CallFrame CallFrame api ctx:context stage args:arguments rets:results attrs:attributes
"""
CONSTANTS = """
XLA_FFI_Extension_Metadata ExtensionType::metadata
XLA_FFI_ExecutionStage_EXECUTE Stage::execute
XLA_FFI_Error_Code_INVALID_ARGUMENT ErrorCode::invalid_argument
XLA_FFI_Error_Code_RESOURCE_EXHAUSTED ErrorCode::resource_exhausted
XLA_FFI_Error_Code_INTERNAL ErrorCode::internal
XLA_FFI_AttrType_STRING AttrType::string
XLA_FFI_DataType_PRED DataType::boolean
XLA_FFI_DataType_U8 DataType::uint8
XLA_FFI_DataType_S32 DataType::int32
XLA_FFI_DataType_S64 DataType::int64
XLA_FFI_DataType_F16 DataType::float16
XLA_FFI_DataType_BF16 DataType::bfloat16
XLA_FFI_DataType_F32 DataType::float32
XLA_FFI_DataType_F64 DataType::float64
"""


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
def test_own_declarations_agree_with_jaxlib_s_header(tmp_path):
    asserts = []
    for line in FIELDS.replace("\\\n", "").strip().splitlines():
        theirs, ours, *fields = line.split()
        for field in fields:
            their_field, our_field = (field.split(":") * 2)[:2]
            asserts.append(f"offsetof({theirs}, {their_field}) == offsetof(lamina::xla::{ours}, {our_field})")
            sizes = f"sizeof({theirs}::{their_field}) == sizeof(lamina::xla::{ours}::{our_field})"
            asserts += [] if their_field == "api_version" else [sizes]
    for line in CONSTANTS.strip().splitlines():
        theirs, ours = line.split()
        asserts.append(f"int({theirs}) == int(lamina::xla::{ours})")
    source = tmp_path / "layout.cpp"
    lines = [f'static_assert({a}, "{a}");' for a in asserts]
    source.write_text("\n".join(['#include "xla/ffi/api/c_api.h"', '#include "interop/xla_ffi.h"', *lines, ""]))
    includes = [f"-I{ROOT / 'csrc'}", f"-I{jax.ffi.include_dir()}"]
    command = ["g++", "-std=c++20", "-fsyntax-only", "-Wno-invalid-offsetof", *includes, source]
    subprocess.run(command, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("version", OTHER_VERSIONS)
def test_the_same_binary_with_other_versions_of_jaxlib(version, tmp_path):
    """The other versions lie before the installed one on the path; everything else is shared."""
    if jax.__version__ == version:
        pytest.skip("it is the installed one")
    packages = [f"jax=={version}", f"jaxlib=={version}"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path, *packages], check=True
    )
    path = ":".join([str(tmp_path), *filter(None, sys.path)])
    program = "import jax, sys, pytest; assert jax.__version__ == sys.argv[1]; sys.exit(pytest.main(sys.argv[2:]))"
    options = ["-q", "-n", "0", "-W", "default", "-p", "no:cacheprovider", ROOT / "tests" / "test_jax.py"]
    subprocess.run(
        [sys.executable, "-c", program, version, *map(str, options)],
        check=True, cwd=ROOT, env={"PYTHONPATH": path, "PATH": str(Path(sys.executable).parent)},
    )  # fmt: skip
