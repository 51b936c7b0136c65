import errno
import hashlib
import os
import resource
import signal
import time

import pytest

from rp2k_lab.core import files
from rp2k_lab.core.files import (
    link_or_copy,
    part_of,
    preallocate,
    rename,
    replace_folder,
    restore_folder,
    sha256_of,
    sync_folder,
    sync_tree,
    write_atomically,
    write_text,
)


def refuse(monkeypatch, owner, name: str, number: int) -> None:
    """Let a call fail as on a disk without the feature."""

    def call(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("sync", [False, True])
def test_atomic_write_replaces_the_file_at_the_end(tmp_path, sync):
    file = tmp_path / "record.bin"
    file.write_bytes(b"former")
    with write_atomically(file, sync) as part:
        part.write_bytes(b"new")
        assert part.parent == tmp_path
        assert file.read_bytes() == b"former"
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failed_atomic_write_keeps_the_file_and_leaves_no_part(tmp_path, error):
    file = tmp_path / "record.bin"
    file.write_bytes(b"former")
    with pytest.raises(error), write_atomically(file) as part:  # noqa: PT012
        part.write_bytes(b"half")
        raise error
    assert file.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [file]


def test_failed_rename_leaves_no_part(tmp_path):
    file = tmp_path / "folder"
    file.mkdir()
    with pytest.raises(OSError), write_atomically(file) as part:  # noqa: PT011  EISDIR or ENOTEMPTY by system
        part.write_bytes(b"x")
    assert list(tmp_path.iterdir()) == [file]


def test_text_is_utf8_with_its_line_ends(tmp_path):
    write_text(tmp_path / "a.txt", "红茶\r\nb\n")
    assert (tmp_path / "a.txt").read_bytes() == "红茶\r\nb\n".encode()


def test_synced_rename(tmp_path):
    part, file = tmp_path / "part", tmp_path / "file"
    part.write_bytes(b"x")
    rename(part, file, sync=True)
    assert (file.read_bytes(), part.exists()) == (b"x", False)


def test_sha256(tmp_path):
    content = bytes(range(256)) * 1000
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_preallocated_space_is_reserved(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        preallocate(file, 1_000_000)
    stat = os.stat(tmp_path / "a")
    assert stat.st_size == 1_000_000
    assert stat.st_blocks * 512 >= 1_000_000


def test_preallocation_beyond_a_limit_raises(tmp_path):
    """RLIMIT_FSIZE stands in for a full disk: the kernel refuses the space before anything is written."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, former[1]))
    try:
        with (tmp_path / "a").open("wb") as file, pytest.raises(OSError) as error:  # noqa: PT011  errno is checked
            preallocate(file, 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
        signal.signal(signal.SIGXFSZ, handler)
    assert error.value.errno in (errno.EFBIG, errno.ENOSPC)


@pytest.mark.parametrize(
    ("process", "hours", "kept"), [(2**22 + 1, 2, False), (2**22 + 1, 0, True), (os.getppid(), 2, True)]
)
def test_parts_of_killed_processes_are_deleted_an_hour_later(tmp_path, process, hours, kept):
    """On a shared disk the process may run on another machine."""
    part, folder, other = (tmp_path / f".{name}.{process}.part" for name in ("a.json", "b", "a.json.x"))
    part.touch()
    folder.mkdir()
    (folder / "file").touch()
    other.touch()
    for path in (part, folder, other):
        os.utime(path, (time.time() - hours * 3601,) * 2)
    write_text(tmp_path / "a.json", "new")
    part_of(tmp_path / "b")
    assert (part.exists(), folder.exists(), other.exists()) == (kept, kept, True)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
@pytest.mark.parametrize("kind", ["symbolic", "hard", "copy"])
def test_link_or_the_next_best(tmp_path, monkeypatch, kind, number):
    if kind != "symbolic":
        refuse(monkeypatch, os, "symlink", number)
    if kind == "copy":
        refuse(monkeypatch, os, "link", number)
    for name in ("step-1", "step-2", "step-2"):
        (tmp_path / name).write_text(name)
        assert link_or_copy(tmp_path / "last", tmp_path / name) == (kind != "copy")
    assert (tmp_path / "last").read_text() == "step-2"
    assert (tmp_path / "last").is_symlink() == (kind == "symbolic")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last", "step-1", "step-2"]


def test_link_on_a_full_disk_keeps_the_former(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    link_or_copy(tmp_path / "last", tmp_path / "a")
    refuse(monkeypatch, os, "symlink", errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        link_or_copy(tmp_path / "last", tmp_path / "b")
    assert (tmp_path / "last").read_text() == "a"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "last"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_folder_is_replaced_by_another(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(files, "exchange", lambda *_: False)
    for number, text in enumerate(("former", "new")):
        (tmp_path / "part").mkdir()
        (tmp_path / "part" / text).touch()
        sync_tree(tmp_path / "part")
        replace_folder(tmp_path / "part", tmp_path / "export")
        assert [file.name for file in (tmp_path / "export").iterdir()] == [text]
        assert (tmp_path / "part").exists() == (number == 1)
    assert [file.name for file in (tmp_path / "part").iterdir()] == ["former"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["export", "part"]
    assert not restore_folder(tmp_path / "export")


def test_system_exchanges_folders_in_one_step(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / name).mkdir(parents=True)
    if not files.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this system or disk cannot exchange two names: only the way in two steps is tested")
    assert (tmp_path / "a" / "b").is_dir()
    assert (tmp_path / "b" / "a").is_dir()
    with pytest.raises(FileNotFoundError):
        files.exchange(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize("renamed", [1, 2])
def test_folder_of_a_process_killed_between_its_renames_is_put_back(tmp_path, monkeypatch, renamed):
    """Without the exchange: after one rename the folder is gone, after two a former one is left."""
    (tmp_path / ".export.former").mkdir()
    (tmp_path / ".export.former" / "former").touch()
    if renamed == 2:
        (tmp_path / "export" / "new").mkdir(parents=True)
    assert restore_folder(tmp_path / "export") == (renamed == 1)
    assert [file.name for file in (tmp_path / "export").iterdir()] == [["former", "new"][renamed - 1]]
    assert [file.name for file in tmp_path.iterdir()] == ["export"]


def test_disk_that_cannot_flush_folders_is_accepted_and_a_broken_one_is_not(tmp_path, monkeypatch):
    for number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES):
        refuse(monkeypatch, os, "fsync", number)
        sync_folder(tmp_path)
    refuse(monkeypatch, os, "fsync", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        sync_folder(tmp_path)
