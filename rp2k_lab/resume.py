"""Which run a training goes on with, and from where."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from rp2k_lab.checkpoint import CheckpointFolder, Point
from rp2k_lab.config import Config
from rp2k_lab.dataset.index import Index
from rp2k_lab.errors import DataError, RequestError
from rp2k_lab.parallel import Workers
from rp2k_lab.provenance import FINGERPRINT, fingerprint, git_state
from rp2k_lab.runs import stored_run
from rp2k_lab.store import store_is_there
from rp2k_lab.stored import RunStore, StoredRun
from rp2k_lab.unsent import tagged

log = logging.getLogger(__name__)

# The tag with the code of each time that a run was taken up.
RESUMED_WITH = "resumed_with"
_CHANGED = " with changes"


@dataclass(frozen=True)
class Start:
    """Where a training begins.

    Attributes:
        folder: the run's own.
        run: the run that goes on, or None.
        point: its newest checkpoint; None: from the first step.
    """

    folder: Path
    run: StoredRun | None = None
    point: Point | None = None

    @property
    def step(self) -> int:
        """Steps done before."""
        return self.point.step if self.point else 0

    def tags(self, config: Config, earlier: StoredRun | None) -> dict[str, str]:
        """How the run is found again, what it verifies (`earlier`), and where and by which code it was taken up."""
        if self.run is None:
            return {FINGERPRINT: fingerprint(config)} | ({"verifies": earlier.run_id} if earlier else {})
        now, former = {"resumed_from": str(self.step), RESUMED_WITH: _code(git_state())}, self.run.tags
        return {tag: f"{former[tag]},{value}" if tag in former else value for tag, value in now.items()}


def earlier_run(config: Config) -> StoredRun | None:
    """The training that the command is about, or None for a new one.

    Raises:
        RequestError: there is no such run, or its record is not whole.
    """
    if config.runs:
        run = stored_run(config.tracking.uri, config.runs[0])
        if FINGERPRINT not in run.tags:
            raise RequestError(
                f"runs={config.runs[0]}: the run ended before its record was whole\ntrain anew: leave out runs="
            )
        return run
    if config.task.resume == "never":
        return None
    key = fingerprint(config)
    runs = [*_of_store(config.tracking, key), *tagged(config.tracking.uri, FINGERPRINT, key)]
    found = [run for run in {run.own_id: run for run in runs}.values() if "verifies" not in run.tags]
    if not found:
        log.info("task.resume=auto: no earlier run of this configuration; a new one begins")
    return max(found, key=lambda run: run.started, default=None)


def _of_store(tracking, key: str) -> list[StoredRun]:
    """The runs of a configuration that the store has; one that does not answer holds nothing up."""
    if not store_is_there(tracking.uri):
        return []
    try:
        return RunStore(tracking.uri).tagged(FINGERPRINT, key)
    except RequestError as error:
        log.warning("task.resume=auto: looks under outputs/ alone (%s)", str(error).splitlines()[0])
        return []


def is_finished(run: StoredRun) -> bool:
    """Whether nothing is left to do; a trial that its study has pruned is finished too."""
    return run.status == "FINISHED" or run.tags.get("status") == "PRUNED"


def check_state(config: Config, run: StoredRun) -> None:
    """Raise RequestError where there is nothing to go on with, or nothing to verify yet."""
    state = run.tags["status"] if is_finished(run) else run.status
    if config.task.verify and run.status != "FINISHED":
        raise RequestError(f"runs={config.runs[0]}: the run is {state}\nonly one that is FINISHED can be verified")
    if not config.task.verify and is_finished(run):
        raise RequestError(f"runs={config.runs[0]}: the run is {state}, nothing is left to do\ntrain a new one")


def check_record(run: StoredRun, index: Index) -> None:
    """Compare photos and code with those of the run; other code is only said.

    Raises:
        DataError: other photos.
    """
    there, here = run.tags["dataset_fingerprint"], index.fingerprint
    if there != here:
        raise DataError(
            f"{index.root}: not the photos of run {run.name} (fingerprint {here}, was {there})\n"
            "bring back what it was trained on, or train a new run"
        )
    later = run.tags.get(RESUMED_WITH)
    had, code = {_code(run.tags), *(later.split(",") if later else ())}, _code(git_state())
    if had == {code} and _CHANGED not in code:
        log.info("code: commit %s, as the run had", code)
    else:
        log.warning("code: the run had commit %s, here is %s", " and ".join(sorted(had)), code)


def _code(state: Mapping[str, str]) -> str:
    """The commit of `git_state`, or of a run's tags, in a word or three."""
    return state["git_commit"][:12] + (_CHANGED if state["git_dirty"] == "true" else "")


@contextmanager
def starting(config: Config, run: StoredRun | None, folder: Path, workers: Workers) -> Iterator[Start]:
    """The start of a training, in a folder that no other process trains in.

    Args:
        run: to be gone on with; None: a new one begins in `folder`.

    Raises:
        RequestError: another process trains the run, or its folder is not on this machine.
    """
    if run:
        folder = Path(run.folder)
        if workers.first and not folder.is_dir():
            raise RequestError(
                f"{folder}: the folder of run {run.name} is not here\n"
                "go on where it was trained, or name the folder that it was moved to: runs=FOLDER"
            )
    folder = Path(workers.told_by_first(str(folder)))
    if not workers.first:
        point = CheckpointFolder(folder / "checkpoints", 1).newest() if run else None
        yield Start(folder, run, point)
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RequestError(f"{folder}: another process trains this run\nwait for it, or stop it first") from None
    try:
        yield Start(folder, run, _point(config, folder, run) if run else None)
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # a run that was refused leaves no folder
            folder.rmdir()


def _point(config: Config, folder: Path, run: StoredRun) -> Point | None:
    checkpoints = CheckpointFolder(folder / "checkpoints", config.task.checkpoints_kept)
    point = checkpoints.newest()
    checkpoints.go_back_to(point)
    where = f"from step {point.step}" if point else "from the first step, since it has no checkpoint"
    sinks = (
        f"; data sinks of up to {config.device.sink_steps} steps are trained whole" if config.device.sink_steps else ""
    )
    log.info("run %s, id %s, goes on %s%s", run.name, run.run_id, where, sinks)
    return point
