"""Resized photos on disk, so that each is decoded once: filled during the first epoch, read in all that follow.

One file holds the photos, one their checksums; a photo's place is its row in the index.  Any number of processes may
fill one cache at once: what a place holds is a function of the photo alone, and its checksum is written after it.
A photo is checked whenever it is read, since a file may be cut off, or a disk go bad, at any time.
"""

import errno
import hashlib
import logging
import os
import shutil
import threading
from pathlib import Path

import numpy as np
from filelock import FileLock

from rp2k_lab.dataset.image import decoder_version
from rp2k_lab.dataset.index import DATA_FOLDER, Index

log = logging.getLogger(__name__)

_SUM_BYTES = 8
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

    Raises:
        OSError: the files cannot be made.
    """

    def __init__(self, folder: Path, count: int, shape: tuple[int, int, int], room: int):
        self.folder, self.shape, self.room = folder, shape, room
        self._bytes, self._damage_told, self._telling = int(np.prod(shape)), False, threading.Lock()
        lengths = {folder / "photos": count * self._bytes, folder / "checksums": count * _SUM_BYTES}
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
            self._sums = os.open(folder / "checksums", os.O_RDWR)
        self.filled = int(np.count_nonzero(np.fromfile(folder / "checksums", np.uint64)))

    def __del__(self):
        for name in ("_photos", "_sums"):
            if name in self.__dict__:
                os.close(self.__dict__[name])

    def get(self, place: int) -> np.ndarray | None:
        """The photo, an array of its own; None where there is none, or one that is damaged."""
        photo = np.empty(self.shape, np.uint8)
        try:
            expected = os.pread(self._sums, _SUM_BYTES, place * _SUM_BYTES)
            if expected == bytes(_SUM_BYTES):
                return None
            read = os.preadv(self._photos, [photo.data], place * self._bytes)
        except OSError:
            read = 0
        if read == self._bytes and _checksum(photo) == expected:
            return photo
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
            if os.pwrite(self._photos, photo.data, place * self._bytes) < self._bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # what a disk with a little room says next
            os.pwrite(self._sums, _checksum(photo), place * _SUM_BYTES)
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
    folder, shape, count = DATA_FOLDER / "cache" / f"{index.root.name[:40]}-{key}", (*size, 3), len(index.table)
    photo_bytes = int(np.prod(shape))
    room = min(count, int(cache_gb * 1e9 / photo_bytes))
    try:
        cache = PhotoCache(folder, count, shape, room)
    except OSError as error:
        log.warning("no cache: %s cannot be made (%s)", folder, error.strerror)
        return None
    free = shutil.disk_usage(folder).free - _RESERVE_BYTES
    if (room - cache.filled) * photo_bytes > free:
        cache.room = min(room, max(0, cache.filled + free // photo_bytes))
        log.warning("cache: the disk has room for %d photos only", cache.room)
    share = "all" if cache.room == count else f"the first {cache.room}"
    log.info("cache: %s of %d photos at %d×%d in %.2f GB, %d of them there (%s)",
             share, count, *size, cache.room * photo_bytes / 1e9, cache.filled, folder)  # fmt: skip
    return cache


def _checksum(photo: np.ndarray) -> bytes:
    """The sum of the photo's 64-bit words, a tenth of CRC-32's time; never the zeros of a place that was not filled."""
    flat = photo.reshape(-1)
    rest = flat.size % 8
    total = int(flat[: flat.size - rest].view(np.uint64).sum()) + int(flat[flat.size - rest :].sum())
    return (total % 2**64 or 1).to_bytes(_SUM_BYTES)
