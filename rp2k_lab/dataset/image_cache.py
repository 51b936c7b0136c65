"""Resized photos on disk, so that each is decoded once: filled during the first epoch, read in all that follow.

One file holds the photos, one their sizes and checksums; a photo's place is its row in the index, long enough for any
photo, and what a smaller one leaves of it takes no room on the disk.  Any number of processes may fill one cache at
once: what a place holds is a function of the photo alone, and its checksum is written after it.  A photo is checked
whenever it is read, since a file may be cut off, or a disk go bad, at any time.
"""

import errno
import hashlib
import logging
import os
import shutil
import struct
import threading
from pathlib import Path

import numpy as np
from filelock import FileLock

from rp2k_lab.core.text import in_bytes
from rp2k_lab.dataset.image import decoder_version
from rp2k_lab.dataset.photo_index import DATA_FOLDER, Index

log = logging.getLogger(__name__)

_ENTRY = struct.Struct("<QII")  # checksum, height, width; all zero where there is no photo; none crosses a page
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

    Raises:
        OSError: the files cannot be made.
    """

    def __init__(self, folder: Path, count: int, size: tuple[int, int], room: int):
        self.folder, self.room = folder, room
        self._bytes, self._damage_told, self._telling = photo_bytes(size), False, threading.Lock()
        lengths = {folder / "photos": count * self._bytes, folder / "entries": count * _ENTRY.size}
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            found = [file.stat().st_size for file in lengths if file.exists()]
            if found and found != list(lengths.values()):
                log.warning("the cache %s is damaged and made anew", folder)
                for file in lengths:  # not emptied in place: another process may be reading them
                    file.unlink(missing_ok=True)
            for file, length in lengths.items():
                file.touch()
                os.truncate(file, length)
            self._photos = os.open(folder / "photos", os.O_RDWR)
            self._entries = os.open(folder / "entries", os.O_RDWR)
        entries = np.fromfile(folder / "entries", np.uint8).reshape(count, _ENTRY.size)
        self.filled = int(entries.any(1).sum())

    def __del__(self):
        for name in ("_photos", "_entries"):
            if name in self.__dict__:
                os.close(self.__dict__[name])

    @property
    def to_come(self) -> int:
        """Bytes that it may still take."""
        return max(0, self.room - self.filled) * self._bytes

    def get(self, place: int) -> np.ndarray | None:
        """The photo, an array of its own; None where there is none, or one that is damaged."""
        try:
            entry = os.pread(self._entries, _ENTRY.size, place * _ENTRY.size)
            if entry == bytes(_ENTRY.size):
                return None
            _, height, width = _ENTRY.unpack(entry)
            if 0 < photo_bytes((height, width)) <= self._bytes:
                photo = np.empty((height, width, 3), np.uint8)
                read = os.preadv(self._photos, [photo.data], place * self._bytes)
                if read == photo.nbytes and _entry(photo) == entry:
                    return photo
        except (OSError, struct.error):  # what was cut off while the run was reading it
            pass
        with self._telling:
            if not self._damage_told:
                log.warning("the cache %s holds damaged photos, which are made anew", self.folder)
            self._damage_told = True
        return None

    def put(self, place: int, photo: np.ndarray) -> None:
        """Keep a photo, where there is room; a full disk ends the filling."""
        if place >= self.room:
            return
        try:
            if os.pwrite(self._photos, photo.data, place * self._bytes) < photo.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what a disk with a little room says next
            os.pwrite(self._entries, _entry(photo), place * _ENTRY.size)
        except OSError as error:
            with self._telling:
                if self.room:
                    log.warning("the cache %s takes no more photos (%s)", self.folder, error.strerror)
                self.room = 0


def open_cache(index: Index, size: tuple[int, int], resize: str, cache_gb: float) -> PhotoCache | None:
    """The cache of an index's photos at `size` (height, width), in the clone's data folder.

    None with `cache_gb=0`, or where it cannot be made: a run goes on without it.

    Says what it will take and how much of that is there.  Its name is a hash of the photos (with their times of
    change), the resize and the code that does it.
    """
    if not cache_gb:
        return None
    key = hashlib.sha256(repr((index.version, size, resize, decoder_version())).encode()).hexdigest()[:16]
    folder, count = DATA_FOLDER / "cache" / f"{index.root.name[:40]}-{key}", len(index.table)
    most = photo_bytes(size)
    room = min(count, int(cache_gb * 1e9 / most))
    try:
        cache = PhotoCache(folder, count, size, room)
    except OSError as error:
        log.warning("no cache: %s cannot be made (%s)", folder, error.strerror)
        return None
    free = shutil.disk_usage(folder).free - _RESERVE_BYTES
    if (room - cache.filled) * most > free:
        cache.room = min(room, max(0, cache.filled + free // most))
        log.warning("cache: the disk has room for %d photos only", cache.room)
    share = "all" if cache.room == count else f"the first {cache.room}"
    log.info("cache: %s of %d photos at %d×%d in at most %s, %d of them there (%s)",
             share, count, *size, in_bytes(cache.room * most), cache.filled, folder)  # fmt: skip
    return cache


def photo_bytes(size: tuple[int, int]) -> int:
    """The length of a place for photos of at most (height, width)."""
    return 3 * size[0] * size[1]


def _entry(photo: np.ndarray) -> bytes:
    """With the sum of the photo's 64-bit words, which takes a tenth of CRC-32's time.

    The size is part of it, times odd numbers without a pattern: behind a small photo zeros are read, which add nothing.
    """
    flat = photo.reshape(-1)
    rest = flat.size % 8
    total = int(flat[: flat.size - rest].view(np.uint64).sum()) + int(flat[flat.size - rest :].sum())
    height, width = photo.shape[:2]
    return _ENTRY.pack((total + height * 0x9E3779B97F4A7C15 + width * 0xC2B2AE3D27D4EB4F) % 2**64, height, width)
