"""Run `run.py` and fail at an event: python kill_at_event.py "write 2 KILL" <arguments of run.py>.

At the n-th event of a kind, KILL and TERM send this process the signal, and MemoryError raises one.  `- 0 -` never
fails.  Each event prints a line.

    batch       a thread starts a training batch
    step        a step is finished, but neither logged nor saved
    write       a checkpoint is written under its temporary name; it is truncated to half before the failure
    record      a checkpoint is written, its record is not
    evaluation  a batch of images is evaluated
    upload      a file is about to be uploaded
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

import rp2k_lab  # noqa: E402, F401 (before MindSpore: sets its environment)

counts, lock = Counter(), threading.Lock()
event, number, action = sys.argv.pop(1).split()


def report(name: str, before=lambda: None) -> None:
    """Print the event; fail if it is the chosen one."""
    with lock:  # several threads prepare batches
        counts[name] += 1
        count = counts[name]
        print(f"event {name} {count}\n", end="", flush=True)  # one write, so that no other output splits it
    if (name, count) != (event, int(number)):
        return
    before()
    if action == "MemoryError":
        raise MemoryError("no space")
    os.kill(os.getpid(), getattr(signal, f"SIG{action}"))


def patch_events() -> None:
    """Make the functions of the events report them."""
    import mindspore
    import mlflow

    from rp2k_lab.dataset.loader import TrainingBatches
    from rp2k_lab.evaluation.predictor import Predictor
    from rp2k_lab.train import checkpoint
    from rp2k_lab.train.callbacks import SyncWorkers

    save, write_text, predict = mindspore.save_checkpoint, checkpoint.write_text, Predictor._predict
    step_end, upload, make = SyncWorkers.step_end, mlflow.MlflowClient.log_artifact, TrainingBatches.batch

    def save_checkpoint(parameters, file, **options):
        save(parameters, file, **options)
        report("write", before=lambda: os.truncate(file, os.path.getsize(file) // 2))

    def record(file, text, **options):
        report("record")
        write_text(file, text, **options)

    def step(self, state):
        report("step")
        step_end(self, state)

    def evaluate(self, images):
        report("evaluation")
        return predict(self, images)

    def batch(self, *arguments):
        report("batch")
        return make(self, *arguments)

    def artifact(self, *arguments, **options):
        report("upload")
        return upload(self, *arguments, **options)

    mindspore.save_checkpoint, checkpoint.write_text, Predictor._predict = save_checkpoint, record, evaluate
    SyncWorkers.step_end, mlflow.MlflowClient.log_artifact = step, artifact
    TrainingBatches.batch = batch


patch_events()
sys.argv[0] = str(PROJECT / "run.py")
runpy.run_path(sys.argv[0], run_name="__main__")
