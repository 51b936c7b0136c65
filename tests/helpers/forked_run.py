"""Start `python run.py` as a fork of a process with the slow imports done, in a third of the time.

The fork is a real process with its pid, signals, folder, environment and pipes.  MindSpore 2.10 may be forked until it
has run a kernel: its import starts no thread.
"""

import io
import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rp2k_lab import PROJECT

SLOW_IMPORTS = (
    "hydra._internal.hydra",
    "hydra.core.override_parser.overrides_parser",
    "hydra.core.plugins",
    "matplotlib.pyplot",
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna",
    "pandas",
    "rp2k_lab.config.schema",
    "rp2k_lab.task.train",
)
# On a busy machine a command may print them: rp2k_lab/core/progress.py.
_SIGNS_OF_LIFE = re.compile(r"^.*(, \d+ s|  \d+:\d\d:\d\d left)\n", re.MULTILINE)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.helpers.forked_run", *SLOW_IMPORTS])


class Process:
    """A running script, with the interface of `subprocess.Popen`.

    Attributes:
        stdout, stderr: text files.
    """

    def __init__(self, script: Path, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]):
        pipes = [_CONTEXT.Pipe(duplex=False) for _ in range(2)]
        args = (str(script), list(arguments), str(folder), dict(environment), *(writing for _, writing in pipes))
        self._process = _CONTEXT.Process(target=_execute, args=args)
        self._process.start()
        self.stdout, self.stderr = (os.fdopen(os.dup(reading.fileno()), encoding="utf-8") for reading, _ in pipes)
        for end in (end for pipe in pipes for end in pipe):
            end.close()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the signal's number if a signal ended it."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("run.py", timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end and return the rest of (stdout, stderr without signs of life)."""
        with ThreadPoolExecutor(2) as threads:
            texts = [threads.submit(pipe.read) for pipe in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        self.stdout.close()
        self.stderr.close()
        return texts[0].result(), _SIGNS_OF_LIFE.sub("", texts[1].result())

    def send_signal(self, signum: int) -> None:
        """Send a signal unless the process has ended."""
        if self.returncode is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start_run(arguments: Sequence[str], folder: Path, script: Path = PROJECT / "run.py") -> Process:
    """Start `python run.py` with arguments in a folder, with this process's environment."""
    return Process(script, arguments, folder, os.environ)


def _execute(script: str, arguments: list[str], folder: str, environment: dict[str, str], out, err) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream, pipe in ((1, out), (2, err)):
        os.dup2(pipe.fileno(), stream)
        pipe.close()
    # Unbuffered, so that a reader receives each line at once.
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(stream, "w", closefd=False), "utf-8", write_through=True) for stream in (1, 2)
    )
    from mindspore import log

    log.GLOBAL_LOGGER = None  # MindSpore 2.10 names it after the process that imports it; checkpoint.py silences it
    sys.argv[:] = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
