"""`runs=`: the configuration of earlier runs, with the command line's overrides."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rp2k_lab.config.choices import complete, with_defaults
from rp2k_lab.config.schema import Config, parse
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.mlflow_runs import RunInfo
from rp2k_lab.tracking.provenance import differences
from rp2k_lab.tracking.run_files import CONFIG, damage_named
from rp2k_lab.tracking.run_lookup import FORMS, locate, lookup_run
from rp2k_lab.tracking.run_record import NORMALIZATION, read_config

# Keys that the request sets, never the record.
_REQUEST_KEYS = ("task", "tracking", "runs", "ablation", "scale")


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
        if key in [f"dataset.{name}" for name in NORMALIZATION]:
            raise RequestError(f"{override}: a trained network keeps its normalization (mean, std)\nleave out {key}")
        if request.task.name == "fixres" and re.split(r"[./]", key)[0] == "aug":
            raise RequestError(f"{override}: task=fixres trains without augmentation\nleave out {key}")
    merged, normalizations, files = [], [], []
    with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        for reference in request.runs:
            _, folder = locate(request.tracking.uri, reference, (CONFIG,), Path(downloads))
            recorded = read_config(folder, reference)
            with damage_named(folder / CONFIG):
                merged.append(merge(composed, recorded, overrides, complete))
            normalizations.append({key: recorded["dataset"][key] for key in NORMALIZATION})
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
            recorded = read_config(folder, reference)
            with damage_named(folder / CONFIG):
                model_settings = {"model": complete("model", recorded["model"])}
            model = _parse_recorded(composed | model_settings, folder / CONFIG, ()).model
            with damage_named(folder / CONFIG):
                normalization = {key: tuple(map(float, recorded["dataset"][key])) for key in NORMALIZATION}
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
        recorded = read_config(folder, reference)
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
    measured = {key: recorded["dataset"].get(key) for key in NORMALIZATION if merged["dataset"].get(key) is None}
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
