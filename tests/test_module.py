"""Modules: the tree of parameters, state, modes, text; checkpoints."""

import copy
import pickle

import numpy as np
import pytest

import lamina
from lamina import functional as F
from lamina import nn


def make_model():
    lamina.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def test_names_are_those_of_pytorch():
    assert list(make_model().state_dict()) == [
        "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
        "4.weight", "4.bias",
    ]  # fmt: skip
    assert [name for name, _ in make_model().named_parameters()] == [
        "0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias",
    ]  # fmt: skip


def test_shared_parameters_appear_once():
    layer = nn.Linear(3, 3)
    model = nn.ModuleList([layer, layer, nn.Linear(3, 3)])
    assert len(list(model.parameters())) == 4
    assert len(list(model.modules())) == 3


def test_state_round_trip():
    a, b = make_model(), make_model()
    for p in b.parameters():
        p.copy_(lamina.zeros(*p.shape))
    b.load_state_dict(a.state_dict())
    x = lamina.randn(2, 1, 4, 4)
    np.testing.assert_array_equal(a.eval()(x).numpy(), b.eval()(x).numpy())
    assert all(p.data_ptr != q.data_ptr for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_a_wrong_state_is_refused_before_anything_is_written():
    model = nn.Linear(2, 3)
    before = model.weight.numpy().copy()
    with pytest.raises(KeyError, match="missing names"):
        model.load_state_dict({"weight": np.zeros((3, 2))})
    with pytest.raises(KeyError, match="unexpected names"):
        model.load_state_dict({"weight": np.zeros((3, 2)), "bias": np.zeros(3), "extra": np.zeros(1)})
    with pytest.raises(ValueError, match=r"bias has shape \(4,\); expected \(3,\)"):
        model.load_state_dict({"weight": np.zeros((3, 2)), "bias": np.zeros(4)})
    np.testing.assert_array_equal(model.weight.numpy(), before)
    model.load_state_dict({"weight": np.ones((3, 2))}, strict=False)
    assert (model.weight.numpy() == 1).all()


def test_attention_is_its_formula():
    """One head that projects by the identity is softmax(x xᵀ / √E) x; weights make no difference to y."""
    layer = nn.MultiheadAttention(4, 1, batch_first=True)
    assert list(layer.state_dict()) == ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    one = np.eye(4)
    layer.load_state_dict({"in_proj_weight": np.concatenate([one] * 3), "out_proj.weight": one}, strict=False)
    x = lamina.randn(2, 3, 4)
    scores = x.numpy() @ x.numpy().swapaxes(1, 2) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    y, averages = layer(x, x, x)
    np.testing.assert_allclose(averages.numpy(), weights, rtol=1e-5)
    np.testing.assert_allclose(y.numpy(), weights @ x.numpy(), rtol=1e-5, atol=1e-6)
    fused, nothing = layer(x, x, x, need_weights=False)
    assert nothing is None
    np.testing.assert_allclose(fused.numpy(), y.numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="embed_dim is 4, num_heads 3; expected num_heads to divide it"):
        nn.MultiheadAttention(4, 3)


def test_modes_and_apply():
    model = make_model()
    assert all(m.training for m in model.modules())
    assert not any(m.training for m in model.eval().modules())
    seen = []
    model.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear", "Sequential"]


def test_to_casts_floating_state_only():
    model = make_model().to("bfloat16")
    assert model[0].weight.dtype == lamina.bfloat16
    assert model[1].num_batches_tracked.dtype == lamina.int64
    assert isinstance(model[0].weight, nn.Parameter)
    assert model.to("cpu")[0].weight.dtype == lamina.bfloat16
    with pytest.raises(RuntimeError, match="'cuda' is not available"):
        model.to("cuda")


def test_text():
    assert repr(make_model()) == (
        "Sequential(\n"
        "  (0): Conv2d(1, 4, kernel_size=(3, 3), padding=1)\n"
        "  (1): BatchNorm2d(4, eps=1e-05, momentum=0.1, affine=True)\n"
        "  (2): ReLU()\n"
        "  (3): Flatten(start_dim=1, end_dim=-1)\n"
        "  (4): Linear(in_features=64, out_features=3, bias=True)\n"
        ")"
    )


NORMS = [  # layer, the shape in which each row of (3, 4, 5, 6) is normalised, repr
    (nn.LayerNorm(6, bias=False), (60, 6), "LayerNorm((6,), eps=1e-05, elementwise_affine=True)"),
    (nn.LayerNorm([5, 6], 1e-6, elementwise_affine=False), (12, 30),
     "LayerNorm((5, 6), eps=1e-06, elementwise_affine=False)"),
    (nn.RMSNorm(6), (60, 6), "RMSNorm((6,), eps=None, elementwise_affine=True)"),
    (nn.GroupNorm(2, 4), (6, 60), "GroupNorm(2, 4, eps=1e-05, affine=True)"),
    (nn.InstanceNorm2d(4, affine=True), (12, 30),
     "InstanceNorm2d(4, eps=1e-05, momentum=0.1, affine=True, track_running_stats=False)"),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "shape", "text"), NORMS, ids=[text for *_, text in NORMS])
def test_normalisation(layer, shape, text):
    assert repr(layer) == text
    x = np.random.default_rng(0).normal(1, 2, (3, 4, 5, 6)).astype(np.float32)
    rows = x.reshape(shape)
    mean = 0 if isinstance(layer, nn.RMSNorm) else rows.mean(axis=1, keepdims=True)
    want = ((rows - mean) / np.sqrt(np.square(rows - mean).mean(axis=1, keepdims=True))).reshape(x.shape)
    if isinstance(layer, (nn.GroupNorm, nn.InstanceNorm2d)):
        layer.weight.copy_(lamina.arange(1.0, 5.0))
        want = want * np.arange(1, 5)[:, None, None]
    for given in (lamina.tensor(x), lamina.functional.channels_last(lamina.tensor(x))):
        np.testing.assert_allclose(layer(given).numpy(), want, rtol=1e-4, atol=1e-4)
    if isinstance(layer, nn.InstanceNorm2d):
        np.testing.assert_allclose(layer(lamina.tensor(x[1])).numpy(), want[1], rtol=1e-4, atol=1e-4)


def test_parameters_of_normalisation():
    assert list(nn.LayerNorm((2, 3)).state_dict()) == ["weight", "bias"]
    assert nn.LayerNorm((2, 3)).weight.shape == (2, 3)
    assert list(nn.LayerNorm(3, bias=False).state_dict()) == list(nn.RMSNorm(3).state_dict()) == ["weight"]
    for layer in (nn.LayerNorm(3, elementwise_affine=False), nn.RMSNorm(3, elementwise_affine=False),
                  nn.GroupNorm(1, 3, affine=False), nn.InstanceNorm2d(3)):  # fmt: skip
        assert not layer.state_dict()


def test_normalisation_refuses():
    with pytest.raises(ValueError, match="GroupNorm: num_groups is 3; expected a divisor of 4 channels"):
        nn.GroupNorm(3, 4)
    with pytest.raises(ValueError, match="InstanceNorm2d: track_running_stats is True; expected False"):
        nn.InstanceNorm2d(3, track_running_stats=True)
    with pytest.raises(ValueError, match=r"InstanceNorm2d: x is \(2, 4\); expected \(N, 3, H, W\) or \(3, H, W\)"):
        nn.InstanceNorm2d(3)(lamina.ones(2, 4))


def test_copies_are_independent():
    model = make_model()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(other.state_dict()) == list(model.state_dict())
        assert isinstance(other[0].weight, nn.Parameter)
        assert other[0].weight is other._modules["0"]._parameters["weight"]
        other[0].weight.copy_(lamina.zeros(4, 1, 3, 3))
        assert not (model[0].weight.numpy() == 0).all()


def test_attributes_need_the_constructor():
    class Forgetful(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(1, 1)

    with pytest.raises(RuntimeError, match=r"Forgetful: call super\(\)\.__init__\(\)"):
        Forgetful()
    with pytest.raises(NotImplementedError, match="a Module defines forward"):
        nn.Module()(1)


def test_initialisation_is_seeded_and_has_the_moments_of_pytorch():
    lamina.manual_seed(7)
    a = nn.Linear(300, 200)
    lamina.manual_seed(7)
    b = nn.Linear(300, 200)
    np.testing.assert_array_equal(a.weight.numpy(), b.weight.numpy())
    bound = 300**-0.5
    for values in (a.weight.numpy(), a.bias.numpy()):
        assert abs(values).max() <= bound
        assert values.std() == pytest.approx(bound / 3**0.5, rel=0.1)
    w = nn.init.xavier_normal_(lamina.empty(400, 300)).numpy()
    assert w.std() == pytest.approx((2 / 700) ** 0.5, rel=0.02)


def test_embedding(rng):
    lamina.manual_seed(3)
    layer = nn.Embedding(400, 300, padding_idx=-1)
    table = layer.weight.numpy()
    assert (table[-1] == 0).all()
    assert table[:-1].mean() == pytest.approx(0, abs=0.02)
    assert table[:-1].std() == pytest.approx(1, abs=0.02)
    indices = np.array([[7, 399, 2], [7, 0, 399]])
    dy = rng.standard_normal((2, 3, 300)).astype(np.float32)
    with lamina.Tape() as tape:
        y = layer(lamina.tensor(indices))
    tape.backward(y, lamina.tensor(dy))
    np.testing.assert_array_equal(y.numpy(), table[indices])
    want = np.zeros_like(table)
    np.add.at(want, indices, dy)
    want[-1] = 0
    np.testing.assert_allclose(layer.weight.grad.numpy(), want, rtol=1e-6)
    assert repr(layer) == "Embedding(400, 300, padding_idx=399)"
    with pytest.raises(ValueError, match="Embedding: padding_idx is 4; expected one of 4 rows"):
        nn.Embedding(4, 3, padding_idx=4)
    with pytest.raises(TypeError, match="sparse"):
        nn.Embedding(4, 3, sparse=True)


def test_pretrained_embeddings_are_shared_and_frozen(rng):
    table = rng.standard_normal((5, 3)).astype(np.float32)
    layer = nn.Embedding.from_pretrained(lamina.from_numpy(table), padding_idx=1)
    assert list(layer.state_dict()) == ["weight"]
    assert (layer.num_embeddings, layer.embedding_dim) == (5, 3)
    table[2] = 7
    for frozen in (True, False):
        with lamina.Tape() as tape:
            loss = F.sum(layer.freeze(frozen)(lamina.tensor([2, 2, 1])))
        assert float(loss.detach()) == pytest.approx(42 + table[1].sum())
        if not frozen:
            tape.backward(loss)
    np.testing.assert_array_equal(layer.weight.grad.numpy(), [[0] * 3, [0] * 3, [2] * 3, [0] * 3, [0] * 3])
    assert nn.Embedding.from_pretrained(table).weight.is_frozen
    assert not nn.Embedding.from_pretrained(table, freeze=False).weight.is_frozen
    with pytest.raises(ValueError, match=r"Embedding: the table is \(3,\); expected \(V, D\)"):
        nn.Embedding.from_pretrained(table[0])


def test_checkpoint(tmp_path):
    state = {
        "w": lamina.randn(3, 4),
        "b": lamina.tensor([1.5, -2.0], dtype="bfloat16"),
        "n": lamina.tensor(7),
        "t": lamina.from_numpy(np.arange(6.0).reshape(2, 3).T),
        "empty": lamina.zeros(0, 3),
    }
    path = tmp_path / "state.safetensors"
    lamina.save(path, state, {"epoch": "3"})
    loaded = lamina.load(path)
    assert list(loaded) == list(state)
    for name, x in state.items():
        assert loaded[name].dtype == x.dtype
        assert loaded[name].shape == x.shape
        np.testing.assert_array_equal(loaded[name].numpy(), x.numpy())
    assert lamina.load_metadata(path) == {"epoch": "3"}
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.safetensors"
    lamina.save(path, {"x": lamina.ones(2)})
    with pytest.raises(TypeError, match="save: bad is"):
        lamina.save(path, {"x": lamina.zeros(2), "bad": np.array(["text"])})
    assert lamina.load(path)["x"].tolist() == [1, 1]


def test_a_broken_file_is_refused(tmp_path):
    path = tmp_path / "broken.safetensors"
    for data in (b"", b"\x01", b"\xff" * 16, b"\x02\0\0\0\0\0\0\0[]", b"\x10\0\0\0\0\0\0\0" + b'{"x": {"dtype":1}'):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"load: .* cannot be read .*; expected a file in the safetensors format"):
            lamina.load(path)
