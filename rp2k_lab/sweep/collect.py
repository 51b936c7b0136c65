"""Results of a table, collected from its study and the runs of its trials."""

from datetime import UTC
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from rp2k_lab.ablation.results import (
    COLUMNS,
    EXPERIMENTS,
    IMAGE_COLUMNS,
    OPTIONAL_IMAGE_COLUMNS,
    image_row,
    images_digest,
    pack,
    read_results,
)
from rp2k_lab.config.ablation import Ablation
from rp2k_lab.config.migrations import trial_attributes
from rp2k_lab.config.schema import Tracking
from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset.class_groups import GROUPS
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.dataset.shelf.parts import image_parts
from rp2k_lab.dataset.source.shelf import Shelf
from rp2k_lab.evaluation.metric_registry import metrics
from rp2k_lab.evaluation.metrics import independent_units
from rp2k_lab.sweep.storage import read_study
from rp2k_lab.tracking.mlflow_runs import RunStore
from rp2k_lab.tracking.provenance import NATIVE, identity
from rp2k_lab.tracking.run_files import CONFIG, damage_named
from rp2k_lab.tracking.run_record import read_record

PREDICTIONS, CLASSES = "test/predictions.parquet", "test/per_class.parquet"
_TALL = 1.25  # height/width above it; flat below its inverse
_STATES = {TrialState.COMPLETE: "complete", TrialState.FAIL: "failed"}


def collect(
    ablation: Ablation, scale: str, study: str | None, storage: str | None, tracking: Tracking
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Return the results and the test images of a table's study (see `ablation.results`), or None without a study.

    The last trial of a cell counts.

    Args:
        study: name of the study; None: the default of the table.
        storage: URL of its database; None: the default of the clone.
        tracking: the `conf/tracking` choice, with the store of the runs.
    """
    with read_study(storage, study or f"{ablation.name}_{scale}") as opened:
        if opened is None:
            return None
        definition, trials = opened.user_attrs["definition"], opened.get_trials()
    cells = {(trial.params["level"], trial.params["seed"]): trial for trial in trials if trial.params}
    store, results, images = RunStore(tracking.uri), [], {}
    with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        for (level, seed), trial in cells.items():
            cell = {"level": level, "seed": seed, "command": _command(trial, definition)}
            cell |= _time_taken(trial, trials)
            if "place" in trial.user_attrs:
                row, image = _committed_cell(trial, f"{ablation.name}/{scale}")
            else:
                row, image = _cell(trial, store, Path(downloads))
            results.append(cell | row)
            if image and ("parts" in image or image["digest"] not in images):  # older runs do not know the parts
                images[image["digest"]] = image
    table = pd.DataFrame(results)
    columns = list(dict.fromkeys([*COLUMNS, *table.columns]))  # also of a study without a complete trial
    return table.reindex(columns=columns), pd.DataFrame(
        images.values(), columns=[*IMAGE_COLUMNS, *OPTIONAL_IMAGE_COLUMNS]
    )


def _command(trial: FrozenTrial, definition: dict[str, str]) -> str:
    runs = trial.user_attrs.get("runs")
    started = [f"runs=[{','.join(runs)}]"] if runs else []
    return " ".join([definition[trial.params["level"]], *started, f"seed={trial.params['seed']}"])


def _time_taken(trial: FrozenTrial, trials: list[FrozenTrial]) -> dict[str, Any]:
    """Return when a trial's run started (ISO 8601) and its total time [s], including the trials that it resumes."""
    seconds, current = 0.0, trial
    while True:
        started, ended = current.datetime_start, current.datetime_complete
        assert started is not None
        seconds += (ended - started).total_seconds() if ended else np.nan
        attributes = trial_attributes(current.user_attrs)
        if "resumes" not in attributes:
            utc = started.astimezone(UTC)
            return {"started": utc.isoformat(timespec="seconds"), "seconds": round(seconds, 1)}
        current = trials[attributes["resumes"]]


def _committed_cell(trial: FrozenTrial, table: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return (the other columns of a trial that a committed result replaces, the row of its test images).

    Args:
        table: <ablation>/<scale> of the trial: its cells are no other table's.
    """
    place, facts = trial.user_attrs["place"], {"trial": trial.number}
    try:
        results = read_results(EXPERIMENTS / place["table"])
    except DataError as error:
        return facts | {"state": "failed", "reason": str(error).splitlines()[0]}, None
    found = results.table
    found = found[(found["level"] == place["level"]) & (found["seed"] == place["seed"])]
    if found.empty:
        return facts | {"state": "failed", "reason": f"{trial.user_attrs['origin']} is gone"}, None
    row = found.iloc[0].to_dict()
    images = results.images.set_index("digest", drop=False).loc[row["images_digest"]].to_dict()
    for column in ("level", "seed", "command", "trial"):
        del row[column]
    if place["table"] != table:
        row |= {"origin": row.get("origin") or trial.user_attrs["origin"], "seconds": 0.0}
    return facts | row, images


def _cell(trial: FrozenTrial, store: RunStore, downloads: Path) -> tuple[dict, dict | None]:
    """Return (the other columns of a trial's row, the row of its test images or None if it was not tested)."""
    row: dict[str, Any] = {
        "state": _STATES.get(trial.state, "running"),
        "reason": trial.user_attrs.get("reason", ""),
        "trial": trial.number,
        "run_id": trial.user_attrs.get("run_id", ""),
    }
    run = store.get(row["run_id"]) if row["run_id"] else None
    if run is None:
        if row["state"] == "complete":
            row |= {"state": "failed", "reason": "its run is missing in the tracking store"}
        return row, None
    row |= {
        "commit": run.tags.get("git_commit", "unknown"),
        "dirty": {"true": True, "false": False}.get(run.tags.get("git_dirty", "")),
        "epochs": run.metrics.get("epoch", np.nan),
        "host": run.tags.get("host", ""),
        "dataset_fingerprint": run.tags.get("dataset_fingerprint", ""),
        "val_top1": np.nan if (top1 := run.closing("val", "top1")) is None else top1,
    }
    optional = {NATIVE: run.tags.get(NATIVE), "identity": identity(run.tags), "origin": trial.user_attrs.get("origin")}
    row |= {name: value for name, value in optional.items() if value}
    if row["state"] != "complete":
        return row, None
    collected = {metric.name: f"test/{metric.name}" for metric in metrics().values() if metric.in_tables}
    row |= {name: run.metrics[key] for name, key in collected.items() if key in run.metrics}
    try:
        tested, images = _tested_images(store.fetch(run, (PREDICTIONS, CLASSES, CONFIG), downloads))
    except (DataError, FileNotFoundError) as error:  # the other trials count
        return row | {"state": "failed", "reason": str(error).splitlines()[0]}, None
    return row | tested, images


def _tested_images(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (the columns about a run's test images, the row of its test images)."""
    with damage_named(folder / PREDICTIONS):
        predictions = pd.read_parquet(folder / PREDICTIONS)
        digest = images_digest(predictions["path"], predictions["true"])
        packed = pack(predictions["correct"].to_numpy())
    with damage_named(folder / CLASSES):
        by_name = pd.read_parquet(folder / CLASSES).set_index("class").loc[predictions["true"]]
        groups = by_name["group"].map({group: code for code, group in enumerate(GROUPS)}).to_numpy()
        parts = _shapes(predictions) | _shelf_parts(folder, predictions["path"])
        images = image_row(digest, by_name["label"].to_numpy(), groups, independent_units(predictions), parts)
    return {"images_digest": digest, "images": len(predictions), "correct": packed}, images


def _shapes(predictions: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the tall, the flat and the other test images, bool (images,); nothing for a run without their sizes."""
    if "height" not in predictions:
        return {}
    ratio = (predictions["height"] / predictions["width"]).to_numpy()
    tall, flat = ratio > _TALL, ratio < 1 / _TALL
    return {"tall": tall, "about square": ~tall & ~flat, "flat": flat}


def _shelf_parts(folder: Path, paths: pd.Series) -> dict[str, np.ndarray]:
    """Return the parts of a shelf set's test images that its truth tells apart, bool (images,); none of other data."""
    try:
        dataset = read_record(folder).dataset
    except (DataError, FileNotFoundError):
        return {}
    if not isinstance(dataset, Shelf) or dataset.root is not None:
        return {}
    return image_parts(ShelfOptions(**{key: getattr(dataset, key) for key in ShelfOptions.model_fields}), tuple(paths))
