"""Training runs of seconds with the real command: options, store and process."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.forked_run import Process

KILL_AT_EVENT = Path(__file__).with_name("kill_at_event.py")
POOR_DISK = Path(__file__).with_name("poor_disk.py")
# Eight classes, 300 training images.
FEW_PHOTOS = (
    "dataset.classes=8",
    "dataset.train_images=300",
    "dataset.val_images=60",
    "dataset.test_images=80",
    "dataset.min_train_images=5",
    "size=32",
    "epochs=2",
)
# One block per stage: a smaller network compiles in half the time.
TINY = (*FEW_PHOTOS, "model.width_multiplier=0.25", "model.depth_multiplier=0.5")


@dataclass
class Store:
    """The MLflow store of a test."""

    folder: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def runs(self) -> list:
        """Return every run, the newest first; none if there is no store."""
        import mlflow

        if not (self.folder / "mlflow.db").exists():
            return []
        client = mlflow.MlflowClient(self.uri)
        return [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]

    def history(self, run) -> dict[str, list[tuple[int, float]]]:
        """Return metric name to [(step, value), …] in order, without speeds and loads, which no two runs share."""
        import mlflow

        client = mlflow.MlflowClient(self.uri)
        names = sorted(name for name in run.data.metrics if not re.search("per_second|^system/", name))
        return {n: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, n)] for n in names}

    def run_of(self, output: str):
        """Return the run whose id a command printed."""
        (run,) = [run for run in self.runs() if run.info.run_id in output]
        return run

    def artifacts(self, run) -> Path:
        """Return the run's artifact folder."""
        return Path(run.info.artifact_uri.removeprefix("file://"))


@dataclass
class Command:
    """A started `python run.py` with its process, output folder and store."""

    process: Process
    folder: Path
    store: Store

    def wait(self, timeout_seconds: float = 300) -> tuple[int, str, str]:
        """Wait for the end; return (exit code, stdout, stderr)."""
        out, err = self.process.communicate(timeout=timeout_seconds)
        return self.process.returncode, out, err
