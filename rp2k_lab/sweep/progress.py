"""Display of a running study: a live table in a terminal, otherwise one line per trial."""

import json
import statistics
import threading
import time
from datetime import timedelta

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table as RichTable

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
        self._lock, self._note, self._progress = threading.Lock(), "", {}
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False, transient=False)

    def __enter__(self):
        if self._console.is_terminal:
            self._live.start()
        self.update()
        return self

    def __exit__(self, *error):
        try:
            self.update()
        finally:  # restores the cursor even if the database fails
            self._live.stop()

    def started(self, number: int, label: str) -> None:
        """Show that a trial of this worker starts."""
        self._print(f"trial {number} starts: {label}")

    def reported(self, number: int, epoch: int, epochs: int, top1: float) -> None:
        """Show val top-1 (0 to 1) of a trial of this worker after an epoch."""
        self._progress[number] = f"epoch {epoch}/{epochs}, {100 * top1:.1f} %"
        self.update()

    def ended(self, number: int, result: float | str | None, seconds: float) -> None:
        """Show how a trial of this worker ended: val top-1 (0 to 1), the reason of its failure, or None if pruned."""
        outcome = f"val top-1 {100 * result:.1f} %" if isinstance(result, float) else result or "pruned"
        self._progress.pop(number, None)
        self._print(f"trial {number} ended after {seconds:.0f} s: {outcome}; {self._summary(self._trials())}")

    def update(self, note: str = "") -> None:
        """Redraw the table; without a terminal, print the note if it is new."""
        if self._console.is_terminal:
            with self._lock:
                trials = self._trials()
                self._live.update(Group(self._table(trials), self._summary(trials), note), refresh=True)
        elif note and note != self._note:
            self._print(note)
        self._note = note

    def _print(self, line: str) -> None:
        if self._console.is_terminal:
            self.update()
        else:
            print(line, flush=True)

    def _trials(self) -> list[FrozenTrial]:
        return with_retries(lambda: self._study.get_trials(deepcopy=False))

    def _table(self, trials: list[FrozenTrial]) -> RichTable:
        table = RichTable("trial", "point", "", "val top-1", "time", title=self._study.study_name, title_justify="left")
        if len(trials) > _ROWS:
            table.add_row("…", f"{len(trials) - _ROWS} earlier ones", "", "", "")
        for trial in trials[-_ROWS:]:
            state = state_of(trial)
            value = f"{100 * trial.value:.1f} %" if trial.value is not None else self._progress.get(trial.number, "")
            table.add_row(
                str(trial.number),
                escape(self._label(trial)),
                f"[{_STYLES[state]}]{state}[/]",
                value,
                _duration(_seconds(trial)) if trial.datetime_start else "",
            )
        return table

    def _label(self, trial: FrozenTrial) -> str:
        return self._plan.label(json.loads(point)) if (point := point_of(trial)) else ""

    def _summary(self, trials: list[FrozenTrial]) -> str:
        """Return `12 of 21 done, best so far 84.2 % (Cutout 14, seed 1), about 0:31:00 left`."""
        ended = [trial for trial in trials if trial.state in ENDED]
        finished = len(finished_points(trials, self._plan))
        parts = [f"{finished} of {self._n_trials} done"]
        best = max((t for t in ended if t.state == TrialState.COMPLETE), key=_top1, default=None)
        if best:
            parts.append(f"best so far {100 * _top1(best):.1f} % ({self._label(best)})")
        workers = sum(trial.state == TrialState.RUNNING for trial in trials)
        left = self._n_trials - finished
        if ended and left > 0:
            seconds = statistics.median(map(_seconds, ended)) * left / max(1, workers)
            parts.append(f"about {_duration(seconds)} left")
        return ", ".join(parts)


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


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
