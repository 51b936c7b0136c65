"""Compile the native library: `python -m rp2k_lab.native.build [--sanitize address] [OUTPUT]`.

setup.py loads this file alone, so it imports nothing of ours.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIBRARY = FOLDER / "librp2k_native.so"
SANITIZERS = ("address", "undefined", "thread")
# Without -march: a function that gains by wide registers is compiled for several processors (`target_clones`), and the
# loader chooses.
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread")
_EXPORTS = FOLDER / "exports.map"
_FLAGS_OF_SANITIZERS = ("-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")


class BuildError(Exception):
    """The library cannot be compiled; the message is one line."""


def compiler() -> list[str]:
    """Return the command of the C++ compiler: the variable CXX, or c++, g++ or clang++.

    Raises:
        BuildError: there is none, or the kernels are not written for this machine.
    """
    machine = f"{os.uname().machine} {sys.platform}"
    if machine != "x86_64 linux":
        raise BuildError(f"written for x86_64 linux, this is {machine}")
    chosen = os.environ.get("CXX")
    for command in [shlex.split(chosen)] if chosen else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    raise BuildError(f"CXX={chosen} is no program" if chosen else "no C++17 compiler found")


def build(output: Path = LIBRARY, sanitizer: str | None = None) -> None:
    """Compile all `*.cpp` of this folder into a shared library; the compiler prints its errors.

    Processes that have loaded an earlier library keep it.

    Args:
        output: file to write.
        sanitizer: one of `SANITIZERS`; a process must preload its runtime (`sanitizer_runtime`).

    Raises:
        BuildError: see `compiler`; or the compiler failed, then `output` is removed.
    """
    sanitized = (f"-fsanitize={sanitizer}", *_FLAGS_OF_SANITIZERS) if sanitizer else ()
    part = output.with_name(f".{output.name}.{os.getpid()}")
    sources = sorted(FOLDER.glob("*.cpp"))
    command = [*compiler(), *_FLAGS, *sanitized, f"-Wl,--version-script={_EXPORTS}", *map(str, sources)]
    command += ["-ldl", "-o", str(part)]
    try:
        subprocess.run(command, check=True)
        part.replace(output)
    except subprocess.CalledProcessError as error:
        output.unlink(missing_ok=True)  # it is not of these sources
        raise BuildError(f"{command[0]} failed, exit code {error.returncode}") from None
    finally:
        part.unlink(missing_ok=True)


def sanitizer_runtime(sanitizer: str) -> Path:
    """Return the library for LD_PRELOAD without which Python cannot load a library with this sanitizer.

    Raises:
        BuildError: see `compiler`; or the compiler has no such runtime.
    """
    name = {"address": "libasan.so", "undefined": "libubsan.so", "thread": "libtsan.so"}[sanitizer]
    command = [*compiler(), f"-print-file-name={name}"]
    found = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    if not found.is_absolute():
        raise BuildError(f"{command[0]} has no {name}")
    return found.resolve()


def is_current() -> bool:
    """Return whether `LIBRARY` is newer than its sources."""
    sources = [Path(__file__), _EXPORTS, *FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")]
    return LIBRARY.is_file() and all(file.stat().st_mtime <= LIBRARY.stat().st_mtime for file in sources)


def main() -> int:
    """Compile unless the library is current; return an exit code."""
    parser = argparse.ArgumentParser(prog="python -m rp2k_lab.native.build", description="Compile the native library.")
    parser.add_argument("output", nargs="?", type=Path, default=LIBRARY)
    parser.add_argument("--sanitize", choices=SANITIZERS)
    chosen = parser.parse_args()
    if chosen.output == LIBRARY and not chosen.sanitize and is_current():
        return 0
    try:
        build(chosen.output, chosen.sanitize)
    except BuildError as error:
        print(f"native kernels: not built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
