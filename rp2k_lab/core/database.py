"""SQLite files that several processes use: one makes a database aside, and gives it its name when it is complete.

MLflow and Optuna make theirs by many statements that are no one transaction.  A process that died meanwhile would
leave a file that every later one refuses.
"""

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.files import sync_file, sync_folder
from rp2k_lab.core.locks import owner_hint, try_lock
from rp2k_lab.core.quoting import sqlite_url
from rp2k_lab.core.text import escape_controls

# Making a store takes two to twenty seconds, an upgrade of a large one minutes.
_LOCK_SECONDS = 600
# What SQLite keeps beside a database; with a new database it would apply them to that.
_COMPANIONS = ("-journal", "-wal", "-shm")


@contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Hold the lock beside a database file: one process at a time makes, upgrades or first opens it.

    Raises:
        RequestError: another process holds the lock for ten minutes.
        OSError: the folder cannot be written.
    """
    file = file.resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    name, until = Path(f"{file}.lock"), time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            lock = try_lock(name)
            break
        except BlockingIOError:
            if time.monotonic() > until:
                raise RequestError(
                    f"{escape_controls(name)}: another process holds this lock for {_LOCK_SECONDS / 60:.0f} minutes\n"
                    f"end that process and run the same command again{owner_hint(name)}"
                ) from None
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.release()


def is_missing(file: Path) -> bool:
    """Return whether there is no database: no file, or an empty one, as SQLite leaves it before the first statement."""
    return not file.exists() or (file.is_file() and file.stat().st_size == 0)


def make_aside(file: Path, fill: Callable[[str], None], former: Path | None = None) -> None:
    """Make a database in a folder beside `file`, and give it its name once it is whole and on the disk.

    A process that dies meanwhile leaves a hidden folder, which the next call removes.  A database that another process
    made meanwhile stays, even where locks do not reach that process's machine.  Call it inside `exclusive`.

    Args:
        fill: makes or changes the database at an address; it closes its connections.
        former: the name under which the present file is kept, which the new one replaces; None: there is none.
    """
    for left in glob.glob(f".{glob.escape(file.name)}.*.part", root_dir=file.parent):
        shutil.rmtree(file.parent / left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{file.name}.", suffix=".part", dir=file.parent))
    try:
        part = folder / file.name
        fill(sqlite_url(part))
        sync_file(part)
        if former is None:
            _publish_new(part, file)
        else:
            _link(file, former)
            part.replace(file)
        sync_folder(file.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_aside(file: Path, suffix: str) -> Path:
    """Rename a database and its companions to the first free of `<name>.<suffix>`, `<name>.<suffix>2` …"""
    target = free_name(file, suffix)
    for companion in _COMPANIONS:
        with suppress(FileNotFoundError):
            Path(f"{file}{companion}").rename(f"{target}{companion}")
    file.rename(target)
    return target


def free_name(file: Path, suffix: str) -> Path:
    """Return the first path of `<file>.<suffix>`, `<file>.<suffix>2` … without a file."""
    names = (file.with_name(f"{file.name}.{suffix}{number}") for number in ("", *range(2, 1000)))
    return next(name for name in names if not name.exists())


def processes_using(file: Path) -> list[str]:
    """Return `name (process id)` of every other process that has the file open, as far as this user may see it."""
    found = []
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error, OSError):
            paths = {opened.path for opened in process.open_files()}
            if process.pid != os.getpid() and str(file.resolve()) in paths:
                found.append(f"{process.info['name']} ({process.pid})")
    return found


def _publish_new(part: Path, file: Path) -> None:
    if not file.exists():
        for companion in _COMPANIONS:
            Path(f"{file}{companion}").unlink(missing_ok=True)
    elif file.stat().st_size == 0:
        file.unlink()
    with suppress(FileExistsError):  # another process was first
        _link(part, file)


def _link(file: Path, name: Path) -> None:
    """Give a file a second name that no file has; on a disk without hard links (exFAT), a copy of it."""
    try:
        os.link(file, name)
    except FileExistsError:
        raise
    except OSError:
        if name.exists():
            raise FileExistsError(name) from None
        copy = file.parent / f".{name.name}.copy"
        shutil.copy2(file, copy)
        sync_file(copy)
        copy.replace(name)
