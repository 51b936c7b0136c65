"""Probabilities by one or several networks, with or without test-time augmentation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from mindspore import Tensor, nn, ops

from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset.image import resized_size
from rp2k_lab.evaluation.metrics import softmax


class Classifier(nn.Cell):
    """A network that maps uint8 images (batch, height, width, 3) to probabilities, float32 (batch, classes)."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)  # keep the parameter names of the checkpoint
        self.network = network

    def construct(self, images):
        return ops.softmax(self.network(images).astype("float32"), -1)


class Logits(nn.Cell):
    """A network that maps uint8 images (batch, height, width, 3) to logits, float32 (batch, classes)."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, images):
        return self.network(images).astype("float32")


@dataclass(frozen=True)
class Preprocessing:
    """Resize and crop from an image file to a network's input.

    Attributes:
        size: (height, width) of the input (pixels).
        resize: letterbox or stretch.
        crop_ratio: fraction of the resized side that the center crop keeps, (0, 1].
    """

    size: tuple[int, int]
    resize: str
    crop_ratio: float

    @property
    def resized(self) -> tuple[int, int]:
        """(height, width) before the crop (pixels)."""
        return resized_size(self.size, self.crop_ratio)

    def __str__(self):
        height, width = self.size
        return f"{height}×{width}, {self.resize}" + (f", crop {self.crop_ratio:g}" if self.crop_ratio < 1 else "")


@dataclass(frozen=True)
class Member:
    """A network, uint8 images (batch, height, width, 3) to logits, with its preprocessing.

    Its weights may change between calls.
    """

    name: str
    network: nn.Cell
    preprocessing: Preprocessing


class Predictor:
    """Probabilities of each member and of their average.  Each member compiles one graph.

    Args:
        members: one or more, with the same classes.
        batch_size: the largest batch; smaller ones are padded with black images to reuse the graph.
        tta: none, or hflip: each member sees each image and its mirror image.
        average: probabilities, or logits (the contest entry's choice); averaged over views, then over members.
        check: called between batches; raises to stop (a signal).

    Attributes:
        preprocessings: the members' distinct ones, in the order of a batch's arrays.
    """

    def __init__(
        self,
        members: Sequence[Member],
        batch_size: int,
        tta: str = "none",
        average: str = "probabilities",
        check: Callable[[], None] = lambda: None,
    ):
        self.members, self.preprocessings = tuple(members), tuple(dict.fromkeys(m.preprocessing for m in members))
        self._batch_size, self._tta, self._average, self._check = batch_size, tta, average, check
        cell = {"probabilities": Classifier, "logits": Logits}[average]
        self._cells = [(cell(m.network), self.preprocessings.index(m.preprocessing)) for m in members]

    def __call__(self, batches: Iterable[Sequence[np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each batch's probabilities, float32: (members, n, classes) and, averaged, (n, classes).

        The networks are in evaluation mode until the iterator ends or is closed.

        Args:
            batches: the same n images for each of `preprocessings`, uint8 (n, *size, 3).

        Raises:
            DataError: an output is NaN or infinite.
        """
        modes = [member.network.training for member in self.members]
        try:
            for member in self.members:
                member.network.set_train(False)
            for images in batches:
                self._check()
                yield self._predict(images)
        finally:
            for member, mode in zip(self.members, modes, strict=True):
                member.network.set_train(mode)

    def _predict(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        count = len(images[0])
        views = [self._views(part) for part in images]
        each = np.stack(
            [np.mean([cell(view).asnumpy()[:count] for view in views[i]], axis=0) for cell, i in self._cells]
        )
        for member, outputs in zip(self.members, each, strict=True):
            if not np.isfinite(outputs).all():  # it would rank the classes by label
                raise DataError(
                    f"{member.name}: the network's output is NaN or infinite\n"
                    "use weights of an earlier epoch, or train again with a smaller optimizer.lr"
                )
        average = each.mean(axis=0)
        return (softmax(each), softmax(average)) if self._average == "logits" else (each, average)

    def _views(self, images: np.ndarray) -> list[Tensor]:
        if len(images) < self._batch_size:
            padding = np.zeros((self._batch_size - len(images), *images.shape[1:]), images.dtype)
            images = np.concatenate([images, padding])
        return [Tensor(images)] + ([Tensor(mirror(images))] if self._tta == "hflip" else [])


def mirror(images: np.ndarray) -> np.ndarray:
    """Return a contiguous copy of uint8 (n, height, width, 3) with left and right exchanged.

    OpenCV takes 1 ms for 32 images of 224 pixels; copying NumPy's reversed view takes 38 ms.
    """
    flipped = np.empty_like(images)
    for image, target in zip(images, flipped, strict=True):
        cv2.flip(image, 1, dst=target)
    return flipped
