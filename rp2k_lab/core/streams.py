"""Standard output and error that outlast their reader, terminal or disk.

A pipe loses its reader (`| head`, a dead `tee`), a terminal vanishes with its connection, the disk of a log file fills
up.  Python then raises OSError wherever something is printed: a training would end for the sake of a log line.
"""

import io
import os
import select
import sys
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


class _LastingStream(io.TextIOWrapper):
    """The text of a standard stream."""

    former: object = None  # the replaced stream, which would close the descriptor when it is deleted


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
    lasting.former = stream
    return lasting


def _file_of(stream: _LastingStream) -> _LastingFile:
    buffer = stream.buffer
    return buffer if isinstance(buffer, _LastingFile) else buffer.raw  # pyright: ignore
