"""Resized images on disk, so that each is decoded once: filled during the first epoch, read in all later ones.

One file holds the images, one their sizes and checksums.  An image's slot is its row in the index, large enough for any
image; its unused part takes no space on the disk.  Many processes may fill one cache at once: a slot's content depends
on the image alone, and its checksum is written last.  Every read verifies the checksum, since a file may be cut off, or
a disk fail, at any time.
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

from rp2k_lab.core.files import write_atomically
from rp2k_lab.core.locks import file_lock
from rp2k_lab.core.text import in_bytes
from rp2k_lab.dataset.image import decoder_version
from rp2k_lab.dataset.photo_index import DATA_FOLDER, Index

log = logging.getLogger(__name__)

_ENTRY = struct.Struct("<QII")  # checksum, height, width; all zero in an empty slot; none crosses a page
# Left free on the disk, for the run's files.
_RESERVE_BYTES = 10**9


class ImageCache:
    """Images up to one size, by slot.

    Args:
        folder: holds the two files; created if missing.  Files of another length are damaged and replaced.
        count: number of slots.
        size: (height, width) of the largest image.
        capacity: slots that may be filled, from the first on.

    Attributes:
        filled: number of slots that held an image when the cache was opened.

    Raises:
        OSError: the files cannot be created.
    """

    def __init__(self, folder: Path, count: int, size: tuple[int, int], capacity: int):
        self.folder, self.capacity = folder, capacity
        self._slot_bytes, self._damage_reported, self._warn_lock = image_bytes(size), False, threading.Lock()
        lengths = {folder / "photos": count * self._slot_bytes, folder / "entries": count * _ENTRY.size}
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / "lock"):
            present = [file.stat().st_size for file in lengths if file.exists()]
            if present and present != list(lengths.values()):
                log.warning("the cache %s is damaged: replaced by an empty one", folder)
                for file in lengths:  # not truncated in place: another process may be reading them
                    file.unlink(missing_ok=True)
            for file, length in lengths.items():
                if not file.exists():
                    with write_atomically(file) as part:
                        part.touch()
                        os.truncate(part, length)
            self._images = os.open(folder / "photos", os.O_RDWR)
            self._entries = os.open(folder / "entries", os.O_RDWR)
        entries = np.fromfile(folder / "entries", np.uint8).reshape(count, _ENTRY.size)
        self.filled = int(entries.any(1).sum())

    def __del__(self):
        for name in ("_images", "_entries"):
            if name in self.__dict__:
                os.close(self.__dict__[name])

    @property
    def files(self) -> tuple[int, int, int]:
        """Descriptors of the images and of the entries, and the bytes of a slot."""
        return self._images, self._entries, self._slot_bytes

    @property
    def remaining_bytes(self) -> int:
        """Bytes that the cache may still take."""
        return max(0, self.capacity - self.filled) * self._slot_bytes

    def get(self, slot: int) -> np.ndarray | None:
        """Return a slot's image, a new array; None where the slot is empty or damaged."""
        try:
            entry = os.pread(self._entries, _ENTRY.size, slot * _ENTRY.size)
            if entry == bytes(_ENTRY.size):
                return None
            _, height, width = _ENTRY.unpack(entry)
            if 0 < image_bytes((height, width)) <= self._slot_bytes:
                image = np.empty((height, width, 3), np.uint8)
                read = os.preadv(self._images, [image.data], slot * self._slot_bytes)
                if read == image.nbytes and _entry(image) == entry:
                    return image
        except (OSError, struct.error):  # cut off while the run was reading
            pass
        with self._warn_lock:
            if not self._damage_reported:
                log.warning("the cache %s holds damaged photos: decoding them again", self.folder)
            self._damage_reported = True
        return None

    def put(self, slot: int, image: np.ndarray) -> None:
        """Store an image, if the slot is within the capacity; a full disk ends the filling."""
        if slot >= self.capacity:
            return
        try:
            if os.pwrite(self._images, image.data, slot * self._slot_bytes) < image.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # a nearly full disk writes a part first
            os.pwrite(self._entries, _entry(image), slot * _ENTRY.size)
        except OSError as error:
            with self._warn_lock:
                if self.capacity:
                    log.warning("the cache %s takes no more photos (%s)", self.folder, error.strerror)
                self.capacity = 0


def open_cache(index: Index, size: tuple[int, int], resize: str, cache_gb: float) -> ImageCache | None:
    """Open the cache of an index's images at `size` (height, width) in the clone's data folder, and log its size.

    None with `cache_gb=0`, or where it cannot be created: a run continues without it.  Its name is a hash of the images
    (with their times of change), the resize and the decoder's version.
    """
    if not cache_gb:
        return None
    key = hashlib.sha256(repr((index.version, size, resize, decoder_version())).encode()).hexdigest()[:16]
    folder, count = DATA_FOLDER / "cache" / f"{index.root.name[:40]}-{key}", len(index.table)
    slot_bytes = image_bytes(size)
    capacity = min(count, int(cache_gb * 1e9 / slot_bytes))
    try:
        cache = ImageCache(folder, count, size, capacity)
    except OSError as error:
        log.warning("no cache: %s cannot be created (%s)", folder, error.strerror)
        return None
    free = shutil.disk_usage(folder).free - _RESERVE_BYTES
    if (capacity - cache.filled) * slot_bytes > free:
        cache.capacity = min(capacity, max(0, cache.filled + free // slot_bytes))
        log.warning("cache: the disk has space for %d photos only", cache.capacity)
    part = "all" if cache.capacity == count else f"the first {cache.capacity}"
    log.info("cache: %s of %d photos at %d×%d in at most %s, %d cached already (%s)",
             part, count, *size, in_bytes(cache.capacity * slot_bytes), cache.filled, folder)  # fmt: skip
    return cache


def image_bytes(size: tuple[int, int]) -> int:
    """Return the bytes of an RGB image of (height, width), hence of a slot."""
    return 3 * size[0] * size[1]


def _entry(image: np.ndarray) -> bytes:
    """Return an image's entry, with the sum of its 64-bit words, which takes a tenth of CRC-32's time.

    The size is part of the sum, times odd numbers without a pattern: behind a small image lie zeros, which add nothing.
    """
    flat = image.reshape(-1)
    rest = flat.size % 8
    total = int(flat[: flat.size - rest].view(np.uint64).sum()) + int(flat[flat.size - rest :].sum())
    height, width = image.shape[:2]
    return _ENTRY.pack((total + height * 0x9E3779B97F4A7C15 + width * 0xC2B2AE3D27D4EB4F) % 2**64, height, width)
