"""A run's record on its own disk: what happened, in order, a line each; `sender` brings it to a store.

A line is the CRC-32 of a JSON text, the text and a line feed.  It is in the kernel's hands when `append` returns, so
that SIGKILL loses nothing; the last line of a process that was killed in mid-write lacks its end and is dropped.
Against a power cut `sync` puts the file on the disk, in the sender's thread and so beside training.
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
# Held back for the last words of a run whose disk is full: how it ended is a line.
_RESERVE_BYTES = 2**18


class JournalNotWritten(Exception):
    """The disk does not take a run's record.  Two lines: the file and the reason, then the way out."""

    exit_code = 1


class Journal:
    """A run's journal, open for appending by this process alone.

    What a full disk does not take, though a reserve has been given up for it, stays in memory, with one message, and
    is written as soon as there is room again; but for the first record, without which nothing has been begun.

    Attributes:
        file: where it is.

    Args:
        file: continued where it is there already; the rest of a line without an end is cut off.

    Raises:
        JournalNotWritten: it cannot be made or written.
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
        self._begun = whole > 0

    def append(self, kind: str, **content: Any) -> None:
        """Add a record of now (ms since the epoch); its values are of JSON's types, NaN and infinity among them.

        Raises:
            JournalNotWritten: it is the first one, and the disk does not take it.
        """
        text = json.dumps({"kind": kind, "time": int(time.time() * 1000)} | content, separators=(",", ":")).encode()
        self._unwritten += b"%08x %s\n" % (zlib.crc32(text), text)
        try:
            self._write()
            self._begun = True
            self._hold_back()
        except OSError as error:
            if not self._begun:
                raise _not_written(self.file, error) from None
            if not self._warned:
                log.error("%s", _not_written(self.file, error))
            self._warned = True

    def sync(self) -> None:
        """Put on the disk what was appended."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Write, sync and leave it to others.

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
        # A line that was taken in part is continued with its next byte.
        while self._unwritten:
            try:
                self._unwritten = self._unwritten[os.write(self._descriptor, self._unwritten) :]
            except OSError:
                if not (self._reserve and self._reserve.exists()):
                    raise
                self._reserve.unlink()

    def _hold_back(self) -> None:
        if self._reserve is None:
            self._reserve = self.file.with_suffix(".reserve")
            with suppress(OSError), self._reserve.open("wb") as reserve:
                preallocate(reserve, _RESERVE_BYTES)


def read(file: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """(a record, the byte behind it) from a byte on, to the last line that has its end; damaged lines are left out."""
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
        "make room on the disk, or give the run a folder elsewhere: hydra.run.dir=FOLDER"
    )
