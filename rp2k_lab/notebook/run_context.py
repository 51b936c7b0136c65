"""A recorded run opened again: its configuration, its photos and what task=errors found."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from rp2k_lab import PROJECT
from rp2k_lab.analysis.tables import ErrorTables
from rp2k_lab.analysis.thumbnails import Thumbnails
from rp2k_lab.cli.app import register_resolvers
from rp2k_lab.config.choices import defaults_of
from rp2k_lab.config.schema import Config, parse
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.tracking.mlflow_runs import RunInfo, RunStore
from rp2k_lab.tracking.run_lookup import lookup_run, restore

_TABLES = ("cases.parquet", "classes.parquet", "clusters.parquet", "causes.csv", "curves.csv")
_PHOTO_SCORE, _LABEL_ERRORS, _LABEL_CURVE = "photo_score.csv", "label_errors.csv", "label_errors_curve.csv"
_AS_WRITTEN = {"keep_default_na": False, "na_values": [""]}  # a class may be called NA


@dataclass(frozen=True)
class RunContext:
    """A run and the photos that it was made with.

    Attributes:
        run: what the store knows of it.
        config: as recorded.
        index: of its data set as it is now.
    """

    run: RunInfo
    config: Config
    index: Index

    @property
    def fingerprint(self) -> str:
        """The data set's when the run was made; another one than the index's where photos have changed since."""
        return self.run.tags.get("dataset_fingerprint", self.index.fingerprint)

    @cached_property
    def thumbnails(self) -> Thumbnails:
        """Small pictures of the photos."""
        return Thumbnails(self.index, {}, "", None)


@dataclass(frozen=True)
class ErrorsContext(RunContext):
    """A task=errors run.

    Attributes:
        tables: what it found; of two runs, the second's.
        photo_score: of `analysis.redrawn.photo_score`, or None.
        label_errors: path, given, suggested, score, the most suspicious first, or None.
        label_curve: of `analysis.label_score.precision_recall`, or None.
    """

    tables: ErrorTables
    photo_score: pd.DataFrame | None
    label_errors: pd.DataFrame | None
    label_curve: pd.DataFrame | None

    @property
    def split(self) -> str:
        """What was analyzed: train, val or test."""
        return self.index.table["split"].iloc[self.tables.cases["row"].iloc[0]]


def open_data(reference: str | None = None, uri: str | None = None) -> RunContext:
    """A run with its photos.

    Args:
        reference: an id, a unique begin of one, or a name; None: the newest finished training run.
        uri: the store; None: the clone's own.

    Raises:
        RequestError: no such run or several, or one without a configuration.
        DataError: of `build_index`.
    """
    store = RunStore(uri)
    if reference is None:
        return _open(_newest(store, "train", "python run.py"), uri)
    return _open(lookup_run(uri, reference), uri)


def open_errors(reference: str | None = None, uri: str | None = None) -> ErrorsContext:
    """A task=errors run with its photos and tables.

    Args:
        reference: of the run itself, or of the run that it looked at, as of `open_data`; None: the newest.
        uri: the store; None: the clone's own.

    Raises:
        RequestError: as `open_data`; or nobody has looked at the run's errors.
        DataError: the photos are not those of the run any more.
    """
    store = RunStore(uri)
    if reference is None:
        run = _newest(store, "errors", "python run.py task=errors runs=<a training run's id>")
    else:
        run = lookup_run(uri, reference)
        if run.tags.get("task") != "errors":
            name, run = f"{run.run_id[:8]} {run.name}", store.finished("errors", run.run_id)
            if run is None:
                way_out = f"python run.py task=errors runs={name.split()[0]}"
                raise RequestError(f"{name}: no finished run of task=errors has looked at it\n{way_out}")
    opened = _open(run, uri)
    if opened.fingerprint != opened.index.fingerprint:  # the tables name photos by their place in the index
        raise DataError(
            f"{escape_controls(opened.index.root)}: the photos have changed since run {run.run_id[:8]} (fingerprint "
            f"{opened.fingerprint} then, {opened.index.fingerprint} now)\nrun task=errors again, or bring them back"
        )
    with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        files = (*_TABLES, _PHOTO_SCORE, _LABEL_ERRORS, _LABEL_CURVE)
        folder = store.fetch(run, files, Path(downloads))
        missing = [name for name in _TABLES if not (folder / name).is_file()]
        if missing:
            raise RequestError(f"{run.run_id[:8]} {run.name}: the run left no {missing[0]}\nrun task=errors again")
        tables = ErrorTables(*(_read(folder / name) for name in _TABLES))
        others = [_read(folder / name) for name in (_PHOTO_SCORE, _LABEL_ERRORS, _LABEL_CURVE)]
    return ErrorsContext(opened.run, opened.config, opened.index, tables, *others)


def with_augmentations(config: Config) -> dict[str, Config]:
    """The configuration with every `conf/aug` choice, by name; crop, flip and color as recorded in each."""
    names = sorted(file.stem for file in (PROJECT / "conf" / "aug").glob("*.yaml"))
    settings = config.model_dump()
    shared = {key: settings["aug"][key] for key in ("crop", "flip", "color")}
    choices = {name: defaults_of("aug", name) for name in names}
    return {
        name: config if name == config.aug.name else parse(settings | {"aug": choice | shared})
        for name, choice in choices.items()
    }


def _newest(store: RunStore, task: str, command: str) -> RunInfo:
    run = store.finished(task)
    if run is None:
        raise RequestError(f"the store has no finished run of task={task}\n{command}")
    return run


def _open(run: RunInfo, uri: str | None) -> RunContext:
    config = _recorded_config(run, uri)
    return RunContext(run, config, build_index(config.dataset))


def _recorded_config(run: RunInfo, uri: str | None) -> Config:
    """The run's configuration; keys that its record lacks have today's defaults."""
    from hydra import compose
    from omegaconf import OmegaConf

    with _composing():
        composed = OmegaConf.to_container(compose("config", ["task=evaluate"]), resolve=True)
        composed |= {"runs": [run.run_id], "tracking": composed["tracking"] | {"uri": uri}}
        (config,) = restore(parse(composed), composed, [])
    return config


@contextmanager
def _composing() -> Iterator[None]:
    """Hydra with `conf/`, as `run.py` has it."""
    from hydra import initialize_config_dir

    register_resolvers()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        yield


def _read(file: Path) -> pd.DataFrame | None:
    if not file.is_file():
        return None
    return pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, **_AS_WRITTEN)
