"""Upload a run's journal to MLflow: by a thread during training, or later by task=sync.

A file beside the journal holds how much is uploaded, so that a later process continues there.  Uploads are idempotent,
so a batch without an answer is sent again: MLflow ignores a metric with equal key, time, step and value
(`SqlAlchemyStore._log_metrics`), params and tags keep their values, a file replaces itself.  Only MLflow can assign its
run ids, so each run also has a local id, a tag to find it by before creating it.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.files import write_text
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.journal import Journal, read
from rp2k_lab.tracking.mlflow_store import (
    StoreUnavailable,
    connect,
    error_line,
    is_transient,
    mark_dead_runs,
    store_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

LOCAL_ID = "local_id"
# MLflow's limits for one log_batch call.
PARAM_CHARACTERS = 6000
_PER_CALL = {"metrics": 1000, "params": 100, "tags": 100}
# How long a run waits for a silent server: at its start, at its end, and after a signal.
START_SECONDS, END_SECONDS, STOP_SECONDS = 5.0, 10.0, 5.0
# A slow network: the run waits this long for a file at its end.
_BYTES_PER_SECOND = 1e6


@dataclass
class UploadState:
    """How much of a journal is uploaded.

    Attributes:
        store: the address without credentials; None before the first upload.
        run_id, experiment_id: MLflow's ids.
        offset: uploaded part of the journal (bytes).
        ended: whether that part ends with the run's status.
    """

    store: str | None = None
    run_id: str | None = None
    experiment_id: str | None = None
    offset: int = 0
    ended: bool = False

    @classmethod
    def load(cls, journal: Path) -> "UploadState":
        """Read the state beside a journal; if unreadable, upload everything again (uploads are idempotent)."""
        try:
            return cls(**json.loads(_state_file(journal).read_bytes()))
        except (OSError, ValueError, TypeError):
            return cls()

    def save(self, journal: Path) -> None:
        """Write the state beside a journal; on a full disk the former state stays, which only repeats uploads."""
        with suppress(OSError):
            write_text(_state_file(journal), json.dumps(asdict(self)))


def _state_file(journal: Path) -> Path:
    return journal.with_suffix(".sent")


class Uploader:
    """Uploads the missing part of a journal.

    Attributes:
        file: the journal.
        state: how much is uploaded.
        local: whether the store is a file of this machine.
        busy_until: deadline of the current call (time.monotonic(), s).

    Args:
        uri: the store; None: the clone's store.
    """

    def __init__(self, file: Path, uri: str | None):
        self.file, self.state, self.busy_until = file, UploadState.load(file), 0.0
        self._uri, self._connection, self._has_refusals = uri, None, False
        self.local = store_uri(uri).startswith("sqlite:///")

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; after an upload."""
        assert self.state.run_id is not None
        return self.state.run_id

    @property
    def experiment_id(self) -> str:
        """MLflow's id of its experiment; after an upload."""
        assert self.state.experiment_id is not None
        return self.state.experiment_id

    @property
    def _client(self) -> "MlflowClient":
        assert self._connection is not None
        return self._connection

    def upload(self, is_over: bool = False) -> None:
        """Upload the journal's current content; create the run if the store lacks it.

        Args:
            is_over: the run's process is gone; a journal without a status then means KILLED.

        Raises:
            StoreUnavailable: the store does not answer; the state holds what it took.
            RequestError: the store is impossible, or refuses access.
        """
        try:
            if self._connection is None:
                self._open()
            for kind, records, offset in _batches(self.file, self.state.offset):
                self._deliver(kind, records)
                self.state.offset, self.state.ended = offset, kind == "end"
                self.state.save(self.file)
            if is_over and not self.state.ended:
                self._end_killed()
        except (StoreUnavailable, RequestError):
            raise
        except Exception as error:  # each kind of store raises its own classes
            self._connection = None  # look up the run again: the server may be a different one when it returns
            raise StoreUnavailable(error_line(error)) from None

    def _open(self) -> None:
        header = read_header(self.file)
        client, experiment_id = connect(self._uri, header["experiment"])
        run = _find(client, experiment_id, self.state.run_id, header[LOCAL_ID])
        if run is None:
            mark_dead_runs(client, experiment_id)
            tags = header["tags"] | {LOCAL_ID: header[LOCAL_ID]}
            run = client.create_run(experiment_id, header["time"], tags, header["name"])
        same = run.info.run_id == self.state.run_id
        self.state = UploadState(
            redact(store_uri(self._uri)),
            run.info.run_id,
            run.info.experiment_id,
            self.state.offset if same else 0,
            self.state.ended and same,
        )
        self.state.save(self.file)
        self._connection = client

    def _deliver(self, kind: str, records: list[dict[str, Any]]) -> None:
        self.busy_until = time.monotonic() + END_SECONDS
        if kind in _PER_CALL:
            entries = [entry for record in records for entry in _entries(kind, record)]
            for start in range(0, len(entries), _PER_CALL[kind]):
                self._log(kind, entries[start : start + _PER_CALL[kind]])
        elif kind == "artifact":
            self._log_artifact(records[0])
        elif kind == "resumed":
            self._client.update_run(self.run_id, "RUNNING")
        elif kind == "end":
            self._client.set_terminated(self.run_id, records[0]["status"], records[0]["time"])
            self._delete_duplicates()

    def _end_killed(self) -> None:
        """Mark the run KILLED at the time of its last record."""
        last = max(record["time"] for record, _ in read(self.file))
        self._client.set_tag(self.run_id, "status", "KILLED")
        self._client.set_terminated(self.run_id, "KILLED", last)
        self.state.ended = True
        self.state.save(self.file)

    def _log(self, kind: str, entries: list) -> None:
        """Upload entries in one call; bisect a refused batch and leave out the refused entries."""
        batch: dict[str, Any] = {kind: entries}
        try:
            self._client.log_batch(self.run_id, **batch)
        except Exception as error:
            if is_transient(error):
                raise
            if self._client.get_run(self.run_id).info.lifecycle_stage == "deleted":
                raise StoreUnavailable("the run is deleted") from None
            if len(entries) == 1:
                self._report_refusal(entries[0].key, error_line(error))
                return
            for half in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
                self._log(kind, half)

    def _log_artifact(self, record: dict[str, Any]) -> None:
        file = self.file.parent / record["file"]  # an absolute path replaces the folder
        if not file.is_file():
            self._report_refusal(escape_controls(file), "the file is gone")
            return
        self.busy_until += file.stat().st_size / _BYTES_PER_SECOND
        try:
            self._client.log_artifact(self.run_id, str(file), record["folder"] or None)
        except Exception as error:
            if is_transient(error):
                raise
            self._report_refusal(escape_controls(file), error_line(error))

    def _report_refusal(self, what: str, reason: str) -> None:
        if not self._has_refusals:
            log.warning("tracking: cannot upload %s: %s", what, reason)
        self._has_refusals = True

    def _delete_duplicates(self) -> None:
        """Delete other runs with this local id: a lost answer to `create_run` may have created two."""
        query = f"tags.{LOCAL_ID} = '{read_header(self.file)[LOCAL_ID]}'"
        for run in self._client.search_runs([self.experiment_id], query):
            if run.info.run_id != self.run_id:
                self._client.delete_run(run.info.run_id)


class UploadThread:
    """Uploads a run's journal periodically, so that training never waits for the store.

    Attributes:
        problem: why the last upload is incomplete (one line), or None.

    Args:
        journal: synced to the disk before each upload.
        uploader: None: only sync.
        seconds: the period.
    """

    def __init__(self, journal: Journal, uploader: Uploader | None, seconds: float):
        self.problem: str | None = None
        self._warned = False
        self._journal, self._uploader, self._seconds = journal, uploader, seconds
        self._request_error: RequestError | None = None
        self._attempted, self._closing, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._waiting: list[threading.Event] = []
        self._thread = threading.Thread(target=self._run, daemon=True, name="tracking")

    def start(self) -> None:
        """Start the thread; wait up to START_SECONDS for the run's creation.

        Raises:
            RequestError: the store is impossible, or refuses access.
        """
        self._thread.start()
        local = self._uploader is None or self._uploader.local
        if not self._attempted.wait(None if local else START_SECONDS):
            self._fail("no answer so far")
        if self._request_error:
            raise self._request_error

    def deliver(self) -> None:
        """Upload now; wait up to START_SECONDS unless the last upload failed."""
        done = threading.Event()
        self._waiting.append(done)
        self._wake.set()
        if not self.problem:
            done.wait(START_SECONDS)

    def close(self, at_once: bool) -> None:
        """Upload the rest and stop the thread.

        Args:
            at_once: wait at most STOP_SECONDS for a server; otherwise as long as it answers.
        """
        self._closing.set()
        self._wake.set()
        uploader = self._uploader
        patient = uploader if uploader is not None and (uploader.local or not at_once) else None
        until = time.monotonic() + (END_SECONDS if patient else STOP_SECONDS)
        while self._thread.is_alive() and time.monotonic() < until:
            self._thread.join(0.1)
            if patient:
                until = max(until, patient.busy_until)
        if self._thread.is_alive():
            self.problem = self.problem or "no answer"

    def _run(self) -> None:
        while True:
            self._wake.clear()
            # Read the flags first: whatever was appended before them is uploaded below.
            closing, waiting, self._waiting = self._closing.is_set(), self._waiting, []
            self._upload()
            self._attempted.set()
            for done in waiting:
                done.set()
            if closing or self._request_error:
                return
            self._wake.wait(self._seconds)

    def _upload(self) -> None:
        try:
            self._journal.sync()
            if self._uploader:
                self._uploader.upload()
            self.problem = None
        except RequestError as error:
            if self._attempted.is_set():  # access was granted before
                self._fail(error_line(error))
            else:
                self._request_error, self.problem = error, error_line(error)
        except (StoreUnavailable, OSError) as error:
            self._fail(error_line(error))

    def _fail(self, reason: str) -> None:
        if not self._warned:
            log.warning("tracking: the store does not answer; the upload continues later (%s)", reason)
        self._warned, self.problem = True, reason


def read_header(file: Path) -> dict[str, Any]:
    """Return a journal's first record: name, ids, store, experiment and initial tags."""
    return next(read(file))[0]


def is_uploaded(file: Path) -> bool:
    """Return whether all of a journal is uploaded, including the run's final status."""
    state = UploadState.load(file)
    return state.ended and next(read(file, state.offset), None) is None


def _batches(file: Path, offset: int) -> Iterator[tuple[str, list[dict[str, Any]], int]]:
    """Yield (kind, records for one call, their end in bytes) in the journal's order."""
    kind, records, entries = "", [], 0
    for record, end in read(file, offset):
        if records and (record["kind"] != kind or kind not in _PER_CALL or entries >= _PER_CALL[kind]):
            yield kind, records, offset
            records, entries = [], 0
        kind, offset = record["kind"], end
        records.append(record)
        entries += len(record.get(kind, ()))
    if records:
        yield kind, records, offset


def _entries(kind: str, record: dict[str, Any]) -> list:
    from mlflow.entities import Metric, Param, RunTag

    values = record[kind].items()
    if kind == "metrics":
        return [Metric(name, value, record["time"], record["step"]) for name, value in values]
    if kind == "params":
        return [Param(name, value[:PARAM_CHARACTERS]) for name, value in values]
    return [RunTag(name, value) for name, value in values]


def _find(client: "MlflowClient", experiment_id: str, run_id: str | None, local_id: str) -> "Run | None":
    """Return the run in the store, or None."""
    from mlflow.exceptions import MlflowException

    if run_id is not None:
        try:
            return client.get_run(run_id)
        except MlflowException as error:
            if is_transient(error):
                raise
    return next(iter(client.search_runs([experiment_id], f"tags.{LOCAL_ID} = '{local_id}'")), None)
