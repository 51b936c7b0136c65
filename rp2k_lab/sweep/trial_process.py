"""A study's side of a trial: its process, what it says, and how it ended."""

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

from rp2k_lab import PROJECT
from rp2k_lab.core.errors import Interrupted
from rp2k_lab.tracking.trial_client import VARIABLE

# What a trial's process runs.
ENTRY = PROJECT / "run.py"
_POLL_SECONDS = 0.5
# A run stops after the step under way and saves; then it is killed.
_STOP_SECONDS = 60
# The exit codes of a run that a signal stopped in order.
_STOPPED = tuple(Interrupted(signum).exit_code for signum in (signal.SIGINT, signal.SIGTERM))
_DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")


class TrialFailed(Exception):
    """A trial that came to nothing; the message is the reason in one line."""


class TrialInterrupted(TrialFailed):
    """A trial that a signal ended: its run may go on."""


class TrialStopped(TrialInterrupted):
    """A trial that was stopped with its study, and does not count as failed."""


def run_trial(
    overrides: list[str],
    folder: Path,
    link: dict[str, Any],
    device: int | None,
    heard: Callable[[dict[str, Any]], bool],
    signum: Callable[[], int | None],
) -> float | None:
    """`run.py` with some overrides in a process of its own; returns its objective, or None where it was pruned.

    Args:
        folder: the run's own; `log.txt` in it is what the run printed, from each time that it was started.
        link: name and tags for the run's record.
        device: the only GPU or NPU that the process sees; None: as this process.
        heard: called with each message; says whether the run is to be pruned.
        signum: the signal that asks this process to stop, or None; the run is sent the same.

    Raises:
        TrialFailed: it ended otherwise.
    """
    ours, theirs = socket.socketpair()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # the last words come last in the log
    environment[VARIABLE] = json.dumps({**link, "descriptor": theirs.fileno()})
    if device is not None:
        environment |= dict.fromkeys(_DEVICE_VARIABLES, str(device))
    command = [sys.executable, str(ENTRY), *overrides, f"hydra.run.dir='{folder}'"]
    folder.mkdir(parents=True, exist_ok=True)
    with ours, (folder / "log.txt").open("ab") as log:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        # In a session of its own: Ctrl-C in the terminal reaches the study, which passes it on.
        process = subprocess.Popen(
            command, env=environment, pass_fds=[theirs.fileno()], start_new_session=True, **pipes
        )
        theirs.close()
        try:
            objective, pruned = _listen(ours, process, heard, signum)
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
        raise TrialInterrupted(_reason(code, folder / "log.txt"))
    if code != 0 or objective is None:
        raise TrialFailed(_reason(code, folder / "log.txt"))
    if objective != objective:
        raise TrialFailed("val top-1 is no number")
    return objective


def _listen(ours: socket.socket, process: subprocess.Popen, heard, signum) -> tuple[float | None, bool]:
    """(objective, whether it was told to stop early), when the process has ended."""
    objective, pruned, text, kill_at = None, False, b"", None
    ours.settimeout(_POLL_SECONDS)
    while True:
        ended = process.poll() is not None  # looked at first: what was said before the end is still to be read
        received = _receive(ours)
        *lines, text = (text + (received or b"")).split(b"\n")
        for message in map(json.loads, lines):
            objective = message.get("objective", objective)
            prune = heard(message)
            if "epoch" in message:
                pruned = pruned or prune
                with suppress(OSError):  # it has died since
                    ours.sendall(json.dumps({"prune": prune}).encode() + b"\n")
        if ended and not received:
            return objective, pruned
        if received == b"":
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
        if signum() is not None and kill_at is None:
            process.send_signal(signum())
            kill_at = time.monotonic() + _STOP_SECONDS
        elif kill_at is not None and time.monotonic() > kill_at:
            process.kill()


def _receive(ours: socket.socket) -> bytes | None:
    """What the run says; None where it says nothing for a moment, empty where it has hung up."""
    try:
        return ours.recv(65536)
    except TimeoutError:
        return None
    except OSError:  # it died with an answer unread
        return b""


def _reason(code: int, log: Path) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (by someone, or for want of memory)" if name == "SIGKILL" else "")
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"exit code {code}: {'; '.join(said[-2:])[:300] or 'without a word'}"
