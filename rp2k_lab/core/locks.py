"""Locks between processes: `flock`, or on a disk without it a marker file that names its owner."""

import errno
import fcntl
import os
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from rp2k_lab.core.text import escape_controls

# What disks answer that have no locks: NFS without its lock service, SMB, file systems in user space.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# An empty marker of this age is of a process that was killed before it wrote its name.
_EMPTY_SECONDS = 10.0
# psutil computes the start of a process from the boot time, which drifts with the clock.
_SAME_START_SECONDS = 10.0


class MarkerLock:
    """A lock that is a file with its owner's host, boot, namespace and process; a dead owner's is taken over.

    Whether the owner on another machine is alive is unknown: its marker stays.
    """

    def __init__(self, marker: Path):
        self.marker = marker

    def try_acquire(self) -> bool:
        """Create the marker and return True, or return False if another process owns it."""
        for _ in range(2):
            try:
                descriptor = os.open(self.marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                self._remove_dead_owner()
                continue
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(_this_process())
            return True
        return False

    def release(self) -> None:
        """Remove the marker."""
        self.marker.unlink(missing_ok=True)

    def __enter__(self):
        while not self.try_acquire():
            time.sleep(0.05)  # a file gives no notice
        return self

    def __exit__(self, *error):
        self.release()

    def _remove_dead_owner(self) -> None:
        aside = self.marker.with_name(f"{self.marker.name}.{os.getpid()}")
        with suppress(OSError):  # another process removed it first
            owner, changed = self.marker.read_text("utf-8", errors="replace"), self.marker.stat().st_mtime
            if not (_is_dead(owner) if owner else time.time() - changed > _EMPTY_SECONDS):
                return
            self.marker.rename(aside)
            if aside.read_text("utf-8", errors="replace") == owner:
                aside.unlink()
            else:  # meanwhile a living process had taken it over
                aside.rename(self.marker)


def has_locks(folder: Path) -> bool:
    """Return whether the disk of a folder has `flock`; True where it cannot be tried."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _NO_LOCKS
    return True


def file_lock(file: Path) -> FileLock | MarkerLock:
    """Return the lock of a file name, to be used in `with`, which waits for other processes."""
    return FileLock(file) if has_locks(file.parent) else MarkerLock(_marker(file))


def try_lock(file: Path) -> FileLock | MarkerLock:
    """Return the lock of a file name, held by this process until `release` or its end.

    Raises:
        BlockingIOError: another process holds it.
    """
    lock = file_lock(file)
    with suppress(Timeout):
        if lock.try_acquire() if isinstance(lock, MarkerLock) else lock.acquire(timeout=0):
            return lock
    raise BlockingIOError(errno.EWOULDBLOCK, "another process holds the lock", str(file))


def lock_descriptor(descriptor: int, file: Path) -> MarkerLock | None:
    """Lock an open file until it is closed; on a disk without `flock`, return the lock to release after that.

    Raises:
        BlockingIOError: another process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        lock = MarkerLock(_marker(file))
        if not lock.try_acquire():
            raise BlockingIOError(errno.EWOULDBLOCK, "another process holds the lock", str(file)) from None
        return lock
    return None


def owner_hint(file: Path) -> str:
    """Return the end of a way out for whoever waits for a lock: how to remove the marker of a lost machine, or ""."""
    return f"; if its machine is gone, delete {escape_controls(_marker(file))}" if _marker(file).exists() else ""


def _marker(file: Path) -> Path:
    return file.with_name(f".{file.name.lstrip('.')}.owner")


def _this_process() -> str:
    """Return start time, pid, boot, PID namespace and host of this process as one line."""
    started = f"{psutil.Process().create_time():.0f}"
    return " ".join([started, str(os.getpid()), *pid_space(), socket.gethostname()]) + "\n"


def _is_dead(owner: str) -> bool:
    """Return whether the process of a marker's line is gone for certain; a line of another form is of none."""
    try:
        started, pid, boot, namespace, host = owner.rstrip("\n").split(" ", 4)
        start, number = float(started), int(pid)
    except ValueError:
        return True
    current_boot, current_namespace = pid_space()
    if host != socket.gethostname() or (boot == current_boot and namespace != current_namespace):
        return False
    try:
        return boot != current_boot or abs(psutil.Process(number).create_time() - start) > _SAME_START_SECONDS
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return True
    except psutil.Error:  # another user's
        return False


def pid_space() -> tuple[str, str]:
    """Return what a process id belongs to: the start of the system and the container's namespace; - where unknown.

    Several machines and containers may have one host name.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        return boot, str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:  # a system without /proc
        return "-", "-"
