"""Reductions over axes, argmax and argmin, running sums."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def axes(dim):
    return tuple(dim) if isinstance(dim, (tuple, list)) else dim


def reduction(f):
    """A reference from a NumPy reduction: its axis and keepdims are dim and keepdim."""

    def reference(x, *, dim=None, keepdim=False):
        return f(x, axis=axes(dim), keepdims=keepdim)

    return reference


def var(x, *, dim=None, correction=1, keepdim=False):
    deviations = x - np.mean(x, axis=axes(dim), keepdims=True)
    squares = np.sum(deviations * deviations, axis=axes(dim), keepdims=keepdim)
    return squares / np.maximum(x.size / max(squares.size, 1) - correction, 0).astype(x.dtype)


def norm(x, *, dim=None, keepdim=False):
    return np.sqrt(np.sum(x * x, axis=axes(dim), keepdims=keepdim))


def cumsum(x, *, dim=0, reverse=False):
    return np.flip(np.cumsum(np.flip(x, dim), dim), dim) if reverse else np.cumsum(x, dim)


def sum_to(x, *, shape=()):
    x = x.sum(axis=tuple(range(x.ndim - len(shape)))) if x.ndim > len(shape) else x
    repeated = tuple(i for i, extent in enumerate(shape) if extent == 1 and x.shape[i] != 1)
    return x.sum(axis=repeated, keepdims=True) if repeated else x


def shapes(kind="distinct", **rest):
    """Inner, outer and mixed axes; lengths around vectors, leaves (1024 elements, 64 rows), segments (65536)."""

    def arr(*shape, **more):
        return Arr(*shape, **{"kind": kind, **rest, **more})

    return [
        Sample("scalar", arr()),
        Sample("all axes", arr(3, 5, 7)),
        Sample("inner axis", arr(5, 17), dim=-1),
        Sample("outer axis", arr(17, 5), dim=0),
        Sample("middle axis, kept", arr(3, 5, 7), dim=1, keepdim=True),
        Sample("two axes", arr(3, 5, 7), dim=(0, 2)),
        Sample("no axis", arr(3, 5), dim=()),
        Sample("axis of extent 1", arr(3, 1, 5), dim=1),
        Sample("empty result", arr(0, 3), dim=1),
        Sample("leaf + 1", arr(2, 1025), dim=1).no_gradient(),
        Sample("rows of a leaf + 1", arr(65, 9), dim=0).only("float32", "bfloat16").no_gradient(),
        Sample("wide rows", arr(7, 1100), dim=0).no_gradient(),
        Sample("narrow rows", arr(1000, 3), dim=0).only("float32", "bfloat16").no_gradient(),
        Sample("per channel", arr(2, 3, 4, 5), dim=(0, 2, 3)),
        Sample("per channel, channels last", arr(2, 3, 4, 5, layout="channels_last"), dim=(0, 2, 3)),
        Sample("over channels, channels last", arr(2, 3, 4, 5, layout="channels_last"), dim=1),
        Sample("strided", arr(9, 11, layout="strided"), dim=0),
        Sample("transposed", arr(30, 40, layout="transposed"), dim=1).no_gradient(),
        Sample("segments of one sum", arr(200003)).only("float32").no_gradient(),
        Sample("segments of rows", arr(30000, 7), dim=0).only("float32").no_gradient(),
    ]


NONE = [Sample("nothing to reduce", Arr(3, 0), dim=1)]
SPECIAL = [
    Sample("NaN", np.array([[1.0, np.nan, 3.0], [2.0, 5.0, 4.0]]), dim=1).no_gradient(),
    Sample("infinities", np.array([[1.0, np.inf, 3.0], [-np.inf, 5.0, 4.0]]), dim=1).no_gradient(),
]
INTEGERS = [
    Sample("int32", Arr(3, 33, kind="int", dtype="int32", low=-2, high=3), dim=1).only("float32"),
    Sample("int64", Arr(33, 3, kind="int", low=-2, high=3), dim=0).only("float32"),
]
UINT8 = [Sample("uint8", Arr(3, 33, kind="int", dtype="uint8", low=1, high=3), dim=1).only("float32")]
CANCELLING = [Sample("cancelling", Arr(5, 300, layout="misaligned"), dim=0).no_gradient()]
BOOL = [Sample("bool", Arr(3, 33, kind="bool"), dim=0).only("float32")]
EMPTY = [Error(ValueError, "expected at least one element", Arr(3, 0), dim=1)]


def errors():
    return [
        Error(ValueError, "expected an axis of x", Arr(2, 3), dim=2),
        Error(ValueError, "expected distinct axes", Arr(2, 3), dim=(1, -1)),
    ]


def bench(name):
    def torch(**attrs):
        def call(x):
            import torch

            return getattr(torch, name)(x, **attrs)

        return call

    return [
        Bench("all of 4096 x 1024", Arr(4096, 1024), torch=torch()),
        Bench("rows of 4096 x 1024", Arr(4096, 1024), dim=1, torch=torch(dim=1)),
        Bench("columns of 4096 x 1024", Arr(4096, 1024), dim=0, torch=torch(dim=0)),
        Bench("per channel", Arr(32, 64, 56, 56), dim=(0, 2, 3), torch=torch(dim=(0, 2, 3))),
        Bench(
            "per channel, channels last",
            Arr(32, 64, 56, 56, layout="channels_last"),
            dim=(0, 2, 3),
            torch=torch(dim=(0, 2, 3)),
        ),
        Bench("rows of 100000 x 10", Arr(100000, 10), dim=1, torch=torch(dim=1)),
    ]


def case(op, reference, samples, *, more_errors=(), **more):
    return Case(op=op, reference=reference, samples=samples, errors=[*errors(), *more_errors], family="reduce", **more)


TIES = Sample("ties along an axis go to the first", np.array([[2.0, 1.0, 2.0], [0.0, 0.0, 0.0]]), dim=1).no_gradient()
ARG = [
    Sample("flattened", Arr(5, 7, kind="distinct")),
    Sample("flattened, kept", Arr(5, 7, kind="distinct", layout="transposed"), keepdim=True),
    Sample("inner axis", Arr(5, 17, kind="distinct"), dim=1),
    Sample("outer axis, kept", Arr(17, 5, kind="distinct"), dim=0, keepdim=True),
    Sample("middle axis, strided", Arr(3, 5, 7, kind="distinct", layout="strided"), dim=-2),
    Sample("ties", Arr(5, 40, kind="int", dtype="float32", high=3), dim=1),
    Sample("NaN", np.array([[1.0, np.nan, 3.0, np.nan], [2.0, 5.0, 4.0, 5.0]]), dim=1),
    Sample("int64", Arr(5, 40, kind="int"), dim=1),
    Sample("bool", Arr(5, 40, kind="bool"), dim=0),
    Sample("empty result", Arr(0, 7, kind="distinct"), dim=1),
]
ARG_ERRORS = [Error(ValueError, "expected an axis of x", Arr(2, 3), dim=-3), *EMPTY]

cases = [
    case(
        "sum",
        reduction(np.sum),
        [*shapes("positive"), *CANCELLING, *NONE, *SPECIAL, *INTEGERS, *BOOL],
        bench=bench("sum"),
    ),
    case(
        "mean",
        reduction(np.mean),
        [*shapes("positive"), *CANCELLING, *SPECIAL],
        more_errors=[Error(TypeError, "expected a floating dtype", Arr(3, kind="int"))],
    ),
    case(
        "prod",
        reduction(np.prod),
        [
            *(s for s in shapes("positive") if "segments" not in s.name and "leaf" not in s.name),
            *NONE,
            *SPECIAL,
            *INTEGERS,
            Sample("one zero", np.array([[1.5, 0.0, 2.0], [3.0, 0.5, 2.0]]), dim=1),
            Sample("two zeros", np.array([[1.5, 0.0, 0.0], [3.0, 0.5, 2.0]]), dim=1),
        ],
    ),
    case(
        "max",
        reduction(np.max),
        [*shapes(), *SPECIAL, *INTEGERS, *UINT8, TIES],
        more_errors=EMPTY,
        bench=bench("amax"),
    ),
    case("min", reduction(np.min), [*shapes(), *SPECIAL, *INTEGERS, *UINT8, TIES], more_errors=EMPTY),
    case("any", reduction(np.any), [*shapes("bool"), *NONE, *SPECIAL, *INTEGERS], dtypes=("float32",)),
    case("all", reduction(np.all), [*shapes("bool"), *NONE, *SPECIAL, *INTEGERS], dtypes=("float32",)),
    case(
        "var",
        var,
        [
            # one layout only: "expanded" repeats values, and the variance of equal values is all rounding
            *(
                s.no_gradient() if s.name in ("scalar", "axis of extent 1", "no axis") else s
                for s in shapes("normal", layout="misaligned")
            ),
            Sample("far from 0", Arr(4, 500, kind="uniform", low=1000, high=1001), dim=1)
            .only("float32", "float64")
            .no_gradient(),
            Sample("correction 0", Arr(5, 17), dim=1, correction=0),
            Sample("no degree of freedom", Arr(5, 1), dim=1).no_gradient(),
        ],
    ),
    case(
        "norm",
        norm,
        [
            *shapes("positive"),
            *NONE,
            Sample("zero vector", np.zeros((2, 3)), dim=1).no_gradient(),
        ],
    ),
    Case(
        "argmax",
        lambda x, *, dim=None, keepdim=False: np.argmax(x, axis=dim, keepdims=keepdim),
        ARG,
        errors=ARG_ERRORS,
        gradients=(),
        family="reduce",
    ),
    Case(
        "argmin",
        lambda x, *, dim=None, keepdim=False: np.argmin(x, axis=dim, keepdims=keepdim),
        ARG,
        errors=ARG_ERRORS,
        gradients=(),
        family="reduce",
    ),
    Case(
        "cumsum",
        cumsum,
        [
            Sample("vector", Arr(17)),
            Sample("inner axis", Arr(3, 17), dim=-1),
            Sample("outer axis", Arr(17, 3), dim=0),
            Sample("reverse", Arr(3, 17), dim=1, reverse=True),
            Sample("empty", Arr(0, 3)),
            Sample("channels last", Arr(2, 3, 4, 5, layout="channels_last"), dim=1),
            Sample("int32", Arr(33, kind="int", dtype="int32")).only("float32"),
            Sample("long", Arr(100000, kind="uniform", low=0, high=1)).only("float32").no_gradient(),
        ],
        errors=[Error(ValueError, "expected an axis of x", Arr(2, 3), dim=2)],
        family="reduce",
    ),
    Case(
        "sum_to",
        sum_to,
        [
            Sample("same shape", Arr(3, 5), shape=(3, 5)),
            Sample("to a scalar", Arr(3, 5), shape=()),
            Sample("row", Arr(3, 5), shape=(5,)),
            Sample("column", Arr(3, 5), shape=(3, 1)),
            Sample("per channel", Arr(2, 3, 4, 5), shape=(3, 1, 1)),
            Sample("empty", Arr(0, 5), shape=(5,)),
        ],
        errors=[Error(ValueError, "expected a shape that broadcasts", Arr(2, 3), shape=(2,))],
        family="reduce",
    ),
]
