"""Read and crop the photos of a batch outside of Python's lock, with the same bits as inside of it."""

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import PIL

from rp2k_lab.native import state


class _Batch(ctypes.Structure):
    """What the library reads of a batch: `Batch` of photos.cpp."""

    _fields_ = (
        ("count", ctypes.c_int32),
        ("canvas", ctypes.c_int32 * 2),
        ("size", ctypes.c_int32 * 2),
        ("is_stretch", ctypes.c_int32),
        ("images", ctypes.c_int32),
        ("entries", ctypes.c_int32),
        ("slot_bytes", ctypes.c_int64),
        ("slots", ctypes.c_void_p),
        ("paths", ctypes.POINTER(ctypes.c_char_p)),
        ("boxes", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("done", ctypes.c_void_p),
    )


def is_on() -> bool:
    """Return whether `read_crops` reads photos."""
    return _kernels() is not None


def read_crops(
    paths: Sequence[str],
    boxes: Sequence[tuple[int, int, int, int]],
    canvas: tuple[int, int],
    resize: str,
    targets: np.ndarray,
    slots: tuple[int, int, int, Sequence[int]] | None,
) -> list[bool]:
    """Read photos as `dataset.image.read_resized`, and crop them as `aug.geometry.RandomResizedCrop`.

    Args:
        paths: of the photos.
        boxes: (top, left, height, width) of each crop, in the canvas around the photo.
        canvas: (height, width) of the photo's size before the crop.
        resize: letterbox or stretch.
        targets: uint8 (n, height, width, 3), without gaps, to write to.
        slots: (descriptor of the images, of the entries, bytes of a slot, each photo's slot) of an image cache, which
            is read instead of the files; or None.

    Returns:
        Whether each crop was made.  It was not without the native library, nor for an empty or damaged slot or an
        unusual photo: no plain JPEG, damaged, tiny or very large.
    """
    kernels = _kernels()
    if kernels is None:
        return [False] * len(paths)
    images, entries, slot_bytes, each = slots or (-1, -1, 0, ())
    numbers, corners = np.array(each, np.int64), np.array(boxes, np.int32)
    done, names = np.zeros(len(paths), np.bool_), (ctypes.c_char_p * len(paths))(*map(os.fsencode, paths))
    pointers = numbers.ctypes.data, names, corners.ctypes.data, targets.ctypes.data, done.ctypes.data
    sizes = canvas, targets.shape[1:3], resize == "stretch"
    kernels.rp2k_native_read_crops(ctypes.byref(_Batch(len(paths), *sizes, images, entries, slot_bytes, *pointers)))
    return done.tolist()


@cache
def _kernels() -> ctypes.CDLL | None:
    """Return the library, with the libjpeg-turbo of Pillow's wheel, whose pixels are simplejpeg's; None: it is off."""
    found = list(Path(PIL.__file__).parents[1].glob("pillow.libs/libjpeg-*.so*"))
    if state().version is None or len(found) != 1:
        return None
    kernels = ctypes.CDLL(None)  # `state` loaded the library for all
    start = kernels.rp2k_native_photos_start
    start.argtypes, start.restype = (ctypes.c_char_p,), ctypes.c_char_p
    return None if start(os.fsencode(found[0])) else kernels
