"""Saving and loading tensors, in the safetensors format that other frameworks read too.

A file is the length of a header (8 bytes, little-endian), the header as JSON (name to dtype, shape and byte range), and
the raw bytes of all tensors in row-major order. Source: https://huggingface.co/docs/safetensors/index
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lamina import _C
from lamina._C import Tensor

_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
_NAMES = {code: name for name, code in _CODES.items()}
_ALIGNMENT = 64


def save(path: str | os.PathLike[str], state: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Writes named tensors to a file; a reader never sees half of it.

    Args:
        path: the file, by custom ``*.safetensors``; replaced if it exists.
        state: name to Tensor, NumPy array or number, such as ``model.state_dict()``.
        metadata: text to keep beside them, such as the epoch.

    Raises: TypeError for a value that is none of these.
    """
    arrays = {name: _as_numpy(name, value) for name, value in state.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": _CODES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)

    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for array in arrays.values():
                file.write(array.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Reads the tensors of a file that ``save``, or any writer of safetensors, has written.

    Returns: name to Tensor, in the order of the file.

    Raises: FileNotFoundError; ValueError for a file that is not of the format.
    """
    return _read(path)[0]


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Reads the text that was saved beside the tensors."""
    return _read(path)[1]


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    data = Path(path).read_bytes()
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        state = {}
        for name, entry in header.items():
            begin, end = (8 + length + o for o in entry["data_offsets"])
            dtype = _C.dtype_of(_NAMES[entry["dtype"]]).numpy
            array = np.frombuffer(data[begin:end], dtype).reshape(entry["shape"])
            state[name] = _C.from_numpy(array.copy())
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"load: {path} cannot be read ({error}); expected a file in the safetensors format") from error
    return state, metadata


def _as_numpy(name: str, value: Any) -> np.ndarray:
    array = np.asarray(_C.to_numpy(value) if isinstance(value, Tensor) else value)
    if array.dtype.name not in _CODES:
        raise TypeError(f"save: {name} is {array.dtype}; expected one of {', '.join(_CODES)}")
    return np.ascontiguousarray(array).reshape(array.shape)
