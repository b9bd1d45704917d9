"""Lamina: a fast, small layer library.

Hand-written kernels, an autograd tape and PyTorch-named layers:

>>> import lamina
>>> from lamina import nn, optim
>>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
>>> model(lamina.ones(2, 8)).shape
(2, 4)
"""

from importlib.metadata import PackageNotFoundError, version

from lamina import functional, nn, optim
from lamina._C import (
    Tape,
    Tensor,
    bfloat16,
    bool,
    dtype,
    empty_cache,
    float16,
    float32,
    float64,
    get_num_threads,
    int32,
    int64,
    memory_stats,
    set_cache_limit,
    set_num_threads,
    uint8,
)
from lamina.record import record
from lamina.tape import Function, value_and_grad
from lamina.tensor import asarray, from_dlpack, from_numpy, tensor

try:
    __version__ = version("lamina")
except PackageNotFoundError:  # a working copy that was built in place
    __version__ = "0+unknown"

__all__ = [
    "Function",
    "Tape",
    "Tensor",
    "asarray",
    "bfloat16",
    "bool",
    "dtype",
    "empty_cache",
    "float16",
    "float32",
    "float64",
    "from_dlpack",
    "from_numpy",
    "functional",
    "get_num_threads",
    "int32",
    "int64",
    "memory_stats",
    "nn",
    "optim",
    "record",
    "set_cache_limit",
    "set_num_threads",
    "tensor",
    "uint8",
    "value_and_grad",
]
