"""`python run.py` that something happens to: python kill_at_event.py "write 2 KILL" <arguments of run.py>.

At the n-th occurrence of an event in this process: KILL and TERM send it that signal, MemoryError raises one.  With
`- 0 -` nothing happens.  Each event is a line on stdout.

    photos      a thread begins to make a batch
    step        a step is done, nothing of it is recorded or saved
    write       a checkpoint is written and has not its name yet; before a strike it is cut to its half
    record      a checkpoint is written, its record is not
    evaluation  a batch of photos is predicted
    upload      a file is about to go to the store
"""

import os
import runpy
import signal
import sys
import threading
from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT))
EVENT = "event "

import rp2k_lab  # noqa: E402, F401 (before MindSpore: its environment defaults must stand first)

seen, one_at_a_time = Counter(), threading.Lock()
event, number, action = sys.argv.pop(1).split()


def happens(name: str, before=lambda: None) -> None:
    """Say so, and do what was asked for."""
    with one_at_a_time:  # batches are made by several threads
        seen[name] += 1
        at = seen[name]
        print(f"{EVENT}{name} {at}\n", end="", flush=True)  # in one piece, whatever else is printed
    if (name, at) != (event, int(number)):
        return
    before()
    if action == "MemoryError":
        raise MemoryError("no room")
    os.kill(os.getpid(), getattr(signal, f"SIG{action}"))


def watch_events() -> None:
    """Have the events announced."""
    import mindspore
    import mlflow

    from rp2k_lab.dataset.loader import TrainingBatches
    from rp2k_lab.evaluation.predictor import Predictor
    from rp2k_lab.train import checkpoint
    from rp2k_lab.train.callbacks import SyncWorkers

    save, write_text, predict = mindspore.save_checkpoint, checkpoint.write_text, Predictor._predict
    step_end, upload, make = SyncWorkers.step_end, mlflow.MlflowClient.log_artifact, TrainingBatches.batch

    def half_then_whole(parameters, file, **options):
        save(parameters, file, **options)
        happens("write", before=lambda: os.truncate(file, os.path.getsize(file) // 2))

    def record(file, text):
        happens("record")
        write_text(file, text)

    def step(self, state):
        happens("step")
        step_end(self, state)

    def batch(self, images):
        happens("evaluation")
        return predict(self, images)

    def photos(self, *arguments):
        happens("photos")
        return make(self, *arguments)

    def artifact(self, *arguments, **options):
        happens("upload")
        return upload(self, *arguments, **options)

    mindspore.save_checkpoint, checkpoint.write_text, Predictor._predict = half_then_whole, record, batch
    SyncWorkers.step_end, mlflow.MlflowClient.log_artifact = step, artifact
    TrainingBatches.batch = photos


watch_events()
sys.argv[0] = str(PROJECT / "run.py")
runpy.run_path(sys.argv[0], run_name="__main__")
