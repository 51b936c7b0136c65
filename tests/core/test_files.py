import errno
import hashlib
import os
import resource
import signal

import pytest

from rp2k_lab.core.files import preallocate, rename, sha256_of, write_atomically, write_text


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
