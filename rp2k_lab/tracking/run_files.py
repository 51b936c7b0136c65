"""Read the files of a run's folder: they may be damaged, or a stranger's.

Only regular files of a limited size below the folder are read.  Whatever is wrong with one is a DataError that names
it.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import yaml

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.text import escape_controls, shorten

CONFIG, CLASSES = "config.yaml", "classes.txt"
# A configuration has 2 kB, the list of 2388 classes 60 kB.
_CONFIG_BYTES, _TEXT_BYTES = 2**18, 2**26
_MAX_DEPTH = 20
_SCALARS = (str, int, float, bool, type(None))
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML was built with libyaml


def open_regular(file: Path) -> IO[bytes]:
    """Open a regular file for reading.

    Raises:
        OSError: it is a link, a pipe, a device or a folder, or cannot be opened.
    """
    # Opening a pipe would wait for its writer.
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file", str(file))
    return open(descriptor, "rb")


def real_path(folder: Path, name: Path | str) -> Path:
    """Return the path of a run's file without links.

    Args:
        folder: the run's folder, which may be a link itself.
        name: relative to it.

    Raises:
        DataError: a link, `..` or an absolute name leads out of the folder.
    """
    file = Path(os.path.realpath(folder / name))
    if not file.is_relative_to(os.path.realpath(folder)):
        raise DataError(
            f"{escape_controls(folder / name)}: lies outside of the run's folder, at {escape_controls(file)}\n"
            "copy the file into the folder"
        )
    return file


def read_text(folder: Path, name: str, limit: int = _TEXT_BYTES) -> str:
    """Return a run's UTF-8 text file, with its line ends.

    Args:
        limit: its largest size (bytes).

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it cannot be read, is too large or lies outside of the folder.
    """
    file = real_path(folder, name)
    with damage_named(folder / name):
        with open_regular(file) as opened:
            content = opened.read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"larger than {limit // 1024} KiB")
        return content.decode()


def read_settings(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """Return a run's recorded YAML as plain data: keys are text, values are scalars, lists and mappings.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it cannot be read, or has an alias, a tag, or another structure.
    """
    text = read_text(folder, name, _CONFIG_BYTES)
    with damage_named(folder / name):
        _check_plain(text)
        settings = yaml.load(text, _LOADER)
        if not isinstance(settings, dict):
            raise ValueError("no mapping of keys to values")
        _check_types(settings)
    return settings


def _check_plain(text: str) -> None:
    """Raise ValueError for aliases, which may expand without end, for tags, and for deep nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError(f"line {event.start_mark.line + 1} has a YAML alias")
        if getattr(event, "tag", None):
            raise ValueError(f"line {event.start_mark.line + 1} has a YAML tag")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested deeper than {_MAX_DEPTH} levels")


def _check_types(value: Any) -> None:
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a key is no text")
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            _check_types(inner)
    elif not isinstance(value, _SCALARS):
        raise ValueError(f"a value is a {type(value).__name__}")


@contextmanager
def damage_named(file: Path, way_out: str = "restore the file, or name another run") -> Iterator[None]:
    """Name `file` in every error of a block that reads a recorded file or uses its content.

    Raises:
        DataError: in place of any other exception, except for a missing file, messages with a way out, and exits.
    """
    try:
        yield
    except (DataError, RequestError, FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # YAML, Unicode, Parquet, missing keys and wrong types: each library has its own
        raise DataError(f"{escape_controls(file)}: is damaged ({_reason(error)})\n{way_out}") from None


def system_reason(error: OSError) -> str:
    """Return why a file cannot be opened (`open_regular`), as one short line."""
    return "a link" if error.errno == errno.ELOOP else error.strerror or str(error)


def _reason(error: Exception) -> str:
    """Return why a file is damaged, as one short line."""
    if isinstance(error, OSError) and error.strerror:
        return system_reason(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem or error.context}"
    if isinstance(error, UnicodeDecodeError):
        return "no UTF-8"
    if isinstance(error, KeyError):
        return f"without {escape_controls(str(error))}"
    line = next(iter(str(error).strip().splitlines()), "")
    return shorten(escape_controls(line), 120) or type(error).__name__


def read_small(file: Path, limit: int = 2**16) -> bytes:
    """Return the content of a small regular file; empty if it cannot be read or is larger than `limit` bytes."""
    with suppress(OSError), open_regular(file) as opened:
        content = opened.read(limit + 1)
        return content if len(content) <= limit else b""
    return b""
