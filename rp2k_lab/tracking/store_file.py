"""The MLflow store as an SQLite file: make it, recognize what an earlier start left, upgrade an older one.

MLflow 3.17 makes and upgrades its tables in place by 1,700 statements that are no one transaction, and refuses what a
process left that died meanwhile.
"""

import logging
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from urllib.parse import quote

from rp2k_lab.core.database import exclusive, free_name, is_missing, make_aside, move_aside, processes_using
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.quoting import sqlite_file
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.address import StoreUnavailable, error_line

log = logging.getLogger(__name__)

_ANOTHER = "use another file: tracking.uri=sqlite:///FILE"
# Seconds to wait for another process's transaction.
_LOCKED_SECONDS = 5
# MLflow's migrations copy a table under such a name and rename the copy.
_COPY = "_alembic_tmp_"
# Tables with what users recorded; the statements that make a store fill none of them.
_RECORDS = ("runs", "registered_models", "trace_info", "datasets", "logged_models", "evaluation_datasets", "jobs")


def prepare_store(file: Path) -> None:
    """Make the store in a file, unless it is there and complete.

    Raises:
        RequestError: it is no store, of a newer MLflow, or cannot be upgraded or written.
        StoreUnavailable: another process has it locked.
    """
    file = file.resolve()  # a link may name a file of another disk
    try:
        if is_missing(file) or not _is_complete(file):
            with exclusive(file):
                _make_or_repair(file)
    except OSError as error:
        raise _refusal(file, str(error.strerror), _ANOTHER) from None


def _make_or_repair(file: Path) -> None:
    if is_missing(file):
        make_aside(file, _upgrade)
        return
    if _is_complete(file):  # another process was first
        return
    if not _has_records(file):
        kept = move_aside(file, "incomplete")
        log.warning("tracking: %s was left incomplete and empty by a killed process; it is now %s", file, kept.name)
        make_aside(file, _upgrade)
        return
    if users := processes_using(file):
        raise _refusal(file, f"older than this MLflow, and open in {', '.join(users)}", "end it and run this again")
    revision, kept = _revision(file) or "unknown", free_name(file, "before_upgrade")
    try:
        make_aside(file, lambda address: _upgrade_copy(file, address), kept)
    except OSError:
        raise
    except Exception as error:  # of SQLAlchemy, Alembic or one of MLflow's migrations
        reason = f"its tables (version {revision}) cannot be upgraded to this MLflow: {error_line(error)}"
        raise _refusal(file, reason, f"restore a copy of it, or {_ANOTHER}") from None
    log.warning("tracking: %s is upgraded to this MLflow; the former file is %s", file, kept.name)


def _is_complete(file: Path) -> bool:
    """Return whether a file is a store with today's tables; errors as `prepare_store`."""
    tables, revision = _tables(file), _revision(file)
    copies = {table for table in tables if table.startswith(_COPY)}
    if tables - copies - {"alembic_version"} and not {"experiments", f"{_COPY}experiments"} & tables:
        raise _refusal(file, "is a database of something else", _ANOTHER)
    head, known = _revisions()
    if revision is not None and revision not in known:
        raise _refusal(file, f"made by a newer MLflow (version {revision} of its tables)", _ANOTHER)
    return revision == head and not copies


def _has_records(file: Path) -> bool:
    tables = _tables(file)
    counted = [f"SELECT 1 FROM {table}" for table in _RECORDS if table in tables]
    counted += [f"SELECT 1 FROM {_COPY}{table}" for table in _RECORDS if f"{_COPY}{table}" in tables]
    if "experiments" in tables:
        counted.append("SELECT 1 FROM experiments WHERE experiment_id != 0")
    return any(_query(file, f"{statement} LIMIT 1") for statement in counted)


def _tables(file: Path) -> set[str]:
    return {name for (name,) in _query(file, "SELECT name FROM sqlite_master WHERE type = 'table'")}


def _revision(file: Path) -> str | None:
    """Return the version of a store's tables, as Alembic records it."""
    if "alembic_version" not in _tables(file):
        return None
    return next((revision for (revision,) in _query(file, "SELECT version_num FROM alembic_version")), None)


def _query(file: Path, statement: str) -> list[tuple]:
    """Return the rows of a query; errors as `prepare_store`."""
    try:  # mode=rw: to read after a crash, SQLite must write; it never makes the file
        address = f"file:{quote(str(file))}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=_LOCKED_SECONDS)) as database:
            return database.execute(statement).fetchall()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error) and "busy" not in str(error):
            raise _refusal(file, str(error), _ANOTHER) from None
        users = ", ".join(processes_using(file)) or "another process"
        raise StoreUnavailable(f"{escape_controls(file)} is locked by {users}") from None
    except sqlite3.DatabaseError as error:  # no database, or a damaged one
        raise _refusal(file, str(error), f"restore a copy of it, or {_ANOTHER}") from None


@cache
def _revisions() -> tuple[str, frozenset[str]]:
    """Return today's version of MLflow's tables, and all versions."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    scripts = ScriptDirectory.from_config(_get_alembic_config(""))
    (head,) = scripts.get_heads()
    return head, frozenset(script.revision for script in scripts.walk_revisions())


def _upgrade(address: str) -> None:
    """Make MLflow's tables in a new database, or upgrade those of a copy that no other process knows."""
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables, _upgrade_db
    from sqlalchemy import event

    quiet_loggers()
    engine = sqlalchemy.create_engine(address)
    # `make_aside` flushes the whole file at its end: half the time of a flush for each statement.
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    try:
        _upgrade_db(engine) if sqlalchemy.inspect(engine).get_table_names() else _initialize_tables(engine)
    finally:
        engine.dispose()


def _upgrade_copy(file: Path, address: str) -> None:
    """Copy a store to an address, complete the migration that was interrupted there, and upgrade it."""
    copied = sqlite_file(address)
    assert copied is not None
    with closing(sqlite3.connect(file)) as store, closing(sqlite3.connect(copied)) as database:
        store.backup(database)
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for copy in sorted(table for table in tables if table.startswith(_COPY)):
            table = copy.removeprefix(_COPY)
            statement = f'DROP TABLE "{copy}"' if table in tables else f'ALTER TABLE "{copy}" RENAME TO "{table}"'
            database.execute(statement)
        database.commit()
    _upgrade(address)


def quiet_loggers() -> None:
    """Silence the progress messages of MLflow and Alembic; the uploader warns about retries itself."""
    for noisy in ("alembic", "mlflow.pyfunc", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)


def _refusal(file: Path, reason: str, way_out: str) -> RequestError:
    return RequestError(f"tracking.uri=sqlite:///{escape_controls(redact(str(file)))}: {reason}\n{way_out}")
