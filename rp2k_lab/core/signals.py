"""Signals: the first asks the run to stop in order, the second ends the process at once.

While a graph runs, MindSpore 2.10 puts a SIGINT handler of its own in place that sends the process a SIGTERM: Ctrl-C
would be death without `finally`, and with a handler for SIGTERM it could not be told from a scheduler's stop.
`claim_sigint` keeps SIGINT out of its reach.
"""

import os
import signal
import socket
import sys
import threading

from rp2k_lab.core.errors import Interrupted

# What a claimed SIGINT arrives as; a real-time signal, since schedulers use SIGUSR1 and SIGUSR2.
_FORWARDED_SIGINT = signal.SIGRTMIN
SIGNALS = (signal.SIGINT, signal.SIGTERM, _FORWARDED_SIGINT)


def claim_sigint() -> None:
    """Receive SIGINT in a thread of our own and raise KeyboardInterrupt in the main thread from there.

    To be called at the start of a process: the other threads inherit that SIGINT is blocked, so that no handler set
    later by a library is ever called.  Child processes inherit it too; their parent ends them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(_FORWARDED_SIGINT, signal.default_int_handler)
    threading.Thread(target=_forward_sigint, daemon=True, name="ctrl-c").start()


def claim_sigterm() -> None:
    """Raise Interrupted where a SIGTERM finds no StopSignal; by default it would be death without `finally`.

    A forked child process keeps the default: whoever started it ends it so.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _interrupt(signum, frame):
    raise Interrupted(signum)


def _forward_sigint() -> None:
    while True:
        signal.sigwait({signal.SIGINT})
        signal.pthread_kill(threading.main_thread().ident, _FORWARDED_SIGINT)


class StopSignal:
    """While entered, remembers the first SIGINT or SIGTERM in `signum` instead of acting on it.

    Python runs a handler only between two of its own instructions, so not during a step or a compilation; a thread
    that reads Python's wake-up descriptor says at once that the signal was heard and acts on a second one.
    """

    def __init__(self):
        self.signum: int | None = None

    def __enter__(self):
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        if signal.getsignal(_FORWARDED_SIGINT) is signal.default_int_handler:
            # Python's multiprocessing, which draws the shelf photos, unblocks SIGINT when it first starts a process.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._former = {s: signal.signal(s, self._remember) for s in SIGNALS}
        self._former_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._listener = threading.Thread(target=self._listen, daemon=True, name="signals")
        self._listener.start()
        return self

    def __exit__(self, *error):
        signal.set_wakeup_fd(self._former_fd)
        for signum, handler in self._former.items():
            signal.signal(signum, handler)
        self._writer.close()  # ends the thread, which first says what it has heard
        self._listener.join(timeout=1)

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _remember(self, signum, frame):
        self.signum = self.signum or _original(signum)

    def _listen(self):
        heard = 0
        with self._reader:
            while data := self._reader.recv(1):
                if data[0] not in SIGNALS:
                    continue
                heard += 1
                if heard > 1:
                    os._exit(Interrupted(_original(data[0])).exit_code)
                print("\nstopping after the step under way; once more to stop at once", file=sys.stderr, flush=True)


def _original(signum: int) -> int:
    return signal.SIGINT if signum == _FORWARDED_SIGINT else signum
