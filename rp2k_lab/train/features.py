"""What a frozen network makes of photos before its classifier, computed once and trained on from there."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn

from rp2k_lab.core.errors import DataError
from rp2k_lab.core.files import preallocate
from rp2k_lab.dataset.loader import EpochBatches
from rp2k_lab.model import WithPreprocessing

# RP2K's train with 512 features a photo takes 0.7 · 10⁹, with 4096 5.6 · 10⁹ bytes.
MOST_BYTES_IN_MEMORY = 2 * 10**9


class Pooled(nn.Cell):
    """uint8 images (batch, height, width, 3) to what the head's dropout and classifier take, float32 (batch, width)."""

    def __init__(self, network: WithPreprocessing):
        super().__init__(auto_prefix=False)  # the checkpoint's names are the network's
        self.network = network

    def construct(self, images):
        net = self.network.network
        return net.head.features(net.backbone(self.network.normalize(images))).astype("float32")


class OnFeatures(nn.Cell):
    """Those features, float32 (batch, width), to logits (batch, classes), by the network's own dropout and classifier.

    It holds the whole network, so that a checkpoint of it does too.
    """

    def __init__(self, network: WithPreprocessing):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, features):
        return self.network.network.head.classify(features)


@contextmanager
def feature_array(photos: int, width: int, folder: Path) -> Iterator[np.ndarray]:
    """float32 (photos, width): in memory, or where that is much, in a file in `folder` that no ending leaves behind.

    Raises:
        DataError: the disk has no room for the file.
    """
    size = photos * width * np.dtype(np.float32).itemsize
    if size <= MOST_BYTES_IN_MEMORY:
        yield np.empty((photos, width), np.float32)
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            preallocate(file, size)
        except OSError as error:
            raise DataError(
                f"{folder}: no room for the features of {photos} photos, {size / 1e9:.1f} GB ({error.strerror})\n"
                "make room, or put the run elsewhere: hydra.run.dir=<folder>"
            ) from None
        yield np.memmap(file, np.float32, "r+", shape=(photos, width))


def compute_features(
    network: WithPreprocessing,
    batches: Iterable[Sequence[np.ndarray]],
    batch_size: int,
    target: np.ndarray,
    check: Callable[[], None],
) -> None:
    """Fill `target`, float32 (photos, width), in the order of `batches`; the network is left in evaluation mode.

    Args:
        batches: of one view each: uint8 (n, height, width, 3), n = batch_size but for the last one.
        check: called between batches; raises to stop (a signal).
    """
    pooled, first = Pooled(network).set_train(False), 0
    for (images,) in batches:
        check()
        count = len(images)
        if count < batch_size:  # one graph for all
            images = np.concatenate([images, np.zeros((batch_size - count, *images.shape[1:]), np.uint8)])
        target[first : first + count] = pooled(Tensor(images)).asnumpy()[:count]
        first += count


class FeatureBatches(EpochBatches):
    """Endless epochs of (features float32 (batch, width), labels int32 (batch,)), shuffled as photos are.

    Args:
        features: float32 (rows, width), in the order of `labels`; may be filled until the first epoch begins.
        paths: of the photos, in the same order.
        options: as of `EpochBatches`.
    """

    def __init__(self, features: np.ndarray, paths: Sequence[str], labels: np.ndarray, *options, **more_options):
        super().__init__(labels, *options, **more_options)
        self.features, self.paths = features, paths

    def path(self, row: int) -> str:
        """The photo of one of the rows that `order` gives."""
        return self.paths[row]

    def batch(self, epoch: int, order: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """One batch of an epoch."""
        rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        return np.asarray(self.features[rows]), self.labels[rows]
