"""Our kernels for MindSpore on CPU: a shared library between MindSpore and its oneDNN.

`build.py` compiles `*.cpp` at installation.  Loaded before MindSpore, the library answers those calls of oneDNN that
it can speed up, and passes on the others.  Without it MindSpore computes the same with other last bits, more slowly.
"""

import ctypes
import importlib.util
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rp2k_lab.core.environment import cores

# Variable of the user: 0 turns the library off; the path of a library is used instead of ours (tests of sanitizers).
SWITCH = "RP2K_LAB_NATIVE"
_LIBRARY = Path(__file__).with_name("librp2k_native.so")  # build.LIBRARY
_NOT_BUILT = "not built: install a C++17 compiler, then run python -m rp2k_lab.native.build"


@dataclass(frozen=True)
class State:
    """Whether the native kernels are in use.

    Attributes:
        version: theirs, raised with every change that may change bits; None: they are off.
        reason: why they are off, one line; "" when they are on.
    """

    version: int | None = None
    reason: str = ""

    @property
    def tag(self) -> str:
        """The version, or `off`: for records that are compared."""
        return "off" if self.version is None else str(self.version)

    def __str__(self) -> str:
        return f"off ({self.reason})" if self.version is None else f"version {self.version}"


@cache
def kernels_file() -> Path:
    """Return the file of the library; it may be absent."""
    chosen = os.environ.get(SWITCH, "")
    return Path(chosen).absolute() if "/" in chosen else _LIBRARY


@cache
def state() -> State:
    """Return whether the native kernels are in use; the first call, in `rp2k_lab/__init__.py`, loads them."""
    if os.environ.get(SWITCH) == "0":
        return State(reason=f"{SWITCH}=0")
    if os.uname().machine != "x86_64":
        return State(reason=f"written for x86_64, this is {os.uname().machine}")
    if not kernels_file().is_file():
        return State(reason=_NOT_BUILT)
    if "mindspore" in sys.modules:
        return State(reason="MindSpore was imported before rp2k_lab")
    package = importlib.util.find_spec("mindspore")  # does not import it
    if package is None or package.origin is None:
        return State(reason="MindSpore is not installed")
    return _load(str(kernels_file()), Path(package.origin).parent / "lib" / "libdnnl.so.3")


def _load(library: str, onednn: Path) -> State:
    """Load the library, have it load MindSpore's oneDNN, and offer its functions to MindSpore if that worked."""
    try:
        kernels = ctypes.CDLL(library)
        start, version = kernels.rp2k_native_start, kernels.rp2k_native_version
    except (OSError, AttributeError) as error:
        return State(reason=f"cannot be loaded: {error}")
    start.argtypes, start.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_char_p
    if reason := start(os.fsencode(onednn), cores()):
        return State(reason=reason.decode(errors="replace"))
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)  # the same library: from here on MindSpore would find its functions
    return State(version())
