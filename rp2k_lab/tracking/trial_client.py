"""A run's connection to its study: send metrics, receive whether to stop.

The study starts each trial as a separate `run.py` process, so that a crash, and the memory of compiled networks, end
with the trial.  They exchange JSON lines over a socket.  When the study's process ends, the socket closes and the run
stops in order.
"""

import json
import os
import queue
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml

VARIABLE = "RP2K_LAB_TRIAL"
# What may replace a training: an equal finished run, or also a committed result without its run.
Reuse = Literal["", "runs", "results"]


class Trial:
    """The connection of this process to its study; without one, all methods do nothing.

    Attributes:
        name: the run's name, or None.
        tags: facts about the study, for the run's record.
        reuse: what may replace the training.
        pruned: whether the study asked the run to stop.

    Args:
        link: descriptor, name, tags and perhaps reuse, as the study passed them.
    """

    def __init__(self, link: dict[str, Any] | None = None):
        self.name, self.tags = (link["name"], link["tags"]) if link else (None, {})
        self.reuse: Reuse = link.get("reuse", "") if link else ""
        self.pruned, self._socket = False, None
        if link:
            self._socket = connection = socket.socket(fileno=link["descriptor"])
            connection.set_inheritable(False)
            self._answers: queue.SimpleQueue = queue.SimpleQueue()
            threading.Thread(target=self._listen, args=(connection,), daemon=True, name="study").start()

    @classmethod
    def from_environment(cls) -> "Trial":
        """Return the trial in the environment, and remove it there, so that child processes do not join it."""
        text = os.environ.pop(VARIABLE, None)
        return cls(json.loads(text) if text else None)

    def started(self, run_id: str, folder: Path, epochs: int | None = None) -> None:
        """Report the run's id, folder and number of epochs, and write trial.yaml into the folder."""
        if self._socket:
            link = {"run_id": run_id, "folder": str(folder)}
            (folder / "trial.yaml").write_text(yaml.safe_dump(self.tags | link, allow_unicode=True), encoding="utf-8")
            self._send(link | ({"epochs": epochs} if epochs else {}))

    def replaced(self, origin: str, run_id: str, place: dict[str, Any]) -> None:
        """Report the finished run, or the committed cell, that replaces this training."""
        if self._socket:
            self._send({"origin": origin} | ({"run_id": run_id} if run_id else {"place": place}))

    def report_metric(self, top1: float, epoch: int, epochs: int) -> None:
        """Report top-1 on val after an epoch; wait for the answer, which may set `pruned`."""
        if self._socket:
            self._send({"top1": top1, "epoch": epoch, "epochs": epochs})
            self.pruned = self._answers.get()["prune"]

    def finished(self, objective: float) -> None:
        """Report the run's objective."""
        if self._socket:
            self._send({"objective": objective})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._socket is not None
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:  # the study is gone; `_listen` stops the run
            self._answers.put({"prune": False})

    def _listen(self, connection: socket.socket) -> None:
        # A study that is killed with an unread message closes the connection with an error.
        with suppress(OSError), connection.makefile() as lines:
            for line in lines:
                self._answers.put(json.loads(line))
        self._answers.put({"prune": False})
        os.kill(os.getpid(), signal.SIGTERM)
