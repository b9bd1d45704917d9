"""linear: NumPy reference, samples, errors and bench shapes."""

import math

import numpy as np

from cases import Arr, Bench, Case, Error, Sample


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf, otypes=[x.dtype])(x / x.dtype.type(2**0.5))) / 2,
    "silu": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
}


def reference(x, weight, bias=None, residual=None, *, activation="none"):
    y = x @ weight.T
    if bias is not None:
        y = y + bias
    y = ACTIVATIONS[activation](y)
    return y if residual is None else y + residual


def layer(name, M, K, N, activation="none"):
    def torch_layer(x, w, b):
        import torch.nn.functional as F

        y = F.linear(x, w, b)
        return y if activation == "none" else getattr(F, activation)(y)

    return Bench(
        name, Arr(M, K), Arr(N, K), Arr(N), activation=activation, flops=2 * M * K * N, backward=True,
        torch=torch_layer,
    )  # fmt: skip


case = Case(
    op="linear",
    reference=reference,
    samples=[
        Sample("one feature", Arr(1, 1), Arr(1, 1), Arr(1)),
        Sample("without bias", Arr(5, 7), Arr(9, 7)),
        Sample("bias", Arr(5, 7), Arr(9, 7), Arr(9)),
        Sample("one sample without its axis", Arr(7), Arr(9, 7), Arr(9), activation="silu"),
        Sample("sequence", Arr(2, 3, 7), Arr(9, 7), Arr(9)),
        Sample("sequence, time first in memory", Arr(2, 3, 7, layout="transposed"), Arr(9, 7), Arr(9)),
        Sample("no samples", Arr(0, 7), Arr(9, 7), Arr(9)),
        Sample("no features", Arr(3, 0), Arr(4, 0), Arr(4)),
        Sample("one output", Arr(20, 33), Arr(1, 33), Arr(1), activation="sigmoid"),
        Sample("one sample", Arr(1, 33), Arr(20, 33), Arr(20), activation="tanh"),
        *(Sample(f"{a}", Arr(7, 5), Arr(18, 5), Arr(18), activation=a) for a in list(ACTIVATIONS)[1:]),
        *(Sample(f"{a} with residual", Arr(3, 5), Arr(4, 5), Arr(4), Arr(3, 4), activation=a)
          for a in ACTIVATIONS),
        Sample("residual of a sequence", Arr(2, 3, 5), Arr(4, 5), None, Arr(2, 3, 4), activation="gelu"),
        Sample("many rows", Arr(200, 5), Arr(3, 5), Arr(3), activation="relu"),
        Sample("prime sizes", Arr(23, 29), Arr(31, 29), Arr(31), activation="gelu").no_gradient(),
        Sample("several chunks", Arr(90, 301), Arr(110, 301), Arr(110)).no_gradient(),
        Sample("two blocks of K", Arr(40, 301), Arr(67, 301), Arr(67), activation="relu").no_gradient(),
    ],
    errors=[
        Error(ValueError, "x has 8 features but weight takes 7", Arr(2, 8), Arr(9, 7), Arr(9)),
        Error(ValueError, "weight is (7,); expected (out_features, in_features)", Arr(2, 7), Arr(7)),
        Error(ValueError, "x is (); expected (..., in_features)", Arr(), Arr(9, 7)),
        Error(ValueError, "bias is (7,); expected (9,)", Arr(2, 7), Arr(9, 7), Arr(7)),
        Error(ValueError, "residual is (9,); expected (2, 9)", Arr(2, 7), Arr(9, 7), Arr(9), Arr(9)),
        Error(ValueError, "activation is 'mish'; expected none, relu",
              Arr(2, 7), Arr(9, 7), activation="mish"),
        Error(TypeError, "x is float32 but weight is float64",
              Arr(2, 7, dtype="float32"), Arr(9, 7, dtype="float64")),
        Error(TypeError, "expected float32, bfloat16 or float64",
              Arr(2, 7, kind="int"), Arr(9, 7, kind="int")),
    ],
    bench=[
        layer("mnist, hidden", 64, 784, 512, "relu"),
        layer("mnist, output", 64, 512, 10),
        layer("transformer, up", 512, 768, 3072, "gelu"),
        layer("transformer, down", 512, 3072, 768),
        layer("transformer, square", 512, 768, 768),
        layer("one sample", 1, 1024, 1024),
    ],
)  # fmt: skip
