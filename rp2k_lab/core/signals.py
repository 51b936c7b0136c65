"""Signals: the first one stops the run cleanly, the second one ends the process at once.

While a graph runs, MindSpore 2.10 installs a SIGINT handler that sends the process a SIGTERM: Ctrl-C would skip every
`finally`, and look like a scheduler's stop to a SIGTERM handler.  `claim_sigint` bypasses it.
"""

import os
import signal
import socket
import sys
import threading

from rp2k_lab.core.errors import Interrupted

# A claimed SIGINT is forwarded as this one: a real-time signal, since schedulers use SIGUSR1 and SIGUSR2.
_FORWARDED_SIGINT = signal.SIGRTMIN
SIGNALS = (signal.SIGINT, signal.SIGTERM, _FORWARDED_SIGINT)


def claim_sigint() -> None:
    """Receive SIGINT in a separate thread, which raises KeyboardInterrupt in the main thread.

    Call it at the start of a process: later threads inherit the blocked SIGINT, so that a library's handler never runs.
    Child processes inherit it too; their parent ends them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(_FORWARDED_SIGINT, signal.default_int_handler)
    threading.Thread(target=_forward_sigint, daemon=True, name="ctrl-c").start()


def claim_sigterm() -> None:
    """Raise Interrupted on a SIGTERM outside a StopSignal; the default action would skip every `finally`.

    A forked child gets the default action back: its parent ends it that way.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _interrupt(signum, frame):
    raise Interrupted(signum)


def _forward_sigint() -> None:
    main = threading.main_thread().ident
    assert main is not None
    while True:
        signal.sigwait({signal.SIGINT})
        signal.pthread_kill(main, _FORWARDED_SIGINT)


class StopSignal:
    """Context that records the first SIGINT or SIGTERM in `signum` instead of acting on it.

    Python runs handlers only between two bytecode instructions, so not during a step or a compilation.  A thread that
    reads Python's wake-up descriptor acknowledges the first signal at once and ends the process on the second.
    """

    def __init__(self):
        self.signum: int | None = None

    def __enter__(self):
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        if signal.getsignal(_FORWARDED_SIGINT) is signal.default_int_handler:
            # multiprocessing, which draws the shelf photos, unblocks SIGINT when it first starts a process.
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
        self._writer.close()  # ends the thread once it has reported what it received
        self._listener.join(timeout=1)

    def check(self) -> None:
        """Raise Interrupted if a signal was received."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _remember(self, signum, frame):
        self.signum = self.signum or _original(signum)

    def _listen(self):
        received = 0
        with self._reader:
            while data := self._reader.recv(1):
                if data[0] not in SIGNALS:
                    continue
                received += 1
                if received > 1:
                    os._exit(Interrupted(_original(data[0])).exit_code)
                print("\nstopping after the current step; press Ctrl-C again to stop now", file=sys.stderr, flush=True)


def _original(signum: int) -> int:
    return signal.SIGINT if signum == _FORWARDED_SIGINT else signum
