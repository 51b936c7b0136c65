"""Features on disk, computed once for a network, a split and a preprocessing."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.files import preallocate, sha256_of, write_atomically
from rp2k_lab.dataset.image import decoder_version
from rp2k_lab.dataset.photo_index import DATA_FOLDER, Index
from rp2k_lab.evaluation.predictor import Preprocessing

log = logging.getLogger(__name__)

FEATURES = DATA_FOLDER / "features"


def features_name(checkpoint: Path, index: Index, split: str, preprocessing: Preprocessing) -> str:
    """Return the file name: a hash of the weights, the images (with modification times) and the preprocessing."""
    return cache_name(sha256_of(checkpoint), index, split, preprocessing)


def cache_name(weights: str, index: Index, split: str, preprocessing: Preprocessing, *more: object) -> str:
    """Return the file name: a hash of all that the features depend on.

    Args:
        weights: hash of the network's weights.
        more: what else they depend on; its `repr` counts.
    """
    key = repr((weights, index.version, split, preprocessing, decoder_version(), *more))
    return f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"


def cached_features(file: Path, shape: tuple[int, ...], compute: Callable[[np.ndarray], None]) -> np.ndarray:
    """Return the file's features, memory-mapped float32 (images, …); compute and write them if they are missing.

    The file is written atomically.

    Args:
        file: named by `features_name`; its folder is created.
        compute: fills an array in place.

    Raises:
        DataError: the disk is full.
    """
    if (features := _read(file, shape)) is not None:
        log.info("features of %d photos read from %s", len(features), file)
        return features
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file, sync=True) as part:  # a power cut may leave zeros, which look like features
        target = np.lib.format.open_memmap(part, "w+", np.float32, shape)
        _reserve_space(part)
        compute(target)
        target.flush()
    log.info("features of %d photos written to %s", shape[0], file)
    return np.load(file, mmap_mode="r")


def _read(file: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        features = np.load(file, mmap_mode="r")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s is damaged (%s): its features are computed again", file, type(error).__name__)
        return None
    return features if (features.shape, features.dtype) == (shape, np.float32) else None


def _reserve_space(part: Path) -> None:
    with part.open("r+b") as file:
        size = part.stat().st_size
        try:
            preallocate(file, size)
        except OSError as error:
            raise DataError(
                f"{part.parent}: no space for features of {size / 1e9:.1f} GB ({error.strerror})\n"
                "delete files there: features are computed again when needed"
            ) from None
