"""Resized photos on disk, so that each is decoded once: filled during the first epoch, read in all that follow.

One file holds the photos, one their checksums; a photo's place is its row in the index.  Any number of processes may
fill one cache at once: what a place holds is a function of the photo alone, and its checksum is written after it.
"""

import hashlib
import logging
import os
import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock

from rp2k_lab.dataset import image
from rp2k_lab.dataset.index import DATA_FOLDER, Index

log = logging.getLogger(__name__)

_SUM_BYTES = 4
# Left free on the disk, for the run's own files.
_RESERVE_BYTES = 10**9


class PhotoCache:
    """Photos of one shape, by place.

    Args:
        folder: holds the two files; made if it is not there.  Files of another length are damaged and made anew.
        count: places.
        shape: of a photo, uint8.
        room: places that may be filled, from the first on.

    Attributes:
        filled: how many places held a photo when the cache was opened.
    """

    def __init__(self, folder: Path, count: int, shape: tuple[int, int, int], room: int):
        self.folder, self.shape, self.room = folder, shape, room
        self._bytes = int(np.prod(shape))
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            damaged = [
                _discard_other_length(folder / name, length)
                for name, length in (("photos", count * self._bytes), ("checksums", count * _SUM_BYTES))
            ]
            if any(damaged):
                log.warning("the cache %s is damaged and made anew", folder)
                os.truncate(folder / "checksums", 0)
            for name, length in (("photos", count * self._bytes), ("checksums", count * _SUM_BYTES)):
                os.truncate(folder / name, length)
        self._photos = os.open(folder / "photos", os.O_RDWR)
        self._sums = os.open(folder / "checksums", os.O_RDWR)
        self._checked = bytearray(count)
        self.filled = int(np.count_nonzero(np.fromfile(folder / "checksums", np.uint32)))

    def __del__(self):
        for name in ("_photos", "_sums"):
            if name in self.__dict__:
                os.close(self.__dict__[name])

    def get(self, place: int) -> np.ndarray | None:
        """The photo, an array of its own; None where there is none, or one that is damaged."""
        expected = os.pread(self._sums, _SUM_BYTES, place * _SUM_BYTES)
        if not any(expected):
            return None
        photo = np.empty(self.shape, np.uint8)
        read = os.preadv(self._photos, [photo.data], place * self._bytes)
        if not self._checked[place]:
            if read < self._bytes or _checksum(photo) != expected:
                log.warning("the cache %s held a damaged photo, which is made anew", self.folder)
                return None
            self._checked[place] = 1
        return photo

    def put(self, place: int, photo: np.ndarray) -> None:
        """Keep a photo, where there is room; a full disk ends the filling."""
        if place >= self.room:
            return
        try:
            os.pwrite(self._photos, photo.data, place * self._bytes)
            os.pwrite(self._sums, _checksum(photo), place * _SUM_BYTES)
        except OSError as error:
            self.room = 0
            log.warning("the cache %s takes no more photos (%s)", self.folder, error.strerror)


def open_cache(index: Index, size: tuple[int, int], resize: str, cache_gb: float) -> PhotoCache | None:
    """The cache of an index's photos at `size` (height, width), in the clone's data folder; None with `cache_gb=0`.

    Says what it will take and how much of that is there.  Its name is a hash of the photos (with their times of
    change), the resize and the code that does it.
    """
    if not cache_gb:
        return None
    code = hashlib.sha256(Path(image.__file__).read_bytes()).hexdigest()
    key = hashlib.sha256(repr((index.version, size, resize, code, cv2.__version__)).encode()).hexdigest()[:16]
    folder, shape, count = DATA_FOLDER / "cache" / f"{index.root.name}-{key}", (*size, 3), len(index.table)
    photo_bytes = int(np.prod(shape))
    room = min(count, int(cache_gb * 1e9 / photo_bytes))
    cache = PhotoCache(folder, count, shape, room)
    free = shutil.disk_usage(folder).free - _RESERVE_BYTES
    if (room - cache.filled) * photo_bytes > free:
        cache.room = min(room, max(0, cache.filled + free // photo_bytes))
        log.warning("cache: the disk has room for %d photos only", cache.room)
    share = "all" if cache.room == count else f"the first {cache.room}"
    log.info("cache: %s of %d photos at %d×%d in %.2f GB, %d of them there (%s)",
             share, count, *size, cache.room * photo_bytes / 1e9, cache.filled, folder)  # fmt: skip
    return cache


def _checksum(photo: np.ndarray) -> bytes:
    """CRC-32, but never the zeros of a place that was not filled."""
    return (zlib.crc32(photo.data) or 1).to_bytes(_SUM_BYTES)


def _discard_other_length(file: Path, length: int) -> bool:
    """Empty a file of another length than this; returns whether it had one."""
    file.touch()
    if file.stat().st_size == length:
        return False
    damaged = file.stat().st_size > 0
    os.truncate(file, 0)
    return damaged
