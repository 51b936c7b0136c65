"""Small pictures for the errors' page: photos, an example of each class, and what a network looked at."""

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
    """Pictures of an index, uint8 RGB (height, width, 3) with sides of at most `SIDE`, read when they are asked for.

    Args:
        heats: a row of the index to its map (h, w) from `gradcam.explain`.
        method: by which they were made.
        preprocessing: what the network that the maps are of was shown; of no use without maps.

    Attributes:
        method: the same.
    """

    def __init__(self, index: Index, heats: Mapping[int, np.ndarray], method: str, preprocessing: Preprocessing | None):
        self._index, self._heats, self.method, self._preprocessing = index, heats, method, preprocessing
        self._paths, self._classes = index.table["path"].to_numpy(object), index.table["class"].to_numpy(object)
        self._examples = _typical(index.split("train"))

    def photo(self, row: int) -> np.ndarray | None:
        """The photo of a row of the index; None where it cannot be read."""
        try:
            return _small(read_shrunk(self._index.root / self._paths[row], SIDE))
        except DataError:
            return None

    def class_of(self, row: int) -> str:
        """The class of a row of the index."""
        return self._classes[row]

    def example(self, class_name: str) -> np.ndarray | None:
        """A training photo of a class, the same every time; None where there is none or it cannot be read."""
        row = self._examples.get(class_name)
        return None if row is None else self.photo(row)

    def explanation(self, row: int) -> np.ndarray | None:
        """The photo as the network was shown it, without padding, under its map; None without a map."""
        if row not in self._heats:
            return None
        way = self._preprocessing
        try:
            resized = read_resized(self._index.root / self._paths[row], way.resized, way.resize)
        except DataError:
            return None
        shown = overlay(pad_to_center(resized, way.resized, way.size), self._heats[row])
        inner = tuple(min(side, most) for side, most in zip(resized.shape[:2], way.size, strict=True))
        return fit(center_crop(shown, inner), (SIDE, SIDE))


def _small(image: np.ndarray) -> np.ndarray:
    return image if max(image.shape[:2]) <= SIDE else fit(image, (SIDE, SIDE))


def _typical(train: pd.DataFrame) -> dict[str, int]:
    """Each class's row whose height / width is the median of its class (of two the lower one)."""
    ratio = (train["height"] / train["width"]).rename("ratio")
    ordered = train.assign(ratio=ratio).sort_values(["class", "ratio", "row"], kind="stable")
    place, count = ordered.groupby("class").cumcount(), ordered.groupby("class")["row"].transform("size")
    middle = ordered[place == (count - 1) // 2]
    return dict(zip(middle["class"], middle["row"].tolist(), strict=True))
