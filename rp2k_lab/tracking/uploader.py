"""From a run's journal to the store: by a thread beside the training, or later by task=sync.

What the store has taken is kept beside the journal, and whoever comes next goes on from there.  A batch whose answer
was lost is sent again, which changes nothing: MLflow leaves out a metric that is equal in key, time, step and value
(`SqlAlchemyStore._log_metrics`), params and tags get the values that they have, a file replaces itself.  MLflow alone
makes the ids of its runs, so each also has a local one, a tag, by which it is looked for before it is created.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.journal import Journal, read
from rp2k_lab.tracking.mlflow_store import StoreAway, connect, in_a_line, is_transient, mark_dead_runs, store_uri

log = logging.getLogger(__name__)

LOCAL_ID = "local_id"
# The service's limits for one log_batch call.
PARAM_CHARACTERS = 6000
_PER_CALL = {"metrics": 1000, "params": 100, "tags": 100}
# How long a run waits for a server that does not answer: at its start, at its end, and where a signal has ended it.
START_SECONDS, END_SECONDS, STOP_SECONDS = 5.0, 10.0, 5.0
# At the end it waits longer for a file that is under way, at a slow network's pace.
_BYTES_PER_SECOND = 1e6


@dataclass
class UploadState:
    """How far a journal has come in a store.

    Attributes:
        store: without credentials; None: in none so far.
        run_id, experiment_id: the run's in MLflow.
        offset: bytes of the journal that are in the store.
        ended: whether the last of them says how the run ended.
    """

    store: str | None = None
    run_id: str | None = None
    experiment_id: str | None = None
    offset: int = 0
    ended: bool = False

    @classmethod
    def of(cls, journal: Path) -> "UploadState":
        """What is kept beside a journal; what cannot be read is nothing, and all is sent again."""
        try:
            return cls(**json.loads(_beside(journal).read_bytes()))
        except (OSError, ValueError, TypeError):
            return cls()

    def keep(self, journal: Path) -> None:
        """Replace what is kept beside the journal; a full disk leaves the former, and more is sent again."""
        temporary = _beside(journal).with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(asdict(self)))
            temporary.replace(_beside(journal))
        except OSError:
            temporary.unlink(missing_ok=True)


def _beside(journal: Path) -> Path:
    return journal.with_suffix(".sent")


class Uploader:
    """Sends what a journal has and the store has not.

    Attributes:
        file: the journal.
        sent: how far it has come.
        local: whether the store is a file of this machine.
        busy_until: the time.monotonic() until which the call under way may take its time.

    Args:
        uri: the store; None: the clone's own.
    """

    def __init__(self, file: Path, uri: str | None):
        self.file, self.sent, self.busy_until = file, UploadState.of(file), 0.0
        self._uri, self._client, self._refused = uri, None, False
        self.local = store_uri(uri).startswith("sqlite:///")

    def send(self, is_over: bool = False) -> None:
        """Send all that is in the journal now, creating the run if the store lacks it.

        Args:
            is_over: the run's process is gone; where the journal does not say how it ended, it was killed.

        Raises:
            StoreAway: the store does not answer; what it took is kept.
            RequestError: there can be no such store, or it does not let us in.
        """
        try:
            if self._client is None:
                self._open()
            for kind, records, offset in _batches(self.file, self.sent.offset):
                self._deliver(kind, records)
                self.sent.offset, self.sent.ended = offset, kind == "end"
                self.sent.keep(self.file)
            if is_over and not self.sent.ended:
                self._end_killed()
        except (StoreAway, RequestError):
            raise
        except Exception as error:  # the client raises whatever its kind of store does
            self._client = None  # and looks for its run again: the server may be another one when it is back
            raise StoreAway(in_a_line(error)) from None

    def _open(self) -> None:
        header = header_of(self.file)
        client, experiment_id = connect(self._uri, header["experiment"])
        run = _find(client, experiment_id, self.sent.run_id, header[LOCAL_ID])
        if run is None:
            mark_dead_runs(client, experiment_id)
            tags = header["tags"] | {LOCAL_ID: header[LOCAL_ID]}
            run = client.create_run(experiment_id, header["time"], tags, header["name"])
        same = run.info.run_id == self.sent.run_id
        self.sent = UploadState(
            redact(store_uri(self._uri)),
            run.info.run_id,
            run.info.experiment_id,
            self.sent.offset if same else 0,
            self.sent.ended and same,
        )
        self.sent.keep(self.file)
        self._client = client

    def _deliver(self, kind: str, records: list[dict[str, Any]]) -> None:
        run_id, client = self.sent.run_id, self._client
        self.busy_until = time.monotonic() + END_SECONDS
        if kind in _PER_CALL:
            entries = [entry for record in records for entry in _entries(kind, record)]
            for start in range(0, len(entries), _PER_CALL[kind]):
                self._log(kind, entries[start : start + _PER_CALL[kind]])
        elif kind == "artifact":
            self._log_artifact(records[0])
        elif kind == "resumed":
            client.update_run(run_id, "RUNNING")
        elif kind == "end":
            client.set_terminated(run_id, records[0]["status"], records[0]["time"])
            self._delete_twins()

    def _end_killed(self) -> None:
        """At the time of the last record."""
        last = max(record["time"] for record, _ in read(self.file))
        self._client.set_tag(self.sent.run_id, "status", "KILLED")
        self._client.set_terminated(self.sent.run_id, "KILLED", last)
        self.sent.ended = True
        self.sent.keep(self.file)

    def _log(self, kind: str, entries: list) -> None:
        """One call; of entries that the store refuses those are left out that are to blame."""
        try:
            self._client.log_batch(self.sent.run_id, **{kind: entries})
        except Exception as error:
            if is_transient(error):
                raise
            if self._client.get_run(self.sent.run_id).info.lifecycle_stage == "deleted":
                raise StoreAway("the run was deleted there") from None
            if len(entries) == 1:
                self._leave_out(entries[0].key, in_a_line(error))
                return
            for half in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
                self._log(kind, half)

    def _log_artifact(self, record: dict[str, Any]) -> None:
        file = self.file.parent / record["file"]  # absolute where it is elsewhere
        if not file.is_file():
            self._leave_out(escape_controls(file), "the file is not there any more")
            return
        self.busy_until += file.stat().st_size / _BYTES_PER_SECOND
        try:
            self._client.log_artifact(self.sent.run_id, str(file), record["folder"] or None)
        except Exception as error:
            if is_transient(error):
                raise
            self._leave_out(escape_controls(file), in_a_line(error))

    def _leave_out(self, what: str, reason: str) -> None:
        if not self._refused:
            log.warning("tracking: the store has not got %s: %s", what, reason)
        self._refused = True

    def _delete_twins(self) -> None:
        """Where the answer to a run's creation was lost, it may have been created again."""
        query = f"tags.{LOCAL_ID} = '{header_of(self.file)[LOCAL_ID]}'"
        for run in self._client.search_runs([self.sent.experiment_id], query):
            if run.info.run_id != self.sent.run_id:
                self._client.delete_run(run.info.run_id)


class UploadThread:
    """Sends a run's journal every so often, so that the training never waits for the store.

    Attributes:
        away: why the store has not got everything, in one line; None where nothing is known to hinder it.

    Args:
        journal: which it also puts on the disk each time.
        sender: None: there is no store.
    """

    def __init__(self, journal: Journal, sender: Uploader | None, seconds: float):
        self.away: str | None = None
        self._warned = False
        self._journal, self._sender, self._seconds = journal, sender, seconds
        self._wrong: RequestError | None = None
        self._tried, self._closing, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._awaited: list[threading.Event] = []
        self._thread = threading.Thread(target=self._run, daemon=True, name="tracking")

    def start(self) -> None:
        """Begin; waits a moment for the run to be created.

        Raises:
            RequestError: there can be no such store, or it does not let us in.
        """
        self._thread.start()
        local = self._sender is None or self._sender.local
        if not self._tried.wait(None if local else START_SECONDS):
            self._went_away("it has not answered so far")
        if self._wrong:
            raise self._wrong

    def deliver(self) -> None:
        """Send at once what the journal has now; waits a moment for it, but not for a store known to be away."""
        done = threading.Event()
        self._awaited.append(done)
        self._wake.set()
        if not self.away:
            done.wait(START_SECONDS)

    def close(self, at_once: bool) -> None:
        """Send the rest.

        Args:
            at_once: wait a few seconds for a server's answers; otherwise as long as it gives any.
        """
        self._closing.set()
        self._wake.set()
        patient = self._sender is not None and (self._sender.local or not at_once)
        until = time.monotonic() + (END_SECONDS if patient else STOP_SECONDS)
        while self._thread.is_alive() and time.monotonic() < until:
            self._thread.join(0.1)
            if patient:
                until = max(until, self._sender.busy_until)
        if self._thread.is_alive():
            self.away = self.away or "it does not answer"

    def _run(self) -> None:
        while True:
            self._wake.clear()
            # Looked at first: what was appended before is sent below.
            closing, awaited, self._awaited = self._closing.is_set(), self._awaited, []
            self._send()
            self._tried.set()
            for done in awaited:
                done.set()
            if closing or self._wrong:
                return
            self._wake.wait(self._seconds)

    def _send(self) -> None:
        try:
            self._journal.sync()
            if self._sender:
                self._sender.send()
            self.away = None
        except RequestError as error:
            if self._tried.is_set():  # it let us in before
                self._went_away(in_a_line(error))
            else:
                self._wrong, self.away = error, in_a_line(error)
        except (StoreAway, OSError) as error:
            self._went_away(in_a_line(error))

    def _went_away(self, reason: str) -> None:
        if not self._warned:
            log.warning("tracking: the store does not answer and gets everything later (%s)", reason)
        self._warned, self.away = True, reason


def header_of(file: Path) -> dict[str, Any]:
    """A journal's first record: whose it is, where it goes and how it began."""
    return next(read(file))[0]


def is_sent(file: Path) -> bool:
    """Whether a store has all of a journal, and how the run ended."""
    sent = UploadState.of(file)
    return sent.ended and next(read(file, sent.offset), None) is None


def _batches(file: Path, offset: int) -> Iterator[tuple[str, list[dict[str, Any]], int]]:
    """(kind, records that go in one call, the byte behind them), in the journal's order."""
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


def _find(client, experiment_id: str, run_id: str | None, local_id: str):
    """The run as the store has it, or None."""
    from mlflow.exceptions import MlflowException

    if run_id is not None:
        try:
            return client.get_run(run_id)
        except MlflowException as error:
            if is_transient(error):
                raise
    return next(iter(client.search_runs([experiment_id], f"tags.{LOCAL_ID} = '{local_id}'")), None)
