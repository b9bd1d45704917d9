"""Elementwise functions of one tensor."""

import math

import numpy as np

from cases import Arr, Bench, Case, Error, Sample

erf_of_float = np.vectorize(math.erf, otypes=[np.float64])


def erf(x):
    return erf_of_float(x).astype(x.dtype) if x.size else x


def sigmoid(x):
    z = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, z) / (1 + z)


def gelu(x, *, approximate="none"):
    if approximate == "tanh":
        return x * sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))
    return x * (0.5 + 0.5 * erf(x * x.dtype.type(0.7071067811865476)))


def elu(x, *, alpha=1.0):
    return np.where(x > 0, x, x.dtype.type(alpha) * np.expm1(np.minimum(x, 0)))


def leaky_relu(x, *, negative_slope=0.01):
    return np.where(x > 0, x, x * x.dtype.type(negative_slope))


def clamp(x, *, min=-math.inf, max=math.inf):
    if x.dtype.kind in "iu":
        info = np.iinfo(x.dtype)
        min, max = (int(np.clip(bound, info.min, info.max)) for bound in (min, max))
    return np.minimum(np.maximum(x, min), max).astype(x.dtype)


def shapes(kind="normal", **range_):
    """Extents around the vector widths (4, 8, 16 lanes), the sizes of blocks (512) and of tasks (32768)."""

    def arr(*shape, **more):
        return Arr(*shape, kind=kind, **range_, **more)

    return [
        Sample("scalar", arr()),
        Sample("empty", arr(0, 3)),
        Sample("one element", arr(1)),
        Sample("vector width - 1", arr(7)),
        Sample("vector width + 1", arr(17)),
        Sample("prime sizes", arr(3, 5, 7)),
        Sample("short strided rows", arr(90, 3, layout="strided")),
        Sample("long strided rows", arr(3, 1031, layout="strided")).no_gradient(),
        Sample("transposed", arr(37, 65, layout="transposed")).no_gradient(),
        Sample("broadcast row", arr(5, 300, layout="expanded")).no_gradient(),
        Sample("channels last", arr(2, 5, 3, 4, layout="channels_last")),
        Sample("several threads", arr(70001)).only("float32").no_gradient(),
    ]


def bench(name, torch_name=None):
    def torch(x):
        import torch

        return getattr(torch.nn.functional if torch_name else torch, torch_name or name)(x)

    return [
        Bench("4096 x 1024", Arr(4096, 1024), torch=torch, dtypes=("float32", "bfloat16")),
        Bench("64", Arr(64), torch=torch),
    ]


SPECIAL = Sample("NaN, infinities, zeros, subnormals", Arr(100, kind="special")).no_gradient()
WIDE = Sample("wide range", Arr(500, kind="uniform", low=-100, high=100)).no_gradient()


def function(op, reference, *, samples=(), domain="normal", low=None, high=None, **more):
    """A case on floating dtypes: the shapes in its domain, and what lies around it."""
    common = [*shapes(domain, low=low, high=high), SPECIAL, WIDE]
    return Case(op=op, reference=reference, samples=[*common, *samples], family="elementwise", **more)


def integer_samples(**attrs):
    return [
        Sample("int32", Arr(33, kind="int", dtype="int32", low=-9), **attrs).only("float32"),
        Sample("int64", Arr(33, kind="int", low=-9), **attrs).only("float32"),
        Sample("uint8", Arr(33, kind="int", dtype="uint8"), **attrs).only("float32"),
    ]


cases = [
    function("neg", np.negative, samples=integer_samples()),
    function("abs", np.abs, samples=integer_samples()),
    function("sign", np.sign, samples=integer_samples(), gradients=()),
    function("square", np.square, samples=integer_samples()),
    function("exp", np.exp, bench=bench("exp")),
    function("expm1", np.expm1, samples=[Sample("near 0", Arr(50, kind="uniform", low=-1e-4, high=1e-4))]),
    function("log", np.log, domain="positive", bench=bench("log")),
    function(
        "log1p",
        np.log1p,
        domain="uniform",
        low=-0.9,
        high=3,
        samples=[Sample("near 0", Arr(50, kind="uniform", low=-1e-4, high=1e-4))],
    ),
    function("sqrt", np.sqrt, domain="positive"),
    function("rsqrt", lambda x: 1 / np.sqrt(x), domain="positive"),
    function("reciprocal", np.reciprocal, domain="positive"),
    function(
        "sin",
        np.sin,
        bench=bench("sin"),
        samples=[Sample("far from 0", Arr(100, kind="uniform", low=-1e5, high=1e5)).no_gradient()],
    ),
    function(
        "cos",
        np.cos,
        samples=[Sample("far from 0", Arr(100, kind="uniform", low=-1e5, high=1e5)).no_gradient()],
    ),
    function("tanh", np.tanh, bench=bench("tanh")),
    function("sigmoid", sigmoid, bench=bench("sigmoid")),
    function("erf", erf, bench=bench("erf")),
    function("relu", lambda x: np.maximum(x, 0), bench=bench("relu")),
    function("leaky_relu", leaky_relu, samples=[Sample("negative slope", Arr(40), negative_slope=-0.5)]),
    function("elu", elu, samples=[Sample("alpha 0.3", Arr(40), alpha=0.3)]),
    function(
        "gelu",
        gelu,
        errors=[Error(ValueError, "expected 'none' or 'tanh'", Arr(3), approximate="sigmoid")],
        bench=bench("gelu", "gelu"),
        samples=[
            Sample("tanh", Arr(40), approximate="tanh"),
            Sample("tanh, wide range", Arr(500, kind="uniform", low=-100, high=100), approximate="tanh").no_gradient(),
        ],
    ),
    function("silu", lambda x: x * sigmoid(x), bench=bench("silu", "silu")),
    function("softplus", lambda x: np.logaddexp(0, x).astype(x.dtype)),
    function("floor", np.floor, gradients=()),
    function("ceil", np.ceil, gradients=()),
    function("round", np.round, gradients=(), samples=[Sample("ties", np.arange(-8, 8) + 0.5)]),
    function(
        "clamp",
        clamp,
        samples=[
            Sample("both bounds", Arr(40), min=-0.5, max=0.75),
            Sample("min above max", Arr(40), min=1.0, max=-1.0).no_gradient(),
            *integer_samples(min=-3.5, max=4),
        ],
    ),
    function("isnan", np.isnan, gradients=()),
    function(
        "logical_not",
        np.logical_not,
        gradients=(),
        samples=[*integer_samples(), Sample("bool", Arr(33, kind="bool")).only("float32")],
    ),
]
