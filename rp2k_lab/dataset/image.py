"""Photos as arrays: reading, and the resize that decides what a network sees.  Pure functions on uint8 RGB images."""

import io
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from rp2k_lab.errors import DataError

# What to do about a photo that cannot be read: the second line of every such message.
WAY_OUT = "task=inspect lists all such photos; dataset.on_bad_image=skip goes on without them"
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
# JPEG can be decoded at 1/2, 1/4 and 1/8 of its size, in a fraction of the time.
_REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def read_image(path: Path | str) -> np.ndarray:
    """Decode a JPEG, PNG, WebP, BMP or GIF file to uint8 RGB (height, width, 3), turned upright as its EXIF says.

    16 bits become 8, grey and CMYK become RGB, and what is transparent is black, as the letterbox's padding is.

    Raises:
        DataError: the file is missing, empty, damaged or no picture; the message names it.
    """
    return _decode(path, _read(path), 1)


def read_resized(path: Path | str, size: tuple[int, int], resize: str, stored: tuple[int, int] | None = None):
    """A photo scaled to fit (letterbox; without the padding) or to fill (stretch) `size` (height, width), uint8 RGB.

    A JPEG that is at least twice as large as needed is decoded at 1/2, 1/4 or 1/8 of its size, and resized from there.

    Args:
        stored: the photo's (height, width), if known; else read from its header.

    Raises:
        DataError: as `read_image`.
    """
    data = _read(path)
    image = _decode(path, data, _reduction(stored or _jpeg_size(data), size, resize))
    return fit(image, size) if resize == "letterbox" else stretch(image, size)


def problem_of(path: Path | str) -> str | None:
    """Why a photo cannot be read, in a few words; None if it can.  Decodes all of it, at the smallest scale."""
    try:
        _decode(path, _read(path), 8)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ").split("\n")[0]
    return None


def letterbox(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Structure-Retention Resize: the whole image scaled to fit `size` (height, width), centred on black.

    uint8 (h, w, 3) to uint8 (*size, 3).  The contest entry's most effective single change (published.md, table 3).
    """
    return padded_centre(fit(image, size), size, size)


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The whole image scaled so that it just fits `size` (height, width): uint8 (h, w, 3), one side as in `size`."""
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (min(most, max(1, round(side * scale))) for most, side in zip(size, image.shape, strict=False))
    return stretch(image, (height, width))


def stretch(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale to `size` (height, width) whatever the shape: uint8 (h, w, 3) to uint8 (*size, 3).

    Bilinear; where a side shrinks to half or less, area averaging, since bilinear sampling would skip pixels there.
    """
    height, width = size
    skips = max(image.shape[0] / height, image.shape[1] / width) >= 2
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if skips else cv2.INTER_LINEAR)


def padded_centre(image: np.ndarray, canvas: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The middle (*size, 3) of a black canvas (height, width) with the image, no larger than that, in its middle."""
    top, left = corner(image, canvas)
    padded = np.zeros((*canvas, 3), np.uint8)
    padded[top : top + image.shape[0], left : left + image.shape[1]] = image
    return centre_crop(padded, size)


def corner(image: np.ndarray, canvas: tuple[int, int]) -> tuple[int, int]:
    """(top, left) of an image in the middle of a canvas (height, width)."""
    return (canvas[0] - image.shape[0]) // 2, (canvas[1] - image.shape[1]) // 2


def centre_crop(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle (*size, 3) of a uint8 image that is at least as large."""
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return image[top : top + size[0], left : left + size[1]]


def resized_size(size: tuple[int, int], crop_ratio: float) -> tuple[int, int]:
    """(height, width) of which a centre crop of `size` keeps `crop_ratio` of each side: 224 / 0.875 = 256."""
    return round(size[0] / crop_ratio), round(size[1] / crop_ratio)


def _read(path: Path | str, likely_bytes: int = 1 << 16) -> bytes:
    """A file's content.  Plain system calls: `open` makes seven, and after each a thread waits for Python's lock."""
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            data = os.read(file, likely_bytes + 1)
            while len(data) > likely_bytes and (more := os.read(file, 1 << 24)):
                data += more
        finally:
            os.close(file)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}\n{WAY_OUT}") from None
    return data


def _decode(path: Path | str, data: bytes, reduction: int) -> np.ndarray:
    image = None
    try:
        if _has_alpha(data):
            image = _over_black(data)
        elif data:
            reduction = reduction if data.startswith(_JPEG) else 1
            image = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[reduction])
    except (cv2.error, OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's for a damaged PNG
        pass
    if image is None:
        raise DataError(f"{path}: {_what_is_wrong(data)}\n{WAY_OUT}")
    return image if reduction == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _what_is_wrong(data: bytes) -> str:
    if not data:
        return "zero bytes"
    kind = "JPEG" if data.startswith(_JPEG) else "PNG" if data.startswith(_PNG) else None
    return f"a truncated or damaged {kind} ({len(data)} bytes)" if kind else f"no picture ({len(data)} bytes)"


def _has_alpha(data: bytes) -> bool:
    """Whether a PNG has an alpha channel, or a palette or single colour that is transparent."""
    if not data.startswith(_PNG) or len(data) < 26:
        return False
    return data[25] in (4, 6) or 0 < data.find(b"tRNS") < max(0, data.find(b"IDAT"))


def _over_black(data: bytes) -> np.ndarray:
    """OpenCV drops alpha and shows whatever colour lies under it; Pillow composes."""
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGBA")
        return np.array(Image.alpha_composite(Image.new("RGBA", upright.size, "black"), upright).convert("RGB"))


def _reduction(stored: tuple[int, int] | None, size: tuple[int, int], resize: str) -> int:
    """The largest of 8, 4, 2 and 1 that leaves a photo at least as large as it is wanted, upright or lying."""
    if stored is None:
        return 1
    needed = max if resize == "stretch" else min
    scale = max(needed(size[0] / height, size[1] / width) for height, width in (stored, stored[::-1]))
    return next(reduction for reduction in (8, 4, 2, 1) if reduction == 1 or scale * reduction <= 1)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) as stored, from the frame header (ITU-T T.81, B.2.2); None for other files."""
    if not data.startswith(_JPEG):
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            return (height, width) if height and width else None
        # A filling byte before a marker stands alone, every other segment says its length.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    return None
