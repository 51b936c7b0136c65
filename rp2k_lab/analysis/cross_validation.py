"""Predictions of training photos by networks that never saw them: the run's training again, once without each part.

Each fold is a run of its own, `run.py` in a process of its own with the analyzed run's configuration and
`dataset.fold`, recorded like any other.  A fold that an earlier command has finished is found in the store and not
trained again.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rp2k_lab.config.migrations import migrate, parse_record
from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import DataError, RequestError, StudyIncomplete
from rp2k_lab.core.files import preallocate
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.evaluation.predictor import Member, Predictor
from rp2k_lab.sweep.trial_process import TrialFailed, run_trial
from rp2k_lab.tracking.local_runs import is_resumable, resume_overrides
from rp2k_lab.tracking.mlflow_runs import RunInfo, RunStore
from rp2k_lab.tracking.run_lookup import CONFIG, EarlierRun, find_run, locate
from rp2k_lab.train.build import batches_for, build_network, build_views, preprocessing
from rp2k_lab.train.checkpoint import load_checkpoint

log = logging.getLogger(__name__)

# What a training is made of; all else of the request is not the fold's.
_GROUPS = ("dataset", "model", "aug", "loss", "optimizer", "device", "tracking")
_KEYS = ("seed", "epochs", "batch_size", "size", "resize", "crop_ratio")
PROBABILITIES = "held_out.npy"


@dataclass(frozen=True)
class HeldOut:
    """What networks think of training photos that they never saw.

    Attributes:
        probabilities: float32 (training photos, classes), memory-mapped, in the order of `Index.split("train")`; a row
            of NaN is the only photo of its class, which no fold leaves out.
        run_ids: of the folds, in order.
    """

    probabilities: np.ndarray
    run_ids: tuple[str, ...]


def held_out_probabilities(
    config: Config, index: Index, folds: int, parent: EarlierRun, folder: Path, signals: StopSignal
) -> HeldOut:
    """Train the folds, or find them, and predict each part by the best weights of the fold that left it out.

    Args:
        config: the analyzed run's, restored.
        index: the photos of `config.dataset`.
        folds: how many parts, 2 or more.
        parent: the analyzed run.
        folder: an existing one, for `held_out.npy` and the runs' folders (`folds/1of3`).
        signals: a signal stops the fold under way, too.

    Raises:
        RequestError: the run is no training, or one of a fold.
        StudyIncomplete: a fold failed.
        Interrupted: a signal came.
        DataError: the disk has no room for the probabilities.
    """
    task = parent.config["task"]["name"]
    if task != "train":
        raise RequestError(
            f"task.folds={folds}: {parent.name} is a run of task={task}, and folds are trained as the run was\n"
            "name a run of task=train, or leave task.folds out"
        )
    if config.dataset.fold is not None:
        raise RequestError(
            f"task.folds={folds}: {parent.name} is a fold itself (dataset.fold={config.dataset.fold})\n"
            "name the run that its tag parent names"
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
            batches = batches_for(predictor, views, train["row"].iloc[held_out].tolist(), config)
            first = 0
            for _, average in predictor(batches):
                probabilities[held_out[first : first + len(average)]] = average
                first += len(average)
            run_ids.append(run.run_id)
    probabilities.flush()
    return HeldOut(probabilities, tuple(run_ids))


def fold_overrides(config: Config, fold: str, guard: Mapping[str, Any]) -> list[str]:
    """Return the command line of the training that `config` describes, without one part of train; test is not read.

    Args:
        fold: `i/k`.
        guard: `task.chance_guard` of the analyzed run, as recorded.
    """
    settings = config.model_dump(mode="json", include={*_GROUPS, *_KEYS})
    settings["dataset"]["fold"] = fold
    settings["tracking"]["run_name"] = None
    settings["device"]["parallel"] = "none"  # the analysis, too, is one process
    overrides = ["task=train", "task.test=false", *(f"{key}={_quoted(settings[key])}" for key in _KEYS)]
    overrides += [f"task.chance_guard.{key}={_quoted(value)}" for key, value in guard.items()]
    for group in _GROUPS:
        overrides.append(f"{group}={settings[group].pop('name')}")
        overrides += [f"{group}.{key}={_quoted(value)}" for key, value in settings[group].items()]
    return overrides


def _quoted(value: Any) -> str:
    """As Hydra's command line takes it."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, list):
        return f"[{','.join(map(_quoted, value))}]"
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _fold_run(
    config: Config, fold: str, without: Index, parent: EarlierRun, folder: Path, signals: StopSignal, downloads: Path
) -> EarlierRun:
    """The finished run of a fold: one of the same command on the same photos, perhaps gone on with, or a new one."""
    guard = parent.config["task"].get("chance_guard", {})
    overrides, uri = fold_overrides(config, fold, guard), config.tracking.uri
    name = f"fold{fold.replace('/', 'of')}_{parent.name}"
    same_photos = (r for r in RunStore(uri).find(name) if r.tags.get("dataset_fingerprint") == without.fingerprint)
    earlier = [r for r in same_photos if _settings(_recorded_overrides(uri, r, downloads)) == _settings(overrides)]
    if done := [r for r in earlier if r.status == "FINISHED"]:
        log.info("fold %s: trained before, run %s", fold, done[0].run_id)
        return find_run(uri, done[0].run_id, downloads)
    if left := [Path(r.folder) for r in earlier if r.folder and is_resumable(Path(r.folder))]:
        folder, overrides = left[0], [*overrides, *resume_overrides(left[0])]
        log.info("fold %s: goes on in %s", fold, folder)
    tags = {"parent": parent.run_id or str(parent.checkpoint), "fold": fold}
    if parent.run_id:
        tags["mlflow.parentRunId"] = parent.run_id
    said: dict[str, Any] = {}
    try:
        run_trial(overrides, folder, {"name": name, "tags": tags}, None, _listener(fold, said), lambda: signals.signum)
    except TrialFailed as error:
        signals.check()
        raise StudyIncomplete(
            f"fold {fold}: {error}\nits words are in {folder / 'log.txt'}; the same command goes on with this fold"
        ) from None
    return find_run(uri, said["run_id"], downloads)


def _recorded_overrides(uri: str | None, run: RunInfo, downloads: Path) -> list[str]:
    """Return what `fold_overrides` would make of the record of a fold's run; nothing where it has no usable record."""
    _, folder = locate(uri, run.run_id, (CONFIG,), downloads)
    try:
        recorded = migrate(yaml.safe_load((folder / CONFIG).read_text("utf-8")))
        guard, config = recorded["task"].get("chance_guard", {}), parse_record(recorded)
    except (OSError, ValueError, yaml.YAMLError, RequestError, KeyError, TypeError, AttributeError):
        return []
    return fold_overrides(config, config.dataset.fold or "", guard)


def _settings(overrides: list[str]) -> list[str]:
    """Return the overrides that decide what a fold's training gives."""
    return [o for o in overrides if not o.startswith(("tracking", "device.num_threads", "dataset.cache_gb"))]


def _listener(fold: str, said: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
    def heard(message: dict[str, Any]) -> bool:
        said.update(message)
        if "epoch" in message:
            log.info("fold %s: epoch %d of %d, val top-1 %.1f %%",
                     fold, message["epoch"], message["epochs"], 100 * message["top1"])  # fmt: skip
        return False

    return heard


def _nan_array(file: Path, shape: tuple[int, int]) -> np.memmap:
    """float32 of this shape in a .npy file whose room on the disk is taken beforehand.

    Raises:
        DataError: there is no room.
    """
    array = np.lib.format.open_memmap(file, "w+", np.float32, shape)
    try:
        with file.open("r+b") as opened:
            preallocate(opened, file.stat().st_size)
    except OSError as error:
        file.unlink()
        raise DataError(
            f"{file}: no room for the probabilities of {shape[0]} photos, {array.nbytes / 1e9:.1f} GB "
            f"({error.strerror})\nmake room, or put the run elsewhere: hydra.run.dir=<folder>"
        ) from None
    array[:] = np.nan
    return array
