"""Load index rows as uint8 batches in threads; the native library and OpenCV release the GIL.

The order of a run's images and each image's augmentation are pure functions of (seed, epoch, position).  No generator
state passes from one image to the next, so any number of threads, and a start at any step, gives the same batches.
"""

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pandas as pd

from rp2k_lab.aug.augmentation import Augmentation, soft_targets
from rp2k_lab.aug.geometry import Box
from rp2k_lab.dataset.image import pad_to_center, read_resized, read_views
from rp2k_lab.dataset.image_cache import ImageCache
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.native import photos

# Keys of the random streams: an epoch's order, augmentation and mixing are independent.
_ORDER, _AUGMENTATION, _MIX = 0, 1, 2


class ResizedImages:
    """The images of an index, resized as training and evaluation start from them.

    They lack letterbox's padding: the caller centers them on a black canvas of `size`.

    Args:
        index: the data set.
        size: (height, width) before any crop.
        resize: letterbox or stretch.
        cache: holds decoded images; None: decode an image at each access.
    """

    def __init__(self, index: Index, size: tuple[int, int], resize: str, cache: ImageCache | None = None):
        root = f"{index.root}/"
        self.paths = [path if path.startswith("/") else root + path for path in index.table["path"]]
        self.size, self.resize, self.cache = size, resize, cache

    def __call__(self, row: int) -> np.ndarray:
        """Return the image of a row of the index's table, a new uint8 array (h, w, 3) no larger than `size`.

        Raises:
            DataError: it cannot be read.
        """
        image = self.cached(row)
        if image is None:
            image = read_resized(self.paths[row], self.size, self.resize)
            self.store(row, image)
        return image

    def read_crops(self, rows: Sequence[int], boxes: Sequence[Box], targets: np.ndarray) -> list[bool]:
        """Scale a box of each row's image, centered on its canvas, into uint8 targets (n, height, width, 3).

        Returns:
            Whether each was done; see `photos.read_crops`.
        """
        slots = (*self.cache.files, rows) if self.cache else None
        return photos.read_crops([self.paths[row] for row in rows], boxes, self.size, self.resize, targets, slots)

    def cached(self, row: int) -> np.ndarray | None:
        """Return a row's image from the cache, or None."""
        return self.cache.get(row) if self.cache else None

    def store(self, row: int, image: np.ndarray) -> None:
        """Put a row's image into the cache, if there is one."""
        if self.cache:
            self.cache.put(row, image)


class ImageViews:
    """The same images under several resizes; each file is read once for all of them.

    Args:
        sources: of one index, one for each resize.
    """

    def __init__(self, sources: Sequence[ResizedImages]):
        self.sources = sources

    def __call__(self, row: int) -> list[np.ndarray]:
        """Return the image of a row from each of `sources`.

        Raises:
            DataError: it cannot be read.
        """
        if len(self.sources) == 1:
            return [self.sources[0](row)]
        views = [source.cached(row) for source in self.sources]
        missing = [i for i, view in enumerate(views) if view is None]
        resizes = [(self.sources[i].size, self.sources[i].resize) for i in missing]
        images = read_views(self.sources[0].paths[row], resizes) if missing else []
        read = dict(zip(missing, images, strict=True))
        for i, image in read.items():
            self.sources[i].store(row, image)
        return [read[i] if view is None else view for i, view in enumerate(views)]


class EpochBatches(ABC):
    """Endless epochs of shuffled batches; a subclass implements `batch`, `columns` and `path`.

    Every `iter()` yields an epoch, the first from `start_step` of the whole run on; the next one follows when it was
    read to its end.  The rows that do not fill the last batch (with `sink_steps`, the last sink) are left out of that
    epoch; each epoch is shuffled again.

    Args:
        labels: int32 (rows,).
        batch_size: images per rank.
        sampler: uniform, each row once an epoch; class_balanced, each class equally often.
        num_threads: None: one per CPU.
        rank, world_size: the ranks' batches of a step, concatenated, equal those of one process with the batch size of
            all ranks; mixup and CutMix mix within a rank's batch.

    Attributes:
        images_per_step: over all ranks.
        steps_per_epoch: batches of an epoch.
        sink_size: batches that go to the device at once, at most `sink_steps`; 0 without sinking.
        failure: the exception of a thread, which the iterator raises; MindSpore's data pipeline would replace it.
    """

    def __init__(
        self,
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        num_classes: int,
        sampler: str = "uniform",
        start_step: int = 0,
        num_threads: int | None = None,
        sink_steps: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.labels, self.batch_size, self.seed = labels, batch_size, seed
        self.num_classes, self.sampler = num_classes, sampler
        self.images_per_step, self._offset = batch_size * world_size, batch_size * rank
        self.steps_per_epoch, self.sink_size = _whole_sinks(len(labels) // self.images_per_step, sink_steps)
        self.num_threads = num_threads or os.cpu_count() or 1
        self._epoch, self._batch = divmod(start_step, self.steps_per_epoch)
        self.failure: BaseException | None = None

    def __iter__(self):
        epoch, first = self._epoch, self._batch
        order = self.order(epoch)
        try:
            yield from _ordered(
                lambda batch: self.batch(epoch, order, batch), range(first, self.steps_per_epoch), self.num_threads
            )
        except Exception as error:
            self.failure = error
            raise
        # MindSpore may begin an epoch for other purposes than training and drop it.
        self._epoch, self._batch = epoch + 1, 0

    @abstractmethod
    def columns(self) -> tuple[tuple[type[np.generic], tuple[int, ...]], ...]:
        """Return (dtype, shape) of a batch's inputs and labels."""

    @abstractmethod
    def path(self, row: int) -> str:
        """Return the file of one of `order`'s rows."""

    @abstractmethod
    def batch(self, epoch: int, order: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a batch of an epoch: (inputs, labels)."""

    def order(self, epoch: int) -> np.ndarray:
        """Return the row at each position of an epoch, int64 (rows,)."""
        rng = np.random.default_rng([self.seed, epoch, _ORDER])
        return (
            balanced_order(self.labels, rng) if self.sampler == "class_balanced" else rng.permutation(len(self.labels))
        )


class TrainingBatches(EpochBatches):
    """Endless epochs of (images uint8 (batch, height, width, 3), labels).

    The labels are int32 (batch,), or with mixup and CutMix the mixed one-hot float32 (batch, num_classes).

    Args:
        source: images resized to `size` or larger.
        rows: of the index's split: columns row and label.
        augmentation: from `Aug.build`; without a random crop, the center is taken, as in evaluation.
        size: (height, width) of the images.
        options: see `EpochBatches`.
    """

    def __init__(
        self,
        source: ResizedImages,
        rows: pd.DataFrame,
        augmentation: Augmentation,
        size: tuple[int, int],
        batch_size: int,
        seed: int,
        num_classes: int,
        **options: Any,
    ):
        super().__init__(rows["label"].to_numpy(np.int32), batch_size, seed, num_classes, **options)
        self.source, self.augmentation, self.size, self.rows = source, augmentation, size, rows["row"].tolist()
        self._idle_streams: list[list[_Stream]] = []  # as many as threads

    def columns(self) -> tuple[tuple[type[np.generic], tuple[int, ...]], ...]:
        """Return (dtype, shape) of a batch's images and labels."""
        images = np.uint8, (self.batch_size, *self.size, 3)
        if self.augmentation.mix is None:
            return images, (np.int32, (self.batch_size,))
        return images, (np.float32, (self.batch_size, self.num_classes))

    def path(self, row: int) -> str:
        """Return the file of one of `order`'s rows."""
        return self.source.paths[self.rows[row]]

    def batch(self, epoch: int, order: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a batch of an epoch; behind the last whole one, the rest of the order."""
        start = batch * self.images_per_step + self._offset
        chosen = order[start : start + self.batch_size]
        positions = range(start, start + len(chosen))
        rows, labels = [self.rows[row] for row in chosen.tolist()], self.labels[chosen]
        images = np.empty((len(chosen), *self.size, 3), np.uint8)
        streams = self._take_streams()
        rngs = (stream.at(epoch, position) for stream, position in zip(streams, positions, strict=False))
        is_cropped = self._crop_at_once(rows, rngs, images)
        for i, (stream, position) in enumerate(zip(streams, positions, strict=False)):
            rng = stream.generator if is_cropped[i] else stream.at(epoch, position)
            if not is_cropped[i]:
                self._crop(rows[i], rng, images[i])
            self._operate(images[i], rng)
        self._idle_streams.append(streams)
        if self.augmentation.mix is None:
            return images, labels
        rngs = [_Stream(self.seed, _MIX).at(epoch, position) for position in positions]
        images, weights = self.augmentation.mix(images, rngs)
        return images, soft_targets(labels, weights, self.num_classes)

    def all_images(self, epoch: int) -> Iterator[np.ndarray]:
        """Yield batches of all images of an epoch in its order, also those that the training leaves out."""
        order = self.order(epoch)
        numbers = range(-(-len(order) // self.batch_size))
        return (images for images, _ in _ordered(lambda n: self.batch(epoch, order, n), numbers, self.num_threads))

    def _take_streams(self) -> list["_Stream"]:
        """Return a stream for each image of a batch, which no other thread uses."""
        try:
            return self._idle_streams.pop()
        except IndexError:
            return [_Stream(self.seed, _AUGMENTATION) for _ in range(self.batch_size)]

    def _crop_at_once(self, rows: list[int], rngs: Iterable[np.random.Generator], targets: np.ndarray) -> list[bool]:
        """Write random crops into the batch, in one step without the GIL; return which of them that worked for."""
        crop = self.augmentation.crop
        if crop is None or not photos.is_on():
            return [False] * len(rows)
        return self.source.read_crops(rows, [crop.draw_box(*self.source.size, rng) for rng in rngs], targets)

    def _crop(self, row: int, rng: np.random.Generator, target: np.ndarray) -> None:
        """Write an image's crop into the batch."""
        resized, crop, canvas = self.source(row), self.augmentation.crop, self.source.size
        if crop:
            crop(resized, rng, canvas, target)
        else:
            target[:] = pad_to_center(resized, canvas, self.size)

    def _operate(self, target: np.ndarray, rng: np.random.Generator) -> None:
        """Augment an image of the batch in place."""
        image = target
        for operation in self.augmentation.operations:
            image = operation(image, rng)
        if image is not target:
            target[:] = image


class _Stream:
    """Random numbers by epoch and position: one counter-based generator (Philox, Salmon et al., SC 2011), repositioned.

    A new generator takes several times as long and reads unused entropy from the system.
    """

    def __init__(self, seed: int, purpose: int):
        key = np.random.SeedSequence([seed, purpose]).generate_state(2, np.uint64)
        self.generator = np.random.Generator(np.random.Philox(key=key))
        self._state = self.generator.bit_generator.state

    def at(self, epoch: int, position: int) -> np.random.Generator:
        """Return the generator at the start of a position's numbers; the next call moves it."""
        self._state["state"]["counter"] = np.array([0, 0, position, epoch], np.uint64)
        self.generator.bit_generator.state = self._state
        return self.generator


def balanced_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return as many rows as there are labels, each class equally often (or once more), int64 (rows,), shuffled.

    A class with too few rows repeats them, each once before any comes again.
    """
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    by_class = [rows for rows in by_class if len(rows)]
    times = np.full(len(by_class), len(labels) // len(by_class))
    times[rng.permutation(len(by_class))[: len(labels) % len(by_class)]] += 1
    drawn = [
        np.concatenate([rng.permutation(rows) for _ in range(-(-wanted // len(rows)))] or [rows])[:wanted]
        for rows, wanted in zip(by_class, times.tolist(), strict=True)
    ]
    return rng.permutation(np.concatenate(drawn))


def _whole_sinks(steps: int, sink_steps: int) -> tuple[int, int]:
    """Return (steps, sink size): equal sinks of at most `sink_steps`; fewer steps than sinks are left out.

    An evaluation can only come between two sinks.
    """
    if sink_steps == 0:
        return steps, 0
    sinks = -(-steps // sink_steps)
    return steps // sinks * sinks, steps // sinks


def evaluation_batches(
    source: ResizedImages,
    rows: pd.DataFrame,
    size: tuple[int, int],
    batch_size: int,
    num_threads: int | None = None,
) -> Iterator[np.ndarray]:
    """Yield every image's center once, in the order of `rows`: uint8 (n, *size, 3), the last batch may be smaller."""
    crops = [(source.size, size)]
    batches = view_batches(lambda row: [source(row)], rows["row"].tolist(), crops, batch_size, num_threads)
    return (images for (images,) in batches)


def view_batches(
    views: Callable[[int], list[np.ndarray]],
    rows: Sequence[int],
    crops: Sequence[tuple[tuple[int, int], tuple[int, int]]],
    batch_size: int,
    num_threads: int | None = None,
) -> Iterator[list[np.ndarray]]:
    """Yield the center of every view of every image once, in the order of `rows`: per view uint8 (n, *size, 3).

    Args:
        views: maps a row to its resized images, one for each of `crops`.
        crops: (canvas, size) of each view: its size after resizing, and the size of the center to take.
    """

    def batch(start: int) -> list[np.ndarray]:
        images = [views(row) for row in rows[start : start + batch_size]]
        return [
            np.stack([pad_to_center(image[i], canvas, size) for image in images])
            for i, (canvas, size) in enumerate(crops)
        ]

    return _ordered(batch, range(0, len(rows), batch_size), num_threads or os.cpu_count() or 1)


def _ordered(make: Callable, items: Iterable, num_threads: int) -> Iterator:
    """Yield make(item) of each item, in order, at most two per thread ahead of the consumer."""
    cv2.setNumThreads(1)  # a thread here makes a whole batch; OpenCV's threads would only add switching
    items = iter(items)
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="photos")
    try:
        pending = deque()
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) > 2 * num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
