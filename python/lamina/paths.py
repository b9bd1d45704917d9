"""Where a C++ build finds what the package brings: headers, CMake files and the library of kernels."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def get_include() -> str:
    """The folder of the C++ headers: ``#include <lamina/kernels/gemm/gemm.h>`` is found in it.

    Returns: a path, for a compiler's ``-I``.
    """
    return str(_PACKAGE / "include")


def get_cmake_dir() -> str:
    """The folder of ``lamina-config.cmake``, which gives CMake the target ``lamina::kernels``.

    Returns: a path, for ``cmake -Dlamina_DIR=…``.
    """
    return str(_PACKAGE / "cmake")
