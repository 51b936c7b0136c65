"""Files: atomic writes that outlive a power cut, links, hashes and reserved disk space."""

import ctypes
import errno
import glob
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

# What disks answer that lack a feature: exFAT, SMB and NFS, and file systems in user space.
UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOLCK, errno.EISDIR}
# A part whose process is gone is removed after this time; on a shared disk the process may run on another machine.
_LEFTOVER_SECONDS = 3600
_FEW_FILES = 100
# renameat2(2): the flag RENAME_EXCHANGE, and the folder that relative paths start at.
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
_C_LIBRARY = ctypes.CDLL(None, use_errno=True)


@contextmanager
def write_atomically(file: Path, sync: bool = False, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path beside `file`, and rename it to `file` when the block ends.

    Readers see the former file or the new one.  If the block raises, the temporary file is deleted; those of killed
    processes are deleted an hour later.

    Args:
        sync: flush the file and its folder to the disk, so that both outlive a power cut.
        suffix: end of the temporary name.
    """
    part = part_of(file, suffix)
    try:
        yield part
        rename(part, file, sync)
    finally:
        part.unlink(missing_ok=True)


def rename(part: Path, file: Path, sync: bool = False) -> None:
    """Replace `file` by a finished one; `sync` as in `write_atomically`."""
    if sync:
        sync_file(part)
    part.replace(file)
    if sync:
        sync_folder(file.parent)


def part_of(file: Path, suffix: str = "") -> Path:
    """Return the path beside a file or folder to make it under; delete those of killed processes, an hour old."""
    for part in file.parent.glob(f".{glob.escape(file.name)}.*.part*"):
        pid = part.name.removeprefix(f".{file.name}.").partition(".")[0]
        with suppress(OSError):  # another process deletes it, too
            if pid.isdecimal() and not _runs(int(pid)) and time.time() - part.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(part) if part.is_dir() else part.unlink()
    return file.with_name(f".{file.name}.{os.getpid()}.part{suffix}")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def sync_file(path: Path) -> None:
    """Flush a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's names to the disk, so that they outlive a power cut; nothing where the disk cannot."""
    try:
        sync_file(folder)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EBADF}:
            raise


def sync_names(file: Path) -> None:
    """Flush the names of a file and of all its folders, whoever created them, so that they outlive a power cut."""
    for folder in file.absolute().parents:
        sync_folder(folder)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, which then outlive a power cut."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_folder(made.parent)


def sync_tree(folder: Path) -> None:
    """Flush all files in and below a new folder and their names to the disk.

    Many files are flushed by one call, which also flushes all else on their disk: one call each takes milliseconds.
    """
    paths = [folder, *folder.rglob("*")]
    if len(paths) > _FEW_FILES and hasattr(_C_LIBRARY, "syncfs"):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            if _C_LIBRARY.syncfs(descriptor) == 0:
                return
        finally:
            os.close(descriptor)
    for path in paths:
        sync_folder(path) if path.is_dir() else sync_file(path)


def write_text(file: Path, text: str, sync: bool = False) -> None:
    """Write UTF-8 text atomically, without translating line ends."""
    with write_atomically(file, sync) as part:
        part.write_text(text, encoding="utf-8", newline="")


def link_or_copy(link: Path, file: Path) -> bool:
    """Replace `link` by a symbolic link to a file beside it; where the disk has none, by a hard link or a copy.

    Returns:
        Whether it is a link of either kind.

    Raises:
        OSError: the disk is full; the former link stays.
    """
    part = link.with_name(f".{link.name}.tmp")
    part.unlink(missing_ok=True)
    try:
        if not (linked := _linked(part, file)):
            shutil.copyfile(file, part)
            sync_file(part)
        part.replace(link)
    finally:
        part.unlink(missing_ok=True)  # renaming one hard link over another of the same file leaves it
    return linked


def _linked(link: Path, file: Path) -> bool:
    for make in (lambda: link.symlink_to(file.name), lambda: link.hardlink_to(file)):
        try:
            make()
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        else:
            return True
    return False


def replace_folder(new: Path, folder: Path) -> None:
    """Put a finished folder in the place of another one beside it, in one step; `new` is the former folder afterwards.

    A disk without this step (NFS, exFAT) does it in two: a process that is killed between them leaves the former folder
    as `.NAME.former`, for `restore_folder`.

    Raises:
        OSError: another disk, or no permission.
    """
    former = folder.with_name(f".{folder.name}.former")
    if not folder.exists():
        new.rename(folder)
    elif not exchange(new, folder):
        folder.rename(former)
        new.rename(folder)
        former.rename(new)
    sync_folder(folder.parent)


def restore_folder(folder: Path) -> bool:
    """Put back a folder that a killed `replace_folder` left under its other name; return whether it was needed."""
    former = folder.with_name(f".{folder.name}.former")
    if folder.exists():
        shutil.rmtree(former, ignore_errors=True)  # the process died after the second step
        return False
    if not former.is_dir():
        return False
    former.rename(folder)
    return True


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names on one disk in one step; return False where the system or the disk cannot.

    Raises:
        OSError: a name is missing, or no permission.
    """
    if not hasattr(_C_LIBRARY, "renameat2"):  # glibc before 2.28, macOS
        return False
    names = os.fsencode(first), os.fsencode(second)
    if _C_LIBRARY.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(second))


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def preallocate(file: IO[bytes], size: int) -> None:
    """Reserve `size` bytes of disk space for a file open for writing.

    Writing to a memory-mapped sparse file would end the process with a bus error when the disk fills up.

    Raises:
        OSError: the disk has no space (ENOSPC, EDQUOT).
    """
    os.posix_fallocate(file.fileno(), 0, size)
