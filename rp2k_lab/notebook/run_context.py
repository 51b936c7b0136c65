"""Context of a recorded run: its configuration, images and error tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from rp2k_lab import COMMAND
from rp2k_lab.analysis.tables import ErrorTables
from rp2k_lab.analysis.thumbnails import Thumbnails
from rp2k_lab.cli.app import register_resolvers
from rp2k_lab.config.choices import CONF, choices, defaults_of, plain
from rp2k_lab.config.schema import Config, parse
from rp2k_lab.core.csv_files import read_written
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.tracking.mlflow_runs import RunInfo, RunStore
from rp2k_lab.tracking.run_files import damage_named
from rp2k_lab.tracking.run_lookup import lookup_run
from rp2k_lab.tracking.run_restore import restore

_TABLES = ("cases.parquet", "classes.parquet", "clusters.parquet", "causes.csv", "curves.csv")
_PHOTO_SCORE, _LABEL_ERRORS, _LABEL_CURVE = "photo_score.csv", "label_errors.csv", "label_errors_curve.csv"
_TEXT_COLUMNS = ("path", "given", "suggested", "top_classes")  # a class may be called NA or 007


@dataclass(frozen=True)
class RunContext:
    """A run with its configuration and its data set.

    Attributes:
        run: from the store.
        config: as recorded.
        index: of the data set's current files.
    """

    run: RunInfo
    config: Config
    index: Index

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the data set during the run; differs from the index's if images have changed."""
        return self.run.tags.get("dataset_fingerprint", self.index.fingerprint)

    @cached_property
    def thumbnails(self) -> Thumbnails:
        """Thumbnails of the images."""
        return Thumbnails(self.index, {}, "", None)


@dataclass(frozen=True)
class ErrorsContext(RunContext):
    """A task=errors run.

    Attributes:
        tables: of the analyzed run; of the second one in a comparison.
        photo_score: from `redraw_check.photo_score`, or None.
        label_errors: path, given, suggested, score, highest score first, or None.
        label_curve: from `label_issue_score.precision_recall`, or None.
    """

    tables: ErrorTables
    photo_score: pd.DataFrame | None
    label_errors: pd.DataFrame | None
    label_curve: pd.DataFrame | None

    @property
    def split(self) -> str:
        """The analyzed split: train, val or test."""
        return self.index.table["split"].iloc[self.tables.cases["row"].iloc[0]]


def open_data(reference: str | None = None, uri: str | None = None) -> RunContext:
    """Return a run with its data set.

    Args:
        reference: id, unique prefix of an id, or name; None: the newest finished training run.
        uri: the store; None: the clone's store.

    Raises:
        RequestError: no or several matching runs, or no recorded configuration.
        DataError: from `build_index`.
    """
    store = RunStore(uri)
    if reference is None:
        return open_recorded(_newest(store, "train", COMMAND), uri)
    return open_recorded(lookup_run(uri, reference), uri)


def open_errors(reference: str | None = None, uri: str | None = None) -> ErrorsContext:
    """Return a task=errors run with its data set and tables.

    Args:
        reference: of the task=errors run or of the analyzed run, as in `open_data`; None: the newest task=errors run.
        uri: the store; None: the clone's store.

    Raises:
        RequestError: as in `open_data`, or there is no finished analysis of the run.
        DataError: the images have changed since the analysis.
    """
    store = RunStore(uri)
    if reference is None:
        run = _newest(store, "errors", f"{COMMAND} task=errors runs=<a training run's id>")
    else:
        run = lookup_run(uri, reference)
        if run.tags.get("task") != "errors":
            name, run = f"{run.run_id[:8]} {run.name}", store.finished("errors", run.run_id)
            if run is None:
                command = f"{COMMAND} task=errors runs={name.split()[0]}"
                raise RequestError(f"{name}: it has no finished run of task=errors\nstart one: {command}")
    context = open_recorded(run, uri)
    if context.fingerprint != context.index.fingerprint:  # the tables refer to rows of the index
        raise DataError(
            f"{escape_controls(context.index.root)}: the photos have changed since run {run.run_id[:8]} "
            f"(fingerprint {context.fingerprint} then, {context.index.fingerprint} now)\n"
            "run task=errors again, or restore the photos"
        )
    with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        files = (*_TABLES, _PHOTO_SCORE, _LABEL_ERRORS, _LABEL_CURVE)
        folder = store.fetch(run, files, Path(downloads))
        missing = [name for name in _TABLES if not (folder / name).is_file()]
        if missing:
            raise RequestError(f"{run.run_id[:8]} {run.name}: {missing[0]} is missing\nrun task=errors again")
        tables = ErrorTables(*(_read(folder / name) for name in _TABLES))
        optional = [_read(folder / name) for name in (_PHOTO_SCORE, _LABEL_ERRORS, _LABEL_CURVE)]
    return ErrorsContext(context.run, context.config, context.index, tables, *optional)


def with_augmentations(config: Config) -> dict[str, Config]:
    """Return the configuration with each `conf/aug` choice, by name; crop, flip and color stay as recorded.

    The recorded one is under its label, which may be a choice's name.
    """
    settings = config.model_dump()
    shared = {key: settings["aug"][key] for key in ("crop", "flip", "color")}
    combinations = {name: parse(settings | {"aug": defaults_of("aug", name) | shared}) for name in choices("aug")}
    return combinations | {config.aug.label: config}


def _newest(store: RunStore, task: str, command: str) -> RunInfo:
    run = store.finished(task)
    if run is None:
        raise RequestError(f"the store has no finished run of task={task}\nstart one: {command}")
    return run


def open_recorded(run: RunInfo, uri: str | None) -> RunContext:
    """Return a run of a store with its data set; raises as `open_data`."""
    config = _recorded_config(run, uri)
    return RunContext(run, config, build_index(config.dataset))


def _recorded_config(run: RunInfo, uri: str | None) -> Config:
    """Return the run's configuration; missing keys have the current defaults."""
    from hydra import compose

    with _composing():
        composed = plain(compose("config", ["task=evaluate"]), resolve=True)
        composed |= {"runs": [run.run_id], "tracking": composed["tracking"] | {"uri": uri}}
        (config,) = restore(parse(composed), composed, [])
    return config


@contextmanager
def _composing() -> Iterator[None]:
    """Initialize Hydra with `conf/`, as `run.py` does."""
    from hydra import initialize_config_dir

    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def _read(file: Path) -> pd.DataFrame | None:
    if not file.is_file():
        return None
    with damage_named(file, "run task=errors again"):
        return pd.read_parquet(file) if file.suffix == ".parquet" else read_written(file, _TEXT_COLUMNS)
