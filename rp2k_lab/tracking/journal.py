"""The journal: a run's record in its folder, one line an event; `uploader` copies it to MLflow.

A line is the CRC-32 of a JSON text, the text and a line feed.  The kernel has it when `append` returns, so SIGKILL
loses nothing; the reader drops a last line without its end.  `sync` protects it from a power cut, in the upload thread
and so beside training.
"""

import fcntl
import json
import logging
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.files import preallocate
from rp2k_lab.core.text import escape_controls

log = logging.getLogger(__name__)

SUFFIX = ".journal"
# Reserved for the last record of a run whose disk is full: its status.
_RESERVE_BYTES = 2**18


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
    """

    def __init__(self, file: Path):
        self.file, self._unwritten, self._warned = file, b"", False
        self._reserve: Path | None = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise _not_written(file, error) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise RequestError(f"{escape_controls(file)}: another process writes this run\nwait for its end") from None
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
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

    def sync(self) -> None:
        """Flush the file to the disk."""
        os.fsync(self._descriptor)

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
            if self._reserve:
                self._reserve.unlink(missing_ok=True)

    def _write(self) -> None:
        # The disk may take a part of a line: continue with its next byte.
        while self._unwritten:
            try:
                self._unwritten = self._unwritten[os.write(self._descriptor, self._unwritten) :]
            except OSError:
                if not (self._reserve and self._reserve.exists()):
                    raise
                self._reserve.unlink()

    def _reserve_space(self) -> None:
        if self._reserve is None:
            self._reserve = self.file.with_suffix(".reserve")
            with suppress(OSError), self._reserve.open("wb") as reserve:
                preallocate(reserve, _RESERVE_BYTES)


def read(file: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield (record, end of its line in bytes) from `offset` to the last complete line; skip damaged lines."""
    with file.open("rb") as lines:
        lines.seek(offset)
        for line in lines:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            checksum, _, text = line[:-1].partition(b" ")
            if checksum == b"%08x" % zlib.crc32(text):
                yield json.loads(text), offset


def _not_written(file: Path, error: OSError) -> JournalNotWritten:
    return JournalNotWritten(
        f"{escape_controls(file)}: the run's record cannot be written ({error.strerror}); "
        "what was written before is whole\n"
        "free space on the disk, or use another folder: hydra.run.dir=FOLDER"
    )
