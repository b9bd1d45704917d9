"""Elementwise functions of two tensors that broadcast, and where."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def pairs(kind="normal", **more):
    """Shapes that broadcast in every way, in layouts that share axes and that do not."""

    def arr(*shape, layout="contiguous"):
        return Arr(*shape, kind=kind, layout=layout, **more)

    return [
        Sample("same shape", arr(3, 17), arr(3, 17)),
        Sample("scalar left", arr(), arr(5, 7)),
        Sample("scalar right", arr(40), arr(1)),
        Sample("two scalars", arr(), arr()),
        Sample("empty", arr(0, 3), arr(1, 3)),
        Sample("row", arr(6, 9), arr(9)),
        Sample("column", arr(6, 9), arr(6, 1)),
        Sample("outer", arr(5, 1), arr(1, 11)),
        Sample("more axes right", arr(4), arr(2, 3, 4)),
        Sample("per channel", arr(2, 3, 4, 5), arr(3, 1, 1)),
        Sample("channels last and row-major", arr(2, 3, 4, 5, layout="channels_last"), arr(2, 3, 4, 5)),
        Sample("transposed and row-major", arr(40, 30, layout="transposed"), arr(40, 30)).no_gradient(),
        Sample("strided", arr(9, 11, layout="strided"), arr(9, 11, layout="strided")),
        Sample("long rows, column", arr(3, 2000), arr(3, 1)).no_gradient(),
        Sample("long rows, row", arr(40, 1500), arr(1500)).only("float32").no_gradient(),
        Sample("several threads", arr(70001), arr(70001)).only("float32").no_gradient(),
    ]


def integers(low=-9):
    def arr(*shape, dtype):
        return Arr(*shape, kind="int", dtype=dtype, low=0 if dtype == "uint8" else low)

    return [
        Sample(dtype, arr(4, 33, dtype=dtype), arr(33, dtype=dtype)).only("float32")
        for dtype in ("int32", "int64", "uint8")
    ]


BOOLS = [Sample("bool", Arr(4, 33, kind="bool"), Arr(33, kind="bool")).only("float32")]
SPECIAL = [Sample("NaN, infinities, zeros", Arr(40, 1, kind="special"), Arr(40, kind="special")).no_gradient()]
TIES = [
    Sample("ties", Arr(5, 40, kind="int", dtype="float32", high=3), Arr(40, kind="int", dtype="float32", high=3))
    .only("float32")
    .no_gradient()
]
DO_NOT_BROADCAST = [Error(ValueError, "expected equal extents or 1", Arr(2, 3), Arr(2, 4))]


def bench(name):
    def torch(a, b):
        import torch

        return getattr(torch, name)(a, b)

    return [
        Bench("2048 x 2048", Arr(2048, 2048), Arr(2048, 2048), torch=torch, dtypes=("float32", "bfloat16")),
        Bench("plus a row", Arr(2048, 2048), Arr(2048), torch=torch),
        Bench("plus channels, 28 x 28", Arr(64, 64, 28, 28), Arr(64, 1, 1), torch=torch),
        Bench("4", Arr(4), Arr(4), torch=torch),
    ]


def function(op, reference, samples, **more):
    return Case(op=op, reference=reference, samples=samples, errors=DO_NOT_BROADCAST, family="elementwise", **more)


def comparison(op, reference):
    return function(op, reference, [*pairs(), *integers(), *BOOLS, *SPECIAL, *TIES], gradients=())


def logical(op, reference):
    return function(
        op, reference, [*pairs(kind="bool"), *integers(low=-1), *SPECIAL], dtypes=("float32",), gradients=()
    )


cases = [
    function("add", np.add, [*pairs(), *integers(), *SPECIAL], bench=bench("add")),
    function("sub", np.subtract, [*pairs(), *integers(), *SPECIAL]),
    function("mul", np.multiply, [*pairs(), *integers(), *SPECIAL], bench=bench("mul")),
    function("div", np.divide, [*pairs("positive"), *SPECIAL]),
    function(
        "pow",
        np.power,
        [
            *pairs("positive"),
            Sample("squares", Arr(4, 9, kind="positive"), np.array(2.0)),
            Sample("squares of any sign", Arr(4, 9), np.array(2.0)).no_gradient(),
            Sample("cubes", Arr(4, 9, kind="positive"), np.array(3.0)),
            Sample("zeroth powers", Arr(4, 9), np.array(0.0)).no_gradient(),
        ],
    ),
    function("maximum", np.maximum, [*pairs(), *integers(), *SPECIAL, *TIES]),
    function("minimum", np.minimum, [*pairs(), *integers(), *SPECIAL, *TIES]),
    comparison("eq", np.equal),
    comparison("ne", np.not_equal),
    comparison("lt", np.less),
    comparison("le", np.less_equal),
    comparison("gt", np.greater),
    comparison("ge", np.greater_equal),
    logical("logical_and", np.logical_and),
    logical("logical_or", np.logical_or),
    logical("logical_xor", np.logical_xor),
    Case(
        op="where",
        reference=np.where,
        samples=[
            Sample("same shape", Arr(3, 17, kind="bool"), Arr(3, 17), Arr(3, 17)),
            Sample("all broadcast", Arr(4, 1, kind="bool"), Arr(5), Arr(2, 1, 1)),
            Sample("scalar", Arr(3, 5, kind="bool"), Arr(), Arr(3, 5)),
            Sample("integer condition", Arr(4, 1, kind="int", low=-1, high=2), Arr(4, 9), Arr(9)),
            Sample("empty", Arr(0, kind="bool"), Arr(0), Arr(0)),
            Sample(
                "NaN on the other side",
                np.array([True, False]),
                np.array([1.0, np.nan]),
                np.array([np.inf, 2.0]),
            ),
            Sample("int64", Arr(3, 17, kind="bool"), Arr(3, 17, kind="int"), Arr(17, kind="int")).only("float32"),
        ],
        errors=[Error(ValueError, "expected equal extents or 1", Arr(2, kind="bool"), Arr(3), Arr(3))],
        family="elementwise",
    ),
]
