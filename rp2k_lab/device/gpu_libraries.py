"""CUDA 11.8 and cuDNN 8.9 from the wheels of the extra `gpu`, where MindSpore finds them.

MindSpore 2.10 loads its GPU plugin while it is imported, if `$CUDA_HOME/bin/nvcc --version` prints release 11.6 or
11.8, and the loader finds the libraries.  Only a process that needs a GPU calls `load` before: with the plugin
MindSpore takes 0.2 s and 157 MB more (measured with a stub driver), and its default device is the GPU.
"""

import ctypes
import os
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from rp2k_lab.device import gpu_driver

_INSTALL = "install the extra gpu: make run GPU=1, or pip install -c constraints.txt -e '.[gpu]'; or use device=cpu"
_TOO_LATE = (
    "device=gpu: this process has imported MindSpore without its GPU plugin\n"
    "use one device per command; in Python call rp2k_lab.device.gpu_libraries.load() before MindSpore is imported"
)
# Contains bin/nvcc, which prints the release and does nothing else.
_CUDA_HOME = str(Path(__file__).with_name("cuda_home"))
# Each after those that it needs; cudart first.
LIBRARIES = (
    "cuda_runtime/lib/libcudart.so.11.0",
    "cublas/lib/libcublasLt.so.11",
    "cublas/lib/libcublas.so.11",
    "cudnn/lib/libcudnn.so.8",
    "curand/lib/libcurand.so.10",
    "cufft/lib/libcufft.so.10",
    "cusparse/lib/libcusparse.so.11",
    "cusolver/lib/libcusolver.so.11",
    "cuda_nvrtc/lib/libnvrtc.so.11.2",
)


def user_home() -> str:
    """Return the user's CUDA_HOME, which is used instead of the wheels; "" if there is none."""
    home = os.environ.get("CUDA_HOME", "")
    return "" if home == _CUDA_HOME else home  # ours, from a parent process


@cache
def load() -> str:
    """Load the libraries into this process, and have MindSpore load its plugin when it is imported.

    Without the wheels or a driver, or with the user's CUDA_HOME, it changes nothing.

    Returns:
        "" if the libraries are loaded, or the user's CUDA_HOME is used instead; otherwise two lines for the user: the
        reason and a way out.
    """
    if gpu_driver.load_driver() is None:
        return gpu_driver.NO_DRIVER
    if user_home():
        return ""
    if "mindspore" in sys.modules:
        return _TOO_LATE
    files = [_find(name) for name in LIBRARIES]
    if None in files:
        return f"device=gpu: the CUDA 11.8 libraries are not installed: no {LIBRARIES[files.index(None)]}\n{_INSTALL}"
    try:
        for file in files:
            ctypes.CDLL(str(file), ctypes.RTLD_GLOBAL)
    except OSError as error:
        return f"device=gpu: {error}\n{_INSTALL}"
    os.environ["CUDA_HOME"] = _CUDA_HOME
    # This process has its libraries; MindSpore runs `ldd` on its plugin, and logs an error for each that ldd misses.
    folders = dict.fromkeys(str(file.parent) for file in files if file)
    former = os.environ.get("LD_LIBRARY_PATH")
    os.environ["LD_LIBRARY_PATH"] = ":".join([*folders, *([former] if former else [])])
    return ""


def _find(name: str) -> Path | None:
    """Return the file of a library in the wheels, which share the package `nvidia`; None if it is not there."""
    package = find_spec("nvidia")
    folders = package.submodule_search_locations if package else None
    return next((file for folder in folders or () if (file := Path(folder, name)).is_file()), None)
