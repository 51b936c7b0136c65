"""Finished runs with a network that no store has: a journal and a checkpoint."""

from pathlib import Path
from types import SimpleNamespace

from rp2k_lab.tracking.mlflow_runs import CHECKPOINT
from rp2k_lab.tracking.tracker import MlflowTracker


def finish_run(folder: Path, name: str, score: float) -> str:
    """Record a finished training in a folder; return its id."""
    tracking = SimpleNamespace(name="offline", uri=None, experiment="rp2k-lab", flush_seconds=60)
    with MlflowTracker(tracking, name, folder) as tracker:
        tracker.set_tags({"task": "train"})
        tracker.log_metrics({"val/top1": score}, 1)
        (folder / CHECKPOINT).parent.mkdir()
        (folder / CHECKPOINT).write_bytes(b"weights")
    return tracker.run_id
