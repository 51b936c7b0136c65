"""Thumbnails of the errors' page: images, an example of each class, and heat maps."""

from collections.abc import Mapping

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
            resized = read_resized(self._index.root / self._paths[row], preprocessing.resized, preprocessing.resize)
        except DataError:
            return None
        network_input = pad_to_center(resized, preprocessing.resized, preprocessing.size)
        inner = tuple(min(side, limit) for side, limit in zip(resized.shape[:2], preprocessing.size, strict=True))
        return fit(center_crop(overlay(network_input, self._heats[row]), inner), (SIDE, SIDE))


def _small(image: np.ndarray) -> np.ndarray:
    return image if max(image.shape[:2]) <= SIDE else fit(image, (SIDE, SIDE))


def _typical(train: pd.DataFrame) -> dict[str, int]:
    """Return the row with the median height / width of each class (the lower of two)."""
    ratio = (train["height"] / train["width"]).rename("ratio")
    ordered = train.assign(ratio=ratio).sort_values(["class", "ratio", "row"], kind="stable")
    position, count = ordered.groupby("class").cumcount(), ordered.groupby("class")["row"].transform("size")
    middle = ordered[position == (count - 1) // 2]
    return dict(zip(middle["class"], middle["row"].tolist(), strict=True))
