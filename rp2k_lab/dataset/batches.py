"""From index rows to uint8 batches, with OpenCV in threads (it releases Python's lock).

The order of a run's images and each image's augmentation are pure functions of (seed, epoch, position): no generator
is carried from one image to the next, so any number of threads, and a start at any step, gives the same batches.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from rp2k_lab.aug import build_augmentation
from rp2k_lab.dataset.image import RESIZE, centre_crop, read_image, resized_size

# Keys of the random streams, so that the order and the augmentation of one epoch are independent.
_ORDER, _AUGMENTATION = 0, 1

View = Callable[[Path, np.random.Generator | None], np.ndarray]


class EvaluationView:
    """A photo as evaluation sees it: resize, centre crop; uint8 (height, width, 3)."""

    def __init__(self, size: tuple[int, int], resize: str, crop_ratio: float):
        self.size, self.resized = size, resized_size(size, crop_ratio)
        self.resize = RESIZE[resize]

    def __call__(self, path, rng=None):
        return centre_crop(self.resize(read_image(path), self.resized), self.size)


class TrainingView:
    """A photo as training sees it: the same resize, then the random crop and the rest of the augmentation."""

    def __init__(self, size: tuple[int, int], resize: str, crop_ratio: float, aug, mean):
        self.evaluation = EvaluationView(size, resize, crop_ratio)
        augmentation = build_augmentation(aug, size, mean)
        self.crop, self.operations = augmentation.crop, augmentation.operations

    def __call__(self, path, rng):
        image = self.evaluation.resize(read_image(path), self.evaluation.resized)
        image = self.crop(image, rng) if self.crop else np.ascontiguousarray(centre_crop(image, self.evaluation.size))
        for operation in self.operations:
            image = operation(image, rng)
        return image


class TrainingBatches:
    """Endless epochs of (images uint8 (batch, height, width, 3), labels int32 (batch,)).

    Every `iter()` gives the next epoch, the first from `start_step` of the whole run on.  The photos that do not fill
    the last batch (with `sink_steps`, the last sink) are left out of that epoch; the next one is shuffled anew.

    Attributes:
        steps_per_epoch: batches of an epoch.
        sink_size: batches that go to the device at once, at most `sink_steps`; 0 without sinking.

    A failure in a thread is raised to whoever iterates and kept in `failure`, since MindSpore's data pipeline turns
    it into a text of its own.
    """

    def __init__(
        self,
        root: Path,
        rows: pd.DataFrame,
        view: View,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        workers: int | None = None,
        sink_steps: int = 0,
    ):
        self.root, self.view, self.batch_size, self.seed = root, view, batch_size, seed
        self.paths, self.labels = list(rows["path"]), rows["label"].to_numpy(np.int32)
        self.steps_per_epoch, self.sink_size = _whole_sinks(len(self.paths) // batch_size, sink_steps)
        self.workers = workers or os.cpu_count() or 1
        self._epoch, self._batch = divmod(start_step, self.steps_per_epoch)
        self.failure: BaseException | None = None

    def __iter__(self):
        epoch, first, self._epoch, self._batch = self._epoch, self._batch, self._epoch + 1, 0
        order = self.order(epoch)
        try:
            yield from _ordered(
                lambda batch: self.batch(epoch, order, batch), range(first, self.steps_per_epoch), self.workers
            )
        except Exception as error:
            self.failure = error
            raise

    def order(self, epoch: int) -> np.ndarray:
        """The row of each position of an epoch, int64 (rows,)."""
        return np.random.default_rng([self.seed, epoch, _ORDER]).permutation(len(self.paths))

    def batch(self, epoch: int, order: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """One batch of an epoch."""
        positions = range(batch * self.batch_size, (batch + 1) * self.batch_size)
        images = [self._image(epoch, position, order[position]) for position in positions]
        return np.stack(images), self.labels[order[positions.start : positions.stop]]

    def _image(self, epoch, position, row):
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch, _AUGMENTATION, position])))
        return self.view(self.root / self.paths[row], rng)


def _whole_sinks(steps: int, sink_steps: int) -> tuple[int, int]:
    """(steps, sink size): equal sinks of at most `sink_steps` that fill the epoch; fewer steps than sinks are lost.

    An evaluation can only come between two sinks, hence at the end of one.
    """
    if sink_steps == 0:
        return steps, 0
    sinks = -(-steps // sink_steps)
    return steps // sinks * sinks, steps // sinks


def evaluation_batches(
    root: Path, rows: pd.DataFrame, view: View, batch_size: int, workers: int | None = None
) -> Iterator[np.ndarray]:
    """Every photo once, in the order of `rows`: uint8 (n, height, width, 3), n = batch_size but for the last batch."""
    paths = list(rows["path"])

    def batch(start):
        return np.stack([view(root / path) for path in paths[start : start + batch_size]])

    return _ordered(batch, range(0, len(paths), batch_size), workers or os.cpu_count() or 1)


def _ordered(make: Callable, items: Iterable, workers: int) -> Iterator:
    """make(item) for each item, in order, at most two ahead of the consumer for each of `workers` threads."""
    cv2.setNumThreads(1)  # a thread here makes a whole batch; OpenCV's own threads would only add switching
    items = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="photos")
    try:
        pending = deque()
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
