"""The device of a process: one code path for CPU, GPU and Ascend; `conf/device` has the differences."""

import logging
import re

import mindspore

from rp2k_lab import native
from rp2k_lab.core.errors import RequestError
from rp2k_lab.device import gpu_driver, gpu_libraries, precision
from rp2k_lab.device.precision import PrecisionOptions

log = logging.getLogger(__name__)

TARGETS = {"cpu": "CPU", "gpu": "GPU", "ascend": "Ascend"}


def set_up(device: PrecisionOptions) -> None:
    """Select target, graph mode and precision for this process; log whether its CPU has the native kernels.

    Raises:
        RequestError: the machine or the installed MindSpore has no such device.
    """
    target = TARGETS[device.name]
    if target == "GPU" and (problem := gpu_libraries.load()):
        raise RequestError(problem)
    if target != "CPU" and not _is_available(target):
        if target == "GPU" and (home := gpu_libraries.user_home()):
            raise RequestError(
                f"device=gpu: MindSpore cannot use CUDA_HOME={home}: it needs CUDA 11.6 or 11.8, and cuDNN 8\n"
                "unset CUDA_HOME to use the extra gpu, or use device=cpu"
            )
        available = [name for name, t in TARGETS.items() if t == "CPU" or _is_available(t)]
        raise RequestError(
            f"device={device.name}: MindSpore finds no such device here\nuse device={' or '.join(available)}"
        )
    if target == "GPU":  # its plugin is available as soon as the libraries load, also without a card
        gpu_driver.check()
    # MindSpore's default is PyNative, at half the speed; with NumPy 2 it does not even run (2.10.0, NumPy 2.4.6).
    # The cache of compiled programs is off for the reason in core/environment.py, also if a notebook has turned it on.
    mindspore.set_context(mode=mindspore.GRAPH_MODE, enable_compile_cache=False)
    mindspore.set_device(target)
    if target == "CPU":
        log.info("native kernels: %s", native.state())
    if target == "GPU":
        _check_cuda()
    precision.set_up(device)


def describe(device: PrecisionOptions) -> str:
    """Return a line for the log: target, active mode, precision."""
    mode = "graph mode" if mindspore.get_context("mode") == mindspore.GRAPH_MODE else "PyNative mode: SLOW"
    return f"{TARGETS[device.name]}, {mode}, {device.precision}"


def _check_cuda() -> None:
    """Raise RequestError unless CUDA finds a card; MindSpore 2.10 would raise its error within the first step."""
    try:
        count = mindspore.hal.device_count("GPU")
    except RuntimeError as error:  # a page, with one line of CUDA's
        reason = re.search(r"cudaGetLastError\[\d+\], (.+)", str(error))
        raise RequestError(
            f"device=gpu: CUDA does not start: {reason[1] if reason else 'no reason given'}\n"
            "update the NVIDIA driver, or use device=cpu"
        ) from error
    if count == 0:
        raise RequestError(gpu_driver.NO_CARD)


def _is_available(target: str) -> bool:
    logger = logging.getLogger("MindSpore")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # the check logs a screenful about missing libraries
    try:
        return mindspore.hal.is_available(target)
    finally:
        logger.setLevel(level)
