"""Find the run that a training resumes, and its newest checkpoint."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.locks import owner_hint, try_lock
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.device.workers import Workers
from rp2k_lab.tracking.local_runs import with_tag
from rp2k_lab.tracking.mlflow_runs import RunInfo, RunStore
from rp2k_lab.tracking.mlflow_store import store_exists
from rp2k_lab.tracking.provenance import (
    ENVIRONMENT,
    FINGERPRINT,
    NATIVE,
    NATIVE_OFF,
    environment_changes,
    environment_tag,
    fingerprint,
    git_state,
    is_current,
    native_tag,
)
from rp2k_lab.tracking.run_files import CONFIG
from rp2k_lab.tracking.run_lookup import lookup_run
from rp2k_lab.tracking.run_record import read_record
from rp2k_lab.train.checkpoint import CheckpointFolder, TrainingPosition

log = logging.getLogger(__name__)

# Keys that `null` measures, and the tag that names those that were measured.
NORMALIZATION = ("mean", "std")
MEASURED = "measured"
# Tag: the code version of each resume.
RESUMED_WITH = "resumed_with"
_CHANGED = " with changes"


@dataclass(frozen=True)
class Start:
    """The start of a training.

    Attributes:
        folder: the run's folder.
        run: the run to resume, or None.
        position: its newest checkpoint; None: start at the first step.
    """

    folder: Path
    run: RunInfo | None = None
    position: TrainingPosition | None = None

    @property
    def step(self) -> int:
        """Number of steps already done."""
        return self.position.step if self.position else 0

    def tags(self, config: Config, earlier: RunInfo | None) -> dict[str, str]:
        """Return the run's tags: fingerprint, environment, the run that it verifies (`earlier`), resumes, kernels.

        Args:
            config: the request, before the data were measured.
        """
        if self.run is None:
            measured = ",".join(key for key in NORMALIZATION if getattr(config.dataset, key) is None)
            tags = {FINGERPRINT: fingerprint(config), ENVIRONMENT: environment_tag()}
            tags |= {MEASURED: measured} if measured else {}
            return tags | ({"verifies": earlier.run_id} if earlier else {})
        tags, recorded = {"resumed_from": str(self.step), RESUMED_WITH: _code(git_state())}, self.run.tags
        tags = {tag: f"{recorded[tag]},{value}" if tag in recorded else value for tag, value in tags.items()}
        tags[NATIVE] = native_tag(recorded.get(NATIVE, NATIVE_OFF))
        # An older run's first environment is unknown.
        return tags | ({ENVIRONMENT: environment_tag(recorded[ENVIRONMENT])} if ENVIRONMENT in recorded else {})


def earlier_run(config: Config) -> RunInfo | None:
    """Return the run to resume or verify, or None for a new run.

    Raises:
        RequestError: no such run, or an incomplete record.
    """
    if config.task.trains_earlier_run:
        run = lookup_run(config.tracking.uri, config.runs[0])
        if FINGERPRINT not in run.tags:
            raise RequestError(
                f"runs={config.runs[0]}: the run ended early, its record is incomplete\n"
                "leave out runs= to train a new run"
            )
        return run
    if config.task.resume == "never":
        return None
    key, uri = fingerprint(config), config.tracking.uri
    runs = {run.local_id: run for run in [*_stored_runs(uri, key), *with_tag(uri, FINGERPRINT)]}.values()
    matches = [run for run in runs if "verifies" not in run.tags and _has_fingerprint(uri, run, key)]
    if not matches:
        log.info("task.resume=auto: no earlier run of this configuration; starting a new run")
    return max(matches, key=lambda run: run.started, default=None)


def _stored_runs(uri: str | None, key: str) -> list[RunInfo]:
    """Return the runs of a store with this fingerprint or one of an older version.

    If the store does not answer, warn and return none.
    """
    if not store_exists(uri):
        return []
    try:
        return [run for run in RunStore(uri).with_tag(FINGERPRINT) if _may_have_fingerprint(run, key)]
    except RequestError as error:
        log.warning("task.resume=auto: searching only outputs/ (%s)", str(error).splitlines()[0])
        return []


def _may_have_fingerprint(run: RunInfo, key: str) -> bool:
    return run.tags[FINGERPRINT] == key or not is_current(run.tags[FINGERPRINT])


def _has_fingerprint(uri: str | None, run: RunInfo, key: str) -> bool:
    """Return whether the run's recorded configuration has this fingerprint; without a record, whether its tag has."""
    if not _may_have_fingerprint(run, key):
        return False
    try:
        config = _read_record(uri, run)
    except (OSError, RequestError):  # on another machine, or its store does not answer
        return run.tags[FINGERPRINT] == key
    except DataError:  # damaged, or not a current configuration
        return False
    measured = dict.fromkeys(filter(None, run.tags.get(MEASURED, "").split(",")))
    requested = config.model_copy(update={"dataset": config.dataset.model_copy(update=measured)})
    return fingerprint(requested) == key


def with_recorded_normalization(config: Config, run: RunInfo) -> Config:
    """Return a request with the mean and standard deviation that were measured for the run that it resumes or verifies.

    Raises:
        RequestError: the run has no record.
        DataError: it is damaged.
    """
    missing = [key for key in NORMALIZATION if getattr(config.dataset, key) is None]
    if not missing:
        return config
    try:
        recorded = _read_record(config.tracking.uri, run).dataset
    except OSError:
        raise RequestError(f"{run.name}: {CONFIG} of the run is missing\nrestore it, or train a new run") from None
    measured = {key: getattr(recorded, key) for key in missing}
    return config.model_copy(update={"dataset": config.dataset.model_copy(update=measured)})


def _read_record(uri: str | None, run: RunInfo) -> Config:
    """Return the configuration of the run's record in its folder or else in its store."""
    if run.own_folder and (run.own_folder / CONFIG).is_file():
        return read_record(run.own_folder)
    with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        return read_record(RunStore(uri).fetch(run, (CONFIG,), Path(downloads)))


def is_finished(run: RunInfo) -> bool:
    """Return whether the run is finished, or pruned by its study."""
    return run.status == "FINISHED" or run.tags.get("status") == "PRUNED"


def check_state(config: Config, run: RunInfo) -> None:
    """Raise RequestError unless the run can be resumed, or with `task.verify` verified."""
    state = run.tags.get("status", run.status) if is_finished(run) else run.status
    if config.task.verify and run.status != "FINISHED":
        raise RequestError(
            f"runs={config.runs[0]}: the run is {state}, not FINISHED\nuse a FINISHED run for task.verify"
        )
    if not config.task.verify and is_finished(run):
        raise RequestError(
            f"runs={config.runs[0]}: the run is {state}, nothing is left to do\nleave out runs= to train a new run"
        )


def check_photos(run: RunInfo, index: Index) -> None:
    """Raise DataError unless the images and their labels are those that the run was trained on."""
    recorded, current = run.tags.get("dataset_fingerprint", "not recorded"), index.fingerprint  # a tag can be removed
    if recorded != current:
        raise DataError(
            f"{index.root}: not the photos of run {run.name} (fingerprint {current}, was {recorded})\n"
            "restore the photos that it was trained on; for a new run, add task.resume=never, and leave out runs= and "
            "task.verify"
        )


def check_record(run: RunInfo, index: Index) -> None:
    """Compare images, code and environment with those of the run; warn about different code or environment.

    Raises:
        DataError: different images.
    """
    check_photos(run, index)
    resumed = run.tags.get(RESUMED_WITH)
    recorded_code, code = {_code(run.tags), *(resumed.split(",") if resumed else ())}, _code(git_state())
    if recorded_code == {code} and _CHANGED not in code:
        log.info("code: commit %s, unchanged", code)
    else:
        log.warning("code: the run has commit %s, now it is %s", " and ".join(sorted(recorded_code)), code)
    for change in environment_changes(run.tags.get(ENVIRONMENT)):
        log.warning("environment: %s", change)


def _code(state: Mapping[str, str]) -> str:
    """Return the short commit of `git_state` or of a run's tags, and whether it has changes."""
    return state.get("git_commit", "unknown")[:12] + (_CHANGED if state.get("git_dirty") == "true" else "")


@contextmanager
def acquire_run_folder(config: Config, run: RunInfo | None, folder: Path, workers: Workers) -> Iterator[Start]:
    """Lock the run's folder against other processes and yield the start of its training.

    Args:
        run: run to resume; None: start a new one in `folder`.

    Raises:
        RequestError: another process trains the run, or its folder is not on this machine.
    """
    if run:
        folder = Path(run.folder)
        if workers.is_rank_zero and not run.own_folder:
            raise RequestError(
                f"{folder}: the folder of run {run.name} is not on this machine, or has no journal of it\n"
                "resume where it was trained, or name the folder that it was moved to: runs=FOLDER"
            )
    folder = Path(workers.broadcast_text(str(folder)))
    if not workers.is_rank_zero:
        position = CheckpointFolder(folder / "checkpoints", 1).newest() if run else None
        yield Start(folder, run, position)
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = try_lock(folder / ".lock")
    except BlockingIOError:
        hint = f"wait for it, or stop it first{owner_hint(folder / '.lock')}"
        raise RequestError(f"{folder}: another process trains this run\n{hint}") from None
    try:
        yield Start(folder, run, _restart_position(config, folder, run) if run else None)
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # only a refused run has an empty folder
            folder.rmdir()


def _restart_position(config: Config, folder: Path, run: RunInfo) -> TrainingPosition | None:
    """Roll the checkpoints back to the newest valid one, and return its position."""
    checkpoints = CheckpointFolder(folder / "checkpoints", config.task.checkpoints_kept)
    position = checkpoints.newest()
    checkpoints.rollback_to(position)
    start = f"from step {position.step}" if position else "from the first step, it has no checkpoint"
    sinks = (
        f"; data sinks of up to {config.device.sink_steps} steps are trained whole" if config.device.sink_steps else ""
    )
    log.info("run %s, id %s, resumes %s%s", run.name, run.run_id, start, sinks)
    return position
