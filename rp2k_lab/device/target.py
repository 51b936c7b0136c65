"""The device: one code path for CPU, GPU and Ascend; what differs is in `conf/device`."""

import logging

import mindspore
from mindspore.train.loss_scale_manager import FixedLossScaleManager

from rp2k_lab.core.errors import RequestError

log = logging.getLogger(__name__)

TARGETS = {"cpu": "CPU", "gpu": "GPU", "ascend": "Ascend"}


def set_up(device) -> None:
    """Select a `conf/device` choice's target and graph mode for this process.

    Raises:
        RequestError: this machine, or this MindSpore, has no such device.
    """
    target = TARGETS[device.name]
    if target != "CPU" and not _is_available(target):
        there = [name for name, t in TARGETS.items() if t == "CPU" or _is_available(t)]
        way_out = f"use device={' or '.join(there)}"
        raise RequestError(f"device={device.name}: MindSpore finds no such device here\n{way_out}")
    # MindSpore's own default is PyNative, at half the speed; with NumPy 2 it does not even run (2.10.0, NumPy 2.4.6).
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    mindspore.set_device(target)


def describe(device) -> str:
    """For the run's log: the target, the mode that is in force and the precision."""
    mode = "graph mode" if mindspore.get_context("mode") == mindspore.GRAPH_MODE else "PyNative mode: SLOW"
    return f"{TARGETS[device.name]}, {mode}, {device.precision}"


def amp_options(device) -> dict:
    """Keyword arguments of `mindspore.Model` for the device's precision and loss scale."""
    level = "O0" if device.precision == "float32" else device.precision
    # A fixed scale without overflow checks: the only manager that O2 takes on CPU, and what the contest entry used.
    manager = FixedLossScaleManager(device.loss_scale, drop_overflow_update=False) if device.loss_scale != 1 else None
    return {"amp_level": level, "loss_scale_manager": manager}


def _is_available(target: str) -> bool:
    logger = logging.getLogger("MindSpore")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # the question alone logs a screenful about missing libraries
    try:
        return mindspore.hal.is_available(target)
    finally:
        logger.setLevel(level)
