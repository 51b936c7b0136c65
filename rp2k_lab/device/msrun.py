"""What MindSpore's launcher (`msrun`) left in the environment of a process, known before MindSpore is imported.

`msrun` starts the same command several times: the workers, which train (`workers.py`), and on the first host
a scheduler, which they meet through.
"""

import os

from rp2k_lab.core.errors import RequestError

COMMAND = "msrun --worker_num=2 --local_worker_num=2 --join=True run.py device.parallel=data"


def is_launched() -> bool:
    """Whether `msrun` started this process."""
    return "MS_ROLE" in os.environ


def is_scheduler() -> bool:
    """Whether this process only keeps the workers together."""
    return os.environ.get("MS_ROLE") == "MS_SCHED"


def is_rank_zero() -> bool:
    """Whether this process prints and writes: the first worker, or a process on its own."""
    return not is_launched() or (not is_scheduler() and os.environ.get("MS_NODE_ID") == "0")


def check_launch(config, sweep: bool) -> None:
    """Compare what a request says about `device.parallel` with how the process was started.

    Args:
        config: of the request, before earlier runs are restored.
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
        raise RequestError("device.parallel=data: the runs of -m share no devices\nleave out one of both")
    if not is_launched():
        raise RequestError(f"device.parallel=data: needs a process a device\nexample: {COMMAND}")
    if not is_scheduler() and "MS_NODE_ID" not in os.environ:
        raise RequestError("device.parallel=data: this host has no number\nadd msrun --node_rank=0 (1, 2, …)")
