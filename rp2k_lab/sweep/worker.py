"""One worker of a study: takes what is missing, runs it, and goes on until nothing is."""

import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from rp2k_lab.sweep.progress import Display
from rp2k_lab.sweep.space import AblationGrid, Params, Search
from rp2k_lab.sweep.storage import exclusive, heartbeat, patiently
from rp2k_lab.sweep.study import by_point, claim, finished_points, interrupted, refill, runs_of
from rp2k_lab.sweep.trial_process import TrialFailed, TrialInterrupted, TrialStopped, run_trial
from rp2k_lab.tracking.local_runs import is_resumable, resume_overrides

# How often a worker without work looks whether another's trial has come back.
_WAIT_SECONDS = 2.0


class StudyWorker:
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
        plan: AblationGrid | Search,
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
            claimed, others_run = patiently(self._claim)
            if claimed:
                self._run(*claimed, device)
                self._display.update()
            elif others_run:
                self._display.update("waiting for the trials of other workers")
                threading.Event().wait(_WAIT_SECONDS)
            else:
                return

    def _claim(self) -> tuple[tuple[optuna.Trial, Params] | None, bool]:
        """A trial and its point, or None where nothing is to do; and whether any trial runs."""
        with exclusive(self._storage, self._study.study_name):
            refill(self._study, self._plan, self._retries)
            trials = self._study.get_trials(deepcopy=False)
            if self._something_to_do(trials):
                return claim(self._study, self._storage, self._plan), True
            return None, any(trial.state == TrialState.RUNNING for trial in trials)

    def _something_to_do(self, trials: list[optuna.trial.FrozenTrial]) -> bool:
        if any(trial.state == TrialState.WAITING for trial in trials):
            return True
        return self._plan.prunes and len(by_point(trials)) < self._n_trials

    def _run(self, trial: optuna.Trial, point: Params, device: int | None) -> None:
        """Run a trial and tell the study what came of it; one that was given to another meanwhile is dropped."""
        started = time.monotonic()
        try:
            with heartbeat(self._storage, trial):
                result = self._result(trial, point, device)
        except UpdateFinishedTrialError:
            result = "lost: no heartbeat reached the database, and another worker has it now"
        self._display.ended(trial.number, result, time.monotonic() - started)

    def _prepare(self, trial: optuna.Trial, point: Params) -> tuple[list[str], Path, str]:
        """(a trial's command, its run's folder, its point in words); it goes on with the run of a former trial of the
        point where that was interrupted and its folder is here."""
        attempts = by_point(patiently(lambda: self._study.get_trials(deepcopy=False)))
        runs, label = runs_of(self._plan.sources(point), attempts), self._plan.label(point)
        if runs:
            patiently(lambda: trial.set_user_attr("runs", runs))
        overrides, folder = [*self._plan.overrides(point, runs), *self._extra], self._folder / str(trial.number)
        former = interrupted(attempts[trial.user_attrs["point"]])
        if former and is_resumable(Path(former.user_attrs["folder"])):
            folder = Path(former.user_attrs["folder"])
            overrides += resume_overrides(folder)
            patiently(lambda: _take_over(trial, former))
            label += f", goes on with the run of trial {former.number}"
        return overrides, folder, label

    def _result(self, trial: optuna.Trial, point: Params, device: int | None) -> float | str | None:
        """Val top-1, None where it was pruned, or the reason why it failed."""
        overrides, folder, label = self._prepare(trial, point)
        self._display.started(trial.number, label)
        link = self._link(trial, self._plan.label(point))
        try:
            result = run_trial(overrides, folder, link, device, lambda said: self._heard(trial, said), self._signum)
            told = {"state": TrialState.PRUNED} if result is None else {"values": result}
        except TrialFailed as error:
            result, told = str(error), {"state": TrialState.FAIL}
            attributes = {"reason": result, "interrupted": isinstance(error, TrialInterrupted)}
            attributes["stopped"] = isinstance(error, TrialStopped)
            patiently(lambda: _set_user_attrs(trial, attributes))
        left = patiently(lambda: self._study.tell(trial, **told, skip_if_finished=True))
        if left.state == TrialState.FAIL and "values" in told:
            raise UpdateFinishedTrialError
        return result

    def _heard(self, trial: optuna.Trial, message: dict[str, Any]) -> bool:
        """Keep what a trial says; whether it is to be pruned."""
        patiently(lambda: _set_user_attrs(trial, {k: message[k] for k in ("run_id", "folder") if k in message}))
        if "epoch" not in message:
            return False
        patiently(lambda: _report(trial, message["top1"], message["epoch"]))
        self._display.reported(trial.number, message["epoch"], message["epochs"], message["top1"])
        return bool(patiently(trial.should_prune))  # a NumPy bool from some pruners


def _set_user_attrs(trial: optuna.Trial, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        trial.set_user_attr(name, value)


def _take_over(trial: optuna.Trial, former: FrozenTrial) -> None:
    """Have a trial know what the run that it goes on with has come to."""
    _set_user_attrs(trial, {"resumes": former.number, "folder": former.user_attrs["folder"]})
    for epoch, top1 in former.intermediate_values.items():
        _report(trial, top1, epoch)


def _report(trial: optuna.Trial, top1: float, epoch: int) -> None:
    """Keep val top-1 of an epoch; a run that goes on from before an epoch's end comes to it again."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The reported value is ignored", UserWarning)
        trial.report(top1, epoch)


def missing(study: Study, plan: AblationGrid | Search, n_trials: int) -> int:
    """How many points have not come to an end."""
    return max(0, n_trials - len(finished_points(study.get_trials(deepcopy=False), plan)))
