"""Features of images from a network's frozen part, computed once for a training."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.files import preallocate
from rp2k_lab.core.text import in_bytes
from rp2k_lab.dataset.loader import EpochBatches
from rp2k_lab.model import Front

# RP2K's train split takes 0.7 · 10⁹ bytes with 512 features an image, 5.6 · 10⁹ with 4096.
MAX_BYTES_IN_MEMORY = 2 * 10**9


@contextmanager
def feature_array(count: int, width: int, folder: Path) -> Iterator[np.ndarray]:
    """Yield float32 (count, width) in memory, or if large, in a temporary file in `folder`.

    Raises:
        DataError: not enough disk space for the file.
    """
    size = count * width * np.dtype(np.float32).itemsize
    if size <= MAX_BYTES_IN_MEMORY:
        yield np.empty((count, width), np.float32)
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            preallocate(file, size)
        except OSError as error:
            raise DataError(
                f"{folder}: no disk space for the features of {count} photos, {in_bytes(size)} ({error.strerror})\n"
                "free space, or use another disk: hydra.run.dir=<folder>"
            ) from None
        yield np.memmap(file, np.float32, "r+", shape=(count, width))


def compute_features(
    front: Front,
    batches: Iterable[Sequence[np.ndarray]],
    batch_size: int,
    target: np.ndarray,
    check: Callable[[], None],
    order: np.ndarray | None = None,
) -> None:
    """Fill `target`, float32 (images, …); leaves the network in evaluation mode.

    Args:
        batches: one view each: uint8 (n, height, width, 3), n = batch_size except for the last.
        check: called between batches; raises to stop (signals).
        order: row of `target` for each image; None: the order of `batches`.
    """
    order, first = np.arange(len(target)) if order is None else order, 0
    front.set_train(False)
    for (images,) in batches:
        check()
        count = len(images)
        if count < batch_size:  # padded, so that one compiled graph serves all batches
            images = np.concatenate([images, np.zeros((batch_size - count, *images.shape[1:]), np.uint8)])
        target[order[first : first + count]] = front(Tensor(images)).asnumpy()[:count]
        first += count


class FeatureBatches(EpochBatches):
    """Endless epochs of (features float32 (batch, …), labels int32 (batch,)), in the same order as images.

    Args:
        views: features of each view of the images, float32 (rows, …), in the order of `labels`; epoch e has view e mod
            their number.  May be filled, or replaced, until the first epoch starts.
        paths: paths of the images, in the same order.
        options: see `EpochBatches`.
    """

    def __init__(
        self, views: Sequence[np.ndarray], paths: Sequence[str], labels: np.ndarray, *options: Any, **more: Any
    ):
        super().__init__(labels, *options, **more)
        self.views, self.paths = views, paths

    def columns(self) -> tuple[tuple[type[np.generic], tuple[int, ...]], ...]:
        """Return (dtype, shape) of a batch's features and labels."""
        return (np.float32, (self.batch_size, *self.views[0].shape[1:])), (np.int32, (self.batch_size,))

    def path(self, row: int) -> str:
        """Return the path of the image of a row of `order`."""
        return self.paths[row]

    def batch(self, epoch: int, order: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one batch of an epoch."""
        rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        return np.asarray(self.views[epoch % len(self.views)][rows]), self.labels[rows]
