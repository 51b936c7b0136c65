"""The environment that MindSpore's launcher (`msrun`) gives a process; importing this module needs no MindSpore.

`msrun` starts the same command several times: as workers, which train (`workers.py`), and on the first host also as
a scheduler, which connects them.
"""

import os
from typing import Any, Protocol

from rp2k_lab.core.errors import RequestError

COMMAND = "msrun --worker_num=2 --local_worker_num=2 --join=True run.py device.parallel=data"


class LaunchConfig(Protocol):
    """The part of a configuration that decides how its processes are started."""

    device: Any  # .parallel: none or data
    task: Any  # .name


def is_launched() -> bool:
    """Return whether `msrun` started this process."""
    return "MS_ROLE" in os.environ


def is_scheduler() -> bool:
    """Return whether this process only connects the workers."""
    return os.environ.get("MS_ROLE") == "MS_SCHED"


def is_rank_zero() -> bool:
    """Return whether this process prints and writes: rank 0, or a process without `msrun`."""
    return not is_launched() or (not is_scheduler() and os.environ.get("MS_NODE_ID") == "0")


def check_launch(config: LaunchConfig, sweep: bool) -> None:
    """Compare `device.parallel` with how the process was started.

    Args:
        config: the configuration, before earlier runs are restored.
        sweep: whether it is one of several runs of one command.

    Raises:
        RequestError: they do not fit.
    """
    if config.device.parallel == "none":
        if is_launched():
            raise RequestError("device.parallel=none: each worker of msrun would train alone\nadd device.parallel=data")
        return
    if config.task.name != "train":
        raise RequestError(
            f"device.parallel=data: task={config.task.name} runs in one process\n"
            "leave out device.parallel=data, and msrun"
        )
    if sweep:
        raise RequestError(
            "device.parallel=data: the runs of -m cannot share devices\nleave out -m or device.parallel=data"
        )
    if not is_launched():
        raise RequestError(f"device.parallel=data: needs one process per device\nuse {COMMAND}")
    if not is_scheduler() and "MS_NODE_ID" not in os.environ:
        raise RequestError("device.parallel=data: this host has no rank\nadd msrun --node_rank=0 (1, 2, …)")
