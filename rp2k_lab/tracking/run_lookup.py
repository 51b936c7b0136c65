"""`runs=`: find earlier runs by id, name, folder or checkpoint file, and restore their configuration."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from rp2k_lab.config.choices import choices, defaults_of, with_defaults
from rp2k_lab.config.migrations import migrate
from rp2k_lab.config.schema import Config, parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.tracking.local_runs import find_journals, matches, read_run, unsent_journals
from rp2k_lab.tracking.mlflow_runs import RunInfo, RunStore
from rp2k_lab.tracking.provenance import differences

CHECKPOINT, CONFIG, CLASSES = "checkpoints/best.ckpt", "config.yaml", "classes.txt"
FORMS = "an id (6 characters are enough), a name or a run's folder"
# Keys that the request sets, never the record.
_REQUEST_KEYS = ("task", "tracking", "runs", "ablation", "scale")
_GROUPS = ("dataset", "model", "aug", "loss", "optimizer", "device")
# Keys that belong to the trained network, whatever the data set.
_NORMALIZATION = ("mean", "std")


@dataclass(frozen=True)
class EarlierRun:
    """An earlier run, found by `runs=`.

    Attributes:
        reference: as in the request.
        name: the run's name; for a checkpoint file, the reference.
        run_id: MLflow's; None for a checkpoint file.
        page: its page within MLflow, or None.
        config: plain containers, as recorded.
        checkpoint: weights of the best epoch, or the named file.
        classes: names in label order.
    """

    reference: str
    name: str
    run_id: str | None
    page: str | None
    config: dict[str, Any]
    checkpoint: Path
    classes: tuple[str, ...]


def find_run(uri: str | None, reference: str, downloads: Path) -> EarlierRun:
    """Return the run with this id, unique id prefix, name, folder or checkpoint file (`<folder>/checkpoints/*.ckpt`).

    Args:
        uri: the store; None: the clone's store.
        downloads: an existing folder for files from a server.

    Raises:
        RequestError: no run, several runs, or a run without configuration, classes or checkpoint.
    """
    run, folder = locate(uri, reference, (CONFIG, CLASSES, CHECKPOINT), downloads)
    if run and not (folder / CHECKPOINT).is_file():
        raise RequestError(_no_checkpoint(reference, run))
    checkpoint = folder / CHECKPOINT if run else Path(reference).absolute()
    config = _read_config(folder, reference)
    classes = tuple(_read(folder / CLASSES, reference).removesuffix("\n").split("\n"))
    if run is None:
        return EarlierRun(reference, reference, None, None, config, checkpoint, classes)
    page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}" if run.experiment_id else None
    return EarlierRun(reference, run.name, run.run_id, page, config, checkpoint, classes)


def restore(request: Config, composed: dict[str, Any], overrides: Sequence[str]) -> tuple[Config, ...]:
    """Return the configuration of each of `request.runs`, with the command line's overrides.

    All use the data set of the first run, but each keeps its network's normalization (`dataset.mean`, `dataset.std`),
    even if the command line names another data set.

    Args:
        request: the configuration of this command alone.
        composed: the same, as Hydra composed it.
        overrides: the command line, `group=choice` and `key=value`.

    Raises:
        RequestError: no such run, normalization on the command line, augmentation without effect, or the merged
            configuration is invalid or differs from the run to resume.
    """
    if request.task.name == "train":
        return (_restore_training(request, composed, overrides),)
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key in [f"dataset.{name}" for name in _NORMALIZATION]:
            raise RequestError(f"{override}: a trained network keeps its normalization (mean, std)\nleave out {key}")
        if request.task.name == "fixres" and key.partition(".")[0] == "aug":
            raise RequestError(f"{override}: task=fixres trains without augmentation\nleave out {key}")
    merged, normalizations = [], []
    with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        for reference in request.runs:
            _, folder = locate(request.tracking.uri, reference, (CONFIG,), Path(downloads))
            recorded = _read_config(folder, reference)
            merged.append(merge(composed, recorded, overrides, defaults_of))
            normalizations.append({key: recorded["dataset"][key] for key in _NORMALIZATION})
    dataset = merged[0]["dataset"]
    return tuple(
        parse(settings | {"dataset": dataset | normalization})
        for settings, normalization in zip(merged, normalizations, strict=True)
    )


def _restore_training(request: Config, composed: dict[str, Any], overrides: Sequence[str]) -> Config:
    """Return the configuration of the training to resume; only keys without effect on its metrics may change."""
    (reference,), stated = request.runs, [override.lstrip("+~").partition("=")[0] for override in overrides]
    with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        run, folder = locate(request.tracking.uri, reference, (CONFIG,), Path(downloads))
        if run is None:
            raise RequestError(f"runs={reference}: cannot resume from a checkpoint file\nuse the id of its run")
        recorded = migrate(yaml.safe_load(_read(folder / CONFIG, reference)))
    if recorded["task"]["name"] != "train":
        raise RequestError(f"runs={reference}: a run of task={recorded['task']['name']}\nname a run of task=train")
    task = with_defaults(composed["task"], recorded["task"])
    current = with_defaults(task, {key: composed["task"][key] for key in task if f"task.{key}" in stated})
    guard = {k: v for k, v in composed["task"]["chance_guard"].items() if f"task.chance_guard.{k}" in stated}
    current = with_defaults(current, {"chance_guard": guard})
    former = parse(merge(composed, recorded, (), defaults_of) | {"task": task})
    config = parse(merge(composed, recorded, overrides, defaults_of) | {"task": current})
    if changes := differences(former, config):
        shown = ", ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")
        raise RequestError(f"runs={reference}: was trained with {shown}\nleave out these keys, or train a new run")
    return config


def merge(
    composed: dict[str, Any],
    recorded: dict[str, Any],
    overrides: Iterable[str],
    defaults: Callable[[str, str], dict[str, Any]],
) -> dict[str, Any]:
    """Return `recorded` with the overridden groups and keys taken from `composed`.

    A key that the record lacks gets today's default.

    Args:
        defaults: (group, choice) to today's values of that choice.

    Raises:
        RequestError: a recipe, which cannot overlay recorded values.
    """
    merged = composed | {key: value for key, value in recorded.items() if key not in _REQUEST_KEYS}
    for group, settings in merged.items():
        if isinstance(settings, dict) and group not in _REQUEST_KEYS:
            same = group in composed and composed[group]["name"] == settings["name"]
            merged[group] = (composed[group] if same else defaults(group, settings["name"])) | settings
    for override in overrides:
        group, _, key = override.lstrip("+~").partition("=")[0].partition(".")
        if group == "recipe":
            recipe = recorded.get("recipe", "none")
            raise RequestError(f"{override}: runs= brings its own recipe ({recipe})\nname the keys to change")
        if key and group not in _REQUEST_KEYS:
            merged[group] = merged[group] | {key: composed[group].get(key)}
        elif group in composed:
            merged[group] = composed[group]
    return merged


def locate(uri: str | None, reference: str, files: Iterable[str], downloads: Path) -> tuple[RunInfo | None, Path]:
    """Return (the run, or None for a checkpoint file; a folder with those of its `files` that exist).

    Args: as `find_run`.

    Raises:
        RequestError: no such run, or several.
    """
    if reference.endswith(".ckpt"):
        if not Path(reference).is_file():
            raise RequestError(f"runs={reference}: there is no such file")
        return None, Path(reference).absolute().parent.parent
    run = lookup_run(uri, reference, f"a .ckpt file, {FORMS}")
    return run, run.artifact_folder or RunStore(uri).fetch(run, files, downloads)


def lookup_run(uri: str | None, reference: str, forms: str = FORMS) -> RunInfo:
    """Return the run with this id, unique id prefix, name or folder, uploaded or not.

    Args:
        forms: the valid kinds of reference, for the error message.

    Raises:
        RequestError: no such run, or several.
    """
    is_folder = Path(reference).is_dir()
    if is_folder:
        files = find_journals(Path(reference))
    else:
        files = [file for file in unsent_journals(uri) if matches(file, reference)]
    runs = {run.local_id: run for run in map(read_run, files)}
    if not (is_folder and runs):
        try:
            store = RunStore(uri)
            runs = {run.local_id: run for run in store.find(reference)} | runs
        except RequestError:
            if not runs:
                raise
    matching = sorted(runs.values(), key=lambda run: run.started, reverse=True)
    if not matching:
        newest = ", ".join(f"{run.run_id[:8]} {run.name}" for run in store.newest(3)) or "none"
        raise RequestError(f"runs={reference}: there is no such run\ngive {forms}; the newest runs are {newest}")
    if len(matching) > 1:
        raise RequestError(f"runs={reference}: {len(matching)} runs match\ngive an id: {_list_ids(matching)}")
    return matching[0]


def _list_ids(runs: list[RunInfo], limit: int = 8) -> str:
    ids = ", ".join(f"{run.run_id[:8]} ({run.started:%Y-%m-%d %H:%M:%S})" for run in runs[:limit])
    return ids + (f" and {len(runs) - limit} older ones" if len(runs) > limit else "")


def _no_checkpoint(reference: str, run: RunInfo) -> str:
    """Return the message; a stopped run logs no best weights, but its folder may have them."""
    file = Path(run.folder) / CHECKPOINT
    way_out = f"use those in its folder: runs={file}" if run.folder and file.is_file() else "use a FINISHED run"
    if parent := run.tags.get("parent"):
        way_out = f"it trained nothing: use its parent, runs=[{parent}]"
    return f"runs={reference}: the run is {run.status} and logged no best weights\n{way_out}"


def _read_config(folder: Path, reference: str) -> dict[str, Any]:
    """Return the recorded configuration as plain data; its groups are choices of `conf/`, `parse` checks the rest."""
    try:
        recorded = migrate(yaml.safe_load(_read(folder / CONFIG, reference)))
        known = all(recorded[group]["name"] in choices(group) for group in _GROUPS if group in recorded)
        known = known and set(_NORMALIZATION) <= set(recorded["dataset"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise RequestError(f"runs={reference}: {folder / CONFIG} is not a run's configuration\nrestore the file")
    return recorded


def _read(file: Path, reference: str) -> str:
    try:
        return file.read_bytes().decode()  # read_text would translate carriage returns
    except FileNotFoundError:
        raise RequestError(f"runs={reference}: the run has no {file.name} (looked for {file})") from None
