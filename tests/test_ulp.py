"""The error of elementary functions, in units in the last place, over all exponents of float32."""

import math

import numpy as np
import pytest

import lamina
import lamina.functional as F

erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x):
    z = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, z) / (1 + z)


# Bounds as in csrc/simd/math.h, and 1 more for levels without an FMA unit.
FUNCTIONS = {
    "exp": (np.exp, 1.0),
    "expm1": (np.expm1, 1.5),
    "log": (np.log, 0.9),
    "log1p": (np.log1p, 1.4),
    "tanh": (np.tanh, 2.5),
    "sigmoid": (sigmoid, 2.4),
    "softplus": (lambda x: np.logaddexp(0, x), 1.7),
    "erf": (erf, 1.2),
    "sin": (np.sin, 2.4),
    "cos": (np.cos, 2.4),
}


def every_exponent() -> np.ndarray:
    """float32 values of both signs, 200 to a binade, subnormals, infinities and NaN among them."""
    return np.arange(0, 2**32, 2**23 // 199, dtype=np.uint64).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_in_ulp(name):
    reference, bound = FUNCTIONS[name]
    x = np.concatenate([every_exponent(), np.linspace(-20, 20, 40001, dtype=np.float32)])
    y = np.array(getattr(F, name)(lamina.from_numpy(x)))
    with np.errstate(all="ignore"):
        truth = reference(x.astype(np.float64))
        rounded = truth.astype(np.float32)
        finite = np.isfinite(rounded)
        np.testing.assert_array_equal(y[~finite], rounded[~finite])
        ulp = np.spacing(np.abs(rounded[finite])).astype(np.float64)
        error = np.abs(y[finite] - truth[finite]) / ulp
    worst = np.argmax(error)
    assert error[worst] <= bound + (lamina._C.build_info()["isa"] == "baseline"), (
        f"{name}({x[finite][worst]!r}): {error[worst]:.3f} ULP"
    )
