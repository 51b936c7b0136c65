"""The parent run of the jobs of a plain `-m`, and its view."""

import json
import logging
import os
import uuid
from collections.abc import Mapping, Sequence

from rp2k_lab.core.errors import RequestError
from rp2k_lab.tracking.mlflow_store import (
    SWEEP_VARIABLE,
    StoreUnavailable,
    connect,
    error_line,
    origin_tags,
    process_tags,
    server_location,
)
from rp2k_lab.tracking.options import Tracking
from rp2k_lab.tracking.study_view import VIEW_TAG, grouped_view, view_page

log = logging.getLogger(__name__)

_METRICS = ("val_best/top1", "test/top1", "val/top1", "train/loss")


class SweepRun:
    """The parent run of a command's jobs, which find it by the environment: launchers may start other processes.

    There is none with tracking=offline, or while the store does not answer: jobs do not wait for a server, either.

    Attributes:
        page: where to see the jobs' runs, as `mlflow_store.server_location`; None: there is no parent.

    Args:
        tracking: the `conf/tracking` choice of the jobs.
        varied: the keys with several values.
        factors: of these, by what the page groups the runs, as params.
        tags: facts about the command.
    """

    def __init__(self, tracking: Tracking, varied: Sequence[str], factors: Sequence[str], tags: Mapping[str, str]):
        self.page = self._run_id = None
        if tracking.name == "offline":
            return
        try:
            self._client, experiment_id = connect(tracking.uri, tracking.experiment)
            name = "_".join(["sweep", *varied, uuid.uuid4().hex[:4]])
            facts = {"kind": "sweep", **tags, **process_tags(), **origin_tags()}
            self._run_id = self._client.create_run(experiment_id, tags=facts, run_name=name).info.run_id
            key, view = grouped_view([f"params.{factor}" for factor in factors], _METRICS, self._run_id)
            self._client.set_experiment_tag(experiment_id, VIEW_TAG + key, view)
        except (StoreUnavailable, RequestError) as error:
            log.warning("tracking: the sweep has no parent run (%s)", str(error).splitlines()[0])
            return
        except Exception as error:  # each kind of store raises its own classes
            log.warning("tracking: the sweep has no view (%s)", error_line(error))
            return
        self.page = server_location(tracking.uri, view_page(experiment_id, key))

    def __enter__(self):
        if self._run_id:
            os.environ[SWEEP_VARIABLE] = json.dumps({"mlflow.parentRunId": self._run_id})
        return self

    def note(self, text: str) -> None:
        """Show a text on the parent's page, as its description."""
        if self._run_id:
            try:
                self._client.set_tag(self._run_id, "mlflow.note.content", f"```\n{text}\n```")
            except Exception as failure:  # each kind of store raises its own classes
                log.warning("tracking: the sweep's summary is not recorded (%s)", error_line(failure))

    def __exit__(self, kind, error, traceback):
        os.environ.pop(SWEEP_VARIABLE, None)
        if self._run_id is None:
            return
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        try:
            self._client.set_tag(self._run_id, "status", status)
            self._client.set_terminated(self._run_id, status)
        except Exception as failure:
            log.warning("tracking: cannot mark the sweep's run as %s (%s)", status, error_line(failure))
