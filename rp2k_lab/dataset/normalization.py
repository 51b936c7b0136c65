"""Measure the mean and standard deviation of a data set's colors, for `dataset.mean=null` and `dataset.std=null`."""

import json
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2
import numpy as np

from rp2k_lab.core.files import write_text
from rp2k_lab.core.progress import progress
from rp2k_lab.dataset import photo_index
from rp2k_lab.dataset.image import decoder_version, read_resized
from rp2k_lab.dataset.options import Source
from rp2k_lab.dataset.photo_index import Index

log = logging.getLogger(__name__)

_VERSION = 1  # raise it with every change of the measured values
_MOST_IMAGES = 1000
_SIZE = (64, 64)
_DIGITS = 4
# One gray level: a channel that varies less carries no information, and dividing by 0 gives NaN.
_LEAST_STD = round(1 / 255, _DIGITS)

Color = tuple[float, float, float]
AnySource = TypeVar("AnySource", bound=Source)


def with_normalization(dataset: AnySource, index: Index) -> AnySource:
    """Return the options of a data set with measured values in place of `mean=null` and `std=null`.

    Args:
        index: of `dataset`.

    Raises:
        DataError: an image cannot be read.
    """
    if dataset.mean is not None and dataset.std is not None:
        return dataset
    mean, std = measure_normalization(index)
    return dataset.model_copy(update={"mean": dataset.mean or mean, "std": dataset.std or std})


def measure_normalization(index: Index) -> tuple[Color, Color]:
    """Return (mean, std) of R, G and B over at most 1000 images of train, 0 to 1, with 4 decimals.

    The images are drawn with a fixed seed and scaled to fit 64 × 64 pixels, without padding; each counts the same.  The
    standard deviation is at least one gray level.  The result is kept under `data/normalization`.

    Raises:
        DataError: an image cannot be read.
    """
    name = f"{index.root.name[:40]}-{index.fingerprint}-{decoder_version().replace(' ', '-')}-{_VERSION}.json"
    file = photo_index.DATA_FOLDER / "normalization" / name
    try:
        kept = json.loads(file.read_text("utf-8"))
        return _rounded(kept["mean"]), _rounded(kept["std"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    mean, std, count = _measure(index)
    log.info("mean %s and standard deviation %s of R, G and B, measured on %d photos of train",
             list(mean), list(std), count)  # fmt: skip
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({"mean": mean, "std": std}) + "\n")
    except OSError as error:
        log.warning("%s: cannot be written (%s); it is measured again next time", file, error.strerror or error)
    return mean, std


def _measure(index: Index) -> tuple[Color, Color, int]:
    """Return (mean, std, number of images)."""
    train = index.split("train")["path"].tolist()
    chosen = np.sort(np.random.default_rng(0).permutation(len(train))[:_MOST_IMAGES]).tolist()
    paths = [os.path.join(index.root, train[i]) for i in chosen]
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        moments = progress(pool.map(_moments, paths), len(paths), "measuring mean and std of photos")
        first, second = np.mean(list(moments), axis=0)
    std = np.maximum(np.sqrt(np.maximum(0, second - first**2)), _LEAST_STD)
    return _rounded(first), _rounded(std), len(paths)


def _moments(path: str) -> np.ndarray:
    """Return the means of R, G and B and of their squares, float64 (2, 3), 0 to 1."""
    pixels = read_resized(path, _SIZE, "letterbox").reshape(-1, 3) / 255
    return np.stack([pixels.mean(axis=0), (pixels**2).mean(axis=0)])


def _rounded(values: Iterable[float]) -> Color:
    red, green, blue = (round(float(value), _DIGITS) for value in values)
    return red, green, blue
