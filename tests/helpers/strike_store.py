"""Make a store and strike this process at one of the statements, as a kill or Ctrl-C on a first start does."""

import multiprocessing
import os
import signal
from pathlib import Path

from tests.helpers import forked_run  # noqa: F401  (its imports are done once for all forks)


def strike(file: Path, statement: int, signum: str) -> int | None:
    """Connect to the store in a forked process, and send it a signal (`SIGKILL`) at the n-th statement.

    Returns:
        The process's exit code; minus the signal's number if that ended it.
    """
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_connect, args=(str(file), statement, signum))
    process.start()
    process.join(300)
    return process.exitcode


def _connect(file: str, statement: int, signum: str) -> None:
    import sqlalchemy

    from rp2k_lab.tracking.mlflow_store import connect

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the traceback of a KeyboardInterrupt
    statements = 0

    def count(*arguments):
        nonlocal statements
        statements += 1
        if statements == statement:
            os.kill(os.getpid(), getattr(signal, signum))

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", count)
    connect(f"sqlite:///{file}", "study")
