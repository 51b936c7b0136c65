"""Disks: try what a run needs and compare its size with what is free before it starts; explain a full disk."""

import errno
import logging
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.files import link_or_copy, write_text
from rp2k_lab.core.locks import has_locks
from rp2k_lab.core.text import escape_controls, in_bytes

log = logging.getLogger(__name__)

_WAY_OUT = "free some space and run the same command again; everything saved before is intact"


@dataclass(frozen=True)
class SpaceNeed:
    """What a run will write to a folder, as text for a message, and its size [bytes]."""

    what: str
    folder: Path
    size: int


def check_disk_space(needs: Sequence[SpaceNeed]) -> None:
    """Compare needs with the free space on the disks of their folders; a folder may not exist yet.

    Raises:
        RequestError: the needs on one disk exceed its free space.
    """
    disks = defaultdict(list)
    for need in needs:
        existing = next(folder for folder in (need.folder, *need.folder.absolute().parents) if folder.exists())
        disks[existing.stat().st_dev].append((existing, need))
    for on_disk in disks.values():
        needed, free = sum(need.size for _, need in on_disk), shutil.disk_usage(on_disk[0][0]).free
        if needed > free:
            parts = ", ".join(f"{need.what} {in_bytes(need.size)}" for _, need in on_disk if need.size)
            folder = escape_controls(on_disk[0][1].folder)
            raise RequestError(
                f"{folder}: the run needs {in_bytes(needed)} ({parts}), {in_bytes(free)} are free\n"
                "free some space, lower dataset.cache_gb, or write elsewhere: hydra.run.dir=<folder>"
            )


def check_disk_features(folder: Path) -> bool:
    """Try in a run's folder what its files need; log what its disk lacks and a run can do without.

    Returns:
        Whether the disk has links.

    Raises:
        RequestError: the disk cannot replace a file by a finished one.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".try-", dir=folder) as name:
            file = Path(name) / "file"
            for text in ("former", "new"):  # the second replaces the first
                write_text(file, text, sync=True)
            linked = link_or_copy(Path(name) / "link", file)
    except OSError as error:
        if explain_full_disk(error):
            raise
        raise RequestError(
            f"{escape_controls(folder)}: its disk cannot keep a run ({str(error.strerror or error).lower()})\n"
            "use a folder on another disk: hydra.run.dir=<folder>"
        ) from None
    if not linked:
        log.info("%s: the disk has no links, best.ckpt and last.ckpt are copies", escape_controls(folder))
    if not has_locks(folder):
        log.warning("%s: the disk has no locks, files named .owner replace them", escape_controls(folder))
    return linked


def explain_full_disk(error: BaseException) -> str | None:
    """Return a two-line message if an error or one of its causes is a full disk, else None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            file, reason = escape_controls(cause.filename or "a file of the run"), str(cause.strerror).lower()
            return f"{file}: {reason}\n{_WAY_OUT}"
        if "database or disk is full" in str(cause):  # SQLite's message, which MLflow and Optuna pass on
            return f"the database of runs or studies: no space left on device\n{_WAY_OUT}"
        cause = cause.__cause__ or cause.__context__
    return None
