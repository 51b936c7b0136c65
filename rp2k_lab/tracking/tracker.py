"""Where a run's record goes, and where it is read again.  `MemoryTracker` is the twin of `MlflowTracker` for tests.

With `store` and `sender` the only modules that know mlflow.
"""

import logging
import shlex
import uuid
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rp2k_lab.core.errors import Pruned, RequestError
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls
from rp2k_lab.tracking.journal import SUFFIX, Journal, read
from rp2k_lab.tracking.mlflow_store import (
    StoreAway,
    connect,
    how_to_see,
    in_a_line,
    process_tags,
    store_uri,
    unreachable,
)
from rp2k_lab.tracking.study_view import VIEW_TAG, grouped_view, page_url
from rp2k_lab.tracking.uploader import LOCAL_ID, Uploader, UploadState, UploadThread, header_of, is_sent

log = logging.getLogger(__name__)


class MemoryTracker:
    """A run that is recorded in this process alone.

    Attributes:
        history: metric name to its (step, value) in order.
        params, tags: what was logged, as strings.
        artifacts: artifact paths (folder/name).
        status: RUNNING, then FINISHED, FAILED, KILLED or PRUNED.
    """

    run_id = run_name = "memory"

    def __init__(self):
        self.history: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.artifacts: list[str] = []
        self.status = "RUNNING"
        self._repeats: dict[str, int] = {}  # metric name to how many of its next values are recorded already

    def log_params(self, params: dict[str, Any]) -> None:
        """Record the run's configuration, flat names to values."""
        self.params |= {name: str(value) for name, value in params.items()}

    def set_tags(self, tags: dict[str, Any]) -> None:
        """Record facts about the run; a tag set again replaces the former."""
        self.tags |= {name: str(value) for name, value in tags.items()}

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Record values at a step (training steps done so far)."""
        for name, value in metrics.items():
            self.history[name].append((step, float(value)))

    def logged(self) -> dict[str, int]:
        """How many values of each metric there are so far, for a checkpoint."""
        return {name: len(values) for name, values in self.history.items()}

    def rewind(self, logged: dict[str, int]) -> None:
        """Take up a reopened run at a checkpoint: what was logged after it comes again, and is not recorded twice.

        By order rather than by step: val's scores of the last epoch and those of the best weights share a step.

        Args:
            logged: what `logged` said then.
        """
        for name, values in self.history.items():
            self._repeats[name] = max(0, len(values) - logged.get(name, 0))
            del values[logged.get(name, 0) :]

    def flush(self) -> None:
        """Have everything logged so far outlive this process, and a power cut."""

    def deliver(self) -> None:
        """Have the store know by now what was logged so far, unless it is away."""

    def _unrecorded(self, metrics: dict[str, float]) -> dict[str, float]:
        """Those that a reopened run has not had before."""
        new = {name: value for name, value in metrics.items() if not self._repeats.get(name)}
        for name in metrics.keys() - new.keys():
            self._repeats[name] -= 1
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
    """A run in MLflow.  Leaving the `with` block sets its status, whatever happened.

    All goes to a journal in the run's folder first, and from there to the store by a thread of its own: a store that
    is hung, restarted or not there yet holds nothing up, and gets everything as soon as it answers, or by task=sync.

    Attributes:
        journal: the file.

    Args:
        tracking: the `conf/tracking` choice; with `name: offline` nothing is sent.
        run_name: the name to show.
        folder: the run's own.
        run_id: of a run to be reopened, in its own experiment and with its own name; None: a new one.

    Raises:
        RequestError: there can be no such store, another process writes the run, or the folder has no journal of it.
        JournalNotWritten: the folder takes no file.
    """

    def __init__(self, tracking, run_name: str, folder: Path, run_id: str | None = None):
        super().__init__()
        self._uri, self._folder = tracking.uri, folder
        self.journal = _journal_of(folder, run_id) if run_id else folder / f"{uuid.uuid4().hex}{SUFFIX}"
        self._journal = Journal(self.journal)
        if not run_id:
            store = None if tracking.name == "offline" and not self._uri else redact(store_uri(self._uri))
            names = {LOCAL_ID: self.journal.stem, "name": run_name, "experiment": tracking.experiment, "store": store}
            self._journal.append("run", **names, tags=process_tags())
        header = header_of(self.journal)
        self.run_name, self._local_id = header["name"], header[LOCAL_ID]
        if run_id:
            self._reopen()
        self._sender = None if tracking.name == "offline" else Uploader(self.journal, self._uri)
        self._thread = UploadThread(self._journal, self._sender, tracking.flush_seconds)
        try:
            self._thread.start()
        except RequestError:
            self._journal.close()
            if not run_id:
                self.journal.unlink()
            raise

    @property
    def run_id(self) -> str:
        """MLflow's, or the local one as long as the store has not heard of the run; `runs=` takes both."""
        return self._sent.run_id or self._local_id

    @property
    def experiment_id(self) -> str | None:
        """MLflow's, or None as long as the store has not heard of the run."""
        return self._sent.experiment_id

    @property
    def is_sent(self) -> bool:
        """Whether the store has everything."""
        return is_sent(self.journal)

    def log_params(self, params):
        new = {name: str(value) for name, value in params.items() if name not in self.params}  # MLflow's never change
        super().log_params(new)
        self._journal.append("params", params=new)

    def set_tags(self, tags):
        super().set_tags(tags)
        self._journal.append("tags", tags={name: str(value) for name, value in tags.items()})

    def log_metrics(self, metrics, step):
        super().log_metrics(metrics, step)
        if new := self._unrecorded(metrics):
            self._journal.append("metrics", step=step, metrics={name: float(value) for name, value in new.items()})

    def flush(self):
        with suppress(OSError):  # the sender's thread syncs too, and says so
            self._journal.sync()

    def deliver(self):
        self._thread.deliver()

    def log_artifact(self, file, folder=""):
        super().log_artifact(file, folder)
        file = file.absolute()
        within = file.is_relative_to(self._folder.absolute())  # which may be moved before all is sent
        name = file.relative_to(self._folder.absolute()) if within else file
        self._journal.append("artifact", file=str(name), folder=folder)

    def close(self, status):
        super().close(status)
        self._journal.append("end", status=_mlflow_status(status))
        self._thread.close(at_once=status == "KILLED")
        self._journal.close()
        if not self.is_sent:
            log.warning("tracking: %s", self.how_to_sync())

    def where_to_look(self) -> list[str]:
        """What to do next to see the run, in a line or two."""
        lines = [] if self.is_sent else [self.how_to_sync()]
        if self.experiment_id is not None:
            lines.append(how_to_see(self._uri, self.experiment_id, self.run_id))
        return lines

    def how_to_sync(self) -> str:
        """The command that sends what the store has not got."""
        why = "offline" if self._sender is None else f"the store has not got everything ({self._thread.away})"
        return f"{why}: python run.py task=sync runs={shlex.quote(str(self._folder))}"

    @property
    def _sent(self) -> UploadState:
        return self._sender.sent if self._sender else UploadState.of(self.journal)

    def _reopen(self) -> None:
        for record, _ in read(self.journal):
            if record["kind"] == "metrics":
                super().log_metrics(record["metrics"], record["step"])
            elif record["kind"] == "params":
                super().log_params(record["params"])
            elif record["kind"] == "tags":
                super().set_tags(record["tags"])
        self.set_tags(process_tags() | {"status": "RUNNING"})
        self._journal.append("resumed")


class StudyTracker:
    """The run that a study's trials have as their parent; found again by whoever continues the study.

    With `tracking=offline` there is none, nor a page.

    Attributes:
        run_id, experiment_id: where it is, or None.
        page: what `make ui` shows of the study, or None.

    Args:
        tracking: the `conf/tracking` choice.
        study: its name.
        tags: facts about the study.
        group: the factor that its page shows the runs by, a tag of the trials' runs; None: no such page.
        metrics: what the page shows, as `study_page.grouped_view` takes them.

    Raises:
        RequestError: the server does not answer: nothing is under way that it could hold up.
    """

    def __init__(self, tracking, study: str, tags: dict[str, str], group: str | None, metrics: Sequence[str]):
        self.run_id = self.experiment_id = self.page = None
        if tracking.name == "offline":
            return
        try:
            self._client, self.experiment_id = connect(tracking.uri, tracking.experiment)
        except StoreAway as error:
            raise unreachable(store_uri(tracking.uri), error) from None
        found = self._client.search_runs([self.experiment_id], f"tags.kind = 'study' and tags.study = '{study}'")
        tags = {"kind": "study", "study": study} | tags | process_tags()
        if found:
            self.run_id = found[0].info.run_id
            self._client.update_run(self.run_id, "RUNNING")
            for name, value in tags.items():
                self._client.set_tag(self.run_id, name, value)
        else:
            self.run_id = self._client.create_run(self.experiment_id, tags=tags, run_name=study).info.run_id
        self.page = f"http://127.0.0.1:5000/#/experiments/{self.experiment_id}"
        if group:
            key, view = grouped_view(f"tags.{group}", metrics)
            self._client.set_experiment_tag(self.experiment_id, VIEW_TAG + key, view)
            self.page = page_url(self.experiment_id, key)

    def close(self, status: str) -> None:
        """Record how the study stands: FINISHED, FAILED (points are missing) or KILLED; a store that has gone costs a
        warning, since the same command sets it right."""
        from mlflow.exceptions import MlflowException

        if self.run_id is None:
            return
        try:
            self._client.set_tag(self.run_id, "status", status)
            self._client.set_terminated(self.run_id, status)
        except MlflowException as error:
            log.warning("tracking: the study's own run does not say that it is %s (%s)", status, in_a_line(error))


def _journal_of(folder: Path, run_id: str) -> Path:
    """The journal in a folder whose run has this id, MLflow's or its own."""
    for file in folder.glob(f"*{SUFFIX}"):
        if run_id in (file.stem, UploadState.of(file).run_id):
            return file
    raise RequestError(f"{escape_controls(folder)}: has no journal of run {run_id}\ntrain a new run")


def _mlflow_status(status: str) -> str:
    """MLflow knows no pruned runs; the tag `status` does."""
    return "KILLED" if status == "PRUNED" else status
