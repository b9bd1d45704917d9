"""The C++ package: a program that knows only the installed headers and the CMake target calls the kernels."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import lamina

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "cpp"
PACKAGE = Path(lamina.__file__).parent
needs_tools = pytest.mark.skipif(
    not (shutil.which("cmake") and shutil.which("g++")), reason="cmake and g++ are not installed"
)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    build = tmp_path_factory.mktemp("build")
    commands = ["-S", EXAMPLE, "-B", build, f"-Dlamina_DIR={lamina.get_cmake_dir()}"], ["--build", build]
    for arguments in commands:
        subprocess.run(["cmake", *arguments], check=True, capture_output=True)
    return build / "example"


@needs_tools
def test_the_example_runs(example):
    said = subprocess.run([example], check=True, capture_output=True, text=True).stdout
    assert said == "gemm: 2\nconv2d: corner 8, centre 18\n"


@needs_tools
def test_the_example_chooses_the_instruction_set_like_the_module(example):
    wrong = subprocess.run([example], env={"LAMINA_ISA": "quantum"}, check=False, capture_output=True, text=True)
    assert "LAMINA_ISA: unknown level 'quantum'" in wrong.stderr


def test_the_example_is_short():
    assert len((EXAMPLE / "main.cpp").read_text().splitlines()) <= 40


def test_public_headers_include_only_public_headers():
    headers = sorted(Path(lamina.get_include()).rglob("*.h"))
    assert len(headers) > 20
    for header in headers:
        for include in re.findall(r'#include "(.+)"', header.read_text()):
            assert (Path(lamina.get_include()) / include).exists(), f"{header} includes {include}"


@needs_tools
def test_every_public_header_compiles_alone(tmp_path):
    source = tmp_path / "all.cpp"
    headers = sorted(Path(lamina.get_include()).rglob("*.h"))
    names = [header.relative_to(lamina.get_include()) for header in headers]
    source.write_text("".join(f"#include <{name}>\n" for name in names))
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-DLAMINA_BUILD_BASELINE"]
    subprocess.run(["g++", *flags, f"-I{lamina.get_include()}", source], check=True)


@pytest.mark.skipif(not shutil.which("nm"), reason="nm is not installed")
def test_the_library_shows_its_interface_and_nothing_else():
    lines = subprocess.check_output(["nm", "-DC", "--defined-only", PACKAGE / "liblamina_kernels.so"], text=True)
    shown = re.findall(r"^[0-9a-f]+ [TDRB] (.+)$", lines, re.MULTILINE)
    tables = [name for name in shown if re.fullmatch(r"lamina::\w+::\w+_kernels", name)]
    functions = {re.split(r"[\[(]", name)[0] for name in shown} - set(tables)
    assert len(tables) >= 17
    assert functions == {
        f"lamina::{name}"
        for name in [
            "name_of",
            "is_built",
            "is_supported",
            "isa",
            "has_amx",
            "num_threads",
            "num_threads_source",
            "set_num_threads",
            "use_team",
            "parallel_run",
            "scratch_bytes",
            "find_kernel_table",
            "find_device_library",
            "device_library",
        ]
    }
