"""List the images of a data set with their sizes and problems.

Scanning a folder is quick; reading 342,000 headers is not.  They are cached as parquet in the clone's data folder, one
file per root, and an image is read again only when its size in bytes or its time of change differs.
"""

import errno
import hashlib
import logging
import os
import stat
import warnings
from collections.abc import Callable
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
# os.access shall ask for the user that os.open acts as.
_EFFECTIVE_USER = {"effective_ids": os.access in os.supports_effective_ids}
# No image is larger, and reading one would take the run's memory.
_MOST_BYTES = 2**30
# Small enough for a smooth progress bar, large enough that distributing the work costs nothing.
_CHUNK = 128

Header = tuple[int, int, str | None]


@dataclass(frozen=True)
class Listing:
    """The files of a data set's folder.

    Attributes:
        root: the folder that paths are relative to.
        table: one row per image, columns path (posix), class, split, bytes (int64), changed (int64, ns since the
            epoch), width, height (int32, pixels, upright; 0 where unknown), problem (why it cannot be read, or None).
        other_files: paths of the files that are no images.
    """

    root: Path
    table: pd.DataFrame
    other_files: list[str]


def read_listing(
    root: Path, images: list[tuple[str, str, str]], other_files: list[str], cache_folder: Path, decode: bool
) -> Listing:
    """Add sizes and problems to a scan's (path, class, split).

    Args:
        cache_folder: where headers are cached between starts; those of images with a problem are not.
        decode: decode each image once, which finds truncated ones; else only headers are read.
    """
    paths, classes, splits = (list(column) for column in zip(*images, strict=True)) if images else ([], [], [])
    size, changed, problem = _stats(root, paths)
    key = hashlib.sha256(os.fsencode(root) + decoder_version().encode()).hexdigest()[:12]
    cache_file = cache_folder / f"{root.name[:40]}-{key}.parquet"  # a root's name alone may fill 255 bytes
    cached = _read_cache(cache_file)
    names = pd.Index(_storable(paths), dtype="str")
    header = cached if cached.index.equals(names) else cached.reindex(names)
    known = (header["bytes"].to_numpy() == size) & (header["changed"].to_numpy() == changed)
    if decode:
        known &= header["decoded"].fillna(False).to_numpy(bool)
    width, height, decoded = (
        np.where(known, header[name], 0).astype(_HEADER_TYPES[name]) for name in ("width", "height", "decoded")
    )
    missing = [i for i in np.flatnonzero(~known).tolist() if problem[i] is None]
    headers = _in_threads(_decoded_header if decode else _header, [f"{root}/{paths[i]}" for i in missing], decode)
    for i, (image_width, image_height, reason) in zip(missing, headers, strict=True):
        width[i], height[i], problem[i], decoded[i] = image_width, image_height, reason, decode
    columns = {"bytes": size, "changed": changed, "width": width, "height": height}
    table = pd.DataFrame({"path": names, "class": _storable(classes), "split": splits, **columns})
    readable = np.array([reason is None for reason in problem], bool)
    if missing or len(cached) != readable.sum():
        _write_cache(table.loc[readable, ["path", *columns]].assign(decoded=decoded[readable]), cache_file)
    return Listing(root, table.assign(problem=pd.Series(problem, dtype=object)), _storable(other_files))


def _stats(root: Path, paths: list[str]) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
    """Return (bytes, time of change in ns, problem) of each image; links are followed."""
    size, changed = np.zeros(len(paths), np.int64), np.zeros(len(paths), np.int64)
    problem: list[str | None] = [None] * len(paths)
    all_utf8 = _storable(paths) is paths
    base = f"{root}/"
    for i, path in enumerate(paths):
        try:
            status = os.stat(base + path)
        except OSError as error:
            problem[i] = _PROBLEMS.get(error.errno or 0, error.strerror)
            continue
        size[i], changed[i] = status.st_size, status.st_mtime_ns
        if not stat.S_ISREG(status.st_mode):
            problem[i] = "no regular file"  # opening a pipe would block forever
        elif not status.st_size:
            problem[i] = "zero bytes"
        elif status.st_size > _MOST_BYTES:
            problem[i] = f"{status.st_size} bytes, more than a photo has"
        elif not status.st_mode & stat.S_IROTH and not os.access(base + path, os.R_OK, **_EFFECTIVE_USER):
            problem[i] = _PROBLEMS[errno.EACCES]  # chmod leaves the time of change, so a cached header would hide it
        elif not all_utf8 and _storable([path]) != [path]:
            problem[i] = "its name is not UTF-8 (convmv -f gbk -t utf8 renames a copy)"
    return size, changed, problem


def _storable(names: list[str]) -> list[str]:
    """Return names as UTF-8 text, other bytes as \\xNN; the same list where nothing changes."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        return [os.fsencode(name).decode(errors="backslashreplace") for name in names]
    return names


def _in_threads(read: Callable[[str], Header], paths: list[str], decode: bool) -> list[Header]:
    """Return read(path) of each, in order, from many threads, since network disks have a high latency."""
    if not paths:
        return []
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    headers: list[Header] = []
    title = "decoding every photo once" if decode else "reading headers"
    bar = tqdm(total=len(paths), desc=title, unit=" photos", leave=False, disable=None)
    with bar, warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        for part in pool.map(lambda chunk: [read(path) for path in chunk], chunks):
            headers += part
            bar.update(len(part))
    return headers


def _header(path: str) -> Header:
    """Return (width, height, problem), from an intact header alone."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            # Not getexif(), which decodes a PNG without eXIf.
            turned = image_formats.orientation(image.info.get("exif")) >= 5
    except Exception:  # Pillow raises a dozen types for damaged files, and refuses some that can be decoded
        return _from_pixels(path)
    if width * height > image_formats.MOST_PIXELS:
        limit = image_formats.MOST_PIXELS // 10**6
        return 0, 0, f"{width}×{height} pixels, more than the {limit} million that are decoded"
    return (height, width, None) if turned else (width, height, None)


def _from_pixels(path: str) -> Header:
    try:
        height, width = read_image(path).shape[:2]
    except DataError:
        return 0, 0, problem_of(path) or "a damaged header"
    return width, height, None


def _decoded_header(path: str) -> Header:
    width, height, problem = _header(path)
    return width, height, problem or problem_of(path)


def _read_cache(file: Path) -> pd.DataFrame:
    """Return the cached headers by path; none if the file is absent or damaged."""
    try:
        return pd.read_parquet(file, columns=["path", *_HEADER_TYPES]).set_index("path")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.warning("%s: cannot be used (%s); reading the photos' headers again", file, type(error).__name__)
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _HEADER_TYPES.items()}, index=pd.Index([], str))


def _write_cache(table: pd.DataFrame, file: Path) -> None:
    """Write headers atomically, since two runs may write the same file; on a full disk the run continues without."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(file) as part:
            table.to_parquet(part, index=False)
    except OSError as error:
        log.warning("%s: the photos' headers cannot be cached (%s)", file, error.strerror or error)
