"""Every photo of a data set with its size and what is wrong with it, quickly the second time.

Scanning a folder is quick; reading 342,000 headers is not, so they are kept as parquet beside the clone's data, one
file a folder, and a photo is read again only when its size in bytes or its time of change differ.
"""

import errno
import hashlib
import logging
import os
import stat
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.files import write_atomically
from rp2k_lab.dataset import image_formats
from rp2k_lab.dataset.image import decoder_version, problem_of, read_image

log = logging.getLogger(__name__)

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_HEADER_TYPES = {"bytes": "int64", "changed": "int64", "width": "int32", "height": "int32", "decoded": bool}
_PROBLEMS = {
    errno.ENOENT: "no such file, or a broken link",
    errno.ELOOP: "a link that leads to itself",
    errno.EACCES: "no permission to read it",
}
_AS_OPENED = {"effective_ids": os.access in os.supports_effective_ids}
# More is no photo, and reading it would take the memory of the whole run.
_MOST_BYTES = 2**30
# Small enough for a smooth progress bar, large enough that handing out the work costs nothing.
_CHUNK = 128

Header = tuple[int, int, str | None]


@dataclass(frozen=True)
class Listing:
    """What a data set's folder holds.

    Attributes:
        root: the folder that paths are relative to.
        table: one row a photo, columns path (posix), class, split, bytes (int64), changed (int64, ns since the epoch),
            width, height (int32, pixels, upright; 0 where unknown), problem (why it cannot be read, or None).
        not_photos: paths of the other files.
    """

    root: Path
    table: pd.DataFrame
    not_photos: list[str]


def read_listing(
    root: Path, photos: list[tuple[str, str, str]], not_photos: list[str], kept_folder: Path, decode: bool
) -> Listing:
    """Add sizes and problems to a scan's (path, class, split).

    Args:
        kept_folder: where headers are kept from one start to the next; those of photos with a problem are not.
        decode: decode each photo once, which finds the truncated ones; else only headers are read.
    """
    paths, classes, splits = (list(column) for column in zip(*photos, strict=True)) if photos else ([], [], [])
    size, changed, problem = _stats(root, paths)
    key = hashlib.sha256(os.fsencode(root) + decoder_version().encode()).hexdigest()[:12]
    kept_file = kept_folder / f"{root.name[:40]}-{key}.parquet"  # a whole name may fill a file name's 255 bytes
    kept = _read_kept(kept_file)
    names = pd.Index(_printable(paths), dtype="str")
    header = kept if kept.index.equals(names) else kept.reindex(names)
    known = (header["bytes"].to_numpy() == size) & (header["changed"].to_numpy() == changed)
    if decode:
        known &= header["decoded"].fillna(False).to_numpy(bool)
    width, height, decoded = (
        np.where(known, header[name], 0).astype(_HEADER_TYPES[name]) for name in ("width", "height", "decoded")
    )
    missing = [i for i in np.flatnonzero(~known).tolist() if problem[i] is None]
    found = _in_threads(_decoded if decode else _header, [f"{root}/{paths[i]}" for i in missing], decode)
    for i, (photo_width, photo_height, what) in zip(missing, found, strict=True):
        width[i], height[i], problem[i], decoded[i] = photo_width, photo_height, what, decode
    columns = {"bytes": size, "changed": changed, "width": width, "height": height}
    table = pd.DataFrame({"path": names, "class": _printable(classes), "split": splits, **columns})
    readable = np.array([what is None for what in problem], bool)
    if missing or len(kept) != readable.sum():
        _write_kept(table.loc[readable, ["path", *columns]].assign(decoded=decoded[readable]), kept_file)
    return Listing(root, table.assign(problem=pd.Series(problem, dtype=object)), _printable(not_photos))


def _stats(root: Path, paths: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
    """(bytes, time of change in ns, problem) of each photo; links are followed."""
    size, changed = np.zeros(len(paths), np.int64), np.zeros(len(paths), np.int64)
    problem: list[str | None] = [None] * len(paths)
    unnamed = _printable(paths) is not paths
    base = f"{root}/"
    for i, path in enumerate(paths):
        try:
            found = os.stat(base + path)
        except OSError as error:
            problem[i] = _PROBLEMS.get(error.errno, error.strerror)
            continue
        size[i], changed[i] = found.st_size, found.st_mtime_ns
        if not stat.S_ISREG(found.st_mode):
            problem[i] = "no regular file"  # to open a pipe is to wait for ever
        elif not found.st_size:
            problem[i] = "zero bytes"
        elif found.st_size > _MOST_BYTES:
            problem[i] = f"{found.st_size} bytes, more than a photo has"
        elif not found.st_mode & stat.S_IROTH and not os.access(base + path, os.R_OK, **_AS_OPENED):
            problem[i] = _PROBLEMS[errno.EACCES]  # a kept header does not tell, since chmod leaves the time of change
        elif unnamed and _printable([path]) != [path]:
            problem[i] = "its name is not UTF-8 (convmv -f gbk -t utf8 renames a copy)"
    return size, changed, problem


def _printable(names: list[str]) -> list[str]:
    """Names as text that can be stored: bytes that are not UTF-8 are written as \\xNN."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        return [os.fsencode(name).decode(errors="backslashreplace") for name in names]
    return names


def _in_threads(read: Callable[[str], Header], paths: list[str], decode: bool) -> list[Header]:
    """read(path) of each, in order; many threads, since a network's disk answers late."""
    if not paths:
        return []
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    found: list[Header] = []
    word = "decoding every photo once" if decode else "reading headers"
    bar = tqdm(total=len(paths), desc=word, unit=" photos", leave=False, disable=None)
    with bar, warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        for part in pool.map(lambda chunk: [read(path) for path in chunk], chunks):
            found += part
            bar.update(len(part))
    return found


def _header(path: str) -> Header:
    """(width, height, problem), from the header alone where that is whole."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            # Not getexif(), which decodes a PNG without eXIf.
            turned = image_formats.orientation(image.info.get("exif")) >= 5
    except Exception:  # Pillow raises a dozen types for damaged files, and refuses some that can be decoded
        return _from_pixels(path)
    if width * height > image_formats.MOST_PIXELS:
        return (
            0,
            0,
            f"{width}×{height} pixels, more than the {image_formats.MOST_PIXELS // 10**6} million that are decoded",
        )
    return (height, width, None) if turned else (width, height, None)


def _from_pixels(path: str) -> Header:
    try:
        height, width = read_image(path).shape[:2]
    except DataError:
        return 0, 0, problem_of(path) or "a damaged header"
    return width, height, None


def _decoded(path: str) -> Header:
    width, height, problem = _header(path)
    return width, height, problem or problem_of(path)


def _read_kept(file: Path) -> pd.DataFrame:
    """What a former run read, indexed by path; a file that is absent or damaged holds nothing."""
    try:
        return pd.read_parquet(file, columns=["path", *_HEADER_TYPES]).set_index("path")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.warning("%s cannot be used (%s): the photos' headers are read again", file, type(error).__name__)
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _HEADER_TYPES.items()}, index=pd.Index([], str))


def _write_kept(table: pd.DataFrame, file: Path) -> None:
    """Whole or not at all: two runs may write the same file at once.  Without room for it, the run goes on."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(file) as part:
            table.to_parquet(part, index=False)
    except OSError as error:
        log.warning("%s: the photos' headers cannot be kept (%s)", file, error.strerror or error)
