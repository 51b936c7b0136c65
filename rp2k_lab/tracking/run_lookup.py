"""`runs=`: find earlier runs by id, name, folder, checkpoint file, `last` or `best`."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rp2k_lab.config.choices import defaults_of
from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.quoting import shell_override
from rp2k_lab.core.text import escape_controls
from rp2k_lab.extension.extension_file import Extension, read_extension
from rp2k_lab.tracking.latest_runs import NETWORKS, TO_RESUME, TO_VERIFY, choose, is_word
from rp2k_lab.tracking.local_runs import find_journals, matches, named_folder, read_run, unsent_journals
from rp2k_lab.tracking.mlflow_runs import BASE, CHECKPOINT, EXTENSION, OPEN_SET, RunInfo, RunStore
from rp2k_lab.tracking.run_files import CLASSES, CONFIG, read_text, real_path
from rp2k_lab.tracking.run_record import no_file, read_config

FORMS = "an id (6 characters are enough), a name, a run's folder, last, last:2 or best"


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
    config = read_config(folder, reference)
    try:
        classes = tuple(read_text(folder, CLASSES).removesuffix("\n").split("\n"))
    except FileNotFoundError:
        raise no_file(folder / CLASSES, reference) from None
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
