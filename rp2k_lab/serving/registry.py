"""Register an exported model in MLflow's registry, with its run's metrics and a model card."""

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.evaluation.console import closing_table
from rp2k_lab.evaluation.intervals import macro_interval, wilson_interval
from rp2k_lab.evaluation.metric_registry import Score, metrics
from rp2k_lab.serving.mlflow_model import MODEL_FOLDER
from rp2k_lab.tracking.mlflow_runs import RunInfo, RunStore
from rp2k_lab.tracking.mlflow_store import open_client, store_uri, unreachable
from rp2k_lab.tracking.run_lookup import EarlierRun

_SPLITS = ("val", "test")
_CLASSES_SHOWN = 20
# MLflow's column for a description has 5000 characters.
_MOST_CHARACTERS = 5000


def registrable_run(uri: str | None, earlier: EarlierRun, name: str) -> RunInfo:
    """Return the run to register the model of.

    Raises:
        RequestError: it is a checkpoint file, or not in the store.
    """
    if earlier.run_id is None:
        raise RequestError(
            f"task.register={name}: a checkpoint file has no run, whose metrics are registered\nname the run: runs=<id>"
        )
    run = RunStore(uri).get(earlier.run_id)
    if run is None or not run.experiment_id:
        raise RequestError(
            f"task.register={name}: {escape_controls(earlier.name)} is not in the store yet\nadd it: task=sync"
        )
    return run


def register(uri: str | None, name: str, run: RunInfo, exported: Path, description: str) -> str:
    """Upload `mlflow_model/` of an exported folder, and return its version under this name.

    Args:
        uri: the store; None: the clone's store.
        description: model card, Markdown.

    Raises:
        RequestError: the store does not answer, or refuses.
    """
    from mlflow.exceptions import MlflowException

    client = open_client(uri)
    tags = {"run": run.name} | {key: f"{value:.6g}" for key, value in run.metrics.items()}
    try:
        model = client.create_logged_model(run.experiment_id, name, run.run_id)
        client.log_model_artifacts(model.model_id, str(exported / MODEL_FOLDER))
        client.finalize_logged_model(model.model_id, "READY")
        if not client.search_registered_models(filter_string=f"name = '{name}'"):
            client.create_registered_model(name)
        version = client.create_model_version(
            name,
            model.artifact_location,  # not models:/<id>, which MLflow 3.17 looks up in another store
            run.run_id,
            tags=tags,
            description=description,
            model_id=model.model_id,
        )
    except MlflowException as error:
        raise unreachable(store_uri(uri), error) from None
    return str(version.version)


def recorded_scores(uri: str | None, run: RunInfo) -> dict[str, dict[str, Score]]:
    """Return the closing scores of each split of a run by metric, with counts and, for fractions, intervals."""
    scores = {}
    with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        for split in _SPLITS:
            file = f"{split}/per_class.parquet"
            table = RunStore(uri).fetch(run, [file], Path(downloads)) / file
            found = {
                name: _score(run, split, name, table) for name in metrics() if run.closing(split, name) is not None
            }
            if found:
                scores[split] = found
    return scores


def _score(run: RunInfo, split: str, name: str, table: Path) -> Score:
    value = run.closing(split, name)
    assert value is not None
    tag = name.replace("top1", "count") if "top1" in name else f"{name}_count"
    count = int(run.tags.get(f"{split}/{tag}", run.tags.get(f"{split}/count", 0)))
    low = high = math.nan
    if name == "macro_top1":
        if table.is_file():
            classes = pd.read_parquet(table)
            low, high = macro_interval(classes["correct"].to_numpy(), classes["images"].to_numpy())
    elif metrics()[name].kind == "fraction" and ("top1" in name or name == "top5") and count:
        low, high = wilson_interval(round(value * count), count)
    return Score(value, count, low, high)


def model_card(card: dict[str, Any], classes: Sequence[str], run: RunInfo, scores: dict[str, dict[str, Score]]) -> str:
    """Return the description of a version, Markdown, at most 5000 characters.

    Args:
        card: content of model.json.
    """
    open_set = card["open_set"]
    known = (
        f"calibrated with temperature {open_set['temperature']:.3g}; known or unknown by {len(open_set['scores'])} "
        f"val scores, {100 * open_set['reject']:g} % of known photos may be refused by default"
        if open_set
        else "as trained, without a record of known photos: nothing is called unknown"
    )
    height, width = card["size"]
    shown = ", ".join(map(_plain, classes[:_CLASSES_SHOWN]))
    more = f" and {len(classes) - _CLASSES_SHOWN} more" if len(classes) > _CLASSES_SHOWN else ""
    parts = [
        f"# {_plain(run.name)}",
        f"{card['architecture']['name']}, {card['parameters']:,} parameters, {len(classes)} products",
        "## Metrics",
        "Best epoch on val; 95 % intervals over photos, with their number.",
        "\n".join(f"    {line}" for line in closing_table(scores).strip("\n").split("\n"))
        if scores
        else "None recorded.",
        "## Input",
        f"Photos (JPEG, PNG, WebP, BMP), turned upright, {card['resize']} to {height}×{width} pixels, "
        f"center crop {card['crop_ratio']:g}. The model does this itself.",
        "## Probabilities",
        f"{known[0].upper()}{known[1:]}.",
        "## Limits",
        "Measured on photos like those of its training; other cameras, light and shelves differ. "
        "Intervals do not cover the choice of the seed.",
        "## Origin",
        f"- run {run.run_id}\n- data set {run.tags.get('dataset_fingerprint', 'not recorded')}\n"
        f"- commit {run.tags.get('git_commit', 'not recorded')}\n- weights sha256 {card['checkpoint']['sha256']}",
        "## Products",
        shown + more,
    ]
    text = "\n\n".join(parts)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def _plain(text: str) -> str:
    """Return text without Markdown's marks."""
    return "".join(f"\\{character}" if character in r"\`*_[]<>#|" else character for character in escape_controls(text))
