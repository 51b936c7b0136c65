"""One worker of a study: takes what is missing, runs it, and goes on until nothing is."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import TrialState

from rp2k_lab.sweep.display import Display
from rp2k_lab.sweep.process import TrialFailed, TrialStopped, run_trial
from rp2k_lab.sweep.space import Search, Table, point_key
from rp2k_lab.sweep.study import ENDED, by_point, claim, exclusive, refill

# How often a worker without work looks whether another's trial has come back.
_WAIT_SECONDS = 2.0


class Worker:
    """Runs trials one after another.

    Args:
        storage: of the study.
        plan: what the study runs.
        extra: overrides of every trial that are none of the experiment.
        folder: where the trials' folders are made.
        retries: how often a point that failed is tried again.
        link: (trial number, label) to the name and tags of the trial's record.
        signum: the signal that asks to stop, or None.
        display: told what happens.
    """

    def __init__(
        self,
        study: Study,
        storage: optuna.storages.RDBStorage,
        plan: Table | Search,
        n_trials: int,
        extra: list[str],
        folder: Path,
        retries: int,
        link: Callable[[optuna.Trial, str], dict[str, Any]],
        signum: Callable[[], int | None],
        display: Display,
    ):
        self._study, self._storage, self._plan, self._n_trials = study, storage, plan, n_trials
        self._extra, self._folder, self._retries, self._link = extra, folder, retries, link
        self._signum, self._display = signum, display

    def work(self, device: int | None = None) -> None:
        """Run trials on one device until nothing is missing, also of what other workers have under way."""
        while self._signum() is None:
            with ExitStack() as claiming:
                claiming.enter_context(exclusive(self._storage, self._study.study_name))
                refill(self._study, self._plan, self._retries)
                trials = self._study.get_trials(deepcopy=False)
                if self._something_to_do(trials):
                    objective = lambda trial: self._run(trial, device, claiming)  # noqa: E731
                    self._study.optimize(objective, n_trials=1, catch=(TrialFailed,), callbacks=[self._display.ended])
                    continue
            if not any(trial.state == TrialState.RUNNING for trial in trials):
                return
            self._display.update("waiting for the trials of other workers")
            threading.Event().wait(_WAIT_SECONDS)

    def _something_to_do(self, trials: list[optuna.trial.FrozenTrial]) -> bool:
        if any(trial.state == TrialState.WAITING for trial in trials):
            return True
        return self._plan.prunes and len(by_point(self._study)) < self._n_trials

    def _run(self, trial: optuna.Trial, device: int | None, claiming: ExitStack) -> float:
        """Optuna's objective.  The claim is let go as soon as the point is marked as taken."""
        point = claim(trial, self._plan)
        claiming.close()
        label, folder = self._plan.label(point), self._folder / str(trial.number)
        self._display.started(trial.number, label)

        def heard(message: dict[str, Any]) -> bool:
            for key in {"run_id", "folder"} & set(message):
                trial.set_user_attr(key, message[key])
            if "epoch" not in message:
                return False
            trial.report(message["top1"], message["epoch"])
            self._display.reported(trial.number, message["epoch"], message["epochs"], message["top1"])
            return trial.should_prune()

        try:
            overrides = [*self._plan.overrides(point), *self._extra]
            objective = run_trial(overrides, folder, self._link(trial, label), device, heard, self._signum)
        except TrialFailed as error:
            trial.set_user_attr("reason", str(error))
            trial.set_user_attr("stopped", isinstance(error, TrialStopped))
            raise
        if objective is None:
            raise optuna.TrialPruned
        return objective


def missing(study: Study, plan: Table | Search, n_trials: int) -> int:
    """How many points have not come to an end."""
    ended = {key for key, trials in by_point(study).items() if any(trial.state in ENDED for trial in trials)}
    if plan.prunes:
        return max(0, n_trials - len(ended))
    return len({point_key(point) for point in plan.points} - ended)
