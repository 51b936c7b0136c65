"""Walk folders of photos: which files are images, and what kinds the others are.  Links are followed."""

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.image_formats import FORMAT_OF_SUFFIX, HEAD_BYTES, format_of, suffix_of

HIDDEN = "a hidden folder"
LOOP = "a link to a folder above it"
# Folders of systems: archives of macOS, thumbnails of Synology, Windows' bin, a disk's lost files.
_SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
# A longer ending is part of a name: `notes of 2.12. in shop 3`.
_LONGEST_SUFFIX = 10
_LISTED = 8

Identity = tuple[int, int]


def entries(folder: Path | str) -> list[tuple[str, bool]]:
    """Return (name, whether it is a folder) of each entry of a folder, sorted by name.

    Raises:
        DataError: the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as scanned:
            return sorted((entry.name, _is_folder(entry)) for entry in scanned)
    except OSError as error:
        raise DataError(
            f"{escape_controls(folder)}: the folder cannot be listed ({error.strerror})\nmake it readable"
        ) from None


def identity(folder: Path | str) -> Identity:
    """Return (device, inode) of a folder."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def is_broken_link(file: Path | str) -> bool:
    """Return whether a path is a link that leads nowhere."""
    return os.path.islink(file) and not os.path.exists(file)


def is_hidden(name: str) -> bool:
    """Return whether systems hide an entry or write it themselves: `.cache`, `._x.jpg` of macOS, `__MACOSX`."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def has_image_suffix(name: str) -> bool:
    """Return whether a name ends like an image's."""
    return suffix_of(name) in FORMAT_OF_SUFFIX


def is_image(folder: Path | str, name: str) -> bool:
    """Return whether a file is an image by its name or first bytes; a broken link or unreadable file is one."""
    if has_image_suffix(name):
        return True
    file = os.path.join(folder, name)
    if not os.path.isfile(file):
        return is_broken_link(file)  # pipes and sockets must not be opened
    try:
        with open(file, "rb", buffering=0) as opened:
            return format_of(opened.read(HEAD_BYTES)) is not None
    except OSError:
        return True


def files_below(folder: Path, prefix: str = "", above: tuple[Identity, ...] = ()) -> Iterator[tuple[str, str | None]]:
    """Yield (prefix + path, None) of each file below a folder, sorted.

    A folder that is not entered is yielded with a slash at its end and the reason: it is hidden, leads back to a folder
    above it, or cannot be listed.
    """
    above = (*above, identity(folder))
    for name, is_folder in entries(folder):
        if not is_folder:
            yield prefix + name, None
        elif is_hidden(name):
            yield f"{prefix}{name}/", HIDDEN
        elif identity(folder / name) in above:
            yield f"{prefix}{name}/", LOOP
        else:
            try:
                yield from files_below(folder / name, f"{prefix}{name}/", above)
            except DataError as error:
                yield f"{prefix}{name}/", str(error).removeprefix(f"{escape_controls(folder / name)}: ").split("\n")[0]


def photos_in_hidden(folder: Path, prefix: str) -> list[str]:
    """Return prefix + path of the files in a hidden folder that are called like images."""
    paths = (os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in sorted(names))
    return [prefix + os.path.relpath(path, folder) for path in paths
            if has_image_suffix(path) and not os.path.basename(path).startswith("._")]  # fmt: skip


def unlisted(root: Path, files: Collection[str], lists: Iterable[Path]) -> tuple[list[str], list[str]]:
    """Return (images, other files) in the folders of listed files that no list names; paths like those of `files`.

    Args:
        files: listed paths, absolute or relative to the root.
        lists: the lists themselves, which count as named.
    """
    listed, folders = defaultdict(set), {}
    for file in [*files, *(os.fspath(file) for file in lists)]:
        parent, name = os.path.split(file)
        listed[parent].add(name)
    own = {os.path.dirname(os.fspath(file)) for file in lists} - {os.path.dirname(file) for file in files}
    for parent in listed:
        try:
            folders.setdefault(identity(os.path.join(root, parent)), []).append(parent)
        except (OSError, ValueError):
            continue  # the listed file has this problem itself
    images, others = [], []
    for spellings in folders.values():
        if own.issuperset(spellings):
            continue
        parent, names = spellings[0], set().union(*(listed[each] for each in spellings))
        try:
            rest = [name for name, is_folder in entries(os.path.join(root, parent)) if not is_folder]
        except DataError:
            continue
        for name in set(rest) - names:
            is_photo = has_image_suffix(name) and not is_hidden(name)
            (images if is_photo else others).append(os.path.join(parent, name))
    return sorted(images), sorted(others)


def kinds(paths: Iterable[str]) -> str:
    """Return the kinds of files with their numbers, the most frequent first: `3 .txt, 2 .json, 1 .DS_Store`.

    Args:
        paths: a folder has a slash at its end.
    """
    return _counted(Counter(map(_kind, paths)), "kinds")


def folders_of(paths: Iterable[str]) -> str:
    """Return the folders of files with the numbers of files, the most first: `40 in train/a/front/, 2 in ./`."""
    return _counted(Counter(f"in {escape_controls(os.path.dirname(path) or '.')}/" for path in paths), "folders")


def _counted(counter: Counter[str], what: str) -> str:
    listed = counter.most_common(_LISTED)
    text = ", ".join(f"{count:,} {name}" for name, count in listed)
    rest = counter.total() - sum(count for _, count in listed)
    return f"{text}, and {rest:,} of {len(counter) - len(listed):,} other {what}" if rest else text


def _kind(path: str) -> str:
    if path.endswith("/"):
        return f"{escape_controls(os.path.basename(path[:-1]))}/"
    name = os.path.basename(path)
    if name.startswith("._"):
        return "._*"
    suffix = suffix_of(name)
    if name.startswith(".") and name.lower() != suffix:
        return f"hidden {escape_controls(suffix)}"
    if not 1 < len(suffix) <= _LONGEST_SUFFIX or " " in suffix:
        return "without a suffix"
    return escape_controls(name if name.startswith(".") else suffix)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
