"""cast: between all dtypes."""

from cases import Arr, Bench, Case, Sample, numpy_dtype


def reference(x, *, dtype="float32"):
    # The truth of a floating result is the value itself; the harness rounds it.
    target = numpy_dtype(dtype)
    return x if target.kind not in "iub" else x.astype(target)


def rounds(source):
    names = ("float32", "float64", "bfloat16", "float16")
    return [
        Sample(f"{source} to {name}", Arr(3, 37, dtype=source), dtype=name).only(name).no_gradient()
        for name in names
        if name != source
    ]


cases = [
    Case(
        op="cast",
        reference=reference,
        dtypes=("float32",),
        samples=[
            *[
                Sample(f"to {name}", Arr(3, 37, kind="uniform", low=0, high=200), dtype=name)
                for name in ("int32", "int64", "uint8", "bool")
            ],
            Sample("to int32, negative", Arr(3, 37, kind="uniform", low=-200, high=200), dtype="int32"),
            Sample("bool to int64", Arr(40, kind="bool"), dtype="int64"),
            Sample("int64 to bool", Arr(40, kind="int", low=-2, high=3), dtype="bool"),
            Sample("int64 to uint8 wraps", Arr(40, kind="int", low=-2000, high=2000), dtype="uint8"),
            Sample("same dtype", Arr(3, 37), dtype="float32").no_gradient(),
            Sample("float64", Arr(3, 37), dtype="float64").only("float64"),
            Sample("empty", Arr(0, 2), dtype="int32"),
            *rounds("float64"),
            *rounds("bfloat16"),
        ],
        bench=[
            Bench("to bfloat16", Arr(2048, 2048), dtype="bfloat16", torch=lambda x: x.bfloat16()),
        ],
        family="elementwise",
    )
]
