"""Runs that no store has all of, read from the journals in their folders."""

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
from rp2k_lab.tracking.uploader import LOCAL_ID, UploadState, header_of, is_sent

OUTPUTS = PROJECT / "outputs"


def journals(folder: Path) -> list[Path]:
    """Those in a folder and below it; of a run killed before its first record there is none."""
    return [file for file in sorted(folder.absolute().rglob(f"*{SUFFIX}")) if next(read(file), None)]


def answers(file: Path, reference: str) -> bool:
    """Whether the run of a journal has this name, or an id that begins so (six or more characters)."""
    ids = (file.stem, UploadState.of(file).run_id or "")
    return reference == header_of(file)["name"] or (len(reference) >= 6 and any(i.startswith(reference) for i in ids))


def unsent(uri: str | None) -> list[Path]:
    """The journals under outputs/ that were meant for a store, or for none, and are not all in one."""
    meant = (None, redact(store_uri(uri)))
    return [file for file in journals(OUTPUTS) if header_of(file)["store"] in meant and not is_sent(file)]


def run_of(file: Path) -> RunInfo:
    """What a journal says of its run; the run's folder has its files where a store would have them."""
    header, sent = header_of(file), UploadState.of(file)
    tags, metrics, status = header["tags"] | {LOCAL_ID: header[LOCAL_ID]}, {}, "RUNNING"
    for record, _ in read(file):
        if record["kind"] == "tags":
            tags |= record["tags"]
        elif record["kind"] == "metrics":
            metrics |= record["metrics"]
        elif record["kind"] in ("end", "resumed"):
            status = record.get("status", "RUNNING")
    return RunInfo(
        sent.run_id or header[LOCAL_ID],
        sent.experiment_id or "",
        header["name"],
        status,
        datetime.fromtimestamp(header["time"] / 1000),
        str(file.parent),
        file.parent.as_uri(),
        tags,
        metrics,
    )


def is_resumable(folder: Path) -> bool:
    """Whether a folder holds one training, whose record is whole, that has not finished and that no process writes."""
    files = journals(folder)
    if len(files) != 1:
        return False
    run = run_of(files[0])
    if FINGERPRINT not in run.tags or run.status == "FINISHED":
        return False
    try:
        Journal(files[0]).close()
    except (RequestError, JournalNotWritten):
        return False
    return True


def resume_overrides(folder: Path) -> list[str]:
    """What a command that trained in a folder says besides to go on with that run, where `is_resumable`."""
    return [f"runs='{folder}'", "task.resume=continue"]


def check_unused(folder: Path) -> None:
    """Raise RequestError where a folder holds a training: what is written there would be taken for that run's."""
    for file in folder.glob(f"*{SUFFIX}"):
        if next(read(file), None) and FINGERPRINT in (run := run_of(file)).tags:
            raise RequestError(
                f"{escape_controls(folder)}: is the folder of run {run.name}, id {run.run_id}\n"
                f"name another: hydra.run.dir=FOLDER; or go on with that run: runs={run.run_id} task.resume=continue"
            )


def with_tag(uri: str | None, tag: str) -> Iterator[RunInfo]:
    """Yield those of `unsent` that have a tag."""
    return (run for run in map(run_of, unsent(uri)) if tag in run.tags)


def history_of(uri: str | None, run_id: str) -> History | None:
    """Metric name to its (step, value) in order; None where the run is not of `unsent`."""
    for file in unsent(uri):
        if run_id in (file.stem, UploadState.of(file).run_id):
            history: History = {}
            for record, _ in read(file):
                for name, value in record.get("metrics", {}).items():
                    history.setdefault(name, []).append((record["step"], value))
            return history
    return None
