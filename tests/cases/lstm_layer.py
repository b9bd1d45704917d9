"""lstm_layer: NumPy reference, samples, errors and bench shapes."""

from cases import Arr, Bench, Case, Error, Sample
from cases._lstm import flops, layer, lengths, weights


def reference(
    x,
    weight_ih,
    weight_hh,
    bias_ih=None,
    bias_hh=None,
    h0=None,
    c0=None,
    lengths=None,
    *reverse,
    batch_first=False,
):
    directions = [(weight_ih, weight_hh, bias_ih, bias_hh), *([reverse] if reverse else [])]
    return layer(x, directions, h0, c0, lengths, batch_first=batch_first)


def operands(steps, batch, inputs, hidden, *, state=False, stop=False, both=False, bias=True, batch_first=False):
    """x, weights, states, lengths and the weights of the reverse direction."""
    directions = 2 if both else 1
    return (
        Arr(batch, steps, inputs) if batch_first else Arr(steps, batch, inputs),
        *weights(inputs, hidden, bias=bias),
        *(Arr(directions, batch, hidden) if state else None for _ in range(2)),
        lengths(batch, steps) if stop else None,
        *(weights(inputs, hidden, bias=bias) if both else ()),
    )


def replaced(**changes):
    """Good operands (3 steps, 2 sequences, 5 inputs, 4 units, both directions), some of them replaced."""
    names = ["x", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "h0", "c0", "lengths"]
    names += [name + "_reverse" for name in names[1:5]]
    good = dict(zip(names, operands(3, 2, 5, 4, state=True, stop=True, both=True), strict=True))
    return tuple((good | changes).values())


def torch_layer(x, weight_ih, weight_hh, bias_ih, bias_hh, *_):
    import torch

    zeros = x.new_zeros(1, x.shape[1], weight_hh.shape[1])
    w = (weight_ih, weight_hh, bias_ih, bias_hh)
    return torch.lstm(x, (zeros, zeros), w, True, 1, 0.0, torch.is_grad_enabled(), False, False)


case = Case(
    op="lstm_layer",
    reference=reference,
    samples=[
        Sample("T = B = I = H = 1", *operands(1, 1, 1, 1)),
        Sample("T = 1", *operands(1, 6, 5, 7, state=True)),
        Sample("B = 1", *operands(5, 1, 3, 8, state=True)),
        Sample("few rows, dot products", *operands(2, 2, 4, 5, both=True, state=True)),
        Sample("few rows that stop, dot products", *operands(2, 2, 4, 5, stop=True)),
        Sample("H = vector width - 1", *operands(4, 3, 4, 7)),
        Sample("H = vector width + 1", *operands(4, 3, 4, 9)),
        Sample("H = 17", *operands(3, 4, 5, 17, state=True)),
        Sample("prime sizes", *operands(7, 19, 13, 23, state=True)),
        Sample("no bias", *operands(3, 5, 4, 6, bias=False)),
        Sample("lengths", *operands(6, 7, 5, 4, stop=True, state=True)),
        Sample("lengths, zero states", *operands(6, 7, 5, 4, stop=True)),
        Sample("batch first", *operands(4, 5, 3, 6, batch_first=True), batch_first=True),
        Sample("bidirectional", *operands(5, 4, 3, 6, both=True, state=True)),
        Sample(
            "bidirectional, lengths, batch first, no bias",
            *operands(5, 6, 3, 7, both=True, stop=True, bias=False, batch_first=True, state=True),
            batch_first=True,
        ),
        Sample("blocks of sequences", *operands(3, 40, 6, 5, both=True, stop=True)),
        Sample("more sequences than a step of one launch takes", *operands(2, 70, 3, 5, stop=True)),
        Sample("chunks of steps", *operands(20, 48, 2, 3, both=True, stop=True)).no_gradient(),
        Sample("K in pieces", *operands(3, 5, 300, 270)).no_gradient().only("float32", "bfloat16"),
        Sample("saturated gates", Arr(3, 5, 3, kind="uniform", low=-300, high=300), *operands(3, 5, 3, 4)[1:])
        .no_gradient()
        .only("float32", "bfloat16"),
        Sample("T = 0", *operands(0, 2, 3, 4, state=True)),
        Sample("B = 0", *operands(3, 0, 3, 4)),
    ],
    errors=[
        Error(ValueError, "x is (3, 5); expected (T, B, I)", *replaced(x=Arr(3, 5))),
        Error(ValueError, "x is (3, 5); expected (B, T, I)", *replaced(x=Arr(3, 5)), batch_first=True),
        Error(ValueError, "weight_hh is (16, 5); expected (4H, H)", *replaced(weight_hh=Arr(16, 5))),
        Error(ValueError, "weight_ih is (16, 4); expected (16, 5)", *replaced(weight_ih=Arr(16, 4))),
        Error(ValueError, "bias_ih is (12,); expected (16,)", *replaced(bias_ih=Arr(12))),
        Error(ValueError, "weight_ih_reverse is (16, 4)", *replaced(weight_ih_reverse=Arr(16, 4))),
        Error(ValueError, "weight_hh_reverse is (12, 3)", *replaced(weight_hh_reverse=Arr(12, 3))),
        Error(ValueError, "the reverse direction lacks", *replaced(weight_hh_reverse=None)),
        Error(ValueError, "h0 is given without c0", *replaced(c0=None)),
        Error(ValueError, "c0 is given without h0", *replaced(h0=None)),
        Error(ValueError, "h0 is (1, 2, 4); expected (2, 2, 4)", *replaced(h0=Arr(1, 2, 4))),
        Error(ValueError, "lengths is (3,); expected (2,)", *replaced(lengths=lengths(3, 3))),
        Error(ValueError, "lengths go from 0 to 0", *replaced(lengths=Arr(2, kind="int", low=0, high=1))),
        Error(ValueError, "lengths go from 4 to 4", *replaced(lengths=Arr(2, kind="int", low=4, high=5))),
        Error(TypeError, "lengths is int32", *replaced(lengths=Arr(2, dtype="int32", kind="int", low=1, high=3))),
        Error(TypeError, "x is int64", *replaced(x=Arr(3, 2, 5, kind="int"))),
        Error(TypeError, "c0 is float64 but x is float32", *replaced(c0=Arr(2, 2, 4, dtype="float64"))),
    ],
    bench=[
        Bench(
            f"T{t} B{b} I{i} H{h}",
            *operands(t, b, i, h)[:5],
            flops=flops(t, b, i, h),
            torch=torch_layer,
            backward=True,
        )
        for t, b, i, h in ((32, 1, 64, 128), (64, 32, 128, 256), (128, 64, 256, 512))
    ],
    family="lstm",
)
