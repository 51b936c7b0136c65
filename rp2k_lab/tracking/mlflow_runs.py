"""Reading what runs left in the store."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rp2k_lab.core.errors import RequestError
from rp2k_lab.tracking.mlflow_store import quieten, store_is_there, store_uri, unreachable
from rp2k_lab.tracking.uploader import LOCAL_ID

# Metric name to its (step, value) in order.
History = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class RunInfo:
    """A run in the store.

    Attributes:
        experiment_id: MLflow's; empty where MLflow has not heard of the run.
        status: RUNNING, FINISHED, FAILED or KILLED.
        started: local time.
        folder: the run's own folder on the machine where it ran, or empty.
        artifact_uri: where its artifacts are.
        tags, metrics: as logged, of a metric the last value.
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

    @property
    def own_id(self) -> str:
        """Which MLflow did not give, and which it has had from the first."""
        return self.tags.get(LOCAL_ID, self.run_id)

    @property
    def folder_of_artifacts(self) -> Path | None:
        """On this machine, or None where a server has them."""
        uri = urlsplit(self.artifact_uri)
        return Path(url2pathname(uri.path)) if uri.scheme in ("", "file") else None


class RunStore:
    """Reads what runs left; writes nothing and makes no store.

    Raises:
        RequestError: there is no store, or the server does not answer.
    """

    def __init__(self, uri: str | None):
        import mlflow

        self._uri = store_uri(uri)
        if not store_is_there(uri):
            raise RequestError(f"tracking.uri={self._uri}: there is no such store\ntrain a first run: python run.py")
        quieten()
        self._client = mlflow.MlflowClient(self._uri)

    def find(self, reference: str) -> list[RunInfo]:
        """The runs of any experiment with this name, or whose id begins so (six or more characters), newest first.

        A run that was begun while its store did not answer has two ids: MLflow's, and its own.
        """
        quote = '"' if "'" in reference else "'"
        found = self._search(f"attributes.run_name = {quote}{reference}{quote}")
        if re.fullmatch("[0-9a-f]{6,32}", reference):
            found += self._search(f"attributes.run_id LIKE '{reference}%'")
            found += self._search(f"tags.{LOCAL_ID} LIKE '{reference}%'")
        return sorted(set(found), key=lambda run: run.started, reverse=True)

    def get(self, run_id: str) -> RunInfo | None:
        """The run of this id, MLflow's or its own, or None where the store has none (any more)."""
        found = self._search(f"attributes.run_id = '{run_id}'") or self._search(f"tags.{LOCAL_ID} = '{run_id}'")
        return next(iter(found), None)

    def with_tag(self, tag: str) -> list[RunInfo]:
        """Return the runs of any experiment that have a tag, newest first."""
        return self._search(f"tags.{tag} LIKE '%'")

    def history(self, run_id: str) -> History:
        """All values of all metrics."""
        from mlflow.exceptions import MlflowException

        try:
            names = self._client.get_run(run_id).data.metrics
            found = {name: self._client.get_metric_history(run_id, name) for name in names}
        except MlflowException as error:
            raise unreachable(self._uri, error) from None
        in_order = {name: sorted(values, key=lambda m: (m.step, m.timestamp)) for name, values in found.items()}
        return {name: [(m.step, m.value) for m in values] for name, values in in_order.items()}

    def newest(self, count: int) -> list[RunInfo]:
        """The last runs started."""
        return self._search("", count)

    def finished(self, task: str, parent: str | None = None) -> RunInfo | None:
        """The newest finished run of a task, or None; with a run id `parent`, of those whose last parent it is."""
        of_parent = f" and tags.parent LIKE '%{parent}'" if parent else ""  # a pair's parents are `first,second`
        return next(iter(self._search(f"attributes.status = 'FINISHED' and tags.task = '{task}'{of_parent}", 1)), None)

    def fetch(self, run: RunInfo, files: Iterable[str], downloads: Path) -> Path:
        """A folder with those of a run's artifact `files` (folder/name) that it left.

        On this machine it is the run's own; from a server they are downloaded to a folder in `downloads`.
        """
        from mlflow.exceptions import MlflowException

        if here := run.folder_of_artifacts:
            return here
        folder = downloads / run.run_id
        folder.mkdir(exist_ok=True)
        try:
            for file in files:
                parent = file.rpartition("/")[0]
                if file in {there.path for there in self._client.list_artifacts(run.run_id, parent or None)}:
                    (folder / parent).mkdir(parents=True, exist_ok=True)
                    self._client.download_artifacts(run.run_id, file, str(folder / parent))  # under its name alone
        except MlflowException as error:
            raise unreachable(self._uri, error) from None
        return folder

    def _search(self, query: str, most: int = 1000) -> list[RunInfo]:
        from mlflow.exceptions import MlflowException

        try:
            experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]
            found = self._client.search_runs(experiments, query, max_results=most, order_by=["start_time DESC"])
        except MlflowException as error:
            raise unreachable(self._uri, error) from None
        return [_stored(run) for run in found]


def _stored(run) -> RunInfo:
    started = datetime.fromtimestamp(run.info.start_time / 1000)
    info, data = run.info, run.data
    folder = data.tags.get("folder", "")
    return RunInfo(
        info.run_id,
        info.experiment_id,
        info.run_name,
        info.status,
        started,
        folder,
        info.artifact_uri,
        data.tags,
        data.metrics,
    )
