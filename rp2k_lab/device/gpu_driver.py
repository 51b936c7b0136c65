"""Questions to NVIDIA's driver, by its library, before MindSpore starts it."""

import ctypes
import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from rp2k_lab.core.errors import RequestError

log = logging.getLogger(__name__)

NO_DRIVER = (
    "device=gpu: there is no NVIDIA driver here (libcuda.so.1)\n"
    "use device=cpu, or install a driver and the extra gpu: docs/devices.md"
)
NO_CARD = (
    "device=gpu: the NVIDIA driver finds no card\n"
    "use device=cpu, or show a card to this process: nvidia-smi, CUDA_VISIBLE_DEVICES"
)
# Drivers of CUDA 11.0 (450.80.02) and later run CUDA 11.8; cuDriverGetVersion: 1000 × major + 10 × minor.
_OLDEST = 11000
# MindSpore 2.10 has machine code for compute capabilities 6.0 to 8.0, which runs up to 8.9, and PTX for later ones.
_TRANSLATED_FROM = 9
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_ERROR_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


@cache
def load_driver() -> ctypes.CDLL | None:
    """Return the driver's library; None if there is no driver."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def check() -> None:
    """Start the driver; log if it is about to translate MindSpore's kernels for this machine's cards.

    Raises:
        RequestError: there is no driver or no card, or the driver is too old or does not start.
    """
    driver = load_driver()
    if driver is None:
        raise RequestError(NO_DRIVER)
    if (version := _ask(driver.cuDriverGetVersion)) < _OLDEST:
        raise RequestError(
            f"device=gpu: the NVIDIA driver is too old: of CUDA {version // 1000}.{version % 1000 // 10}\n"
            "install driver 450.80.02 or later, or use device=cpu"
        )
    code = driver.cuInit(0)
    if code not in (0, _ERROR_NO_DEVICE):
        raise RequestError(
            f"device=gpu: the NVIDIA driver does not start: {_error_name(driver, code)}\n"
            "use device=cpu, or repair the driver: nvidia-smi"
        )
    count = 0 if code else _ask(driver.cuDeviceGetCount)
    if count == 0:
        raise RequestError(NO_CARD)
    major, minor = max(_capability(driver, number) for number in range(count))
    cache_folder = Path(os.environ.get("CUDA_CACHE_PATH") or "~/.nv/ComputeCache").expanduser()
    if major >= _TRANSLATED_FROM and not (cache_folder.is_dir() and any(cache_folder.iterdir())):
        log.info(
            "first start on a card of compute capability %d.%d: the driver translates MindSpore's kernels; "
            "this takes minutes, once, and is kept in %s",
            *(major, minor, cache_folder),
        )


def _capability(driver: ctypes.CDLL, number: int) -> tuple[int, int]:
    device = _ask(driver.cuDeviceGet, number)
    return _ask(driver.cuDeviceGetAttribute, _MAJOR, device), _ask(driver.cuDeviceGetAttribute, _MINOR, device)


def _ask(function: Callable[..., int], *arguments: Any) -> int:
    """Return the integer that a function of the driver writes to its first argument."""
    answer = ctypes.c_int()
    function(ctypes.byref(answer), *arguments)
    return answer.value


def _error_name(driver: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    driver.cuGetErrorName(code, ctypes.byref(name))
    return name.value.decode() if name.value else f"error {code}"
