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
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.files import make_folder, write_atomically
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls, shorten
from rp2k_lab.tracking.address import URI_VARIABLE
from rp2k_lab.tracking.journal import read
from rp2k_lab.tracking.mlflow_runs import folder_of
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
from rp2k_lab.tracking.run_files import open_regular, real_path, system_reason
from rp2k_lab.tracking.upload_state import LOCAL_ID, UploadState, checksum_of, has_part, read_header

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

log = logging.getLogger(__name__)

# MLflow's limits for one log_batch call.
PARAM_CHARACTERS = 6000
_PER_CALL = {"metrics": 1000, "params": 100, "tags": 100}
# Artifacts of this size are hard links where the store's folder is on the run's disk.
_LINKED_BYTES = 1_000_000
# How long a run waits at its end for a silent server [s].
END_SECONDS = 10.0
# A slow network: the run waits this long for a file at its end.
_BYTES_PER_SECOND = 1e6


class RunRefused(Exception):
    """The store takes nothing more for this run.  One or two lines: the reason, then the way out."""


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
        self._artifacts: Path | None = None  # the run's artifact folder, if it is on this machine

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
        if self.state.compared or run.info.run_id != self.state.run_id or not has_part(self.file, self.state, until):
            self.state = UploadState(compared=True)
        ids = {"run_id": run.info.run_id, "experiment_id": run.info.experiment_id}
        self.state = replace(self.state, store=redact(store_uri(self._uri)), **ids)
        self._in_journal, self._in_store = Counter(), {}
        self._artifacts = folder_of(run.info.artifact_uri or "") if self.local else None
        self.state.save(self.file)
        self._connection = client

    def _advance(self, offset: int, ended: bool) -> None:
        """Record that the journal is uploaded to `offset`."""
        checksum = self.state.checksum if self.state.offset else 0
        if checksum is not None:
            checksum = checksum_of(self.file, self.state.offset, offset, checksum)
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
        elif kind == "inputs":
            self._log_inputs(records[0]["inputs"])
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
                if not _linked(file, self._artifacts, target):
                    self._client.log_artifact(self.run_id, str(file), target or None)
            except Exception as error:
                if is_transient(error):
                    raise
                self._report_refusal(escape_controls(file), error_line(error))

    def _log_inputs(self, inputs: list[dict[str, str]]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        datasets = [
            DatasetInput(
                Dataset(entry["name"][:500], entry["digest"][:36], "local", json.dumps({"uri": entry["source"]})),
                [InputTag("mlflow.data.context", entry["context"])],
            )
            for entry in inputs
        ]
        try:
            self._client.log_inputs(self.run_id, datasets)
        except Exception as error:
            if is_transient(error):
                raise
            self._check_not_deleted(self._client.get_run(self.run_id))
            self._report_refusal("the data set", error_line(error))

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


def _linked(file: Path, artifacts: Path | None, folder: str) -> bool:
    """Make a large file an artifact by a hard link; return False where the caller has to copy it.

    Files of a run are replaced, never written in place, so the artifact keeps its content.  People edit small ones.

    Args:
        artifacts: the run's artifact folder on this machine, or None.
        folder: within `artifacts`.
    """
    if artifacts is None or file.stat().st_size < _LINKED_BYTES:
        return False
    target = artifacts / folder / file.name
    try:
        make_folder(target.parent)
        with write_atomically(target) as part:
            os.link(file.resolve(), part)
    except OSError:  # another disk, or one without links
        return False
    return True


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
