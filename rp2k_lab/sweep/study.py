"""The study in its storage: made once, continued by whoever comes, a point claimed by one worker at a time."""

import json
import logging
import os
import socket
import warnings
from collections import defaultdict
from collections.abc import Callable

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from rp2k_lab.config.migrations import migrate_definition
from rp2k_lab.core.errors import RequestError
from rp2k_lab.sweep.space import AblationGrid, Params, Search, point_key

optuna.logging.set_verbosity(optuna.logging.ERROR)
logging.getLogger("alembic").setLevel(logging.WARNING)

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_UNDER_WAY = (TrialState.RUNNING, TrialState.WAITING)
# The user attribute of a trial that a worker has taken; one that runs without it was being taken when its worker died.
_WORKER = "worker"
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    # After a trial's first epoch, and once four trials have been run to their end.
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
}


def refuse_another(storage: optuna.storages.RDBStorage, plan: AblationGrid | Search, name: str) -> None:
    """Make sure that a study of this name, if there is one, is the plan's.

    Raises:
        RequestError: it asks something else; the first difference is shown.
    """
    if name not in optuna.get_all_study_names(storage):
        return
    there = optuna.load_study(study_name=name, storage=storage).user_attrs.get("definition", plan.definition())
    if difference := _difference(migrate_definition(there), plan.definition()):
        raise RequestError(
            f"study {name} is there and asks something else: {difference}\n"
            "start another beside it: hydra.sweeper.study=NAME"
        )


def open_study(
    storage: optuna.storages.RDBStorage, plan: AblationGrid | Search, name: str, pruner: str, seed: int
) -> Study:
    """The study of this name, made if it is not there.  To be called inside `exclusive`."""
    sampler = Unrepeated(plan.space, seed)
    options = {"storage": storage, "sampler": sampler, "pruner": PRUNERS[pruner if plan.prunes else "none"]()}
    study = optuna.create_study(study_name=name, direction="maximize", load_if_exists=True, **options)
    study.set_user_attr("definition", plan.definition())
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
        if "point" in trial.user_attrs:  # it is set
            return {}
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


def refill(study: Study, plan: AblationGrid | Search, retries: int) -> None:
    """Put into the queue what is missing: cells that nobody has run, and points that failed and may be tried again.

    A point that starts from others' runs waits until these are complete.  To be called inside `exclusive`: what is
    enqueued here is then enqueued once.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _WORKER not in trial.user_attrs:
            study.tell(trial.number, state=TrialState.FAIL)
    attempts = by_point(study.get_trials(deepcopy=False))
    wanted = {point_key(point): point for point in plan.points}
    wanted |= {key: json.loads(key) for key in attempts if key not in wanted and plan.prunes}
    for key, point in wanted.items():
        if is_open(attempts.get(key, []), retries) and None not in runs_of(plan.sources(point), attempts):
            study.enqueue_trial(dict(point), user_attrs={"point": key})


def by_point(trials: list[FrozenTrial]) -> dict[str, list[FrozenTrial]]:
    """Each point's trials, oldest first."""
    attempts = defaultdict(list)
    for trial in trials:
        if "point" in trial.user_attrs:
            attempts[trial.user_attrs["point"]].append(trial)
    return dict(attempts)


def runs_of(points: list[Params], attempts: dict[str, list[FrozenTrial]]) -> list[str | None]:
    """The id of the run that completed each point, or None where none has."""
    done = lambda point: [t for t in attempts.get(point_key(point), []) if t.state == TrialState.COMPLETE]  # noqa: E731
    return [trials[-1].user_attrs.get("run_id") if (trials := done(point)) else None for point in points]


def interrupted(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The last of a point's trials that have ended, where it did not fail by itself: a signal ended it, or its worker
    died.  Without a folder its run had not begun."""
    ended = [trial for trial in trials if trial.state == TrialState.FAIL]
    if not ended or "folder" not in ended[-1].user_attrs:
        return None
    return ended[-1] if ended[-1].user_attrs.get("interrupted", "reason" not in ended[-1].user_attrs) else None


def is_open(trials: list[FrozenTrial], retries: int) -> bool:
    """Whether a point has neither been run, nor is it being run, nor has it failed too often."""
    if any(trial.state in ENDED or trial.state in _UNDER_WAY for trial in trials):
        return False
    return failures(trials) <= retries


def failures(trials: list[FrozenTrial]) -> int:
    """Trials that failed; those stopped with their study, or never started, do not count."""
    failed = [trial for trial in trials if trial.state == TrialState.FAIL and _WORKER in trial.user_attrs]
    return sum(not trial.user_attrs.get("stopped") for trial in failed)


def finished_points(trials: list[FrozenTrial], plan: AblationGrid | Search) -> set[str]:
    """Those of the plan's points that were run to their end, or pruned."""
    ended = {key for key, tried in by_point(trials).items() if any(t.state in ENDED for t in tried)}
    return ended if plan.prunes else ended & {point_key(point) for point in plan.points}


def claim(
    study: Study, storage: optuna.storages.RDBStorage, plan: AblationGrid | Search
) -> tuple[optuna.Trial, Params]:
    """A trial for this worker alone: the next in the queue, or a new one.  To be called inside `exclusive`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # heartbeats are meant for Study.optimize; here is `heartbeat`
        trial = study.ask()
    point = {name: _suggest(trial, name, distribution) for name, distribution in plan.space.items()}
    if "point" not in trial.user_attrs:
        trial.set_user_attr("point", point_key(point))
    storage.record_heartbeat(trial._trial_id)  # without a first one Optuna takes no trial for lost
    trial.set_user_attr(_WORKER, f"{socket.gethostname()}, process {os.getpid()}")
    return trial, point


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution):
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    suggest = trial.suggest_int if isinstance(distribution, IntDistribution) else trial.suggest_float
    return suggest(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _difference(there: dict[str, str], asked: dict[str, str]) -> str:
    """The first difference between two definitions in words, or nothing."""
    for key in {**there, **asked}:
        if key not in there:
            return f"{key} is new"
        if key not in asked:
            return f"{key} is not in this command"
        if sorted(there[key].split()) != sorted(asked[key].split()):
            old, new = there[key].split(), asked[key].split()
            gone, come = [x for x in old if x not in new], [x for x in new if x not in old]
            return f"{key} has {' '.join(gone) or 'nothing'} there and {' '.join(come) or 'nothing'} here"
    return ""
