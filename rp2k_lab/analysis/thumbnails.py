"""Images of the errors' page: thumbnails, an example of each class, contours of heat maps, and larger photos."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from rp2k_lab.analysis.gradcam import draw_contours, overlay
from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset.image import center_crop, fit, pad_to_center, read_resized, read_shrunk
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.predictor import Preprocessing

SIDE = 104  # pixels, the longer side
LARGE = 320  # the same of an enlarged photo
_EXPLAINED = 160  # the same of a photo with contours: their lines need room
_MIN_CELLS = 2  # of a map across the shorter side of a letterboxed photo


class Thumbnails:
    """Images of an index, uint8 RGB (height, width, 3), read on demand; sides of at most `SIDE` pixels if not stated.

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
            return _small(read_shrunk(self._index.root / self._paths[row], SIDE), SIDE)
        except DataError:
            return None

    def large(self, row: int) -> np.ndarray | None:
        """Return the photo of a row, sides of at most `LARGE` pixels; None if its thumbnail is as large."""
        try:
            photo = _small(read_shrunk(self._index.root / self._paths[row], LARGE), LARGE)
        except DataError:
            return None
        return photo if max(photo.shape[:2]) > SIDE else None

    def class_of(self, row: int) -> str:
        """Return the class of a row of the index."""
        return self._classes[row]

    def example(self, class_name: str) -> np.ndarray | None:
        """Return a fixed training image of a class; None if there is none or it cannot be read."""
        row = self._examples.get(class_name)
        return None if row is None else self.image(row)

    def large_example(self, class_name: str) -> np.ndarray | None:
        """Return the example of a class as `large` does."""
        row = self._examples.get(class_name)
        return None if row is None else self.large(row)

    def explanation(self, row: int) -> np.ndarray | None:
        """Return what the network saw with the contours of its heat map, without padding, sides of at most 160 pixels.

        None without a map, without a readable file, or if less than two cells of the map lie across the photo.
        """
        if self._preprocessing is None or row not in self._heats:
            return None
        try:
            seen, heat = _seen(self._index.root / self._paths[row], self._preprocessing, self._heats[row])
        except DataError:
            return None
        return None if heat is None else draw_contours(fit(seen, (_EXPLAINED, _EXPLAINED)), heat)


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


def _seen(path: Path, preprocessing: Preprocessing, heat: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (the network's input without padding; the part of the map on it, or None if it has too few cells)."""
    size = preprocessing.size
    resized = read_resized(path, preprocessing.resized, preprocessing.resize)
    inner = min(resized.shape[0], size[0]), min(resized.shape[1], size[1])
    if min(cells * side / whole for cells, side, whole in zip(heat.shape, inner, size, strict=True)) < _MIN_CELLS:
        return resized, None
    dense = cv2.resize(heat.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return center_crop(resized, inner), center_crop(dense, inner)


def _small(image: np.ndarray, side: int) -> np.ndarray:
    return image if max(image.shape[:2]) <= side else fit(image, (side, side))


def _typical(train: pd.DataFrame) -> dict[str, int]:
    """Return the row with the median height / width of each class (the lower of two)."""
    ratio = (train["height"] / train["width"]).rename("ratio")
    ordered = train.assign(ratio=ratio).sort_values(["class", "ratio", "row"], kind="stable")
    position, count = ordered.groupby("class").cumcount(), ordered.groupby("class")["row"].transform("size")
    middle = ordered[position == (count - 1) // 2]
    return dict(zip(middle["class"], middle["row"].tolist(), strict=True))
