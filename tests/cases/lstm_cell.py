"""lstm_cell: NumPy reference, samples, errors and bench shapes."""

from cases import Arr, Bench, Case, Error, Sample
from cases._lstm import cell, flops, weights


def operands(batch, inputs, hidden, **kwargs):
    return Arr(batch, inputs), Arr(batch, hidden), Arr(batch, hidden), *weights(inputs, hidden, **kwargs)


def torch_cell(x, h, c, *w):
    import torch

    return torch.lstm_cell(x, (h, c), *w)


case = Case(
    op="lstm_cell",
    reference=cell,
    samples=[
        Sample("B = 1, I = 1, H = 1", *operands(1, 1, 1)),
        Sample("one sequence, dot products", *operands(1, 5, 7)),
        Sample("four sequences, dot products", *operands(4, 19, 9)),
        Sample("five sequences, packed", *operands(5, 3, 8)),
        Sample("no bias", *operands(3, 4, 5, bias=False)),
        Sample("H = vector width - 1", *operands(7, 8, 15)),
        Sample("H = vector width + 1", *operands(7, 8, 17)),
        Sample("prime sizes", *operands(37, 13, 23)),
        Sample("K in pieces", *operands(6, 300, 270)).no_gradient().only("float32", "bfloat16"),
        Sample("saturated gates", Arr(2, 3, kind="uniform", low=-300, high=300), *operands(2, 3, 4)[1:])
        .no_gradient()
        .only("float32", "bfloat16"),
        Sample("B = 0", *operands(0, 3, 4)),
    ],
    errors=[
        Error(ValueError, "x is (3,)", Arr(3), *operands(2, 3, 4)[1:]),
        Error(ValueError, "h is (2, 5); expected (2, 4)", Arr(2, 3), Arr(2, 5), *operands(2, 3, 4)[2:]),
        Error(
            ValueError,
            "c is (1, 4); expected (2, 4)",
            Arr(2, 3),
            Arr(2, 4),
            Arr(1, 4),
            *operands(2, 3, 4)[3:],
        ),
        Error(ValueError, "weight_ih is (16, 5); expected (16, 3)", *operands(2, 3, 4)[:3], *weights(5, 4)),
        Error(ValueError, "weight_hh is (16, 3)", *operands(2, 3, 4)[:4], Arr(16, 3)),
        Error(ValueError, "bias_ih is (4,); expected (16,)", *operands(2, 3, 4)[:5], Arr(4), Arr(16)),
        Error(ValueError, "bias_hh is (4,); expected (16,)", *operands(2, 3, 4)[:5], Arr(16), Arr(4)),
        Error(
            TypeError,
            "h is float64 but x is float32",
            Arr(2, 3),
            Arr(2, 4, dtype="float64"),
            *operands(2, 3, 4)[2:],
        ),
        Error(TypeError, "x is int64", Arr(2, 3, kind="int"), *operands(2, 3, 4)[1:]),
    ],
    bench=[
        Bench(f"B{b} I{i} H{h}", *operands(b, i, h), flops=flops(1, b, i, h), torch=torch_cell, backward=True)
        for b, i, h in ((1, 10, 20), (1, 128, 256), (32, 128, 256))
    ],
    family="lstm",
)
