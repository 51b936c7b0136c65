"""Trackers: the record of a run in memory (`MemoryTracker`, also for tests) or in MLflow (`MlflowTracker`)."""

import logging
import os
import re
import shutil
import uuid
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rp2k_lab import COMMAND
from rp2k_lab.core.errors import Pruned, RequestError
from rp2k_lab.core.files import write_atomically
from rp2k_lab.core.quoting import shell_override
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.journal import SUFFIX, Journal, damage_line, read
from rp2k_lab.tracking.mlflow_runs import QUOTES
from rp2k_lab.tracking.mlflow_store import (
    StoreUnavailable,
    connect,
    error_line,
    origin_tags,
    page_location,
    process_tags,
    server_location,
    store_uri,
    unreachable,
)
from rp2k_lab.tracking.options import Tracking
from rp2k_lab.tracking.study_view import VIEW_TAG, grouped_view, view_page
from rp2k_lab.tracking.upload_state import LOCAL_ID, UploadState, is_uploaded, read_header
from rp2k_lab.tracking.upload_thread import UploadThread
from rp2k_lab.tracking.uploader import Uploader

log = logging.getLogger(__name__)


class MemoryTracker:
    """A run's record in memory.

    Attributes:
        history: metric name to its (step, value) pairs in order.
        params, tags: as logged, as strings.
        artifacts: artifact paths (folder/name).
        inputs: see `log_inputs`.
        status: RUNNING, then FINISHED, FAILED, KILLED or PRUNED.
    """

    run_id = run_name = "memory"

    def __init__(self):
        self.history: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.artifacts: list[str] = []
        self.inputs: list[dict[str, str]] = []
        self.status = "RUNNING"
        # Metric name to the number of values at each step that a reopened run has recorded already.
        self._repeats: dict[str, Counter[int]] = {}
        self._is_damaged = False

    def log_params(self, params: dict[str, Any]) -> None:
        """Record the run's configuration: flat key to value."""
        self.params |= {name: str(value) for name, value in params.items()}

    def set_tags(self, tags: dict[str, Any]) -> None:
        """Record facts about the run; a tag set again replaces the former."""
        self.tags |= {name: str(value) for name, value in tags.items()}

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values at a step (training steps done so far)."""
        for name, value in metrics.items():
            self.history[name].append((step, float(value)))

    def log_inputs(self, datasets: Sequence[dict[str, str]]) -> None:
        """Record the data that the run reads, a dict each: name, digest (at most 36 characters), source, context."""
        self.inputs += datasets

    def logged(self) -> dict[str, int]:
        """Return the number of values of each metric, for a checkpoint."""
        return {name: len(values) for name, values in self.history.items()}

    def rewind(self, logged: dict[str, int], step: int = 0) -> None:
        """Rewind to a checkpoint, so that replayed steps are not logged twice.

        It counts values instead of steps: val's scores of the last epoch and of the best weights share a step.  Where
        values are lost, a count names another value than before, so the checkpoint's step limits it.

        Args:
            logged: the result of `logged` at the checkpoint.
            step: its step.
        """
        for name, values in self.history.items():
            count = logged.get(name, 0)
            if self._is_damaged:
                values.sort(key=lambda value: value[0])  # replayed steps come after later ones
                steps = [at for at, _ in values]
                count = min(max(count, bisect_left(steps, step)), bisect_right(steps, step))
            self._repeats[name] = Counter(at for at, _ in values[count:])
            del values[count:]

    def flush(self) -> None:
        """Write everything logged so far to the disk."""

    def next_steps(self) -> list[str]:
        """Return what to do next; nothing for a record in memory."""
        return []

    def deliver(self) -> None:
        """Upload everything logged so far, unless the store does not answer."""

    def _unrecorded(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """Return the metrics that are new to a reopened run at a step."""
        new = {name: value for name, value in metrics.items() if not self._repeats.get(name, Counter())[step]}
        for name in metrics.keys() - new.keys():
            self._repeats[name][step] -= 1
        return new

    def log_artifact(self, file: Path, folder: str = "") -> None:
        """Keep a file with the run, under `folder`."""
        self.artifacts.append(f"{folder}/{file.name}".lstrip("/"))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        ends = {KeyboardInterrupt: "KILLED", Pruned: "PRUNED", BaseException: "FAILED"}
        self.close("FINISHED" if kind is None else next(end for k, end in ends.items() if issubclass(kind, k)))

    def close(self, status: str) -> None:
        """Record how the run ended."""
        self.status = status
        self.set_tags({"status": status})


class MlflowTracker(MemoryTracker):
    """A run's record in MLflow; leaving the `with` block always sets its status.

    Everything goes to a journal in the run's folder first.  A thread uploads it, so training never waits for the
    store; a store that hangs, restarts or starts late gets the rest when it answers, or by task=sync.

    Attributes:
        journal: the journal's path.

    Args:
        tracking: the `conf/tracking` choice; `name: offline` uploads nothing.
        run_name: the name to show.
        folder: the run's folder.
        run_id: the run to reopen under its recorded name and experiment; None: a new run.

    Raises:
        RequestError: the store is impossible or refuses access, another process writes the run, or the folder has no
            journal of it.
        JournalNotWritten: the folder is not writable.
    """

    def __init__(self, tracking: Tracking, run_name: str, folder: Path, run_id: str | None = None):
        super().__init__()
        self._uri, self._folder = tracking.uri, folder
        self.journal = _journal_of(folder, run_id) if run_id else folder / f"{uuid.uuid4().hex}{SUFFIX}"
        self._journal = Journal(self.journal)
        if not run_id:
            store = None if tracking.name == "offline" and not self._uri else redact(store_uri(self._uri))
            names = {LOCAL_ID: self.journal.stem, "name": run_name, "experiment": tracking.experiment, "store": store}
            self._journal.append("run", **names, tags=process_tags() | origin_tags())
        header = read_header(self.journal)
        self.run_name, self._local_id = header["name"], header[LOCAL_ID]
        if run_id:
            self._reopen()
        self._uploader = None if tracking.name == "offline" else Uploader(self.journal, self._uri)
        self._thread = UploadThread(self._journal, self._uploader, tracking.flush_seconds)
        try:
            self._thread.start()
        except RequestError:
            self._journal.close()
            if not run_id:
                self.journal.unlink()
            raise

    @property
    def run_id(self) -> str:
        """MLflow's id, or the local one before the first upload; `runs=` takes both."""
        return self._upload_state.run_id or self._local_id

    @property
    def experiment_id(self) -> str | None:
        """MLflow's id, or None before the first upload."""
        return self._upload_state.experiment_id

    @property
    def is_uploaded(self) -> bool:
        """Whether everything is uploaded."""
        try:
            return is_uploaded(self.journal)
        except OSError:  # removed, or its disk
            return False

    def log_params(self, params: dict[str, Any]) -> None:
        new = {name: str(value) for name, value in params.items() if name not in self.params}  # immutable in MLflow
        super().log_params(new)
        self._journal.append("params", params=new)

    def set_tags(self, tags: dict[str, Any]) -> None:
        super().set_tags(tags)
        self._journal.append("tags", tags={name: str(value) for name, value in tags.items()})

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        super().log_metrics(metrics, step)
        if new := self._unrecorded(metrics, step):
            self._journal.append("metrics", step=step, metrics={name: float(value) for name, value in new.items()})

    def log_inputs(self, datasets: Sequence[dict[str, str]]) -> None:
        super().log_inputs(datasets)
        self._journal.append("inputs", inputs=list(datasets))

    def flush(self) -> None:
        with suppress(OSError):  # the upload thread syncs too, and reports errors
            self._journal.sync()

    def deliver(self) -> None:
        self._thread.deliver()

    def log_artifact(self, file: Path, folder: str = "") -> None:
        super().log_artifact(file, folder)
        file, run_folder = Path(os.path.abspath(file)), Path(os.path.abspath(self._folder))
        if not file.is_relative_to(run_folder):  # only files of the run's folder are uploaded
            copy = run_folder / folder / file.name
            with suppress(OSError):  # the upload reports a missing file
                copy.parent.mkdir(parents=True, exist_ok=True)
                with write_atomically(copy) as part:
                    shutil.copyfile(file, part)
            file = copy
        # The folder may be moved before the upload: store relative paths.
        self._journal.append("artifact", file=str(file.relative_to(run_folder)), folder=folder)

    def close(self, status: str) -> None:
        super().close(status)
        self._journal.append("end", status=_mlflow_status(status))
        self._thread.close(at_once=status == "KILLED")
        self._journal.close()
        if not self.is_uploaded:
            log.warning("tracking: %s", self.sync_hint())

    def next_steps(self) -> list[str]:
        """Return one or two lines: how to upload the rest, and where to see the run."""
        lines = [] if self.is_uploaded else [self.sync_hint()]
        if self.experiment_id is not None:
            lines.append(page_location(self._uri, self.experiment_id, self.run_id))
        return lines

    def sync_hint(self) -> str:
        """Return the reason for an incomplete upload and the command that completes it."""
        reason = "offline" if self._uploader is None else f"the upload is incomplete ({self._thread.problem})"
        # Another store than the clone's must be named: a record alone opens none.
        uri = f" {shell_override('tracking.uri', redact(store_uri(self._uri)))}" if self._uri else ""
        return f"{reason}: {COMMAND} task=sync {shell_override('runs', self._folder)}{uri}"

    @property
    def _upload_state(self) -> UploadState:
        return self._uploader.state if self._uploader else UploadState.load(self.journal)

    def _reopen(self) -> None:
        damaged: list[int] = []
        for record, _ in read(self.journal, damaged=damaged):
            if record["kind"] == "metrics":
                super().log_metrics(record["metrics"], record["step"])
            elif record["kind"] == "params":
                super().log_params(record["params"])
            elif record["kind"] == "tags":
                super().set_tags(record["tags"])
        self._is_damaged = bool(damaged)
        if damaged:
            log.warning("%s", damage_line(self.journal, damaged))
        self.set_tags(process_tags() | {"status": "RUNNING"})
        self._journal.append("resumed")


class StudyTracker:
    """The parent run of a study's trials; a continued study reopens it.  `tracking=offline` has none.

    Attributes:
        run_id, experiment_id: MLflow's ids, or None.
        page: where to see the study, as `mlflow_store.server_location`, or None.

    Args:
        tracking: the `conf/tracking` choice.
        study: the study's name.
        tags: facts about the study.
        group: the tag of the trials' runs to group the page by; None: no grouped page.
        metrics: the page's metrics, as for `study_view.grouped_view`.

    Raises:
        RequestError: the server does not answer.
    """

    def __init__(self, tracking: Tracking, study: str, tags: dict[str, str], group: str | None, metrics: Sequence[str]):
        self.run_id = self.experiment_id = self.page = None
        if tracking.name == "offline":
            return
        try:
            self._client, self.experiment_id = connect(tracking.uri, tracking.experiment)
        except StoreUnavailable as error:
            raise unreachable(store_uri(tracking.uri), error) from None
        # MLflow's filters have no escape for a quote: _ is any character.
        query = f"tags.kind = 'study' and tags.study LIKE '{re.sub(QUOTES, '_', study)}'"
        runs = self._client.search_runs([self.experiment_id], query)
        runs = [run for run in runs if run.data.tags["study"] == study]
        tags = {"kind": "study", "study": study} | tags | process_tags() | origin_tags()
        if runs:
            self.run_id = runs[0].info.run_id
            self._client.update_run(self.run_id, "RUNNING")
            for name, value in tags.items():
                self._client.set_tag(self.run_id, name, value)
        else:
            self.run_id = self._client.create_run(self.experiment_id, tags=tags, run_name=study).info.run_id
        page = f"#/experiments/{self.experiment_id}"
        if group:
            key, view = grouped_view([f"tags.{group}"], metrics)
            self._client.set_experiment_tag(self.experiment_id, VIEW_TAG + key, view)
            page = view_page(self.experiment_id, key)
        self.page = server_location(tracking.uri, page)

    def close(self, status: str) -> None:
        """Record the study's status: FINISHED, FAILED (incomplete) or KILLED.

        A failing store costs a warning only: the same command repairs the status.
        """
        from mlflow.exceptions import MlflowException

        if self.run_id is None:
            return
        try:
            self._client.set_tag(self.run_id, "status", status)
            self._client.set_terminated(self.run_id, status)
        except MlflowException as error:
            log.warning("tracking: cannot mark the study's run as %s (%s)", status, error_line(error))


def _journal_of(folder: Path, run_id: str) -> Path:
    """Return the journal in a folder of the run with this id, MLflow's or the local one."""
    for file in folder.glob(f"*{SUFFIX}"):
        if run_id in (file.stem, UploadState.load(file).run_id):
            return file
    raise RequestError(f"{escape_controls(folder)}: no journal of run {run_id}\ntrain a new run")


def _mlflow_status(status: str) -> str:
    """Return MLflow's status; MLflow has no PRUNED, the tag `status` has."""
    return "KILLED" if status == "PRUNED" else status
