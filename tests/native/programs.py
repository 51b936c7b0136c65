"""Programs of the tests that run in a separate process, plain or with a sanitizer."""

import os
import subprocess
import sys
from pathlib import Path

from rp2k_lab.native import build

_CLONE = Path(__file__).parents[2]
_SOURCES = ("fork.cpp", "scratch.cpp", "thread_pool.cpp")
_OPTIONS = {
    # Python and oneDNN leak by design; each test loads several copies of the library.
    "ASAN_OPTIONS": "detect_leaks=0:detect_odr_violation=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def compile_pool(folder: Path, sanitizer: str | None = None) -> Path:
    """Compile `pool_driver.cpp` with what it uses; return the program."""
    program = folder / f"pool_{sanitizer}"
    options = ("-O1", "-g", "-fno-sanitize-recover=all", f"-fsanitize={sanitizer}") if sanitizer else ("-O2",)
    sources = (Path(__file__).with_name("pool_driver.cpp"), *map(build.FOLDER.joinpath, _SOURCES))
    command = [*build.compiler(), "-std=c++17", *options, "-pthread", "-o", str(program), *map(str, sources)]
    subprocess.run(command, check=True)
    return program


def run(*command: str, **variables: str) -> None:
    """Run a program to its end.

    Raises:
        AssertionError: it failed or took five minutes; the message is its output.
    """
    options = {"env": os.environ | _OPTIONS | variables, "cwd": _CLONE, "text": True, "timeout": 300}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options)
    assert done.returncode == 0, done.stdout[-8000:]


def run_kernels(scenario: str, threads: int, **variables: str) -> None:
    """Run a scenario of `kernels_in_threads` as `run`."""
    run(sys.executable, "-m", "tests.native.kernels_in_threads", scenario, str(threads), **variables)
