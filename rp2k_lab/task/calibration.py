"""The photos that int8 is calibrated and measured with."""

import os
from pathlib import Path

import numpy as np

from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.progress import progress
from rp2k_lab.dataset.image import pad_to_center, read_resized
from rp2k_lab.dataset.loader import evaluation_batches
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.task.evaluate import check_splits
from rp2k_lab.task.predict import find_images
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.train.build import build_images, preprocessing

# More take minutes and change nothing.
_MOST = 2048
_BATCH = 64


def calibration_photos(config: Config, earlier: EarlierRun) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Return at most 2048 prepared photos, uint8 (height, width, 3), in a random order, and their labels or None.

    They are those of `task.calibration`, labeled if each lies in a folder named as a class, or val of the run's data
    set.

    Raises:
        RequestError: fewer than two, or no val split.
        DataError: a photo of val cannot be read.
    """
    read = _of_folder if config.task.calibration else _of_val
    images, names = read(config)
    if len(images) < 2:
        raise RequestError(
            f"task.calibration={config.task.calibration}: needs two photos or more, half to calibrate with\n"
            "use a folder of some hundred"
        )
    label_of = {name: label for label, name in enumerate(earlier.classes)}
    labels = np.array([label_of[name] for name in names]) if set(names) <= label_of.keys() else None
    return images, labels


def _of_val(config: Config) -> tuple[list[np.ndarray], list[str]]:
    index = build_index(config.dataset)
    check_splits(config, index, ["val"])
    rows = index.split("val")
    rows = rows.iloc[_random_order(len(rows))]
    batches = evaluation_batches(build_images(config, index), rows, config.size, _BATCH, config.device.num_threads)
    shown = progress(batches, len(rows), "reading photos of val", len)
    return [image for batch in shown for image in batch], [index.classes[label] for label in rows["label"]]


def _of_folder(config: Config) -> tuple[list[np.ndarray], list[str]]:
    found, size = find_images(Path(config.task.calibration)), preprocessing(config).resized
    images, names = [], []
    order = _random_order(len(found.names))
    for position in progress(order, len(order), "reading photos to calibrate with"):
        path = found.root / found.names[position]
        try:
            image = read_resized(path, size, config.resize)
        except DataError:
            continue  # half of a random choice is as good without it
        images.append(pad_to_center(image, size, config.size))
        names.append(os.path.basename(path.parent))
    return images, names


def _random_order(count: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(count)[:_MOST]
