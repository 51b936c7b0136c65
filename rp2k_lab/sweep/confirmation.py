"""Confirm the best points of a search on fresh seeds.

The best of many noisy values is too high: the search chose it for its luck too (the winner's curse).  The mean over
seeds that chose nothing has no such bias.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from rp2k_lab.config.migrations import migrate_params
from rp2k_lab.core.text import percent, text_table
from rp2k_lab.sweep.space import Confirmation, Params, Plan, Search, fresh_seeds, point_key
from rp2k_lab.sweep.study import point_of


@dataclass(frozen=True)
class ConfirmedPoint:
    """A point of a search with its fresh runs.

    Attributes:
        params: with today's keys.
        trial: of the search.
        searched: val top-1 in the search, 0 to 1.
        values: val top-1 by fresh seed; at least one.
    """

    params: Params
    trial: int
    searched: float
    values: dict[int, float]

    @property
    def mean(self) -> float:
        """Mean val top-1 over the fresh seeds, 0 to 1."""
        return statistics.fmean(self.values.values())

    @property
    def fresh(self) -> str:
        """The mean over the fresh seeds with the standard deviation between them: 84.2 ± 0.8 %."""
        return mean_text(list(self.values.values()))


def mean_text(values: Sequence[float]) -> str:
    """Return the mean of fractions with the standard deviation between them: 84.2 ± 0.8 %; of one value 84.2 %."""
    mean = percent(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean[:-2]} ± {100 * statistics.stdev(values):.1f} %"


def plan_confirmation(plan: Plan, study: optuna.Study, count: int, seed: int) -> Confirmation | None:
    """Return the grid of the `count` best points of a search on fresh seeds; None if there is nothing to confirm.

    A search over seeds is not confirmed: a fresh seed would be another point.

    Args:
        seed: the run seed of trials of one run.
    """
    if not isinstance(plan, Search) or not count or "seed" in plan.space:
        return None
    best = best_trials(study.get_trials(deepcopy=False))[:count]
    points = tuple(json.loads(point) for trial in best if (point := point_of(trial)))
    seeds = fresh_seeds(plan.trial_seeds or (seed,))
    return Confirmation(plan, study.study_name, points, seeds) if points else None


def best_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the complete trials, best first; of equal ones the first."""
    return sorted((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: (-value_of(t), t.number))


def value_of(trial: FrozenTrial) -> float:
    """Return val top-1 of a complete trial, 0 to 1."""
    assert trial.value is not None
    return trial.value


def confirmed_points(searched: Sequence[FrozenTrial], fresh: Sequence[FrozenTrial]) -> list[ConfirmedPoint]:
    """Return the points that have all fresh runs, best mean first.

    Args:
        searched: trials of the search.
        fresh: trials of its confirmation.
    """
    values: dict[str, dict[int, float]] = {}
    for trial in fresh:
        if trial.state == TrialState.COMPLETE and (key := point_of(trial)):
            point: dict[str, Any] = json.loads(key)
            seed = point.pop("seed")
            values.setdefault(point_key(point), {})[seed] = value_of(trial)
    complete = max(map(len, values.values()), default=0)
    points = [
        ConfirmedPoint(migrate_params(trial.params), trial.number, value_of(trial), values[key])
        for trial in best_trials(searched)
        if (key := point_of(trial)) in values and len(values[key]) == complete
    ]
    return sorted(points, key=lambda point: -point.mean)  # stable: of equal ones the better in the search


def confirmation_table(confirmed: Sequence[ConfirmedPoint]) -> str:
    """Return the confirmed points as a table for a terminal, best first."""
    seeds = ", ".join(map(str, sorted(confirmed[0].values)))
    head = ("in the search", f"on seeds {seeds}", "point")
    rows = [(percent(p.searched), p.fresh, " ".join(assignments(p.params))) for p in confirmed]
    return text_table([head, *rows], ">><")


def assignments(params: Params) -> list[str]:
    """Return parameters as overrides."""
    return [f"{key}={value}" for key, value in params.items()]
