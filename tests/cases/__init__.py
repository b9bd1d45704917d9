"""What an op does, described once: NumPy reference, named samples, errors and bench shapes.

Each module in this package defines `case` (or a list `cases`). The harness files in `tests/` and the program
in `bench/` loop over them; nothing else knows an op's shapes or formulas.

    from cases import Arr, Bench, Case, Error, Sample

    def reference(x, weight, bias=None, *, stride=1):
        ...

    case = Case(
        op="conv2d", reference=reference,
        samples=[Sample("one pixel", Arr(1, 1, 1, 1), Arr(1, 1, 1, 1), None, stride=2)],
        errors=[Error(ValueError, "weight has 3 input channels", Arr(2, 8, 5, 5), Arr(4, 3, 3, 3))],
        bench=[Bench("vgg 3_1", Arr(1, 256, 56, 56), Arr(256, 256, 3, 3), padding=1, flops=..., bytes=...)],
    )

Inputs are positional and attributes keyword-only, as in `lamina.functional`. An input is an `Arr` (a recipe),
a NumPy array (used as it stands, but floating values take the dtype under test), a list of inputs for an op
on a sequence, or None where an optional operand is absent.
"""

from __future__ import annotations

import copy
import functools
import importlib
import pkgutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["Arr", "Bench", "Case", "Error", "Sample", "all_cases", "lay_out", "materialise", "numpy_dtype"]

KINDS = ("normal", "uniform", "positive", "int", "bool", "distinct", "special")
LAYOUTS = ("contiguous", "transposed", "channels_last", "strided", "misaligned", "reversed", "expanded")


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy dtype called `name`; bfloat16 comes from ml_dtypes."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def is_floating(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


class Arr:
    """A recipe for an array: shape, distribution of the values, dtype and memory layout.

    Args:
        shape: extents; none for a scalar array.
        dtype: a name; by default the dtype under test (int64 for kind "int", bool for kind "bool").
        low, high: range of kinds "uniform" (-1, 1), "positive" (0.5, 2) and "int" (0, 10, exclusive).
        kind: "normal" is N(0, 1); "distinct" has no two equal values in any dtype up to 2048 elements (for
            ties in max); "special" is normal with NaN, infinities, signed zeros, subnormals and huge values
            in it.
        layout: where the elements lie.
            contiguous     row-major, 64-byte aligned
            transposed     column-major: the memory of the transpose
            channels_last  (N, C, H, W) in memory as N, H, W, C
            strided        every second element along every axis of a larger buffer, gaps poisoned
            misaligned     row-major, one element after a 64-byte boundary
            reversed       negative strides along every axis
            expanded       stride 0 along the first axis of extent > 1 (values repeat along it)
    """

    def __init__(self, *shape: int, dtype=None, low=None, high=None, kind="normal", layout="contiguous"):
        if kind not in KINDS or layout not in LAYOUTS:
            raise ValueError(f"Arr: kind {kind!r}, layout {layout!r}; expected one of {KINDS} and of {LAYOUTS}")
        self.shape, self.dtype, self.low, self.high, self.kind, self.layout = (
            shape,
            dtype,
            low,
            high,
            kind,
            layout,
        )

    def __repr__(self) -> str:
        return f"Arr{self.shape}"

    def dtype_under(self, dtype: str) -> np.dtype:
        """The dtype of this array when the test runs in `dtype`."""
        return numpy_dtype(self.dtype or {"int": "int64", "bool": "bool"}.get(self.kind, dtype))

    def values(self, rng: np.random.Generator) -> np.ndarray:
        """Fresh values: float64, int64 or bool, row-major."""
        n = int(np.prod(self.shape, dtype=np.int64))
        if self.kind == "bool":
            flat = rng.random(n) < 0.5
        elif self.kind == "int":
            flat = rng.integers(_or(self.low, 0), _or(self.high, 10), n)
        elif self.kind in ("uniform", "positive"):
            low, high = (-1.0, 1.0) if self.kind == "uniform" else (0.5, 2.0)
            flat = rng.uniform(_or(self.low, low), _or(self.high, high), n)
        elif self.kind == "distinct":
            flat = rng.permutation(_distinct(n))
        else:
            flat = rng.standard_normal(n)
            if self.kind == "special":
                specials = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 1e30, -1e30]
                places = rng.choice(n, min(n, len(specials)), replace=False)
                flat[places] = specials[: len(places)]
        return flat.reshape(self.shape)


def _or(value, default):
    return default if value is None else value


def _distinct(n: int) -> np.ndarray:
    """n values, distinct in bfloat16 where n allows: all of 8 significant bits in the binades [2^-4, 2^4)."""
    if n > 2048:
        return np.linspace(-1, 1, n)
    magnitudes = np.ldexp(1 + np.arange(128) / 128, np.arange(-4, 4)[:, None]).ravel()
    every = np.sort(np.concatenate([-magnitudes, magnitudes]))
    return every[np.linspace(0, len(every) - 1, n).astype(int)] if n else every[:0]


def lay_out(values: np.ndarray, layout: str) -> np.ndarray:
    """A view on fresh memory with the given values in the given layout (see Arr).

    Gaps are poisoned, with NaN or the largest integer, so that reading them shows.
    """
    shape, ndim = values.shape, values.ndim
    order = tuple(range(ndim))
    if layout == "expanded":
        axis = next((i for i in order if shape[i] > 1), None)
        if axis is not None:
            row = values[(slice(None),) * axis + (slice(0, 1),)]
            return np.lib.stride_tricks.as_strided(
                lay_out(row, "contiguous"), shape, [0 if i == axis else s for i, s in enumerate(_dense(row))]
            )
    if layout == "transposed":
        order = order[::-1]
    elif layout == "channels_last" and ndim == 4:
        order = (0, 2, 3, 1)
    step = {"strided": 2, "reversed": -1}.get(layout, 1)
    extents = tuple(shape[i] * abs(step) for i in order)
    buffer = _buffer(extents, values.dtype, offset=1 if layout == "misaligned" else 0)
    view = buffer[(..., *[slice(None, None, step)] * ndim)].transpose(np.argsort(order))
    view[...] = values
    return view


def _dense(array: np.ndarray) -> tuple[int, ...]:
    """Row-major strides of `array`, in bytes."""
    inner = np.cumprod((array.itemsize, *array.shape[:0:-1]), dtype=np.int64)
    return tuple(int(s) for s in inner[::-1])[: array.ndim]


def _buffer(shape: Sequence[int], dtype: np.dtype, offset: int) -> np.ndarray:
    """Poisoned memory `offset` elements after a 64-byte boundary."""
    n = int(np.prod(shape, dtype=np.int64))
    raw = np.empty(n * dtype.itemsize + 128, np.uint8)
    begin = -raw.ctypes.data % 64 + offset * dtype.itemsize
    buffer = raw[begin : begin + n * dtype.itemsize].view(dtype)
    if dtype.kind in "iu":
        buffer[...] = np.iinfo(dtype).max
    else:
        buffer[...] = True if dtype.kind == "b" else np.nan
    return buffer.reshape(shape)


class Sample:
    """One named call of an op. The name says what is tested: "stride > kernel", "K = 0", "vector width + 1".

    `.only("float32")`, `.slow()` and `.no_gradient()` return the sample with that restriction.
    """

    def __init__(self, name: str, /, *inputs: Any, **attrs: Any):
        self.name, self.inputs, self.attrs = name, inputs, attrs
        self.dtypes: tuple[str, ...] | None = None
        self.is_slow = False
        self.has_gradient = True

    def __repr__(self) -> str:
        return f"Sample({self.name!r})"

    def only(self, *dtypes: str) -> Sample:
        """Runs in these dtypes only."""
        return self._with(dtypes=dtypes)

    def slow(self) -> Sample:
        """Runs under `pytest -m slow` only."""
        return self._with(is_slow=True)

    def no_gradient(self) -> Sample:
        """The op has no derivative here (ties, infinities), or the sample is too large to differentiate."""
        return self._with(has_gradient=False)

    def _with(self, **changes: Any) -> Sample:
        other = copy.copy(self)
        other.__dict__.update(changes)
        return other


class Error:
    """A call that must raise `type` with `text` somewhere in its message."""

    def __init__(self, type: type[Exception], text: str, /, *inputs: Any, **attrs: Any):
        self.type, self.text, self.inputs, self.attrs = type, text, inputs, attrs
        self.name = text
        self.is_cpu_only = False

    def on_cpu(self) -> Error:
        """Raised on the CPU only: about float16, or about values, which the host does not read on a device."""
        self.is_cpu_only = True
        return self

    def __repr__(self) -> str:
        return f"Error({self.type.__name__}, {self.text!r})"


class Bench:
    """One row of `python -m bench`.

    Args:
        inputs, attrs: as in a Sample.
        flops: floating-point operations of the forward pass (an FMA counts two).
        bytes: bytes that the forward pass moves if every operand is touched once, in float32 (scaled by the
            element size for other dtypes); by default those of operands and results.
        torch, numpy: rivals, called with the inputs (tensors or arrays) only; attributes are written inside.
        backward: True adds a row for the gradients of all floating inputs.
        backward_flops: by default twice `flops`.
        dtypes: dtypes of the rows.
    """

    def __init__(
        self,
        name: str,
        /,
        *inputs: Any,
        flops: float = 0,
        bytes: float | None = None,
        torch: Callable | None = None,
        numpy: Callable | None = None,
        backward: bool = False,
        backward_flops: float | None = None,
        dtypes: Sequence[str] = ("float32",),
        **attrs: Any,
    ):
        self.name, self.inputs, self.attrs = name, inputs, attrs
        self.flops, self.bytes, self.torch, self.numpy = flops, bytes, torch, numpy
        self.backward, self.dtypes = backward, dtypes
        self.backward_flops = 2 * flops if backward_flops is None else backward_flops

    def __repr__(self) -> str:
        return f"Bench({self.name!r})"


@dataclass
class Case:
    """An op's behaviour.

    Args:
        op: name in `lamina.functional`.
        reference: obviously right NumPy, computing in the dtype of its inputs; returns an array or a tuple.
            Called with float64 for the truth and with the working dtype (float32 for short dtypes) for the
            tolerance.
        dtypes: values taken by the dtype of every Arr that names none.
        gradients: positions of the inputs that have gradients; None means every floating input, () none.
        mutates: positions of inputs that the op updates in place. The reference then returns the outputs,
            followed by the new values of these inputs.
        wide_outputs: positions of outputs that stay float32 where the inputs are bfloat16 or float16.
        family: selects the case in `python -m bench <family>`; by default the op's name.
    """

    op: str
    reference: Callable
    samples: Sequence[Sample]
    dtypes: Sequence[str] = ("float32", "bfloat16", "float64")
    errors: Sequence[Error] = ()
    bench: Sequence[Bench] = ()
    gradients: Sequence[int] | None = None
    mutates: Sequence[int] = ()
    wide_outputs: Sequence[int] = ()
    family: str = field(default="")

    def __post_init__(self):
        self.family = self.family or self.op
        for group in (self.samples, self.bench):
            names = [entry.name for entry in group]
            if len(set(names)) != len(names):
                raise ValueError(f"case {self.op}: sample names repeat: {sorted(names)}")

    def dtypes_of(self, sample: Sample) -> Sequence[str]:
        return self.dtypes if sample.dtypes is None else sample.dtypes


def materialise(
    case: Case, sample: Sample | Error | Bench, dtype: str, layout: str | None = None, salt: str = ""
) -> list[Any]:
    """The inputs of a sample as NumPy arrays. The values depend on op, sample name and position only.

    Args:
        dtype: dtype of every Arr that names none, and of floating NumPy inputs.
        layout: replaces "contiguous" in every Arr that keeps the default layout.
        salt: another one gives other values.
    """
    rng = np.random.default_rng(zlib.crc32(f"{case.op}/{sample.name}{salt}".encode()))

    def build(entry):
        if isinstance(entry, (list, tuple)):
            return [build(e) for e in entry]
        if isinstance(entry, np.ndarray):
            return entry.astype(numpy_dtype(dtype)) if is_floating(entry.dtype) else entry.copy()
        if isinstance(entry, Arr):
            values = entry.values(rng)
            with np.errstate(over="ignore", under="ignore"):
                values = values.astype(entry.dtype_under(dtype))
            return lay_out(values, layout if layout and entry.layout == "contiguous" else entry.layout)
        return entry

    return [build(entry) for entry in sample.inputs]


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """The cases of every module in this package, by module name (a module called `_name` holds none)."""
    cases: list[Case] = []
    for info in pkgutil.iter_modules(__path__):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"{__name__}.{info.name}")
            cases += module.cases if hasattr(module, "cases") else [module.case]
    return tuple(cases)
