"""Standard output and error that outlast their reader, terminal or disk.

A pipe loses its reader (`| head`, a dead `tee`), a terminal vanishes with its connection, the disk of a log file fills
up.  Python then raises OSError wherever something is printed: a training would end for the sake of a log line.
"""

import io
import os
import select
import sys
import threading
import time
from contextlib import suppress

_NAMES = {1: "standard output", 2: "standard error"}


class _LastingFile(io.FileIO):
    """An open descriptor; what it does not take is dropped, and the first time the other one says so."""

    was_lost = False

    def __init__(self, descriptor: int):
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data, /) -> int:
        """Write or drop all of the data; return its size [bytes]."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                written = super().write(left)
                if written is None:  # full, and another process made it non-blocking
                    select.select([], [self], [])
                left = left[written or 0 :]
        except OSError as error:  # it is tried again: a disk may get space
            self._report(error)
        return size

    def _report(self, error: OSError) -> None:
        if not self.was_lost:
            self.was_lost = True
            own = self.fileno()
            write_at_once(3 - own, f"{_NAMES[own]}: {str(error.strerror).lower()}; the command continues without it\n")


class _Terminal:
    """What the terminal shows: whether the cursor is behind a line that the next output replaces.

    Attributes:
        lock: held by whoever writes; a signal's handler may write within a write.
        written_at: time of the last output (time.monotonic(), s).
        is_open: the last output has no line break yet.
        has_line: a line of `rewrite_line` is shown.
    """

    def __init__(self):
        # The imports until here are a part of the silence.
        self.lock, self.written_at = threading.RLock(), time.monotonic() - time.process_time()
        self.is_open = self.has_line = False


_terminal = _Terminal()
os.register_at_fork(after_in_child=_terminal.__init__)  # another thread may have held the lock


class _LastingStream(io.TextIOWrapper):
    """The text of a standard stream; on a terminal, it replaces the line of `rewrite_line`."""

    former: object = None  # the replaced stream, which would close the descriptor when it is deleted
    is_terminal = False

    def write(self, text: str, /) -> int:
        """Write a text; return its length."""
        _terminal.written_at = time.monotonic()
        if not self.is_terminal:
            return super().write(text)
        with _terminal.lock:
            erase_line()
            if text:
                _terminal.is_open = not text.endswith("\n")
            return super().write(text)


def keep_standard_streams() -> None:
    """Let no standard stream end this process; call it first, since imports may keep `sys.stdout`.

    A closed descriptor becomes /dev/null: the next file to be opened would get its number, and then what others print.
    Streams of tests and notebooks stay, and a second call changes nothing.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)  # the lowest free number is the closed one
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115  Python has None for a closed descriptor
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)


def output_was_lost() -> bool:
    """Flush the standard output, and return whether a part of it could not be written."""
    sys.stdout.flush()
    return isinstance(sys.stdout, _LastingStream) and _file_of(sys.stdout).was_lost


def write_at_once(descriptor: int, text: str) -> None:
    """Write a short line to a descriptor, or drop it: without waiting for a reader, and without buffers and locks."""
    with suppress(OSError):
        if select.select([], [descriptor], [], 0)[1]:
            os.write(descriptor, text.encode(errors="backslashreplace"))


def takes_rewritten_lines() -> bool:
    """Return whether the standard error is a terminal on which `rewrite_line` works."""
    return isinstance(sys.stderr, _LastingStream) and sys.stderr.is_terminal


def rewrite_line(text: str) -> None:
    """Show a line in place of the one shown before; the next output replaces it.

    Nothing happens while an output waits for its line break, or while the terminal takes nothing.

    Args:
        text: fits into the terminal's width.
    """
    with _terminal.lock:
        if not _terminal.is_open:
            write_at_once(2, f"\r{text}\x1b[K")
            _terminal.has_line = True


def erase_line() -> None:
    """Remove the line of `rewrite_line`, if it is shown."""
    with _terminal.lock:
        if _terminal.has_line:
            write_at_once(2, "\r\x1b[K")
            _terminal.has_line = False


def quiet_seconds() -> float:
    """Return the time since the last output, without rewritten lines [s]."""
    return time.monotonic() - _terminal.written_at


def _lasting(stream, descriptor: int):
    """Return a stream that writes to the descriptor like the given one; a replaced stream as it is."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
    if type(stream) is not io.TextIOWrapper or stream.fileno() != descriptor:
        return stream
    with suppress(OSError):
        stream.flush()
    raw = _LastingFile(descriptor)
    through = stream.write_through
    lasting = _LastingStream(
        raw if through else io.BufferedWriter(raw),  # pyright: ignore[reportArgumentType]  as Python's own with -u
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=through,
    )
    lasting.former, lasting.is_terminal = stream, os.isatty(descriptor)
    return lasting


def _file_of(stream: _LastingStream) -> _LastingFile:
    buffer = stream.buffer
    return buffer if isinstance(buffer, _LastingFile) else buffer.raw  # pyright: ignore
