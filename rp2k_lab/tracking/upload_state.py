"""How much of a journal is uploaded: a sealed file beside it, so that a later process continues there."""

import json
import re
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.files import write_text
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.journal import read
from rp2k_lab.tracking.run_files import open_regular, read_small, system_reason

LOCAL_ID = "local_id"


@dataclass
class UploadState:
    """How much of a journal is uploaded.

    Attributes:
        store: the address without credentials; None before the first upload.
        run_id, experiment_id: MLflow's ids.
        offset: uploaded part of the journal (bytes).
        ended: whether that part ends with the run's status.
        checksum: CRC-32 of that part; None: not recorded, by an earlier version.
        compared: whether the store may have steps that the journal has lost; then they are compared.
    """

    store: str | None = None
    run_id: str | None = None
    experiment_id: str | None = None
    offset: int = 0
    ended: bool = False
    checksum: int | None = None
    compared: bool = False

    @classmethod
    def load(cls, journal: Path) -> "UploadState":
        """Read the state beside a journal; if unreadable, upload everything again (uploads are idempotent)."""
        try:
            content = json.loads(read_small(_state_file(journal)))
            seal = content.pop("seal", None)
            state = cls(**content)
            valid = state._is_valid() and seal == (None if state.checksum is None else state._seal())
        except (ValueError, TypeError, AttributeError, RecursionError):
            return cls()
        return state if valid else cls()

    def save(self, journal: Path) -> None:
        """Write the state beside a journal; on a full disk the former state stays, which only repeats uploads."""
        with suppress(OSError):
            write_text(_state_file(journal), json.dumps(asdict(self) | {"seal": self._seal()}))

    def _seal(self) -> int:
        return zlib.crc32(json.dumps(asdict(self), sort_keys=True).encode())

    def _is_valid(self) -> bool:
        ids = [value for value in (self.run_id, self.experiment_id) if value is not None]
        sizes = [value for value in (self.offset, self.checksum) if value is not None]
        return (
            all(isinstance(value, str) and re.fullmatch(r"[\w-]{1,64}", value) for value in ids)
            and all(type(value) is int and value >= 0 for value in sizes)
            and isinstance(self.store, str | None)
            and isinstance(self.ended, bool)
            and isinstance(self.compared, bool)
        )


def _state_file(journal: Path) -> Path:
    return journal.with_suffix(".sent")


def read_header(file: Path) -> dict[str, Any]:
    """Return a journal's first record: name, ids, store, experiment and initial tags.

    Raises:
        DataError: it is damaged, or the file cannot be read.
    """
    try:
        header, end = next(read(file), ({}, 0))
        with open_regular(file) as journal:
            first = len(journal.readline())
    except OSError as error:
        raise _no_record(file, system_reason(error)) from None
    if header.get("kind") != "run" or end != first:
        raise _no_record(file, "its first line is damaged" if first else "it is empty")
    return header


def _no_record(file: Path, reason: str) -> DataError:
    way_out = "restore the file, or move it out of the folder"
    return DataError(f"{escape_controls(file)}: no run's record ({reason})\n{way_out}")


def is_uploaded(file: Path) -> bool:
    """Return whether all of a journal is uploaded, including the run's final status.

    Raises:
        OSError: the journal cannot be read.
    """
    state = UploadState.load(file)
    return state.ended and _ends_a_line(file, state.offset) and next(read(file, state.offset), None) is None


def has_part(file: Path, state: UploadState, until: int) -> bool:
    """Return whether a journal still has the part that is uploaded."""
    if state.offset > until or not _ends_a_line(file, state.offset):
        return False
    return state.checksum is None or checksum_of(file, 0, state.offset) == state.checksum


def _ends_a_line(file: Path, offset: int) -> bool:
    with open_regular(file) as journal:
        journal.seek(max(0, offset - 1))
        return offset == 0 or journal.read(1) == b"\n"


def checksum_of(file: Path, start: int, end: int, checksum: int = 0) -> int:
    """Return the CRC-32 of a part of a file, continued from the part before it."""
    with open_regular(file) as journal:
        journal.seek(start)
        return zlib.crc32(journal.read(end - start), checksum)
