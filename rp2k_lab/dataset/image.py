"""Photos as arrays: reading, and the resize that decides what a network sees.  Pure functions on uint8 RGB images."""

import hashlib
import io
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from rp2k_lab.dataset import formats
from rp2k_lab.errors import DataError, shown

# What to do about a photo that cannot be read: the second line of every such message.
WAY_OUT = "task=inspect lists all such photos; dataset.on_bad_image=skip goes on without them"
# JPEG can be decoded at 1/2, 1/4 and 1/8 of its size, in a fraction of the time.
_REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
# How EXIF's orientations 2 to 8 become upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit warns from a thread; formats.MOST_PIXELS holds instead


def read_image(path: Path | str) -> np.ndarray:
    """Decode a JPEG, PNG, WebP, BMP or GIF file to uint8 RGB (height, width, 3), turned upright as its EXIF says.

    16 bits become 8, grey and CMYK become RGB, and what is transparent is black, as the letterbox's padding is.

    Raises:
        DataError: the file is missing, empty, damaged or no picture; the message names it.
    """
    return _decode(path, _read(path), 1)


def read_resized(path: Path | str, size: tuple[int, int], resize: str) -> np.ndarray:
    """A photo scaled to fit (letterbox; without the padding) or to fill (stretch) `size` (height, width), uint8 RGB.

    A JPEG that is at least twice as large as needed is decoded at 1/2, 1/4 or 1/8 of its size, and resized from there.

    Raises:
        DataError: as `read_image`.
    """
    data = _read(path)
    image = _decode(path, data, _reduction(data, size, resize))
    return fit(image, size) if resize == "letterbox" else stretch(image, size)


def problem_of(path: Path | str) -> str | None:
    """Why a photo cannot be read, in a few words; None if it can.  Decodes all of it, at the smallest scale."""
    try:
        _decode(path, _read(path), 8)
    except DataError as error:
        return str(error).removeprefix(f"{shown(path)}: ").split("\n")[0]
    return None


def decoder_version() -> str:
    """Hash of the code that turns files into pixels; what another one found out or decoded is not kept."""
    code = b"".join(Path(file).read_bytes() for file in (__file__, formats.__file__))
    return hashlib.sha256(code + cv2.__version__.encode()).hexdigest()


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
        raise DataError(f"{shown(path)}: {error.strerror or error}\n{WAY_OUT}") from None
    return data


def _decode(path: Path | str, data: bytes, reduction: int) -> np.ndarray:
    kind = formats.format_of(data)
    reduction = reduction if kind == "JPEG" else 1
    try:
        image = _pixels(data, kind, reduction)
    except Exception:  # Pillow alone raises a dozen types for damaged files; whatever it is, the photo is named
        image = None
    if image is None:
        raise DataError(f"{shown(path)}: {_what_is_wrong(data, kind)}\n{WAY_OUT}")
    return image if reduction == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _pixels(data: bytes, kind: str | None, reduction: int) -> np.ndarray | None:
    if kind is None or (kind == "JPEG" and not formats.jpeg_is_whole(data)):
        return None
    if kind == "PNG":
        data = formats.png_pixels(data)
        if data is None:
            return None
    if formats.may_be_transparent(data, kind):
        return _over_black(data)
    return cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[reduction])


def _what_is_wrong(data: bytes, kind: str | None) -> str:
    if not data:
        return "zero bytes"
    if kind is None:
        return "neither JPEG, PNG, WebP, BMP nor GIF"
    return f"a truncated or damaged {kind} of {len(data)} bytes"


def _over_black(data: bytes) -> np.ndarray:
    """OpenCV drops alpha and shows whatever colour lies under it; Pillow composes."""
    with Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > formats.MOST_PIXELS:
            raise ValueError("too large")
        turn = _UPRIGHT.get(formats.orientation(image.info.get("exif")))
        colours = image.convert("RGBA")
    upright = colours if turn is None else colours.transpose(turn)
    return np.array(Image.alpha_composite(Image.new("RGBA", upright.size, "black"), upright).convert("RGB"))


def _reduction(data: bytes, size: tuple[int, int], resize: str) -> int:
    """The largest of 8, 4, 2 and 1 that leaves a JPEG at least as large as it is wanted, upright or lying."""
    frame = formats.jpeg_frame(data) if formats.format_of(data) == "JPEG" else None
    if frame is None:
        return 1
    stored = frame[:2]
    needed = max if resize == "stretch" else min
    scale = max(needed(size[0] / height, size[1] / width) for height, width in (stored, stored[::-1]))
    return next(reduction for reduction in (8, 4, 2, 1) if reduction == 1 or scale * reduction <= 1)
