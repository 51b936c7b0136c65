"""Display of a running study: a live table in a terminal, otherwise a line per trial, and one now and then."""

import json
import statistics
import threading
import time
from contextlib import ExitStack

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table as RichTable

from rp2k_lab.core.progress import Activity, activity
from rp2k_lab.core.text import duration
from rp2k_lab.sweep.space import Params, Plan, point_key
from rp2k_lab.sweep.storage import with_retries
from rp2k_lab.sweep.study import ENDED, completed_runs, count_failures, finished_points, point_of, trials_by_point

_ROWS = 20
_STYLES = {
    "complete": "green",
    "running": "cyan",
    "failed": "red",
    "stopped": "dim",
    "pruned": "yellow",
    "waiting": "dim",
}


class Display:
    """Display of the trials of all workers of a study.

    Args:
        n_trials: number of points to run.
    """

    def __init__(self, study: Study, plan: Plan, n_trials: int):
        self._study, self._plan, self._n_trials = study, plan, n_trials
        self._lock, self._note, self._trials = threading.Lock(), "", []
        self._epochs: dict[int, tuple[int, int, float | None]] = {}  # by trial: epochs done, epochs, val top-1
        self._console, self._shown = Console(), ExitStack()
        self._work: Activity | None = None  # without a terminal
        # The times of running trials change each second.
        self._live = Live(console=self._console, get_renderable=self._renderable, refresh_per_second=1)

    def __enter__(self):
        self.update()
        is_terminal = self._console.is_terminal
        work = self._shown.enter_context(activity("" if is_terminal else "the study"))
        if is_terminal:
            self._live.start()
        else:
            self._work = work
        return self

    def __exit__(self, *error):
        try:
            self.update()
        finally:  # restores the cursor even if the database fails
            self._live.stop()
            self._shown.close()

    def started(self, number: int, label: str) -> None:
        """Show that a trial of this worker starts."""
        self._print(f"trial {number} starts: {label}")

    def reported(self, number: int, epoch: int, epochs: int, top1: float | None) -> None:
        """Show val top-1 (0 to 1) of a trial of this worker after an epoch; None at its start, after epoch 0."""
        self._epochs[number] = epoch, epochs, top1
        self.update()

    def ended(self, number: int, result: float | str | None, seconds: float) -> None:
        """Show how a trial of this worker ended: val top-1 (0 to 1), the reason of its failure, or None if pruned."""
        outcome = f"val top-1 {100 * result:.1f} %" if isinstance(result, float) else result or "pruned"
        self._epochs.pop(number, None)
        self.update()
        self._print(f"trial {number} ended after {seconds:.0f} s: {outcome}; {self._summary()}")

    def update(self, note: str = "") -> None:
        """Read the trials and redraw the table; without a terminal, print the note if it is new."""
        with self._lock:
            self._trials = with_retries(lambda: self._study.get_trials(deepcopy=False))
        former, self._note = self._note, note
        if self._live.is_started:
            self._live.refresh()
        elif note and note != former:
            self._print(note)
        if self._work is not None:
            running = [f"trial {number} {self._epoch(number)}" for number in sorted(self._epochs)]
            self._work.what = "; ".join([*running, self._summary()])

    def _print(self, line: str) -> None:
        if self._console.is_terminal:
            self.update()
        else:
            print(line, flush=True)

    def _renderable(self) -> Group:
        return Group(self._table(self._trials), self._summary(), self._note)

    def _epoch(self, number: int) -> str:
        """Return `epoch 2/5, 60.0 %`: the running epoch and the last val top-1; nothing of another worker's trial."""
        if number not in self._epochs:
            return ""
        done, epochs, top1 = self._epochs[number]
        return f"epoch {min(done + 1, epochs)}/{epochs}" + ("" if top1 is None else f", {100 * top1:.1f} %")

    def _table(self, trials: list[FrozenTrial]) -> RichTable:
        table = RichTable("trial", "point", "", "val top-1", "time", title=self._study.study_name, title_justify="left")
        if len(trials) > _ROWS:
            table.add_row("…", f"{len(trials) - _ROWS} earlier ones", "", "", "")
        for trial in trials[-_ROWS:]:
            state = state_of(trial)
            value = f"{100 * trial.value:.1f} %" if trial.value is not None else self._epoch(trial.number)
            table.add_row(
                str(trial.number),
                escape(self._label(trial)),
                f"[{_STYLES[state]}]{state}[/]",
                value,
                duration(_seconds(trial)) if trial.datetime_start else "",
            )
        return table

    def _label(self, trial: FrozenTrial) -> str:
        return self._plan.label(json.loads(point)) if (point := point_of(trial)) else ""

    def _summary(self) -> str:
        """Return `12 of 21 done, best so far 84.2 % (Cutout 14, seed 1), about 0:31:00 left`."""
        trials = self._trials
        ended = [trial for trial in trials if trial.state in ENDED]
        finished = len(finished_points(trials, self._plan))
        parts = [f"{finished} of {self._n_trials} done"]
        best = max((t for t in ended if t.state == TrialState.COMPLETE), key=_top1, default=None)
        if best:
            parts.append(f"best so far {100 * _top1(best):.1f} % ({self._label(best)})")
        seconds = self._seconds_left(trials, self._n_trials - finished)
        return ", ".join(parts) if seconds is None else ", ".join([*parts, f"about {duration(seconds)} left"])

    def _seconds_left(self, trials: list[FrozenTrial], left: int) -> float | None:
        """Return the remaining time of the study [s]; None before the first trial has a result or an epoch.

        Args:
            left: number of unfinished points.
        """
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        known = [_seconds(trial) for trial in trials if trial.state in ENDED]
        if not known:  # from the running trials' epochs
            done = {number: done / epochs for number, (done, epochs, _) in self._epochs.items() if done}
            known = [_seconds(trial) / done[trial.number] for trial in running if trial.number in done]
        if left <= 0 or not known:
            return None
        each = statistics.median(known)
        of_running = sum(max(0.0, each - _seconds(trial)) for trial in running)
        return (of_running + max(0, left - len(running)) * each) / max(1, len(running))


def state_of(trial: FrozenTrial) -> str:
    """Return complete, pruned, failed, stopped (with its study), running or waiting."""
    if trial.state == TrialState.FAIL:
        return "stopped" if trial.user_attrs.get("stopped") else "failed"
    return trial.state.name.lower()


def failure_table(study: Study, plan: Plan) -> str:
    """Return the unfinished points with the reason of their last failure, or "" if all are finished."""
    lines, attempts = [], trials_by_point(study.get_trials(deepcopy=False))
    for point in plan.points:
        if point_key(point) not in attempts:
            lines.append(f"  {plan.label(point)}: not started" + _waiting(plan, point, attempts))
    for key, trials in attempts.items():
        if any(trial.state in ENDED for trial in trials):
            continue
        last, times = trials[-1], count_failures(trials)
        reason = last.user_attrs.get("reason", "lost: its worker stopped sending heartbeats")
        folder = last.user_attrs.get("folder")
        lines.append(f"  {plan.label(json.loads(key))}: failed {times} times, the last: {reason}")
        lines += [f"    {folder}/log.txt"] if folder else []
    return "\n".join(["not finished:", *lines]) if lines else ""


def _waiting(plan: Plan, point: Params, attempts: dict[str, list[FrozenTrial]]) -> str:
    sources = plan.sources(point)
    missing = [plan.label(s) for s, run in zip(sources, completed_runs(sources, attempts), strict=True) if run is None]
    return f", waits for {' and '.join(missing)}" if missing else ""


def _top1(trial: FrozenTrial) -> float:
    """Return val top-1 of a complete trial."""
    assert trial.value is not None
    return trial.value


def _seconds(trial: FrozenTrial) -> float:
    """Return the time since a trial started, or that it took [s]."""
    assert trial.datetime_start is not None
    if trial.datetime_complete:
        return (trial.datetime_complete - trial.datetime_start).total_seconds()
    return time.time() - trial.datetime_start.timestamp()
