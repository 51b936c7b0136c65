"""Power cuts: what was synced is there, nothing is twice in the store, and each file is the former or the new one."""

import copy
import os
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import mlflow.entities  # noqa: F401  the import starts a process, which a quick test may not
import pytest
from mindspore import nn

from rp2k_lab.core import files
from rp2k_lab.core.files import write_text
from rp2k_lab.dataset.image_cache import ImageCache
from rp2k_lab.task import export
from rp2k_lab.tracking import uploader
from rp2k_lab.tracking.local_runs import find_journals, read_run
from rp2k_lab.tracking.tracker import MlflowTracker
from rp2k_lab.train.checkpoint import CheckpointFolder, TrainingPosition
from tests.helpers.power_cut import Recorder, states

SETTINGS = SimpleNamespace(name="mlflow", uri="sqlite:////no/store.db", experiment="study", flush_seconds=1e6)
STEPS, EPOCH, UPLOAD, FINAL = 12, 3, 4, 0.5
CONFIG = "seed: 0\n"
LOSSES = [(step, 1 / step) for step in range(1, STEPS + 1)]
# The last epoch and the best weights log val at the same step.
SCORES = [*((step, step / 100) for step in range(EPOCH, STEPS + 1, EPOCH)), (STEPS, FINAL)]


class Store:
    """MLflow's store in memory, by its client's calls; on a server, so a power cut does not reach it.

    It repeats `SqlAlchemyStore`: a metric with equal key, time, step and value counts once.

    Attributes:
        states: (number of recorded events, the runs then) after each call.
    """

    def __init__(self, runs: dict | None = None, recorder: Recorder | None = None):
        self.runs, self._recorder, self.states = runs or {}, recorder, [(0, {})]

    def __getattr__(self, name: str):
        def call(*arguments, **options):
            result = getattr(self, f"_{name}")(*arguments, **options)
            if self._recorder:
                self.states.append((len(self._recorder.events), copy.deepcopy(self.runs)))
            return result

        return call if not name.startswith("_") else super().__getattribute__(name)

    def _create_run(self, experiment_id, start_time, tags, run_name):
        run_id = f"{len(self.runs):032x}"
        self.runs[run_id] = {"tags": dict(tags), "metrics": {}, "params": {}, "files": {}, "status": "RUNNING"}
        return self._get_run(run_id)

    def _get_run(self, run_id):
        info = SimpleNamespace(
            run_id=run_id, experiment_id="1", lifecycle_stage="active", artifact_uri="mlflow-artifacts:/1"
        )
        return SimpleNamespace(info=info, data=SimpleNamespace(tags=self.runs[run_id]["tags"]))

    def _search_runs(self, experiment_ids, query, *view):
        return [self._get_run(run_id) for run_id, run in self.runs.items() if run["tags"]["local_id"] in query]

    def _log_batch(self, run_id, metrics=(), params=(), tags=()):
        run = self.runs[run_id]
        run["metrics"] |= {(m.key, m.timestamp, m.step, m.value): None for m in metrics}
        run["params"] |= {param.key: param.value for param in params}
        run["tags"] |= {tag.key: tag.value for tag in tags}

    def _log_artifact(self, run_id, file, folder=None):
        self.runs[run_id]["files"][Path(file).name] = Path(file).read_bytes()

    def _update_run(self, run_id, status):
        self.runs[run_id]["status"] = status

    def _set_terminated(self, run_id, status, end_time):
        self.runs[run_id]["status"] = status

    def _set_tag(self, run_id, key, value):
        self.runs[run_id]["tags"][key] = value

    def _get_metric_history(self, run_id, key):
        return [SimpleNamespace(step=s, value=v) for k, _, s, v in self.runs[run_id]["metrics"] if k == key]

    def before(self, events: int) -> dict:
        """Return the runs as they were when `events` events were recorded."""
        return copy.deepcopy(next(runs for number, runs in reversed(self.states) if number <= events))


@pytest.fixture(autouse=True)
def _unflushed(monkeypatch):
    """Skip what only a power cut could tell apart, and what takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def use_store(monkeypatch):
    """use_store(store): let uploads go to it."""

    def use(store: Store) -> Store:
        monkeypatch.setattr(uploader, "connect", lambda uri, experiment: (store, "1"))
        return store

    monkeypatch.setattr(uploader, "mark_dead_runs", lambda *_: None)
    return use


def net(value: float) -> nn.Dense:
    return nn.Dense(2, 3, weight_init=value)


def train(tracker: MlflowTracker, folder: Path, first: int, mark=lambda *_: None) -> None:
    """Log, save and upload the steps from `first` on as a training does, and finish."""
    checkpoints = CheckpointFolder(folder / "checkpoints", kept=2)
    for step in range(first, STEPS + 1):
        tracker.log_metrics({"train/loss": 1 / step}, step)
        if step % EPOCH == 0:
            tracker.log_metrics({"val/top1": step / 100}, step)
            checkpoints.save_best(net(step), step)
            tracker.flush()
            position = TrainingPosition(step, 1 / step, False, (step / 100, step), tracker.logged())
            checkpoints.save(net(step), position)
            mark("saved", step)
        if step % UPLOAD == 0:
            tracker.deliver()
    tracker.log_metrics({"val/top1": FINAL}, STEPS)
    tracker.close("FINISHED")
    mark("finished", STEPS)


def new_run(folder: Path) -> MlflowTracker:
    tracker = MlflowTracker(SETTINGS, "run", folder)
    write_text(folder / "config.yaml", CONFIG, sync=True)
    tracker.log_params({"seed": 0})
    tracker.log_artifact(folder / "config.yaml")
    return tracker


def resume(folder: Path, store: Store, saved: int) -> None:
    """Resume the run in a folder, or start it again if the cut took all of it.

    Args:
        saved: last step whose checkpoint was saved before the cut.
    """
    (journal,) = find_journals(folder) or [None]
    checkpoints = CheckpointFolder(folder / "checkpoints", kept=2)
    position = checkpoints.newest()
    assert (position.step if position else 0) >= saved, "a saved checkpoint is lost"
    if journal is None:
        assert not store.runs, "the store has a run that is lost"
        assert position is None
        for rest in folder.glob("*.journal"):  # without a record
            rest.unlink()
        train(new_run(folder), folder, 1)
        return
    checkpoints.rollback_to(position)
    tracker = MlflowTracker(SETTINGS, "run", folder, journal.stem)
    tracker.rewind(*(position.logged, position.step) if position else ({}, 0))
    tracker.log_params({"seed": 0})
    if not (folder / "config.yaml").exists():
        write_text(folder / "config.yaml", CONFIG, sync=True)
    tracker.log_artifact(folder / "config.yaml")
    train(tracker, folder, position.step + 1 if position else 1)


def check(store: Store) -> None:
    (run,) = store.runs.values()
    history = defaultdict(list)
    for name, _, step, value in run["metrics"]:
        history[name].append((step, value))
    assert sorted(history["train/loss"]) == LOSSES
    assert sorted(history["val/top1"]) == sorted(SCORES)
    assert (run["status"], run["tags"]["status"], run["params"]) == ("FINISHED", "FINISHED", {"seed": "0"})
    assert run["files"] == {"config.yaml": CONFIG.encode()}


@pytest.mark.parametrize("cuts", [40, pytest.param(1000, marks=pytest.mark.soak)])
def test_run_is_resumed_after_a_power_cut_and_the_store_has_each_step_once(tmp_path, use_store, cuts):
    (tmp_path / "outputs").mkdir()
    with Recorder(tmp_path / "outputs") as recorder:
        store = use_store(Store(recorder=recorder))
        train(new_run(tmp_path / "outputs" / "day" / "run"), tmp_path / "outputs" / "day" / "run", 1, recorder.mark)
    check(store)
    for before, marks in states(recorder, cuts, 17, tmp_path / "cut"):
        folder, after = tmp_path / "cut" / "day" / "run", use_store(Store(store.before(before)))
        folder.mkdir(parents=True, exist_ok=True)
        if ("finished", STEPS) in marks:
            (journal,) = find_journals(folder)
            assert read_run(journal).status == "FINISHED", f"before event {before}"
            uploader.Uploader(journal, SETTINGS.uri).upload()
        else:
            resume(folder, after, max([step for _, step in marks], default=0))
        check(after)


def exported(folder: Path) -> dict[str, str] | None:
    return {file.name: file.read_text() for file in folder.iterdir()} if folder.exists() else None


def write_export(output: Path, text: str) -> dict[str, str]:
    with export.replacing(output) as part:
        for name in export.FILES:
            (part / name).write_text(f"{name} {text}" * 100)
    return exported(output)


@pytest.mark.parametrize("exchanges", [True, False])
def test_export_is_the_former_or_the_new_one_after_a_power_cut(tmp_path, monkeypatch, exchanges):
    """Also on a disk that cannot exchange folders, where the next export puts the former one back."""
    (tmp_path / "disk").mkdir()
    output = tmp_path / "disk" / "exports" / "model"
    if not exchanges:
        monkeypatch.setattr(files, "exchange", lambda *_: False)
    with Recorder(tmp_path / "disk") as recorder:
        contents = [None, write_export(output, "former")]
        recorder.mark(1)
        contents.append(write_export(output, "new"))
        recorder.mark(2)
    for before, marks in states(recorder, 150, 17, tmp_path / "cut"):
        output, promised = tmp_path / "cut" / "exports" / "model", max([number for (number,) in marks], default=0)
        if not exchanges:
            export.check_replaceable(output)
        assert exported(output) in contents[promised:], f"before event {before}"
        assert write_export(output, "again")["model.json"].startswith("model.json again")


def test_cache_gives_right_images_or_none_after_a_power_cut(tmp_path):
    import numpy as np

    (tmp_path / "disk").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (4, 20, 10, 3), np.uint8)
    with Recorder(tmp_path / "disk") as recorder:
        cache = ImageCache(tmp_path / "disk" / "cache", 4, (20, 10), 4)
        for slot, image in enumerate(images):
            cache.put(slot, image)
    for _ in states(recorder, 100, 17, tmp_path / "cut"):
        cache = ImageCache(tmp_path / "cut" / "cache", 4, (20, 10), 4)
        for slot, image in enumerate(images):
            kept = cache.get(slot)
            assert kept is None or (kept == image).all()
