"""Signals: the first asks the run to stop in order, the second ends the process at once.

Left to itself, a SIGINT during a graph step is instant death without `finally`.
"""

import os
import signal
import socket
import sys
import threading

from rp2k_lab.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalWatch:
    """While entered, remembers the first SIGINT or SIGTERM in `signum` instead of acting on it.

    Python runs a handler only between two of its own instructions, so not during a step or a compilation; a thread
    that reads Python's wake-up descriptor says at once that the signal was heard and acts on a second one.
    """

    def __init__(self):
        self.signum: int | None = None

    def __enter__(self):
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._former = {s: signal.signal(s, self._remember) for s in SIGNALS}
        self._former_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, daemon=True, name="signals").start()
        return self

    def __exit__(self, *error):
        signal.set_wakeup_fd(self._former_fd)
        for signum, handler in self._former.items():
            signal.signal(signum, handler)
        self._writer.close()  # ends the thread

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _remember(self, signum, frame):
        self.signum = self.signum or signum

    def _listen(self):
        heard = 0
        with self._reader:
            while data := self._reader.recv(1):
                if data[0] not in SIGNALS:
                    continue
                heard += 1
                if heard > 1:
                    os._exit(Interrupted(data[0]).exit_code)
                print("\nstopping after the step under way; once more to stop at once", file=sys.stderr, flush=True)
