"""Read images, and resize them as the network takes them.  Pure functions on uint8 RGB arrays.

Every path may name a crop (`rp2k_lab.dataset.crops`).
"""

import errno
import io
import math
import os
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import numpy as np
import PIL
import simplejpeg
from PIL import Image

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset import image_by_pillow, image_formats
from rp2k_lab.dataset.crops import Box, split_crop

# The version of the code that turns files into pixels (this module and image_formats.py).  Raise it with every change
# that reads another size or other pixels from the same file, or refuses another file.
VERSION = 2
# The second line of most messages about an unreadable image; `hint_of` gives the others.
UNREADABLE_HINT = "list all such photos with task=inspect, or skip them with dataset.on_bad_image=skip"
# JPEG can be decoded at 1/2, 1/4 and 1/8 of its size, in a fraction of the time.
_REDUCTIONS = (8, 4, 2, 1)
# Why a path that names a crop is no file: there is none, or its name is too long for one.
_NO_FILE = (errno.ENOENT, errno.ENAMETOOLONG)
# (height, width) of the part of a file that is read; of a whole JPEG the stored one, which EXIF may turn.
Extent = tuple[int, int]


def read_image(path: Path | str) -> np.ndarray:
    """Decode a file of one of `image_formats.READ` to uint8 RGB (height, width, 3), turned upright as its EXIF says.

    16 bits become 8, gray and CMYK become RGB, and transparent pixels become black, like the letterbox's padding.  Of
    several pictures in one file the first is read.  Color profiles are not applied.

    Raises:
        DataError: the file is missing, empty, damaged or no image, or the crop lies outside; the message names it.
    """
    return _decode(path, *_read(path), lambda extent, turned: 1)


def read_resized(path: Path | str, size: tuple[int, int], resize: str) -> np.ndarray:
    """Read an image scaled to fit (letterbox; without padding) or to fill (stretch) `size` (height, width), uint8 RGB.

    A JPEG at least twice as large as needed is decoded at 1/2, 1/4 or 1/8 of its size, and resized from there.

    Raises:
        DataError: see `read_image`.
    """
    image = _decode(path, *_read(path), lambda extent, turned: _reduction(extent, turned, size, resize))
    return fit(image, size) if resize == "letterbox" else stretch(image, size)


def read_views(path: Path | str, views: Sequence[tuple[tuple[int, int], str]]) -> list[np.ndarray]:
    """Return what `read_resized` returns for each (size, resize), from one reading of the file.

    It is decoded once for each scale of JPEG that a view starts from: usually once in all.

    Raises:
        DataError: see `read_image`.
    """
    data, box = _read(path)
    decoded, resized = {}, []
    frame = image_formats.jpeg_frame(data) if image_formats.format_of(data) == "JPEG" else None
    for size, resize in views:
        reduction = _reduction(*_extent(data, frame, box), size, resize) if frame else 1
        if reduction not in decoded:
            decoded[reduction] = _decode(path, data, box, lambda *_, reduction=reduction: reduction)
        resized.append((fit if resize == "letterbox" else stretch)(decoded[reduction], size))
    return resized


def read_shrunk(path: Path | str, least: int) -> np.ndarray:
    """Return the image, a JPEG at 1/2, 1/4 or 1/8 of its size where its shorter side keeps `least` pixels."""

    def reduction(extent: Extent, turned: bool) -> int:
        return next(r for r in _REDUCTIONS if r == 1 or min(extent) >= least * r)

    return _decode(path, *_read(path), reduction)


def problem_of(path: Path | str) -> str | None:
    """Return why an image cannot be read, or None.  Decodes all of it, at the smallest scale."""
    try:
        _decode(path, *_read(path), lambda extent, turned: 8)
    except DataError as error:
        return str(error).removeprefix(f"{escape_controls(path)}: ").split("\n")[0]
    return None


def hint_of(problem: str) -> str:
    """Return the way out of an image's problem, the second line of its message."""
    if problem == image_by_pillow.NEEDS_HEIF:
        return "install it: pip install pillow-heif; or skip such photos with dataset.on_bad_image=skip"
    if problem.endswith(" is not read"):
        return "save such photos as JPEG or PNG, or skip them with dataset.on_bad_image=skip"
    return UNREADABLE_HINT


def decoder_version() -> str:
    """Return `VERSION` and the decoders' versions, part of the names of the header, image and feature caches."""
    try:
        heif = version("pillow-heif")
    except PackageNotFoundError:
        heif = "0"
    return f"{VERSION} {cv2.__version__} {simplejpeg.__version__} {PIL.__version__} {heif}"


def letterbox(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale the whole image to fit `size` (height, width), centered on black (Structure-Retention Resize).

    uint8 (h, w, 3) to uint8 (*size, 3).  The contest entry's most effective single change (docs/published.md, table 3).
    """
    return pad_to_center(fit(image, size), size, size)


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale the whole image until it just fits `size` (height, width): uint8 (h, w, 3), one side equal to `size`'s."""
    height, width = image.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    return stretch(image, (min(size[0], max(1, round(height * scale))), min(size[1], max(1, round(width * scale)))))


def stretch(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale to `size` (height, width) whatever the shape: uint8 (h, w, 3) to uint8 (*size, 3).

    Bilinear; where a side shrinks to half or less, area averaging, since bilinear sampling would skip pixels there.
    """
    height, width = size
    skips = max(image.shape[0] / height, image.shape[1] / width) >= 2
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if skips else cv2.INTER_LINEAR)


def pad_to_center(image: np.ndarray, canvas: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Center an image on a black canvas (height, width) at least as large, and return its middle (*size, 3)."""
    top, left = (canvas[0] - image.shape[0]) // 2, (canvas[1] - image.shape[1]) // 2
    padded = np.zeros((*canvas, 3), np.uint8)
    padded[top : top + image.shape[0], left : left + image.shape[1]] = image
    return center_crop(padded, size)


def center_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the middle (*size, 3) of a uint8 image at least as large."""
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


def resized_size(size: tuple[int, int], crop_ratio: float) -> tuple[int, int]:
    """Return the (height, width) before a center crop of `size` that keeps `crop_ratio` of each side: 224 / 0.875."""
    return round(size[0] / crop_ratio), round(size[1] / crop_ratio)


def _read(path: Path | str, likely_bytes: int = 1 << 16) -> tuple[bytes, Box | None]:
    """Return (a file's content, the box that the path names in it)."""
    try:
        return _content(path, likely_bytes), None
    except OSError as error:
        file, box = split_crop(path) if error.errno in _NO_FILE else (path, None)
        reason = error.strerror or error
        if box:
            try:
                return _content(file, likely_bytes), box
            except OSError as error:
                reason = error.strerror or error
    raise DataError(f"{escape_controls(path)}: {reason}\n{UNREADABLE_HINT}")


def _content(path: Path | str, likely_bytes: int) -> bytes:
    """Return a file's content by three system calls; `open` makes more, and after each a thread waits for the GIL."""
    file = os.open(path, os.O_RDONLY)
    try:
        data = os.read(file, likely_bytes + 1)
        while len(data) > likely_bytes and (more := os.read(file, 1 << 24)):
            data += more
    finally:
        os.close(file)
    return data


def _decode(path: Path | str, data: bytes, box: Box | None, reduction_of: Callable[[Extent, bool], int]) -> np.ndarray:
    """Decode a file's content, or the box in it.

    Args:
        reduction_of: returns 1, 2, 4 or 8, the reduction of a JPEG, from the extent that is read and whether that is
            the stored one, which EXIF may turn.
    """
    kind = format_of_file(path, data)
    try:
        image, reason = _pixels(data, kind, box, reduction_of), _reason(data, kind)
    except _OutsideError:
        image, reason = None, "the crop lies outside of the photo"
    except image_by_pillow.UnreadError as error:
        image, reason = None, str(error)
    except Exception:  # Pillow alone raises a dozen types for damaged files
        image, reason = None, _reason(data, kind)
    if image is None:
        raise DataError(f"{escape_controls(path)}: {reason}\n{hint_of(reason)}")
    return image


class _OutsideError(Exception):
    """A box has no part within its image."""


def _pixels(
    data: bytes, kind: str | None, box: Box | None, reduction_of: Callable[[Extent, bool], int]
) -> np.ndarray | None:
    if kind is None or kind not in image_formats.READ:
        return None
    if kind == "JPEG":
        return _jpeg_pixels(data, box, reduction_of)
    if kind == "PNG":
        chunks = image_formats.png_pixels(data)
        if chunks is None:
            return None
        data = chunks
    if kind in image_by_pillow.FORMATS or image_formats.may_be_transparent(data, kind):
        image = image_by_pillow.pixels(data, kind)
    else:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    return image if image is None or box is None else _cut(image, box, image.shape[:2])


def _jpeg_pixels(data: bytes, box: Box | None, reduction_of: Callable[[Extent, bool], int]) -> np.ndarray | None:
    """Return OpenCV's pixels, from the same libjpeg-turbo, but faster, and with its warnings as errors."""
    frame = image_formats.jpeg_frame(data)
    if (
        frame is None
        or not image_formats.jpeg_has_end(data, frame)
        or frame.height * frame.width > image_formats.MOST_PIXELS
    ):
        return None
    orientation = image_formats.jpeg_orientation(data, frame)
    if frame.components == 4:  # CMYK: OpenCV knows Adobe's inverted kind
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    else:
        reduction = reduction_of(*_extent(data, frame, box))
        least = {"min_height": -(-frame.height // reduction), "min_width": -(-frame.width // reduction)}
        try:
            image = simplejpeg.decode_jpeg(data, **least)
        except ValueError as error:
            if "extraneous" not in str(error):
                raise
            with Image.open(io.BytesIO(data)) as opened:  # some cameras leave harmless bytes between segments
                image = np.array(opened.convert("RGB"))
    turn = image_by_pillow.UPRIGHT.get(orientation)
    image = image if turn is None or image is None else turn(image)
    return image if box is None or image is None else _cut(image, box, _upright(data, frame))


def _upright(data: bytes, frame: image_formats.JpegFrame) -> Extent:
    """Return the (height, width) of a whole JPEG, upright."""
    turned = image_formats.jpeg_orientation(data, frame) >= 5
    return (frame.width, frame.height) if turned else (frame.height, frame.width)


def _extent(data: bytes, frame: image_formats.JpegFrame, box: Box | None) -> tuple[Extent, bool]:
    """Return the extent of a JPEG that is read, and whether it is the stored one, which EXIF may turn."""
    if box is None:
        return (frame.height, frame.width), True
    box = box.within(*_upright(data, frame))
    return ((box.height, box.width) if box else (1, 1)), False


def _cut(image: np.ndarray, box: Box, size: Extent) -> np.ndarray:
    """Return a copy of the box in an upright image, which may be reduced from `size` (height, width)."""
    inner = box.within(*size)
    if inner is None:
        raise _OutsideError
    scale_y, scale_x = image.shape[0] / size[0], image.shape[1] / size[1]
    # The pixels that the box touches.
    top, bottom = math.floor(inner.y * scale_y), math.ceil((inner.y + inner.height) * scale_y)
    left, right = math.floor(inner.x * scale_x), math.ceil((inner.x + inner.width) * scale_x)
    return image[top:bottom, left:right].copy()


def format_of_file(path: Path | str, data: bytes) -> str | None:
    """Return the format of a file by its first bytes, and by its name where these do not tell it.

    Targa files have no first bytes in common, and a camera's raw file begins like TIFF.
    """
    kind = image_formats.format_of(data)
    if kind in (None, "TIFF"):
        named = image_formats.FORMAT_OF_SUFFIX.get(image_formats.suffix_of(split_crop(path)[0]))
        return named if named is not None and named not in image_formats.READ else kind
    return kind


def _reason(data: bytes, kind: str | None) -> str:
    if not data:
        return "zero bytes"
    if kind is None:
        return f"neither {', '.join(image_formats.READ[:-1])} nor {image_formats.READ[-1]}"
    if kind not in image_formats.READ:
        return f"{kind} is not read"
    state = "truncated, damaged or unusual" if kind in image_by_pillow.FORMATS else "truncated or damaged"
    return f"a {state} {kind} of {len(data)} bytes"


def _reduction(extent: Extent, turned: bool, size: tuple[int, int], resize: str) -> int:
    """Return the largest of 8, 4, 2 and 1 that leaves an extent of a JPEG at least as large as needed.

    Args:
        turned: whether EXIF may turn the extent; both ways are then large enough.
    """
    needed, (height, width) = max if resize == "stretch" else min, size
    scale = needed(height / extent[0], width / extent[1])
    if turned:
        scale = max(scale, needed(height / extent[1], width / extent[0]))
    return next(reduction for reduction in _REDUCTIONS if reduction == 1 or scale * reduction <= 1)
