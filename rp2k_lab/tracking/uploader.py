"""Upload a run's journal to MLflow: by a thread during training, or later by task=sync.

A file beside the journal holds how much is uploaded, so that a later process continues there.  Uploads are idempotent,
so a batch without an answer is sent again: MLflow ignores a metric with equal key, time, step and value
(`SqlAlchemyStore._log_metrics`), params and tags keep their values, a file replaces itself.  Only MLflow can assign its
run ids, so each run also has a local id, a tag to find it by before creating it.

Only what a power cut cannot take is uploaded.  If the journal has lost lines that the store has (another disk, a
damaged file), the resumed run repeats those steps at other times: then all of the journal is compared with the store,
and a step that the store has is left out.
"""

import json
import logging
import os
import posixpath
import re
import shlex
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.files import write_text
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls, shorten
from rp2k_lab.tracking.address import URI_VARIABLE
from rp2k_lab.tracking.journal import Journal, JournalNotWritten, read
from rp2k_lab.tracking.mlflow_store import (
    StoreUnavailable,
    client_address,
    connect,
    error_line,
    is_local,
    is_transient,
    mark_dead_runs,
    store_uri,
)
from rp2k_lab.tracking.run_files import open_regular, read_small, real_path, system_reason

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

log = logging.getLogger(__name__)

LOCAL_ID = "local_id"
# MLflow's limits for one log_batch call.
PARAM_CHARACTERS = 6000
_PER_CALL = {"metrics": 1000, "params": 100, "tags": 100}
# How long a run waits for a silent server: at its start, at its end, and after a signal.
START_SECONDS, END_SECONDS, STOP_SECONDS = 5.0, 10.0, 5.0
_NO_ANSWER = "no answer so far"
# A slow network: the run waits this long for a file at its end.
_BYTES_PER_SECOND = 1e6


class RunRefused(Exception):
    """The store takes nothing more for this run.  One or two lines: the reason, then the way out."""


@dataclass
class UploadState:
    """How much of a journal is uploaded.

    Attributes:
        store: the address without credentials; None before the first upload.
        run_id, experiment_id: MLflow's ids.
        offset: uploaded part of the journal (bytes).
        ended: whether that part ends with the run's status.
        checksum: CRC-32 of that part; None: not recorded, by an earlier version.
        compared: whether the store may have steps that the journal has lost; then they are compared.
    """

    store: str | None = None
    run_id: str | None = None
    experiment_id: str | None = None
    offset: int = 0
    ended: bool = False
    checksum: int | None = None
    compared: bool = False

    @classmethod
    def load(cls, journal: Path) -> "UploadState":
        """Read the state beside a journal; if unreadable, upload everything again (uploads are idempotent)."""
        try:
            content = json.loads(read_small(_state_file(journal)))
            seal = content.pop("seal", None)
            state = cls(**content)
            valid = state._is_valid() and seal == (None if state.checksum is None else state._seal())
        except (ValueError, TypeError, AttributeError, RecursionError):
            return cls()
        return state if valid else cls()

    def save(self, journal: Path) -> None:
        """Write the state beside a journal; on a full disk the former state stays, which only repeats uploads."""
        with suppress(OSError):
            write_text(_state_file(journal), json.dumps(asdict(self) | {"seal": self._seal()}))

    def _seal(self) -> int:
        return zlib.crc32(json.dumps(asdict(self), sort_keys=True).encode())

    def _is_valid(self) -> bool:
        ids = [value for value in (self.run_id, self.experiment_id) if value is not None]
        sizes = [value for value in (self.offset, self.checksum) if value is not None]
        return (
            all(isinstance(value, str) and re.fullmatch(r"[\w-]{1,64}", value) for value in ids)
            and all(type(value) is int and value >= 0 for value in sizes)
            and isinstance(self.store, str | None)
            and isinstance(self.ended, bool)
            and isinstance(self.compared, bool)
        )


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
        # Values by (metric, step): in the journal so far, and of each metric in the store; only if `state.compared`.
        self._in_journal: Counter[tuple[str, int]] = Counter()
        self._in_store: dict[str, Counter[int]] = {}
        self.local = is_local(uri)

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

    def upload(self, is_over: bool = False, until: int | None = None) -> None:
        """Upload what the disk has of the journal; create the run if the store lacks it.

        Args:
            is_over: the run's process is gone; a journal without a status then means KILLED.
            until: the synced part of the journal (bytes); None: sync it first.

        Raises:
            StoreUnavailable: the store does not answer; the state holds what it took.
            RunRefused: the run is deleted in the store.
            RequestError: the store is impossible, or refuses access.
            DataError: the journal does not begin with a run.
        """
        try:
            if until is None:
                until = _synced_size(self.file)
            if self._connection is None:
                self._open(until)
            for kind, records, offset in _batches(self.file, self.state.offset, until):
                self._deliver(kind, records)
                self._advance(offset, kind == "end")
            if is_over and not self.state.ended:
                self._end_killed()
        except (StoreUnavailable, RunRefused, RequestError, DataError):
            self._connection = None
            raise
        except Exception as error:  # each kind of store raises its own classes
            self._connection = None  # look up the run again: the server may be a different one when it returns
            if isinstance(error, OSError) and str(error.filename) == str(self.file):
                raise RunRefused(f"{escape_controls(self.file)}: {system_reason(error)}") from None
            raise StoreUnavailable(error_line(error)) from None

    def _open(self, until: int) -> None:
        header = read_header(self.file)
        client, experiment_id = connect(self._uri, header["experiment"])
        run = _find(client, experiment_id, self.state.run_id, header[LOCAL_ID])
        if run is None:
            mark_dead_runs(client, experiment_id)
            tags = header["tags"] | {LOCAL_ID: header[LOCAL_ID]}
            run = client.create_run(experiment_id, header["time"], tags, header["name"])
            self.state = UploadState(run_id=run.info.run_id)
        self._check_not_deleted(run)
        if self.state.compared or run.info.run_id != self.state.run_id or not _has_part(self.file, self.state, until):
            self.state = UploadState(compared=True)
        ids = {"run_id": run.info.run_id, "experiment_id": run.info.experiment_id}
        self.state = replace(self.state, store=redact(store_uri(self._uri)), **ids)
        self._in_journal, self._in_store = Counter(), {}
        self.state.save(self.file)
        self._connection = client

    def _advance(self, offset: int, ended: bool) -> None:
        """Record that the journal is uploaded to `offset`."""
        checksum = self.state.checksum if self.state.offset else 0
        if checksum is not None:
            checksum = _checksum(self.file, self.state.offset, offset, checksum)
        self.state = replace(self.state, offset=offset, ended=ended, checksum=checksum)
        self.state.save(self.file)

    def _deliver(self, kind: str, records: list[dict[str, Any]]) -> None:
        self.busy_until = time.monotonic() + END_SECONDS
        if kind in _PER_CALL:
            entries = [entry for record in records for entry in _entries(kind, record)]
            if self.state.compared and kind == "metrics":
                entries = [entry for entry in entries if not self._is_in_store(entry)]
            for start in range(0, len(entries), _PER_CALL[kind]):
                self._log(kind, entries[start : start + _PER_CALL[kind]])
        elif kind == "artifact":
            self._log_artifact(records[0])
        elif kind == "resumed":
            self._client.update_run(self.run_id, "RUNNING")
        elif kind == "end":
            self._client.set_terminated(self.run_id, records[0]["status"], records[0]["time"])
            self._delete_duplicates()

    def _is_in_store(self, metric: "Metric") -> bool:
        """Return whether the store has as many values of a metric at a step as the journal up to this one."""
        if metric.key not in self._in_store:
            values = self._client.get_metric_history(self.run_id, metric.key)
            self._in_store[metric.key] = Counter(value.step for value in values)
        self._in_journal[metric.key, metric.step] += 1
        return self._in_journal[metric.key, metric.step] <= self._in_store[metric.key][metric.step]

    def _check_not_deleted(self, run: "Run") -> None:
        if run.info.lifecycle_stage == "deleted":
            address = shlex.quote(redact(client_address(store_uri(self._uri))))
            restore = f"{URI_VARIABLE}={address} python -m mlflow runs restore --run-id {run.info.run_id}"
            raise RunRefused(f"run {run.info.run_id} is deleted in the store\nrestore it: on its page, or by {restore}")

    def _end_killed(self) -> None:
        """Mark the run KILLED at the time of its last record."""
        last = max(record["time"] for record, _ in read(self.file))
        self._client.set_tag(self.run_id, "status", "KILLED")
        self._client.set_terminated(self.run_id, "KILLED", last)
        self._advance(self.state.offset, True)

    def _log(self, kind: str, entries: list) -> None:
        """Upload entries in one call; bisect a refused batch and leave out the refused entries."""
        batch: dict[str, Any] = {kind: entries}
        try:
            self._client.log_batch(self.run_id, **batch)
        except Exception as error:
            if is_transient(error):
                raise
            self._check_not_deleted(self._client.get_run(self.run_id))
            if len(entries) == 1:
                self._report_refusal(entries[0].key, error_line(error))
                return
            for half in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
                self._log(kind, half)

    def _log_artifact(self, record: dict[str, Any]) -> None:
        file, target = self.file.parent / record["file"], record["folder"]  # an absolute path replaces the folder
        try:
            _sync_regular(real_path(self.file.parent, record["file"]))
            if target and (
                target != posixpath.normpath(target) or re.match(r"\.|/", target) or not target.isprintable()
            ):
                raise ValueError("no folder of artifacts")
        except FileNotFoundError:
            self._report_refusal(escape_controls(file), "the file is gone")
        except (OSError, ValueError, DataError) as error:
            self._report_refusal(escape_controls(file), error_line(error))
        else:
            self.busy_until += file.stat().st_size / _BYTES_PER_SECOND
            try:
                self._client.log_artifact(self.run_id, str(file), target or None)
            except Exception as error:
                if is_transient(error):
                    raise
                self._report_refusal(escape_controls(file), error_line(error))

    def _report_refusal(self, what: str, reason: str) -> None:
        if not self._has_refusals:
            log.warning("tracking: cannot upload %s: %s", shorten(what, 300), reason)
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
        local = self._uploader is None or self._uploader.local
        if not local:
            import_module("mlflow")  # seconds of this machine's time, not of the server's
        self._thread.start()
        if not self._attempted.wait(None if local else START_SECONDS):
            self._fail(_NO_ANSWER)
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
            synced = self._journal.sync()
            if self._uploader:
                self._uploader.upload(until=synced)
            self.problem = None
        except RequestError as error:
            if self._attempted.is_set() or self._warned:  # access was granted before, or the answer came late
                self._fail(error_line(error))
            else:
                self._request_error, self.problem = error, error_line(error)
        except (RunRefused, JournalNotWritten, DataError) as error:
            self._fail(error_line(error), "tracking: nothing more is uploaded")
        except (StoreUnavailable, OSError) as error:
            self._fail(error_line(error))

    def _fail(self, reason: str, what: str = "tracking: the store does not answer; the upload continues later") -> None:
        if not self._warned or self.problem == _NO_ANSWER:  # now the reason is known
            log.warning("%s (%s)", what, reason)
        self._warned, self.problem = True, reason


def read_header(file: Path) -> dict[str, Any]:
    """Return a journal's first record: name, ids, store, experiment and initial tags.

    Raises:
        DataError: it is damaged, or the file cannot be read.
    """
    try:
        header, end = next(read(file), ({}, 0))
        with open_regular(file) as journal:
            first = len(journal.readline())
    except OSError as error:
        raise _no_record(file, system_reason(error)) from None
    if header.get("kind") != "run" or end != first:
        raise _no_record(file, "its first line is damaged" if first else "it is empty")
    return header


def _no_record(file: Path, reason: str) -> DataError:
    way_out = "restore the file, or move it out of the folder"
    return DataError(f"{escape_controls(file)}: no run's record ({reason})\n{way_out}")


def is_uploaded(file: Path) -> bool:
    """Return whether all of a journal is uploaded, including the run's final status.

    Raises:
        OSError: the journal cannot be read.
    """
    state = UploadState.load(file)
    return state.ended and _ends_a_line(file, state.offset) and next(read(file, state.offset), None) is None


def _synced_size(file: Path) -> int:
    """Flush a journal to the disk, and return its size (bytes)."""
    with open_regular(file) as journal:
        size = os.fstat(journal.fileno()).st_size
        os.fsync(journal.fileno())
    return size


def _sync_regular(file: Path) -> None:
    """Flush a file to the disk, so that the store never has more of it."""
    with open_regular(file) as opened, suppress(OSError):
        os.fsync(opened.fileno())


def _has_part(file: Path, state: UploadState, until: int) -> bool:
    """Return whether a journal still has the part that is uploaded."""
    if state.offset > until or not _ends_a_line(file, state.offset):
        return False
    return state.checksum is None or _checksum(file, 0, state.offset) == state.checksum


def _ends_a_line(file: Path, offset: int) -> bool:
    with open_regular(file) as journal:
        journal.seek(max(0, offset - 1))
        return offset == 0 or journal.read(1) == b"\n"


def _checksum(file: Path, start: int, end: int, checksum: int = 0) -> int:
    """Return the CRC-32 of a part of a file, continued from the part before it."""
    with open_regular(file) as journal:
        journal.seek(start)
        return zlib.crc32(journal.read(end - start), checksum)


def _batches(file: Path, offset: int, until: int) -> Iterator[tuple[str, list[dict[str, Any]], int]]:
    """Yield (kind, records for one call, their end in bytes) in the journal's order, up to `until` (bytes)."""
    kind, records, entries = "", [], 0
    for record, end in read(file, offset, until):
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
    """Return the run in the store, also a deleted one, or None."""
    from mlflow.entities import ViewType
    from mlflow.exceptions import MlflowException

    if run_id is not None:
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if is_transient(error):
                raise
        else:
            if run.data.tags.get(LOCAL_ID) == local_id:  # a foreign state may name any run
                return run
    runs = client.search_runs([experiment_id], f"tags.{LOCAL_ID} = '{local_id}'", ViewType.ALL)
    return next(iter(sorted(runs, key=lambda run: run.info.lifecycle_stage)), None)  # active before deleted
