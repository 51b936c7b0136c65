"""Signals: the first one that ends a process stops the run cleanly, a later one ends the process at once.

Every signal that another process, a scheduler, a limit or a lost terminal may send counts, unless it was ignored when
the process started, as nohup does.  Faults (SIGSEGV, SIGABRT and others) end the process as always.

While a graph runs, MindSpore 2.10 installs a SIGINT handler that sends the process a SIGTERM: Ctrl-C would skip every
`finally`, and look like a scheduler's stop to a SIGTERM handler.  `claim_signals` bypasses it.
"""

import atexit
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rp2k_lab.core.errors import Interrupted
from rp2k_lab.core.streams import write_at_once

# A claimed SIGINT is forwarded as this one: a real-time signal, since schedulers use SIGUSR1 and SIGUSR2.
_FORWARDED_SIGINT = signal.SIGRTMIN
_NAMES = "HUP QUIT USR1 USR2 ALRM TERM STKFLT XCPU VTALRM PROF IO PWR"
# Signals other than SIGINT whose default action ends a process, without faults such as SIGSEGV.
ENDING = (*(signal.Signals[f"SIG{name}"] for name in _NAMES.split()), *range(signal.SIGRTMIN + 1, signal.SIGRTMAX + 1))
# Repeated for one reason: a lost terminal sends SIGHUP by the shell and by the kernel, a limit of processor time sends
# SIGXCPU after every further second.
_REPEATED = (signal.SIGHUP, signal.SIGXCPU)
# `timeout` signals the process and then its group; service managers send SIGTERM and SIGHUP.
_SAME_STOP_SECONDS = 1.0

_claimed: set[int] = set()


def claim_signals() -> None:
    """Raise KeyboardInterrupt on a SIGINT, and Interrupted on each other ending signal, in the main thread.

    Call it at the start of a process.  The default action would skip every `finally`.  A forked child gets it back: its
    parent ends it that way.
    """
    _claim_sigint()
    for signum in ENDING:
        if signal.getsignal(signum) == signal.SIG_DFL:
            signal.signal(signum, receive_signal)
            _claimed.add(signum)
    os.register_at_fork(after_in_child=_release)
    atexit.register(_ignore_repeated)


def ignore_signals(*kept: int) -> None:
    """Ignore all ending signals except SIGINT and `kept`, in a process that its parent ends."""
    for signum in set(ENDING) - set(kept):
        signal.signal(signum, signal.SIG_IGN)
    _claimed.intersection_update(kept)


@contextmanager
def before_launcher(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Give `handle` the signals that a launcher handles; the launcher gets the first of them at the end of the block.

    On SIGUSR2 submitit 1.5 queues a job again and ends its process at once: what runs in the block can save before.
    """
    received: list[int] = []

    def receive(signum, frame) -> None:
        received.append(signum)
        handle(signum, frame)

    handled = [signum for signum in ENDING if signum not in _claimed and callable(signal.getsignal(signum))]
    former: dict[int, Any] = {signum: signal.signal(signum, receive) for signum in handled}
    try:
        yield
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
        if received:
            former[received[0]](received[0], None)


def signal_name(signum: int) -> str:
    """Return SIGTERM for 15, SIGRTMIN+3 for 37."""
    if signal.SIGRTMIN < signum < signal.SIGRTMAX:
        return f"SIGRTMIN+{signum - signal.SIGRTMIN}"
    return signal.Signals(signum).name


def _claim_sigint() -> None:
    """Receive SIGINT in a separate thread.

    Later threads inherit the blocked SIGINT, so that a library's handler never runs.  Child processes inherit it too;
    their parent ends them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(_FORWARDED_SIGINT, signal.default_int_handler)
    threading.Thread(target=_forward_sigint, daemon=True, name="ctrl-c").start()


def _forward_sigint() -> None:
    main = threading.main_thread().ident
    assert main is not None
    while True:
        signal.sigwait({signal.SIGINT})
        signal.pthread_kill(main, _FORWARDED_SIGINT)


def _release() -> None:
    for signum in _claimed:
        signal.signal(signum, signal.SIG_DFL)
    _claimed.clear()


def _ignore_repeated() -> None:
    """Ignore them from here on: Python's end restores the default actions, and MindSpore takes a second to end."""
    for signum in _claimed.intersection(_REPEATED):
        signal.signal(signum, signal.SIG_IGN)


def receive_signal(signum, frame) -> None:
    """Stop what runs in order, or end the process on a second signal; a handler as `signal.signal` takes it."""
    if StopSignal.current is not None:
        StopSignal.current.remember(signum, frame)
    elif _stops.is_first():
        raise Interrupted(signum)
    elif _stops.is_second(signum):
        os._exit(Interrupted(signum).exit_code)


class _Stops:
    """Whether a signal is the first, the second, or a repetition of the first."""

    def __init__(self):
        self._first: float | None = None

    def is_first(self) -> bool:
        """Return whether no signal came before; this one did."""
        if self._first is not None:
            return False
        self._first = time.monotonic()
        return True

    def is_second(self, signum: int) -> bool:
        """Return whether a later signal asks to end at once."""
        assert self._first is not None
        late = time.monotonic() - self._first > _SAME_STOP_SECONDS
        return signum == signal.SIGINT or (late and signum not in _REPEATED)


_stops = _Stops()


class StopSignal:
    """Context that records the first ending signal in `signum` instead of acting on it.

    Without `claim_signals` these are SIGINT and SIGTERM.

    Python runs handlers only between two bytecode instructions, so not during a step or a compilation.  A thread that
    reads Python's wake-up descriptor acknowledges the first signal at once and ends the process on the second.
    """

    current: "StopSignal | None" = None

    def __init__(self):
        self.signum: int | None = None

    def __enter__(self):
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        if signal.getsignal(_FORWARDED_SIGINT) is signal.default_int_handler:
            # multiprocessing, which draws the shelf photos, unblocks SIGINT when it first starts a process.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self._outer, StopSignal.current = StopSignal.current, self
        own = {signal.SIGINT, signal.SIGTERM, _FORWARDED_SIGINT}
        if signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
            own.remove(signal.SIGTERM)
        self._former = {s: signal.signal(s, self.remember) for s in own}
        self._former_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._listener = threading.Thread(target=self._listen, args=[own | _claimed], daemon=True, name="signals")
        self._listener.start()
        return self

    def __exit__(self, *error):
        signal.set_wakeup_fd(self._former_fd)
        for signum, handler in self._former.items():
            signal.signal(signum, handler)
        StopSignal.current = self._outer
        self._writer.close()  # ends the thread once it has reported what it received
        self._listener.join(timeout=1)

    def check(self) -> None:
        """Raise Interrupted if a signal was received."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def remember(self, signum, frame) -> None:
        """Record the first signal; a handler as `signal.signal` takes it."""
        self.signum = self.signum or _original(signum)

    def _listen(self, signums: set[int]):
        stops = _stops if _claimed else _Stops()
        with self._reader:
            while data := self._reader.recv(1):
                signum = _original(data[0])
                if data[0] not in signums:
                    continue
                if stops.is_first():
                    name = "" if signum == signal.SIGINT else f"{signal_name(signum)}: "
                    line = f"\n{name}stopping after the current step; press Ctrl-C again to stop now\n"
                    write_at_once(2, line)
                elif stops.is_second(signum):
                    os._exit(Interrupted(signum).exit_code)


def _original(signum: int) -> int:
    return signal.SIGINT if signum == _FORWARDED_SIGINT else signum
