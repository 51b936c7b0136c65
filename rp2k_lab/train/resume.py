"""Which run a training goes on with, and from where."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from rp2k_lab.config.migrations import parse_record
from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.device.workers import Workers
from rp2k_lab.tracking.local_runs import with_tag
from rp2k_lab.tracking.mlflow_runs import RunInfo, RunStore
from rp2k_lab.tracking.mlflow_store import store_is_there
from rp2k_lab.tracking.provenance import FINGERPRINT, fingerprint, git_state, is_current
from rp2k_lab.tracking.run_lookup import CONFIG, lookup_run
from rp2k_lab.train.checkpoint import CheckpointFolder, TrainingPosition

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
    run: RunInfo | None = None
    point: TrainingPosition | None = None

    @property
    def step(self) -> int:
        """Steps done before."""
        return self.point.step if self.point else 0

    def tags(self, config: Config, earlier: RunInfo | None) -> dict[str, str]:
        """How the run is found again, what it verifies (`earlier`), and where and by which code it was taken up."""
        if self.run is None:
            return {FINGERPRINT: fingerprint(config)} | ({"verifies": earlier.run_id} if earlier else {})
        now, former = {"resumed_from": str(self.step), RESUMED_WITH: _code(git_state())}, self.run.tags
        return {tag: f"{former[tag]},{value}" if tag in former else value for tag, value in now.items()}


def earlier_run(config: Config) -> RunInfo | None:
    """The training that the command is about, or None for a new one.

    Raises:
        RequestError: there is no such run, or its record is not whole.
    """
    if config.runs:
        run = lookup_run(config.tracking.uri, config.runs[0])
        if FINGERPRINT not in run.tags:
            raise RequestError(
                f"runs={config.runs[0]}: the run ended before its record was whole\ntrain anew: leave out runs="
            )
        return run
    if config.task.resume == "never":
        return None
    key, uri = fingerprint(config), config.tracking.uri
    runs = [*_of_store(uri, key), *with_tag(uri, FINGERPRINT)]
    found = [r for r in {run.own_id: run for run in runs}.values() if "verifies" not in r.tags and _is_of(r, key)]
    if not found:
        log.info("task.resume=auto: no earlier run of this configuration; a new one begins")
    return max(found, key=lambda run: run.started, default=None)


def _of_store(uri: str | None, key: str) -> list[RunInfo]:
    """Return the runs of a store with this fingerprint, and those whose fingerprint is of an older version.

    A store that does not answer holds no run up.
    """
    if not store_is_there(uri):
        return []
    try:
        return [run for run in RunStore(uri).with_tag(FINGERPRINT) if _may_be_of(run, key)]
    except RequestError as error:
        log.warning("task.resume=auto: looks under outputs/ alone (%s)", str(error).splitlines()[0])
        return []


def _may_be_of(run: RunInfo, key: str) -> bool:
    return run.tags[FINGERPRINT] == key or not is_current(run.tags[FINGERPRINT])


def _is_of(run: RunInfo, key: str) -> bool:
    """Return whether a run has the configuration that `key` is the fingerprint of, by its record.

    Where the record is on another machine, the tag decides.
    """
    try:
        recorded = yaml.safe_load((Path(run.folder) / CONFIG).read_text("utf-8"))
        return _may_be_of(run, key) and fingerprint(parse_record(recorded)) == key
    except FileNotFoundError:
        return run.tags[FINGERPRINT] == key
    except (OSError, ValueError, yaml.YAMLError, RequestError, KeyError, TypeError, AttributeError):
        return False  # damaged, or no configuration of today


def is_finished(run: RunInfo) -> bool:
    """Whether nothing is left to do; a trial that its study has pruned is finished too."""
    return run.status == "FINISHED" or run.tags.get("status") == "PRUNED"


def check_state(config: Config, run: RunInfo) -> None:
    """Raise RequestError where there is nothing to go on with, or nothing to verify yet."""
    state = run.tags["status"] if is_finished(run) else run.status
    if config.task.verify and run.status != "FINISHED":
        raise RequestError(f"runs={config.runs[0]}: the run is {state}\nonly one that is FINISHED can be verified")
    if not config.task.verify and is_finished(run):
        raise RequestError(f"runs={config.runs[0]}: the run is {state}, nothing is left to do\ntrain a new one")


def check_record(run: RunInfo, index: Index) -> None:
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
def acquire_run_folder(config: Config, run: RunInfo | None, folder: Path, workers: Workers) -> Iterator[Start]:
    """The start of a training, in a folder that no other process trains in.

    Args:
        run: to be gone on with; None: a new one begins in `folder`.

    Raises:
        RequestError: another process trains the run, or its folder is not on this machine.
    """
    if run:
        folder = Path(run.folder)
        if workers.is_rank_zero and not folder.is_dir():
            raise RequestError(
                f"{folder}: the folder of run {run.name} is not here\n"
                "go on where it was trained, or name the folder that it was moved to: runs=FOLDER"
            )
    folder = Path(workers.broadcast_text(str(folder)))
    if not workers.is_rank_zero:
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


def _point(config: Config, folder: Path, run: RunInfo) -> TrainingPosition | None:
    checkpoints = CheckpointFolder(folder / "checkpoints", config.task.checkpoints_kept)
    point = checkpoints.newest()
    checkpoints.rollback_to(point)
    where = f"from step {point.step}" if point else "from the first step, since it has no checkpoint"
    sinks = (
        f"; data sinks of up to {config.device.sink_steps} steps are trained whole" if config.device.sink_steps else ""
    )
    log.info("run %s, id %s, goes on %s%s", run.name, run.run_id, where, sinks)
    return point
