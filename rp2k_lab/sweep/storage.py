"""The database of studies: opened, shared by workers that may be on other machines, and away for a moment."""

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
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.redaction import redact, restore_uri
from rp2k_lab.tracking.mlflow_store import STORE

Returned = TypeVar("Returned")
# A database that is started anew is back by then.
_OUTAGE_SECONDS = 60


@contextmanager
def open_storage(url: str | None, heartbeat_seconds: int | None) -> Iterator[optuna.storages.RDBStorage]:
    """The database of studies, made if it is not there; its connections are closed at the end.

    Args:
        heartbeat_seconds: of the workers; None: to read alone.

    Raises:
        RequestError: it cannot be opened.
    """
    url = restore_uri(url) if url else _own_url()
    shown = f"hydra.sweeper.storage={redact(url)}"
    # Each worker thread has a connection or two of its own.
    options: dict[str, Any] = {"pool_pre_ping": True, "max_overflow": -1}
    if url.startswith("sqlite:///"):
        options["connect_args"] = {"timeout": 60}  # seconds that a worker waits for another's write
    elif url.startswith("postgresql"):
        options["connect_args"] = {"connect_timeout": 10}
    else:
        raise RequestError(
            f"{shown}: not known\nuse sqlite:///FILE on one machine, postgresql+psycopg://user@host/database on several"
        )
    try:
        storage = _create_storage(url, options, heartbeat_seconds)
    except ImportError as error:
        raise RequestError(f"{shown}: {error}\ninstall it: pip install 'psycopg[binary]'") from error
    except Exception as error:  # whatever the database's driver raises
        reason = redact(str(error).strip().split("\n")[0])[:160]
        raise RequestError(f"{shown}: {reason}\nleave it out for a file in the clone") from error
    try:
        yield storage
    finally:
        storage.engine.dispose()


@contextmanager
def read_study(url: str | None, name: str) -> Iterator[optuna.Study | None]:
    """The study of this name, to be read; None where there is none.  Makes no database."""
    url = url or _own_url()
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        yield None
        return
    with open_storage(url, None) as storage:
        is_there = name in optuna.get_all_study_names(storage)
        yield optuna.load_study(study_name=name, storage=storage) if is_there else None


def _own_url() -> str:
    return f"sqlite:///{STORE / 'optuna.db'}"


def _create_storage(url: str, options: dict[str, Any], heartbeat_seconds: int | None) -> optuna.storages.RDBStorage:
    engine = sqlalchemy.create_engine(url, **options)
    if engine.dialect.name == "sqlite":
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
    try:
        # One process at a time: two that make the tables of a fresh database at once crash.
        with _one_at_a_time(engine, "tables"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            grace = heartbeat_seconds and 3 * heartbeat_seconds
            return optuna.storages.RDBStorage(url, options, heartbeat_interval=heartbeat_seconds, grace_period=grace)
    finally:
        engine.dispose()


def exclusive(storage: optuna.storages.RDBStorage, name: str) -> AbstractContextManager[None]:
    """No other worker of the study, on this machine or another, is inside at the same time."""
    return _one_at_a_time(storage.engine, name)


@contextmanager
def _one_at_a_time(engine: sqlalchemy.Engine, name: str) -> Iterator[None]:
    if engine.dialect.name == "sqlite":
        with FileLock(f"{engine.url.database}.lock"):
            yield
        return
    # The transaction's lock: it is gone when the connection is, and poolers such as PgBouncer let it through.
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": zlib.crc32(name.encode())})
        yield


def patiently(call: Callable[[], Returned]) -> Returned:
    """What `call` returns; where the database is away it is called again, for a minute, before its error is raised."""
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
    """Say every few seconds that the trial's worker lives.

    `Study.optimize` has a thread for that too, which ends at the first error of the database.
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
        with suppress(StorageInternalError):  # the next may get through
            storage.record_heartbeat(trial_id)
