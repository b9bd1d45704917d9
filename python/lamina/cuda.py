"""CUDA devices: what there is, memory, streams.

Work is queued on one stream per device, in the order of the program. Nothing waits but reading a value
(``Tensor.numpy()``, ``float(loss)``) and ``synchronize``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lamina import _C
from lamina._C import Tensor


def device_count() -> int:
    """The number of GPUs that can be used; 0 without a driver, a GPU, or kernels for it (``python -m lamina info``)."""
    return int(_C.device_count("cuda"))


def is_available() -> bool:
    """True iff there is at least one usable GPU."""
    return device_count() > 0


def get_device_name(device: str = "cuda") -> str:
    """Name, compute capability, multiprocessors and memory of a GPU."""
    return str(_C.describe_device(device))


def synchronize(device: str = "cuda") -> None:
    """Waits until all work of this thread on the device is done."""
    _C.synchronize(device)


def memory_stats(device: str = "cuda") -> dict[str, int]:
    """Bytes in use, cached and at their peak, and numbers of allocations; as ``lamina.memory_stats`` for the CPU."""
    stats: dict[str, int] = _C.memory_stats(device)
    return stats


def empty_cache(device: str = "cuda") -> None:
    """Gives cached blocks of 2 MiB and more back to the driver."""
    _C.empty_cache(device)


def use_pool_of(library: str) -> None:
    """Takes GPU memory from another library's pool from now on, so that two pools do not starve each other.

    Lamina asks for blocks of 2 MiB and more, rarely, and cuts them up itself.

    Args: library: "cupy", "torch", or "lamina" for the driver itself.

    Raises: ValueError for another name.
    """
    if library not in _POOLS:
        raise ValueError(f"use_pool_of: library is '{library}'; expected one of {', '.join(_POOLS)}")
    _C.set_device_pool(*_POOLS[library]())


def _cupy_pool() -> tuple[Any, Any]:
    import cupy

    held: dict[int, Any] = {}

    def allocate(device: str, size: int) -> int:
        with cupy.cuda.Device(int(device.partition(":")[2])):
            memory = cupy.cuda.alloc(size)
        held[memory.ptr] = memory
        return int(memory.ptr)

    return allocate, lambda device, address: held.pop(address)


def _torch_pool() -> tuple[Any, Any]:
    import torch

    def allocate(device: str, size: int) -> int:
        return int(torch.cuda.caching_allocator_alloc(size, device))

    return allocate, lambda device, address: torch.cuda.caching_allocator_delete(address)


_POOLS: dict[str, Any] = {"cupy": _cupy_pool, "torch": _torch_pool, "lamina": lambda: (None, None)}


def pin_memory(x: Tensor, device: str = "cuda") -> Tensor:
    """A copy of a CPU tensor in pinned memory: ``to(device)`` then returns at once, and copies while the CPU goes on.

    Do not change it before that copy is done (``synchronize``, or an ``Event`` recorded after it).
    """
    pinned: Tensor = _C.pin_memory(x, device)
    return pinned


class Event:
    """A point in the work of this thread on a GPU, to wait for, and to measure the time from another one."""

    def __init__(self, device: str = "cuda"):
        self._event = _C.Event(device)

    def record(self) -> None:
        """Sets the point behind all work queued so far."""
        self._event.record()

    def synchronize(self) -> None:
        """Waits until the work before the point is done."""
        self._event.synchronize()

    def elapsed_time(self, end: Event) -> float:
        """Seconds of device time from this point to ``end``; both must have happened."""
        return float(self._event.elapsed(end._event))


class Stream:
    """A CUDA stream by its handle; other frameworks take it through ``__cuda_stream__``.

    Source: https://nvidia.github.io/cuda-python/cuda-core/latest/interoperability.html
    """

    def __init__(self, ptr: int):
        self.ptr = ptr

    def __cuda_stream__(self) -> tuple[int, int]:
        return (0, self.ptr)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.ptr == self.ptr

    def __hash__(self) -> int:
        return hash(self.ptr)

    def __repr__(self) -> str:
        return f"Stream({self.ptr:#x})"


def current_stream(device: str = "cuda") -> Stream:
    """The stream that this thread's work on the device goes to."""
    return Stream(_C.stream_handle(device))


def _handle_of(stream: Any) -> int:
    if isinstance(stream, int):
        return stream
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for name in ("cuda_stream", "ptr"):  # PyTorch; CuPy before 14
        if hasattr(stream, name):
            return int(getattr(stream, name))
    raise TypeError(f"stream: {type(stream).__name__} is no stream; expected one with __cuda_stream__, or its handle")


@contextlib.contextmanager
def stream(external: Any, device: str = "cuda") -> Iterator[Stream]:
    """This thread's work goes to another framework's stream while the context is open.

    The two streams are put in order at both ends: work inside sees what was queued before, and what is queued
    afterwards sees the work inside.

    Args:
        external: a CuPy or PyTorch stream, anything with ``__cuda_stream__``, or the handle of a cudaStream_t.
    """
    previous = _C.stream_handle(device)
    own = _C.stream_is_own(device)
    _C.use_stream(device, _handle_of(external))
    try:
        yield current_stream(device)
    finally:
        _C.use_stream(device, None if own else previous)
