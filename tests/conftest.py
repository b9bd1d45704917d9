"""Fixtures and options shared by the test files. The run is strict: see [tool.pytest.ini_options]."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import harness
import lamina

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser):
    parser.addoption("--thin", type=int, default=1, metavar="N", help="run every N-th test only")
    parser.addoption(
        "--device", default="cpu", metavar="D", help="run the cases on cpu, cuda or sim (built if need be)"
    )


def pytest_configure(config):
    """Chooses the device of the cases; builds the simulator once for all workers."""
    device = config.getoption("--device")
    if device == "sim" and "LAMINA_SIM_LIBRARY" not in os.environ:
        os.environ["LAMINA_SIM_LIBRARY"] = str(build_simulator())
    lamina._C.check_device(device)
    harness.device = device


def build_simulator() -> Path:
    build = ROOT / "build" / "sim"
    for command in (["cmake", "-S", ROOT / "csrc" / "simt", "-B", build, "-G", "Ninja"], ["ninja", "-C", build]):
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise pytest.UsageError(f"the simulator cannot be built:\n{run.stdout}{run.stderr}")
    return build / "liblamina_sim.so"


def pytest_collection_modifyitems(config, items):
    """Leaves out tests marked slow or large unless `-m` asks for them, and thins what is left."""
    items[:] = items[:: config.getoption("--thin")]
    asked = config.getoption("-m")
    for mark in ("slow", "large"):
        if mark not in asked:
            skip = pytest.mark.skip(reason=f"{mark}: run by pytest -m {mark}")
            for item in items:
                if mark in item.keywords:
                    item.add_marker(skip)


@pytest.fixture
def rng(request) -> np.random.Generator:
    """A generator seeded by the name of the test: the same numbers alone and in company."""
    return np.random.default_rng(list(request.node.nodeid.encode()))


@pytest.fixture(scope="session", autouse=True)
def _canaries():
    """Guard words around every array that the library allocates."""
    lamina._C.set_canaries(True)
    yield
    lamina._C.set_canaries(False)


@pytest.fixture(autouse=True)
def _check_canaries():
    """Fails the test in which an array with overwritten guard words was freed."""
    before = lamina._C.overwritten_canaries()
    yield
    assert lamina._C.overwritten_canaries() == before, "a kernel wrote outside its output"
