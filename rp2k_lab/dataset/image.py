"""Read images, and resize them as the network takes them.  Pure functions on uint8 RGB arrays."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset import image_formats

# The version of the code that turns files into pixels (this module and image_formats.py).  Raise it with every change
# that reads another size or other pixels from the same file, or refuses another file.
VERSION = 1
# The second line of every message about an unreadable image.
UNREADABLE_HINT = "list all such photos with task=inspect, or skip them with dataset.on_bad_image=skip"
# JPEG can be decoded at 1/2, 1/4 and 1/8 of its size, in a fraction of the time.
_REDUCTIONS = (8, 4, 2, 1)
# Turn EXIF's orientations 2 to 8 upright.
_UPRIGHT = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
Image.MAX_IMAGE_PIXELS = None  # Pillow's limit warns from a thread; image_formats.MOST_PIXELS holds instead


def read_image(path: Path | str) -> np.ndarray:
    """Decode a JPEG, PNG, WebP, BMP or GIF file to uint8 RGB (height, width, 3), turned upright as its EXIF says.

    16 bits become 8, gray and CMYK become RGB, and transparent pixels become black, like the letterbox's padding.

    Raises:
        DataError: the file is missing, empty, damaged or no image; the message names it.
    """
    return _decode(path, _read(path), lambda frame: 1)


def read_resized(path: Path | str, size: tuple[int, int], resize: str) -> np.ndarray:
    """Read an image scaled to fit (letterbox; without padding) or to fill (stretch) `size` (height, width), uint8 RGB.

    A JPEG at least twice as large as needed is decoded at 1/2, 1/4 or 1/8 of its size, and resized from there.

    Raises:
        DataError: see `read_image`.
    """
    image = _decode(path, _read(path), lambda frame: _reduction(frame, size, resize))
    return fit(image, size) if resize == "letterbox" else stretch(image, size)


def read_views(path: Path | str, views: Sequence[tuple[tuple[int, int], str]]) -> list[np.ndarray]:
    """Return what `read_resized` returns for each (size, resize), from one reading of the file.

    It is decoded once for each scale of JPEG that a view starts from: usually once in all.

    Raises:
        DataError: see `read_image`.
    """
    data, decoded, resized = _read(path), {}, []
    frame = image_formats.jpeg_frame(data) if image_formats.format_of(data) == "JPEG" else None
    for size, resize in views:
        reduction = _reduction(frame, size, resize) if frame else 1
        if reduction not in decoded:
            decoded[reduction] = _decode(path, data, lambda _, reduction=reduction: reduction)
        resized.append((fit if resize == "letterbox" else stretch)(decoded[reduction], size))
    return resized


def read_shrunk(path: Path | str, least: int) -> np.ndarray:
    """Return the image, a JPEG at 1/2, 1/4 or 1/8 of its size where its shorter side keeps `least` pixels."""

    def reduction(frame: image_formats.JpegFrame) -> int:
        return next(r for r in _REDUCTIONS if r == 1 or min(frame.height, frame.width) >= least * r)

    return _decode(path, _read(path), reduction)


def problem_of(path: Path | str) -> str | None:
    """Return why an image cannot be read, or None.  Decodes all of it, at the smallest scale."""
    try:
        _decode(path, _read(path), lambda frame: 8)
    except DataError as error:
        return str(error).removeprefix(f"{escape_controls(path)}: ").split("\n")[0]
    return None


def decoder_version() -> str:
    """Return `VERSION` and the decoders' versions, part of the names of the header, image and feature caches."""
    return f"{VERSION} {cv2.__version__} {simplejpeg.__version__}"


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


def _read(path: Path | str, likely_bytes: int = 1 << 16) -> bytes:
    """Return a file's content by three system calls; `open` makes more, and after each a thread waits for the GIL."""
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            data = os.read(file, likely_bytes + 1)
            while len(data) > likely_bytes and (more := os.read(file, 1 << 24)):
                data += more
        finally:
            os.close(file)
    except OSError as error:
        raise DataError(f"{escape_controls(path)}: {error.strerror or error}\n{UNREADABLE_HINT}") from None
    return data


def _decode(path: Path | str, data: bytes, reduction_of: Callable[[image_formats.JpegFrame], int]) -> np.ndarray:
    kind = image_formats.format_of(data)
    try:
        image = _pixels(data, kind, reduction_of)
    except Exception:  # Pillow alone raises a dozen types for damaged files
        image = None
    if image is None:
        raise DataError(f"{escape_controls(path)}: {_reason(data, kind)}\n{UNREADABLE_HINT}")
    return image


def _pixels(data: bytes, kind: str | None, reduction_of: Callable[[image_formats.JpegFrame], int]) -> np.ndarray | None:
    if kind is None:
        return None
    if kind == "JPEG":
        return _jpeg_pixels(data, reduction_of)
    if kind == "PNG":
        chunks = image_formats.png_pixels(data)
        if chunks is None:
            return None
        data = chunks
    if image_formats.may_be_transparent(data, kind):
        return _over_black(data)
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def _jpeg_pixels(data: bytes, reduction_of: Callable[[image_formats.JpegFrame], int]) -> np.ndarray | None:
    """Return OpenCV's pixels, from the same libjpeg-turbo, but faster, and with its warnings as errors."""
    frame = image_formats.jpeg_frame(data)
    if (
        frame is None
        or not image_formats.jpeg_has_end(data, frame)
        or frame.height * frame.width > image_formats.MOST_PIXELS
    ):
        return None
    if frame.components == 4:  # CMYK: OpenCV knows Adobe's inverted kind
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    else:
        reduction = reduction_of(frame)
        least = {"min_height": -(-frame.height // reduction), "min_width": -(-frame.width // reduction)}
        try:
            image = simplejpeg.decode_jpeg(data, **least)
        except ValueError as error:
            if "extraneous" not in str(error):
                raise
            with Image.open(io.BytesIO(data)) as opened:  # some cameras leave harmless bytes between segments
                image = np.array(opened.convert("RGB"))
    turn = _UPRIGHT.get(image_formats.jpeg_orientation(data, frame))
    return image if turn is None else turn(image)


def _reason(data: bytes, kind: str | None) -> str:
    if not data:
        return "zero bytes"
    if kind is None:
        return "neither JPEG, PNG, WebP, BMP nor GIF"
    return f"a truncated or damaged {kind} of {len(data)} bytes"


def _over_black(data: bytes) -> np.ndarray:
    """Compose an image with black by Pillow; OpenCV would drop alpha and show the color below it."""
    with Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > image_formats.MOST_PIXELS:
            raise ValueError("too large")
        turn = _UPRIGHT.get(image_formats.orientation(image.info.get("exif")))
        colors = image.convert("RGBA")
    composed = np.array(Image.alpha_composite(Image.new("RGBA", colors.size, "black"), colors).convert("RGB"))
    return composed if turn is None else turn(composed)


def _reduction(frame: image_formats.JpegFrame, size: tuple[int, int], resize: str) -> int:
    """Return the largest of 8, 4, 2 and 1 that leaves a JPEG at least as large as needed, upright or rotated."""
    needed, (height, width) = max if resize == "stretch" else min, size
    upright = needed(height / frame.height, width / frame.width)
    scale = max(upright, needed(height / frame.width, width / frame.height))
    return next(reduction for reduction in _REDUCTIONS if reduction == 1 or scale * reduction <= 1)
