"""task=clean: list what no run needs, and remove it after a question."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rp2k_lab.config.schema import Config
from rp2k_lab.core.text import counted, escape_controls, in_bytes, text_table
from rp2k_lab.dataset import photo_index
from rp2k_lab.tracking.local_runs import OUTPUTS, is_open, read_run, readable_journals
from rp2k_lab.tracking.mlflow_runs import RunStore
from rp2k_lab.tracking.mlflow_store import store_exists
from rp2k_lab.train.checkpoint import CheckpointFolder
from rp2k_lab.train.resume import is_finished

STATES = "training states of finished runs"
DELETED = "folders of runs that are deleted in MLflow"
CACHES = "resized photos and features, unread for {} days"
# What is computed again when it is needed.
CACHE_FOLDERS = ("cache", "features")
_MOST_NAMED = 10


@dataclass(frozen=True)
class Leftover:
    """Files that no run needs.

    Attributes:
        kind: what they are.
        place: the file or folder to name.
        size: bytes that removing them frees.
        remove: removes them.
    """

    kind: str
    place: Path
    size: int
    remove: Callable[[], None]


def run(config: Config, folder: Path) -> None:
    """List the leftovers under outputs/ and data/, and remove them if the answer is yes.

    A run that trains, or is unfinished and may be resumed, keeps everything.

    Args:
        folder: not used; nothing is recorded.

    Raises:
        RequestError: the store does not answer, so that nobody knows which runs are deleted there.
    """
    found = sorted([*of_runs(config.tracking.uri), *of_caches(config.task.unused_days)], key=lambda each: -each.size)
    if not found:
        print("nothing to remove")
        return
    print(listing(found))
    total = f"{in_bytes(sum(each.size for each in found))} in {counted(len(found), 'place')}"
    if config.task.ask and not is_confirmed(f"remove {total}? [y/N] "):
        print("nothing removed" + ("" if sys.stdin.isatty() else ": add task.ask=false"))
        return
    freed = 0
    for each in found:
        try:
            each.remove()
            freed += each.size
        except OSError as error:
            print(f"not removed {escape_controls(each.place)}: {error.strerror or error}")
    print(f"removed     {in_bytes(freed)}")


def of_runs(uri: str | None) -> Iterator[Leftover]:
    """Yield the leftovers of the runs under outputs/ whose process has ended."""
    store = RunStore(uri) if store_exists(uri) else None
    deleted = store.deleted() if store else set()
    for file in readable_journals(OUTPUTS):
        run, checkpoints = read_run(file), CheckpointFolder(file.parent / "checkpoints", 1)
        if not (is_finished(run) or run.local_id in deleted) or is_open(file):
            continue
        if run.local_id in deleted:
            remove = partial(shutil.rmtree, file.parent)
            yield Leftover(DELETED, file.parent, size_of([file.parent]), remove)
        elif size := size_of(checkpoints.state_files()):
            yield Leftover(STATES, checkpoints.folder, size, checkpoints.keep_best)


def of_caches(days: float) -> Iterator[Leftover]:
    """Yield what is kept under data/ and was not read for some days."""
    for name in CACHE_FOLDERS:
        for place in sorted((photo_index.DATA_FOLDER / name).glob("*")):
            files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
            used = max((max(file.stat().st_atime, file.stat().st_mtime) for file in files), default=0.0)
            if time.time() - used > days * 86_400:
                remove = place.unlink if place.is_file() else partial(shutil.rmtree, place)
                yield Leftover(CACHES.format(f"{days:g}"), place, size_of([place]), remove)


def size_of(places: Sequence[Path]) -> int:
    """Return the bytes that removing files and folders frees: a file with another hard link elsewhere frees none."""
    size = 0
    for place in places:
        for file in place.rglob("*") if place.is_dir() and not place.is_symlink() else (place,):
            with suppress(OSError):  # removed meanwhile
                status = file.lstat()
                size += 512 * status.st_blocks if status.st_nlink == 1 and not file.is_dir() else 0
    return size


def listing(found: Sequence[Leftover]) -> str:
    """Return the largest leftovers of each kind with their sizes, and the sum of the others."""
    rows = [("size", "what")]
    for kind in dict.fromkeys(each.kind for each in found):
        of_kind = [each for each in found if each.kind == kind]
        rows.append((in_bytes(sum(each.size for each in of_kind)), kind))
        rows += [(in_bytes(each.size), f"  {each.place}") for each in of_kind[:_MOST_NAMED]]
        if rest := of_kind[_MOST_NAMED:]:
            rows.append((in_bytes(sum(each.size for each in rest)), f"  and {len(rest)} more"))
    return text_table(rows, "><")


def is_confirmed(question: str) -> bool:
    """Return whether the answer in the terminal is yes; without a terminal it is no."""
    if not sys.stdin.isatty():
        return False
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False
