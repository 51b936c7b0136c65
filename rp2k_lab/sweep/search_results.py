"""Results of a search, read from its study: points, confirmation, Pareto set, importance of the dimensions."""

import statistics
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from rp2k_lab.config.migrations import migrate_params, trial_attributes
from rp2k_lab.core.errors import RequestError
from rp2k_lab.sweep.confirmation import ConfirmedPoint, best_trials, confirmed_points, value_of
from rp2k_lab.sweep.progress import state_of
from rp2k_lab.sweep.seed_runs import read_seed_runs
from rp2k_lab.sweep.space import Params, confirmation_name
from rp2k_lab.sweep.storage import read_study

# Of fewer points the trees of the estimate find chance.
MIN_TRIALS = 10


@dataclass(frozen=True)
class SearchPoint:
    """A complete trial of a search.

    Attributes:
        params: with today's keys.
        top1: val top-1, 0 to 1; of several seeds their mean.
        by_seed: val top-1 by seed; empty for a trial of one run.
        seconds: of one training, the start of its process included; None: unknown, since it was resumed.
    """

    trial: int
    params: Params
    top1: float
    by_seed: dict[int, float]
    seconds: float | None


@dataclass(frozen=True)
class SearchResults:
    """A search.

    Attributes:
        space: the dimensions; empty before the first trial has a point.
        fixed: the other overrides.
        states: number of trials in each state.
        points: best first.
        confirmed: best first; empty: not confirmed.
        importances: fraction of the variance of val top-1 by dimension, largest first; empty: too few trials, or no
            variance.
    """

    name: str
    space: dict[str, BaseDistribution]
    fixed: str
    states: dict[str, int]
    points: list[SearchPoint]
    confirmed: list[ConfirmedPoint]
    importances: dict[str, float]


def read_search(name: str, storage: str | None) -> SearchResults:
    """Read a search and its confirmation.

    Args:
        storage: URL of the database; None: the default of the clone.

    Raises:
        RequestError: there is no such study, or it is no search.
    """
    with read_study(storage, name) as study:
        if study is None:
            raise RequestError(
                f"task.study={name}: no such study\nuse the name and the database of the search (task.storage)"
            )
        definition = study.user_attrs.get("definition", {})
        if "confirms" in definition:
            search = definition["confirms"]
            raise RequestError(f"task.study={name}: is the confirmation of a search\nuse task.study={search}")
        if "fixed" not in definition:
            raise RequestError(f"task.study={name}: is a table, no search\nadd ablation=<table>")
        trials, importances = study.get_trials(), _importances(study)
    with read_study(storage, confirmation_name(name)) as again:
        confirmed = confirmed_points(trials, again.get_trials()) if again else []
    points = [_point(trial) for trial in best_trials(trials)]
    states = dict(Counter(map(state_of, trials)))
    return SearchResults(name, _space(trials), definition["fixed"], states, points, confirmed, importances)


def pareto_set(points: Sequence[SearchPoint]) -> list[SearchPoint]:
    """Return the points that no other equals or beats in both val top-1 and seconds, fastest first.

    A point of unknown seconds is in no set.
    """
    timed = [(point.seconds, -point.top1, point) for point in points if point.seconds is not None]
    best, front = 1.0, []
    for _, loss, point in sorted(timed, key=lambda entry: entry[:2]):
        if loss < best:
            best = loss
            front.append(point)
    return front


def _point(trial: FrozenTrial) -> SearchPoint:
    by_seed = {seed: run.top1 for seed, run in read_seed_runs(trial).items() if run.top1 is not None}
    return SearchPoint(trial.number, migrate_params(trial.params), value_of(trial), by_seed, _seconds(trial))


def _seconds(trial: FrozenTrial) -> float | None:
    if runs := read_seed_runs(trial):
        known = [run.seconds for run in runs.values() if run.seconds is not None]
        return statistics.fmean(known) if known else None
    if "resumes" in trial_attributes(trial.user_attrs):
        return None  # nobody noted when the run's former process ended
    started, ended = trial.datetime_start, trial.datetime_complete
    return (ended - started).total_seconds() if started and ended else None


def _space(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Return the dimensions with today's keys."""
    for trial in reversed(trials):
        if trial.distributions:
            keys = migrate_params(trial.params)  # in the order of the trial's own
            return dict(zip(keys, (trial.distributions[key] for key in trial.params), strict=True))
    return {}


def _importances(study: optuna.Study) -> dict[str, float]:
    """Return the importance of each dimension by fANOVA (Hutter 2014) on the complete trials; see `SearchResults`."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < MIN_TRIALS or len({trial.value for trial in complete}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    names = dict(zip(complete[-1].params, migrate_params(complete[-1].params), strict=True))
    return {names[key]: value for key, value in found.items()}
