"""Thumbnails of the errors' page: images, an example of each class, and heat maps."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.analysis.gradcam import overlay
from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset.image import center_crop, fit, pad_to_center, read_resized, read_shrunk
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.predictor import Preprocessing

SIDE = 104  # pixels, the longer side


class Thumbnails:
    """Thumbnails of an index, uint8 RGB (height, width, 3) with sides of at most `SIDE` pixels, read on demand.

    Args:
        heats: row of the index to heat map (h, w) from `gradcam.explain`.
        method: of the heat maps.
        preprocessing: of the explained network; unused without heat maps.

    Attributes:
        method: of the heat maps.
    """

    def __init__(self, index: Index, heats: Mapping[int, np.ndarray], method: str, preprocessing: Preprocessing | None):
        self._index, self._heats, self.method, self._preprocessing = index, heats, method, preprocessing
        self._paths, self._classes = index.table["path"].to_numpy(object), index.table["class"].to_numpy(object)
        self._examples = _typical(index.split("train"))

    def image(self, row: int) -> np.ndarray | None:
        """Return the thumbnail of a row of the index; None if its file cannot be read."""
        try:
            return _small(read_shrunk(self._index.root / self._paths[row], SIDE))
        except DataError:
            return None

    def class_of(self, row: int) -> str:
        """Return the class of a row of the index."""
        return self._classes[row]

    def example(self, class_name: str) -> np.ndarray | None:
        """Return a fixed training image of a class; None if there is none or it cannot be read."""
        row = self._examples.get(class_name)
        return None if row is None else self.image(row)

    def explanation(self, row: int) -> np.ndarray | None:
        """Return the network's input under its heat map, without padding; None without a map or a readable file."""
        preprocessing = self._preprocessing
        if preprocessing is None or row not in self._heats:
            return None
        try:
            seen = under_heat(self._index.root / self._paths[row], preprocessing, self._heats[row])
        except DataError:
            return None
        return fit(seen, (SIDE, SIDE))


def under_heat(path: Path | str, preprocessing: Preprocessing, heat: np.ndarray, scale: int = 1) -> np.ndarray:
    """Return the network's input under its heat map, without padding, uint8 RGB (height, width, 3).

    Args:
        heat: (h, w) from `gradcam.explain`.
        scale: factor of the input's sides; the network saw the image at scale 1.

    Raises:
        DataError: the image cannot be read.
    """
    canvas, size = ((height * scale, width * scale) for height, width in (preprocessing.resized, preprocessing.size))
    resized = read_resized(path, canvas, preprocessing.resize)
    inner = min(resized.shape[0], size[0]), min(resized.shape[1], size[1])
    return center_crop(overlay(pad_to_center(resized, canvas, size), heat), inner)


def _small(image: np.ndarray) -> np.ndarray:
    return image if max(image.shape[:2]) <= SIDE else fit(image, (SIDE, SIDE))


def _typical(train: pd.DataFrame) -> dict[str, int]:
    """Return the row with the median height / width of each class (the lower of two)."""
    ratio = (train["height"] / train["width"]).rename("ratio")
    ordered = train.assign(ratio=ratio).sort_values(["class", "ratio", "row"], kind="stable")
    position, count = ordered.groupby("class").cumcount(), ordered.groupby("class")["row"].transform("size")
    middle = ordered[position == (count - 1) // 2]
    return dict(zip(middle["class"], middle["row"].tolist(), strict=True))
