"""Run many command lines of `run.py` with the start-up cost of one.

    python -m tests.helpers.run_commands < list

reads a JSON list of argument lists and writes a JSON line [index, exit code, stderr] as each command ends.  The imports
are done once; each command then executes `run.py` in a fork, so that commands cannot affect each other.
"""

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from rp2k_lab import PROJECT
from tests.helpers.forked_run import SLOW_IMPORTS

# An accepted command would train: it is killed.
_LIMIT_SECONDS = 120


def run_forks(commands: list[list[str]]) -> None:
    """Run the commands, one per core at a time, and print a line for each; their stdout is dropped."""
    running = {}

    def wait() -> None:
        child, status = os.wait()
        number, stderr = running.pop(child)
        stderr.seek(0)
        print(json.dumps([number, os.waitstatus_to_exitcode(status), stderr.read().decode()]), flush=True)
        stderr.close()

    for number, arguments in enumerate(commands):
        if len(running) == os.cpu_count():
            wait()
        stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed when its command has ended
        child = os.fork()
        if not child:
            _execute(arguments, stderr.fileno())
        running[child] = number, stderr
    while running:
        wait()


def _execute(arguments: list[str], stderr: int) -> None:
    """Run a command in this process and exit."""
    code = 1
    signal.setitimer(signal.ITIMER_REAL, _LIMIT_SECONDS, 5)  # the first one stops in order
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(stderr, 2)
        sys.argv[:] = [str(PROJECT / "run.py"), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def run_all(commands: list[list[str]], folder: Path) -> list[tuple[int, str]]:
    """Return (exit code, stderr) of each command, run in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.run_commands"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
    )
    return [(code, stderr) for _, code, stderr in sorted(map(json.loads, done.stdout.splitlines()))]


if __name__ == "__main__":
    for module in SLOW_IMPORTS:
        importlib.import_module(module)
    importlib.import_module("hydra.core.plugins").Plugins.instance()  # scans the installed plugins
    run_forks(json.load(sys.stdin))
