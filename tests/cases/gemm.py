"""gemm: NumPy reference, samples, errors and bench shapes."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def reference(a, b, c=None, *, alpha=1.0, beta=1.0, transpose_a=False, transpose_b=False):
    y = np.matmul(a.swapaxes(-1, -2) if transpose_a else a, b.swapaxes(-1, -2) if transpose_b else b)
    y = y * y.dtype.type(alpha)
    return y if c is None else y + y.dtype.type(beta) * c


case = Case(
    op="gemm",
    reference=reference,
    samples=[
        Sample("without c", Arr(5, 7), Arr(7, 9), None),
        Sample("alpha", Arr(5, 7), Arr(7, 9), None, alpha=-0.5),
        Sample("c", Arr(5, 7), Arr(7, 9), Arr(5, 9)),
        Sample("alpha and beta", Arr(13, 7), Arr(7, 19), Arr(13, 19), alpha=0.5, beta=-2.0),
        Sample("c as a row", Arr(6, 5), Arr(5, 17), Arr(17), beta=0.5),
        Sample("c as a column", Arr(6, 5), Arr(5, 17), Arr(6, 1), alpha=2.0),
        Sample("c as one element", Arr(6, 5), Arr(5, 17), Arr()),
        Sample("K = 0", Arr(4, 0), Arr(0, 5), Arr(4, 5), beta=3.0),
        Sample("M = 0", Arr(0, 3), Arr(3, 5), Arr(5)),
        Sample("one row", Arr(1, 33), Arr(33, 40), Arr(1, 40), alpha=2.0),
        Sample("one column", Arr(40, 33), Arr(33, 1), Arr(40, 1), beta=0.5),
        Sample("transposed", Arr(7, 5), Arr(9, 7), Arr(5, 9), transpose_a=True, transpose_b=True, alpha=0.5),
        Sample("batch, one c", Arr(3, 5, 7), Arr(3, 7, 4), Arr(5, 4), beta=0.25),
        Sample("batch, c as a row", Arr(3, 5, 7), Arr(7, 4), Arr(4)),
        Sample("batch, c of each", Arr(3, 5, 7), Arr(3, 7, 4), Arr(3, 1, 1)),
        Sample("two blocks of K", Arr(70, 301), Arr(301, 67), Arr(70, 67), alpha=0.5, beta=2.0).no_gradient(),
        Sample("several chunks", Arr(90, 301), Arr(301, 110), Arr(90, 110)).no_gradient(),
        Sample("several chunks, batch", Arr(6, 40, 64), Arr(6, 64, 72), Arr(6, 40, 72)).no_gradient(),
        Sample("few rows, large b", Arr(3, 300), Arr(300, 601), Arr(601), alpha=0.5).no_gradient(),
    ],
    errors=[
        Error(ValueError, "a is (3,); expected two axes or more", Arr(3), Arr(3, 4), None),
        Error(ValueError, "a sums over 3 elements but b over 4", Arr(2, 3), Arr(4, 5), None),
        Error(ValueError, "c is (3, 5); expected a shape that broadcasts to (2, 5)",
              Arr(2, 3), Arr(3, 5), Arr(3, 5)),
        Error(ValueError, "c is (1, 2, 5); expected a shape that broadcasts to (2, 5)",
              Arr(2, 3), Arr(3, 5), Arr(1, 2, 5)),
        Error(TypeError, "c is float64 but a is float32",
              Arr(2, 3, dtype="float32"), Arr(3, 5, dtype="float32"), Arr(5, dtype="float64")),
    ],
    bench=[
        Bench("add a row", Arr(256, 512), Arr(512, 512), Arr(512), flops=2 * 256 * 512 * 512,
              torch=lambda a, b, c: c.expand(256, 512).addmm(a, b)),
        Bench("add a matrix", Arr(256, 512), Arr(512, 512), Arr(256, 512), flops=2 * 256 * 512 * 512,
              torch=lambda a, b, c: c.addmm(a, b)),
    ],
)  # fmt: skip
