"""Cross-validation: predictions of training images by networks that were trained without them.

Each fold is a recorded run: a separate `run.py` process with the analyzed run's configuration and `dataset.fold`.
Finished folds of earlier commands are reused, interrupted ones resumed.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rp2k_lab.config.migrations import migrate
from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import DataError, RequestError, StudyIncomplete
from rp2k_lab.core.files import preallocate
from rp2k_lab.core.progress import activity
from rp2k_lab.core.quoting import hydra_value
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.evaluation.predictor import Member, Predictor
from rp2k_lab.sweep.trial_process import TrialFailed, run_trial
from rp2k_lab.tracking.local_runs import is_resumable, resume_overrides
from rp2k_lab.tracking.mlflow_runs import RunInfo, RunStore
from rp2k_lab.tracking.run_files import CONFIG, read_settings
from rp2k_lab.tracking.run_lookup import EarlierRun, find_run, locate
from rp2k_lab.tracking.run_record import read_record
from rp2k_lab.train.build import batches_for, build_network, build_views, preprocessing
from rp2k_lab.train.checkpoint import load_checkpoint

log = logging.getLogger(__name__)

# The part of a request that defines a training; the rest belongs to the analysis.
_GROUPS = ("dataset", "model", "aug", "loss", "optimizer", "schedule", "device", "tracking")
_KEYS = ("seed", "epochs", "batch_size", "size", "resize", "crop_ratio")
PROBABILITIES = "held_out.npy"


@dataclass(frozen=True)
class HeldOut:
    """Held-out predictions of the training images.

    Attributes:
        probabilities: float32 (training images, classes), memory-mapped, in the order of `Index.split("train")`; NaN
            for the only image of a class, which no fold holds out.
        run_ids: of the folds, in order.
    """

    probabilities: np.ndarray
    run_ids: tuple[str, ...]


def held_out_probabilities(
    config: Config, index: Index, folds: int, parent: EarlierRun, folder: Path, signals: StopSignal
) -> HeldOut:
    """Train the missing folds and predict each part with the best weights of the fold that held it out.

    Args:
        config: restored from the analyzed run.
        index: the images of `config.dataset`.
        folds: number of parts (2 or more).
        parent: the analyzed run.
        folder: existing folder for `held_out.npy` and the runs' folders (`folds/1of3`).
        signals: a signal also stops the running fold.

    Raises:
        RequestError: the run is not a training, or is itself a fold.
        StudyIncomplete: a fold failed.
        Interrupted: a signal arrived.
        DataError: the disk has no space for the probabilities.
    """
    task = parent.config["task"]["name"]
    if task != "train":
        raise RequestError(
            f"task.folds={folds}: {parent.name} is a run of task={task}, and folds repeat a training\n"
            "name a run of task=train, or leave out task.folds"
        )
    if config.dataset.fold is not None:
        raise RequestError(
            f"task.folds={folds}: {parent.name} is a fold itself (dataset.fold={config.dataset.fold})\n"
            "name the run in its tag parent"
        )
    if config.loss.distillation:
        raise RequestError(
            f"task.folds={folds}: the teachers of {parent.name} have seen the photos of every fold\n"
            "add loss.distillation=0, or leave out task.folds"
        )
    train = index.split("train")
    probabilities = _nan_array(folder / PROBABILITIES, (len(train), len(index.classes)))
    network = build_network(config, len(index.classes))
    predictor = Predictor([Member(parent.name, network, preprocessing(config))], config.batch_size, check=signals.check)
    views, run_ids = build_views(predictor, index, config.dataset.cache_gb), []
    with tempfile.TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        for i in range(1, folds + 1):
            fold = f"{i}/{folds}"
            without = build_index(config.dataset.model_copy(update={"fold": fold}))
            run = _fold_run(config, fold, without, parent, folder / "folds" / f"{i}of{folds}", signals, Path(downloads))
            load_checkpoint(network, run.checkpoint)
            held_out = np.flatnonzero(~train["path"].isin(without.split("train")["path"]))
            rows = train["row"].iloc[held_out].tolist()
            batches = batches_for(predictor, views, rows, config, f"predicting the photos of fold {fold}")
            first = 0
            for _, average in predictor(batches):
                probabilities[held_out[first : first + len(average)]] = average
                first += len(average)
            run_ids.append(run.run_id)
    probabilities.flush()
    return HeldOut(probabilities, tuple(run_ids))


def fold_overrides(config: Config, fold: str, guard: Mapping[str, Any]) -> list[str]:
    """Return the command line that repeats a training without one part of train, and without reading test.

    Args:
        fold: `i/k`.
        guard: `task.chance_guard` of the analyzed run, as recorded.
    """
    settings = config.model_dump(mode="json", include={*_GROUPS, *_KEYS, "callback"})
    settings["dataset"]["fold"] = fold
    settings["tracking"]["run_name"] = None
    settings["device"]["parallel"] = "none"  # the analysis is one process, too
    overrides = ["task=train", "task.test=false", *(f"{key}={hydra_value(settings[key])}" for key in _KEYS)]
    overrides += [f"task.chance_guard.{key}={hydra_value(value)}" for key, value in guard.items()]
    chosen = settings["callback"]
    overrides += [f"callback=[{','.join(chosen)}]"] if chosen else []
    for name, options in chosen.items():
        overrides += [f"callback.{name}.{key}={hydra_value(value)}" for key, value in options.items() if key != "name"]
    return overrides + [override for group in _GROUPS for override in _group_overrides(group, settings[group])]


def _group_overrides(group: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the overrides that choose and set a group and the groups within (`aug/erase=cutout`)."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _group_overrides(f"{group}/{key}", value)
        else:
            yield f"{group}={value}" if key == "name" else f"{group.replace('/', '.')}.{key}={hydra_value(value)}"


def _fold_run(
    config: Config, fold: str, without: Index, parent: EarlierRun, folder: Path, signals: StopSignal, downloads: Path
) -> EarlierRun:
    """Return the finished run of a fold: reuse, resume or train it, by its command line and data set fingerprint."""
    guard = parent.config["task"].get("chance_guard", {})
    overrides, uri = fold_overrides(config, fold, guard), config.tracking.uri
    name = f"fold{fold.replace('/', 'of')}_{parent.name}"
    same_photos = (r for r in RunStore(uri).find(name) if r.tags.get("dataset_fingerprint") == without.fingerprint)
    earlier = [r for r in same_photos if _settings(_recorded_overrides(uri, r, downloads)) == _settings(overrides)]
    if finished := [r for r in earlier if r.status == "FINISHED"]:
        log.info("fold %s: reusing run %s", fold, finished[0].run_id)
        return find_run(uri, finished[0].run_id, downloads)
    if interrupted := [Path(r.folder) for r in earlier if r.folder and is_resumable(Path(r.folder))]:
        folder, overrides = interrupted[0], [*overrides, *resume_overrides(interrupted[0])]
        log.info("fold %s: resuming in %s", fold, folder)
    tags = {"parent": parent.run_id or str(parent.checkpoint), "fold": fold}
    if parent.run_id:
        tags["mlflow.parentRunId"] = parent.run_id
    result: dict[str, Any] = {}
    listener = _collect_messages(fold, result)
    try:
        with activity(f"training fold {fold}"):
            run_trial(overrides, folder, {"name": name, "tags": tags}, None, listener, lambda: signals.signum)
    except TrialFailed as error:
        signals.check()
        raise StudyIncomplete(
            f"fold {fold}: {error}\nsee {folder / 'log.txt'}; run the same command to resume this fold"
        ) from None
    return find_run(uri, result["run_id"], downloads)


def _recorded_overrides(uri: str | None, run: RunInfo, downloads: Path) -> list[str]:
    """Return the `fold_overrides` of a recorded fold; an empty list if its record is unusable."""
    _, folder = locate(uri, run.run_id, (CONFIG,), downloads)
    try:
        config, task = read_record(folder), migrate(read_settings(folder)).get("task")
    except (OSError, DataError):
        return []
    guard = task.get("chance_guard", {}) if isinstance(task, dict) else {}
    return fold_overrides(config, config.dataset.fold or "", guard)


def _settings(overrides: list[str]) -> list[str]:
    """Return the overrides that affect a fold's weights."""
    return [o for o in overrides if not o.startswith(("tracking", "device.num_threads", "dataset.cache_gb"))]


def _collect_messages(fold: str, result: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
    """Return a listener that merges a fold's messages into `result` and logs its epochs."""

    def receive(message: dict[str, Any]) -> bool:
        result.update(message)
        if "epoch" in message:
            log.info("fold %s: epoch %d of %d, val top-1 %.1f %%",
                     fold, message["epoch"], message["epochs"], 100 * message["top1"])  # fmt: skip
        return False

    return receive


def _nan_array(file: Path, shape: tuple[int, int]) -> np.memmap:
    """Return a memory-mapped float32 array of NaN in a .npy file with preallocated disk space.

    Raises:
        DataError: the disk is full.
    """
    array = np.lib.format.open_memmap(file, "w+", np.float32, shape)
    try:
        with file.open("r+b") as opened:
            preallocate(opened, file.stat().st_size)
    except OSError as error:
        file.unlink()
        raise DataError(
            f"{file}: no space for the probabilities of {shape[0]} photos, {array.nbytes / 1e9:.1f} GB "
            f"({error.strerror})\nfree space, or choose another folder: hydra.run.dir=<folder>"
        ) from None
    array[:] = np.nan
    return array
