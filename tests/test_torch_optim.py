"""Optimizers of ``lamina.torch``: the steps are PyTorch's, and so are state dicts, schedulers, hooks and scalers."""

import copy
import itertools
import pickle

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
optim = pytest.importorskip("lamina.torch.optim", reason="PyTorch is older than 2.10")

SHAPES = [(3,), (2, 5), (4, 3, 3, 3), (), (17, 31), (0, 4)]
OPTIONS = {
    "SGD": [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True, "maximize": True},
    ],
    "Adam": [{}, {"weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-6}, {"amsgrad": True, "maximize": True}],
    "AdamW": [{}, {"weight_decay": 0.3, "amsgrad": True}],
}
CASES = [(name, options) for name, all_options in OPTIONS.items() for options in all_options]


def parameters(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    values[2] = values[2].to(memory_format=torch.channels_last)
    return [torch.nn.Parameter(v) for v in values]


def set_gradients(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for i, p in enumerate(params):
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        if i == 1 and seed % 3 == 0:
            p.grad = None
        if i == 4:
            p.grad = p.grad.mT.contiguous().mT  # not as the parameter lies


def run(optimizer, params, seeds):
    for seed in seeds:
        set_gradients(params, seed)
        optimizer.step()


def pair(name, options, dtype=torch.float32):
    ours, theirs = parameters(dtype), parameters(dtype)
    return (
        (getattr(optim, name)(ours, lr=0.01, **options), ours),
        (getattr(torch.optim, name)(theirs, lr=0.01, **options), theirs),
    )


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_steps_are_those_of_pytorch(name, options, dtype):
    (ours, got), (theirs, want) = pair(name, options, dtype)
    run(ours, got, range(6))
    run(theirs, want, range(6))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_state_dicts_are_exchanged_with_pytorch_s(name, options):
    (ours, got), (theirs, want) = pair(name, options)
    run(ours, got, range(3))
    run(theirs, want, range(3))
    there, back = ours.state_dict(), theirs.state_dict()
    for i, state in back["state"].items():
        for key, value in state.items():
            torch.testing.assert_close(there["state"][i][key], value, msg=f"{key} of parameter {i}")
    ours, theirs = getattr(optim, name)(got, lr=9.0), getattr(torch.optim, name)(want, lr=9.0)
    ours.load_state_dict(back)
    theirs.load_state_dict(there)
    assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"] == 0.01
    run(ours, got, range(3, 6))
    run(theirs, want, range(3, 6))
    torch.testing.assert_close(got, want)


def test_loaded_state_is_a_copy_that_lies_as_the_parameters_do():
    (theirs, params) = pair("Adam", {})[1]
    run(theirs, params, range(2))
    saved = theirs.state_dict()
    for state in saved["state"].values():
        state["exp_avg"] = state["exp_avg"].contiguous()
    ours = optim.Adam(params)
    ours.load_state_dict(saved)
    before = copy.deepcopy(saved["state"])
    run(ours, params, range(2, 4))
    torch.testing.assert_close(saved["state"], before, rtol=0, atol=0)
    assert ours.state[params[2]]["exp_avg"].stride() == params[2].stride()


@pytest.mark.parametrize("name", OPTIONS)
def test_pickled_and_copied_optimizers_go_on(name):
    options = OPTIONS[name][1]
    (ours, want), _ = pair(name, options)
    run(ours, want, range(2))
    copies = [copy.deepcopy((ours, want)), pickle.loads(pickle.dumps((ours, want)))]
    run(ours, want, range(2, 4))
    for other, got in copies:
        run(other, got, range(2, 4))
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_state_of_short_parameters_is_float32_and_saved_without_loss():
    params = parameters(torch.bfloat16)
    ours = optim.AdamW(params, lr=0.01)
    run(ours, params, range(3))
    assert ours.state[params[0]]["exp_avg"].dtype == torch.float32
    other_params = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = optim.AdamW(other_params)
    other.load_state_dict(ours.state_dict())
    run(ours, params, range(3, 5))
    run(other, other_params, range(3, 5))
    torch.testing.assert_close(params, other_params, rtol=0, atol=0)


def test_groups_and_schedulers():
    def trained(library):
        params = parameters()
        groups = [{"params": params[:2], "lr": 0.1}, {"params": params[2:], "weight_decay": 0.2, "betas": (0.5, 0.6)}]
        optimizer = library.AdamW(groups, lr=0.01)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.1, 0.01], total_steps=6)
        for seed in range(5):
            set_gradients(params, seed)
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            scheduler.step()
        return params

    torch.testing.assert_close(trained(optim), trained(torch.optim))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_learning_rate_may_be_a_tensor(dtype):
    got, want = parameters(), parameters()
    ours = optim.Adam(got, lr=torch.tensor(0.01, dtype=dtype))
    run(ours, got, range(2))
    ours.param_groups[0]["lr"].fill_(0.1)
    run(ours, got, range(2, 4))
    theirs = torch.optim.Adam(want, lr=0.01)
    run(theirs, want, range(2))
    theirs.param_groups[0]["lr"] = 0.1
    run(theirs, want, range(2, 4))
    torch.testing.assert_close(got, want)


def test_closures_hooks_and_grad_scaler():
    p = torch.nn.Parameter(torch.ones(3))
    ours = optim.SGD([p], lr=0.5)
    calls = []
    ours.register_step_pre_hook(lambda *_: calls.append("before"))
    ours.register_step_post_hook(lambda *_: calls.append("after"))

    def closure():
        ours.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        calls.append("closure")
        return loss

    assert ours.step(closure).item() == 3
    assert calls == ["before", "closure", "after"]
    assert p.tolist() == [0, 0, 0]
    assert isinstance(ours, torch.optim.SGD)

    p.data.fill_(1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for factor in (1.0, float("inf")):  # the second step is skipped
        ours.zero_grad()
        scaler.scale((p * p).sum() * factor).backward()
        scaler.step(ours)
        scaler.update()
        assert p.tolist() == [0, 0, 0]


def test_autograd_notices_a_step_before_backward():
    w = torch.nn.Parameter(torch.ones(3))
    x = torch.ones(3, requires_grad=True)
    loss = (w * x).sum()
    w.grad = torch.ones(3)
    optim.Adam([w]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_cannot_be_done_is_refused():
    w = torch.nn.Parameter(torch.ones(3))
    for option in ("capturable", "differentiable"):
        with pytest.raises(ValueError, match=f"Adam: {option} is True; expected False"):
            optim.Adam([w], **{option: True})
    for foreach, fused in itertools.product((None, False, True), repeat=2):
        optim.SGD([w], foreach=foreach, fused=fused)
    with pytest.raises(ValueError, match="Invalid learning rate"):
        optim.Adam([w], lr=-1.0)
    embedding = torch.nn.Embedding(4, 3, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="Adam: a gradient is sparse; expected dense ones"):
        optim.Adam(embedding.parameters()).step()
    gappy = torch.nn.Parameter(torch.ones(4, 4)[:, ::2])
    gappy.grad = torch.ones(4, 2)
    with pytest.raises(ValueError, match=r"adam_: params\[0\].* has gaps in memory"):
        optim.Adam([gappy]).step()
    complex_one = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    complex_one.grad = torch.ones(2, dtype=torch.complex64)
    with pytest.raises(TypeError):
        optim.Adam([complex_one]).step()
