"""Work of the server's threads, done by the main thread one after another.

Nothing else then needs a lock, and a signal, which reaches the main thread alone, ends the work at hand.
"""

import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

_WAITING = 8


class Busy(Exception):
    """Too many jobs are waiting."""


class Jobs:
    """A queue of functions; `ask` is for any thread, `run` for the one that does the work."""

    def __init__(self):
        self._waiting: queue.Queue[tuple[Future, Callable[[], Any]]] = queue.Queue(_WAITING)

    def ask(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns in the other thread, or raise what it raises there.

        Raises:
            Busy: too many jobs are waiting.
        """
        answer = Future()
        try:
            self._waiting.put_nowait((answer, work))
        except queue.Full:
            raise Busy from None
        return answer.result()

    def run(self) -> None:
        """Do what is asked for, until a signal raises."""
        while True:
            answer, work = self._waiting.get()
            try:
                answer.set_result(work())
            except Exception as error:
                answer.set_exception(error)
