"""A machine with an NVIDIA card, pretended: the driver and the wheels of the extra `gpu` as stub libraries.

MindSpore's own GPU plugin loads with them, by the real loader; no kernel runs.  Variables choose what they answer:
STUB_DRIVER (1000 × major + 10 × minor of CUDA), STUB_INIT and STUB_CUDA (error codes of driver and runtime),
STUB_CARDS, STUB_CAPABILITY (10 × major + minor).
"""

import os
import subprocess
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

from rp2k_lab.device.gpu_libraries import LIBRARIES

_SETTING = """
#include <stdlib.h>
static int setting(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}
"""
_DRIVER = {
    "cuInit": '(unsigned flags) { return setting("STUB_INIT", 0); }',
    "cuDriverGetVersion": '(int *version) { *version = setting("STUB_DRIVER", 12080); return 0; }',
    "cuDeviceGetCount": '(int *count) { *count = setting("STUB_CARDS", 1); return 0; }',
    "cuDeviceGet": "(int *device, int number) { *device = number; return 0; }",
    "cuDeviceGetAttribute": """(int *value, int attribute, int device) {
        int capability = setting("STUB_CAPABILITY", 80);
        *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 0;
        return 0;
    }""",
    "cuGetErrorName": '(int code, const char **name) { *name = "CUDA_ERROR_OF_STUB"; return 0; }',
}
_RUNTIME = {
    "cudaGetDeviceCount": '(int *count) { *count = setting("STUB_CARDS", 1); return setting("STUB_CUDA", 0); }',
    "cudaGetLastError": '(void) { return setting("STUB_CUDA", 0); }',
}
# These return text.
_TEXT = {"cudaGetErrorString": '(int code) { return "CUDA driver version is insufficient"; }'}


def build(folder: Path) -> dict[str, str]:
    """Compile the stubs; return the variables of a process that finds them.

    Raises:
        OSError: there is no C compiler or no nm.
    """
    needed = _needed_functions()
    _compile(folder / "driver" / "libcuda.so.1", needed["libcuda.so.1"], _DRIVER)
    for name in LIBRARIES:
        file = folder / "wheels" / "nvidia" / name
        _compile(file, needed[file.name], _RUNTIME if "cudart" in name else {})
    (folder / "wheels" / "nvidia" / "__init__.py").touch()  # before the real wheels, if they are installed
    return {"PYTHONPATH": str(folder / "wheels"), "LD_LIBRARY_PATH": str(folder / "driver"), "HOME": str(folder)}


def _needed_functions() -> dict[str, set[str]]:
    """Return the functions that MindSpore's plugin looks for, by library."""
    package = find_spec("mindspore")
    plugins = Path(package.origin).parent / "lib" / "plugin"
    files = [plugins / "libmindspore_gpu.so.11.6", plugins / "gpu" / "libcuda_ops.so.11"]
    listed = subprocess.run(["nm", "-D", "--undefined-only", *files], capture_output=True, text=True, check=True)
    known = {Path(name).name for name in LIBRARIES}
    needed = defaultdict(set)
    for line in listed.stdout.splitlines():
        function, _, library = line.split()[-1].partition("@") if line else ("", "", "")
        if library in known:
            needed[library].add(function)
        elif function.startswith(("cublas", "cufft")):  # libcuda_ops.so.11 names no library
            needed["libcublas.so.11" if function.startswith("cublas") else "libcufft.so.10"].add(function)
        elif function.startswith("cu") and function[2:3].isupper():
            needed["libcuda.so.1"].add(function)
    return needed


def _compile(file: Path, needed: set[str], answers: dict[str, str]) -> None:
    """Compile a library in which functions without an answer return 0."""
    answers = dict.fromkeys(needed, "(void) { return 0; }") | answers
    source = _SETTING + "".join(f"int {name}{body}\n" for name, body in answers.items() if name not in _TEXT)
    source += "".join(f"const char *{name}{body}\n" for name, body in _TEXT.items() if name in needed)
    file.parent.mkdir(parents=True, exist_ok=True)
    versions = file.with_suffix(".map")
    versions.write_text(f"{file.name} {{ global: *; }};\n")
    options = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{file.name}", f"-Wl,--version-script={versions}"]
    command = [os.environ.get("CC", "cc"), *options, "-x", "c", "-o", str(file), "-"]
    subprocess.run(command, input=source, text=True, check=True)
