"""Resized photos on disk, so that each is decoded once: filled during the first epoch, read in all that follow.

One file holds the photos, one their sizes and checksums; a photo's place is its row in the index, long enough for any
photo, and what a smaller one leaves of it takes no room on the disk.  Any number of processes may fill one cache at
once: what a place holds is a function of the photo alone, and its checksum is written after it.
"""

import hashlib
import logging
import os
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock

from rp2k_lab.dataset import image
from rp2k_lab.dataset.index import DATA_FOLDER, Index

log = logging.getLogger(__name__)

_ENTRY = struct.Struct("<IHH")  # CRC-32, height, width; all zero where there is no photo
# Left free on the disk, for the run's own files.
_RESERVE_BYTES = 10**9


class PhotoCache:
    """Photos of at most one size, by place.

    Args:
        folder: holds the two files; made if it is not there.  Files of another length are damaged and made anew.
        count: places.
        size: (height, width) of the largest photo.
        room: places that may be filled, from the first on.

    Attributes:
        filled: how many places held a photo when the cache was opened.
    """

    def __init__(self, folder: Path, count: int, size: tuple[int, int], room: int):
        self.folder, self.room = folder, room
        self._bytes = photo_bytes(size)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            lengths = {"photos": count * self._bytes, "entries": count * _ENTRY.size}
            if any([_discard_other_length(folder / name, length) for name, length in lengths.items()]):
                log.warning("the cache %s is damaged and made anew", folder)
                os.truncate(folder / "entries", 0)
            for name, length in lengths.items():
                os.truncate(folder / name, length)
        self._photos = os.open(folder / "photos", os.O_RDWR)
        self._entries = os.open(folder / "entries", os.O_RDWR)
        self._checked = bytearray(count)
        self.filled = int(np.count_nonzero(np.fromfile(folder / "entries", np.uint64)))

    def __del__(self):
        for name in ("_photos", "_entries"):
            if name in self.__dict__:
                os.close(self.__dict__[name])

    def get(self, place: int) -> np.ndarray | None:
        """The photo, an array of its own; None where there is none, or one that is damaged."""
        entry = os.pread(self._entries, _ENTRY.size, place * _ENTRY.size)
        if not any(entry):
            return None
        _, height, width = _ENTRY.unpack(entry)
        photo = np.empty((height, width, 3), np.uint8)
        os.preadv(self._photos, [photo.data], place * self._bytes)
        if not self._checked[place]:
            if photo.nbytes > self._bytes or _entry(photo) != entry:
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
            os.pwrite(self._entries, _entry(photo), place * _ENTRY.size)
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
    folder, count, most = DATA_FOLDER / "cache" / f"{index.root.name}-{key}", len(index.table), photo_bytes(size)
    room = min(count, int(cache_gb * 1e9 / most))
    cache = PhotoCache(folder, count, size, room)
    free = shutil.disk_usage(folder).free - _RESERVE_BYTES
    if (room - cache.filled) * most > free:
        cache.room = min(room, max(0, cache.filled + free // most))
        log.warning("cache: the disk has room for %d photos only", cache.room)
    share = "all" if cache.room == count else f"the first {cache.room}"
    log.info("cache: %s of %d photos at %d×%d in at most %s, %d of them there (%s)",
             share, count, *size, _readable(cache.room * most), cache.filled, folder)  # fmt: skip
    return cache


def photo_bytes(size: tuple[int, int]) -> int:
    """The length of a place for photos of at most (height, width)."""
    return 3 * size[0] * size[1]


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def _entry(photo: np.ndarray) -> bytes:
    return _ENTRY.pack(zlib.crc32(photo.data), *photo.shape[:2])


def _discard_other_length(file: Path, length: int) -> bool:
    """Empty a file of another length than this; returns whether it had one."""
    file.touch()
    if file.stat().st_size == length:
        return False
    damaged = file.stat().st_size > 0
    os.truncate(file, 0)
    return damaged
