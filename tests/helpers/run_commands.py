"""Answers of `run.py` to many command lines, at the cost of one start.

    python -m tests.helpers.run_commands < list

reads a JSON list of argument lists, and writes [place in the list, exit code, stderr] as a line of JSON for each, as
they end.  What commands import is imported once, but for MindSpore, whose threads allow no copies; each command then
runs in a forked copy of that process, through the very `run.py`, so that nothing of one reaches the next.
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

# A command that is not refused trains: it is killed.
_LIMIT_SECONDS = 60


def answer(commands: list[list[str]]) -> None:
    """Run each command, a process a core at a time, and write its answer; its stdout is left out."""
    running = {}

    def wait() -> None:
        child, status = os.wait()
        number, said = running.pop(child)
        said.seek(0)
        print(json.dumps([number, os.waitstatus_to_exitcode(status), said.read().decode()]), flush=True)
        said.close()

    for number, arguments in enumerate(commands):
        if len(running) == os.cpu_count():
            wait()
        said = tempfile.TemporaryFile()  # noqa: SIM115  closed when its command has ended
        child = os.fork()
        if not child:
            _become(arguments, said.fileno())
        running[child] = number, said
    while running:
        wait()


def _become(arguments: list[str], said: int) -> None:
    """Run the command in place of this process."""
    code = 1
    signal.alarm(_LIMIT_SECONDS)
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(said, 2)
        sys.argv[:] = [str(PROJECT / "run.py"), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def answers(commands: list[list[str]], folder: Path) -> list[tuple[int, str]]:
    """(exit code, stderr) of each command, all run in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.run_commands"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
    )
    return [(code, said) for _, code, said in sorted(map(json.loads, done.stdout.splitlines()))]


if __name__ == "__main__":
    for module in SLOW_IMPORTS:
        importlib.import_module(module)
    importlib.import_module("hydra.core.plugins").Plugins.instance()  # looks through the installed plugins
    answer(json.load(sys.stdin))
