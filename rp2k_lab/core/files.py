"""Files: atomic writes, hashes and reserved disk space."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def write_atomically(file: Path, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `file`, and rename it to `file` when the block ends.

    Readers see the former file or the new one.  If the block raises, the temporary file is deleted.

    Args:
        sync: flush the file and its folder to the disk, so that both outlive a power cut.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
        rename(part, file, sync)
    finally:
        part.unlink(missing_ok=True)


def rename(part: Path, file: Path, sync: bool = False) -> None:
    """Replace `file` by a finished one; `sync` as in `write_atomically`."""
    if sync:
        _sync(part)
    part.replace(file)
    if sync:
        _sync(file.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(file: Path, text: str, sync: bool = False) -> None:
    """Write UTF-8 text atomically, without translating line ends."""
    with write_atomically(file, sync) as part:
        part.write_text(text, encoding="utf-8", newline="")


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def preallocate(file: IO[bytes], size: int) -> None:
    """Reserve `size` bytes of disk space for a file open for writing.

    Writing to a memory-mapped sparse file would end the process with a bus error when the disk fills up.

    Raises:
        OSError: the disk has no space (ENOSPC, EDQUOT).
    """
    os.posix_fallocate(file.fileno(), 0, size)
