"""Random numbers: known answers, distributions, streams, replay, and the same bits everywhere."""

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest

import harness
import lamina
from cases._philox import philox
from lamina import functional as F

# Counter, key, output of Philox4x32-10, from kat_vectors of Random123 1.14 (the library of the paper's authors).
KNOWN_ANSWERS = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_reference_gives_known_answers(counter, key, output):
    assert tuple(int(w[0]) for w in philox([[c] for c in counter], key)) == output


def test_op_gives_known_answer():
    """randint over 2^64 values is the raw bits: outputs 0 and 1 of counter 0 with key 0."""
    state = lamina.tensor([0, 0])
    y = np.array(F.randint(state, shape=(32,), low=-(2**63), high=2**63 - 1))
    words = KNOWN_ANSWERS[0][2]
    exact = [words[0] << 32 | words[1], words[2] << 32 | words[3]]
    for value, bits in zip((y[0], y[16]), exact, strict=True):  # the range is one short of 2^64
        assert int(value) + 2**63 == bits * (2**64 - 1) >> 64


@pytest.fixture
def generator():
    return lamina.Generator(2011)


def kolmogorov_smirnov(samples, cdf):
    """√n sup|F_n - F|: above 1.95 with probability 0.001."""
    x = np.sort(samples.astype(np.float64))
    n = len(x)
    steps = np.arange(n + 1) / n
    values = np.vectorize(cdf)(x)
    return math.sqrt(n) * max((steps[1:] - values).max(), (values - steps[:-1]).max())


def test_uniform_is_uniform(generator):
    y = np.array(lamina.rand(1 << 16, generator=generator))
    assert y.min() >= 0
    assert y.max() < 1
    assert kolmogorov_smirnov(y, lambda v: v) < 1.95


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_is_normal(generator, dtype):
    y = np.array(lamina.randn(1 << 18, dtype=dtype, generator=generator)).astype(np.float64)
    n = len(y)
    # standard errors of the first four moments of n normal numbers
    assert abs(y.mean()) < 4 / math.sqrt(n)
    assert abs((y**2).mean() - 1) < 4 * math.sqrt(2 / n)
    assert abs((y**3).mean()) < 4 * math.sqrt(15 / n)
    assert abs((y**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert kolmogorov_smirnov(y[: 1 << 16], lambda v: 0.5 * math.erfc(-v / math.sqrt(2))) < 1.95


def test_neighbours_are_independent(generator):
    """Correlations at the distances where pairs, registers and tiles meet."""
    y = np.array(lamina.randn(1 << 18, generator=generator)).astype(np.float64)
    for lag in (1, 2, 4, 8, 15, 16, 17, 32, 48, 64, 128):
        assert abs(np.vdot(y[:-lag], y[lag:])) < 4 * math.sqrt(len(y)), lag


def chi_squared(counts):
    """Distance from equal counts, in standard deviations."""
    expected, freedom = counts.mean(), len(counts) - 1
    return (((counts - expected) ** 2).sum() / expected - freedom) / math.sqrt(2 * freedom)


def test_integers_are_equally_likely(generator):
    y = np.array(lamina.randint(-3, 97, (200_000,), generator=generator))
    assert abs(chi_squared(np.bincount(y + 3, minlength=100))) < 4


def test_permutations_are_equally_likely(generator):
    orders = {order: i for i, order in enumerate(itertools.permutations(range(4)))}
    drawn = [orders[tuple(lamina.randperm(4, generator=generator).tolist())] for _ in range(4000)]
    assert abs(chi_squared(np.bincount(drawn, minlength=24))) < 4


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_frequency_of_zeros(generator, p):
    n = 1 << 18
    zeros = (np.array(F.dropout(lamina.ones(n), generator.state, p=p)) == 0).mean()
    ones = np.array(lamina.bernoulli(lamina.full((n,), p), generator=generator)).mean()
    bound = 4 * math.sqrt(p * (1 - p) / n)
    assert abs(zeros - p) < bound
    assert abs(ones - p) < bound


def test_generator_state():
    a, b = lamina.Generator(7), lamina.Generator(7)
    first, second = lamina.rand(100, generator=a).tolist(), lamina.rand(100, generator=a).tolist()
    assert first != second
    assert lamina.rand(100, generator=b).tolist() == first
    assert a.get_state() == (7, 4)
    b.set_state(a.get_state())
    assert lamina.randn(5, generator=a).tolist() == lamina.randn(5, generator=b).tolist()
    assert lamina.rand(100, generator=b.manual_seed(7)).tolist() == first
    assert lamina.rand(100, generator=lamina.Generator(8)).tolist() != first
    assert lamina.Generator(-1).get_state() == lamina.Generator(2**64 - 1).get_state()


def test_default_generator():
    lamina.manual_seed(3)
    first = lamina.randn(10).tolist()
    lamina.manual_seed(3)
    assert lamina.randn(10).tolist() == first
    assert repr(lamina.random.default_generator) == "Generator(seed=3, offset=1)"


def test_replay_draws_new_numbers():
    """A recorded step continues the stream that eager calls would draw, and its backward pass uses its own mask."""

    def step(x):
        with lamina.Tape() as tape:
            tape.watch(x)
            y = F.dropout(x, p=0.5)
        return y, tape.gradient(y, [x], lamina.ones(1000))[0], lamina.randn(8)

    recorded = lamina.record(step)
    x = lamina.ones(1000)
    lamina.manual_seed(5)
    eager = [[np.array(t) for t in step(x)] for _ in range(5)]
    lamina.manual_seed(5)
    replayed = [[np.array(t) for t in recorded(x)] for _ in range(5)]
    for i in range(5):
        for a, b in zip(eager[i], replayed[i], strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(replayed[i][0], replayed[i][1])  # of ones: y and its gradient are the mask
        assert i == 0 or (replayed[i][0] != replayed[i - 1][0]).any()


def test_seed_inside_a_recording_raises():
    step = lamina.record(lambda: lamina.manual_seed(1) and None)
    step()
    with pytest.raises(RuntimeError, match="set_state: a program is being recorded"):
        step()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_dropout_follows_the_layout(generator, layout):
    x = lamina.ones(2, 5, 6, 7)
    x = {"channels_last": F.channels_last(x), "transposed": F.clone(x.permute(3, 2, 1, 0)).permute(3, 2, 1, 0)}.get(
        layout, x
    )
    state = generator.get_state()
    with lamina.Tape() as tape:
        tape.watch(x)
        y = F.dropout(x, generator.state, p=0.4)
    assert y.strides == x.strides
    # in memory order the mask is that of a vector
    flat = F.dropout(lamina.ones(x.size), generator.set_state(state).state, p=0.4)
    in_memory = np.lib.stride_tricks.as_strided(np.array(y, copy=False), (x.size,), (4,))
    np.testing.assert_array_equal(in_memory, np.array(flat))
    # a gradient in another layout meets the same mask
    dy = np.arange(x.size, dtype=np.float32).reshape(x.shape)
    (dx,) = tape.gradient(y, [x], lamina.from_numpy(dy))
    np.testing.assert_array_equal(np.array(dx), np.array(y) * dy)


DRAW_EVERYTHING = """
import hashlib, numpy as np, lamina
from lamina import functional as F
g, digest = lamina.Generator(99), hashlib.sha256()
for n in (1, 65, 5000):
    for dtype in ("float32", "bfloat16", "float64"):
        for y in (
            lamina.rand(n, dtype=dtype, generator=g),
            lamina.randn(n, dtype=dtype, generator=g),
            lamina.bernoulli(lamina.full((n,), 0.3, dtype), generator=g),
            F.dropout(lamina.ones(n, dtype=dtype), g.state, p=0.3),
        ):
            digest.update(np.array(y).tobytes())
    digest.update(np.array(lamina.randint(0, 1000, (n,), generator=g)).tobytes())
    digest.update(np.array(lamina.randperm(n, generator=g)).tobytes())
print(digest.hexdigest())
"""


def test_same_bits_at_every_level():
    """Nothing depends on the instruction set: not the words, nor logarithms, roots and rounding."""
    levels = lamina._C.build_info()["isa_supported"]
    if len(levels) == 1:
        pytest.skip(f"only {levels[0]} is built and supported here")
    digests = {
        level: subprocess.run(
            [sys.executable, "-c", DRAW_EVERYTHING],
            env={**os.environ, "LAMINA_ISA": level},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for level in levels
    }
    assert len(set(digests.values())) == 1, digests


@pytest.mark.parametrize("n", [1, 65, 5000])
def test_same_bits_on_every_device(n):
    """A state gives the same numbers wherever they are drawn; float64 normal numbers come from each device's libm."""
    if harness.device == "cpu":
        pytest.skip("the run is on the CPU; see pytest --device")

    def draw(device):
        generator, drawn = lamina.Generator(99), []
        with lamina.device(device):
            for dtype in ("float32", "bfloat16", "float64"):
                drawn.append(lamina.rand(n, dtype=dtype, generator=generator))
                if dtype != "float64":
                    drawn.append(lamina.randn(n, dtype=dtype, generator=generator))
                drawn.append(lamina.bernoulli(lamina.full((n,), 0.3, dtype), generator=generator))
                drawn.append(F.dropout(lamina.ones(n, dtype=dtype), generator.state_on(device), p=0.3))
            drawn.append(lamina.randint(-5, 1000, (n,), generator=generator))
            drawn.append(lamina.randperm(n, generator=generator))
        return drawn

    for here, there in zip(draw("cpu"), draw(harness.device), strict=True):
        assert there.device == lamina._C.check_device(harness.device)
        assert here.numpy().tobytes() == there.numpy().tobytes()
