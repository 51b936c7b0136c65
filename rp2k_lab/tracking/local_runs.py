"""Runs that are not fully uploaded, read from the journals in their folders."""

import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from rp2k_lab import PROJECT
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.quoting import hydra_value
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.journal import SUFFIX, Journal, JournalNotWritten, read
from rp2k_lab.tracking.mlflow_runs import History, RunInfo, is_name
from rp2k_lab.tracking.mlflow_store import store_uri
from rp2k_lab.tracking.provenance import FINGERPRINT
from rp2k_lab.tracking.run_files import open_regular
from rp2k_lab.tracking.upload_state import LOCAL_ID, UploadState, is_uploaded, read_header

log = logging.getLogger(__name__)

OUTPUTS = PROJECT / "outputs"
# A folder that a request names, with those below it: 3000 runs have 100,000 files.
_MAX_FILES, _MAX_SECONDS = 100_000, 10.0
# Lines about damaged journals that this process has logged.
_named: set[str] = set()


def named_folder(reference: str) -> Path | None:
    """Return the folder that a reference of `runs=` names (`~` is the home folder), or None."""
    folder = os.path.expanduser(reference)
    return Path(folder) if os.path.isdir(folder) else None  # False for a name that no disk takes


def find_journals(folder: Path) -> list[Path]:
    """Return the journals in and below a folder that a request names, sorted; one without a record is left out.

    Raises:
        RequestError: the folder has too many files to be a folder of runs.
        DataError: no journal begins with a run.
    """
    files, damaged = _with_header(_files(folder, is_bounded=True))
    if damaged and not files:
        raise damaged[0]
    return files


def readable_journals(folder: Path) -> list[Path]:
    """Return the journals in and below a folder, sorted; name those that cannot be read, once."""
    return _with_header(_files(folder))[0]


def matches(file: Path, reference: str) -> bool:
    """Return whether `reference` is the name, id or id prefix (six or more characters) of a journal's run."""
    ids = (file.stem, UploadState.load(file).run_id or "")
    is_id = len(reference) >= 6 and any(i.startswith(reference) for i in ids)
    return is_id or is_name(read_header(file)["name"], reference)


def unsent_journals(uri: str | None) -> list[Path]:
    """Return the incompletely uploaded journals under outputs/ whose store is `uri`, or that have none."""
    stores = (None, redact(store_uri(uri)))
    incomplete = [file for file in _files(OUTPUTS) if not _is_certainly_uploaded(file)]
    return [file for file in _with_header(incomplete)[0] if read_header(file)["store"] in stores]


def _is_certainly_uploaded(file: Path) -> bool:
    try:
        return is_uploaded(file)
    except OSError:  # `_with_header` names it
        return False


def _with_header(files: Iterable[Path]) -> tuple[list[Path], list[DataError]]:
    """Return (the journals that begin with a run, an error for each that does not), and warn once of the latter.

    A journal without any line is in neither: its process has just started, or was killed then.
    """
    valid, damaged = [], []
    for file in files:
        try:
            read_header(file)
        except DataError as error:
            if not _is_empty(file):
                damaged.append(error)
        else:
            valid.append(file)
    lines = [line for line in (str(error).splitlines()[0] for error in damaged) if line not in _named]
    if lines:
        more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
        log.warning("left out: %s%s", "; ".join(lines[:3]), more)
    _named.update(lines)
    return valid, damaged


def _is_empty(file: Path) -> bool:
    try:
        with open_regular(file) as opened:
            return not opened.readline(2**16).endswith(b"\n")
    except OSError:
        return False


def _files(folder: Path, is_bounded: bool = False) -> list[Path]:
    """Return the paths of the journals in and below a folder, sorted; warn of folders that cannot be read.

    Args:
        is_bounded: raise RequestError for a folder that is too large for one of runs.
    """
    until, limit = time.monotonic() + _MAX_SECONDS, f"{_MAX_FILES} files and folders, or takes {_MAX_SECONDS:.0f} s"
    found, pending, unreadable, seen = [], deque([str(folder.absolute())]), [], 0
    while pending:
        try:
            with os.scandir(pending.popleft()) as entries:
                for entry in entries:
                    seen += 1
                    if is_bounded and (seen > _MAX_FILES or time.monotonic() > until):
                        raise RequestError(
                            f"runs={escape_controls(folder)}: has more than {limit} to search\n"
                            "use the run's own folder, its id or its name"
                        )
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.name.endswith(SUFFIX):
                        found.append(entry.path)
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError as error:
            unreadable.append(f"{escape_controls(error.filename)} ({error.strerror})")
    if unreadable:
        log.warning("%d folders cannot be read, the first: %s", len(unreadable), unreadable[0])
    return [Path(name) for name in sorted(found)]


def read_run(file: Path) -> RunInfo:
    """Return the run that a journal records; its artifact folder is the run's folder."""
    header, state = read_header(file), UploadState.load(file)
    tags, metrics, status = header["tags"] | {LOCAL_ID: header[LOCAL_ID]}, {}, "RUNNING"
    for record, _ in read(file):
        if record["kind"] == "tags":
            tags |= record["tags"]
        elif record["kind"] == "metrics":
            metrics |= record["metrics"]
        elif record["kind"] in ("end", "resumed"):
            status = record.get("status", "RUNNING")
    return RunInfo(
        state.run_id or header[LOCAL_ID],
        state.experiment_id or "",
        header["name"],
        status,
        datetime.fromtimestamp(header["time"] / 1000),
        str(file.parent),
        file.parent.as_uri(),
        tags,
        metrics,
    )


def is_resumable(folder: Path) -> bool:
    """Return whether a folder holds exactly one training that is recorded, unfinished and open in no process."""
    files, damaged = _with_header(_files(folder))
    if len(files) != 1 or damaged:
        return False
    run = read_run(files[0])
    return FINGERPRINT in run.tags and run.status != "FINISHED" and not is_open(files[0])


def is_open(journal: Path) -> bool:
    """Return whether a process has a run's journal open, or nothing can be written to it."""
    try:
        Journal(journal).close()
    except (RequestError, DataError, JournalNotWritten):
        return True
    return False


def resume_overrides(folder: Path) -> list[str]:
    """Return the overrides that make a training command resume the run in a folder (see `is_resumable`)."""
    return [f"runs={hydra_value(folder)}", "task.resume=continue"]


def check_unused(folder: Path) -> None:
    """Raise RequestError if a folder holds a training or a damaged record: a second run there would mix their files."""
    files, damaged = _with_header(folder.glob(f"*{SUFFIX}"))
    for error in damaged:
        raise RequestError(f"{str(error).splitlines()[0]}\nuse another folder: hydra.run.dir=FOLDER")
    for file in files:
        if FINGERPRINT in (run := read_run(file)).tags:
            raise RequestError(
                f"{escape_controls(folder)}: is the folder of run {escape_controls(run.name)}, id {run.run_id}\n"
                f"use another: hydra.run.dir=FOLDER; or resume it: runs={run.run_id} task.resume=continue"
            )


def with_tag(uri: str | None, tag: str) -> Iterator[RunInfo]:
    """Yield the runs of `unsent_journals` that have a tag."""
    return (run for run in map(read_run, unsent_journals(uri)) if tag in run.tags)


def history_of(uri: str | None, run_id: str) -> History | None:
    """Return each metric's (step, value) pairs in order; None if the run is not among `unsent_journals`."""
    for file in unsent_journals(uri):
        if run_id in (file.stem, UploadState.load(file).run_id):
            history: History = {}
            for record, _ in read(file):
                for name, value in record["metrics"].items() if record["kind"] == "metrics" else ():
                    history.setdefault(name, []).append((record["step"], value))
            return history
    return None
