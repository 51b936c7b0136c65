"""`task.then`: the task that starts from a finished training, in a separate process."""

import os
import subprocess
from pathlib import Path

from rp2k_lab.config.schema import Config
from rp2k_lab.core.environment import LAUNCHER
from rp2k_lab.core.progress import activity
from rp2k_lab.core.quoting import hydra_value
from rp2k_lab.sweep.trial_process import ENTRY, python_command
from rp2k_lab.tracking.address import EXPERIMENT_VARIABLE, URI_VARIABLE


class NextTaskFailed(Exception):
    """The task after a training ended early; it has printed its reason.

    Attributes:
        exit_code: of the task.
    """

    def __init__(self, exit_code: int):
        self.exit_code = exit_code if exit_code > 0 else 1
        super().__init__(
            f"task.then: the task after the training ended with exit code {exit_code}, its reason is above\n"
            "add task.resume=auto to repeat that task alone: the training is finished"
        )


def run_next(config: Config, run_id: str, folder: Path) -> None:
    """Run the task of `task.then` on a finished run; nothing without one.

    A signal to this process stops the task, too.

    Args:
        run_id, folder: of the finished run.

    Raises:
        NextTaskFailed: the task ended with another exit code than 0.
    """
    if config.task.then is None:
        return
    reference = str(folder) if config.tracking.name == "offline" else run_id
    overrides = [*config.task.then, f"runs={hydra_value([reference])}", f"tracking={config.tracking.name}"]
    # The task is one process, although msrun may have started this one.
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    environment[EXPERIMENT_VARIABLE] = config.tracking.experiment
    if config.tracking.uri:
        environment[URI_VARIABLE] = config.tracking.uri  # a command line shows a password to others
    print(f"\nthen        {' '.join(config.task.then)} runs={reference}", flush=True)
    with activity(""):  # the other process shows its own
        process = subprocess.Popen([*python_command(ENTRY), *overrides], env=environment)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        raise NextTaskFailed(code)
