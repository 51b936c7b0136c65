"""Locks with `flock` and on disks without it, where a marker file names the owner."""

import errno
import os
import socket
import time

import psutil
import pytest

from rp2k_lab.core import locks
from rp2k_lab.core.locks import file_lock, lock_descriptor, owner_hint, try_lock

HOST, START = socket.gethostname(), f"{psutil.Process().create_time():.0f}"
NO_PROCESS = 2**22 + 1  # above the largest pid of Linux


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def no_locks(request, monkeypatch):
    """A disk without locks: NFS without its lock service, SMB, file systems in user space."""

    def flock(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(locks.fcntl, "flock", flock)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_second_holder_is_refused_and_leaves_no_marker(tmp_path):
    first = try_lock(tmp_path / ".lock")
    with pytest.raises(BlockingIOError):
        try_lock(tmp_path / ".lock")
    assert names(tmp_path) == [".lock"]
    assert owner_hint(tmp_path / ".lock") == ""
    first.release()
    try_lock(tmp_path / ".lock").release()


def test_disk_without_locks_gets_a_marker(tmp_path, no_locks):
    first = try_lock(tmp_path / ".lock")
    assert names(tmp_path) == [".lock.owner"]
    with pytest.raises(BlockingIOError):
        try_lock(tmp_path / ".lock")
    assert owner_hint(tmp_path / ".lock") == f"; if its machine is gone, delete {tmp_path}/.lock.owner"
    first.release()
    with file_lock(tmp_path / ".lock"):
        assert names(tmp_path) == [".lock.owner"]
    assert names(tmp_path) == []


def test_open_file_is_locked_on_every_disk(tmp_path, no_locks):
    file = tmp_path / "a.journal"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
    lock = lock_descriptor(descriptor, file)
    with pytest.raises(BlockingIOError):
        lock_descriptor(descriptor, file)
    os.close(descriptor)
    lock.release()
    assert names(tmp_path) == ["a.journal"]


BOOT, NAMESPACE = locks.pid_space()


@pytest.mark.parametrize(
    ("owner", "dead"),
    [
        (f"{START} {os.getpid()} {BOOT} {NAMESPACE} {HOST}\n", False),
        (f"{START} {NO_PROCESS} {BOOT} {NAMESPACE} {HOST}\n", True),
        (f"1000 {os.getpid()} {BOOT} {NAMESPACE} {HOST}\n", True),  # the pid is another process's now
        (f"{START} {os.getpid()} another-boot {NAMESPACE} {HOST}\n", True),
        (f"{START} {NO_PROCESS} {BOOT} 1 {HOST}\n", False),  # another container of this machine
        (f"{START} {NO_PROCESS} {BOOT} {NAMESPACE} another host\n", False),
        (f"{START} {10**30} {BOOT} {NAMESPACE} {HOST}\n", True),
        ("torn", True),
        ("\0\0\0", True),
    ],
    # The processes of a test run differ in their pids, and must have the same tests.
    ids=["alive", "gone", "another-process", "rebooted", "container", "another-host", "no-pid", "torn", "zeros"],
)
def test_marker_of_a_dead_owner_is_taken_over(tmp_path, monkeypatch, owner, dead):
    monkeypatch.setattr(locks, "has_locks", lambda folder: False)
    marker = tmp_path / ".lock.owner"
    marker.write_text(owner)
    if dead:
        try_lock(tmp_path / ".lock").release()
        assert names(tmp_path) == []
    else:
        with pytest.raises(BlockingIOError):
            try_lock(tmp_path / ".lock")
        assert marker.read_text() == owner


def test_empty_marker_is_taken_over_when_it_is_old(tmp_path, monkeypatch):
    """A process was killed before it wrote its name; a living one writes it at once."""
    monkeypatch.setattr(locks, "has_locks", lambda folder: False)
    marker = tmp_path / ".lock.owner"
    marker.touch()
    with pytest.raises(BlockingIOError):
        try_lock(tmp_path / ".lock")
    os.utime(marker, (time.time() - 60,) * 2)
    try_lock(tmp_path / ".lock").release()
