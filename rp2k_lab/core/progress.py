"""Signs of life of long work: one rewritten line on a terminal, otherwise a line now and then.

The line shows the innermost work that is under way, once the terminal has been silent for `_QUIET_SECONDS`; it stays
until that work ends.  Without a terminal, a line follows ten silent seconds, and later lines are rarer: a tenth of the
work's time apart.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from rp2k_lab.core.streams import erase_line, quiet_seconds, rewrite_line, takes_rewritten_lines, write_at_once
from rp2k_lab.core.text import duration, escape_controls, fit_columns

_QUIET_SECONDS = 1.5
_TICK_SECONDS = 0.25
_LINE_SECONDS = 10.0
_LINE_FRACTION = 0.1  # of the time so far, between two lines without a terminal


_Item = TypeVar("_Item")


class Activity:
    """Work that is under way.

    Attributes:
        what: what is done, as a participle: `evaluating val`.
        total, done: of countable work, the number of its items.
        detail: more to show, behind the counts.
        left: remaining time [s]; None: by the items so far.
    """

    def __init__(self, what: str, total: int | None = None):
        self.what, self.total, self.done, self.detail = what, total, 0, ""
        self.left: Callable[[], float] | None = None
        self.started, self.is_shown = time.monotonic(), False

    def text(self) -> str:
        """Return `evaluating val  320 of 500  64/s  0:00:03 left`, or `compiling, 4 s`."""
        seconds = time.monotonic() - self.started
        if not self.total or not self.done:
            return f"{self.what}, {seconds:.0f} s" if self.what else ""
        parts = [f"{self.what}  {self.done:,} of {self.total:,}"]
        rate = self.done / max(seconds, 1e-9)
        parts.append(self.detail or (f"{rate:,.0f}/s" if rate >= 1 else ""))
        left = self.left() if self.left else (self.total - self.done) / rate
        return "  ".join(part for part in (*parts, f"{duration(left)} left") if part)


class _Display:
    """Shows the innermost of the activities, from a thread."""

    def __init__(self):
        self._activities: list[Activity] = []
        self._lock, self._thread = threading.Lock(), None
        self._line_at, self.is_off = 0.0, False

    def add(self, activity: Activity) -> None:
        with self._lock:
            outer = self._activities[-1] if self._activities else None
            activity.is_shown = outer is not None and outer.is_shown and bool(activity.what)
            self._activities.append(activity)
            if not activity.what:
                erase_line()
            if self._thread is None:
                self._thread = threading.Thread(target=self._tick, daemon=True, name="progress")
                self._thread.start()

    def remove(self, activity: Activity) -> None:
        with self._lock:
            self._activities.remove(activity)
            if not self._activities or not self._activities[-1].what:
                erase_line()

    def _tick(self) -> None:
        while True:
            time.sleep(_TICK_SECONDS)
            with self._lock:
                if self._activities:
                    self._show(self._activities[-1])

    def _show(self, activity: Activity) -> None:
        if takes_rewritten_lines():
            activity.is_shown = activity.is_shown or quiet_seconds() > _QUIET_SECONDS
            if activity.what and activity.is_shown:
                rewrite_line(fit_columns(escape_controls(activity.text()), _columns() - 1))
            return
        if self.is_off:
            return
        now = time.monotonic()
        pause = max(_LINE_SECONDS, _LINE_FRACTION * (now - activity.started))
        if activity.what and min(now - activity.started, now - self._line_at, quiet_seconds()) > pause:
            self._line_at = now
            write_at_once(2, f"{escape_controls(activity.text())}\n")  # a reader that hangs must not hold the work up


def _columns() -> int:
    """Return the width of the terminal of the standard error; where it is unknown, 80."""
    with suppress(OSError):  # its connection is lost
        return os.get_terminal_size(2).columns or 80
    return 80


_display = _Display()


def _forget() -> None:
    """Begin without activities in a forked child, which lacks the thread."""
    global _display
    _display = _Display()


os.register_at_fork(after_in_child=_forget)


def turn_off() -> None:
    """Show no signs of life from here on, as on other ranks than 0."""
    _display.is_off = True


@contextmanager
def activity(what: str, total: int | None = None) -> Iterator[Activity]:
    """Show work while the block runs; with `what=""`, nothing: the block has a display of another kind."""
    work = Activity(what, total)
    _display.add(work)
    try:
        yield work
    finally:
        _display.remove(work)


def progress(
    iterable: Iterable[_Item], total: int, what: str, count: Callable[[_Item], int] = lambda item: 1
) -> Iterator[_Item]:
    """Yield the items of an iterable, and show how many of `total` are done.

    Args:
        what: as for `Activity`.
        count: the number that an item counts for, for example the images of a batch.
    """
    with activity(what, total) as work:
        for item in iterable:
            yield item
            work.done += count(item)
