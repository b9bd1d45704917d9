"""Registers and stack of every CUDA kernel in the installed library, as a Markdown table.

    python -m bench.cuda_table               # the newest architecture in the library
    python -m bench.cuda_table --arch sm_80

Needs cuobjdump: `pip install nvidia-cuda-cuobjdump`, or a CUDA toolkit.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import lamina

LIBRARY = Path(lamina.__file__).parent / "liblamina_cuda.so"


def find_tool(name: str) -> str | None:
    """A program of NVIDIA's wheels, or of the toolkit."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / "cu13" / "bin" / name).exists():
            return str(path)
    return shutil.which(name)


def resources(library: Path) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """Architecture -> kernel -> (registers per thread, bytes of stack) of each of its instances."""
    text = subprocess.run(
        [find_tool("cuobjdump") or "cuobjdump", "-res-usage", library], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, dict[str, list[tuple[int, int]]]] = defaultdict(lambda: defaultdict(list))
    arch = kernel = ""
    for line in text.splitlines():
        if match := re.search(r"arch = (\w+)", line):
            arch = match[1]
        elif match := re.search(r"Function (\w+):", line):
            kernel = name_of(match[1])
        elif match := re.search(r"REG:(\d+) STACK:(\d+)", line):
            found[arch][kernel].append((int(match[1]), int(match[2])))
    return found


def name_of(symbol: str) -> str:
    """`layout: copy_kernel` from the mangled name, which is a row of lengths and identifiers; no template arguments."""
    rest, names = symbol.removeprefix("_ZN"), []
    while match := re.match(r"\d+", rest):
        end = match.end() + int(match[0])
        names.append(rest[match.end() : end])
        rest = rest[end:]
    source = next((found[1] for name in names if (found := re.search(r"_\d+_(\w+?)_cu_", name))), "?")
    return f"{source}: {names[-1]}" if names else symbol


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cuda_table", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--arch", help="such as sm_90a")
    parser.add_argument("--library", type=Path, default=LIBRARY)
    options = parser.parse_args()
    by_arch = resources(options.library)
    arch = options.arch or sorted(by_arch)[-1]
    print(f"| kernel ({arch}) | instances | registers | stack |\n|---|---|---|---|")
    for kernel, instances in sorted(by_arch[arch].items()):
        registers, stack = zip(*instances, strict=True)
        low, high = min(registers), max(registers)
        print(f"| {kernel} | {len(instances)} | {low if low == high else f'{low} to {high}'} | {max(stack)} |")


if __name__ == "__main__":
    main()
