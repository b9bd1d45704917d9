"""Lamina: a fast, small layer library.

Hand-written kernels, an autograd tape and PyTorch-named layers:

>>> import lamina
>>> from lamina import nn, optim
>>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
>>> model(lamina.ones(2, 8)).shape
(2, 4)
"""

from lamina import _C, cuda, functional, nn, optim, random
from lamina._C import (
    Tape,
    bfloat16,
    bool,
    dtype,
    empty_cache,
    float16,
    float32,
    float64,
    get_float32_precision,
    get_num_threads,
    int32,
    int64,
    memory_stats,
    set_cache_limit,
    set_float32_precision,
    set_num_threads,
    uint8,
)
from lamina.checkpoint import load, load_metadata, save
from lamina.creation import (
    arange,
    bernoulli,
    empty,
    eye,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    rand,
    randint,
    randn,
    randperm,
    zeros,
    zeros_like,
)
from lamina.devices import device
from lamina.movement import Tensor
from lamina.paths import get_cmake_dir, get_include
from lamina.random import Generator, manual_seed
from lamina.record import record
from lamina.tape import Function, value_and_grad
from lamina.tensor import asarray, from_dlpack, from_numpy, tensor

__version__: str = _C.__version__

__all__ = [
    "Function",
    "Generator",
    "Tape",
    "Tensor",
    "arange",
    "asarray",
    "bernoulli",
    "bfloat16",
    "bool",
    "cuda",
    "device",
    "dtype",
    "empty",
    "empty_cache",
    "eye",
    "float16",
    "float32",
    "float64",
    "from_dlpack",
    "from_numpy",
    "full",
    "full_like",
    "functional",
    "get_cmake_dir",
    "get_float32_precision",
    "get_include",
    "get_num_threads",
    "int32",
    "int64",
    "linspace",
    "load",
    "load_metadata",
    "manual_seed",
    "memory_stats",
    "nn",
    "ones",
    "ones_like",
    "optim",
    "rand",
    "randint",
    "randn",
    "random",
    "randperm",
    "record",
    "save",
    "set_cache_limit",
    "set_float32_precision",
    "set_num_threads",
    "tensor",
    "uint8",
    "value_and_grad",
    "zeros",
    "zeros_like",
]
