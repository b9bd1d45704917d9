"""matmul: NumPy reference, samples, errors and bench shapes."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def reference(a, b, *, transpose_a=False, transpose_b=False):
    return np.matmul(a.swapaxes(-1, -2) if transpose_a else a, b.swapaxes(-1, -2) if transpose_b else b)


def square(n, *dtypes):
    return Bench(
        f"square {n}", Arr(n, n), Arr(n, n), flops=2 * n**3, torch=lambda a, b: a @ b, numpy=np.matmul,
        dtypes=dtypes or ("float32",),
    )  # fmt: skip


def product(name, M, K, N, **attrs):
    """One product; with transpose_b, b lies as the weight of a linear layer does."""
    b = Arr(N, K) if attrs.get("transpose_b") else Arr(K, N)
    return Bench(
        name, Arr(M, K), b, flops=2 * M * K * N,
        torch=(lambda a, b: a @ b.T) if attrs.get("transpose_b") else (lambda a, b: a @ b), **attrs,
    )  # fmt: skip


# One row of a and one column of b hold what must spread: NaN and infinities, over signs and zeros.
SPECIAL_A = np.ones((4, 9))
SPECIAL_A[1, 3], SPECIAL_A[2, 5], SPECIAL_A[3, 8] = np.nan, np.inf, -np.inf
SPECIAL_B = np.ones((9, 19))
SPECIAL_B[5, 2], SPECIAL_B[0, 17], SPECIAL_B[5, 18] = 0, np.nan, -1

case = Case(
    op="matmul",
    reference=reference,
    samples=[
        Sample("one element", Arr(1, 1), Arr(1, 1)),
        Sample("vector by vector", Arr(7), Arr(7)),
        Sample("vector by matrix", Arr(5), Arr(5, 3)),
        Sample("matrix by vector", Arr(3, 5), Arr(5)),
        Sample("vector by batch", Arr(5), Arr(2, 5, 3)),
        Sample("batch by vector", Arr(2, 4, 5), Arr(5)),
        Sample("K = 0", Arr(3, 0), Arr(0, 4)),
        Sample("K = 1", Arr(9, 1), Arr(1, 20)),
        Sample("M = 0", Arr(0, 3), Arr(3, 4)),
        Sample("N = 0", Arr(3, 4), Arr(4, 0)),
        Sample("empty batch", Arr(0, 2, 3), Arr(0, 3, 2)),
        Sample("M = 1", Arr(1, 37), Arr(37, 41)),
        Sample("M = 1, wide", Arr(1, 12), Arr(12, 1100)).no_gradient(),
        Sample("M = 1, b transposed", Arr(1, 37), Arr(41, 37), transpose_b=True),
        Sample("N = 1", Arr(41, 37), Arr(37, 1)),
        Sample("N = 1, a transposed", Arr(37, 41), Arr(37, 1), transpose_a=True),
        Sample("few columns", Arr(40, 9), Arr(9, 3)),
        Sample("prime sizes", Arr(13, 29), Arr(29, 23)),
        *(Sample(f"vector width {d:+d}", Arr(3, 8 + d), Arr(8 + d, 8 + d)) for d in (-1, 0, 1)),
        *(Sample(f"tile {d:+d}", Arr(6 + d, 16), Arr(16, 16 + d)) for d in (-1, 0, 1)),
        *(Sample(f"tile of 512 bits {d:+d}", Arr(12 + d, 17), Arr(17, 64 + d)) for d in (-1, 0, 1)),
        Sample("dots with a remainder", Arr(7, 45), Arr(10, 45), transpose_b=True),
        Sample("dots, strided a", Arr(4, 45, layout="transposed"), Arr(10, 45), transpose_b=True),
        Sample("rows of a large b", Arr(3, 300), Arr(300, 601)).no_gradient(),
        Sample("in place, a large b", Arr(9, 300), Arr(300, 601)).no_gradient(),
        Sample("packed, two blocks of K", Arr(71, 301), Arr(301, 67)).no_gradient(),
        Sample("packed, both transposed", Arr(301, 71), Arr(67, 301), transpose_a=True, transpose_b=True)
        .no_gradient(),
        Sample("several blocks of M, N and K", Arr(400, 530), Arr(530, 1070)).no_gradient().slow(),
        Sample("large K", Arr(2, 20011), Arr(20011, 3)).no_gradient(),
        Sample("large K, dots", Arr(2, 20011), Arr(3, 20011), transpose_b=True).no_gradient(),
        Sample("large K, packed", Arr(20, 20011), Arr(40, 20011), transpose_b=True).no_gradient().slow(),
        Sample("batch", Arr(3, 5, 7), Arr(3, 7, 4)),
        Sample("batch of b alone", Arr(5, 7), Arr(3, 7, 4)),
        Sample("batch of a alone", Arr(3, 5, 7), Arr(7, 4)),
        Sample("batch of a alone, b transposed", Arr(3, 5, 7), Arr(4, 7), transpose_b=True),
        Sample("two batch axes broadcast", Arr(2, 1, 5, 7), Arr(3, 7, 4)),
        Sample("two batch axes, transposed", Arr(2, 1, 7, 5), Arr(3, 4, 7),
               transpose_a=True, transpose_b=True),
        Sample("an axis of one element", Arr(1, 4, 5), Arr(6, 5, 3)),
        Sample("rows in a batch", Arr(6, 1, 9), Arr(9, 17)),
        Sample("batch of heads", Arr(2, 3, 10, 8), Arr(2, 3, 11, 8), transpose_b=True),
        Sample("NaN and infinities", SPECIAL_A, SPECIAL_B).no_gradient(),
        Sample("NaN and infinities, dots", SPECIAL_A, np.ascontiguousarray(SPECIAL_B.T), transpose_b=True)
        .no_gradient(),
    ],
    errors=[
        Error(ValueError, "a sums over 3 elements but b over 4", Arr(2, 3), Arr(4, 5)),
        Error(ValueError, "a sums over 2 elements but b over 3", Arr(2, 3), Arr(3, 5), transpose_a=True),
        Error(ValueError, "batch axes of a and b do not broadcast", Arr(2, 3, 4), Arr(5, 4, 3)),
        Error(ValueError, "a is (); expected one axis or more", Arr(), Arr(3)),
        Error(ValueError, "expected two axes or more to transpose", Arr(3), Arr(3, 2), transpose_a=True),
        Error(TypeError, "a is float32 but b is float64; expected one dtype",
              Arr(2, 2, dtype="float32"), Arr(2, 2, dtype="float64")),
        Error(TypeError, "expected float32, bfloat16 or float64",
              Arr(2, 2, kind="int"), Arr(2, 2, kind="int")),
    ],
    bench=[
        *(square(n) for n in (8, 16, 32, 64, 128)),
        *(square(n, "float32", "bfloat16") for n in (256, 512, 1024)),
        square(2048),
        product("row by matrix", 1, 2048, 2048),
        product("row by weight", 1, 2048, 2048, transpose_b=True),
        product("8 rows by weight", 8, 2048, 2048, transpose_b=True),
        product("matrix by column", 2048, 2048, 1),
        product("outer product", 1024, 1, 1024),
        product("4 columns", 4096, 1024, 4),
        Bench("attention scores", Arr(48, 128, 64), Arr(48, 128, 64), transpose_b=True,
              flops=2 * 48 * 128 * 128 * 64, torch=lambda q, k: q @ k.transpose(1, 2)),
        Bench("attention values", Arr(48, 128, 128), Arr(48, 128, 64), flops=2 * 48 * 128 * 128 * 64,
              torch=lambda p, v: p @ v),
        Bench("many small", Arr(1024, 8, 8), Arr(1024, 8, 8), flops=2 * 1024 * 8**3,
              torch=lambda a, b: a @ b),
    ],
    family="gemm",
)  # fmt: skip
