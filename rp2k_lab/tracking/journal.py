"""The journal: a run's record in its folder, one line an event; `uploader` copies it to MLflow.

A line is the CRC-32 of a JSON text, the text and a line feed.  The kernel has it when `append` returns, so SIGKILL
loses nothing; the reader drops a last line without its end, and lines that are damaged or no record.  `sync` protects
it from a power cut, in the upload thread and so beside training; what is not synced is not uploaded.
"""

import json
import logging
import os
import re
import stat
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.files import preallocate, sync_names
from rp2k_lab.core.locks import lock_descriptor, owner_hint
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.run_files import open_regular

log = logging.getLogger(__name__)

SUFFIX = ".journal"
# Reserved for the last record of a run whose disk is full: its status.
_RESERVE_BYTES = 2**18
# The longest line that is read: a configuration takes 10 kB.
_LINE_BYTES = 2**24
# The latest time of a record (ms since the epoch): the year 4199, of four digits in every time zone.
LATEST = 2**46
_MLFLOW_STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")


class JournalNotWritten(Exception):
    """The journal cannot be written.  Two lines: the file and the reason, then the way out."""

    exit_code = 1


class Journal:
    """A run's journal, open for appending by this process alone.

    When the disk is full, the journal deletes its reserve file, keeps further records in memory, logs one error and
    writes them as soon as there is space.

    Attributes:
        file: its path.

    Args:
        file: created, or continued; an unfinished last line is cut off.

    Raises:
        JournalNotWritten: the file cannot be created or written.
        RequestError: another process has it open.
        DataError: it is a link, a pipe or a folder.
    """

    def __init__(self, file: Path):
        self.file, self._unwritten, self._warned = file, b"", False
        self._reserve: Path | None = None
        self._replacing = threading.Lock()  # `sync` of the upload thread may open the file again
        self._open()
        whole = self._content().rfind(b"\n") + 1
        os.ftruncate(self._descriptor, whole)
        self._has_records = whole > 0

    def append(self, kind: str, **content: Any) -> None:
        """Append a record with the current time (ms since the epoch).

        Args:
            content: values of JSON's types; NaN and infinity are allowed.

        Raises:
            JournalNotWritten: the first record cannot be written.
        """
        text = json.dumps({"kind": kind, "time": int(time.time() * 1000)} | content, separators=(",", ":")).encode()
        self._unwritten += b"%08x %s\n" % (zlib.crc32(text), text)
        try:
            self._write()
            self._has_records = True
            self._reserve_space()
        except OSError as error:
            if not self._has_records:
                raise _not_written(self.file, error) from None
            if not self._warned:
                log.error("%s", _not_written(self.file, error))
            self._warned = True

    def sync(self) -> int:
        """Flush the file to the disk; write it again if its folder was removed or moved.

        Returns:
            The size that outlives a power cut (bytes).
        """
        with self._replacing:
            if not self.file.exists():
                self._write_again()
            descriptor, size = self._descriptor, os.fstat(self._descriptor).st_size
        os.fsync(descriptor)
        if not self._is_named:  # POSIX: the file's content alone, even the folders' names may be lost
            sync_names(self.file)
            self._is_named = True
        return size

    def close(self) -> None:
        """Write what is left, sync and release the file.

        Raises:
            JournalNotWritten: the last records could not be written.
        """
        try:
            self._write()
            self.sync()
        except OSError as error:
            raise _not_written(self.file, error) from None
        finally:
            os.close(self._descriptor)
            if self._lock:
                self._lock.release()
            if self._reserve:
                self._reserve.unlink(missing_ok=True)

    def _open(self) -> None:
        """Open and lock the file; errors as `Journal`."""
        self._descriptor, self._is_named = _open(self.file), False
        try:
            self._lock = lock_descriptor(self._descriptor, self.file)
        except BlockingIOError:
            os.close(self._descriptor)
            way_out = f"wait for its end{owner_hint(self.file)}"
            raise RequestError(f"{escape_controls(self.file)}: another process writes this run\n{way_out}") from None

    def _write(self) -> None:
        # The disk may take a part of a line: continue with its next byte.
        with self._replacing:
            while self._unwritten:
                try:
                    self._unwritten = self._unwritten[os.write(self._descriptor, self._unwritten) :]
                except OSError:
                    if not (self._reserve and self._reserve.exists()):
                        raise
                    self._reserve.unlink()

    def _content(self) -> bytes:
        with open(self._descriptor, "rb", closefd=False) as opened:
            opened.seek(0)
            return opened.read()

    def _write_again(self) -> None:
        """Write the record at its place again: the store and task=sync find it there, whoever removed the folder."""
        former, content = (self._descriptor, self._lock), self._content()
        self._open()
        try:
            while content:
                content = content[os.write(self._descriptor, content) :]
        except OSError:
            os.close(self._descriptor)
            self.file.unlink()
            self._descriptor, self._lock = former
            raise
        os.close(former[0])
        folder = escape_controls(self.file.parent)
        log.warning("%s: was removed or moved; the run's record is written there again", folder)

    def _reserve_space(self) -> None:
        if self._reserve is None:
            self._reserve = self.file.with_suffix(".reserve")
            self._reserve.unlink(missing_ok=True)  # opening would follow a link
            with suppress(OSError), self._reserve.open("xb") as reserve:
                preallocate(reserve, _RESERVE_BYTES)


def _open(file: Path) -> int:
    """Open a journal for reading and appending, and return its descriptor; errors as `Journal`."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if file.is_symlink() or file.is_dir():
            raise _no_file(file) from None
        raise _not_written(file, error) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_file(file)
    return descriptor


def read(
    file: Path, offset: int = 0, end: int | None = None, damaged: list[int] | None = None
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield (record, end of its line in bytes) from `offset` to the last complete line; skip damaged lines.

    Args:
        end: read no further than this (bytes); None: all.
        damaged: receives the position of each damaged line (bytes).

    Raises:
        OSError: the file cannot be read, or is a link, a pipe or a folder.
    """
    with open_regular(file) as lines:
        lines.seek(offset)
        while line := lines.readline(_LINE_BYTES):
            if not (line.endswith(b"\n") or len(line) == _LINE_BYTES) or (end is not None and offset + len(line) > end):
                return
            record = _record(line)
            if record is None and damaged is not None:
                damaged.append(offset)
            offset += len(line)
            if record is not None:
                yield record, offset


def damage_line(file: Path, damaged: list[int]) -> str:
    """Return one line on the damaged lines of a journal.

    Args:
        damaged: from `read`.
    """
    lines = "1 damaged line is" if len(damaged) == 1 else f"{len(damaged)} damaged lines are"
    return f"{escape_controls(file)}: {lines} left out (the first at byte {damaged[0]})"


def _record(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line, or None if it is damaged or no record: a journal may be a stranger's."""
    checksum, _, text = line[:-1].partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        record = json.loads(text)
        valid = type(record["time"]) is int and 0 <= record["time"] < LATEST and _is_valid(record)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return record if valid else None


def _is_valid(record: dict[str, Any]) -> bool:
    """Return whether the values of a record have the types that its readers expect."""
    kind = record["kind"]
    if kind == "run":
        texts = [record["name"], record["experiment"], record["store"] or ""]
        is_named = re.fullmatch(r"\w{1,64}", record["local_id"]) and all(isinstance(text, str) for text in texts)
        return bool(is_named) and _are_texts(record["tags"])
    if kind in ("params", "tags"):
        return _are_texts(record[kind])
    if kind == "metrics":
        numbers = record["metrics"].values()
        return _is_integer(record["step"]) and all(type(n) is float or _is_integer(n) for n in numbers)
    if kind == "inputs":
        keys = {"name", "digest", "source", "context"}
        return all(entry.keys() == keys and _are_texts(entry) for entry in record["inputs"])
    if kind == "artifact":
        return isinstance(record["file"], str) and isinstance(record["folder"], str)
    if kind == "end":
        return record["status"] in _MLFLOW_STATUSES
    return isinstance(kind, str)


def _is_integer(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _are_texts(values: dict[str, Any]) -> bool:
    return all(isinstance(text, str) for text in values.values())


def _no_file(file: Path) -> DataError:
    return DataError(f"{escape_controls(file)}: no regular file, so no run's record\nmove it out of the folder")


def _not_written(file: Path, error: OSError) -> JournalNotWritten:
    return JournalNotWritten(
        f"{escape_controls(file)}: the run's record cannot be written ({error.strerror}); "
        "what was written before is whole\n"
        "free space on the disk, or use another folder: hydra.run.dir=FOLDER"
    )
