"""Write a set to disk once: the images, their ground truth, and last a rename that marks it as complete."""

import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import pandas as pd

from rp2k_lab.core.files import sync_folder, sync_tree
from rp2k_lab.core.locks import file_lock
from rp2k_lab.core.progress import activity
from rp2k_lab.dataset.shelf.catalog import build_catalog
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.dataset.shelf.plan import plan
from rp2k_lab.dataset.shelf.scene import draw_image, encode

TRUTH_FILE = "truth.parquet"
OPTIONS_FILE = "options.json"
# Small enough for a smooth progress bar and a prompt stop, large enough to reuse a product's cached art.
_CHUNK_IMAGES = 64
# Below this, starting processes (about a second) takes longer than drawing.
_LEAST_IMAGES_FOR_POOL = 300
_GUARD_HINT = 'call it below `if __name__ == "__main__":`, or with num_processes=1'


def make_shelf(options: ShelfOptions, folder: Path, num_processes: int | None = None) -> Path:
    """Return the set's folder, `folder / "shelf-<fingerprint>"`; draw the set if it is missing.

    It holds `train/<class>/<image>`, `test/…`, optionally `val/…`, `truth.parquet` (columns plan.TRUTH_COLUMNS, one row
    per image) and `options.json`.  The bytes depend on the options alone.  An existing set is complete: it is written
    elsewhere and renamed last.  Of several processes that call this at once, one draws the set and the others wait.

    Args:
        num_processes: None: one per CPU that this process may use.

    Raises:
        ValueError: the options contradict each other; nothing is written.
        RuntimeError: a drawing process died.
    """
    # A child that imports an unguarded script would wait here for its parent's lock.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(f"make_shelf was called while a child process imports the main script\n{_GUARD_HINT}")
    name = f"shelf-{options.fingerprint()}"
    target = Path(folder) / name
    if target.is_dir():
        return target
    truth = plan(options)
    target.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(target.parent / f".{name}.lock"):
        if target.is_dir():
            return target
        for leftover in target.parent.glob(f".{name}.part-*"):
            shutil.rmtree(leftover)
        part = Path(tempfile.mkdtemp(prefix=f".{name}.part-", dir=target.parent))
        try:
            _write_set(options, truth, part, num_processes or _usable_cpus())
            # mkdtemp's folder is private; a finished set gets its parent's permissions.
            with suppress(PermissionError):  # exFAT has no permissions
                part.chmod(target.parent.stat().st_mode & 0o777)
            sync_tree(part)  # else a power cut may leave the name, which means complete, and empty files
            part.rename(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_set(options: ShelfOptions, truth: pd.DataFrame, part: Path, num_processes: int) -> None:
    for split_and_class in sorted({path.rsplit("/", 1)[0] for path in truth["path"]}):
        (part / split_and_class).mkdir(parents=True)
    starts = range(0, len(truth), _CHUNK_IMAGES)
    chunks = (truth.iloc[start : start + _CHUNK_IMAGES] for start in starts)
    with activity("drawing shelf photos", len(truth)) as work:
        if num_processes == 1 or len(truth) < _LEAST_IMAGES_FOR_POOL:
            for chunk in chunks:
                work.done += _write_images(options, chunk, part)
        else:
            with _pool(num_processes) as pool:
                for future in as_completed([pool.submit(_write_images, options, chunk, part) for chunk in chunks]):
                    work.done += future.result()
    truth.to_parquet(part / TRUTH_FILE, index=False)
    (part / OPTIONS_FILE).write_text(options.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _write_images(options: ShelfOptions, rows: pd.DataFrame, part: Path) -> int:
    """Draw and write the images of some truth rows; return their number."""
    catalog = build_catalog(options)
    for row in rows.to_dict("records"):
        (part / row["path"]).write_bytes(encode(draw_image(row, catalog), row))
    return len(rows)


@contextmanager
def _pool(num_processes: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of spawned processes (a fork would copy other libraries' locks); cancel all on any failure."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_processes, mp_context=context, initializer=_start_process)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise RuntimeError(f"a process drawing the shelf died: out of memory, or no guard\n{_GUARD_HINT}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process() -> None:
    # Ctrl-C reaches the whole process group; only the parent reacts to it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is killed; it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
