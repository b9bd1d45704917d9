"""Tensors from data, and the methods of Tensor that are functions of ``lamina.functional``."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamina import _C
from lamina import functional as F
from lamina._C import Tensor
from lamina.devices import is_device

_DEFAULT_DTYPES = {"float64": "float32"}  # of Python numbers and lists: floats are float32, as in PyTorch


def tensor(data: Any, dtype: Any = None, device: str | None = None) -> Tensor:
    """A new tensor holding a copy of ``data``.

    Args:
        data: a number, a (nested) list of numbers, a NumPy array, a Tensor, or an array with ``__dlpack__``.
        dtype: element type; by default that of an array, else float32, int64 or bool as the numbers need.
        device: where it shall lie; by default the CPU, or the device of an open ``lamina.device``.

    Returns: Tensor of the shape of ``data``, contiguous.

    Raises: TypeError for data without numbers; RuntimeError for a device that is not available.

    >>> lamina.tensor([[1, 2], [3, 4.5]]).dtype
    lamina.float32
    """
    device = _C.current_device() if device is None else _C.check_device(device)
    if isinstance(data, Tensor) or (hasattr(data, "__dlpack__") and not isinstance(data, np.ndarray)):
        source = data if isinstance(data, Tensor) else _C.from_dlpack(data)
        moved = F.to_device(source, device=device)
        return _cast(F.clone(moved) if moved.device == source.device else moved, dtype)
    array = np.asarray(data)
    if array.dtype == object or (array.dtype.kind in "SUV" and array.dtype.name != "bfloat16"):
        raise TypeError(f"tensor: data is {array.dtype}; expected numbers")
    if not isinstance(data, np.ndarray | np.generic) and dtype is None:
        dtype = _DEFAULT_DTYPES.get(array.dtype.name)
    if dtype is not None:
        array = array.astype(_C.dtype_of(dtype).numpy)
    return F.to_device(_C.from_numpy(np.array(array, order="C")), device=device)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the memory of a NumPy array.

    An array that is read-only, misaligned, byte-swapped or has negative strides is copied instead.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy: array is a {type(array).__name__}; expected a numpy.ndarray")
    return _C.from_numpy(array)


def from_dlpack(array: Any) -> Tensor:
    """A tensor that shares the memory of any array with ``__dlpack__`` (PyTorch, JAX, CuPy, NumPy).

    Read-only memory is copied. Source: https://dmlc.github.io/dlpack/latest/python_spec.html
    """
    return _C.from_dlpack(array)


def asarray(data: Any, dtype: Any = None) -> Tensor:
    """``data`` as a tensor, sharing memory where that is possible and copying where it is not."""
    if isinstance(data, Tensor):
        return _cast(data, dtype)
    if isinstance(data, np.ndarray):
        return _cast(_C.from_numpy(data), dtype)
    if hasattr(data, "__dlpack__"):
        return _cast(_C.from_dlpack(data), dtype)
    return tensor(data, dtype)


def _cast(x: Tensor, dtype: Any) -> Tensor:
    return x if dtype is None or x.dtype == dtype else F.cast(x, dtype=dtype)


# --- methods -----------------------------------------------------------------------------------------------------


def _numpy(self: Tensor) -> np.ndarray:
    """A NumPy array that shares the memory of this tensor, or a copy of one that is not on the CPU.

    bfloat16 comes as ``ml_dtypes.bfloat16``.
    """
    return _C.to_numpy(self)


def _array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    array = _C.to_numpy(self)
    if dtype is not None and array.dtype != dtype:
        if copy is False:
            raise ValueError(f"__array__: a cast from {array.dtype} to {dtype} needs a copy; expected copy=None")
        return array.astype(dtype)
    return array.copy() if copy else array


def _tolist(self: Tensor) -> Any:
    """The values as nested Python lists."""
    return _C.to_numpy(self).tolist()


def _dlpack(
    self: Tensor, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None
) -> Any:
    return _C.to_dlpack(self, stream, max_version, dl_device, copy)


def _dlpack_device(self: Tensor) -> tuple[int, int]:
    kind, _, index = self.device.partition(":")
    return (2, int(index)) if kind == "cuda" else (1, 0)


def _cuda_array_interface(self: Tensor) -> dict[str, Any]:
    """The CUDA array interface, version 3; only tensors on a GPU have it, and no bfloat16.

    Source: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
    """
    if not self.device.startswith("cuda") or self.dtype == "bfloat16":
        raise AttributeError(f"__cuda_array_interface__: the tensor is {self.dtype.name} on {self.device}")
    return {
        "version": 3,
        "shape": self.shape,
        "typestr": self.dtype.numpy.str,
        "data": (self.data_ptr, False),
        "strides": tuple(stride * self.dtype.itemsize for stride in self.strides),
        "stream": _C.stream_handle(self.device),
    }


def _repr(self: Tensor) -> str:
    if _C.is_recording():
        return f"tensor(<being recorded>, shape={self.shape}, dtype={self.dtype.name})"
    array = _C.to_numpy(self)
    values = array.astype(np.float32) if self.dtype == "bfloat16" else array
    text = np.array2string(values, separator=", ", prefix="tensor(", threshold=200, precision=4)
    suffix = "" if self.dtype in ("float32", "int64", "bool") else f", dtype={self.dtype.name}"
    if self.device != "cpu":
        suffix += f", device={self.device!r}"
    return f"tensor({text}{suffix})"


def _reduce(self: Tensor) -> Any:
    return _unpickle, (np.ascontiguousarray(_C.to_numpy(self)).view(np.uint8), self.shape, self.dtype.name)


def _unpickle(data: np.ndarray, shape: tuple[int, ...], dtype: str) -> Tensor:
    return tensor(data.view(_C.dtype_of(dtype).numpy).reshape(shape))


def _to(self: Tensor, target: Any) -> Tensor:
    """This tensor with another dtype, or on another device."""
    return F.to_device(self, device=target) if is_device(target) else _cast(self, _C.dtype_of(target))


def _copy_(self: Tensor, source: Any) -> Tensor:
    """Copies ``source`` (same shape; cast if need be) into the memory of this tensor."""
    _C.copy_(self, F.to_device(_cast(asarray(source, None), self.dtype), device=self.device))
    return self


def _iter(self: Tensor) -> Any:
    return (self[i] for i in range(len(self)))


def _cpu(self: Tensor) -> Tensor:
    """The tensor in the memory of the CPU; itself if it is there."""
    return F.to_device(self)


def _cuda(self: Tensor) -> Tensor:
    """The tensor in the memory of the current GPU; itself if it is there."""
    return F.to_device(self, device="cuda")


for _name, _method in {
    "numpy": _numpy,
    "tolist": _tolist,
    "to": _to,
    "cpu": _cpu,
    "cuda": _cuda,
    "astype": _to,
    "copy_": _copy_,
    "clone": F.clone,
    "contiguous": F.contiguous,
    "__array__": _array,
    "__dlpack__": _dlpack,
    "__dlpack_device__": _dlpack_device,
    "__iter__": _iter,
    "__cuda_array_interface__": property(_cuda_array_interface),
    "__repr__": _repr,
    "__reduce__": _reduce,
    "__array_ufunc__": None,  # so that `ndarray * tensor` is ours
}.items():
    setattr(Tensor, _name, _method)
