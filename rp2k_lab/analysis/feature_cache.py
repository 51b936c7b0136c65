"""Features that are computed once for a network, its photos and how they are shown to it, and then kept on disk."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.files import preallocate, sha256_of, write_atomically
from rp2k_lab.dataset.image import decoder_version
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.predictor import Preprocessing

log = logging.getLogger(__name__)


def features_name(checkpoint: Path, index: Index, split: str, way: Preprocessing) -> str:
    """The file's name: a hash of the weights, the photos (with their times of change) and what is shown of them."""
    key = repr((sha256_of(checkpoint), index.version, split, way, decoder_version()))
    return f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"


def cached_features(file: Path, shape: tuple[int, int], compute: Callable[[np.ndarray], None]) -> np.ndarray:
    """The file's features, float32 (photos, width), mapped into memory; computed first where they are not there.

    They are written elsewhere and renamed last: a file that is there is whole.

    Args:
        file: of `features_name`, in a folder that is made if it is not there.
        compute: fills the array that it is given.

    Raises:
        DataError: the disk has no room for them.
    """
    if (found := _read(file, shape)) is not None:
        log.info("features of %d photos, kept in %s", len(found), file)
        return found
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file) as part:
        target = np.lib.format.open_memmap(part, "w+", np.float32, shape)
        _reserve_space(part)
        compute(target)
        target.flush()
    log.info("features of %d photos, computed and kept in %s", shape[0], file)
    return np.load(file, mmap_mode="r")


def _read(file: Path, shape: tuple[int, int]) -> np.ndarray | None:
    try:
        found = np.load(file, mmap_mode="r")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s cannot be used (%s): the features are computed again", file, type(error).__name__)
        return None
    return found if (found.shape, found.dtype) == (shape, np.float32) else None


def _reserve_space(part: Path) -> None:
    with part.open("r+b") as file:
        size = part.stat().st_size
        try:
            preallocate(file, size)
        except OSError as error:
            raise DataError(
                f"{part.parent}: no room to keep features, {size / 1e9:.1f} GB ({error.strerror})\n"
                "make room there: what is in it is computed again where it is needed"
            ) from None
