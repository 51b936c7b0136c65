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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.files import write_atomically
from rp2k_lab.core.progress import progress
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset import image_by_pillow, image_formats
from rp2k_lab.dataset.crops import Box, crop_path
from rp2k_lab.dataset.folder_walk import folders_of, kinds, unlisted
from rp2k_lab.dataset.image import decoder_version, format_of_file, problem_of, read_image
from rp2k_lab.dataset.options import Places, Scan

log = logging.getLogger(__name__)

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_HEADER_TYPES = {"bytes": "int64", "changed": "int64", "width": "int32", "height": "int32", "decoded": bool}
MISSING = "no such file, or a broken link"
_PROBLEMS = {
    errno.ENOENT: MISSING,
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
    """The images of a data set with their sizes and problems.

    Attributes:
        root: the folder that paths are relative to.
        table: one row per image, columns path (posix; of a crop, see `rp2k_lab.dataset.crops`), class, split, bytes (of
            the file, int64), changed (int64, ns since the epoch), width, height (int32, pixels, upright; 0 where
            unknown), problem (why it cannot be read, or None); group, if the data set has groups; place (position in
            `places`), if it has places.
        other_files, unused_images, coarse_classes: see `Scan`; of a list, what stands beside its images.
        places: see `Scan`.
        labels_in_paths: see `Scan`.
        long_tail_limits: see `Source`.
    """

    root: Path
    table: pd.DataFrame
    other_files: list[str]
    places: Places | None = None
    labels_in_paths: bool = True
    long_tail_limits: tuple[int, int] | None = None
    unused_images: Sequence[str] = ()
    coarse_classes: Mapping[str, str] | None = None

    def log_unused(self) -> None:
        """Log what is not used: images by folder, other files by kind."""
        if self.unused_images:
            # A list chooses among photos; a folder's layout loses them.
            level = logging.INFO if self.places else logging.WARNING
            where = folders_of(self.unused_images)
            log.log(level, "%d photos belong to no class and are not used: %s", len(self.unused_images), where)
        if self.other_files:
            first = escape_controls(self.other_files[0])
            log.info("no photos, not used: %s; the first %s", kinds(self.other_files), first)


def read_listing(scan: Scan, cache_folder: Path, decode: bool) -> Listing:
    """Add sizes and problems to a scan; each file is read once, whatever the number of its crops.

    Args:
        cache_folder: where headers are cached between starts; those of images with a problem are not.
        decode: decode each image once, which finds truncated ones; else only headers are read.

    Raises:
        DataError: two rows of a list name the same image and box.
    """
    paths, classes, splits = (list(column) for column in zip(*scan.images, strict=True)) if scan.images else ([],) * 3
    if scan.boxes is None:
        files = _read_files(scan, _storable(paths), paths, cache_folder, decode)
        table = pd.DataFrame({"path": files["path"], "class": _storable(classes), "split": splits})
        table = table.assign(**files.drop(columns="path"))
    else:
        position, unique = pd.factorize(np.array(paths, object))
        files = _read_files(scan, _storable(list(unique)), list(unique), cache_folder, decode)
        table = files.iloc[position].reset_index(drop=True)
        table.insert(1, "class", _storable(classes))
        table.insert(2, "split", splits)
        table = _cropped(table, scan)
    if scan.groups is not None:
        table["group"] = _storable(scan.groups)
    unused_images, other_files = list(scan.unused_images), scan.other_files
    if scan.places is not None:
        unused_images, other_files = unlisted(scan.root, set(paths), [file for file, _ in scan.places.files])
        table["place"] = np.arange(len(table))
        _check_unique(table["path"], scan.places)
        # The draw of val depends on the order, and the order of a list means nothing.
        table = table.sort_values("path", ignore_index=True)
    return Listing(
        scan.root,
        table,
        _storable(other_files),
        scan.places,
        scan.labels_in_paths,
        unused_images=_storable(unused_images),
        coarse_classes=scan.coarse_classes,
    )


def _read_files(scan: Scan, names: list[str], paths: list[str], cache_folder: Path, decode: bool) -> pd.DataFrame:
    """Return path, bytes, changed, width, height and problem of each file, in order.

    Args:
        names: `paths` as UTF-8.
    """
    size, changed, problem = _stats(scan.root, paths)
    key = os.fsencode(scan.root) + decoder_version().encode()
    for file, _ in scan.places.files if scan.places else ():  # two lists of one folder have separate caches
        key += os.fsencode(file)
    # A root's name alone may fill 255 bytes.
    cache_file = cache_folder / f"{scan.root.name[:40]}-{hashlib.sha256(key).hexdigest()[:12]}.parquet"
    cached = _read_cache(cache_file)
    index = pd.Index(names, dtype="str")
    header = cached if cached.index.equals(index) else cached.reindex(index)
    known = (header["bytes"].to_numpy() == size) & (header["changed"].to_numpy() == changed)
    if decode:
        known &= header["decoded"].fillna(False).to_numpy(bool)
    width, height, decoded = (
        np.where(known, header[name], 0).astype(_HEADER_TYPES[name]) for name in ("width", "height", "decoded")
    )
    missing = [i for i in np.flatnonzero(~known).tolist() if problem[i] is None]
    absolute = [os.path.join(scan.root, paths[i]) for i in missing]
    headers = _in_threads(_decoded_header if decode else _header, absolute, decode)
    for i, (image_width, image_height, reason) in zip(missing, headers, strict=True):
        width[i], height[i], problem[i], decoded[i] = image_width, image_height, reason, decode
    table = pd.DataFrame({"path": index, "bytes": size, "changed": changed, "width": width, "height": height})
    readable = np.array([reason is None for reason in problem], bool)
    if missing or len(cached) != readable.sum():
        _write_cache(table.loc[readable].assign(decoded=decoded[readable]), cache_file)
    return table.assign(problem=pd.Series(problem, dtype=object))


def _cropped(table: pd.DataFrame, scan: Scan) -> pd.DataFrame:
    """Return the table of whole images as one of crops: boxes within the image, with their margin, in whole pixels."""
    assert scan.boxes is not None
    x, y, width, height = scan.boxes.T
    is_crop = ~np.isnan(scan.boxes).any(axis=1)
    known = is_crop & (table["width"] > 0).to_numpy()  # an unreadable image has no size
    limits = [np.where(known, table[name], 2.0**31) for name in ("width", "height")]
    left, right, outside_x, beyond_x = _within(x, x + width, limits[0], scan.margin)
    top, bottom, outside_y, beyond_y = _within(y, y + height, limits[1], scan.margin)
    problem = table["problem"].to_numpy(object).copy()
    sound = is_crop & np.array([reason is None for reason in problem], bool)
    flat = sound & ~((width > 0) & (height > 0))
    outside = sound & ~flat & (outside_x | outside_y)
    good = sound & ~flat & ~outside
    problem[flat] = "a box without area"
    for row in np.flatnonzero(outside).tolist():
        problem[row] = f"the box lies outside of the photo of {limits[0][row]:.0f}×{limits[1][row]:.0f} pixels"
    boxes = np.stack([left, top, right - left, bottom - top], axis=1)
    paths = table["path"].tolist()
    for row in np.flatnonzero(is_crop).tolist():
        if flat[row] or outside[row]:  # as listed, for the message
            paths[row] += "#xywh=" + ",".join(f"{value:g}" for value in scan.boxes[row])
        else:
            paths[row] = crop_path(paths[row], Box(*boxes[row].tolist()))
    if scan.sizes is not None:
        _warn_of_sizes(table[["width", "height"]].to_numpy(float), scan.sizes, good, paths)
    beyond = np.flatnonzero(good & (beyond_x | beyond_y)).tolist()
    if beyond:
        place = f"{scan.places.name(beyond[0])}: " if scan.places else ""
        log.info("%d boxes reach beyond their photo and are clipped, the first %s%s",
                 len(beyond), place, escape_controls(paths[beyond[0]]))  # fmt: skip
    sizes = {
        name: np.where(good, boxes[:, i], table[name]).astype("int32") for name, i in (("width", 2), ("height", 3))
    }
    return table.assign(path=pd.Series(paths, dtype="str"), problem=pd.Series(problem, dtype=object), **sizes)


def _warn_of_sizes(measured: np.ndarray, listed: np.ndarray, good: np.ndarray, paths: list[str]) -> None:
    """Warn of images of another size than their list gives, both float64 (rows, 2)."""
    other = np.flatnonzero(good & ~np.isnan(listed).any(axis=1) & (measured != listed).any(axis=1)).tolist()
    if other:
        first, (width, height), (real_width, real_height) = other[0], listed[other[0]], measured[other[0]]
        log.warning("%d boxes are in photos of another size than listed, so they may be wrong, the first %s: %.0f×%.0f "
                    "pixels, listed as %.0f×%.0f", len(other), escape_controls(paths[first]), real_width, real_height,
                    width, height)  # fmt: skip


def _within(low: np.ndarray, high: np.ndarray, limit: np.ndarray, margin: float) -> tuple[np.ndarray, ...]:
    """Return the pixels that intervals touch within an image, and whether an interval lies outside or reaches beyond.

    Args:
        low, high: float64 (rows,), in pixels; NaN: no interval.
        limit: pixels of the image.
        margin: fraction of the interval that is added on each side.

    Returns:
        First and last + 1 pixel, int64 (rows,), at least one pixel; outside and beyond, bool (rows,).
    """
    beyond, outside = (low < -0.5) | (high > limit + 0.5), (high <= 0) | (low >= limit)
    low, high = np.clip(low, 0, limit), np.clip(high, 0, limit)
    extra = margin * (high - low)
    # 1e-3 pixels are a rounding error.
    first = np.clip(np.floor(low - extra + 1e-3), 0, limit - 1)
    last = np.clip(np.ceil(high + extra - 1e-3), first + 1, limit)
    return np.nan_to_num(first).astype(np.int64), np.nan_to_num(last).astype(np.int64), outside, beyond


def _check_unique(paths: pd.Series, places: Places) -> None:
    repeated = np.flatnonzero(paths.duplicated())
    if len(repeated):
        second = int(repeated[0])
        first = int(np.flatnonzero(paths == paths.iloc[second])[0])
        more = f" (and {len(repeated) - 1} more)" if len(repeated) > 1 else ""
        raise DataError(
            f"{places.name(second)}: {escape_controls(paths.iloc[second])} is a duplicate of {places.unit} "
            f"{places.numbers[first]}{more}\nkeep one of them"
        )


def _stats(root: Path, paths: list[str]) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
    """Return (bytes, time of change in ns, problem) of each image; links are followed."""
    size, changed = np.zeros(len(paths), np.int64), np.zeros(len(paths), np.int64)
    problem: list[str | None] = [None] * len(paths)
    all_utf8 = _storable(paths) is paths
    base = f"{root}/"
    if any(path.startswith("/") for path in paths):
        base, paths = "", [os.path.join(root, path) for path in paths]
    for i, path in enumerate(paths):
        try:
            status = os.stat(base + path)
        except OSError as error:
            problem[i] = _PROBLEMS.get(error.errno or 0, error.strerror)
            continue
        except ValueError:  # a zero byte in a list
            problem[i] = _PROBLEMS[errno.ENOENT]
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
    what = "decoding every photo once" if decode else "reading headers of photos"
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        parts = pool.map(lambda chunk: [read(path) for path in chunk], chunks)
        for part in progress(parts, len(paths), what, len):
            headers += part
    return headers


def _header(path: str) -> Header:
    """Return (width, height, problem), from an intact header alone."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            # Not getexif(), which decodes a PNG without eXIf.
            turned = image_formats.orientation(image.info.get("exif")) >= 5
    except Exception:  # Pillow raises a dozen types for damaged files, and refuses some that can be decoded
        return _other_header(path)
    if width * height > image_formats.MOST_PIXELS:
        return _too_large(width, height)
    return (height, width, None) if turned else (width, height, None)


def _other_header(path: str) -> Header:
    """Return the header of an image that Pillow does not open, or that `image_by_pillow` reads."""
    try:
        with open(path, "rb") as file:
            kind = format_of_file(path, file.read(image_formats.HEAD_BYTES))
        if kind in image_by_pillow.FORMATS:
            width, height = image_by_pillow.upright_size(path, kind)
            return (width, height, None) if width * height <= image_formats.MOST_PIXELS else _too_large(width, height)
        height, width = read_image(path).shape[:2]
    except Exception:  # as in `_header`
        return 0, 0, problem_of(path) or "a damaged header"
    return width, height, None


def _too_large(width: int, height: int) -> Header:
    limit = image_formats.MOST_PIXELS // 10**6
    return 0, 0, f"{width}×{height} pixels, more than the {limit} million that are decoded"


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
        with write_atomically(file, sync=True) as part:  # a torn table may still be read
            table.to_parquet(part, index=False)
    except OSError as error:
        log.warning("%s: the photos' headers cannot be cached (%s)", file, error.strerror or error)
