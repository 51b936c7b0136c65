"""`runs=`: earlier work that a task starts from, found by run id, run name or checkpoint file."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from rp2k_lab.config.choices import choices, defaults_of
from rp2k_lab.config.migrations import migrate, with_defaults
from rp2k_lab.config.schema import Config, parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.tracking.local_runs import answers, journals, run_of, unsent
from rp2k_lab.tracking.mlflow_runs import RunInfo, RunStore
from rp2k_lab.tracking.provenance import differences

CHECKPOINT, CONFIG, CLASSES = "checkpoints/best.ckpt", "config.yaml", "classes.txt"
FORMS = "an id (6 characters are enough), a name or a run's folder"
# Always this request's own.
_OF_THE_REQUEST = ("task", "tracking", "runs", "ablation", "scale")
_GROUPS = ("dataset", "model", "aug", "loss", "optimizer", "device")
# Of a trained network, whatever photos it is shown.
_COLORS = ("mean", "std")


@dataclass(frozen=True)
class EarlierRun:
    """What a run left.

    Attributes:
        reference: how the request named it.
        name: the run's name; of a checkpoint file, the reference.
        run_id: MLflow's, or None where a checkpoint file was named.
        page: its page within MLflow, or None.
        config: plain containers, as recorded.
        checkpoint: weights of the best epoch, or the file that was named.
        classes: names in the labels' order.
    """

    reference: str
    name: str
    run_id: str | None
    page: str | None
    config: dict[str, Any]
    checkpoint: Path
    classes: tuple[str, ...]


def find_run(uri: str | None, reference: str, downloads: Path) -> EarlierRun:
    """The run that an id, a unique begin of one, a name or a checkpoint file (`<run folder>/checkpoints/*.ckpt`) means.

    Args:
        uri: the store; None: the clone's own.
        downloads: an existing folder, for the files of a run whose store is on a server.

    Raises:
        RequestError: no such run, several, or one that lacks its configuration, classes or checkpoint.
    """
    run, folder = locate(uri, reference, (CONFIG, CLASSES, CHECKPOINT), downloads)
    checkpoint = folder / CHECKPOINT if run else Path(reference).absolute()
    if not checkpoint.is_file():
        raise RequestError(_no_checkpoint(reference, run))
    config = _record(folder, reference)
    classes = tuple(_read(folder / CLASSES, reference).removesuffix("\n").split("\n"))
    if run is None:
        return EarlierRun(reference, reference, None, None, config, checkpoint, classes)
    page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}" if run.experiment_id else None
    return EarlierRun(reference, run.name, run.run_id, page, config, checkpoint, classes)


def restore(request: Config, composed: dict[str, Any], overrides: Sequence[str]) -> tuple[Config, ...]:
    """The configuration of each of `request.runs`, each changed where the command line says so.

    All have the data set of the first, but the colors (`dataset.mean`, `dataset.std`) that their own network was
    trained with, also where the command line names another data set.

    Args:
        request: what this command alone would run with.
        composed: the same as Hydra composed it.
        overrides: the command line, `group=choice` and `key=value`.

    Raises:
        RequestError: no such run, colors on the command line, augmentation where it has no effect, a configuration
            that cannot be, or of a run that is to be gone on with, one that is another than its own.
    """
    if request.task.name == "train":
        return (_same_training(request, composed, overrides),)
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key in [f"dataset.{name}" for name in _COLORS]:
            raise RequestError(f"{override}: a trained network keeps its colors (mean, std)\nleave {key} out")
        if request.task.name == "fixres" and key.partition(".")[0] == "aug":
            raise RequestError(f"{override}: task=fixres trains on photos as evaluation shows them\nleave {key} out")
    merged, colors = [], []
    with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        for reference in request.runs:
            _, folder = locate(request.tracking.uri, reference, (CONFIG,), Path(downloads))
            recorded = _record(folder, reference)
            merged.append(merge(composed, recorded, overrides, defaults_of))
            colors.append({key: recorded["dataset"][key] for key in _COLORS})
    photos = merged[0]["dataset"]
    return tuple(parse(settings | {"dataset": photos | own}) for settings, own in zip(merged, colors, strict=True))


def _same_training(request: Config, composed: dict[str, Any], overrides: Sequence[str]) -> Config:
    """The configuration of the training that `request.runs` names; what does not change its metrics may be another."""
    (reference,), stated = request.runs, [override.lstrip("+~").partition("=")[0] for override in overrides]
    with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        run, folder = locate(request.tracking.uri, reference, (CONFIG,), Path(downloads))
        if run is None:
            raise RequestError(f"runs={reference}: a checkpoint file has no record to go on with\ngive its run's id")
        recorded = migrate(yaml.safe_load(_read(folder / CONFIG, reference)))
    if recorded["task"]["name"] != "train":
        raise RequestError(f"runs={reference}: is a run of task={recorded['task']['name']}\nname a run of task=train")
    task = with_defaults(composed["task"], recorded["task"])
    here = with_defaults(task, {key: composed["task"][key] for key in task if f"task.{key}" in stated})
    guard = {k: v for k, v in composed["task"]["chance_guard"].items() if f"task.chance_guard.{k}" in stated}
    here = with_defaults(here, {"chance_guard": guard})
    former = parse(merge(composed, recorded, (), defaults_of) | {"task": task})
    config = parse(merge(composed, recorded, overrides, defaults_of) | {"task": here})
    if changes := differences(former, config):
        shown = ", ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")
        raise RequestError(f"runs={reference}: was trained with {shown}\nleave out what differs, or train a new run")
    return config


def merge(
    composed: dict[str, Any],
    recorded: dict[str, Any],
    overrides: Iterable[str],
    choice_of: Callable[[str, str], dict[str, Any]],
) -> dict[str, Any]:
    """`recorded`, but for what `overrides` name, which is taken from `composed`: a group whole, a key alone.

    A key that the record lacks has today's default.

    Args:
        choice_of: (group, choice) to today's keys of that choice.

    Raises:
        RequestError: a recipe beside the recorded values, which it would have to overlay.
    """
    merged = composed | {key: value for key, value in recorded.items() if key not in _OF_THE_REQUEST}
    for group, settings in merged.items():
        if isinstance(settings, dict) and group not in _OF_THE_REQUEST:
            same = group in composed and composed[group]["name"] == settings["name"]
            merged[group] = (composed[group] if same else choice_of(group, settings["name"])) | settings
    for override in overrides:
        group, _, key = override.lstrip("+~").partition("=")[0].partition(".")
        if group == "recipe":
            recipe = recorded.get("recipe", "none")
            raise RequestError(f"{override}: runs= brings its own recipe ({recipe})\nname the keys that are to change")
        if key and group not in _OF_THE_REQUEST:
            merged[group] = merged[group] | {key: composed[group].get(key)}
        elif group in composed:
            merged[group] = composed[group]
    return merged


def locate(uri: str | None, reference: str, files: Iterable[str], downloads: Path) -> tuple[RunInfo | None, Path]:
    """(the run, or None for a checkpoint file; the folder that holds those of `files` that it left).

    Args: as `find_run`.

    Raises:
        RequestError: no such run, or several.
    """
    if reference.endswith(".ckpt"):
        if not Path(reference).is_file():
            raise RequestError(f"runs={reference}: there is no such file")
        return None, Path(reference).absolute().parent.parent
    run = lookup_run(uri, reference, f"a .ckpt file, {FORMS}")
    return run, run.folder_of_artifacts or RunStore(uri).fetch(run, files, downloads)


def lookup_run(uri: str | None, reference: str, forms: str = FORMS) -> RunInfo:
    """The run that an id, a unique begin of one, a name or its folder means, whether or not the store has all of it.

    Args:
        forms: what may be given instead of a reference that means no run.

    Raises:
        RequestError: no such run, or several.
    """
    is_folder = Path(reference).is_dir()
    files = journals(Path(reference)) if is_folder else [file for file in unsent(uri) if answers(file, reference)]
    runs = {run.own_id: run for run in map(run_of, files)}
    if not (is_folder and runs):
        try:
            store = RunStore(uri)
            runs = {run.own_id: run for run in store.find(reference)} | runs
        except RequestError:
            if not runs:
                raise
    found = sorted(runs.values(), key=lambda run: run.started, reverse=True)
    if not found:
        newest = ", ".join(f"{run.run_id[:8]} {run.name}" for run in store.newest(3)) or "none"
        raise RequestError(f"runs={reference}: there is no such run\ngive {forms}; the newest runs are {newest}")
    if len(found) > 1:
        raise RequestError(f"runs={reference}: {len(found)} runs answer to it\ngive an id: {_by_id(found)}")
    return found[0]


def _by_id(runs: list[RunInfo], most: int = 8) -> str:
    shown = ", ".join(f"{run.run_id[:8]} ({run.started:%Y-%m-%d %H:%M:%S})" for run in runs[:most])
    return shown + (f" and {len(runs) - most} older ones" if len(runs) > most else "")


def _no_checkpoint(reference: str, run: RunInfo) -> str:
    """The best weights are logged at the end of a run; one that was stopped may still have them in its folder."""
    file = Path(run.folder) / CHECKPOINT
    way_out = f"its folder has them: runs={file}" if run.folder and file.is_file() else "choose a run that is FINISHED"
    if parent := run.tags.get("parent"):
        way_out = f"it trained nothing; it started from runs=[{parent}]"
    return f"runs={reference}: the run is {run.status} and logged no best weights\n{way_out}"


def _record(folder: Path, reference: str) -> dict[str, Any]:
    """The recorded configuration: plain data, whose groups are choices of `conf/`; the rest is checked by `parse`."""
    try:
        recorded = migrate(yaml.safe_load(_read(folder / CONFIG, reference)))
        known = all(recorded[group]["name"] in choices(group) for group in _GROUPS if group in recorded)
        known = known and set(_COLORS) <= set(recorded["dataset"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise RequestError(f"runs={reference}: {folder / CONFIG} is no configuration of a run\nrestore the file")
    return recorded


def _read(file: Path, reference: str) -> str:
    try:
        return file.read_bytes().decode()  # read_text would take a carriage return for a line's end
    except FileNotFoundError:
        raise RequestError(f"runs={reference}: the run left no {file.name} (looked for {file})") from None
