"""The table of ``docs/pytorch.md``: each layer under each transformation does what it says there."""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
nn = pytest.importorskip("lamina.torch.nn", reason="PyTorch is older than 2.10")

pytestmark = pytest.mark.filterwarnings("default")  # PyTorch's compiler warns of itself

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "pytorch.md").read_text()
IMAGES = (2, 4, 6, 6)
LAYERS = {  # every layer that the table names: arguments, and the shape of its input
    "Linear": ((4, 3), (2, 4)),
    "Conv2d": ((4, 3, 3), IMAGES),
    "ConvTranspose2d": ((4, 3, 3), IMAGES),
    "MaxPool2d": ((2,), IMAGES),
    "AvgPool2d": ((2,), IMAGES),
    "AdaptiveAvgPool2d": ((2,), IMAGES),
    "AdaptiveMaxPool2d": ((2,), IMAGES),
    "Embedding": ((5, 3), (5, 3)),  # of its table
    "ReLU": ((), (2, 4)),
    "GELU": ((), (2, 4)),
    "Softmax": ((-1,), (2, 4)),
    "CrossEntropyLoss": ((), (2, 4)),
    "MSELoss": ((), (2, 4)),
    "BatchNorm1d": ((4,), (5, 4)),
    "BatchNorm2d": ((4,), IMAGES),
    "LayerNorm": ((4,), (5, 4)),
    "RMSNorm": ((4,), (5, 4)),
    "GroupNorm": ((2, 4), IMAGES),
    "Dropout": ((), (2, 4)),
    "Dropout2d": ((), IMAGES),
    "MultiheadAttention": ((4, 2), (5, 2, 4)),
    "LSTM": ((4, 3), (5, 2, 4)),
    "LSTMCell": ((4, 3), (2, 4)),
}


def table():
    """(layer, transformation, whether it works) for every cell."""
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")
    )
    for names, *cells in rows:
        for layer in re.findall(r"`(\w+)`", names):
            for transformation, cell in zip(header[1:], cells, strict=True):
                assert cell in ("yes", "no")
                yield layer, transformation, cell == "yes"


def build(name):
    """A function of one tensor that needs gradients, and the tensor."""
    torch.manual_seed(0)
    arguments, shape = LAYERS[name]
    layer = getattr(nn, name)(*arguments)
    x = torch.randn(shape)
    if name == "Embedding":
        return OfWeight(layer, torch.tensor([[1, 4, 4], [0, 2, 4]])), x
    if name == "MultiheadAttention":
        return SelfAttention(layer), x
    if "Loss" not in name:
        return layer, x
    target = torch.arange(2) if name == "CrossEntropyLoss" else torch.zeros(shape)
    return WithTarget(layer, target), x


class OfWeight(torch.nn.Module):
    def __init__(self, layer, x):
        super().__init__()
        self.layer, self.x = layer, x

    def forward(self, weight):
        return torch.func.functional_call(self.layer, {"weight": weight}, (self.x,))


class WithTarget(torch.nn.Module):
    def __init__(self, loss, target):
        super().__init__()
        self.loss, self.target = loss, target

    def forward(self, x):
        return self.loss(x, self.target)


class SelfAttention(torch.nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def total(outputs):
    """A number that depends on all that a layer gives."""
    tensors = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    return sum(total(t) if isinstance(t, tuple) else t.float().square().sum() for t in tensors)


def gradient(function, x):
    torch.manual_seed(1)  # of dropout
    x = x.clone().requires_grad_()
    return torch.autograd.grad(total(function(x)), x)[0]


def backward(layer, x):
    gradient(layer, x)


def no_grad(layer, x):
    with torch.no_grad():
        assert not total(layer(x)).requires_grad


def compiled(layer, x):
    torch._dynamo.reset()
    got = gradient(torch.compile(layer, fullgraph=True, backend="aot_eager"), x)
    torch.testing.assert_close(got, gradient(layer, x))


def func_grad(layer, x):
    want = gradient(layer, x)
    torch.manual_seed(1)
    torch.testing.assert_close(torch.func.grad(lambda x: total(layer(x)))(x), want)


def vmap(layer, x):
    xs = torch.stack([x, x + 1])
    got = torch.func.vmap(lambda x: total(layer(x)), randomness="different")(xs)
    torch.testing.assert_close(got, torch.stack([total(layer(x)) for x in xs]))


def autocast(layer, x):
    with torch.autocast("cpu", torch.bfloat16):
        got = gradient(layer, x)
    torch.testing.assert_close(got, gradient(layer, x), rtol=0.1, atol=0.1)


def export(layer, x):
    layer.eval()
    program = torch.export.export(layer, (x,))
    torch.testing.assert_close(total(program.module()(x)), total(layer(x)))


CHECKS = {
    "backward": backward,
    "no_grad": no_grad,
    "compile": compiled,
    "func.grad": func_grad,
    "vmap": vmap,
    "autocast": autocast,
    "export": export,
}


@pytest.mark.parametrize(("name", "transformation", "works"), list(table()))
def test_the_table_is_true(name, transformation, works):
    layer, x = build(name)
    if works:
        CHECKS[transformation](layer, x)
        return
    with pytest.raises(Exception):  # noqa: B017, PT011
        CHECKS[transformation](layer, x)
