"""Read with Pillow what OpenCV does not read: TIFF, AVIF, HEIC, JPEG 2000, and transparent pixels of the other formats.

HEIC needs the package pillow-heif (the extra `heif`).
"""

import io
import warnings
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from PIL import Image

from rp2k_lab.dataset import image_formats

# Formats that this module alone reads, with Pillow's names.
FORMATS = {"TIFF": "TIFF", "AVIF": "AVIF", "HEIC": "HEIF", "JPEG 2000": "JPEG2000"}
NEEDS_HEIF = "HEIC needs the package pillow-heif"
_TIFF_SUBFILE, _TIFF_BITS, _TIFF_PHOTOMETRIC, _DNG_VERSION = 254, 258, 262, 50706
_REDUCED = 1
_MIN_IS_WHITE = 0
# Turn EXIF's orientations 2 to 8 upright.
UPRIGHT = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
# Pillow's limit warns from a thread; image_formats.MOST_PIXELS holds instead.
Image.MAX_IMAGE_PIXELS = None
# A damaged file is an error with its name; Pillow's warnings about it name none.
warnings.filterwarnings("ignore", module=r"PIL\.")


class UnreadError(Exception):
    """An image of a kind that is not read.  The message is the reason, without a name."""


def upright_size(path: Path | str, kind: str) -> tuple[int, int]:
    """Return the (width, height) of a file of one of `FORMATS`, from its header.

    Raises:
        UnreadError: see `pixels`.
        Exception: a damaged header; Pillow raises a dozen types.
    """
    with open(path, "rb") as file, _open(file, kind) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def pixels(data: bytes, kind: str) -> np.ndarray:
    """Return an image upright over black, uint8 RGB (height, width, 3).

    OpenCV would drop alpha and show the color below it.

    Raises:
        UnreadError: HEIC without pillow-heif, a raw file of a camera, or samples without a known white.
        Exception: damage, or too many pixels; Pillow raises a dozen types.
    """
    if kind == "PNG" and data[24] == 16 and data[25:26] in (b"\0", b"\2"):
        return _png_of_16_bits(data)
    with _open(io.BytesIO(data), kind) as image:
        if image.width * image.height > image_formats.MOST_PIXELS:
            raise ValueError("too large")
        if kind == "PNG" and data[24] in (2, 4) and data[25:26] == b"\0":
            # Pillow 13 compares the transparent gray of 2 or 4 bits with pixels of 8 bits.
            image.info["transparency"] *= 255 // (2 ** data[24] - 1)
        turn = UPRIGHT.get(_orientation(image))
        image.load()
        composed = _gray(image, kind) if image.mode.startswith("I;16") else _over_black(image, kind)
    return composed if turn is None else turn(composed)


def _open(file: IO[bytes], kind: str) -> Image.Image:
    """Open an image as its format alone."""
    if kind == "HEIC":
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            raise UnreadError(NEEDS_HEIF) from None
        return HeifImageFile(file)
    image = Image.open(file, formats=[FORMATS.get(kind, kind)])
    if kind == "TIFF":
        tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
        if _DNG_VERSION in tags or tags.get(_TIFF_SUBFILE, 0) & _REDUCED:
            raise UnreadError("camera raw is not read")  # a preview stands first
    if image.mode in ("F", "I"):
        raise UnreadError(f"{kind} of 32-bit or signed samples is not read")  # nothing tells which value is white
    return image


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation of an opened image; TIFF and HEIC are turned by their decoders."""
    return image_formats.orientation(image.info.get("exif")) if image.format not in ("TIFF", "HEIF") else 1


def _gray(image: Image.Image, kind: str) -> np.ndarray:
    """Return the upper 8 bits of gray samples of up to 16 bits; Pillow would clip them at 255."""
    samples, bits = np.asarray(image), 16
    if kind == "TIFF":
        tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
        bits = tags[_TIFF_BITS][0]
        if tags.get(_TIFF_PHOTOMETRIC) == _MIN_IS_WHITE:  # Pillow 13 inverts samples of up to 8 bits alone
            samples = 2**bits - 1 - samples
    return np.repeat((samples >> (bits - 8)).astype(np.uint8)[..., None], 3, 2)


def _over_black(image: Image.Image, kind: str) -> np.ndarray:
    colors = image.convert("RGBA")
    if kind == "BMP" and colors.getchannel("A").getextrema() == (0, 0):  # programs that know no alpha leave it at 0
        return np.array(colors.convert("RGB"))
    return np.array(Image.alpha_composite(Image.new("RGBA", colors.size, "black"), colors).convert("RGB"))


def _png_of_16_bits(data: bytes) -> np.ndarray:
    """Return a PNG of 16-bit gray or RGB with a transparent color; Pillow 13 compares that with pixels of 8 bits."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if image.width * image.height > image_formats.MOST_PIXELS:
            raise ValueError("too large")
        turn = UPRIGHT.get(_orientation(image))
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise ValueError("damaged")
    samples = samples[..., None] if samples.ndim == 2 else samples[..., 2::-1]
    transparent = np.frombuffer(image_formats.png_transparency(data) or b"", ">u2")
    opaque = (samples != transparent).any(axis=2, keepdims=True)
    composed = np.where(opaque, np.right_shift(samples, 8), 0).astype(np.uint8)
    composed = np.ascontiguousarray(np.broadcast_to(composed, (*composed.shape[:2], 3)))
    return composed if turn is None else turn(composed)
