"""Replacement of run.py in tests of studies: a trial of a tenth of a second with a chosen behavior.

The variable BEHAVIOR is a JSON list of [overrides, behavior]; the first whose overrides (separated by spaces) are all
in the command counts, "" is in every command.  A behavior is a word from below, or `fifo:FILE`: while the FIFO exists,
write the ids of this process and its parent into it and hang; signals are written too, and the FIFO closes when the
process ends.
"""

import json
import os
import select
import signal
import sys
from itertools import count
from pathlib import Path

from rp2k_lab.tracking.journal import Journal
from rp2k_lab.tracking.provenance import FINGERPRINT
from rp2k_lab.tracking.trial_client import Trial

EPOCHS = 3


def main() -> int | None:
    overrides = sys.argv[1:]
    folder = Path(overrides[-1].removeprefix("hydra.run.dir='").removesuffix("'").replace("\\'", "'"))
    behaviors = json.loads(os.environ.get("BEHAVIOR", "[]"))
    behavior = next((word for given, word in behaviors if {*given.split()} <= {*overrides}), "fine")
    devices = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")]
    (folder / "seen.json").write_text(json.dumps({"overrides": overrides, "devices": devices}))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # run.py receives it in a separate thread
    top1 = float(behavior.removeprefix("top1:")) if behavior.startswith("top1:") else 0.5

    if behavior == "killed with an answer unread":
        connection = json.loads(os.environ["RP2K_LAB_TRIAL"])["descriptor"]
        os.write(connection, json.dumps({"top1": top1, "epoch": 1, "epochs": EPOCHS}).encode() + b"\n")
        select.select([connection], [], [])
        os.kill(os.getpid(), signal.SIGKILL)
    trial = Trial.from_environment()
    if behavior == "quiet":
        return trial.finished(top1)
    trial.started(f"run{os.getpid()}", folder)
    if behavior == "refused":
        print("first line\n\nmodel=vgg: there is no such choice\nchoose one of resnet18", file=sys.stderr)
        return 2
    if behavior == "silent":
        return None
    if behavior == "nan":
        return trial.finished(float("nan"))
    if behavior == "killed with a record":
        trial.report_metric(top1, 1, EPOCHS)
        header = {"local_id": "0" * 32, "name": "", "experiment": "", "store": None, "tags": {FINGERPRINT: "0" * 16}}
        Journal(folder / "0.journal").append("run", **header)
        os.kill(os.getpid(), signal.SIGKILL)
    if behavior in ("killed", "killed by a real-time signal"):
        os.kill(os.getpid(), signal.SIGKILL if behavior == "killed" else signal.SIGRTMIN + 3)
    if behavior == "hung up":
        os.dup2(os.open(os.devnull, os.O_RDWR), trial._socket.fileno())
        signal.pause()
    if behavior == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pause()
    if behavior.startswith("fifo:") and Path(behavior[5:]).exists():
        hang(trial, Path(behavior[5:]))
    for epoch in count(1) if behavior == "endless" else range(1, EPOCHS):
        trial.report_metric(top1, epoch, EPOCHS)
        if trial.pruned:
            return None
    trial.finished(top1)
    return None


def hang(trial: Trial, fifo: Path) -> None:
    writer = os.open(fifo, os.O_WRONLY)

    def stop(signum, frame):
        os.write(writer, f"{signal.Signals(signum).name}\n".encode())
        sys.exit(75)

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, stop)
    trial._send({"top1": 0.5, "epoch": 1, "epochs": EPOCHS})
    os.write(writer, f"{os.getpid()} {os.getppid()}\n".encode())
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
