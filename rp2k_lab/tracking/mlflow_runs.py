"""Read recorded runs from MLflow."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rp2k_lab import COMMAND
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.redaction import redact
from rp2k_lab.tracking.journal import LATEST, SUFFIX
from rp2k_lab.tracking.mlflow_store import StoreUnavailable, open_client, store_exists, store_uri, unreachable
from rp2k_lab.tracking.upload_state import LOCAL_ID

# Artifact of a finished run with a network: the weights of its best epoch.
CHECKPOINT = "checkpoints/best.ckpt"
# Artifact of a run of task=extend, which has its base's weights; and the tag with the base's id or checkpoint file.
EXTENSION, BASE = "extension.safetensors", "base"
# Artifact of a run with a network: what its val scores say about known images; see `evaluation.open_set`.
OPEN_SET = "open_set.json"
# Prefixes of the closing scores of a training by split: val's are those of the best epoch's weights, and val/ has the
# curves.  Runs without a curve, and all runs of earlier versions, have val's in val/.
CLOSING = {"val": "val_best", "test": "test"}
# Metric name to its (step, value) pairs in order.
History = dict[str, list[tuple[int, float]]]
_NEWEST_FIRST = ("start_time DESC",)
# Runs a request.
_PAGE = 10
QUOTES = re.compile(r"['\"`\\]")


@dataclass(frozen=True)
class RunInfo:
    """A recorded run.

    Attributes:
        run_id: MLflow's; the local one before the first upload.
        experiment_id: MLflow's; empty before the first upload.
        status: RUNNING, FINISHED, FAILED or KILLED.
        started: local time.
        folder: the run's folder on the machine that ran it, or empty.
        artifact_uri: the location of its artifacts.
        tags: as logged.
        metrics: the last value of each metric.
    """

    run_id: str
    experiment_id: str
    name: str
    status: str
    started: datetime
    folder: str
    artifact_uri: str
    tags: dict[str, str] = field(compare=False)
    metrics: dict[str, float] = field(compare=False)

    def closing(self, split: str, metric: str) -> float | None:
        """Return a closing score of val or test by the metric's name, or None."""
        return self.metrics.get(f"{CLOSING[split]}/{metric}", self.metrics.get(f"{split}/{metric}"))

    @property
    def local_id(self) -> str:
        """The id assigned locally when the run started."""
        return self.tags.get(LOCAL_ID, self.run_id)

    @property
    def artifact_folder(self) -> Path | None:
        """The folder of the artifacts on this machine, or None if a server has them."""
        return folder_of(self.artifact_uri)

    @property
    def own_folder(self) -> Path | None:
        """The run's folder, if it is on this machine and holds the run's journal: anyone can set a tag in a store."""
        journal = os.path.join(self.folder, f"{self.local_id}{SUFFIX}")
        is_named = self.folder and re.fullmatch(r"\w+", self.local_id)
        is_here = is_named and os.path.isfile(journal) and not os.path.islink(journal)
        return Path(self.folder) if is_here else None


def folder_of(artifact_uri: str) -> Path | None:
    """Return the folder of a location of artifacts, or None if it is none of this machine's."""
    uri = urlsplit(artifact_uri)
    return Path(url2pathname(uri.path)) if uri.scheme in ("", "file") else None


def is_name(name: str, reference: str) -> bool:
    """Return whether a reference is a run's name, with or without the short id at its end."""
    return reference == name or re.fullmatch("_[0-9a-f]{4}", name.removeprefix(reference)) is not None


class RunStore:
    """Read-only access to the runs of a store.

    Raises:
        RequestError: there is no store, or the server does not answer.
    """

    def __init__(self, uri: str | None):
        self._uri = store_uri(uri)
        if not store_exists(uri):
            shown = redact(self._uri)
            raise RequestError(f"tracking.uri={shown}: there is no such store\ntrain a first run: {COMMAND}")
        try:
            self._client = open_client(uri)
        except StoreUnavailable as error:
            raise unreachable(self._uri, error) from None

    def find(self, reference: str) -> list[RunInfo]:
        """Return the runs of all experiments with this name (`is_name`), or with this id or id prefix, newest first.

        An id is MLflow's or the local one; a prefix has at least six characters.
        """
        # MLflow's filters have no escape for a quote; in LIKE, _ is any character.
        comparator, pattern = ("LIKE" if QUOTES.search(reference) else "="), QUOTES.sub("_", reference)
        named = self._search(f"attributes.run_name {comparator} '{pattern}'")
        named += self._search(f"attributes.run_name LIKE '{pattern}_____'")  # a short id
        runs = [run for run in named if is_name(run.name, reference)]
        if re.fullmatch("[0-9a-f]{6,32}", reference):
            runs += self._search(f"attributes.run_id LIKE '{reference}%'")
            runs += self._search(f"tags.{LOCAL_ID} LIKE '{reference}%'")
        return sorted(set(runs), key=lambda run: run.started, reverse=True)

    def get(self, run_id: str) -> RunInfo | None:
        """Return the run with this id, MLflow's or the local one, or None."""
        if not re.fullmatch(r"[\w-]+", run_id):
            return None
        runs = self._search(f"attributes.run_id = '{run_id}'") or self._search(f"tags.{LOCAL_ID} = '{run_id}'")
        return next(iter(runs), None)

    def with_tag(self, tag: str) -> list[RunInfo]:
        """Return the runs of any experiment that have a tag, newest first."""
        return self._search(f"tags.{tag} LIKE '%'")

    def history(self, run_id: str) -> History:
        """Return all values of all metrics."""
        from mlflow.exceptions import MlflowException

        try:
            names = self._client.get_run(run_id).data.metrics
            values_of = {name: self._client.get_metric_history(run_id, name) for name in names}
        except MlflowException as error:
            raise unreachable(self._uri, error) from None
        in_order = {name: sorted(values, key=lambda m: (m.step, m.timestamp)) for name, values in values_of.items()}
        return {name: [(m.step, m.value) for m in values] for name, values in in_order.items()}

    def newest(self, count: int) -> list[RunInfo]:
        """Return the last `count` runs by start."""
        return self._search("", count)

    def finished(self, task: str, parent: str | None = None) -> RunInfo | None:
        """Return the newest finished run of a task whose last parent is `parent` (a run id, or None: any), or None."""
        of_parent = f" and tags.parent LIKE '%{parent}'" if parent else ""  # a pair's parents are `first,second`
        return next(iter(self._search(f"attributes.status = 'FINISHED' and tags.task = '{task}'{of_parent}", 1)), None)

    def search(
        self, query: str, order: Sequence[str] = _NEWEST_FIRST, experiment: str | None = None
    ) -> Iterator[RunInfo]:
        """Yield the runs that match a filter of MLflow, and ask for more only when they are needed.

        Args:
            order: MLflow's `order_by`.
            experiment: the name of the only experiment to search; None: all.
        """
        from mlflow.exceptions import MlflowException

        token = None
        try:
            experiments = self._experiments(experiment)
            while experiments and token != "":
                runs = self._client.search_runs(
                    experiments, query, max_results=_PAGE, order_by=list(order), page_token=token
                )
                yield from map(_run_info, runs)
                token = runs.token or ""
        except MlflowException as error:
            raise unreachable(self._uri, error) from None

    def has(self, run: RunInfo, file: str) -> bool:
        """Return whether `file` (folder/name) is an artifact of a run."""
        from mlflow.exceptions import MlflowException

        try:
            entries = self._client.list_artifacts(run.run_id, file.rpartition("/")[0] or None)
        except MlflowException as error:
            raise unreachable(self._uri, error) from None
        return file in {entry.path for entry in entries}

    def is_deleted(self, run: RunInfo) -> bool:
        """Return whether the run was uploaded to this store and is deleted there."""
        return self.get(run.local_id) is None and bool(self._search(f"tags.{LOCAL_ID} = '{run.local_id}'", 1, True))

    def deleted(self) -> set[str]:
        """Return the local ids of the deleted runs."""
        return {run.local_id for run in self._search("", 50_000, deleted=True)}

    def fetch(self, run: RunInfo, files: Iterable[str], downloads: Path) -> Path:
        """Return a folder that holds those of `files` (folder/name) that are artifacts of a run.

        It is the artifact folder on this machine, or a folder in `downloads` for a server's.
        """
        from mlflow.exceptions import MlflowException

        if run.artifact_folder:
            return run.artifact_folder
        folder = Path(mkdtemp(dir=downloads))  # a server's ids are no names of folders
        try:
            for file in files:
                parent = file.rpartition("/")[0]
                if self.has(run, file):
                    (folder / parent).mkdir(parents=True, exist_ok=True)
                    self._client.download_artifacts(run.run_id, file, str(folder / parent))  # MLflow drops its path
        except MlflowException as error:
            raise unreachable(self._uri, error) from None
        return folder

    def _search(self, query: str, limit: int = 1000, deleted: bool = False) -> list[RunInfo]:
        """Return the newest runs that match a filter, or of the deleted ones.

        Args:
            limit: their largest number.
        """
        from mlflow.entities import ViewType
        from mlflow.exceptions import MlflowException

        view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        try:
            experiments = self._experiments(deleted=deleted)
            runs = self._client.search_runs(experiments, query, view, max_results=limit, order_by=list(_NEWEST_FIRST))
        except MlflowException as error:
            raise unreachable(self._uri, error) from None
        return [_run_info(run) for run in runs]

    def _experiments(self, name: str | None = None, deleted: bool = False) -> list[str]:
        """Return the id of the experiment of this name, or of all; deleted ones only with `deleted`."""
        from mlflow.entities import ViewType

        if name is not None:
            experiment = self._client.get_experiment_by_name(name)
            return [experiment.experiment_id] if experiment and experiment.lifecycle_stage == "active" else []
        view, token, ids = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY, None, []
        while token != "":
            page = self._client.search_experiments(view, page_token=token)
            ids += [experiment.experiment_id for experiment in page]
            token = page.token or ""
        return ids


def _run_info(run) -> RunInfo:
    # Other code may record no start, and no name.
    started = datetime.fromtimestamp(min(max(run.info.start_time or 0, 0), LATEST) / 1000)
    info, data = run.info, run.data
    folder = data.tags.get("folder", "")
    return RunInfo(
        info.run_id,
        info.experiment_id,
        info.run_name or "",
        info.status,
        started,
        folder,
        info.artifact_uri,
        data.tags,
        data.metrics,
    )
