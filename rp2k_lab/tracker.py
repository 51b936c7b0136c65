"""Where a run's record goes.  The only module that imports mlflow; `MemoryTracker` is its twin for tests.

Metrics are buffered and sent in batches; everything logged is also kept in `history`, for the figures at the end.
"""

import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import psutil
from filelock import FileLock

from rp2k_lab import PROJECT
from rp2k_lab.credentials import reveal, without_credentials
from rp2k_lab.errors import Pruned, RequestError
from rp2k_lab.study_page import VIEW_TAG, grouped_view, page_url

log = logging.getLogger(__name__)

STORE = PROJECT / "mlruns"
# The service's limits for one log_batch call.
METRICS_PER_CALL, PARAMS_PER_CALL, PARAM_CHARACTERS = 1000, 100, 6000


class MemoryTracker:
    """A run that is recorded in this process alone.

    Attributes:
        history: metric name to its (step, value) in order.
        params, tags: what was logged, as strings.
        artifacts: artifact paths (folder/name).
        status: RUNNING, then FINISHED, FAILED, KILLED or PRUNED.
    """

    run_id = run_name = "memory"

    def __init__(self):
        self.history: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.artifacts: list[str] = []
        self.status = "RUNNING"

    def log_params(self, params: dict[str, Any]) -> None:
        """Record the run's configuration, flat names to values."""
        self.params |= {name: str(value) for name, value in params.items()}

    def set_tags(self, tags: dict[str, Any]) -> None:
        """Record facts about the run; a tag set again replaces the former."""
        self.tags |= {name: str(value) for name, value in tags.items()}

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Record values at a step (training steps done so far)."""
        for name, value in metrics.items():
            self.history[name].append((step, float(value)))

    def log_artifact(self, file: Path, folder: str = "") -> None:
        """Keep a file with the run, under `folder`."""
        self.artifacts.append(f"{folder}/{file.name}".lstrip("/"))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        ends = {KeyboardInterrupt: "KILLED", Pruned: "PRUNED", BaseException: "FAILED"}
        self.close("FINISHED" if kind is None else next(end for k, end in ends.items() if issubclass(kind, k)))

    def close(self, status: str) -> None:
        """Record how the run ended."""
        self.status = status
        self.set_tags({"status": status})


class MlflowTracker(MemoryTracker):
    """A run in MLflow.  Opening it creates the run; leaving the `with` block sets its status, whatever happened.

    Args:
        tracking: the `conf/tracking` choice.
        run_name: the name to show.

    Raises:
        RequestError: the server does not answer.
    """

    def __init__(self, tracking, run_name: str):
        super().__init__()
        self._flush_seconds, self._next_flush = tracking.flush_seconds, time.monotonic() + tracking.flush_seconds
        self._buffer, self._warned = [], False
        self._client, self.experiment_id = _connect(tracking.uri, tracking.experiment)
        _mark_dead_runs(self._client, self.experiment_id)
        run = self._client.create_run(self.experiment_id, tags=_process_tags(), run_name=run_name)
        self.run_id, self.run_name, self.artifact_uri = run.info.run_id, run_name, run.info.artifact_uri

    def log_params(self, params):
        from mlflow.entities import Param

        super().log_params(params)
        entries = [Param(name, str(value)[:PARAM_CHARACTERS]) for name, value in params.items()]
        for start in range(0, len(entries), PARAMS_PER_CALL):
            self._client.log_batch(self.run_id, params=entries[start : start + PARAMS_PER_CALL])

    def set_tags(self, tags):
        from mlflow.entities import RunTag

        super().set_tags(tags)
        self._client.log_batch(self.run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])

    def log_metrics(self, metrics, step):
        from mlflow.entities import Metric

        super().log_metrics(metrics, step)
        now = int(time.time() * 1000)
        self._buffer += [Metric(name, float(value), now, step) for name, value in metrics.items()]
        if time.monotonic() >= self._next_flush:
            self._try_flush()

    def log_artifact(self, file, folder=""):
        super().log_artifact(file, folder)
        self._client.log_artifact(self.run_id, str(file), folder or None)

    def close(self, status):
        self._flush()
        super().close(status)
        self._client.set_terminated(self.run_id, _mlflow_status(status))

    def _try_flush(self) -> None:
        """Send what is buffered; a server that does not answer costs one warning, and the metrics wait.

        The longer a call takes, the longer until the next: a hanging server holds up training by at most 5 %.
        """
        from mlflow.exceptions import MlflowException

        started = time.monotonic()
        try:
            self._flush()
        except MlflowException as error:
            if not self._warned:
                log.warning("tracking: the store did not take the metrics and will be asked again (%s)", _line(error))
            self._warned = True
        spent = time.monotonic() - started
        self._next_flush = started + spent + max(self._flush_seconds, 19 * spent)

    def _flush(self) -> None:
        while self._buffer:
            self._client.log_batch(self.run_id, metrics=self._buffer[:METRICS_PER_CALL])
            del self._buffer[:METRICS_PER_CALL]


class StudyTracker:
    """The run that a study's trials have as their parent; found again by whoever continues the study.

    Attributes:
        run_id, experiment_id: where it is.
        page: what `make ui` shows of the study.

    Args:
        tracking: the `conf/tracking` choice.
        study: its name.
        tags: facts about the study.
        group: the factor that its page shows the runs by, a tag of the trials' runs; None: no such page.
        metrics: what the page shows, as `study_page.grouped_view` takes them.

    Raises:
        RequestError: the server does not answer.
    """

    def __init__(self, tracking, study: str, tags: dict[str, str], group: str | None, metrics: Sequence[str]):
        self._client, self.experiment_id = _connect(tracking.uri, tracking.experiment)
        found = self._client.search_runs([self.experiment_id], f"tags.kind = 'study' and tags.study = '{study}'")
        tags = {"kind": "study", "study": study} | tags | _process_tags()
        if found:
            self.run_id = found[0].info.run_id
            self._client.update_run(self.run_id, "RUNNING")
        else:
            self.run_id = self._client.create_run(self.experiment_id, run_name=study).info.run_id
        for name, value in tags.items():
            self._client.set_tag(self.run_id, name, value)
        self.page = f"http://127.0.0.1:5000/#/experiments/{self.experiment_id}"
        if group:
            key, view = grouped_view(f"tags.{group}", metrics)
            self._client.set_experiment_tag(self.experiment_id, VIEW_TAG + key, view)
            self.page = page_url(self.experiment_id, key)

    def close(self, status: str) -> None:
        """Record how the study stands: FINISHED, FAILED (points are missing) or KILLED."""
        self._client.set_tag(self.run_id, "status", status)
        self._client.set_terminated(self.run_id, status)


def _process_tags() -> dict[str, str]:
    """Which process writes a run, so that one that died without a word can be told."""
    process = {"pid": str(os.getpid()), "pid_started": str(psutil.Process().create_time())}
    return {"host": socket.gethostname(), **process}


def _mlflow_status(status: str) -> str:
    """MLflow knows no pruned runs; the tag `status` does."""
    return "KILLED" if status == "PRUNED" else status


@dataclass(frozen=True)
class StoredRun:
    """A run in the store.

    Attributes:
        experiment_id: MLflow's.
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


class RunStore:
    """Reads what runs left; writes nothing and makes no store.

    Raises:
        RequestError: there is no store, or the server does not answer.
    """

    def __init__(self, uri: str | None):
        import mlflow

        self._uri = store_uri(uri)
        if self._uri.startswith("sqlite:///") and not Path(self._uri.removeprefix("sqlite:///")).exists():
            raise RequestError(f"tracking.uri={self._uri}: there is no such store\ntrain a first run: python run.py")
        _quieten()
        self._client = mlflow.MlflowClient(self._uri)

    def find(self, reference: str) -> list[StoredRun]:
        """The runs of any experiment with this name, or whose id begins so (six or more characters), newest first."""
        quote = '"' if "'" in reference else "'"
        found = self._search(f"attributes.run_name = {quote}{reference}{quote}")
        if re.fullmatch("[0-9a-f]{6,32}", reference):
            found += self._search(f"attributes.run_id LIKE '{reference}%'")
        return sorted(set(found), key=lambda run: run.started, reverse=True)

    def get(self, run_id: str) -> StoredRun | None:
        """The run of this id, or None where the store has none (any more)."""
        return next(iter(self._search(f"attributes.run_id = '{run_id}'")), None)

    def newest(self, count: int) -> list[StoredRun]:
        """The last runs started."""
        return self._search("", count)

    def fetch(self, run: StoredRun, files: Iterable[str], downloads: Path) -> Path:
        """A folder with those of a run's artifact `files` (folder/name) that it left.

        On this machine it is the run's own; from a server they are downloaded to a folder in `downloads`.
        """
        from mlflow.exceptions import MlflowException

        uri = urlsplit(run.artifact_uri)
        if uri.scheme in ("", "file"):
            return Path(url2pathname(uri.path))
        folder = downloads / run.run_id
        folder.mkdir(exist_ok=True)
        try:
            for file in files:
                parent = file.rpartition("/")[0]
                if file in {there.path for there in self._client.list_artifacts(run.run_id, parent or None)}:
                    self._client.download_artifacts(run.run_id, file, str(folder))
        except MlflowException as error:
            raise _unreachable(self._uri, error) from None
        return folder

    def _search(self, query: str, most: int = 1000) -> list[StoredRun]:
        from mlflow.exceptions import MlflowException

        try:
            experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]
            found = self._client.search_runs(experiments, query, max_results=most, order_by=["start_time DESC"])
        except MlflowException as error:
            raise _unreachable(self._uri, error) from None
        return [_stored(run) for run in found]


def _stored(run) -> StoredRun:
    started = datetime.fromtimestamp(run.info.start_time / 1000)
    info, data = run.info, run.data
    folder = data.tags.get("folder", "")
    return StoredRun(
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


def store_uri(uri: str | None) -> str:
    """The tracking URI: the given one, or the clone's own sqlite store as an absolute path."""
    return reveal(uri) if uri else f"sqlite:///{STORE / 'mlflow.db'}"


def serve(port: int) -> int:
    """Serve the MLflow page of the clone's own store on this machine alone, until interrupted."""
    import mlflow

    STORE.mkdir(parents=True, exist_ok=True)
    mlflow.MlflowClient(store_uri(None)).search_experiments(max_results=1)  # creates the database in one process
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri(None)]
    command += ["--default-artifact-root", (STORE / "artifacts").as_uri()]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    print(f"the MLflow page: http://127.0.0.1:{port}  (Ctrl-C ends it; PORT=5001 takes another port)", flush=True)
    # Without its job runner the server takes 0.5 GB of memory instead of 3.1.
    return subprocess.call(command, env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})


def _connect(uri: str | None, experiment: str):
    """(client, experiment id); creates the clone's own store and the experiment if they are not there yet."""
    import mlflow
    from mlflow.exceptions import MlflowException

    _quieten()
    store, lock, location = store_uri(uri), nullcontext(), None
    if store.startswith("sqlite:///"):
        # One process at a time: two that migrate a fresh sqlite database at once crash.
        file = Path(store.removeprefix("sqlite:///")).absolute()
        lock, location = FileLock(f"{file}.lock"), (file.parent / "artifacts").as_uri()
    try:
        if location:
            file.parent.mkdir(parents=True, exist_ok=True)
        with lock:
            client = mlflow.MlflowClient(store)
            found = client.get_experiment_by_name(experiment)
            if found is not None:
                return client, found.experiment_id
            # The kind makes the page open on training runs rather than on language models.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return client, client.create_experiment(experiment, location, tags)
    except (MlflowException, OSError) as error:
        raise _unreachable(store, error) from None


def _quieten() -> None:
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _unreachable(store: str, error: Exception) -> RequestError:
    return RequestError(
        f"tracking.uri={without_credentials(store)}: {_line(error)}\n"
        "start the server (make ui), or leave tracking.uri out for the clone's own store"
    )


def _line(error: Exception) -> str:
    """An error's first line, short enough for a terminal."""
    return without_credentials(str(error).strip().split("\n")[0])[:160]


def _is_alive(pid: int, started: float) -> bool:
    """Whether the process with this number is still the one that started then (s since the epoch).

    Numbers are used again; the start, which is reckoned from the time of boot, may move a little with the clock.
    """
    try:
        return abs(psutil.Process(pid).create_time() - started) < 10
    except psutil.NoSuchProcess:
        return False


def _mark_dead_runs(client, experiment_id: str) -> None:
    """Runs of this host that say RUNNING though their process is gone (kill -9, power) were killed: say so."""
    query = f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'"
    for run in client.search_runs([experiment_id], query):
        if not _is_alive(int(run.data.tags["pid"]), float(run.data.tags["pid_started"])):
            client.set_tag(run.info.run_id, "status", "KILLED")
            client.set_terminated(run.info.run_id, "KILLED")
            log.info("run %s had ended without a word; it is now marked KILLED", run.info.run_name)


if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[1])))
