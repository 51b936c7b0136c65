"""Room on the disks: what a run will take is compared with what is free before it starts, and a full disk is named."""

import errno
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.text import escape_controls, in_bytes

_WAY_OUT = "what was saved before is whole; make room, then run the same command again"


@dataclass(frozen=True)
class SpaceNeed:
    """What will lie in a folder, in words, and how much of it."""

    what: str
    folder: Path
    size: int  # bytes


def check_disk_space(needs: Sequence[SpaceNeed]) -> None:
    """Compare needs with what is free on the disks of their folders, which need not be there yet.

    Raises:
        RequestError: a disk cannot take all that will lie on it.
    """
    disks = defaultdict(list)
    for need in needs:
        there = next(folder for folder in (need.folder, *need.folder.absolute().parents) if folder.exists())
        disks[there.stat().st_dev].append((there, need))
    for on_disk in disks.values():
        wanted, free = sum(need.size for _, need in on_disk), shutil.disk_usage(on_disk[0][0]).free
        if wanted > free:
            parts = ", ".join(f"{need.what} {in_bytes(need.size)}" for _, need in on_disk if need.size)
            place = escape_controls(on_disk[0][1].folder)
            raise RequestError(
                f"{place}: the run takes {in_bytes(wanted)} ({parts}), {in_bytes(free)} are free\n"
                "make room, lower dataset.cache_gb, or put the run elsewhere: hydra.run.dir=<folder>"
            )


def explain_full_disk(error: BaseException) -> str | None:
    """Two lines where an error, or one that it came from, is a disk without room; else None."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{escape_controls(seen.filename or 'a file of the run')}: {seen.strerror.lower()}\n{_WAY_OUT}"
        if "database or disk is full" in str(seen):  # SQLite's words, which MLflow and Optuna pass on
            return f"the database of runs or studies: no space left on device\n{_WAY_OUT}"
        seen = seen.__cause__ or seen.__context__
    return None
