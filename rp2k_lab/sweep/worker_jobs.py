"""A study on a cluster: a launcher of Hydra starts its workers as jobs, each with the command of one worker."""

import os
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig

from rp2k_lab.config.overrides import check_programs
from rp2k_lab.core.errors import RequestError, StudyIncomplete
from rp2k_lab.core.quoting import hydra_value
from rp2k_lab.core.signals import before_launcher
from rp2k_lab.core.text import escape_controls
from rp2k_lab.sweep.command import StudyRequest, read_request, run_study
from rp2k_lab.sweep.storage import exclusive, open_storage
from rp2k_lab.sweep.trial_process import ENTRY, exit_reason, python_command
from rp2k_lab.tracking.mlflow_store import is_local

_LAUNCHERS = ("submitit_local", "submitit_slurm")
# Keys of Hydra in a command that a worker does not get.
_OF_THE_LAUNCHER = ("hydra/launcher", "hydra.launcher.", "hydra.sweeper.workers", "hydra.sweep.", "hydra.mode")


def launch_study(arguments: list[str], options: dict[str, Any], config: DictConfig, context: HydraContext) -> None:
    """Start the workers of a study as jobs, wait for them, and print the closing lines of the study.

    Args:
        arguments, options, config: as for `run_study`.
        context: Hydra's, for the launcher.

    Raises:
        RequestError: the request is wrong, or jobs cannot be submitted.
        StudyIncomplete: no worker saw the study's end.
    """
    request, launcher = read_request(arguments, options, config), config.hydra.runtime.choices["hydra/launcher"]
    _check_launcher(launcher, request)
    options_of_storage = request.settings.storage, request.settings.heartbeat_seconds
    with open_storage(*options_of_storage) as storage, exclusive(storage, request.name):
        request.check_existing(storage)
    folder, workers = Path(config.hydra.sweep.dir).absolute(), request.settings.workers
    start = partial(run_worker, _worker_command(arguments, config, folder))
    plugin = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=start, config=config)
    jobs = f"{workers} jobs" if workers > 1 else "a job"
    print(f"study {request.name}: workers as {jobs} of {launcher}, output in {folder}/worker*/log.txt", flush=True)
    results = _launch(plugin, launcher, [[f"hydra.sweep.subdir=worker{number}"] for number in range(workers)])
    reasons = [str(result._return_value) for result in results]  # `return_value` raises, and prints
    for number, reason in enumerate(reasons):
        if reason:
            print(f"worker {number} ended early: {escape_controls(reason)}")
    if all(reasons):
        raise StudyIncomplete(
            f"study {request.name}: no worker finished it; the last: {reasons[-1]}\nrun the same command again"
        )
    run_study(arguments, options, config)  # nothing is left to run


def run_worker(command: list[str], composed: DictConfig) -> str:
    """Run one worker of a study as a child process of a job; return the reason why it ended early, or nothing.

    A signal that the launcher handles goes to the worker first, which stops its trial in order.

    Args:
        command: of the worker.
        composed: the job's configuration, which the command repeats.
    """
    file = Path(HydraConfig.get().runtime.output_dir) / "log.txt"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # keeps the lines of the log in order
    worker: subprocess.Popen | None = None
    early: list[int] = []

    def forward(signum: int, frame: Any) -> None:
        worker.send_signal(signum) if worker else early.append(signum)

    with file.open("ab") as log, before_launcher(forward):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        worker = subprocess.Popen(command, env=environment, **pipes)
        for signum in early:  # that came while it started
            worker.send_signal(signum)
        code = worker.wait()
    return exit_reason(code, file) if code else ""


def _check_launcher(launcher: str, request: StudyRequest) -> None:
    """Raise a RequestError if the launcher cannot start workers, or if they would share a file between machines."""
    if launcher not in _LAUNCHERS:
        raise RequestError(
            f"hydra/launcher={launcher}: starts no workers of a study\n"
            f"use {' or '.join(_LAUNCHERS)}, or run the command in several terminals"
        )
    check_programs(launcher)
    if launcher != "submitit_slurm":  # the others start jobs on this machine
        return
    storage = request.settings.storage
    if not storage or storage.startswith("sqlite"):
        raise RequestError(
            f"hydra.sweeper.storage={storage or 'null'}: machines cannot share a SQLite file\n"
            "use hydra.sweeper.storage=postgresql+psycopg://user@host/database"
        )
    if request.tracking.name != "offline" and is_local(request.tracking.uri):
        raise RequestError(
            "tracking.uri: machines cannot share a store of SQLite\n"
            "use http://host:5000 of an MLflow server, or tracking=offline"
        )


def _worker_command(arguments: list[str], config: DictConfig, folder: Path) -> list[str]:
    """Return the command of one worker, which has the folder of the launching one."""
    own = [text for text in config.hydra.overrides.hydra if not text.startswith(_OF_THE_LAUNCHER)]
    return [*python_command(ENTRY), "-m", *arguments, *own, f"hydra.sweep.dir={hydra_value(folder)}"]


def _launch(plugin: Launcher, name: str, jobs: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
    """Submit the jobs and wait for their results.

    submitit raises an error for the first job without a result, which was killed; the other jobs continue.
    """
    try:
        return plugin.launch(jobs, initial_job_idx=0)
    except KeyboardInterrupt:
        print("the submitted jobs continue")
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        if isinstance(error.__cause__, subprocess.CalledProcessError):  # of sbatch
            raise RequestError(f"hydra/launcher={name}: {reason}\ncorrect hydra.launcher.<option>") from error
        raise StudyIncomplete(
            f"hydra/launcher={name}: a job was lost, the others continue: {reason}\n"
            "run the same command again to replace it"
        ) from error
