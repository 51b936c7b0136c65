"""The MLflow store that runs are recorded in: its address, how it is opened, what its errors mean."""

import logging
import os
import socket
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from filelock import FileLock

from rp2k_lab import PROJECT
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.redaction import redact, restore_uri

log = logging.getLogger(__name__)

STORE = PROJECT / "mlruns"
# Where `make ui` shows the clone's own store.
_OWN_PAGE = "http://127.0.0.1:5000"
# Of MLflow's error codes, a server's that will do better later: these, and that of a connection that failed.
_TRANSIENT = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")


class StoreAway(Exception):
    """The store does not answer, or not so that anything could be sent; the message is the reason in one line."""


def store_uri(uri: str | None) -> str:
    """The tracking URI: the given one, or the clone's own sqlite store as an absolute path."""
    return restore_uri(uri) if uri else f"sqlite:///{STORE / 'mlflow.db'}"


def store_is_there(uri: str | None) -> bool:
    """Whether there is a database; of a server, whose answer would take time, always true."""
    store = store_uri(uri)
    return not store.startswith("sqlite:///") or Path(store.removeprefix("sqlite:///")).exists()


def how_to_see(uri: str | None, experiment_id: str, run_id: str) -> str:
    """Where a run's page is: on the server that the URI names, or where `make ui` shows it."""
    page = f"#/experiments/{experiment_id}/runs/{run_id}"
    if uri is not None and uri.startswith(("http://", "https://")):
        return f"{redact(uri).rstrip('/')}/{page}"
    return f"make ui, then {_OWN_PAGE}/{page}"


def connect(uri: str | None, experiment: str):
    """(client, experiment id); creates the clone's own store and the experiment if they are not there yet.

    Raises:
        RequestError: there can be no such store, or it does not let us in.
        StoreAway: it does not answer.
    """
    import mlflow

    quieten()
    store, lock, location = store_uri(uri), nullcontext(), None
    try:
        if store.startswith("sqlite:///"):
            # One process at a time: two that migrate a fresh sqlite database at once crash.
            file = Path(store.removeprefix("sqlite:///")).absolute()
            lock, location = FileLock(f"{file}.lock"), (file.parent / "artifacts").as_uri()
            file.parent.mkdir(parents=True, exist_ok=True)
        elif (parts := urlsplit(store)).scheme in ("http", "https") and not (parts.hostname and parts.port != 0):
            raise ValueError("is no address; it has the form http://host:port")
        with lock:
            client = mlflow.MlflowClient(store)
            found = client.get_experiment_by_name(experiment)
            if found is not None and found.lifecycle_stage == "deleted":
                raise ValueError(f"the experiment {experiment} was deleted there")
            if found is not None:
                return client, found.experiment_id
            # The kind makes the page open on training runs rather than on language models.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return client, client.create_experiment(experiment, location, tags)
    except Exception as error:  # each kind of store has its own
        if is_transient(error) and not store.startswith("sqlite:///"):
            raise StoreAway(in_a_line(error)) from None
        raise unreachable(store, error) from None


def is_transient(error: Exception) -> bool:
    """Whether what a store's client has raised may be otherwise later, rather than a refusal of the request.

    Of an HTTP answer (an artifact's) the 4xx are refusals, but for those that are about who asks, when, or how often.
    """
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in _TRANSIENT
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        return not isinstance(error, ValueError)
    return status >= 500 or status in (401, 403, 407, 408, 429)


def quieten() -> None:
    """MLflow's and SQLAlchemy's words about their own work; a database's retries are said in a warning of ours."""
    for noisy in ("alembic", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)


def unreachable(store: str, error: Exception) -> RequestError:
    """The error of a request that needs the store."""
    return RequestError(
        f"tracking.uri={redact(store)}: {in_a_line(error)}\n"
        "start the server (make ui), or leave tracking.uri out for the clone's own store"
    )


def in_a_line(error: Exception) -> str:
    """An error's first line, short enough for a terminal, without credentials; of a connection what the system says."""
    root: BaseException | None = error
    while root is not None:
        if isinstance(root, (ConnectionError, TimeoutError, socket.gaierror)):
            return root.strerror or str(root)
        root = root.__cause__ or root.__context__
    return redact((str(error).strip() or type(error).__name__).split("\n")[0])[:160]


def process_tags() -> dict[str, str]:
    """Which process writes a run, so that one that died without a word can be told."""
    process = {"pid": str(os.getpid()), "pid_started": str(psutil.Process().create_time())}
    return {"host": socket.gethostname(), **process}


def mark_dead_runs(client, experiment_id: str) -> None:
    """Runs of this host that say RUNNING though their process is gone (kill -9, power) were killed: say so."""
    query = f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'"
    for run in client.search_runs([experiment_id], query):
        if not _is_alive(int(run.data.tags["pid"]), float(run.data.tags["pid_started"])):
            client.set_tag(run.info.run_id, "status", "KILLED")
            client.set_terminated(run.info.run_id, "KILLED")
            log.info("run %s had ended without a word; it is now marked KILLED", run.info.run_name)


def _is_alive(pid: int, started: float) -> bool:
    """Whether the process with this number is still the one that started then (s since the epoch).

    Numbers are used again; the start, which is reckoned from the time of boot, may move a little with the clock.
    """
    try:
        return abs(psutil.Process(pid).create_time() - started) < 10
    except psutil.NoSuchProcess:
        return False
