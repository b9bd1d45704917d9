"""Losses as modules give what PyTorch's modules of the same arguments give."""

import numpy as np
import pytest

import lamina
from lamina import nn


def weights(n):
    return np.linspace(0.5, 2, n)


LABELS = np.array([0, 4, 2, 3])
PROBABILITIES = np.linspace(0, 1, 20).reshape(4, 5)

CASES = [
    ("CrossEntropyLoss", {}, LABELS),
    ("CrossEntropyLoss", {"weight": weights(5), "ignore_index": 2, "label_smoothing": 0.1}, LABELS),
    ("CrossEntropyLoss", {"reduction": "sum"}, PROBABILITIES),
    ("NLLLoss", {"weight": weights(5), "ignore_index": 4, "reduction": "none"}, LABELS),
    ("MSELoss", {}, PROBABILITIES),
    ("L1Loss", {"reduction": "sum"}, PROBABILITIES),
    ("BCEWithLogitsLoss", {}, PROBABILITIES),
    ("BCEWithLogitsLoss", {"weight": weights(5), "pos_weight": weights(5)}, PROBABILITIES),
]


@pytest.mark.parametrize(("name", "arguments", "target"), CASES)
def test_loss_module_against_torch(name, arguments, target, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = rng.standard_normal((4, 5))

    def build(library, to_tensor):
        tensors = {k: to_tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
        return getattr(library, name)(**tensors)(to_tensor(x), to_tensor(target))

    want = build(torch.nn, torch.from_numpy).numpy()
    np.testing.assert_allclose(np.array(build(nn, lamina.tensor)), want, rtol=1e-12)
