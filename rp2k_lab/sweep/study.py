"""Queue of a study in its database: missing points are enqueued once and claimed by one worker each."""

import json
import logging
import os
import socket
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from rp2k_lab.config.migrations import DEFINITION_VERSION, migrate_definition, trial_attributes
from rp2k_lab.core.errors import RequestError
from rp2k_lab.sweep.space import Params, Plan, point_key

optuna.logging.set_verbosity(optuna.logging.ERROR)
logging.getLogger("alembic").setLevel(logging.WARNING)

# What studies maximize, as Optuna's page calls it.
METRIC = "top-1"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)
# User attribute of a claimed trial; a running trial without it lost its worker while being claimed.
_WORKER = "worker"
# They compare trials by val top-1 after each epoch.
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    # Prunes after the first epoch of a trial, once four trials are complete.
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
}


# The same default as in conf/hydra/sweeper/optuna.yaml, which says why.
P_THRESHOLD = 0.3


def build_pruner(name: str, p_threshold: float = P_THRESHOLD) -> optuna.pruners.BasePruner:
    """Return the pruner of `hydra.sweeper.pruner`.

    Args:
        p_threshold: of `wilcoxon`, which compares a trial with the best one, seed by seed.
    """
    if name != "wilcoxon":
        return PRUNERS[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return optuna.pruners.WilcoxonPruner(p_threshold=p_threshold)


def check_same_study(storage: optuna.storages.RDBStorage, plan: Plan, name: str) -> None:
    """Check that an existing study of this name has the same definition as the plan.

    Raises:
        RequestError: it differs; the message names the first difference.
    """
    if name not in optuna.get_all_study_names(storage):
        return
    attributes = optuna.load_study(study_name=name, storage=storage).user_attrs
    if "definition" not in attributes:
        return
    recorded = migrate_definition(attributes["definition"], attributes.get("definition_version", 1))
    if difference := _first_difference(recorded, plan.definition()):
        raise RequestError(
            f"study {name} exists with another definition: {difference}\n"
            "start another study: add hydra.sweeper.study=NAME"
        )


def open_study(
    storage: optuna.storages.RDBStorage,
    plan: Plan,
    name: str,
    pruner: str,
    seed: int,
    p_threshold: float = P_THRESHOLD,
) -> Study:
    """Open the study of this name, created if missing.  Call it inside `exclusive`."""
    sampler = NonRepeatingSampler(plan.space, seed)
    chosen = build_pruner(pruner if plan.prunes else "none", p_threshold)
    options = {"storage": storage, "sampler": sampler, "pruner": chosen}
    study = optuna.create_study(study_name=name, direction="maximize", load_if_exists=True, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([METRIC])
    study.set_user_attr("definition", plan.definition())
    study.set_user_attr("definition_version", DEFINITION_VERSION)
    return study


class NonRepeatingSampler(optuna.samplers.BaseSampler):
    """TPE sampler that draws no grid point twice, seeded with the trial number.

    A fixed seed would draw the same points again after a restart and in every parallel worker.
    """

    def __init__(self, space: dict[str, BaseDistribution], seed: int):
        self._space, self._seed = space, seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if "point" in trial.user_attrs:  # enqueued with its parameters
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            tpe = TPESampler(seed=self._seed + trial.number)
        random = RandomSampler(seed=self._seed + trial.number)
        taken = {point_of(other) for other in study.get_trials(deepcopy=False)}
        draw = lambda: {n: random.sample_independent(study, trial, n, d) for n, d in search_space.items()}  # noqa: E731
        point = tpe.sample_relative(study, trial, search_space) or draw()
        for _ in range(10_000):  # random draws finish a nearly complete grid; trials never outnumber its points
            if point_key(point) not in taken:
                break
            point = draw()
        return point

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise NotImplementedError("all dimensions are sampled together")


def refill(study: Study, plan: Plan, retries: int) -> None:
    """Enqueue what is missing: cells without a trial, and failed points with retries left.

    A point waits for the runs that it starts from.  Call it inside `exclusive`, so that nothing is enqueued twice.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _WORKER not in trial.user_attrs:
            study.tell(trial.number, state=TrialState.FAIL)
    attempts = trials_by_point(study.get_trials(deepcopy=False))
    wanted = {point_key(point): point for point in plan.points}
    wanted |= {key: json.loads(key) for key in attempts if key not in wanted and plan.prunes}
    for key, point in wanted.items():
        if is_open(attempts.get(key, []), retries) and None not in completed_runs(plan.sources(point), attempts):
            study.enqueue_trial(dict(point), user_attrs={"point": key})


def point_of(trial: FrozenTrial | optuna.Trial) -> str | None:
    """Return a trial's point as `point_key` has it, with today's keys; None before it has one."""
    return trial_attributes(trial.user_attrs).get("point")


def trials_by_point(trials: list[FrozenTrial]) -> dict[str, list[FrozenTrial]]:
    """Return the trials of each point, oldest first, by `point_key`."""
    attempts = defaultdict(list)
    for trial in trials:
        if point := point_of(trial):
            attempts[point].append(trial)
    return dict(attempts)


def completed_runs(points: list[Params], attempts: dict[str, list[FrozenTrial]]) -> list[str | None]:
    """Return the id of the completed run of each point, or None."""
    done = lambda point: [t for t in attempts.get(point_key(point), []) if t.state == TrialState.COMPLETE]  # noqa: E731
    return [trials[-1].user_attrs.get("run_id") if (trials := done(point)) else None for point in points]


def last_interrupted(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """Return the last failed trial of a point if its run can be resumed, or None.

    Its run had a folder, and was ended by a signal or lost its worker: it did not fail by itself.
    """
    ended = [trial for trial in trials if trial.state == TrialState.FAIL]
    if not ended or "folder" not in ended[-1].user_attrs:
        return None
    return ended[-1] if ended[-1].user_attrs.get("interrupted", "reason" not in ended[-1].user_attrs) else None


def is_open(trials: list[FrozenTrial], retries: int) -> bool:
    """Return whether a point needs a trial: it has none that ended, runs or waits, and has retries left."""
    if any(trial.state in ENDED or trial.state in _UNFINISHED for trial in trials):
        return False
    return count_failures(trials) <= retries


def count_failures(trials: list[FrozenTrial]) -> int:
    """Return the number of failed trials, without those that stopped with their study or never started."""
    failed = [trial for trial in trials if trial.state == TrialState.FAIL and _WORKER in trial.user_attrs]
    return sum(not trial.user_attrs.get("stopped") for trial in failed)


def finished_points(trials: list[FrozenTrial], plan: Plan) -> set[str]:
    """Return the keys of the plan's points that are complete or pruned."""
    ended = {key for key, tried in trials_by_point(trials).items() if any(t.state in ENDED for t in tried)}
    return ended if plan.prunes else ended & {point_key(point) for point in plan.points}


def claim(study: Study, storage: optuna.storages.RDBStorage, plan: Plan) -> tuple[optuna.Trial, Params]:
    """Claim the next trial of the queue, or a new one, for this worker.  Call it inside `exclusive`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Optuna expects heartbeats from Study.optimize, not `heartbeat`
        trial = study.ask()
    point = {name: _suggest(trial, name, distribution) for name, distribution in plan.space.items()}
    if "point" not in trial.user_attrs:
        trial.set_user_attr("point", point_key(point))
    storage.record_heartbeat(trial._trial_id)  # Optuna never marks a trial without a first heartbeat as lost
    trial.set_user_attr(_WORKER, f"{socket.gethostname()}, process {os.getpid()}")
    return trial, point


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> CategoricalChoiceType:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _first_difference(recorded: dict[str, str], requested: dict[str, str]) -> str:
    """Describe the first difference between two definitions; "" if they are equal."""
    for key in {**recorded, **requested}:
        if key not in recorded:
            return f"{key} is new"
        if key not in requested:
            return f"{key} is missing in this command"
        if sorted(recorded[key].split()) != sorted(requested[key].split()):
            old, new = recorded[key].split(), requested[key].split()
            removed, added = [x for x in old if x not in new], [x for x in new if x not in old]
            old, new = (" ".join(texts) or "nothing" for texts in (removed, added))
            return f"{key} has {old} in the study, {new} in this command"
    return ""
