"""Optimisers against textbook NumPy and against torch.optim; their state, recording, clipping and errors."""

import itertools

import ml_dtypes
import numpy as np
import pytest

import harness
import lamina
from lamina import nn, optim

SHAPES = [(3,), (1,), (17, 5), (0,), (20011,), (2, 3, 4, 5)]
STEPS = 10


@pytest.fixture(autouse=True)
def on_the_device_of_the_run():
    with lamina.device(harness.device):
        yield


def parameters(rng, dtypes=("float32", "float64")):
    return [
        nn.Parameter(lamina.tensor(rng.standard_normal(shape), dtype=dtypes[i % len(dtypes)]))
        for i, shape in enumerate(SHAPES)
    ]


def set_gradients(params, rng):
    """Gives every parameter a random gradient; returns them as NumPy arrays."""
    for p in params:
        p.grad = lamina.tensor(rng.standard_normal(p.shape), dtype=p.dtype)
    return [np.array(p.grad) for p in params]


def values(params):
    return [np.array(p).copy() for p in params]


def assert_close(got, want, ulps):
    """Equal within some units in the last place of the largest element."""
    for x, y in zip(got, want, strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        if x.size:
            bound = ulps * float(ml_dtypes.finfo(x.dtype).eps) * max(1.0, np.abs(y).max())
            np.testing.assert_allclose(x.astype(np.float64), y.astype(np.float64), rtol=0, atol=bound)


class NumpyAdam:
    def __init__(self, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled):
        self.__dict__.update(vars() | {"self": None})
        self.m, self.v, self.vmax, self.t = {}, {}, {}, 0

    def step(self, params, grads):
        self.t += 1
        (b1, b2), t = self.betas, self.t
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            g = -g if self.maximize else g
            if self.decoupled:
                p *= 1 - self.lr * self.weight_decay
            else:
                g = g + self.weight_decay * p
            self.m[i] = b1 * self.m.get(i, 0 * p) + (1 - b1) * g
            self.v[i] = b2 * self.v.get(i, 0 * p) + (1 - b2) * g * g
            self.vmax[i] = np.maximum(self.vmax.get(i, 0 * p), self.v[i])
            root = np.sqrt((self.vmax if self.amsgrad else self.v)[i] / (1 - b2**t))
            p -= self.lr * self.m[i] / (1 - b1**t) / (root + self.eps)


class NumpySGD:
    def __init__(self, lr, momentum, dampening, weight_decay, nesterov, maximize):
        self.__dict__.update(vars() | {"self": None})
        self.b = {}

    def step(self, params, grads):
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            g = (-g if self.maximize else g) + self.weight_decay * p
            if self.momentum:
                self.b[i] = self.momentum * self.b[i] + (1 - self.dampening) * g if i in self.b else g
                g = g + self.momentum * self.b[i] if self.nesterov else self.b[i]
            p -= self.lr * g


ADAM = [
    dict(lr=0.01, betas=betas, eps=1e-8, weight_decay=decay, amsgrad=amsgrad, maximize=maximize)
    for betas, decay, amsgrad, maximize in itertools.product(
        [(0.9, 0.999), (0.0, 0.5)], [0.0, 0.05], [False, True], [False, True]
    )
]
SGD = [
    dict(lr=0.01, momentum=m, dampening=d, weight_decay=w, nesterov=n, maximize=x)
    for m, d, w, n, x in itertools.product([0.0, 0.9], [0.0, 0.3], [0.0, 0.05], [False, True], [False, True])
    if not n or (m and not d)
]
OPTIONS = [
    *[("Adam", o) for o in ADAM],
    *[("AdamW", o) for o in ADAM],
    *[("SGD", o) for o in SGD],
]
IDS = [f"{name}-{'-'.join(str(v) for v in o.values())}" for name, o in OPTIONS]


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=IDS)
def test_against_numpy(name, options, rng):
    params = parameters(rng)
    reference = NumpySGD(**options) if name == "SGD" else NumpyAdam(**options, decoupled=name == "AdamW")
    expected = [p.astype(np.float64) for p in values(params)]
    optimizer = getattr(optim, name)(params, **options)
    for _ in range(STEPS):
        grads = set_gradients(params, rng)
        optimizer.step()
        reference.step(expected, [g.astype(np.float64) for g in grads])
    assert_close(values(params), [e.astype(p.dtype.numpy) for e, p in zip(expected, params, strict=True)], 16)


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=IDS)
def test_against_torch(name, options, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    params = parameters(rng)
    theirs = [torch.from_numpy(p).requires_grad_() for p in values(params)]
    optimizer = getattr(optim, name)(params, **options)
    reference = getattr(torch.optim, name)(theirs, **options)
    for _ in range(STEPS):
        for p, grad in zip(theirs, set_gradients(params, rng), strict=True):
            p.grad = torch.from_numpy(grad.copy())
        optimizer.step()
        reference.step()
    assert_close(values(params), [p.detach().numpy() for p in theirs], 16)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_bfloat16_keeps_state_in_float32(name, rng):
    """Rounding to bfloat16 happens once a step, at the parameter, of what float32 gives for the step."""
    params = parameters(rng, dtypes=("bfloat16",))
    options = SGD[-1] | {"lr": 0.1} if name == "SGD" else ADAM[0] | {"lr": 0.1}
    optimizer = getattr(optim, name)(params, **options)
    for _ in range(STEPS):
        before = [p.astype(np.float64) for p in values(params)]
        reference = [b.copy() for b in before]
        state = {i: {k: np.array(v, np.float64) for k, v in s.items()} for i, s in optimizer.state.items()}
        grads = [g.astype(np.float64) for g in set_gradients(params, rng)]
        one_step(name, options, reference, grads, state)
        optimizer.step()
        for got, want, old in zip(values(params), reference, before, strict=True):
            ulp = 2.0**-8 * np.maximum(np.abs(want), 2.0**-126)
            in_float32 = (
                4 * 2.0**-24 * np.abs(old)
            )  # more than an ULP of the result where the step cancels the parameter
            assert (np.abs(got.astype(np.float64) - want) <= 1.01 * ulp + in_float32).all()
    names = {"momentum_buffer"} if name == "SGD" else {"exp_avg", "exp_avg_sq"}
    assert all(s[k].dtype == "float32" for s in optimizer.state.values() for k in names)


def one_step(name, options, params, grads, state):
    """The textbook step in float64 from a given state."""
    if name == "SGD":
        reference = NumpySGD(**options)
        reference.b = {i: s["momentum_buffer"] for i, s in state.items()}
    else:
        reference = NumpyAdam(**options, decoupled=False)
        reference.m = {i: s["exp_avg"] for i, s in state.items()}
        reference.v = {i: s["exp_avg_sq"] for i, s in state.items()}
        reference.t = int(state[0]["step"]) if state else 0
    reference.step(params, grads)


def quadratic(params, targets):
    loss = lamina.functional.mse_loss(params[0], targets[0])
    for p, t in zip(params[1:], targets[1:], strict=True):
        loss = loss + lamina.functional.mse_loss(p, t)
    return loss


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_recorded_steps_are_eager_steps(name):
    """Step counts, learning rate and clipping factor change under replay."""

    def train(wrap):
        rng = np.random.default_rng(5)
        params = [nn.Parameter(lamina.tensor(rng.standard_normal(s), dtype="float32")) for s in [(4, 3), (7,)]]
        more = {"momentum": 0.9} if name == "SGD" else {"amsgrad": True}
        optimizer = getattr(optim, name)(params, lr=0.1, weight_decay=0.01, **more)

        def step(*targets):
            with lamina.Tape() as tape:
                loss = quadratic(params, targets)
            tape.backward(loss)
            optimizer.step(scale=optim.clip_factor(params, 0.5))
            return loss

        step, losses = wrap(step), []
        for i in range(8):
            optimizer.lr = 0.1 / (i + 1)
            targets = [lamina.tensor(rng.standard_normal(p.shape), dtype="float32") for p in params]
            losses.append(float(step(*targets)))
        return losses, values(params)

    eager, recorded = train(lambda f: f), train(lamina.record)
    assert eager[0] == recorded[0]
    for a, b in zip(eager[1], recorded[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("wrap", [lambda step: step, lamina.record], ids=["eager", "recorded"])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_many_tensors_count_their_own_steps(name, wrap, rng):
    """On devices: more tensors in a piece than a block has threads; tensors of several pieces, and of no elements."""
    options = {
        "SGD": dict(lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0, nesterov=False, maximize=False),
        "Adam": dict(lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, maximize=False),
    }[name]
    sizes = [0, *rng.integers(1, 12, 600), 9000, 0, 270_000, 0]
    params = [nn.Parameter(lamina.tensor(rng.standard_normal(n))) for n in sizes]
    want, grads = values(params), set_gradients(params, rng)
    late = range(0, len(sizes), 3)  # one step fewer
    groups = [[k for k in range(len(sizes)) if k not in late], late]
    references = [NumpySGD(**options) if name == "SGD" else NumpyAdam(**options, decoupled=False) for _ in groups]
    optimizer = getattr(optim, name)(params, **options)
    step = wrap(optimizer.step)
    for k in late:
        params[k].grad = None
    for i in range(6):
        (step if i else optimizer.step)()
        for group, reference in zip(groups, references, strict=True):
            if i or group is not late:
                reference.step([want[k] for k in group], [grads[k] for k in group])
        if i == 0:
            for k in late:
                params[k].grad = lamina.tensor(grads[k])
    assert_close(values(params), want, 100)
    assert [int(optimizer.state[k]["step"].item()) for k in range(4)] == [5, 6, 6, 5]


def test_scale_multiplies_gradients(rng):
    params = parameters(rng)
    others = [nn.Parameter(lamina.tensor(v)) for v in values(params)]
    grads = set_gradients(params, rng)
    for p, g in zip(others, grads, strict=True):
        p.grad = lamina.tensor(g * 0.25)
    optim.SGD(params, lr=0.5).step(scale=lamina.tensor(0.25))
    optim.SGD(others, lr=0.5).step()
    for a, b in zip(values(params), values(others), strict=True):
        np.testing.assert_array_equal(a, b)


def test_parameters_without_gradient_stay_and_keep_their_own_count(rng):
    params = [nn.Parameter(lamina.tensor(rng.standard_normal(4))) for _ in range(3)]
    optimizer = optim.Adam(params, lr=0.1)
    before = values(params)
    params[1].grad = lamina.tensor(np.ones(4))
    optimizer.step()
    np.testing.assert_array_equal(values(params)[0], before[0])
    np.testing.assert_allclose(values(params)[1], before[1] - 0.1, rtol=1e-7)
    assert set(optimizer.state) == {1}
    for p in params:
        p.grad = lamina.tensor(np.ones(4))
    optimizer.step()
    assert [int(optimizer.state[i]["step"].item()) for i in range(3)] == [1, 2, 1]
    np.testing.assert_allclose(values(params)[0], before[0] - 0.1, rtol=1e-7)  # its first step


def test_gradients_in_another_memory_order(rng):
    value = rng.standard_normal((4, 3))
    p, q = nn.Parameter(lamina.tensor(value)), nn.Parameter(lamina.tensor(value))
    grad = rng.standard_normal((3, 4))
    p.grad = lamina.from_numpy(grad.T).to(harness.device)
    q.grad = lamina.tensor(grad.T)
    optim.Adam([p], lr=0.1).step()
    optim.Adam([q], lr=0.1).step()
    np.testing.assert_array_equal(np.array(p), np.array(q))


def test_parameters_in_another_memory_order(rng):
    value, grad = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    p = nn.Parameter(lamina.from_numpy(np.asfortranarray(value)).to(harness.device))
    q = nn.Parameter(lamina.tensor(value))
    p.grad, q.grad = lamina.tensor(grad), lamina.tensor(grad)
    for parameter in (p, q):
        optimizer = optim.Adam([parameter], lr=0.1)
        optimizer.step()
        optimizer.step()
    np.testing.assert_array_equal(np.array(p), np.array(q))


def test_groups_and_learning_rates(rng):
    a, b = (nn.Parameter(lamina.tensor(np.zeros(3))) for _ in range(2))
    optimizer = optim.SGD([{"params": [a], "lr": 1.0}, {"params": b}], lr=0.1)
    for p in (a, b):
        p.grad = lamina.tensor(np.ones(3))
    optimizer.step()
    assert (np.array(a)[0], np.array(b)[0]) == (-1.0, -0.1)
    optimizer.param_groups[1]["lr"] = 0.5
    optimizer.step()
    assert (np.array(a)[0], np.array(b)[0]) == (-2.0, -0.6)
    optimizer.lr = lamina.tensor(2.0)
    optimizer.step()
    assert (np.array(a)[0], np.array(b)[0]) == (-4.0, -2.6)
    assert repr(optimizer).startswith("SGD(\n  group 0: 1 parameters, lr=")


@pytest.mark.parametrize(("name", "more"), [("Adam", {"amsgrad": True}), ("AdamW", {}), ("SGD", {"momentum": 0.9})])
def test_state_dict_continues_a_course(name, more, rng):
    params = parameters(rng)
    optimizer = getattr(optim, name)(params, lr=0.1, **more)
    for _ in range(3):
        set_gradients(params, rng)
        optimizer.step()
    state = optimizer.state_dict()
    assert state["param_groups"][0]["params"] == list(range(len(params)))
    copies = [nn.Parameter(lamina.tensor(v)) for v in values(params)]
    other = getattr(optim, name)(copies)
    other.load_state_dict(state)
    for grad, c in zip(set_gradients(params, rng), copies, strict=True):
        c.grad = lamina.tensor(grad)
    optimizer.step()
    other.step()
    for p, c in zip(values(params), values(copies), strict=True):
        np.testing.assert_array_equal(p, c)
    assert other.lr == 0.1
    assert int(other.state[0]["step"].item()) == 4


@pytest.mark.parametrize(
    ("name", "more"),
    [("Adam", {"amsgrad": True}), ("AdamW", {}), ("SGD", {"momentum": 0.9, "dampening": 0.5})],
)
def test_state_dict_of_torch_continues_a_course(name, more, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    params = [nn.Parameter(lamina.tensor(rng.standard_normal(s))) for s in [(3,), (4, 5)]]
    theirs = [torch.from_numpy(p).requires_grad_() for p in values(params)]
    reference = getattr(torch.optim, name)(theirs, lr=0.1, **more)
    optimizer = getattr(optim, name)(params)
    for step in range(5):
        for p, grad in zip(theirs, set_gradients(params, rng), strict=True):
            p.grad = torch.from_numpy(grad.copy())
        if step == 3:
            for p, t in zip(params, theirs, strict=True):
                p.copy_(lamina.tensor(t.detach().numpy()))
            optimizer.load_state_dict(reference.state_dict())
        reference.step()
        if step >= 3:
            optimizer.step()
    assert_close(values(params), [p.detach().numpy() for p in theirs], 16)


@pytest.mark.parametrize("norm_type", [1.0, 2.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clip_grad_norm_against_torch(norm_type, max_norm, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    params = parameters(rng)[:3]
    grads = set_gradients(params, rng)
    theirs = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in grads]
    for p, g in zip(theirs, grads, strict=True):
        p.grad = torch.from_numpy(g.astype(np.float64))
    want = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    norm = nn.utils.clip_grad_norm_(iter(params), max_norm, norm_type)
    np.testing.assert_allclose(norm.item(), want.item(), rtol=1e-6)
    for p, t in zip(params, theirs, strict=True):
        np.testing.assert_allclose(np.array(p.grad), t.grad.numpy(), rtol=1e-6)


def test_clip_grad_norm_of_gradients_with_gaps(rng):
    p = nn.Parameter(lamina.tensor(np.zeros((2, 3))))
    buffer = rng.standard_normal((4, 6))
    kept = buffer.copy()
    p.grad = lamina.from_numpy(buffer[::2, ::2])
    norm = nn.utils.clip_grad_norm_(p, 0.1).item()
    np.testing.assert_allclose(np.linalg.norm(buffer[::2, ::2]), 0.1, rtol=1e-4)
    np.testing.assert_allclose(norm, np.linalg.norm(kept[::2, ::2]), rtol=1e-12)
    kept[::2, ::2] = buffer[::2, ::2]
    np.testing.assert_array_equal(buffer, kept)


def test_norms_that_are_not_finite():
    p = nn.Parameter(lamina.tensor([1.0, 2.0]))
    p.grad = lamina.tensor([1.0, float("nan")])
    with pytest.raises(RuntimeError, match="the norm is nan; expected a finite one"):
        nn.utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    assert np.array(p.grad)[0] == 1.0
    assert np.isnan(nn.utils.get_total_norm([p.grad]).item())
    assert nn.utils.clip_grad_norm_([nn.Parameter(lamina.tensor([1.0]))], 1.0).item() == 0.0


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda p: optim.Adam([]), ValueError, "params is empty"),
        (lambda p: optim.Adam([p, p]), ValueError, "appears twice"),
        (lambda p: optim.Adam([1.0]), TypeError, "params[0] is a float"),
        (lambda p: optim.Adam([{"params": [p], "beta": 1}]), TypeError, "unknown hyperparameters ['beta']"),
        (lambda p: optim.Adam([p], lr=-1), ValueError, "lr is -1"),
        (lambda p: optim.Adam([p], betas=(0.9, 1.0)), ValueError, "betas[1] is 1.0"),
        (lambda p: optim.Adam([p], eps=-1e-8), ValueError, "eps is -1e-08"),
        (lambda p: optim.AdamW([p], weight_decay=-1), ValueError, "weight_decay is -1"),
        (lambda p: optim.SGD([p], momentum=-0.1), ValueError, "momentum is -0.1"),
        (lambda p: optim.SGD([p], nesterov=True), ValueError, "nesterov is True with momentum 0.0"),
    ],
)
def test_bad_hyperparameters(make, error, text):
    with pytest.raises(error) as raised:
        make(nn.Parameter(lamina.tensor([1.0])))
    assert text in str(raised.value)


def test_load_state_dict_refuses_other_models(rng):
    optimizer = optim.Adam([nn.Parameter(lamina.tensor(np.ones(3)))])
    optimizer.param_groups[0]["params"][0].grad = lamina.tensor(np.ones(3))
    optimizer.step()
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"groups of \[1\] parameters; expected \[2\]"):
        optim.Adam([nn.Parameter(lamina.tensor(np.ones(3))) for _ in range(2)]).load_state_dict(state)
    with pytest.raises(ValueError, match=r"exp_avg of parameter 0 has shape \(3,\); expected \(4,\)"):
        optim.Adam([nn.Parameter(lamina.tensor(np.ones(4)))]).load_state_dict(state)
    state["param_groups"][0]["amsgrad"] = True
    with pytest.raises(ValueError, match=r"max_exp_avg_sq of parameter 0 is missing"):
        optimizer.load_state_dict(state)


def adam_tensors(p=(3,), g=(3,), m=(3,), dtypes="float32 float32 float32 float32 int64"):
    """param, grad, exp_avg, exp_avg_sq and step of one parameter."""
    shapes = (p, g, m, p, ())
    return [lamina.tensor(np.ones(s), dtype=d) for s, d in zip(shapes, dtypes.split(), strict=True)]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            (lamina.tensor(0.1), None, adam_tensors(g=(4,))),
            ValueError,
            "grads[0] is (4,) but params[0] is (3,)",
        ),
        ((lamina.tensor(0.1), None, adam_tensors(m=(2,))), ValueError, "exp_avgs[0] is (2,)"),
        (
            (lamina.tensor(0.1), None, adam_tensors(dtypes="float32 float64 float32 float32 int64")),
            TypeError,
            "grads[0] is float64",
        ),
        (
            (lamina.tensor(0.1), None, adam_tensors(dtypes="float32 float32 bfloat16 float32 int64")),
            TypeError,
            "exp_avgs[0] is bfloat16",
        ),
        (
            (lamina.tensor(0.1), None, adam_tensors(dtypes="float32 float32 float32 float32 int32")),
            TypeError,
            "steps[0] is int32; expected int64 or float32",
        ),
        ((lamina.tensor(0.1), None, adam_tensors()[:4]), ValueError, "4 tensors; expected 5 groups"),
        ((lamina.tensor([0.1, 0.2]), None, adam_tensors()), ValueError, "lr is (2,)"),
        ((lamina.tensor(1), None, adam_tensors()), TypeError, "lr is int64"),
        ((lamina.tensor(0.1), lamina.tensor([1.0, 2.0]), adam_tensors()), ValueError, "scale is (2,)"),
        ((lamina.tensor(0.1), None, adam_tensors(), 1.0), ValueError, "beta1 is 1; expected 0 <= beta1 < 1"),
        (
            (lamina.tensor(0.1), None, adam_tensors(), 0.9, 0.9, -1.0),
            ValueError,
            "eps is -1; expected at least 0",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_bad_step_is_refused_and_writes_nothing(arguments, error, text):
    before = values(arguments[2])
    with pytest.raises(error) as raised:
        lamina._C.adam_(*arguments)
    assert str(raised.value).startswith("adam_: ")
    assert text in str(raised.value)
    for a, b in zip(before, values(arguments[2]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_parameter_with_gaps_is_refused():
    p = nn.Parameter(lamina.from_numpy(np.ones((4, 4))[:, ::2]))
    p.grad = lamina.tensor(np.ones((4, 2)), device="cpu")
    with lamina.device("cpu"), pytest.raises(ValueError, match=r"sgd_: params\[0\] \(4, 2\) has gaps in memory"):
        optim.SGD([p]).step()
