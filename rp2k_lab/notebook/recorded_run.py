"""`rp2k_lab.open_run`: a recorded run as DataFrames."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.notebook.run_context import RunContext, open_recorded
from rp2k_lab.tracking.mlflow_runs import RunInfo
from rp2k_lab.tracking.run_files import damage_named
from rp2k_lab.tracking.run_lookup import locate, lookup_run


@dataclass(frozen=True)
class RecordedRun:
    """A recorded run.

    Attributes:
        run: its id, name, status, tags and last metrics.
    """

    run: RunInfo
    _uri: str | None

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric."""
        return self.run.metrics

    @property
    def config(self) -> Config:
        """The configuration, as recorded."""
        return self._context.config

    @cached_property
    def index(self) -> pd.DataFrame:
        """The photos of the run's data set, as they are now: a row per photo.

        Columns: path (relative to the data set's folder), class, label (int), split (train, val, test), width and
        height (pixels), and those of the data set.

        Raises:
            RequestError, DataError: the photos are not there, or unusable.
        """
        return self._context.index.table

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """Return the recorded predictions: a row per photo, in the order of `index`.

        Columns: path, true (class), correct (bool), top1 to top5 (classes) and p1 to p5 (their probabilities, 0 to 1),
        fewer with fewer classes.

        Args:
            split: val or test.

        Raises:
            RequestError: the run did not evaluate the split.
            DataError: the file is damaged.
        """
        file = f"{split}/predictions.parquet"
        with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
            _, folder = locate(self._uri, self.run.run_id, [file], Path(downloads))
            if not (folder / file).is_file():
                ways_out = "use another split, or a run that evaluated this one: task=evaluate task.split=" + split
                raise RequestError(f"split={split}: {self.run.name} has no {file}\n{ways_out}")
            with damage_named(folder / file):
                return pd.read_parquet(folder / file)

    def features(self, split: str = "test") -> pd.DataFrame:
        """Return what the network gives to its classifier: a row per photo of the split, in the order of `index`.

        They are computed once for the network and the photos, and kept under data/features.  The first call imports
        MindSpore and compiles the network.

        Index: path.  Columns: f0, f1, … (float32).

        Args:
            split: train, val or test.

        Raises:
            RequestError: the run has no network, or the data set no such split.
            DataError: a photo cannot be read.
        """
        from rp2k_lab.analysis.subject import Subject
        from rp2k_lab.device import target
        from rp2k_lab.train.trained_models import load_members

        config, index = self._context.config, self._context.index
        rows = index.split(split)
        if not len(rows):
            splits = ", ".join(index.table["split"].unique())
            raise RequestError(f"split={split}: the data set has no such photos\nuse one of {splits}")
        target.set_up(config.device)
        (run,), (member,) = load_members([config])
        array = Subject(config, index, run, member).features(split)
        names = [f"f{i}" for i in range(array.shape[1])]
        return pd.DataFrame(array, index=pd.Index(rows["path"], name="path"), columns=names)

    @cached_property
    def _context(self) -> RunContext:
        return open_recorded(self.run, self._uri)


def open_run(reference: str = "last", uri: str | None = None) -> RecordedRun:
    """Return a recorded run, for a notebook or a script.

        run = rp2k_lab.open_run("last")
        run.predictions("test").merge(run.index, on="path").groupby("class")["correct"].mean()

    Args:
        reference: an id (6 characters are enough), a name, a run's folder, last (the newest finished run with a
            network), last:2 or best.
        uri: the MLflow store; None: the clone's store.

    Raises:
        RequestError: there is no such run, or several.
    """
    return RecordedRun(lookup_run(uri, reference), uri)
