"""A run's side of a study: it says how it is doing, and hears whether to go on.

The study starts each trial as a process of its own, the very `run.py` command that a user could type, so that what
kills a trial, or what MindSpore keeps of a compiled network, ends with it.  The two talk over a socket, one line of
JSON a message; when the study's process is gone the socket closes, and the run stops in order.
"""

import json
import os
import queue
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

VARIABLE = "RP2K_LAB_TRIAL"


class Trial:
    """The trial that this process is, or, for a run on its own, one that nobody listens to.

    Attributes:
        name: the run's name, or None.
        tags: what the run's record says about the study.
        pruned: whether the study has asked the run to stop.
    """

    def __init__(self, link: dict[str, Any] | None = None):
        self.name, self.tags = (link["name"], link["tags"]) if link else (None, {})
        self.pruned, self._socket = False, None
        if link:
            self._socket = socket.socket(fileno=link["descriptor"])
            self._socket.set_inheritable(False)
            self._answers: queue.SimpleQueue = queue.SimpleQueue()
            threading.Thread(target=self._listen, daemon=True, name="study").start()

    @classmethod
    def of_this_process(cls) -> "Trial":
        """What the study left in the environment; taken out, so that no child process thinks it is the trial."""
        text = os.environ.pop(VARIABLE, None)
        return cls(json.loads(text) if text else None)

    def started(self, run_id: str, folder: Path) -> None:
        """Link run, folder and trial."""
        if self._socket:
            link = {"run_id": run_id, "folder": str(folder)}
            (folder / "trial.yaml").write_text(yaml.safe_dump(self.tags | link, allow_unicode=True), encoding="utf-8")
            self._print_error(link)

    def report_metric(self, top1: float, epoch: int, epochs: int) -> None:
        """Say how val stands after an epoch; waits for the answer, which may set `pruned`."""
        if self._socket:
            self._print_error({"top1": top1, "epoch": epoch, "epochs": epochs})
            self.pruned = self._answers.get()["prune"]

    def finished(self, objective: float) -> None:
        """Say what the run came to."""
        if self._socket:
            self._print_error({"objective": objective})

    def _print_error(self, message: dict[str, Any]) -> None:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:  # the study is gone, which `_listen` hears too
            self._answers.put({"prune": False})

    def _listen(self) -> None:
        # A study that is killed with a message unread ends the connection with an error.
        with suppress(OSError), self._socket.makefile() as lines:
            for line in lines:
                self._answers.put(json.loads(line))
        self._answers.put({"prune": False})
        os.kill(os.getpid(), signal.SIGTERM)
