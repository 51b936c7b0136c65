"""Runs that are not fully uploaded, read from the journals in their folders."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from rp2k_lab import PROJECT
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.journal import SUFFIX, Journal, JournalNotWritten, read
from rp2k_lab.tracking.mlflow_runs import History, RunInfo
from rp2k_lab.tracking.mlflow_store import store_uri
from rp2k_lab.tracking.provenance import FINGERPRINT
from rp2k_lab.tracking.uploader import LOCAL_ID, UploadState, is_uploaded, read_header

OUTPUTS = PROJECT / "outputs"


def find_journals(folder: Path) -> list[Path]:
    """Return the journals in and below a folder, sorted; one without a record is left out."""
    return [file for file in _files(folder) if next(read(file), None)]


def matches(file: Path, reference: str) -> bool:
    """Return whether `reference` is the name of a journal's run, or its id or id prefix (six or more characters)."""
    ids = (file.stem, UploadState.load(file).run_id or "")
    return reference == read_header(file)["name"] or (len(reference) >= 6 and any(i.startswith(reference) for i in ids))


def unsent_journals(uri: str | None) -> list[Path]:
    """Return the incompletely uploaded journals under outputs/ whose store is `uri`, or that have none."""
    stores = (None, redact(store_uri(uri)))
    incomplete = [file for file in _files(OUTPUTS) if not is_uploaded(file) and next(read(file), None)]
    return [file for file in incomplete if read_header(file)["store"] in stores]


def _files(folder: Path) -> list[Path]:
    # Path.rglob of Python 3.11 reads each folder twice, and there may be thousands of run folders.
    names = (os.path.join(parent, name) for parent, _, names in os.walk(folder.absolute()) for name in names)
    return [Path(name) for name in sorted(name for name in names if name.endswith(SUFFIX))]


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
    files = find_journals(folder)
    if len(files) != 1:
        return False
    run = read_run(files[0])
    if FINGERPRINT not in run.tags or run.status == "FINISHED":
        return False
    try:
        Journal(files[0]).close()
    except (RequestError, JournalNotWritten):
        return False
    return True


def resume_overrides(folder: Path) -> list[str]:
    """Return the overrides that make a training command resume the run in a folder (see `is_resumable`)."""
    return [f"runs='{folder}'", "task.resume=continue"]


def check_unused(folder: Path) -> None:
    """Raise RequestError if a folder holds a training: a second run there would mix their files."""
    for file in folder.glob(f"*{SUFFIX}"):
        if next(read(file), None) and FINGERPRINT in (run := read_run(file)).tags:
            raise RequestError(
                f"{escape_controls(folder)}: is the folder of run {run.name}, id {run.run_id}\n"
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
                for name, value in record.get("metrics", {}).items():
                    history.setdefault(name, []).append((record["step"], value))
            return history
    return None
