"""The study in its storage: made once, continued by whoever comes, a point claimed by one worker at a time."""

import json
import logging
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import text

from rp2k_lab.errors import RequestError
from rp2k_lab.sweep.space import Point, Search, Table, point_key
from rp2k_lab.tracker import STORE, without_credentials

optuna.logging.set_verbosity(optuna.logging.ERROR)
logging.getLogger("alembic").setLevel(logging.WARNING)

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_UNDER_WAY = (TrialState.RUNNING, TrialState.WAITING)
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    # After a trial's first epoch, and once four trials have been run to their end.
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
}


def _own_url() -> str:
    return f"sqlite:///{STORE / 'optuna.db'}"


def open_storage(url: str | None, heartbeat_seconds: int | None) -> optuna.storages.RDBStorage:
    """The database of studies, made if it is not there; None for the heartbeat: to read alone.

    Raises:
        RequestError: it cannot be opened.
    """
    url = url or _own_url()
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        options["connect_args"] = {"timeout": 60}  # seconds that a worker waits for another's write
    elif not url.startswith("postgresql"):
        raise RequestError(
            f"hydra.sweeper.storage={without_credentials(url)}: not known\n"
            "use sqlite:///FILE on one machine, postgresql+psycopg://user@host/database on several"
        )
    try:
        with _file_lock(url), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            grace = heartbeat_seconds and 3 * heartbeat_seconds
            return optuna.storages.RDBStorage(url, options, heartbeat_interval=heartbeat_seconds, grace_period=grace)
    except Exception as error:  # whatever the database's driver raises
        reason = str(error).strip().split("\n")[0][:160]
        raise RequestError(f"hydra.sweeper.storage={without_credentials(url)}: {reason}") from error


def find_study(url: str | None, name: str) -> Study | None:
    """The study of this name, to be read; None where there is none.  Makes no database."""
    url = url or _own_url()
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return None
    try:
        return optuna.load_study(study_name=name, storage=open_storage(url, None))
    except KeyError:
        return None


def open_study(storage: optuna.storages.RDBStorage, plan: Table | Search, name: str, pruner: str, seed: int) -> Study:
    """The study of this name, made if it is not there.

    Raises:
        RequestError: there it is, but it asks something else; the first difference is shown.
    """
    sampler = Unrepeated(plan.space, seed)
    options = {"storage": storage, "sampler": sampler, "pruner": PRUNERS[pruner if plan.prunes else "none"]()}
    study = optuna.create_study(study_name=name, direction="maximize", load_if_exists=True, **options)
    definition = plan.definition()
    with exclusive(storage, name):
        if "definition" not in study.user_attrs:
            study.set_user_attr("definition", definition)
    if difference := _difference(study.user_attrs["definition"], definition):
        raise RequestError(
            f"study {name} is there and asks something else: {difference}\n"
            "start another beside it: hydra.sweeper.study=NAME"
        )
    return study


class Unrepeated(optuna.samplers.BaseSampler):
    """TPE that takes no point twice where the space is a grid; seeded anew by how many trials there are.

    A fixed seed would suggest the same points again after a restart and in every parallel worker.
    """

    def __init__(self, space: dict[str, BaseDistribution], seed: int):
        self._space, self._seed = space, seed

    def infer_relative_search_space(self, study, trial):
        return self._space

    def sample_relative(self, study, trial, search_space):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            tpe = TPESampler(seed=self._seed + trial.number)
        random = RandomSampler(seed=self._seed + trial.number)
        taken = {other.user_attrs.get("point") for other in study.get_trials(deepcopy=False)}
        draw = lambda: {n: random.sample_independent(study, trial, n, d) for n, d in search_space.items()}  # noqa: E731
        point = tpe.sample_relative(study, trial, search_space) or draw()
        for _ in range(10_000):  # a grid that is nearly done is found by chance; more trials than points are not asked
            if point_key(point) not in taken:
                break
            point = draw()
        return point

    def sample_independent(self, study, trial, param_name, param_distribution):
        raise NotImplementedError("every dimension is known beforehand")


@contextmanager
def exclusive(storage: optuna.storages.RDBStorage, name: str) -> Iterator[None]:
    """No other worker of the study, on this machine or another, is inside at the same time."""
    if storage.url.startswith("sqlite"):
        with _file_lock(storage.url):
            yield
        return
    key = zlib.crc32(name.encode())
    with storage.engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})


def refill(study: Study, plan: Table | Search, retries: int) -> None:
    """Put into the queue what is missing: cells that nobody has run, and points that failed and may be tried again.

    To be called inside `exclusive`: what is enqueued here is then enqueued once.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    attempts = by_point(study)
    wanted = {point_key(point): point for point in plan.points}
    wanted |= {key: json.loads(key) for key in attempts if key not in wanted and plan.prunes}
    for key, point in wanted.items():
        trials = attempts.get(key, [])
        if is_open(trials, retries):
            study.enqueue_trial(dict(point), user_attrs={"point": key})


def by_point(study: Study) -> dict[str, list[FrozenTrial]]:
    """Each point's trials, oldest first."""
    attempts = defaultdict(list)
    for trial in study.get_trials(deepcopy=False):
        if "point" in trial.user_attrs:
            attempts[trial.user_attrs["point"]].append(trial)
    return dict(attempts)


def is_open(trials: list[FrozenTrial], retries: int) -> bool:
    """Whether a point has neither been run, nor is it being run, nor has it failed too often."""
    if any(trial.state in ENDED or trial.state in _UNDER_WAY for trial in trials):
        return False
    return failures(trials) <= retries


def failures(trials: list[FrozenTrial]) -> int:
    """Trials that failed; those stopped with their study do not count."""
    return sum(trial.state == TrialState.FAIL and not trial.user_attrs.get("stopped") for trial in trials)


def claim(trial: optuna.Trial, plan: Table | Search) -> Point:
    """The trial's point, marked as taken."""
    point = {name: _suggest(trial, name, distribution) for name, distribution in plan.space.items()}
    if "point" not in trial.user_attrs:
        trial.set_user_attr("point", point_key(point))
    return point


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution):
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    suggest = trial.suggest_int if isinstance(distribution, IntDistribution) else trial.suggest_float
    return suggest(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _file_lock(url: str):
    file = url.removeprefix("sqlite:///")
    return FileLock(f"{file}.lock") if url.startswith("sqlite:///") else _no_lock()


@contextmanager
def _no_lock() -> Iterator[None]:
    yield


def _difference(there: dict[str, str], asked: dict[str, str]) -> str:
    """The first difference between two definitions in words, or nothing."""
    for key in {**there, **asked}:
        if key not in there:
            return f"{key} is new"
        if key not in asked:
            return f"{key} is not in this command"
        if there[key] != asked[key]:
            old, new = there[key].split(), asked[key].split()
            gone, come = [x for x in old if x not in new], [x for x in new if x not in old]
            return f"{key} has {' '.join(gone) or 'nothing'} there and {' '.join(come) or 'nothing'} here"
    return ""
