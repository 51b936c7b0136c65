"""The images that `task.input` names, and lists of those that were not used."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from rp2k_lab.core.csv_files import UnreadableText, decode, read_csv, write_csv
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.files import write_atomically
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.folder_walk import files_below, is_hidden, is_image, kinds
from rp2k_lab.dataset.image import read_views
from rp2k_lab.dataset.image_formats import READ


class Input(NamedTuple):
    """The images of `task.input`.

    Attributes:
        root: the folder that the names are relative to.
        names: paths of the images.
        unused: (path, reason) of the other files and folders.
    """

    root: Path
    names: list[str]
    unused: list[tuple[str, str]]


def find_images(source: Path) -> Input:
    """Return the images of `task.input`.

    A folder gives the images below it, by their suffix or first bytes, sorted, without hidden ones.  A .txt has a path
    a line, a .csv a column `path`; both are absolute or relative to the list's folder.  Any other file is an image.

    Raises:
        RequestError: an unreadable list, or a .csv without that column.
        DataError: no image, or a folder that cannot be listed.
    """
    if source.is_dir():
        found = _find_below(source)
    elif source.suffix.lower() in (".txt", ".csv"):
        found = Input(source.parent, _read_list(source), [])
    else:
        found = Input(source.parent, [source.name], [])
    if not found.names:
        others = f", only {kinds(path for path, _ in found.unused)}" if found.unused else ""
        raise DataError(
            f"{escape_controls(source)}: names no photo{others}\nuse {', '.join(READ[:-1])} or {READ[-1]} files"
        )
    return found


def _find_below(root: Path) -> Input:
    names, unused = [], []
    for path, reason in files_below(root):
        parent, name = os.path.split(path)
        if reason is None and is_hidden(name):
            reason = "a hidden file"
        elif reason is None and not is_image(root / parent, name):
            reason = "no photo"
        if reason is None:
            names.append(path)
        else:
            unused.append((path, reason))
    return Input(root, sorted(names), unused)


def _read_list(file: Path) -> list[str]:
    name = f"task.input={escape_controls(file)}"
    try:
        if file.suffix.lower() == ".txt":
            # splitlines would also split at characters that file names may contain.
            lines = [line.removesuffix("\r") for line in decode(file.read_bytes(), file).split("\n")]
            return [line for line in lines if line.strip()]
        table = read_csv(file)
    except UnreadableText as error:
        raise RequestError(f"{name}{error}") from None
    except OSError as error:
        raise RequestError(f"{name}: cannot be read ({error.strerror})\nuse a file that you may read") from None
    if "path" not in table:
        raise RequestError(f"{name}: has no column path\nname the column of the photos' paths path")
    return [path for path in table["path"] if path]


def readable_views(
    paths: Sequence[str], preprocessings: Sequence[tuple[tuple[int, int], str]], problems: dict[int, str]
) -> Callable[[int], list[np.ndarray]]:
    """Return a function from position to the image in each of `preprocessings`.

    An unreadable image is black, and its problem is added to `problems`.
    """

    def views(position: int) -> list[np.ndarray]:
        path = paths[position]
        try:
            if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would block
                raise DataError("no regular file")
            return read_views(path, preprocessings)
        except (DataError, ValueError) as error:  # ValueError: a zero byte in the path
            problems[position] = str(error).removeprefix(f"{escape_controls(path)}: ").split("\n")[0]
            return [np.zeros((1, 1, 3), np.uint8)] * len(preprocessings)

    return views


def write_list(rows: Sequence[tuple[str, str]], what: str, file: Path) -> list[Path]:
    """Write (path, reason) of files as CSV, with the columns `path` and `what`; return the file.

    Without rows there is no file, and an earlier one is removed.
    """
    file.unlink(missing_ok=True)
    if rows:
        write_table(pd.DataFrame({"path": storable(path for path, _ in rows), what: [row[1] for row in rows]}), file)
    return [file] if rows else []


def unreadable_file(output: Path) -> Path:
    """Return the list of unreadable images beside an output file."""
    return output.with_name(f"{output.stem}.unreadable.csv")


def storable(names: Iterable[str]) -> list[str]:
    """Return paths as UTF-8: other bytes become escape codes."""
    return [os.fsencode(name).decode(errors="backslashreplace") for name in names]


def write_table(table: pd.DataFrame, file: Path) -> None:
    """Write CSV or parquet atomically."""
    if file.suffix == ".csv":
        write_csv(table, file)
        return
    with write_atomically(file) as part:
        table.to_parquet(part, index=False)
