"""Format, size, completeness, transparency and orientation of an image file, from its bytes without decoding."""

import zlib
from typing import Literal, NamedTuple

# Suffixes of image files, in lower case, by format.
_SUFFIXES = {
    "JPEG": ".jpg .jpeg .jpe .jfif .jif .jfi .pjpeg .pjp",
    "PNG": ".png .apng",
    "WebP": ".webp",
    "BMP": ".bmp .dib",
    "GIF": ".gif",
    "TIFF": ".tif .tiff",
    "AVIF": ".avif .avifs",
    "HEIC": ".heic .heif .heics .heifs .hif",
    "JPEG 2000": ".jp2 .j2k .jpf .jpx .jpm .j2c .jpc",
    "JPEG XL": ".jxl",
    "JPEG XR": ".jxr .wdp .hdp",
    "Photoshop": ".psd .psb",
    "icon": ".ico .cur .icns",
    "SVG": ".svg .svgz",
    "Targa": ".tga",
    "PCX": ".pcx",
    "netpbm": ".ppm .pgm .pbm .pnm .pam",
    "OpenEXR": ".exr",
    "Radiance": ".hdr",
    "DDS": ".dds",
    "QOI": ".qoi",
    "GIMP": ".xcf",
    "camera raw": ".dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .orf .rw2 .raf .pef .srw .x3f .3fr .fff .iiq .erf .mef "
    ".mos .mrw .kdc .dcr .rwl .gpr .raw",
}
FORMAT_OF_SUFFIX = {suffix: name for name, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
# The formats that are read; the others are named as unreadable.
READ = ("JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF", "AVIF", "HEIC", "JPEG 2000")
# Enough to tell all formats apart that have first bytes in common.
HEAD_BYTES = 64
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51\0", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"8BPS\0", "Photoshop"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE\n", "Radiance"),
    (b"DDS \x7c\0\0\0", "DDS"),
    (b"gimp xcf ", "GIMP"),
    (b"IIRO", "camera raw"),
    (b"IIU\0", "camera raw"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"FOVb", "camera raw"),
    (b"\0MRM", "camera raw"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
# Brands of files like ISO's media files (ISO/IEC 14496-12, 4.3); those of films are none of these.
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"heif", b"mif1", b"mif2",
                b"msf1"}  # fmt: skip
# The largest image that is decoded, 0.8 GB as RGB: phones make 200 million pixels.
MOST_PIXELS = 2**28
_BMP_HEADERS = {12, 40, 52, 56, 108, 124}
# The chunks that decide a PNG's pixels.  Damage in the others does no harm, but libpng prints warnings about it.
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"}
_ORIENTATION = 0x0112


def format_of(data: bytes) -> str | None:
    """Return an image's format by its first `HEAD_BYTES`; None for everything else, whatever its name."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return "camera raw" if name == "TIFF" and data[8:10] == b"CR" else name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return _format_of_brands(data)
    return "BMP" if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS else None


def _format_of_brands(data: bytes) -> str | None:
    major, end = data[8:12], min(int.from_bytes(data[:4]), HEAD_BYTES)
    brands = {major, *(data[at : at + 4] for at in range(16, end - 3, 4))}
    if major == b"crx ":
        return "camera raw"
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if brands & _HEIC_BRANDS else None


def suffix_of(name: str) -> str:
    """Return a file name's suffix in lower case, with its dot; "" if it has none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot >= 0 else ""


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
    """Return whether an image can have transparent pixels.

    PNG specification 11.2; WebP: RFC 9649, 2.7 and 3.4; BMP: BITMAPV4HEADER's mask of alpha.
    """
    if kind == "PNG":
        return data[25:26] in (b"\4", b"\6") or png_transparency(data) is not None
    if kind == "WebP":
        flags = {b"VP8X": 20, b"VP8L": 24}.get(data[12:16], len(data))
        return bool(int.from_bytes(data[flags : flags + 1]) & 0x10)
    if kind == "BMP":
        has_masks = int.from_bytes(data[14:18], "little") >= 56 and data[28:34] == b"\x20\0\3\0\0\0"
        return has_masks and any(data[66:70])
    return kind == "GIF"


def png_transparency(data: bytes) -> bytes | None:
    """Return the content of a PNG's tRNS before its pixels: alpha of a palette, or the transparent color; or None."""
    at = data.find(b"tRNS", 0, max(0, data.find(b"IDAT")))
    return data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at])] if at > 0 else None


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
