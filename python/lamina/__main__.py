"""``python -m lamina info``: what this build can do, what it chose, and what is missing and how to get it."""

from __future__ import annotations

import argparse
import importlib.util
import platform

import lamina
from lamina import _C, cuda

_OPTIONAL = {
    "cupy": "arrays on the GPU beside Lamina's: pip install 'lamina[cuda]'",
    "torch": "comparisons and custom ops in PyTorch: pip install torch",
    "sklearn": "the examples' data: pip install 'lamina[examples]'",
    "matplotlib": "plots of the benchmarks: pip install 'lamina[bench]'",
}


def info() -> str:
    """The text of ``python -m lamina info``."""
    build = _C.build_info()
    gpus = [f"cuda:{i}" for i in range(cuda.device_count())]
    missing_levels = [level for level in build["isa_built"] if level not in build["isa_supported"]]
    lines = [
        ("version", lamina.__version__),
        ("compiler", build["compiler"]),
        ("machine", f"{platform.machine()}, {platform.system()} {platform.release()}"),
        ("python, numpy", f"{platform.python_version()}, {importlib.import_module('numpy').__version__}"),
        ("ISA levels built", ", ".join(build["isa_built"])),
        ("ISA level chosen", f"{build['isa']} (LAMINA_ISA=<level> overrides)"),
        ("  not on this machine", ", ".join(missing_levels) or "none"),
        ("threads", f"{build['threads']} (from {build['threads_source']})"),
        ("CUDA kernels built", build["cuda_built"] or "none"),
        ("devices", ", ".join(["cpu", *gpus])),
    ]
    lines += [(f"  {gpu}", cuda.get_device_name(gpu)) for gpu in gpus]
    if not gpus:
        lines.append(("  no cuda", build["why_no_cuda"]))
    for name, use in _OPTIONAL.items():
        lines.append((name, "found" if importlib.util.find_spec(name) else f"not found; for {use}"))
    return "\n".join(f"{name:<24}{value}" for name, value in lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lamina", description=__doc__)
    parser.add_argument("command", choices=["info"], help="info: print what this build can do")
    parser.parse_args()
    print(info())


if __name__ == "__main__":
    main()
