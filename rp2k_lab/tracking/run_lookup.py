"""`runs=`: find earlier runs by id, name, folder, checkpoint file, `last` or `best`; restore their configuration."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rp2k_lab.config.choices import choices, complete, defaults_of, with_defaults
from rp2k_lab.config.migrations import migrate, parse_record
from rp2k_lab.config.schema import Config, parse
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.quoting import shell_override
from rp2k_lab.core.text import escape_controls
from rp2k_lab.extension.extension_file import Extension, read_extension
from rp2k_lab.tracking.latest_runs import NETWORKS, TO_RESUME, TO_VERIFY, choose, is_word
from rp2k_lab.tracking.local_runs import find_journals, matches, named_folder, read_run, unsent_journals
from rp2k_lab.tracking.mlflow_runs import BASE, CHECKPOINT, EXTENSION, OPEN_SET, RunInfo, RunStore
from rp2k_lab.tracking.provenance import differences
from rp2k_lab.tracking.run_files import CLASSES, CONFIG, damage_named, read_settings, read_text, real_path

FORMS = "an id (6 characters are enough), a name, a run's folder, last, last:2 or best"
# Keys that the request sets, never the record.
_REQUEST_KEYS = ("task", "tracking", "runs", "ablation", "scale")
_GROUPS = ("dataset", "model", "aug", "loss", "optimizer", "schedule", "device")
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
        checkpoint: weights of the best epoch, or the named file; of an extension those of its base.
        classes: names in label order.
        extension: what the run adds to its base; None: it is no extension.
        open_set: text of the run's open_set.json; None: it has none.
    """

    reference: str
    name: str
    run_id: str | None
    page: str | None
    config: dict[str, Any]
    checkpoint: Path
    classes: tuple[str, ...]
    extension: Extension | None = None
    open_set: str | None = None


def resolve(request: Config) -> tuple[str, ...]:
    """Return `request.runs` with an id in place of each `last`, `last:N` and `best`, which a later run may change.

    `task.resume=continue` chooses from the unfinished trainings, `task.verify` from the finished ones, and every other
    task from the finished runs with a network.

    Raises:
        RequestError: from `choose`.
    """
    uri, experiment, wanted = request.tracking.uri, request.tracking.experiment, NETWORKS
    if request.task.name == "train" and request.task.trains_earlier_run:
        wanted = TO_VERIFY if request.task.verify else TO_RESUME
    return tuple(
        choose(uri, reference, experiment, wanted).run_id if is_word(reference) else reference
        for reference in request.runs
    )


def find_run(uri: str | None, reference: str, downloads: Path) -> EarlierRun:
    """Return the run with this id, unique id prefix, name, folder or checkpoint file (`<folder>/checkpoints/*.ckpt`).

    Args:
        uri: the store; None: the clone's store.
        downloads: an existing folder for files from a server.

    Raises:
        RequestError: no run, several runs, or a run without configuration, classes or checkpoint.
    """
    run, folder = locate(uri, reference, (CONFIG, CLASSES, CHECKPOINT, EXTENSION, OPEN_SET), downloads)
    extension = read_extension(folder / EXTENSION) if run and (folder / EXTENSION).is_file() else None
    if run is None:
        checkpoint = Path(os.path.abspath(os.path.expanduser(reference)))
    elif extension:
        checkpoint = _base_checkpoint(uri, reference, run, downloads)
    elif (folder / CHECKPOINT).is_file():
        checkpoint = folder / CHECKPOINT
    else:
        raise RequestError(_no_checkpoint(reference, run))
    config = _read_config(folder, reference)
    try:
        classes = tuple(read_text(folder, CLASSES).removesuffix("\n").split("\n"))
    except FileNotFoundError:
        raise _no_file(folder / CLASSES, reference) from None
    open_set = read_text(folder, OPEN_SET) if (folder / OPEN_SET).is_file() else None
    if run is None:
        return EarlierRun(reference, reference, None, None, config, checkpoint, classes, None, open_set)
    page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}" if run.experiment_id else None
    return EarlierRun(reference, run.name, run.run_id, page, config, checkpoint, classes, extension, open_set)


def _base_checkpoint(uri: str | None, reference: str, run: RunInfo, downloads: Path) -> Path:
    """Return the checkpoint of the run that an extension started from.

    Raises:
        RequestError: it is gone.
    """
    base = run.tags.get(BASE, "")
    if base.endswith(".ckpt"):
        if os.path.isfile(base):
            return Path(base)
    elif re.fullmatch(r"[\w-]+", base):
        try:
            found, folder = locate(uri, base, (CHECKPOINT,), downloads)
        except RequestError:
            found, folder = None, downloads
        if found and (folder / CHECKPOINT).is_file():
            return folder / CHECKPOINT
    raise RequestError(
        f"runs={reference}: extends {escape_controls(base) or 'no named run'}, whose weights are not there\n"
        "restore the base run, or name another run"
    )


def restore(request: Config, composed: dict[str, Any], overrides: Sequence[str]) -> tuple[Config, ...]:
    """Return the configuration of each of `request.runs`, with the command line's overrides.

    All use the data set of the first run, but each keeps its network's normalization (`dataset.mean`, `dataset.std`),
    even if the command line names another data set.

    Args:
        request: the configuration of this command alone.
        composed: the same, as Hydra composed it.
        overrides: the command line, `group=choice` and `key=value`.

    Returns:
        One configuration for each run.  For task=train the configuration of the training, then one for each teacher.

    Raises:
        RequestError: no such run, normalization on the command line, augmentation without effect, or the merged
            configuration is invalid or differs from the run to resume.
    """
    if request.task.name == "train":
        if request.task.trains_earlier_run:
            config = _restore_training(request, composed, overrides)
        else:
            ids = tuple(_lasting_reference(request.tracking.uri, reference) for reference in request.runs)
            config = request.model_copy(update={"runs": ids})
        return config, *_teacher_configs(config, composed)
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key in [f"dataset.{name}" for name in _NORMALIZATION]:
            raise RequestError(f"{override}: a trained network keeps its normalization (mean, std)\nleave out {key}")
        if request.task.name == "fixres" and re.split(r"[./]", key)[0] == "aug":
            raise RequestError(f"{override}: task=fixres trains without augmentation\nleave out {key}")
    merged, normalizations, files = [], [], []
    with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        for reference in request.runs:
            _, folder = locate(request.tracking.uri, reference, (CONFIG,), Path(downloads))
            recorded = _read_config(folder, reference)
            with damage_named(folder / CONFIG):
                merged.append(merge(composed, recorded, overrides, complete))
            normalizations.append({key: recorded["dataset"][key] for key in _NORMALIZATION})
            files.append(folder / CONFIG)
    dataset = merged[0]["dataset"]
    return tuple(
        _parse_recorded(settings | {"dataset": dataset | normalization}, file, overrides)
        for settings, normalization, file in zip(merged, normalizations, files, strict=True)
    )


def _parse_recorded(settings: dict[str, Any], file: Path, overrides: Sequence[str]) -> Config:
    """Return the configuration that a record and the command line make.

    Args:
        file: the record, which the message names unless the command line has set the wrong key.
    """
    try:
        with damage_named(file):
            return parse(settings)
    except RequestError as error:
        reason, _, way_out = str(error).partition("\n")
        key = re.match(r"[\w.]*", reason)
        stated = [override.lstrip("+~").partition("=")[0].replace("/", ".") for override in overrides]
        if key and any(key[0] == name or key[0].startswith(f"{name}.") for name in stated):
            raise
        more = f"; {way_out}" if way_out else ""
        raise DataError(f"{escape_controls(file)}: {reason}\nrestore the file, or name another run{more}") from None


def _lasting_reference(uri: str | None, reference: str) -> str:
    """Return the id of a run or the absolute path of a checkpoint file: a name may have another meaning later."""
    if reference.endswith(".ckpt"):
        return os.path.abspath(os.path.expanduser(reference))
    return lookup_run(uri, reference, f"a .ckpt file, {FORMS}").local_id


def _teacher_configs(config: Config, composed: dict[str, Any]) -> Iterator[Config]:
    """Yield the training's configuration with the network of each teacher and with its normalization.

    Args:
        composed: any valid configuration, as Hydra composed it.
    """
    with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        for reference in config.teachers:
            _, folder = locate(config.tracking.uri, reference, (CONFIG,), Path(downloads))
            recorded = _read_config(folder, reference)
            with damage_named(folder / CONFIG):
                model_settings = {"model": complete("model", recorded["model"])}
            model = _parse_recorded(composed | model_settings, folder / CONFIG, ()).model
            with damage_named(folder / CONFIG):
                normalization = {key: tuple(map(float, recorded["dataset"][key])) for key in _NORMALIZATION}
            dataset = config.dataset.model_copy(update=normalization)
            yield config.model_copy(update={"model": model, "dataset": dataset, "runs": config.teachers})


def _restore_training(request: Config, composed: dict[str, Any], overrides: Sequence[str]) -> Config:
    """Return the configuration of the training to resume; only keys without effect on its metrics may change."""
    if len(request.runs) != 1:
        raise RequestError(
            f"runs={','.join(request.runs)}: one run is resumed or verified, its record names its teachers\n"
            f"use runs={request.runs[0]}"
        )
    (reference,) = request.runs
    with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        run, folder = locate(request.tracking.uri, reference, (CONFIG,), Path(downloads))
        if run is None:
            raise RequestError(f"runs={reference}: cannot resume from a checkpoint file\nuse the id of its run")
        recorded = _read_config(folder, reference)
    if recorded["task"]["name"] != "train":
        raise RequestError(f"runs={reference}: a run of task={recorded['task']['name']}\nname a run of task=train")
    with damage_named(folder / CONFIG):
        former, config = _former_and_current(recorded, run, reference, composed, overrides, folder / CONFIG)
    if changes := differences(former, config):
        shown = ", ".join(changes[:3]) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")
        raise RequestError(f"runs={reference}: was trained with {shown}\nleave out these keys, or train a new run")
    return config


def _former_and_current(
    recorded: dict[str, Any],
    run: RunInfo,
    reference: str,
    composed: dict[str, Any],
    overrides: Sequence[str],
    file: Path,
) -> tuple[Config, Config]:
    """Return a training's configuration as `recorded` in a file, and with the overrides."""
    stated = [override.lstrip("+~").partition("=")[0] for override in overrides]
    task = with_defaults(composed["task"], recorded["task"])
    current = with_defaults(task, {key: composed["task"][key] for key in task if f"task.{key}" in stated})
    guard = {k: v for k, v in composed["task"]["chance_guard"].items() if f"task.chance_guard.{k}" in stated}
    current = with_defaults(current, {"chance_guard": guard})
    # The record of a verification begins with the run that it verified.
    teachers = (recorded.get("runs") or [])["verifies" in run.tags :] if recorded["loss"].get("distillation") else []
    settings = merge(composed, recorded, (), complete) | {"task": task, "runs": [reference, *teachers]}
    former = _parse_recorded(settings, file, ())
    merged = merge(composed, recorded, overrides, complete) | {"task": current}
    measured = {key: recorded["dataset"].get(key) for key in _NORMALIZATION if merged["dataset"].get(key) is None}
    merged["dataset"] = merged["dataset"] | measured  # the request has null, the run has what was measured for it
    merged["runs"] = [reference, *(teachers if merged["loss"]["distillation"] else ())]
    return former, _parse_recorded(merged, file, overrides)


def merge(
    composed: dict[str, Any],
    recorded: dict[str, Any],
    overrides: Iterable[str],
    defaults: Callable[[str, Mapping[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    """Return `recorded` with the overridden groups and keys taken from `composed`.

    A key that the record lacks gets today's default.

    Args:
        defaults: (group, values of a choice) to these values and today's defaults of the keys that they lack.

    Raises:
        RequestError: a recipe, which cannot overlay recorded values.
    """
    merged = composed | {key: value for key, value in recorded.items() if key not in _REQUEST_KEYS}
    for group, settings in merged.items():
        if isinstance(settings, dict) and group not in _REQUEST_KEYS:
            same = group in composed and composed[group].get("name") == settings.get("name")
            merged[group] = _filled(settings, composed[group]) if same else defaults(group, settings)
    for override in overrides:
        path = override.lstrip("+~").partition("=")[0].replace("/", ".").split(".")
        if path[0] == "recipe":
            recipe = recorded.get("recipe", "none")
            raise RequestError(f"{override}: runs= brings its own recipe ({recipe})\nname the keys to change")
        if path[0] in composed and (len(path) == 1 or path[0] not in _REQUEST_KEYS):
            merged = _with_value(merged, path, composed)
    return merged


def _filled(values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with the keys of `base` that it lacks; a group within is filled if it is the same choice."""
    filled = dict(base) | dict(values)
    for key, value in values.items():
        inner = base.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping) and value.get("name") == inner.get("name"):
            filled[key] = _filled(value, inner)
    return filled


def _with_value(tree: dict[str, Any], path: Sequence[str], source: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `tree` with the value that `source` has at a path of keys; None where it has none."""
    key, *rest = path
    value = source.get(key) if isinstance(source, Mapping) else None
    if not rest:
        return tree | {key: value}
    inner = tree.get(key)
    return tree | {key: _with_value(inner if isinstance(inner, dict) else {}, rest, value)}


def locate(uri: str | None, reference: str, files: Iterable[str], downloads: Path) -> tuple[RunInfo | None, Path]:
    """Return (the run, or None for a checkpoint file; a folder with those of its `files` that exist).

    Args: as `find_run`.

    Raises:
        RequestError: no such run, or several.
    """
    if reference.endswith(".ckpt"):
        file = os.path.expanduser(reference)
        if not os.path.isfile(file):
            raise RequestError(f"runs={reference}: there is no such file")
        return None, Path(os.path.abspath(file)).parent.parent
    run = lookup_run(uri, reference, f"a .ckpt file, {FORMS}")
    folder = run.artifact_folder or RunStore(uri).fetch(run, files, downloads)
    for file in files:
        real_path(folder, file)
    return run, folder


def lookup_run(uri: str | None, reference: str, forms: str = FORMS) -> RunInfo:
    """Return the run with this id, unique id prefix, name or folder, uploaded or not.

    `last`, `last:N` and `best` are finished runs with a network, `best` in the default experiment; `resolve` knows the
    request.

    Args:
        forms: the valid kinds of reference, for the error message.

    Raises:
        RequestError: no such run, or several.
    """
    if is_word(reference):
        return choose(uri, reference, defaults_of("tracking", "mlflow")["experiment"])
    if folder := named_folder(reference):
        files = find_journals(folder)
    else:
        files = [file for file in unsent_journals(uri) if matches(file, reference)]
    runs = {run.local_id: run for run in map(read_run, files)}
    if not (folder and runs):
        try:
            store = RunStore(uri)
            runs = {run.local_id: run for run in store.find(reference)} | runs
        except RequestError:
            if not runs:
                raise
    matching = sorted(runs.values(), key=lambda run: run.started, reverse=True)
    if not matching:
        newest = ", ".join(f"{run.run_id[:8]} {escape_controls(run.name)}" for run in store.newest(3)) or "none"
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
    in_folder = run.folder and file.is_file()
    way_out = f"use those in its folder: {shell_override('runs', file)}" if in_folder else "use a FINISHED run"
    if (parent := run.tags.get("parent")) and run.tags.get("task") != "train":
        way_out = f"it trained nothing: use its parent, runs=[{parent}]"
    return f"runs={reference}: the run is {run.status} and logged no best weights\n{way_out}"


def _read_config(folder: Path, reference: str) -> dict[str, Any]:
    """Return the recorded configuration as plain data; its groups are choices of `conf/`, `parse` checks the rest."""
    try:
        settings = read_settings(folder)
    except FileNotFoundError:
        raise _no_file(folder / CONFIG, reference) from None
    with damage_named(folder / CONFIG):
        recorded = migrate(settings)
        _check_names(recorded)
        names = {group: recorded[group]["name"] for group in _GROUPS if group in recorded}
        for group, key in [("task", "name"), *(("dataset", key) for key in _NORMALIZATION)]:
            if key not in recorded[group]:
                raise KeyError(f"{group}.{key}")
    for group, name in names.items():
        if name not in choices(group):
            raise RequestError(
                f"runs={reference}: was made with {group}={name}, and no installed package has this choice\n"
                "install the package that has it, or name another run"
            )
    return recorded


def read_record(folder: Path) -> Config:
    """Return the configuration that the record in a folder alone describes; missing keys get today's defaults.

    Raises:
        FileNotFoundError: there is no record.
        DataError: it is damaged, or no valid configuration today.
    """
    settings = read_settings(folder)
    with damage_named(folder / CONFIG):
        _check_names(settings)
        try:
            return parse_record(settings)
        except RequestError as error:
            raise ValueError(str(error).splitlines()[0]) from None


def _check_names(settings: dict[str, Any]) -> None:
    """Raise ValueError unless each `name`, of a choice at any depth, can be the name of a file of `conf/`."""
    for key, value in settings.items():
        if isinstance(value, dict):
            _check_names(value)
        elif key == "name" and not (isinstance(value, str) and re.fullmatch(r"\w[\w.-]*", value)):
            raise ValueError(f"no name of a choice: {value!r}")


def _no_file(file: Path, reference: str) -> RequestError:
    return RequestError(f"runs={reference}: the run has no {file.name} (looked for {escape_controls(file)})")
