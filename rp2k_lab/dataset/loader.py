"""From index rows to uint8 batches, with OpenCV in threads (it releases Python's lock).

The order of a run's images and each image's augmentation are pure functions of (seed, epoch, position): no generator
is carried from one image to the next, so any number of threads, and a start at any step, gives the same batches.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd

from rp2k_lab.aug import Augmentation, soft_targets
from rp2k_lab.dataset.image import pad_to_center, read_resized, read_views
from rp2k_lab.dataset.image_cache import PhotoCache
from rp2k_lab.dataset.photo_index import Index

# Keys of the random streams, so that the order, the augmentation and the mixing of one epoch are independent.
_ORDER, _AUGMENTATION, _MIX = 0, 1, 2


class ResizedPhotos:
    """The photos of an index, each scaled as evaluation and training begin with it.

    Letterbox's padding is not in them: whoever crops knows that they lie in the middle of a black canvas of `size`.

    Args:
        index: the data set.
        size: (height, width) before any crop.
        resize: letterbox or stretch.
        cache: keeps what was decoded once; None: each is decoded whenever it is asked for.
    """

    def __init__(self, index: Index, size: tuple[int, int], resize: str, cache: PhotoCache | None = None):
        self.paths = [f"{index.root}/{path}" for path in index.table["path"]]
        self.size, self.resize, self.cache = size, resize, cache

    def __call__(self, row: int) -> np.ndarray:
        """The photo of a row of the index's table, uint8 (h, w, 3) no larger than `size`, an array of its own.

        Raises:
            DataError: it cannot be read.
        """
        photo = self.kept(row)
        if photo is None:
            photo = read_resized(self.paths[row], self.size, self.resize)
            self.keep(row, photo)
        return photo

    def kept(self, row: int) -> np.ndarray | None:
        """What the cache holds."""
        return self.cache.get(row) if self.cache else None

    def keep(self, row: int, photo: np.ndarray) -> None:
        """Give the cache what was read."""
        if self.cache:
            self.cache.put(row, photo)


class PhotoViews:
    """The same photos resized in several ways, each file read once for all of them.

    Args:
        photos: of one index, a way to resize each.
    """

    def __init__(self, photos: Sequence[ResizedPhotos]):
        self.photos = photos

    def __call__(self, row: int) -> list[np.ndarray]:
        """The photo of a row as each of `photos` would give it.

        Raises:
            DataError: it cannot be read.
        """
        if len(self.photos) == 1:
            return [self.photos[0](row)]
        views = [photos.kept(row) for photos in self.photos]
        missing = [i for i, view in enumerate(views) if view is None]
        if missing:
            ways = [(self.photos[i].size, self.photos[i].resize) for i in missing]
            for i, view in zip(missing, read_views(self.photos[0].paths[row], ways), strict=True):
                views[i] = view
                self.photos[i].keep(row, view)
        return views


class EpochBatches:
    """Endless epochs of shuffled batches; a subclass makes one, `batch(epoch, order, batch)`, and has `path(row)`.

    Every `iter()` gives the next epoch, the first from `start_step` of the whole run on.  The rows that do not fill
    the last batch (with `sink_steps`, the last sink) are left out of that epoch; the next one is shuffled anew.

    Args:
        labels: int32 (rows,).
        batch_size: photos of one worker's batch.
        sampler: uniform, each row once an epoch; class_balanced, each class as often as any other.
        worker, workers_together: which of how many workers.  The batches that they have at a step are, one behind the
            other, what one process has with the batch size of all; mixup and CutMix mix within a worker's batch.

    Attributes:
        photos_per_step: of all workers' batches.
        steps_per_epoch: batches of an epoch.
        sink_size: batches that go to the device at once, at most `sink_steps`; 0 without sinking.

    A failure in a thread is raised to whoever iterates and kept in `failure`, since MindSpore's data pipeline turns
    it into a text of its own.
    """

    def __init__(
        self,
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        num_classes: int,
        sampler: str = "uniform",
        start_step: int = 0,
        workers: int | None = None,
        sink_steps: int = 0,
        worker: int = 0,
        workers_together: int = 1,
    ):
        self.labels, self.batch_size, self.seed = labels, batch_size, seed
        self.num_classes, self.sampler = num_classes, sampler
        self.photos_per_step, self._offset = batch_size * workers_together, batch_size * worker
        self.steps_per_epoch, self.sink_size = _whole_sinks(len(labels) // self.photos_per_step, sink_steps)
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
        rng = np.random.default_rng([self.seed, epoch, _ORDER])
        return (
            balanced_order(self.labels, rng) if self.sampler == "class_balanced" else rng.permutation(len(self.labels))
        )


class TrainingBatches(EpochBatches):
    """Endless epochs of (images uint8 (batch, height, width, 3), labels).

    The labels are int32 (batch,), or with mixup and CutMix the mixed one-hot float32 (batch, num_classes).

    Args:
        photos: resized to `size` or larger.
        rows: of the index's split: columns row and label.
        augmentation: from `rp2k_lab.aug`; without a crop of its own, the center is taken, as evaluation does.
        size: (height, width) of the images.
        options: as of `EpochBatches`.
    """

    def __init__(
        self,
        photos: ResizedPhotos,
        rows: pd.DataFrame,
        augmentation: Augmentation,
        size: tuple[int, int],
        batch_size: int,
        seed: int,
        num_classes: int,
        **options,
    ):
        super().__init__(rows["label"].to_numpy(np.int32), batch_size, seed, num_classes, **options)
        self.photos, self.augmentation, self.size, self.rows = photos, augmentation, size, rows["row"].tolist()

    def path(self, row: int) -> str:
        """The file of one of the rows that `order` gives."""
        return self.photos.paths[self.rows[row]]

    def batch(self, epoch: int, order: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """One batch of an epoch."""
        start = batch * self.photos_per_step + self._offset
        positions = range(start, start + self.batch_size)
        images = np.empty((self.batch_size, *self.size, 3), np.uint8)
        stream = _Stream(self.seed, _AUGMENTATION)
        for image, position in zip(images, positions, strict=True):
            self._augment(self.rows[order[position]], stream.at(epoch, position), image)
        labels = self.labels[order[positions.start : positions.stop]]
        if self.augmentation.mix is None:
            return images, labels
        rngs = [_Stream(self.seed, _MIX).at(epoch, position) for position in positions]
        images, shares = self.augmentation.mix(images, rngs)
        return images, soft_targets(labels, shares, self.num_classes)

    def _augment(self, row: int, rng: np.random.Generator, target: np.ndarray) -> None:
        """Write a photo's augmented view into its place in the batch."""
        photo, crop, canvas = self.photos(row), self.augmentation.crop, self.photos.size
        if crop:
            crop(photo, rng, canvas, target)
        else:
            target[:] = pad_to_center(photo, canvas, self.size)
        image = target
        for operation in self.augmentation.operations:
            image = operation(image, rng)
        if image is not target:
            target[:] = image


class _Stream:
    """Random numbers by epoch and position: one counter-based generator (Philox, Salmon et al., SC 2011), set anew.

    Making a generator for each image would take several times as long and ask the system for entropy that is not used.
    """

    def __init__(self, seed: int, purpose: int):
        key = np.random.SeedSequence([seed, purpose]).generate_state(2, np.uint64)
        self._generator = np.random.Generator(np.random.Philox(key=key))
        self._state = self._generator.bit_generator.state

    def at(self, epoch: int, position: int) -> np.random.Generator:
        """The generator, at the start of a position's numbers; the next call moves it."""
        self._state["state"]["counter"] = np.array([0, 0, position, epoch], np.uint64)
        self._generator.bit_generator.state = self._state
        return self._generator


def balanced_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many rows as there are labels, every class as often as any other (or once more), int64 (rows,), shuffled.

    A class with too few rows repeats them, none a second time before all have come once.
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
    """(steps, sink size): equal sinks of at most `sink_steps` that fill the epoch; fewer steps than sinks are lost.

    An evaluation can only come between two sinks, hence at the end of one.
    """
    if sink_steps == 0:
        return steps, 0
    sinks = -(-steps // sink_steps)
    return steps // sinks * sinks, steps // sinks


def evaluation_batches(
    photos: ResizedPhotos,
    rows: pd.DataFrame,
    size: tuple[int, int],
    batch_size: int,
    workers: int | None = None,
) -> Iterator[np.ndarray]:
    """Every photo's center once, in the order of `rows`: uint8 (n, *size, 3), n = batch_size but for the last batch."""
    crops = [(photos.size, size)]
    batches = view_batches(lambda row: [photos(row)], rows["row"].tolist(), crops, batch_size, workers)
    return (images for (images,) in batches)


def view_batches(
    views: Callable[[int], list[np.ndarray]],
    rows: Sequence[int],
    crops: Sequence[tuple[tuple[int, int], tuple[int, int]]],
    batch_size: int,
    workers: int | None = None,
) -> Iterator[list[np.ndarray]]:
    """The center of every view of every photo once, in the order of `rows`: an array uint8 (n, *size, 3) a view.

    Args:
        views: a row to its resized photo, in as many ways as there are `crops`.
        crops: (canvas, size) of each view: how large it was resized, and what of its middle is taken.
    """

    def batch(start):
        photos = [views(row) for row in rows[start : start + batch_size]]
        return [
            np.stack([pad_to_center(photo[i], canvas, size) for photo in photos])
            for i, (canvas, size) in enumerate(crops)
        ]

    return _ordered(batch, range(0, len(rows), batch_size), workers or os.cpu_count() or 1)


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
