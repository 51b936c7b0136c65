"""Images for HTML pages that need no network: data URIs within a size budget."""

import base64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.image import read_image, stretch
from rp2k_lab.pages.template import render as render

IMAGE_BUDGET = 14_000_000  # characters; the rest of the page is below 3 MB, the limit is 20 MB
_THUMBNAIL = (132, 168)  # largest height and width, pixels


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
        left_out: number of images that did not fit.
    """

    def __init__(self, root: Path, budget: int = IMAGE_BUDGET):
        self._root, self._budget = root, budget
        self.left_out = 0

    def thumbnail(self, path: str) -> EmbeddedImage:
        """Return a thumbnail of an image file; `path` is relative to the root."""
        try:
            image = read_image(self._root / path)
        except DataError:
            return EmbeddedImage(None, escape_controls(path), reason="not readable")
        scale = min(1.0, _THUMBNAIL[0] / image.shape[0], _THUMBNAIL[1] / image.shape[1])
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        return self.embed(stretch(image, (height, width)), escape_controls(path), ".jpg")

    def missing(self, reason: str) -> EmbeddedImage:
        """Return an image that is not shown, with the reason."""
        return EmbeddedImage(None, "", reason=reason)

    def embed(self, image: np.ndarray, title: str, suffix: str) -> EmbeddedImage:
        """Encode an image, uint8 RGB (height, width, 3), as .jpg or .png."""
        kind = "jpeg" if suffix == ".jpg" else "png"
        uri = f"data:image/{kind};base64,{in_base64(image, suffix)}"
        if len(uri) > self._budget:
            self.left_out += 1
            return EmbeddedImage(None, title, reason="left out: the page is full")
        self._budget -= len(uri)
        return EmbeddedImage(uri, title, image.shape[1], image.shape[0])


def in_base64(image: np.ndarray, suffix: str, quality: int = 82) -> str:
    """Return an image, uint8 RGB (height, width, 3), as .jpg or .png in base64; `quality` (JPEG) is 0 to 100."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()
    return base64.b64encode(encoded).decode()
