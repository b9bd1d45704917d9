"""``lamina.torch.patch``: what it replaces, what it leaves and why; patched models train like those that are not."""

import copy
import io

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
pytest.importorskip("lamina.torch", reason="PyTorch is older than 2.10")
from torch import nn  # noqa: E402

import lamina.torch  # noqa: E402

# --- models in plain PyTorch -------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two 3×3 convolutions and a way around them (He et al. 2015, https://arxiv.org/abs/1512.03385)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """As published, but for `width` channels in the first stage in place of 64."""

    def __init__(self, width=8, classes=10):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.Sequential(*(
            nn.Sequential(Block(widths[i], widths[i + 1], 1 if i == 0 else 2), Block(widths[i + 1], widths[i + 1], 1))
            for i in range(4)
        ))  # fmt: skip
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8 * width, classes)

    def forward(self, x):
        return self.head(self.pool(self.stages(self.stem(x))).flatten(1))


class LanguageModel(nn.Module):
    """The next symbol from those before, by an LSTM."""

    def __init__(self, symbols=50, features=16, units=24):
        super().__init__()
        self.embedding = nn.Embedding(symbols, features)
        self.lstm = nn.LSTM(features, units, num_layers=2, batch_first=True)
        self.head = nn.Linear(units, symbols)

    def forward(self, symbols):
        return self.head(self.lstm(self.embedding(symbols))[0])


def losses(model, batches, optimizer):
    """The loss of a step on each batch."""
    found = []
    loss_function = nn.CrossEntropyLoss()
    for x, target in batches:
        optimizer.zero_grad()
        loss = loss_function(model(x).flatten(0, -2), target.flatten())
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return torch.stack(found)


def images(steps):
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(8, 3, 32, 32, generator=generator).double(), torch.arange(8) + i) for i in range(2)]
    for i in range(steps):
        yield batches[i % 2]


def texts(steps):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        symbols = (torch.randint(50, (6, 1), generator=generator) + 3 * torch.arange(13)) % 50
        yield symbols[:, :-1], symbols[:, 1:]


class Transformer(nn.Module):
    """The next symbol from those before, by causal attention."""

    def __init__(self, symbols=50, features=16, steps=12):
        super().__init__()
        self.embedding, self.places = nn.Embedding(symbols, features), nn.Embedding(steps, features)
        self.encoder = nn.TransformerEncoderLayer(features, 4, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(features, symbols)

    def forward(self, symbols):
        mask = nn.Transformer.generate_square_subsequent_mask(symbols.shape[1])
        x = self.embedding(symbols) + self.places(torch.arange(symbols.shape[1]))
        return self.head(self.encoder(x, mask, is_causal=True))


@pytest.mark.parametrize(
    ("build", "batches", "lr"),
    [(ResNet18, images, 3e-4), (LanguageModel, texts, 2e-2), (Transformer, texts, 2e-2)],
    ids=["ResNet-18", "LSTM", "Transformer"],
)
def test_patched_models_train_like_those_that_are_not(build, batches, lr):
    """In float64: the first steps of Adam are as large for tiny gradients, whose signs rounding decides."""
    torch.manual_seed(0)
    plain = build().double()
    patched = copy.deepcopy(plain)
    report = lamina.torch.patch(patched)
    assert len(report.replaced) > len(report.left)
    want = losses(plain, batches(20), torch.optim.AdamW(plain.parameters(), lr=lr))
    got = losses(patched, batches(20), lamina.torch.optim.AdamW(patched.parameters(), lr=lr))
    assert want[-1] < 0.8 * want[0]
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


# --- what is changed ---------------------------------------------------------------------------------------------


def bits(model, x):
    """Everything by which a model can be told: classes, repr, state, hooks, and what it computes."""
    classes = [(name, type(module), sorted(vars(module))) for name, module in model.named_modules()]
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    torch.manual_seed(0)
    return classes, repr(model), buffer.getvalue(), model(x).detach().numpy().tobytes()


def test_unpatching_restores_every_bit():
    torch.manual_seed(0)
    model = nn.Sequential(ResNet18(4), nn.Softmax(dim=-1), nn.Dropout(0.1)).eval()
    x = torch.randn(2, 3, 32, 32)
    before, parameters = bits(model, x), list(model.parameters())
    lamina.torch.patch(model)
    assert type(model[0].head) is lamina.torch.nn.Linear
    torch.testing.assert_close(model(x), torch.frombuffer(bytearray(before[3]), dtype=torch.float32).reshape(2, 10))
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    lamina.torch.unpatch(model)
    assert bits(model, x) == before


def test_the_report_says_what_was_replaced_and_why_something_was_not():
    class Cautious(nn.Linear):
        pass

    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(inplace=True),
        nn.Hardtanh(),
        Cautious(3, 4),
        nn.LSTM(3, 4, proj_size=2),
        nn.Linear(3, 4),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
        nn.Sequential(nn.Tanh(), nn.Tanh()),
    )
    model[5].forward = lambda x: x
    report = lamina.torch.patch(model)
    assert report.replaced == {"0": "Conv2d", "7.0": "Tanh", "7.1": "Tanh"}
    assert {name: reason.split(":")[0] for name, reason in report.left.items()} == {
        "1": "ReLU", "2": "Hardtanh", "3": "Cautious", "4": "LSTM", "5": "Linear",
        "6": "ParametrizedLinear", "6.parametrizations.weight.0": "_WeightNorm",
    }  # fmt: skip
    for name, reason in {
        "1": "inplace is True; expected False",
        "2": "Lamina has no such layer",
        "3": "a subclass of Linear, which may compute something else",
        "4": "proj_size is 2; expected 0",
        "5": "its forward was replaced",
        "6": "a subclass of Linear",
    }.items():
        assert reason in report.left[name]
    text = str(report)
    assert "3 modules replaced, 7 left to PyTorch" in text
    assert "replaced: 2 × Tanh (7.0, 7.1)" in text
    assert "left: 1 × ReLU: inplace is True; expected False (1)" in text


def test_dtypes_and_devices_without_kernels():
    model = nn.Sequential(nn.Linear(3, 4, dtype=torch.float16), nn.Softmax(dim=-1), nn.Linear(4, 3))
    report = lamina.torch.patch(model)
    assert report.replaced == {"2": "Linear"}
    reason = "parameters are float16; expected float32, bfloat16, float64 on cpu"
    assert report.left == {"0": f"Linear: {reason}", "1": f"Softmax: elsewhere in the model {reason}"}
    assert "unknown device 'meta'" in lamina.torch.patch(nn.Linear(3, 4, device="meta")).left[""]
    assert lamina.torch.patch(nn.Softmax(dim=-1)).replaced == {"": "Softmax"}


def test_only_some():
    def patched(only):
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()), nn.Linear(3, 2))
        report = lamina.torch.patch(model, only=only)
        assert not report.left
        return list(report.replaced)

    assert patched([nn.Linear]) == patched({"Linear"}) == ["0", "2.0", "3"]
    assert patched({"2"}) == ["2.0", "2.1"]
    assert patched(["2.1", nn.Tanh, nn.LSTM]) == ["1", "2.1"]
    assert patched([]) == []
    for entry, name in (("Lineal", "Lineal"), (nn.GRU, "GRU"), ("2.7", "2.7")):
        with pytest.raises(ValueError, match=f"patch: only has {name}; expected modules of the model, or"):
            patched([entry])


def test_patching_again_and_what_was_built_with_lamina():
    model = nn.Sequential(nn.Linear(3, 4), lamina.torch.nn.Tanh())
    assert list(lamina.torch.patch(model).replaced) == ["0"]
    again = lamina.torch.patch(model)
    assert not again.replaced
    assert not again.left


def test_hooks_shared_modules_and_optimizers_stay():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = []
    shared.register_forward_hook(lambda *_: calls.append("hook"))
    assert list(lamina.torch.patch(model).replaced) == ["0", "1"]
    before = shared.weight.detach().clone()
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    assert calls == ["hook", "hook"]
    assert model[0] is model[2] is shared
    assert not torch.equal(shared.weight, before)


def test_a_patched_model_is_copied_and_saved_like_any():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LSTM(6, 2))
    lamina.torch.patch(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (torch.load(buffer, weights_only=False), copy.deepcopy(model)):
        assert [type(m) for m in other.modules()] == [type(m) for m in model.modules()]
        lamina.torch.unpatch(other)
        assert type(other[0]) is nn.Conv2d
    assert type(model[0]) is lamina.torch.nn.Conv2d


# --- wrapped, compiled, scripted ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_compiled_models_follow():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 4)
    want = compiled(x)
    assert len(lamina.torch.patch(compiled).replaced) == 3
    torch.testing.assert_close(compiled(x), want)
    lamina.torch.unpatch(compiled)
    torch.testing.assert_close(compiled(x), want, rtol=0, atol=0)


@pytest.mark.filterwarnings("default")
def test_scripted_models_are_left():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 8), nn.Tanh()))
    model = nn.Sequential(scripted, nn.Linear(8, 2))
    report = lamina.torch.patch(model)
    assert report.replaced == {"1": "Linear"}
    assert all("scripted already" in reason for reason in report.left.values())
    assert len(report.left) == 2


@pytest.mark.filterwarnings("default")
def test_models_wrapped_for_data_parallel_training():
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this PyTorch has no torch.distributed with gloo")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
        assert len(lamina.torch.patch(wrapped).replaced) == 3
        x = torch.randn(3, 4)
        for model in (plain, wrapped):
            model(x).square().sum().backward()
        for p, q in zip(plain.parameters(), wrapped.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)
    finally:
        torch.distributed.destroy_process_group()
