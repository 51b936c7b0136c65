"""Makes a set on disk, once: the images, then the truth beside them, then the rename that says it is complete."""

import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import cv2
import pandas as pd
from filelock import FileLock
from tqdm import tqdm

from rp2k_lab.dataset.shelf.catalog import build_catalog
from rp2k_lab.dataset.shelf.options import ShelfOptions
from rp2k_lab.dataset.shelf.plan import plan
from rp2k_lab.dataset.shelf.scene import draw_image, encode

TRUTH_FILE = "truth.parquet"
OPTIONS_FILE = "options.json"
# Small enough for a smooth progress bar and a prompt stop, large enough to find the same product's art cached.
_CHUNK_IMAGES = 64
# Below this, starting processes (about a second) takes longer than drawing.
_LEAST_IMAGES_FOR_POOL = 300
_GUARD_HINT = 'call it below `if __name__ == "__main__":`, or with workers=1'


def make_shelf(options: ShelfOptions, folder: Path, workers: int | None = None, progress: bool = True) -> Path:
    """Returns the set's folder, `folder / "shelf-<fingerprint>"`, making the set if it is not there.

    Below it: `train/<class>/<image>`, `test/…`, `val/…` if asked for, `truth.parquet` (columns
    plan.TRUTH_COLUMNS, one row an image) and `options.json`. The bytes depend on the options alone, not on
    `workers` (processes; default: the CPUs this process may use). A set that exists is complete: it is
    written elsewhere and renamed last. Several processes may ask at once; one makes it, the others wait.
    Raises ValueError when the options contradict each other, before anything is written; RuntimeError when a
    worker process dies.
    """
    # A worker that imports an unguarded script would wait here for the lock of its own parent.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError("make_shelf was called while a worker process imports the main script: " + _GUARD_HINT)
    name = f"shelf-{options.fingerprint()}"
    target = Path(folder) / name
    if target.is_dir():
        return target
    truth = plan(options)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{name}.lock"):
        if target.is_dir():
            return target
        for leftover in target.parent.glob(f".{name}.part-*"):
            shutil.rmtree(leftover)
        part = Path(tempfile.mkdtemp(prefix=f".{name}.part-", dir=target.parent))
        try:
            _write_set(options, truth, part, workers or _usable_cpus(), progress)
            # mkdtemp keeps others out; a finished set is as readable as any folder.
            part.chmod(target.parent.stat().st_mode & 0o777)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_set(options: ShelfOptions, truth: pd.DataFrame, part: Path, workers: int, progress: bool) -> None:
    for split_and_class in sorted({path.rsplit("/", 1)[0] for path in truth["path"]}):
        (part / split_and_class).mkdir(parents=True)
    starts = range(0, len(truth), _CHUNK_IMAGES)
    chunks = (truth.iloc[start : start + _CHUNK_IMAGES] for start in starts)
    bar = tqdm(total=len(truth), desc="shelf", unit=" images", disable=None if progress else True)
    with bar:
        if workers == 1 or len(truth) < _LEAST_IMAGES_FOR_POOL:
            for chunk in chunks:
                bar.update(_write_images(options, chunk, part))
        else:
            with _pool(workers) as pool:
                for future in as_completed([pool.submit(_write_images, options, chunk, part) for chunk in chunks]):
                    bar.update(future.result())
    truth.to_parquet(part / TRUTH_FILE, index=False)
    (part / OPTIONS_FILE).write_text(options.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _write_images(options: ShelfOptions, rows: pd.DataFrame, part: Path) -> int:
    """Draws and writes the images of some truth rows; returns how many."""
    catalog = build_catalog(options)
    for row in rows.to_dict("records"):
        (part / row["path"]).write_bytes(encode(draw_image(row, catalog), row))
    return len(rows)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Spawned processes (a fork would copy other libraries' locks), given up at once when anything fails."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise RuntimeError(f"a process drawing the shelf died; out of memory, or else {_GUARD_HINT}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent closes nothing: without this its workers would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)
