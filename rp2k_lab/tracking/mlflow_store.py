"""The MLflow store: its address, how to open it, and which of its runs are dead."""

import getpass
import json
import logging
import math
import os
import shlex
import socket
import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from rp2k_lab import PROJECT, SERVER_COMMAND
from rp2k_lab.core.database import exclusive, is_missing
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.locks import lock_descriptor, pid_space
from rp2k_lab.core.quoting import sqlite_file, sqlite_query, sqlite_url
from rp2k_lab.core.redaction import redact, restore_uri
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.address import (
    URI_VARIABLE,
    StoreUnavailable,
    check_address,
    error_line,
    is_transient,
    refusal,
    way_out,
)
from rp2k_lab.tracking.journal import SUFFIX
from rp2k_lab.tracking.store_file import prepare_store, quiet_loggers
from rp2k_lab.tracking.study_view import RUNS_KEY, VIEW_TAG, runs_view

if TYPE_CHECKING:  # imported where it is needed: it takes seconds
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

__all__ = [
    "StoreUnavailable",
    "connect",
    "error_line",
    "is_alive",
    "is_local",
    "is_transient",
    "mark_dead_runs",
    "open_client",
    "origin_tags",
    "page_location",
    "process_tags",
    "server_location",
    "store_exists",
    "store_uri",
    "unreachable",
]

log = logging.getLogger(__name__)

STORE = PROJECT / "mlruns"
# JSON of tags for every run of this process and its children: those of the jobs of `-m` name their parent.
SWEEP_VARIABLE = "RP2K_LAB_SWEEP"
# The page that `make ui` serves.
_LOCAL_PAGE = "http://127.0.0.1:5000"


def store_uri(uri: str | None) -> str:
    """Return the tracking URI; by default that of MLflow's own variable, or the clone's sqlite store.

    The path of an sqlite file is absolute.
    """
    address = restore_uri(uri) if uri else os.environ.get(URI_VARIABLE, "").strip() or _clone_store()
    file = sqlite_file(address)
    return sqlite_url(file, sqlite_query(address)) if file else address


def _clone_store() -> str:
    return sqlite_url(STORE / "mlflow.db")


def is_local(uri: str | None) -> bool:
    """Return whether the store is a file of this machine."""
    return sqlite_file(store_uri(uri)) is not None


def store_exists(uri: str | None) -> bool:
    """Return whether a sqlite file exists; True for every server, without asking it."""
    file = sqlite_file(store_uri(uri))
    return file is None or not is_missing(file)


def page_location(uri: str | None, experiment_id: str, run_id: str) -> str:
    """Return where to see a run: its address on a server, or the command that serves the store and the address then."""
    return server_location(uri, f"#/experiments/{experiment_id}/runs/{run_id}")


def server_location(uri: str | None, page: str) -> str:
    """Return where to see a page of MLflow (`#/…`), as `page_location`."""
    store = store_uri(uri)
    if store.startswith(("http://", "https://")):
        return f"{redact(store).rstrip('/')}/{page}"
    variable = "" if store == store_uri(None) else f"{URI_VARIABLE}={shlex.quote(redact(store))} "
    return f"{variable}{SERVER_COMMAND}, then {_LOCAL_PAGE}/{page}"


def open_client(uri: str | None) -> "MlflowClient":
    """Return a client; make a missing sqlite store, and complete one that an earlier start left incomplete.

    Raises:
        RequestError: the store is impossible.
        StoreUnavailable: its file is locked.
    """
    import mlflow

    store = store_uri(uri)
    check_address(store)
    quiet_loggers()
    if file := sqlite_file(store):
        prepare_store(file)
    # The shell's value would make the client drop what fails, after the uploader has counted it as sent.
    os.environ["MLFLOW_ENABLE_ASYNC_LOGGING"] = "false"
    address = client_address(store)
    return mlflow.MlflowClient(address, registry_uri=address)  # not the shell's MLFLOW_REGISTRY_URI


def client_address(store: str) -> str:
    """Return a store's address for MLflow.

    MLflow 3.17 creates the folder that an address with `sqlite:///` spells, with its percent codes.
    """
    return store.replace("sqlite:///", "sqlite+pysqlite:///", 1) if "%" in store else store


def connect(uri: str | None, experiment: str) -> tuple["MlflowClient", str]:
    """Return (client, experiment id); create a missing sqlite store and a missing experiment.

    Raises:
        RequestError: the store is impossible, or refuses access.
        StoreUnavailable: it does not answer.
    """
    store = store_uri(uri)
    check_address(store)
    file = sqlite_file(store)
    try:
        if not file:
            _ask_database(store)
        client = open_client(uri)
        # One process at a time creates the experiment.
        with exclusive(file) if file else nullcontext():
            existing = client.get_experiment_by_name(experiment)
            if existing is not None and existing.lifecycle_stage == "deleted":
                raise _deleted(store, existing)
            if existing is not None:
                _save_view(client, existing.experiment_id, existing.tags)
                return client, existing.experiment_id
            # This kind opens the page on training runs, not on language models.
            tags = {"mlflow.experimentKind": "custom_model_development"}
            location = (file.parent / "artifacts").as_uri() if file else None
            experiment_id = client.create_experiment(experiment, location, tags)
            _save_view(client, experiment_id, {})
            return client, experiment_id
    except (RequestError, StoreUnavailable):
        raise
    except Exception as error:  # each kind of store raises its own classes
        if problem := refusal(error):
            raise RequestError(f"tracking.uri={redact(store)}: {problem[0]}\n{problem[1]}") from None
        if is_transient(error) and (file is None or "locked" in str(error)):
            raise StoreUnavailable(error_line(error, store)) from None
        raise unreachable(store, error) from None


def _save_view(client: "MlflowClient", experiment_id: str, tags: Mapping[str, str]) -> None:
    """Save the view of all runs, unless the experiment has it: people may change it."""
    from mlflow.exceptions import MlflowException

    if VIEW_TAG + RUNS_KEY not in tags:
        with suppress(MlflowException):  # a server may let its users log runs and no more
            client.set_experiment_tag(experiment_id, VIEW_TAG + RUNS_KEY, runs_view())


def _ask_database(store: str) -> None:
    """Connect to a database once: MLflow 3.17 tries ten times in two minutes and keeps the reason for itself."""
    scheme = store.partition(":")[0].partition("+")[0]
    if scheme not in ("postgresql", "mysql", "mssql"):
        return
    import sqlalchemy

    options = {"connect_args": {"connect_timeout": 10}} if scheme != "mssql" else {}
    engine = sqlalchemy.create_engine(store, **options)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _deleted(store: str, experiment: "Experiment") -> RequestError:
    restore = f"python -m mlflow experiments restore --experiment-id {experiment.experiment_id}"
    return RequestError(
        f"tracking.experiment={experiment.name}: this experiment is deleted\n"
        f"use another name, or restore it: {URI_VARIABLE}={shlex.quote(redact(client_address(store)))} {restore}"
    )


def unreachable(store: str, error: Exception) -> RequestError:
    """Return the error for a request that needs the store."""
    if problem := refusal(error):
        return RequestError(f"tracking.uri={redact(store)}: {problem[0]}\n{problem[1]}")
    action = way_out(store)
    if sqlite_file(store):
        action = (
            "run the same command again later"
            if "locked" in str(error)
            else "use another file: tracking.uri=sqlite:///FILE"
        )
    reason = str(error) if isinstance(error, StoreUnavailable) else error_line(error, store)
    return RequestError(f"tracking.uri={redact(store)}: {reason}\n{action}")


def process_tags() -> dict[str, str]:
    """Return the tags that identify this process, so that `mark_dead_runs` can tell whether it is alive."""
    process = {"pid": str(os.getpid()), "pid_started": str(psutil.Process().create_time())}
    return {"host": socket.gethostname(), **process, **_pid_space()}


def origin_tags() -> dict[str, str]:
    """Return the tags with which MLflow shows who made a run, and with which program."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # an id without a name, as in containers
        user = str(os.getuid())
    source = {"mlflow.source.name": Path(sys.argv[0]).name or "python", "mlflow.source.type": "LOCAL"}
    return {"mlflow.user": user, **source, **json.loads(os.environ.get(SWEEP_VARIABLE, "{}"))}


def _pid_space() -> dict[str, str]:
    tags = zip(("boot_id", "pid_namespace"), pid_space(), strict=True)
    return {name: value for name, value in tags if value != "-"}


def mark_dead_runs(client: "MlflowClient", experiment_id: str) -> None:
    """Mark this host's RUNNING runs whose process is gone (kill -9, power cut) as KILLED.

    A run that cannot be marked is named; the others go on.
    """
    host = socket.gethostname().replace("'", "_")
    for run in client.search_runs([experiment_id], f"attributes.status = 'RUNNING' and tags.host = '{host}'"):
        name = escape_controls(run.info.run_name or run.info.run_id)
        try:
            if not is_alive(run.data.tags):
                client.set_tag(run.info.run_id, "status", "KILLED")
                client.set_terminated(run.info.run_id, "KILLED")
                log.info("run %s: its process is gone; marked KILLED", name)
        except Exception as error:  # each kind of store raises its own classes
            if is_transient(error):
                raise
            log.warning("run %s: cannot be marked KILLED (%s)", name, error_line(error))


def is_alive(tags: Mapping[str, str]) -> bool:
    """Return whether the process of `process_tags` may run: True unless it is known to be gone.

    It is gone if no process here has its id and its start ± 10 s: the system reuses ids, and the start is computed from
    the boot time and drifts with the clock.  Ids of another start of the system or of another container tell nothing;
    the lock of the run's journal does, if its folder is here.
    """
    if any(tags.get(name, value) != value for name, value in _pid_space().items()):
        return not _is_journal_free(tags)
    try:
        pid, started = int(tags["pid"]), float(tags["pid_started"])
        if pid < 0 or not math.isfinite(started):
            return True
        return abs(psutil.Process(pid).create_time() - started) < 10
    except psutil.NoSuchProcess:
        return False
    except (KeyError, ValueError, OverflowError, psutil.Error):  # a tag was removed or changed, or is of other code
        return True


def _is_journal_free(tags: Mapping[str, str]) -> bool:
    """Return whether a run's journal is here and no process writes it."""
    folder, local_id = tags.get("folder", ""), tags.get("local_id", "")
    file = Path(folder) / f"{local_id}{SUFFIX}"
    if not folder or not local_id.isalnum() or not file.is_file():
        return False
    try:
        descriptor = os.open(file, os.O_RDWR)
    except OSError:
        return False
    lock = None
    try:
        lock = lock_descriptor(descriptor, file)
    except OSError:
        return False
    finally:
        os.close(descriptor)
        if lock:
            lock.release()
    return True
