"""Runs of the seeds of a trial, in a user attribute of the trial: a resumed trial does not repeat finished seeds."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from rp2k_lab.sweep.storage import with_retries
from rp2k_lab.sweep.study import last_interrupted

# One attribute, written as a whole: a worker that is killed between two writes leaves no mixture of two runs.
_ATTRIBUTE = "seeds"


@dataclass(frozen=True)
class SeedRun:
    """The run of one seed.

    Attributes:
        top1: val top-1, 0 to 1; None: unfinished.
        seconds: of the run's process; None: unknown, since the run was resumed.
    """

    run_id: str = ""
    folder: str = ""
    top1: float | None = None
    seconds: float | None = None


def read_seed_runs(trial: FrozenTrial | optuna.Trial) -> dict[int, SeedRun]:
    """Return the runs of a trial by seed; empty for a trial of one run."""
    return {int(seed): SeedRun(**run) for seed, run in json.loads(trial.user_attrs.get(_ATTRIBUTE, "{}")).items()}


class SeedRuns:
    """The runs of a trial's seeds; each change is stored with the trial.

    Args:
        attempts: the trials of the same point, oldest first.  Their finished seeds count as this trial's, and the run
            of the last one is kept for `resumable` if a signal ended it or its worker was lost.
    """

    def __init__(self, trial: optuna.Trial, attempts: Sequence[FrozenTrial]):
        self._trial, self._runs = trial, {}
        former = last_interrupted(list(attempts))
        for attempt in attempts:
            kept = {seed: run for seed, run in read_seed_runs(attempt).items() if run.top1 is not None}
            self._runs |= read_seed_runs(attempt) | kept if attempt is former else kept
        if self._runs:
            self._save()

    def finished(self, seed: int) -> float | None:
        """Return val top-1 of a seed's run, or None if it is not finished."""
        return self._runs[seed].top1 if seed in self._runs else None

    def resumable(self, seed: int) -> Path | None:
        """Return the folder of a seed's interrupted run, or None."""
        folder = self._runs[seed].folder if seed in self._runs else ""
        return Path(folder) if folder else None

    def start(self, seed: int, run_id: str, folder: str) -> None:
        """Store that the run of a seed has started."""
        self._runs[seed] = SeedRun(run_id, folder)
        self._save()

    def finish(self, seed: int, top1: float, seconds: float | None) -> None:
        """Store the result of a seed's run."""
        self._runs[seed] = replace(self._runs.get(seed, SeedRun()), top1=top1, seconds=seconds)
        self._save()

    def _save(self) -> None:
        text = json.dumps({seed: asdict(run) for seed, run in self._runs.items()})
        with_retries(lambda: self._trial.set_user_attr(_ATTRIBUTE, text))
