"""The inspection's page: one HTML file that holds its pictures, charts and styles, and asks nothing of a network.

Names of classes and files come from the data and may hold anything; the template escapes whatever it is given, and
control characters are shown as codes.
"""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.text import escape_controls, in_bytes, percent, shorten
from rp2k_lab.dataset.image import read_image, stretch

PICTURE_BUDGET = 14_000_000  # characters; the rest of the page is under 3 MB, and 20 are allowed
_THUMBNAIL = (132, 168)  # pixels, height and width at most


@dataclass(frozen=True)
class Shot:
    """A picture of the page, or the reason why there is none.

    Attributes:
        uri: the JPEG or PNG itself, or None.
        path: what it shows, in words.
        width, height: pixels.
    """

    uri: str | None
    path: str
    width: int = 0
    height: int = 0
    reason: str = ""


class Pictures:
    """Encodes pictures until the budget is spent.

    Attributes:
        left_out: pictures that did not fit.
    """

    def __init__(self, root: Path, budget: int = PICTURE_BUDGET):
        self._root, self._budget = root, budget
        self.left_out = 0

    def photo(self, path: str) -> Shot:
        """A thumbnail of a photo."""
        try:
            image = read_image(self._root / path)
        except DataError:
            return Shot(None, escape_controls(path), reason="not readable")
        scale = min(1.0, _THUMBNAIL[0] / image.shape[0], _THUMBNAIL[1] / image.shape[1])
        size = tuple(max(1, round(side * scale)) for side in image.shape[:2])
        return self.array(stretch(image, size), escape_controls(path), ".jpg")

    def array(self, image: np.ndarray, words: str, suffix: str) -> Shot:
        """An image, uint8 RGB (height, width, 3), as .jpg or .png."""
        kind = "jpeg" if suffix == ".jpg" else "png"
        uri = f"data:image/{kind};base64,{in_base64(image, suffix)}"
        if len(uri) > self._budget:
            self.left_out += 1
            return Shot(None, words, reason="left out: the page is full")
        self._budget -= len(uri)
        return Shot(uri, words, image.shape[1], image.shape[0])


def in_base64(image: np.ndarray, suffix: str, quality: int = 82) -> str:
    """An image, uint8 RGB (height, width, 3), as .jpg or .png in base64; `quality` is JPEG's."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()
    return base64.b64encode(encoded).decode()


def short(text: str) -> str:
    """Return at most 40 characters, so that a name fits under its image."""
    return shorten(text, 40)


def render(values: dict[str, Any], template: Path) -> str:
    """Return the page as HTML; a value that the template needs and `values` lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    thousands = lambda number: f"{number:,}"  # noqa: E731
    environment.filters |= {
        "escape_controls": escape_controls,
        "short": short,
        "in_bytes": in_bytes,
        "thousands": thousands,
    }
    environment.filters["percent"] = percent
    return environment.get_template(template.name).render(values)
