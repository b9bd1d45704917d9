"""Layers of ``lamina.torch.nn``: PyTorch's in everything but the kernels, forward and backward."""

import copy
import inspect
import math
import pickle

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
nn = pytest.importorskip("lamina.torch.nn", reason="PyTorch is older than 2.10")
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence  # noqa: E402

IMAGES, IMAGE = (2, 6, 9, 8), (6, 9, 8)
SYMBOLS = torch.tensor([[1, 5, 5], [0, 6, 5]])
LAYERS = [  # name, arguments, options, shape of the input, or the input
    *((name, (), {}, (3, 4)) for name in ("ReLU", "SiLU", "Sigmoid", "Tanh", "Softplus", "GELU", "LeakyReLU", "ELU")),
    ("LeakyReLU", (0.2,), {}, (3, 4)),
    ("ELU", (), {"alpha": 0.5}, (3, 4)),
    ("GELU", (), {"approximate": "tanh"}, (3, 4)),
    ("Softmax", (), {"dim": 1}, (2, 5, 3)),
    ("LogSoftmax", (-1,), {}, (2, 5)),
    ("Linear", (5, 3), {}, (4, 5)),
    ("Linear", (5, 3), {"bias": False}, (2, 4, 5)),
    ("Linear", (5, 3), {}, (5,)),
    ("Embedding", (7, 3), {}, SYMBOLS),
    ("Embedding", (7, 4), {"padding_idx": -2}, SYMBOLS),
    ("Conv2d", (6, 4, 3), {}, IMAGES),
    ("Conv2d", (6, 4, 3), {"padding": 1, "stride": 2, "bias": False}, IMAGE),
    ("Conv2d", (6, 4, (3, 2)), {"padding": "same", "dilation": 2, "groups": 2}, IMAGES),
    ("Conv2d", (6, 6, 3), {"padding": "valid", "groups": 6}, IMAGES),
    ("Conv2d", (6, 4, 3), {"padding": (1, 2), "padding_mode": "reflect"}, IMAGES),
    ("Conv2d", (6, 4, 3), {"padding": (2, 1), "padding_mode": "replicate"}, IMAGES),
    ("Conv2d", (6, 4, 3), {"padding": 1, "padding_mode": "circular"}, IMAGES),
    ("Conv2d", (6, 4, 2), {"padding": "same", "padding_mode": "circular"}, IMAGE),
    ("ConvTranspose2d", (6, 4, 3), {}, IMAGES),
    ("ConvTranspose2d", (6, 4, (2, 3)), {"stride": 2, "padding": 1, "output_padding": (0, 1), "groups": 2}, IMAGE),
    ("MaxPool2d", (2,), {}, IMAGES),
    ("MaxPool2d", ((3, 2),), {"stride": 2, "padding": 1, "ceil_mode": True}, IMAGE),
    ("MaxPool2d", (2,), {"dilation": 2, "stride": 1}, IMAGES),
    ("AvgPool2d", (2,), {}, IMAGES),
    ("AvgPool2d", (3,), {"stride": (1, 2), "padding": 1, "count_include_pad": False, "ceil_mode": True}, IMAGE),
    ("AvgPool2d", (2,), {"divisor_override": 3}, IMAGES),
    ("AdaptiveAvgPool2d", (1,), {}, IMAGES),
    ("AdaptiveAvgPool2d", ((3, None),), {}, IMAGE),
    ("AdaptiveMaxPool2d", ((2, 3),), {}, IMAGES),
    ("BatchNorm1d", (4,), {}, (5, 4)),
    ("BatchNorm1d", (4,), {"momentum": None, "eps": 1e-3}, (5, 4, 3)),
    ("BatchNorm2d", (6,), {}, IMAGES),
    ("BatchNorm2d", (6,), {"affine": False, "momentum": 0.4}, IMAGES),
    ("BatchNorm2d", (6,), {"track_running_stats": False}, IMAGES),
    ("LayerNorm", (5,), {}, (3, 4, 5)),
    ("LayerNorm", ((4, 5),), {"bias": False, "eps": 0.1}, (3, 4, 5)),
    ("LayerNorm", (8,), {"elementwise_affine": False}, IMAGES),
    ("RMSNorm", (5,), {}, (3, 5)),
    ("RMSNorm", ((9, 8),), {"eps": 0.1, "elementwise_affine": False}, IMAGES),
    ("GroupNorm", (3, 6), {}, IMAGES),
    ("GroupNorm", (2, 6), {"affine": False, "eps": 0.1}, (4, 6)),
    ("GroupNorm", (6, 6), {}, (2, 6, 5)),
    ("LSTM", (5, 4), {}, (7, 3, 5)),
    ("LSTM", (5, 4), {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False}, (3, 7, 5)),
    ("LSTM", (5, 4), {"batch_first": True}, (7, 5)),
    ("LSTMCell", (5, 4), {}, (3, 5)),
    ("LSTMCell", (5, 4), {"bias": False}, (5,)),
]  # fmt: skip
NAMES = [f"{name}{arguments}{options}" for name, arguments, options, _ in LAYERS]


def pair(name, arguments, options):
    """The layer of both libraries with the same parameters."""
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*arguments, **options)
    ours = getattr(nn, name)(*arguments, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def flat(outputs):
    """The tensors of nested outputs."""
    return [outputs] if isinstance(outputs, torch.Tensor) else [t for o in outputs if o is not None for t in flat(o)]


def check_equal(ours, theirs, *inputs):
    """Outputs, buffers, and gradients of inputs and parameters, twice, as buffers may change."""
    for _ in range(2):
        results = []
        for layer in (ours, theirs):
            leaves = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
            outputs = flat(layer(*leaves))
            differentiable = [y for y in outputs if y.requires_grad]
            dys = [torch.linspace(-1, 1, y.numel()).reshape(y.shape) for y in differentiable]
            wanted = [x for x in (*leaves, *layer.parameters()) if x.requires_grad]
            gradients = torch.autograd.grad(differentiable, wanted, dys, allow_unused=True)
            results.append((outputs, gradients, list(layer.buffers())))
        torch.testing.assert_close(*results, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS, ids=NAMES)
def test_layers_compute_what_pytorch_s_do(name, arguments, options, shape):
    ours, theirs = pair(name, arguments, options)
    assert isinstance(ours, getattr(torch.nn, name))
    assert repr(ours) == repr(theirs)
    assert inspect.signature(type(ours)) == inspect.signature(type(theirs))
    x = shape if isinstance(shape, torch.Tensor) else torch.randn(shape)
    check_equal(ours, theirs, x)
    check_equal(ours.eval(), theirs.eval(), x)
    if x.ndim == 4:
        check_equal(ours, theirs, x.to(memory_format=torch.channels_last))
    for other in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        torch.testing.assert_close(flat(other(x)), flat(ours(x)), rtol=0, atol=0)


def test_every_layer_is_tested_here():
    tested = (
        {name for name, *_ in LAYERS} | {name for name, *_ in LOSSES} | {"Dropout", "Dropout2d", "MultiheadAttention"}
    )
    assert tested == set(nn.__all__) == {c.__name__ for c in nn.COUNTERPARTS.values()}


PADDING = torch.tensor([[False, False, True], [False, False, False]])
CAUSAL = torch.ones(3, 3, dtype=torch.bool).triu(1)
ATTENTION = [  # options, shapes of query, key and value, options of the call
    ({}, [(3, 2, 8)], {}),
    ({"batch_first": True}, [(2, 3, 8)], {"attn_mask": CAUSAL, "is_causal": True}),
    ({"bias": False}, [(3, 8), (5, 8), (5, 8)], {"average_attn_weights": False}),
    ({"kdim": 5, "vdim": 6}, [(4, 2, 8), (3, 2, 5), (3, 2, 6)], {"key_padding_mask": PADDING}),
    ({"batch_first": True}, [(2, 3, 8)], {"attn_mask": CAUSAL, "key_padding_mask": PADDING, "is_causal": True}),
    ({}, [(3, 2, 8)], {"attn_mask": torch.linspace(-1, 1, 36).reshape(4, 3, 3), "key_padding_mask": PADDING.float()}),
]


@pytest.mark.filterwarnings("ignore:Support for mismatched:UserWarning")
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize(("options", "shapes", "call"), ATTENTION, ids=[f"{[*o, *c]}" for o, _, c in ATTENTION])
def test_attention_computes_what_pytorch_s_does(options, shapes, call, need_weights):
    ours, theirs = pair("MultiheadAttention", (8, 2), options)
    assert repr(ours) == repr(theirs)
    xs = [torch.linspace(-2, 2, math.prod(shape)).sin().reshape(shape) for shape in shapes]

    def bound(layer):
        wrapper = Calling(layer)
        wrapper.call = lambda *xs: layer(*(xs * 3 if len(xs) == 1 else xs), need_weights=need_weights, **call)
        return wrapper

    check_equal(bound(ours), bound(theirs), *xs)
    check_equal(bound(ours.eval()), bound(theirs.eval()), *xs)


class Calling(torch.nn.Module):
    """A layer, called in the way of a function that is set later."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *inputs):
        return self.call(*inputs)


def test_attention_drops_weights_in_training():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, dropout=0.5)
    x = torch.randn(5, 2, 8)
    for need_weights in (True, False):
        first, second = (layer(x, x, x, need_weights=need_weights)[0] for _ in range(2))
        assert not torch.equal(first, second)
    layer.eval()
    weighted, fused = (layer(x, x, x, need_weights=need_weights)[0] for need_weights in (True, False))
    torch.testing.assert_close(weighted, fused)


def test_attention_refuses_what_it_does_not_have():
    with pytest.raises(ValueError, match="MultiheadAttention: add_zero_attn is True; expected False"):
        nn.MultiheadAttention(8, 2, add_zero_attn=True)
    with pytest.raises(ValueError, match="is_causal without attn_mask"):
        nn.MultiheadAttention(8, 2)(*[torch.zeros(3, 2, 8)] * 3, is_causal=True)


LOGITS, CLASSES = torch.linspace(-3, 3, 20).reshape(4, 5).sin(), torch.tensor([1, 0, 4, 2])
IGNORED = torch.tensor([1, -100, 4, 4])
PLANES, LABELS = torch.linspace(-9, 9, 60).reshape(2, 5, 3, 2).cos(), torch.arange(12).reshape(2, 3, 2) % 5
PROBABILITIES, WEIGHT = torch.softmax(LOGITS.flip(0), 1), torch.tensor([0.1, 2.0, 0.5, 1.0, 3.0])
LOSSES = [  # name, options, input, target
    ("MSELoss", {}, LOGITS, PROBABILITIES),
    ("L1Loss", {}, LOGITS, PROBABILITIES),
    ("BCEWithLogitsLoss", {}, LOGITS, PROBABILITIES),
    ("BCEWithLogitsLoss", {"weight": WEIGHT, "pos_weight": WEIGHT.flip(0)}, LOGITS, PROBABILITIES),
    ("NLLLoss", {}, torch.log_softmax(LOGITS, 1), CLASSES),
    ("NLLLoss", {"weight": WEIGHT, "ignore_index": 4}, torch.log_softmax(PLANES, 1), LABELS),
    ("CrossEntropyLoss", {}, LOGITS, CLASSES),
    ("CrossEntropyLoss", {}, LOGITS[0], CLASSES[0]),
    ("CrossEntropyLoss", {}, LOGITS, IGNORED),
    ("CrossEntropyLoss", {"weight": WEIGHT, "label_smoothing": 0.1}, LOGITS, IGNORED),
    ("CrossEntropyLoss", {"weight": WEIGHT, "ignore_index": 0, "label_smoothing": 0.2}, PLANES, LABELS),
    ("CrossEntropyLoss", {"weight": WEIGHT, "label_smoothing": 0.3}, LOGITS, PROBABILITIES),
    ("CrossEntropyLoss", {}, PLANES, torch.softmax(PLANES.flip(0), 1)),
]  # fmt: skip


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "options", "x", "target"), LOSSES, ids=[f"{n}{[*o]}" for n, o, *_ in LOSSES])
def test_losses_compute_what_pytorch_s_do(name, options, x, target, reduction):
    theirs = getattr(torch.nn, name)(**options, reduction=reduction)
    ours = getattr(nn, name)(**options, reduction=reduction)
    check_equal(ours, theirs, x, target)


def test_cross_entropy_of_labels_that_are_all_ignored():
    nothing = torch.full((4,), -100)
    assert nn.CrossEntropyLoss()(LOGITS, nothing).isnan() == torch.nn.CrossEntropyLoss()(LOGITS, nothing).isnan()


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "bias": False}], ids=str)
@pytest.mark.parametrize("is_sorted", [True, False])
def test_packed_sequences(options, is_sorted):
    ours, theirs = pair("LSTM", (5, 4), options)
    lengths = [6, 4, 4, 1] if is_sorted else [4, 1, 6, 4]
    groups = options.get("num_layers", 1) * (2 if "bidirectional" in options else 1)
    states = tuple(torch.randn(groups, 4, 4) for _ in range(2))
    x = torch.randn(6, 4, 5)
    for hx in (None, states):

        def run(layer, x, hx=hx):
            packed, (h, c) = layer(pack_padded_sequence(x, lengths, enforce_sorted=is_sorted), hx)
            rest = [t for t in packed[1:] if t is not None]
            return packed.data, h, c, rest

        results = []
        for layer in (ours, theirs):
            leaf = x.clone().requires_grad_()
            data, h, c, rest = run(layer, leaf)
            loss = data.sin().sum() + h.cos().sum() + c.sin().sum()
            results.append((data, h, c, rest, torch.autograd.grad(loss, [leaf, *layer.parameters()])))
        torch.testing.assert_close(*results, rtol=2e-5, atol=2e-5)


def test_packed_sequences_of_a_list():
    ours, theirs = pair("LSTM", (5, 4), {"batch_first": True})  # which packed sequences disregard
    packed = pack_sequence([torch.randn(n, 5) for n in (2, 5, 3)], enforce_sorted=False)
    torch.testing.assert_close(flat(ours(packed)), flat(theirs(packed)))


def test_states_given_to_recurrent_layers():
    ours, theirs = pair("LSTM", (5, 4), {"num_layers": 2, "batch_first": True})
    h, c = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    x = torch.randn(3, 6, 5)
    torch.testing.assert_close(ours(x, (h, c)), theirs(x, (h, c)))
    torch.testing.assert_close(ours(x[0], (h[:, 0], c[:, 0])), theirs(x[0], (h[:, 0], c[:, 0])))
    ours, theirs = pair("LSTMCell", (5, 4), {})
    torch.testing.assert_close(ours(x[0], (h[0, :1].expand(6, 4), c[0, :1].expand(6, 4))),
                               theirs(x[0], (h[0, :1].expand(6, 4), c[0, :1].expand(6, 4))))  # fmt: skip
    torch.testing.assert_close(ours(x[0, 0], (h[0, 0], c[0, 0])), theirs(x[0, 0], (h[0, 0], c[0, 0])))


def test_an_output_size_of_a_transposed_convolution():
    ours, theirs = pair("ConvTranspose2d", (6, 4, 3), {"stride": 2})
    x = torch.randn(2, 6, 4, 4)
    for size in ((9, 10), (10, 9)):
        torch.testing.assert_close(ours(x, output_size=size), theirs(x, output_size=size), rtol=1e-5, atol=1e-5)


def test_indices_of_maxima():
    x = torch.randn(IMAGE)
    for ours, theirs in (pair("MaxPool2d", (2,), {"return_indices": True}),
                         pair("AdaptiveMaxPool2d", (3,), {"return_indices": True})):  # fmt: skip
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "shape"), [("Dropout", (50, 40)), ("Dropout2d", (40, 50, 2, 3))])
def test_dropout(name, shape):
    layer = getattr(nn, name)(0.25)
    x = torch.ones(shape, requires_grad=True)
    y = layer(x)
    assert 0.2 < (y == 0).float().mean() < 0.3
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / 0.75))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], y.detach())
    assert layer.eval()(x) is x
    if name == "Dropout2d":
        assert (y.flatten(2).amin(-1) == y.flatten(2).amax(-1)).all()


def test_dropout_between_layers_of_an_lstm_is_seeded_by_pytorch():
    layer = nn.LSTM(5, 4, num_layers=2, dropout=0.5)
    x = torch.randn(7, 3, 5)
    torch.manual_seed(1)
    first, second = layer(x)[0], layer(x)[0]
    torch.manual_seed(1)
    torch.testing.assert_close(layer(x)[0], first, rtol=0, atol=0)
    assert not torch.equal(first, second)
    layer.eval()
    torch.testing.assert_close(layer(x)[0], layer(x)[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "arguments", "options", "message"),
    [
        ("ReLU", (), {"inplace": True}, "ReLU: inplace is True; expected False"),
        ("Dropout", (0.1, True), {}, "Dropout: inplace is True; expected False"),
        ("Softplus", (2.0,), {}, "Softplus: beta is 2.0; expected 1"),
        ("Softmax", (), {}, "Softmax: dim is None; expected int"),
        ("LSTM", (4, 3), {"proj_size": 2}, "LSTM: proj_size is 2; expected 0"),
        ("Embedding", (4, 3), {"sparse": True}, "Embedding: sparse is True; expected False"),
        ("Embedding", (4, 3), {"scale_grad_by_freq": True}, "Embedding: scale_grad_by_freq is True; expected False"),
        ("Embedding", (4, 3), {"max_norm": 1.0}, "Embedding: max_norm is 1.0; expected None"),
    ],
)
def test_options_without_a_kernel_are_refused(name, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(nn, name)(*arguments, **options)


def test_errors_of_inputs_are_lamina_s():
    with pytest.raises(ValueError, match="linear: "):
        nn.Linear(3, 2)(torch.zeros(4, 5))
    with pytest.raises(ValueError, match="expected 4D input"):
        nn.BatchNorm2d(3)(torch.zeros(4, 3))
    with pytest.raises(TypeError, match="expected"):
        nn.Conv2d(3, 2, 1, dtype=torch.complex64)(torch.zeros(1, 3, 2, 2, dtype=torch.complex64))


def test_short_parameters():
    layer = nn.Linear(8, 4, dtype=torch.bfloat16)
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    assert layer(x).dtype == torch.bfloat16
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias), rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_batch_norm_in_evaluation_under_transforms():
    layers = [layer.eval() for layer in pair("BatchNorm2d", (6,), {})]
    x = torch.randn(3, *IMAGES)

    def total(layer):
        return lambda x: layer(x).sin().sum()

    for transform, operand in ((torch.func.vmap, x), (torch.func.grad, x[0])):
        got, want = (transform(total(layer))(operand) for layer in layers)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_pretrained_embeddings():
    table = torch.randn(7, 3)
    ours, theirs = (library.Embedding.from_pretrained(table, padding_idx=5) for library in (nn, torch.nn))
    assert not ours.weight.requires_grad
    torch.testing.assert_close(ours(SYMBOLS), theirs(SYMBOLS), rtol=0, atol=0)
    with pytest.raises(ValueError, match="embedding: indices has 7; expected 0 to 6"):
        ours(SYMBOLS + 1)


def test_parameters_that_functions_replace():
    layer = nn.LSTM(3, 2)
    zeros = {name: torch.zeros_like(p) for name, p in layer.named_parameters()}
    y, _ = torch.func.functional_call(layer, zeros, torch.randn(4, 1, 3))
    assert y.abs().max() == 0
    conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 2, 1))
    x = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(conv(x), torch.nn.functional.conv2d(x, conv.weight, conv.bias))
