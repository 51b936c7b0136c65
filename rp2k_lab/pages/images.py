"""Images for HTML pages that need no network: data URIs within a size budget."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.image import read_image, read_shrunk, stretch
from rp2k_lab.pages.template import render as render

IMAGE_BUDGET = 14_000_000  # characters; the rest of the page is below 3 MB, the limit is 20 MB
_THUMBNAIL, _SMALL = (132, 168), (84, 120)  # largest height and width, pixels
_QUALITIES = {".jpg": cv2.IMWRITE_JPEG_QUALITY, ".webp": cv2.IMWRITE_WEBP_QUALITY}


@dataclass(frozen=True)
class EmbeddedImage:
    """An image of the page, or the reason why there is none.

    Attributes:
        uri: data URI with the JPEG or PNG, or None.
        title: what it shows.
        width, height: pixels.
        reason: why `uri` is None.
    """

    uri: str | None
    title: str
    width: int = 0
    height: int = 0
    reason: str = ""


class ImageEmbedder:
    """Encodes images as data URIs until the budget is spent.

    Attributes:
        budget: characters that are left.
        left_out: number of images that did not fit.
    """

    def __init__(self, root: Path, budget: int = IMAGE_BUDGET):
        self._root, self.budget = root, budget
        self.left_out = 0

    def thumbnail(self, path: str) -> EmbeddedImage:
        """Return a thumbnail of an image file; `path` is relative to the root."""
        try:
            image = _within(read_image(self._root / path), _THUMBNAIL)
        except DataError:
            return EmbeddedImage(None, escape_controls(path), reason="not readable")
        return self.embed(image, escape_controls(path), ".jpg")

    def missing(self, reason: str) -> EmbeddedImage:
        """Return an image that is not shown, with the reason."""
        return EmbeddedImage(None, "", reason=reason)

    def embed(self, image: np.ndarray, title: str, suffix: str) -> EmbeddedImage:
        """Encode an image, uint8 RGB (height, width, 3), as .jpg or .png."""
        kind = "jpeg" if suffix == ".jpg" else "png"
        uri = f"data:image/{kind};base64,{in_base64(image, suffix)}"
        if len(uri) > self.budget:
            self.left_out += 1
            return EmbeddedImage(None, title, reason="left out: the page is full")
        self.budget -= len(uri)
        return EmbeddedImage(uri, title, image.shape[1], image.shape[0])

    def rounds(self, rounds: Iterable[Sequence[str]], num_threads: int) -> Iterator[dict[str, str]]:
        """Yield small WebP images in base64 by path, a round after the other, until the budget is spent.

        Unreadable images are left out.  The result does not depend on `num_threads`.
        """
        with ThreadPoolExecutor(num_threads) as pool:
            for paths in rounds:
                images = {}
                for path, text in zip(paths, pool.map(self._small, paths), strict=True):
                    if len(text) + len(path) > self.budget:
                        self.budget = 0  # no later image is taken for being smaller: the order is the priority
                        break
                    self.budget -= len(text) + len(path)
                    images |= {path: text} if text else {}
                yield images
                if not self.budget:
                    return

    def _small(self, path: str) -> str:
        try:
            return in_base64(_within(read_shrunk(self._root / path, min(_SMALL)), _SMALL), ".webp", 60)
        except DataError:
            return ""


def _within(image: np.ndarray, most: tuple[int, int]) -> np.ndarray:
    """Return the image reduced to at most this height and width [pixels]."""
    scale = min(1.0, most[0] / image.shape[0], most[1] / image.shape[1])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return stretch(image, (height, width))


def in_base64(image: np.ndarray, suffix: str, quality: int = 82) -> str:
    """Return an image, uint8 RGB (height, width, 3), in base64.

    Args:
        suffix: .jpg, .png or .webp, which has a tenth of JPEG's overhead.
        quality: of JPEG and WebP, 0 to 100.
    """
    options = [_QUALITIES[suffix], quality] if suffix in _QUALITIES else []
    encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()
    return base64.b64encode(encoded).decode()
