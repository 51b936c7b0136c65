"""Database of studies: connections, locks between workers on several machines, retries, heartbeats."""

import shlex
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from rp2k_lab.core import database
from rp2k_lab.core.database import is_missing, make_aside
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.quoting import sqlite_file, sqlite_query, sqlite_url
from rp2k_lab.core.redaction import redact, restore_uri
from rp2k_lab.tracking.mlflow_store import STORE

Returned = TypeVar("Returned")
# Enough for a restart of the database.
_OUTAGE_SECONDS = 60


@contextmanager
def open_storage(url: str | None, heartbeat_seconds: int | None) -> Iterator[optuna.storages.RDBStorage]:
    """Open the database of studies, created if missing; close its connections at the end.

    Args:
        heartbeat_seconds: heartbeat interval of workers; None: read only.

    Raises:
        RequestError: it cannot be opened.
    """
    url = _absolute(url)
    option = f"hydra.sweeper.storage={redact(url)}"
    # Each worker thread holds one or two connections.
    options: dict[str, Any] = {"pool_pre_ping": True, "max_overflow": -1}
    if sqlite_file(url):
        options["connect_args"] = {"timeout": 60}  # seconds to wait for a write of another worker
    elif url.startswith("postgresql"):
        options["connect_args"] = {"connect_timeout": 10}
    else:
        raise RequestError(
            f"{option}: unknown database\n"
            "use sqlite:///FILE on one machine, postgresql+psycopg://user@host/database on several"
        )
    try:
        storage = _create_storage(url, options, heartbeat_seconds)
    except ImportError as error:
        raise RequestError(f"{option}: {error}\ninstall it: pip install 'psycopg[binary]'") from error
    except RequestError:
        raise
    except Exception as error:  # each database driver has its exceptions
        reason = redact(str(error).strip().split("\n")[0])[:160]
        raise RequestError(f"{option}: {reason}\n{_way_out(url, error)}") from error
    try:
        yield storage
    finally:
        storage.engine.dispose()


def has_studies(url: str | None) -> bool:
    """Return whether the database of studies may exist; of a server nobody asks."""
    file = sqlite_file(_absolute(url))
    return not (file and is_missing(file))


@contextmanager
def read_study(url: str | None, name: str) -> Iterator[optuna.Study | None]:
    """Open an existing study to read it; None if there is no such study.  Never creates a database."""
    if not has_studies(url):
        yield None
        return
    with open_storage(url, None) as storage:
        exists = name in optuna.get_all_study_names(storage)
        yield optuna.load_study(study_name=name, storage=storage) if exists else None


def _way_out(url: str, error: Exception) -> str:
    if "storage upgrade" in str(error):  # made by an older Optuna
        return f"upgrade it: optuna storage upgrade --storage {shlex.quote(redact(url))}"
    if url == _absolute(None):
        return "use another file: hydra.sweeper.storage=sqlite:///FILE"
    return "leave it out to use a file in the clone"


def _absolute(url: str | None) -> str:
    """Return the database's URL with its credentials; by default the clone's file; a file has its absolute path."""
    url = restore_uri(url) if url else sqlite_url(STORE / "optuna.db")
    file = sqlite_file(url)
    return sqlite_url(file, sqlite_query(url)) if file else url


def _create_storage(url: str, options: dict[str, Any], heartbeat_seconds: int | None) -> optuna.storages.RDBStorage:
    engine = sqlalchemy.create_engine(url, **options)
    grace = heartbeat_seconds and 3 * heartbeat_seconds
    try:
        # Optuna crashes when two processes create the tables of a new database at the same time.
        with _lock(engine, "tables"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            if (file := sqlite_file(url)) and is_missing(file):
                make_aside(file, _make_tables)
            return optuna.storages.RDBStorage(url, options, heartbeat_interval=heartbeat_seconds, grace_period=grace)
    finally:
        engine.dispose()


def _make_tables(url: str) -> None:
    optuna.storages.RDBStorage(url).engine.dispose()


def exclusive(storage: optuna.storages.RDBStorage, name: str) -> AbstractContextManager[None]:
    """Return a lock against all other workers of the study, on all machines."""
    return _lock(storage.engine, name)


@contextmanager
def _lock(engine: sqlalchemy.Engine, name: str) -> Iterator[None]:
    if engine.dialect.name == "sqlite":
        with database.exclusive(Path(engine.url.database or "")):
            yield
        return
    # A transaction lock ends with its connection, and works through poolers (PgBouncer).
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": zlib.crc32(name.encode())})
        yield


def with_retries(call: Callable[[], Returned]) -> Returned:
    """Return the result of `call`, repeated for a minute while the database is unreachable; then raise its error."""
    deadline = time.monotonic() + _OUTAGE_SECONDS
    while True:
        try:
            return call()
        except (StorageInternalError, SQLAlchemyError):
            if time.monotonic() > deadline:
                raise
            threading.Event().wait(1)


@contextmanager
def heartbeat(storage: optuna.storages.RDBStorage, trial: optuna.Trial) -> Iterator[None]:
    """Send heartbeats for a trial from a thread.

    The heartbeat thread of Optuna's `Study.optimize` ends at the first database error.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(storage, trial._trial_id, stop), daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _beat(storage: optuna.storages.RDBStorage, trial_id: int, stop: threading.Event) -> None:
    while not stop.wait(storage.get_heartbeat_interval()):
        with suppress(StorageInternalError):  # the next one may succeed
            storage.record_heartbeat(trial_id)
