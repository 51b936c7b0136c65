"""Unusual and corrupt image files as in real folders, made byte by byte and named by their defect."""

import hashlib
import io
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

HEIGHT, WIDTH = 24, 40


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sample_images() -> tuple[Image.Image, Image.Image, Image.Image]:
    """Return (smooth RGB without black, the same with alpha from 0 to 255 by column, noise that compresses badly)."""
    pixels = np.full((HEIGHT, WIDTH, 3), 77, np.uint8)
    pixels[..., 0] = np.linspace(10, 250, HEIGHT, dtype=np.uint8)[:, None]
    pixels[..., 1] = np.linspace(10, 250, WIDTH, dtype=np.uint8)
    alpha = np.tile(np.linspace(0, 255, WIDTH, dtype=np.uint8), (HEIGHT, 1))
    noise = np.random.default_rng(0).integers(0, 256, (150, 100, 3), np.uint8)
    return Image.fromarray(pixels), Image.fromarray(np.dstack([pixels, alpha])), Image.fromarray(noise)


RGB, RGBA, NOISE = sample_images()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, color: int, pixels: bytes) -> bytes:
    """Return a PNG with any header."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(pixels, 1)), png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def with_png_chunk(data: bytes, kind: bytes, content: bytes, checksum: int = 0) -> bytes:
    """Insert a chunk after the header; `checksum` is added to the right one."""
    chunk = bytearray(png_chunk(kind, content))
    chunk[-1] = (chunk[-1] + checksum) % 256
    return data[:33] + bytes(chunk) + data[33:]


def oriented(value) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def raw_exif(kind: int, count: int, value: bytes) -> bytes:
    """Return EXIF with only an orientation, of any type."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12" + struct.pack(">HI", kind, count) + value + bytes(16)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def cut(data: bytes, fraction: float) -> bytes:
    return data[: int(len(data) * fraction)]


def readable_files() -> dict[str, bytes]:
    """Return unusual files that every viewer shows, by name."""
    palette = RGB.quantize(16)
    deep = np.asarray(RGB).astype(np.uint16) * 257
    deep[..., 2] = np.linspace(0, 65535, WIDTH)
    deep_alpha = np.dstack([deep[..., ::-1], np.asarray(RGBA)[..., 3].astype(np.uint16) * 257])
    jpeg, png_data, other = encoded(RGB, "JPEG", quality=95), encoded(RGB, "PNG"), ImageOps.invert(RGB)
    files = {
        "jpeg": jpeg,
        "jpeg-progressive": encoded(RGB, "JPEG", progressive=True),
        "jpeg-garbage-after-its-end": jpeg + b"garbage" * 100,
        "jpeg-zeros-after-its-end": jpeg + bytes(5000),
        "jpeg-bytes-between-its-segments": jpeg.replace(b"\xff\xda", b"\x11\x22\xff\xda", 1),
        "jpeg-thumbnail": encoded(RGB, "JPEG", exif=b"Exif\0\0" + jpeg),
        "jpeg-gray": encoded(RGB.convert("L"), "JPEG"),
        "jpeg-cmyk": encoded(RGB.convert("CMYK"), "JPEG"),
        "jpeg-mpo": encoded(RGB, "MPO", save_all=True, append_images=[other]),
        "png": png_data,
        "png-garbage-after-its-end": png_data + b"garbage" * 100,
        "png-damaged-comment": with_png_chunk(png_data, b"tEXt", b"Comment\0x", checksum=1),
        "png-damaged-profile": with_png_chunk(png_data, b"iCCP", b"icc\0\0" + zlib.compress(bytes(3144))),
        "png-damaged-animation": with_png_chunk(png_data, b"acTL", bytes(8)),
        "png-animation": encoded(RGB, "PNG", save_all=True, append_images=[other]),
        "png-1-bit": encoded(RGB.convert("1"), "PNG"),
        "png-gray": encoded(RGB.convert("L"), "PNG"),
        "png-gray-alpha": encoded(RGBA.convert("LA"), "PNG"),
        "png-alpha": encoded(RGBA, "PNG"),
        "png-palette": encoded(palette, "PNG"),
        "png-palette-transparent-color": encoded(palette, "PNG", transparency=3),
        "png-palette-alpha": encoded(RGBA.quantize(16), "PNG"),
        "png-color-key": encoded(RGB, "PNG", transparency=RGB.getpixel((3, 3))),
        "png-16-bit": cv2.imencode(".png", deep[..., ::-1])[1].tobytes(),
        "png-16-bit-gray": cv2.imencode(".png", deep[..., 2])[1].tobytes(),
        "png-16-bit-alpha": cv2.imencode(".png", deep_alpha)[1].tobytes(),
        "webp": encoded(RGB, "WEBP", quality=95),
        "webp-lossless": encoded(RGB, "WEBP", lossless=True),
        "webp-alpha": encoded(RGBA, "WEBP", quality=95, exact=True),
        "webp-lossless-alpha": encoded(RGBA, "WEBP", lossless=True, exact=True),
        "webp-animation": encoded(RGB, "WEBP", lossless=True, save_all=True, append_images=[other]),
        "gif": encoded(palette, "GIF"),
        "gif-transparent": encoded(palette, "GIF", transparency=3),
        "gif-animation": encoded(palette, "GIF", save_all=True, append_images=[other.quantize(16)]),
        "tiff": encoded(RGB, "TIFF"),
        "tiff-lzw-alpha": encoded(RGBA, "TIFF", compression="tiff_lzw"),
        "tiff-pages": encoded(RGB, "TIFF", save_all=True, append_images=[other.copy()]),
        "avif": encoded(RGB, "AVIF", quality=95),
        "avif-alpha": encoded(RGBA, "AVIF", quality=95),
        "jp2": encoded(RGB, "JPEG2000"),
        "jp2-codestream-alpha": encoded(RGBA, "JPEG2000", no_jp2=True),
        "bmp": encoded(RGB, "BMP"),
        "bmp-palette": encoded(palette, "BMP"),
        "bmp-1-bit": encoded(RGB.convert("1"), "BMP"),
        "one-column": encoded(NOISE.resize((1, 500)), "PNG"),
        "one-row": encoded(NOISE.resize((500, 1)), "JPEG", quality=95),
        "one-pixel": encoded(Image.new("RGB", (1, 1), (200, 100, 50)), "PNG"),
        "20000-wide": encoded(NOISE.resize((20000, 3)), "JPEG", quality=95),
        "20000-high": encoded(NOISE.resize((3, 20000)), "PNG"),
        "exif-garbage": encoded(RGB, "JPEG", exif=b"Exif\0\0" + b"\xff" * 40),
        "exif-empty": encoded(RGB, "JPEG", exif=b"Exif\0\0"),
        "exif-offset-past-its-end": encoded(RGB, "JPEG", exif=b"Exif\0\0MM\0*\x7f\xff\xff\xff" + bytes(20)),
        "exif-orientation-0": encoded(RGB, "JPEG", exif=oriented(0)),
        "exif-orientation-9": encoded(RGB, "JPEG", exif=oriented(9)),
        "exif-orientation-text": encoded(RGB, "JPEG", exif=raw_exif(2, 1, b"6\0\0\0")),
        "exif-orientation-twice": encoded(RGB, "JPEG", exif=raw_exif(3, 2, b"\0\6\0\1")),
        "exif-garbage-in-png-with-alpha": with_png_chunk(encoded(RGBA, "PNG"), b"eXIf", b"MM\0*" + b"\xff" * 40),
    }
    for value in range(1, 9):
        files[f"jpeg-orientation-{value}"] = encoded(RGB, "JPEG", quality=95, exif=oriented(value))
        files[f"png-orientation-{value}"] = encoded(RGB, "PNG", exif=oriented(value))
        files[f"png-alpha-orientation-{value}"] = encoded(RGBA, "PNG", exif=oriented(value))
        files[f"webp-orientation-{value}"] = encoded(RGB, "WEBP", lossless=True, exif=oriented(value))
        files[f"tiff-orientation-{value}"] = encoded(RGB, "TIFF", exif=oriented(value))
        files[f"avif-orientation-{value}"] = encoded(RGB, "AVIF", exif=oriented(value))
        files[f"webp-alpha-orientation-{value}"] = encoded(RGBA, "WEBP", lossless=True, exif=oriented(value))
    return files


def decode_with_pillow(data: bytes) -> np.ndarray:
    """Return Pillow's pixels: upright, 8 of 16 bits, over black, uint8 RGB."""
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255
            return np.repeat((np.asarray(image).astype(np.uint32) // 256).astype(np.uint8)[..., None], 3, 2)
        colors = ImageOps.exif_transpose(image).convert("RGBA")
    return np.array(Image.alpha_composite(Image.new("RGBA", colors.size, "black"), colors).convert("RGB"))


def corrupt_files() -> dict[str, tuple[bytes, str, bool]]:
    """Return (content, reason, whether the header is corrupt) by name."""
    noise = {kind: encoded(NOISE, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")}
    progressive, alpha = encoded(NOISE, "JPEG", progressive=True), encoded(NOISE.convert("RGBA"), "PNG")
    jpeg, whole_png = noise["JPEG"], noise["PNG"]
    frame = jpeg.find(b"\xff\xc0")
    no_image, damaged = (
        "neither JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, HEIC nor JPEG 2000",
        "a truncated or damaged {} of {{}} bytes",
    )
    with_thumbnail = encoded(NOISE, "JPEG", exif=b"Exif\0\0" + encoded(RGB, "JPEG"))
    unusual = damaged.replace("truncated or damaged", "truncated, damaged or unusual")
    files = {
        "zero-bytes": (b"", "zero bytes", True),
        "text": (b"see the other folder", no_image, True),
        "text-that-begins-like-bmp": (b"BMW 320i, three pieces", no_image, True),
        "html": (b"<html>404 not found</html>" * 50, no_image, True),
        "sound": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(30), no_image, True),
        "nul-bytes": (bytes(5000), no_image, True),
        "jpeg-3-bytes": (jpeg[:3], damaged.format("JPEG"), True),
        "jpeg-cut-in-its-header": (jpeg[:100], damaged.format("JPEG"), True),
        "jpeg-without-height": (jpeg[: frame + 5] + bytes(2) + jpeg[frame + 7 :], damaged.format("JPEG"), True),
        "jpeg-without-end": (jpeg[:-2], damaged.format("JPEG"), False),
        "jpeg-filled-up-with-zeros": (cut(jpeg, 0.6) + bytes(len(jpeg)), damaged.format("JPEG"), False),
        "jpeg-cut-with-an-end": (cut(jpeg, 0.6) + b"\xff\xd9", damaged.format("JPEG"), False),
        "jpeg-thumbnail-alone-whole": (cut(with_thumbnail, 0.6) + bytes(40_000), damaged.format("JPEG"), False),
        "png-cut-in-its-header": (whole_png[:20], damaged.format("PNG"), True),
        "png-cut-in-its-first-rows": (whole_png[:60], damaged.format("PNG"), False),
        "png-without-end": (whole_png[:-12], damaged.format("PNG"), False),
        "png-one-byte-changed": (flipped(whole_png, len(whole_png) // 2), damaged.format("PNG"), False),
        "png-alpha-cut": (cut(alpha, 0.5), damaged.format("PNG"), False),
        "webp-cut": (cut(noise["WEBP"], 0.5), damaged.format("WebP"), True),
        "gif-cut": (cut(noise["GIF"], 0.5), damaged.format("GIF"), False),
        "bmp-cut": (cut(noise["BMP"], 0.5), damaged.format("BMP"), False),
        "tiff-cut": (cut(noise["TIFF"], 0.5), unusual.format("TIFF"), False),
        "tiff-without-its-header": (b"II*\0" + bytes(30), unusual.format("TIFF"), True),
        "avif-cut": (cut(noise["AVIF"], 0.5), unusual.format("AVIF"), True),
        "jp2-cut-in-its-header": (noise["JPEG2000"][:60], unusual.format("JPEG 2000"), True),
        "gif-without-size": (b"GIF89a" + bytes(20), damaged.format("GIF"), True),
    }
    for fraction in (0.1, 0.5, 0.99):
        files[f"jpeg-cut-at-{fraction}"] = (cut(jpeg, fraction), damaged.format("JPEG"), False)
        files[f"jpeg-progressive-cut-at-{fraction}"] = (cut(progressive, fraction), damaged.format("JPEG"), False)
        files[f"png-cut-at-{fraction}"] = (cut(whole_png, fraction), damaged.format("PNG"), False)
    return {name: (data, reason.format(len(data)), header) for name, (data, reason, header) in files.items()}


def folder_state(root: Path) -> dict[str, tuple]:
    """Return checksum, mode, length and time of change of every file and folder."""
    states = {}
    for path in [root, *sorted(root.rglob("*"))]:
        stat = path.lstat()
        checksum = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        states[str(path)] = (checksum, stat.st_mode, stat.st_size, stat.st_mtime_ns)
    return states
