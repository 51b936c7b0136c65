"""`runs=last`, `runs=last:2` and `runs=best`: choose an earlier run by its age or by its score."""

import heapq
import logging
import math
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter

from rp2k_lab import COMMAND
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.redaction import redact
from rp2k_lab.core.text import escape_controls, percent
from rp2k_lab.tracking.local_runs import read_run, unsent_journals
from rp2k_lab.tracking.mlflow_runs import CHECKPOINT, CLOSING, EXTENSION, RunInfo, RunStore
from rp2k_lab.tracking.mlflow_store import is_alive, store_exists, store_uri
from rp2k_lab.tracking.provenance import FINGERPRINT
from rp2k_lab.tracking.upload_state import read_header

log = logging.getLogger(__name__)

# Tasks whose finished runs have a network.
WITH_NETWORK = ("train", "fixres", "extend")
# Where the score of `best` is: of trainings, and of runs without a curve and those of earlier versions.
_SCORES = (f"{CLOSING['val']}/top1", "val/top1")
_LAST, _BEST = "last", "best"
# Tags of trainings that belong to another command: a fold of task=errors, a trial of a study, task.verify=true.
_FOLD, _TRIAL, _VERIFIES = "fold", "study", "verifies"


@dataclass(frozen=True)
class Wanted:
    """The runs that a word chooses from.

    Attributes:
        what: what the runs are, for the message.
        tasks: tasks of the runs.
        unfinished: trainings that can be resumed on this machine, instead of finished runs with a checkpoint.
        excluded: runs with one of these tags do not count.
    """

    what: str
    tasks: tuple[str, ...]
    unfinished: bool
    excluded: tuple[str, ...]

    def accepts(self, run: RunInfo) -> bool:
        """Return whether a run may be chosen; the checkpoint of a finished one is not checked."""
        if run.tags.get("task") not in self.tasks or any(tag in run.tags for tag in self.excluded):
            return False
        return _is_resumable_here(run) if self.unfinished else run.status == "FINISHED"


NETWORKS = Wanted("finished runs with a network", WITH_NETWORK, False, (_FOLD,))
TO_RESUME = Wanted("unfinished trainings that can be resumed here", ("train",), True, (_FOLD, _TRIAL, _VERIFIES))
TO_VERIFY = Wanted("finished trainings", ("train",), False, (_FOLD, _VERIFIES))


def is_word(reference: str) -> bool:
    """Return whether a reference is `last`, `last:…` or `best`: no name, whatever the runs are called."""
    return reference.partition(":")[0] == _LAST or reference == _BEST


def choose(uri: str | None, word: str, experiment: str, wanted: Wanted = NETWORKS) -> RunInfo:
    """Return the run that a word means now, and log it.

    `last:N` is the N-th newest by start, in all experiments; `best` has the highest val top-1 in one experiment, and of
    equal ones it is the newest.  Runs whose upload is not complete count too, deleted ones do not.

    Args:
        uri: the store; None: the clone's store.
        experiment: the name of the MLflow experiment for `best`.

    Raises:
        RequestError: there is no such run, N is not a position, or the store does not answer.
    """
    position, only = _position(word), experiment if word == _BEST else None
    found = list(islice(_candidates(uri, only, wanted), position))
    if len(found) < position:
        where = redact(store_uri(uri)) + (f", experiment {only}" if only else "")
        number, way_out = f"fewer than {position}", f"use runs=last:{len(found)}, or an id"
        if not found:
            other = "experiment: tracking.experiment=NAME" if only else "store: tracking.uri=ADDRESS"
            number, way_out = "no", f"train one: {COMMAND}; or name another {other}"
        raise RequestError(f"runs={word}: {number} {wanted.what} in {where}\n{way_out}")
    run = found[-1]
    score = f", val top-1 {percent(_score(run))}" if only else ""
    log.info("runs=%s: %s, id %s%s", word, escape_controls(run.name), run.run_id[:8], score)
    return run


def _position(word: str) -> int:
    _, is_given, number = word.partition(":")
    if is_given and not re.fullmatch("0*[1-9][0-9]{0,5}", number):
        raise RequestError(
            f"runs={word}: needs a whole number from 1\nuse runs=last for the newest run, runs=last:2 for the second"
        )
    return int(number) if is_given else 1


def _candidates(uri: str | None, experiment: str | None, wanted: Wanted) -> Iterator[RunInfo]:
    """Yield the runs to choose from: by score within an experiment, or by age in all (None)."""
    key = _age if experiment is None else _rank
    store = RunStore(uri) if store_exists(uri) else None
    files = [file for file in unsent_journals(uri) if experiment in (None, read_header(file)["experiment"])]
    here = {file.stem for file in files}  # their journals hold more than the store
    local = ((key(run), run) for run in map(read_run, files) if wanted.accepts(run))
    sources: list[Iterator[tuple]] = [iter(sorted(local, key=itemgetter(0)))]
    if store:
        metrics = (None,) if experiment is None else _SCORES
        for found in (_stored(store, task, experiment, wanted, m) for task in wanted.tasks for m in metrics):
            sources.append((rank, run) for rank, run in found if run.local_id not in here)
    seen = set()
    for _, run in heapq.merge(*sources, key=itemgetter(0)):
        if experiment is not None and not math.isfinite(_score(run)):
            return  # the last ones
        if run.local_id in seen:
            continue
        seen.add(run.local_id)
        is_deleted = store and run.local_id in here and store.is_deleted(run)
        if not is_deleted and (wanted.unfinished or _has_network(run, store)):
            yield run


def _stored(
    store: RunStore, task: str, experiment: str | None, wanted: Wanted, metric: str | None
) -> Iterator[tuple[float | tuple[float, float], RunInfo]]:
    """Yield (rank, run) of the store's accepted runs of a task.

    Of the two metrics with a score, a training has both: the last epoch's score is not above the best epoch's, so its
    second place is not before the first.

    Args:
        metric: the runs that have it, by its value; None: all, by age.
    """
    order, is_scored = ["start_time DESC"], ""
    if metric:  # the filter makes MLflow 3.17 sort five times faster
        order, is_scored = [f"metrics.`{metric}` DESC", *order], f" and metrics.`{metric}` >= 0"
    query = f"tags.task = '{task}' and attributes.status {'!=' if wanted.unfinished else '='} 'FINISHED'{is_scored}"
    for run in filter(wanted.accepts, store.search(query, order, experiment)):
        yield (-run.metrics[metric], _age(run)) if metric else _age(run), run


def _age(run: RunInfo) -> float:
    return -run.started.timestamp()


def _score(run: RunInfo) -> float:
    score = run.closing("val", "top1")
    return math.nan if score is None else score


def _rank(run: RunInfo) -> tuple[float, float]:
    return -_score(run) if math.isfinite(_score(run)) else math.inf, _age(run)


def _has_network(run: RunInfo, store: RunStore | None) -> bool:
    file = EXTENSION if run.tags.get("task") == "extend" else CHECKPOINT
    if run.artifact_folder:
        return (run.artifact_folder / file).is_file()
    return store is not None and store.has(run, file)


def _is_resumable_here(run: RunInfo) -> bool:
    """Return whether a training is recorded and unfinished, its folder is on this machine, and no process trains it."""
    if FINGERPRINT not in run.tags or run.status == "FINISHED" or run.tags.get("status") == "PRUNED":
        return False
    if run.status == "RUNNING" and (run.tags.get("host") != socket.gethostname() or is_alive(run.tags)):
        return False
    return run.own_folder is not None
