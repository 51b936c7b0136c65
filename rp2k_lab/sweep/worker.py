"""Worker of a study: claim and run missing trials until there are none."""

import statistics
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from rp2k_lab.sweep.progress import Display
from rp2k_lab.sweep.seed_runs import SeedRuns
from rp2k_lab.sweep.space import Params, Plan
from rp2k_lab.sweep.storage import exclusive, heartbeat, with_retries
from rp2k_lab.sweep.study import (
    claim,
    completed_runs,
    finished_points,
    last_interrupted,
    point_of,
    refill,
    trials_by_point,
)
from rp2k_lab.sweep.trial_process import TrialFailed, TrialInterrupted, TrialStopped, run_trial
from rp2k_lab.tracking.local_runs import is_resumable, resume_overrides

# Poll interval of an idle worker, for trials that other workers lose.
_WAIT_SECONDS = 2.0
# Facts that a trial sends, kept as its user attributes.
_RECORDED = ("run_id", "folder", "origin", "place")


class StudyWorker:
    """Runs trials of a study one after another.

    Args:
        storage: database of the study.
        plan: what the study runs.
        n_trials: number of points to run.
        extra: overrides of every trial that are not part of the experiment.
        folder: parent of the trials' folders.
        retries: largest number of retries of a failed point.
        link: returns name, tags and `reuse` for the run of (trial, point).
        signum: returns the signal that asks to stop, or None.
        display: shows progress.
    """

    def __init__(
        self,
        study: Study,
        storage: optuna.storages.RDBStorage,
        plan: Plan,
        n_trials: int,
        extra: list[str],
        folder: Path,
        retries: int,
        link: Callable[[optuna.Trial, Params], dict[str, Any]],
        signum: Callable[[], int | None],
        display: Display,
    ):
        self._study, self._storage, self._plan, self._n_trials = study, storage, plan, n_trials
        self._extra, self._folder, self._retries, self._link = extra, folder, retries, link
        self._signum, self._display = signum, display

    def work(self, device: int | None = None) -> None:
        """Run trials on one device until the study is complete, including trials that other workers lose."""
        while self._signum() is None:
            claimed, any_running = with_retries(self._claim)
            if claimed:
                self._run(*claimed, device)
                self._display.update()
            elif any_running:
                self._display.update("waiting for the trials of other workers")
                threading.Event().wait(_WAIT_SECONDS)
            else:
                return

    def _claim(self) -> tuple[tuple[optuna.Trial, Params] | None, bool]:
        """Return ((trial, point) or None if no trial is missing, whether any trial runs)."""
        with exclusive(self._storage, self._study.study_name):
            refill(self._study, self._plan, self._retries)
            trials = self._study.get_trials(deepcopy=False)
            if self._is_work_left(trials):
                return claim(self._study, self._storage, self._plan), True
            return None, any(trial.state == TrialState.RUNNING for trial in trials)

    def _is_work_left(self, trials: list[optuna.trial.FrozenTrial]) -> bool:
        if any(trial.state == TrialState.WAITING for trial in trials):
            return True
        return self._plan.prunes and len(trials_by_point(trials)) < self._n_trials

    def _run(self, trial: optuna.Trial, point: Params, device: int | None) -> None:
        """Run a trial and record its result; drop the result if another worker got the trial meanwhile."""
        started = time.monotonic()
        try:
            with heartbeat(self._storage, trial):
                result = self._result(trial, point, device)
        except UpdateFinishedTrialError:
            result = "lost: no heartbeat reached the database, and another worker has it now"
        self._display.ended(trial.number, result, time.monotonic() - started)

    def _prepare(self, trial: optuna.Trial, point: Params) -> tuple[list[str], Path, str]:
        """Return (command, run folder, label) of a trial.

        The trial resumes the run of an interrupted trial of its point, if its folder is on this machine.
        """
        attempts = trials_by_point(with_retries(lambda: self._study.get_trials(deepcopy=False)))
        # All have one: `refill` enqueues no point before.
        runs = cast(list[str], completed_runs(self._plan.sources(point), attempts))
        if runs:
            with_retries(lambda: trial.set_user_attr("runs", runs))
        overrides, folder = [*self._plan.overrides(point, runs), *self._extra], self._folder / str(trial.number)
        label, key = self._plan.label(point), point_of(trial)
        assert key is not None  # from `claim`
        former = last_interrupted(attempts[key])
        if former and is_resumable(Path(former.user_attrs["folder"])):
            folder = Path(former.user_attrs["folder"])
            overrides += resume_overrides(folder)
            with_retries(lambda: _copy_progress(trial, former))
            label += f", resumes the run of trial {former.number}"
        return overrides, folder, label

    def _train(self, trial: optuna.Trial, point: Params, device: int | None) -> float | None:
        """Run a trial of one run; return val top-1, or None if it was pruned."""
        overrides, folder, label = self._prepare(trial, point)
        self._display.started(trial.number, label)
        receive = partial(self._receive, trial)
        return run_trial(overrides, folder, self._link(trial, point), device, receive, self._signum)

    def _train_seeds(self, trial: optuna.Trial, point: Params, device: int | None) -> float | None:
        """Run the seeds of a trial, one after another; return their mean val top-1, or None if it was pruned.

        The pruner decides between two seeds, by the values of all finished ones.
        """
        attempts = trials_by_point(with_retries(lambda: self._study.get_trials(deepcopy=False)))
        key = point_of(trial)
        assert key is not None  # from `claim`
        runs, values = SeedRuns(trial, attempts[key]), []
        for index, seed in enumerate(self._plan.trial_seeds):
            if index and with_retries(trial.should_prune):
                return None
            if self._signum() is not None:
                raise TrialStopped("stopped with its study")
            top1 = runs.finished(seed)
            values.append(self._train_seed(trial, {**point, "seed": seed}, runs, device) if top1 is None else top1)
            with_retries(partial(_report, trial, values[-1], index))
        return statistics.fmean(values)

    def _train_seed(self, trial: optuna.Trial, point: Params, runs: SeedRuns, device: int | None) -> float:
        """Run one seed of a trial, or resume its interrupted run; return val top-1.

        Args:
            point: with its seed.
        """
        seed, label = point["seed"], self._plan.label(point)
        overrides, folder = [*self._plan.overrides(point), *self._extra], self._folder / f"{trial.number}-seed{seed}"
        former = runs.resumable(seed)
        is_resumed = former is not None and is_resumable(former)
        if former and is_resumed:
            folder, label = former, f"{label}, resumes its run"
            overrides += resume_overrides(former)
        self._display.started(trial.number, label)
        started = time.monotonic()

        def receive(message: dict[str, Any]) -> bool:
            if "run_id" in message:
                runs.start(seed, message["run_id"], message.get("folder", ""))
            self._record(trial, message)
            return False  # the pruner compares seeds

        top1 = run_trial(overrides, folder, self._link(trial, point), device, receive, self._signum)
        assert top1 is not None
        runs.finish(seed, top1, None if is_resumed else round(time.monotonic() - started, 1))
        return top1

    def _result(self, trial: optuna.Trial, point: Params, device: int | None) -> float | str | None:
        """Run a trial; return val top-1, None if it was pruned, or the reason of its failure."""
        train = self._train_seeds if self._plan.trial_seeds else self._train
        try:
            result = train(trial, point, device)
            outcome: dict[str, Any] = {"state": TrialState.PRUNED} if result is None else {"values": result}
        except TrialFailed as error:
            result, outcome = str(error), {"state": TrialState.FAIL}
            attributes = {"reason": result, "interrupted": isinstance(error, TrialInterrupted)}
            attributes["stopped"] = isinstance(error, TrialStopped)
            with_retries(lambda: _set_user_attrs(trial, attributes))
        recorded = with_retries(lambda: self._study.tell(trial, **outcome, skip_if_finished=True))
        if recorded.state == TrialState.FAIL and "values" in outcome:
            raise UpdateFinishedTrialError
        return result

    def _receive(self, trial: optuna.Trial, message: dict[str, Any]) -> bool:
        """Record a message of a trial; return whether to prune it."""
        if "epoch" in message:
            with_retries(lambda: _report(trial, message["top1"], message["epoch"]))
        self._record(trial, message)
        return "epoch" in message and bool(with_retries(trial.should_prune))  # some pruners return a NumPy bool

    def _record(self, trial: optuna.Trial, message: dict[str, Any]) -> None:
        """Keep the facts of a message, and show its epoch."""
        with_retries(lambda: _set_user_attrs(trial, {k: message[k] for k in _RECORDED if k in message}))
        if "epochs" in message:
            self._display.reported(trial.number, message.get("epoch", 0), message["epochs"], message.get("top1"))


def _set_user_attrs(trial: optuna.Trial, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        trial.set_user_attr(name, value)


def _copy_progress(trial: optuna.Trial, former: FrozenTrial) -> None:
    """Copy the values reported by an interrupted trial to the trial that resumes its run."""
    _set_user_attrs(trial, {"resumes": former.number, "folder": former.user_attrs["folder"]})
    for epoch, top1 in former.intermediate_values.items():
        _report(trial, top1, epoch)


def _report(trial: optuna.Trial, top1: float, epoch: int) -> None:
    """Record val top-1 of an epoch; a resumed run may repeat an epoch, and Optuna keeps the first value."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The reported value is ignored", UserWarning)
        trial.report(top1, epoch)


def missing(study: Study, plan: Plan, n_trials: int) -> int:
    """Return the number of unfinished points."""
    return max(0, n_trials - len(finished_points(study.get_trials(deepcopy=False), plan)))
