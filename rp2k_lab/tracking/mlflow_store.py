"""The MLflow store: its address, how to open it, what its errors mean."""

import logging
import os
import socket
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
from filelock import FileLock

from rp2k_lab import PROJECT, SERVER_COMMAND
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.redaction import redact, restore_uri

if TYPE_CHECKING:  # imported where it is needed: it takes seconds
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

STORE = PROJECT / "mlruns"
# The page that `make ui` serves.
_LOCAL_PAGE = "http://127.0.0.1:5000"
# MLflow's error codes that are worth a retry, besides failed connections.
_TRANSIENT = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")


class StoreUnavailable(Exception):
    """The store does not answer, or cannot take data now.  One line: the reason."""


def store_uri(uri: str | None) -> str:
    """Return the tracking URI; by default the clone's sqlite store, as an absolute path."""
    return restore_uri(uri) if uri else f"sqlite:///{STORE / 'mlflow.db'}"


def store_exists(uri: str | None) -> bool:
    """Return whether a sqlite file exists; True for every server, without asking it."""
    store = store_uri(uri)
    return not store.startswith("sqlite:///") or Path(store.removeprefix("sqlite:///")).exists()


def page_location(uri: str | None, experiment_id: str, run_id: str) -> str:
    """Return where to see a run: its address on a server, or `make ui` and the address then."""
    page = f"#/experiments/{experiment_id}/runs/{run_id}"
    if uri is not None and uri.startswith(("http://", "https://")):
        return f"{redact(uri).rstrip('/')}/{page}"
    return f"{SERVER_COMMAND}, then {_LOCAL_PAGE}/{page}"


def connect(uri: str | None, experiment: str) -> tuple["MlflowClient", str]:
    """Return (client, experiment id); create a missing sqlite store and a missing experiment.

    Raises:
        RequestError: the store is impossible, or refuses access.
        StoreUnavailable: it does not answer.
    """
    import mlflow

    quiet_loggers()
    store, lock, location = store_uri(uri), nullcontext(), None
    try:
        if store.startswith("sqlite:///"):
            # One process at a time: two that migrate a fresh sqlite database at once crash.
            file = Path(store.removeprefix("sqlite:///")).absolute()
            lock, location = FileLock(f"{file}.lock"), (file.parent / "artifacts").as_uri()
            file.parent.mkdir(parents=True, exist_ok=True)
        elif (parts := urlsplit(store)).scheme in ("http", "https") and not (parts.hostname and parts.port != 0):
            raise ValueError("not an address of the form http://host:port")
        with lock:
            client = mlflow.MlflowClient(store)
            existing = client.get_experiment_by_name(experiment)
            if existing is not None and existing.lifecycle_stage == "deleted":
                raise ValueError(f"the experiment {experiment} is deleted")
            if existing is not None:
                return client, existing.experiment_id
            # This kind opens the page on training runs, not on language models.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return client, client.create_experiment(experiment, location, tags)
    except Exception as error:  # each kind of store raises its own classes
        if is_transient(error) and not store.startswith("sqlite:///"):
            raise StoreUnavailable(error_line(error)) from None
        raise unreachable(store, error) from None


def is_transient(error: Exception) -> bool:
    """Return whether a retry may succeed after this error of a store's client.

    HTTP 4xx (artifacts) are final, except those about credentials, time and rate.
    """
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in _TRANSIENT
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        return not isinstance(error, ValueError)
    return status >= 500 or status in (401, 403, 407, 408, 429)


def quiet_loggers() -> None:
    """Silence the progress messages of MLflow and Alembic; the uploader warns about retries itself."""
    for noisy in ("alembic", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)


def unreachable(store: str, error: Exception) -> RequestError:
    """Return the error for a request that needs the store."""
    return RequestError(
        f"tracking.uri={redact(store)}: {error_line(error)}\n"
        f"start the server ({SERVER_COMMAND}), or leave out tracking.uri to use the clone's store"
    )


def error_line(error: Exception) -> str:
    """Return an error as one line of at most 160 characters without credentials; the system's text for connections."""
    root: BaseException | None = error
    while root is not None:
        if isinstance(root, (ConnectionError, TimeoutError, socket.gaierror)):
            return root.strerror or str(root)
        root = root.__cause__ or root.__context__
    return redact((str(error).strip() or type(error).__name__).split("\n")[0])[:160]


def process_tags() -> dict[str, str]:
    """Return the tags that identify this process, so that `mark_dead_runs` can tell whether it is alive."""
    process = {"pid": str(os.getpid()), "pid_started": str(psutil.Process().create_time())}
    return {"host": socket.gethostname(), **process}


def mark_dead_runs(client: "MlflowClient", experiment_id: str) -> None:
    """Mark this host's RUNNING runs whose process is gone (kill -9, power cut) as KILLED."""
    query = f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'"
    for run in client.search_runs([experiment_id], query):
        if not is_alive(run.data.tags):
            client.set_tag(run.info.run_id, "status", "KILLED")
            client.set_terminated(run.info.run_id, "KILLED")
            log.info("run %s: its process is gone; marked KILLED", run.info.run_name)


def is_alive(tags: Mapping[str, str]) -> bool:
    """Return whether the process of `process_tags` runs on this host: the same pid, started at the same time ± 10 s.

    The system reuses pids; the start is computed from the boot time and drifts with the clock.
    """
    try:
        return abs(psutil.Process(int(tags["pid"])).create_time() - float(tags["pid_started"])) < 10
    except psutil.NoSuchProcess:
        return False
