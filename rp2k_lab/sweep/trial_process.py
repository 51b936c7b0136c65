"""A trial as a child process of its study: start it, receive its messages, and report how it ended."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rp2k_lab import CLONE
from rp2k_lab.core.errors import Interrupted
from rp2k_lab.core.quoting import hydra_value
from rp2k_lab.core.signals import signal_name
from rp2k_lab.tracking.trial_client import VARIABLE

# The script that a trial runs.
ENTRY = CLONE / "run.py" if CLONE else None  # None: of an installed package
_POLL_SECONDS = 0.5
# Time for a run to finish its step and save, before it is killed.
_STOP_SECONDS = 60
# Exit codes of a run after an orderly stop by a signal.
_STOPPED = tuple(Interrupted(signum).exit_code for signum in (signal.SIGINT, signal.SIGTERM))
_DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")


class TrialFailed(Exception):
    """The trial has no result; the message is the reason, one line."""


class TrialInterrupted(TrialFailed):
    """A signal ended the trial; its run can be resumed."""


class TrialStopped(TrialInterrupted):
    """The trial was stopped with its study; it does not count as failed."""


def run_trial(
    overrides: list[str],
    folder: Path,
    link: dict[str, Any],
    device: int | None,
    on_message: Callable[[dict[str, Any]], bool],
    signum: Callable[[], int | None],
) -> float | None:
    """Run `run.py` with overrides as a child process; return its objective, or None if it was pruned.

    Args:
        folder: of the run; `log.txt` in it gets the output of each start.
        link: name and tags for the run.
        device: the only GPU or NPU that the process sees; None: the same as this process.
        on_message: called with each message; returns whether to prune the run.
        signum: returns the signal that asks this process to stop, or None; it is forwarded to the run.

    Raises:
        TrialFailed: the process ended without an objective.
        TrialInterrupted: a signal ended it.
        TrialStopped: it was stopped with its study.
    """
    connection, child_end = socket.socketpair()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # keeps the lines of the log in order
    environment[VARIABLE] = json.dumps({**link, "descriptor": child_end.fileno()})
    if device is not None:
        environment |= dict.fromkeys(_DEVICE_VARIABLES, str(device))
    command = [*python_command(ENTRY), *overrides, f"hydra.run.dir={hydra_value(folder)}"]
    folder.mkdir(parents=True, exist_ok=True)
    with connection, (folder / "log.txt").open("ab") as log:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        # A separate session, so that Ctrl-C in the terminal reaches only the study, which forwards it.
        process = subprocess.Popen(
            command, env=environment, pass_fds=[child_end.fileno()], start_new_session=True, **pipes
        )
        child_end.close()
        try:
            objective, pruned = _listen(connection, process, on_message, signum)
            code = process.returncode
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if pruned and code == 0:
        return None
    if signum() is not None and code != 0:
        raise TrialStopped("stopped with its study")
    if code < 0 or code in _STOPPED:
        raise TrialInterrupted(exit_reason(code, folder / "log.txt"))
    if code != 0 or objective is None:
        raise TrialFailed(exit_reason(code, folder / "log.txt"))
    if objective != objective:
        raise TrialFailed("val top-1 is NaN")
    return objective


def python_command(entry: Path | None) -> list[str]:
    """Return the start of a command: of a clone's script, or of the installed package."""
    return [sys.executable, *([str(entry)] if entry else ["-m", "rp2k_lab"])]


def _listen(
    connection: socket.socket,
    process: subprocess.Popen,
    on_message: Callable[[dict[str, Any]], bool],
    signum: Callable[[], int | None],
) -> tuple[float | None, bool]:
    """Answer messages until the process has ended; return (objective, whether it was pruned)."""
    objective, pruned, buffer, kill_at = None, False, b"", None
    connection.settimeout(_POLL_SECONDS)
    while True:
        ended = process.poll() is not None  # before the read, so that the last messages are not lost
        received = _receive(connection)
        *lines, buffer = (buffer + (received or b"")).split(b"\n")
        for message in map(json.loads, lines):
            objective = message.get("objective", objective)
            prune = on_message(message)
            if "epoch" in message:
                pruned = pruned or prune
                with suppress(OSError):  # the process may be gone
                    connection.sendall(json.dumps({"prune": prune}).encode() + b"\n")
        if ended and not received:
            return objective, pruned
        if received == b"":
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
        if (stop := signum()) is not None and kill_at is None:
            process.send_signal(stop)
            kill_at = time.monotonic() + _STOP_SECONDS
        elif kill_at is not None and time.monotonic() > kill_at:
            process.kill()


def _receive(connection: socket.socket) -> bytes | None:
    """Return received bytes; None after a time-out, empty if the run closed the connection."""
    try:
        return connection.recv(65536)
    except TimeoutError:
        return None
    except OSError:  # reset: the run died with an unread answer
        return b""


def exit_reason(code: int, log: Path) -> str:
    """Return in one line why a process ended with this code; of an exit code, with the last lines of its log."""
    if code < 0:
        name = signal_name(-code)
        return f"killed by {name}" + (" (a user, or the out-of-memory killer)" if name == "SIGKILL" else "")
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"exit code {code}: {'; '.join(lines[-2:])[:300] or 'no message'}"
