"""Runs of the real command: a process of its own, real files, a real MLflow store."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.preloaded import Process, start_run

# Eight classes, 300 photos.
FEW_PHOTOS = (
    "dataset.classes=8",
    "dataset.train_images=300",
    "dataset.val_images=60",
    "dataset.test_images=80",
    "dataset.min_train_images=5",
    "size=32",
    "epochs=2",
)
# A run takes seconds.
TINY = (*FEW_PHOTOS, "model.width_multiplier=0.25")


@dataclass
class Store:
    """An MLflow store of the test's own and what it holds."""

    folder: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def runs(self) -> list:
        """Every run, the newest first; none where the store was never made."""
        import mlflow

        if not (self.folder / "mlflow.db").exists():
            return []
        client = mlflow.MlflowClient(self.uri)
        return [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]

    def history(self, run) -> dict[str, list[tuple[int, float]]]:
        """Metric name to (step, value) in order, but for speeds, which no two runs share."""
        import mlflow

        client = mlflow.MlflowClient(self.uri)
        names = sorted(name for name in run.data.metrics if "per_second" not in name)
        return {n: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, n)] for n in names}

    def run_of(self, output: str):
        """The run whose id stands in what a command printed."""
        (run,) = [run for run in self.runs() if run.info.run_id in output]
        return run

    def artifacts(self, run) -> Path:
        """The run's artifact folder."""
        return Path(run.info.artifact_uri.removeprefix("file://"))


@dataclass
class Command:
    """A started `python run.py`: its process, its folder for outputs, its store."""

    process: Process
    folder: Path
    store: Store

    def wait(self, timeout_seconds: float = 300) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        out, err = self.process.communicate(timeout=timeout_seconds)
        return self.process.returncode, out, err


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> Callable[..., Command]:
    """start(*arguments): `python run.py` with outputs and store in a new folder of its own."""

    def start(*arguments: str, uri: str | None = None) -> Command:
        folder = tmp_path_factory.mktemp("run")
        store = Store(folder)
        overrides = [f"tracking.uri={uri or store.uri}", f"hydra.run.dir={folder}/out", f"hydra.sweep.dir={folder}/out"]
        return Command(start_run([*overrides, *arguments], folder), folder, store)

    return start


@pytest.fixture(scope="session")
def first_run(start) -> Command:
    """A finished tiny run, shared by the tests that only look at it."""
    command = start(*TINY)
    command.result = command.wait()
    return command


@pytest.fixture(scope="session")
def later_store(first_run, tmp_path_factory) -> Store:
    """The first run's store, copied, for tasks that start from it: other tests count its runs."""
    store = Store(tmp_path_factory.mktemp("later"))
    shutil.copy(first_run.folder / "mlflow.db", store.folder)
    return store


@pytest.fixture(scope="session")
def analysed_run(first_run, start, tmp_path_factory) -> Command:
    """A finished task=errors of the first run's test photos, in a copy of its store."""
    store = Store(tmp_path_factory.mktemp("analysed"))
    shutil.copy(first_run.folder / "mlflow.db", store.folder)
    name = first_run.store.runs()[0].info.run_name
    command = start("task=errors", f"runs={name}", "task.split=test", uri=store.uri)
    command.store, command.result = store, command.wait()
    return command


@pytest.fixture(scope="session")
def second_run(first_run, tmp_path_factory) -> Path:
    """Another run's checkpoint: the first one's last, in a record with a size and a crop of its own."""
    folder = tmp_path_factory.mktemp("second")
    record = yaml.safe_load((first_run.folder / "out" / "config.yaml").read_text("utf-8"))
    (folder / "config.yaml").write_text(yaml.safe_dump(record | {"size": 40, "crop_ratio": 0.8}), "utf-8")
    shutil.copy(first_run.folder / "out" / "classes.txt", folder)
    (folder / "checkpoints").mkdir()
    return Path(shutil.copy(first_run.folder / "out" / "checkpoints" / "last.ckpt", folder / "checkpoints"))


@pytest.fixture
def request_of(first_run, later_store, compose, monkeypatch):
    """request_of(*overrides): the configuration of a task on the first run, for calls within this process."""
    from rp2k_lab import device
    from rp2k_lab.config import parse

    monkeypatch.setattr(device, "set_up", lambda device: None)  # MindSpore refuses it once a kernel has run
    checkpoint = first_run.folder / "out" / "checkpoints" / "best.ckpt"
    recorded = yaml.safe_load((first_run.folder / "out" / "config.yaml").read_text("utf-8"))

    def request(*overrides: str, **changes):
        composed = compose(f"runs={checkpoint}", *overrides)
        stated = {key: composed[key] for key in ("task", "runs", "tracking", "ablation", "scale")}
        return parse(recorded | stated | {"tracking": {**composed["tracking"], "uri": later_store.uri}} | changes)

    return request
