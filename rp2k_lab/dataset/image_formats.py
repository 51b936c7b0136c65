"""Format, size, completeness, transparency and orientation of an image file, from its bytes without decoding."""

import zlib
from typing import Literal, NamedTuple

# Of files that are taken for images by their name, in lower case.
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
# Enough to tell JPEG, PNG, WebP, BMP and GIF apart.
HEAD_BYTES = 18
# The largest image that is decoded, 0.8 GB as RGB: phones make 200 million pixels.
MOST_PIXELS = 2**28
_BMP_HEADERS = {12, 40, 52, 56, 108, 124}
# The chunks that decide a PNG's pixels.  Damage in the others does no harm, but libpng prints warnings about it.
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"}
_ORIENTATION = 0x0112


def format_of(data: bytes) -> str | None:
    """Return JPEG, PNG, WebP, BMP or GIF, by the first `HEAD_BYTES`; None for everything else, whatever its name."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(b"GIF8"):
        return "GIF"
    return "BMP" if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS else None


class JpegFrame(NamedTuple):
    """A JPEG's frame header (ITU-T T.81, B.2.2): stored size, 1 (gray), 3 or 4 (CMYK) components, offset (bytes)."""

    height: int
    width: int
    components: int
    offset: int


def jpeg_frame(data: bytes) -> JpegFrame | None:
    """Return the frame header, or None."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            return JpegFrame(height, width, data[at + 9], at) if height and width and at + 9 < len(data) else None
        # A fill byte before a marker stands alone; every other segment begins with its length.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def jpeg_has_end(data: bytes, frame: JpegFrame) -> bool:
    """Return whether a JPEG has an end marker after its frame header; an interrupted download has none."""
    return data.rfind(b"\xff\xd9", frame.offset) > 0


def jpeg_orientation(data: bytes, frame: JpegFrame) -> int:
    """Return the orientation (1 to 8) in the EXIF before the frame."""
    start = data.find(b"Exif\0\0", 2, frame.offset)
    return 1 if start < 0 else orientation(data[start : frame.offset])


def png_pixels(data: bytes) -> bytes | None:
    """Return a PNG with only the chunks that decide its pixels; None if it is cut off or a checksum is wrong.

    libpng would print errors on stderr, past any handler.  Only an eXIf before the pixels counts, as in Pillow.
    """
    view, at, kinds = memoryview(data), 8, set()
    kept: list[bytes | memoryview] = [data[:8]]
    while at + 12 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4])
        if kind in _PNG_CHUNKS and not (kind == b"eXIf" and b"IDAT" in kinds):
            if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
                return None
            kept.append(view[at:end])
            kinds.add(kind)
        if kind == b"IEND":
            return b"".join(kept) if b"IDAT" in kinds else None
        at = end
    return None


def may_be_transparent(data: bytes, kind: str) -> bool:
    """Return whether an image can have transparent pixels (PNG specification 11.2; WebP: RFC 9649, 2.7 and 3.4)."""
    if kind == "PNG":
        return data[25:26] in (b"\4", b"\6") or 0 < data.find(b"tRNS") < max(0, data.find(b"IDAT"))
    if kind == "WebP":
        flags = {b"VP8X": 20, b"VP8L": 24}.get(data[12:16], len(data))
        return bool(int.from_bytes(data[flags : flags + 1]) & 0x10)
    return kind == "GIF"


def orientation(exif: bytes | None) -> int:
    """Return EXIF's orientation, 1 to 8 (CIPA DC-008, 4.6.4); 1 where it is absent or damaged.

    Reads what OpenCV reads, so that an image's listed size equals its pixels'.
    """
    tiff = (exif or b"").removeprefix(b"Exif\0\0")
    orders: dict[bytes, Literal["little", "big"]] = {b"II": "little", b"MM": "big"}
    order = orders.get(tiff[:2])
    if order is None:
        return 1
    first = int.from_bytes(tiff[4:8], order)
    for at in range(first + 2, first + 2 + 12 * int.from_bytes(tiff[first : first + 2], order), 12):
        if int.from_bytes(tiff[at : at + 2], order) == _ORIENTATION:
            value = int.from_bytes(tiff[at + 8 : at + 10], order)
            return value if 1 <= value <= 8 else 1
    return 1
