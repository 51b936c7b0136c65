"""Run `run.py` on disks without links, locks, permissions and flushed folders: python poor_disk.py <its arguments>.

A filter of system calls (seccomp) gives the answers of exFAT and of NFS without its lock service.  Permissions and
folders are refused in Python, since the kernel's filter sees no names.
"""

import ctypes
import errno
import os
import platform
import runpy
import stat
import struct
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT))

import rp2k_lab  # noqa: E402, F401 (before MindSpore: sets its environment)

# Numbers of symlink, symlinkat, link, linkat, flock and renameat2; there is no symlink and no link on ARM.
NUMBERS = {"x86_64": (88, 266, 86, 265, 73, 316), "aarch64": (36, 37, 32, 276)}
ANSWERS = {
    "x86_64": (errno.EPERM,) * 4 + (errno.ENOLCK, errno.EINVAL),
    "aarch64": (errno.EPERM,) * 2 + (errno.ENOLCK, errno.EINVAL),
}
# linux/prctl.h, linux/seccomp.h, linux/bpf_common.h
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN, _ALLOW, _FAIL_WITH = 0x20, 0x15, 0x06, 0x7FFF0000, 0x50000


def refuse_system_calls() -> None:
    """Let the kernel refuse them in this process and its children, for good."""
    machine = platform.machine()
    program = [(_LOAD, 0, 0, 0)]  # the call's number
    for number, answer in zip(NUMBERS[machine], ANSWERS[machine], strict=True):
        program += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL_WITH | answer)]
    code = b"".join(struct.pack("HBBI", *line) for line in [*program, (_RETURN, 0, 0, _ALLOW)])
    buffer = ctypes.create_string_buffer(code)
    filter_program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    library = ctypes.CDLL(None, use_errno=True)
    assert library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
    assert library.prctl(_SET_SECCOMP, _FILTER, filter_program, 0, 0) == 0, os.strerror(ctypes.get_errno())


def refuse_permissions_and_folders() -> None:
    """Let `os.chmod` and `os.fsync` of a folder fail."""
    fsync = os.fsync

    def fsync_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    def chmod(path, *arguments, **options) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)

    os.fsync, os.chmod = fsync_files, chmod


if __name__ == "__main__":
    refuse_system_calls()
    refuse_permissions_and_folders()
    sys.argv[0] = str(PROJECT / "run.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
