"""From batches of photos to probabilities: by one network or several, from one view of each photo or two."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from mindspore import Tensor, nn, ops

from rp2k_lab.dataset.image import resized_size
from rp2k_lab.evaluation.metrics import softmax


class Classifier(nn.Cell):
    """uint8 images (batch, height, width, 3) to probabilities, float32 (batch, classes)."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)  # the checkpoint's names are the network's
        self.network = network

    def construct(self, images):
        return ops.softmax(self.network(images).astype("float32"), -1)


class Logits(nn.Cell):
    """uint8 images (batch, height, width, 3) to logits, float32 (batch, classes)."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, images):
        return self.network(images).astype("float32")


@dataclass(frozen=True)
class Preprocessing:
    """How evaluation brings a photo to a network's input.

    Attributes:
        size: (height, width) of the input in pixels.
        resize: letterbox or stretch.
        crop_ratio: share of the resized picture's side that the center crop keeps.
    """

    size: tuple[int, int]
    resize: str
    crop_ratio: float

    @property
    def resized(self) -> tuple[int, int]:
        """(height, width) before the crop."""
        return resized_size(self.size, self.crop_ratio)

    def __str__(self):
        height, width = self.size
        return f"{height}×{width}, {self.resize}" + (f", crop {self.crop_ratio:g}" if self.crop_ratio < 1 else "")


@dataclass(frozen=True)
class Member:
    """A network, uint8 images (batch, height, width, 3) to logits, and what it is to be shown.

    Its weights may change between calls.
    """

    name: str
    network: nn.Cell
    preprocessing: Preprocessing


class Predictor:
    """Probabilities of every member and of their average; each member's graph is compiled once, for both views.

    Args:
        members: one or more, of the same classes.
        batch_size: the largest batch.  A smaller one is filled up with black images, so that one graph serves all.
        tta: none, or hflip: every member sees each image and its mirror image.
        average: what is averaged over views, then over members: probabilities, or logits (the contest entry's choice).
        check: called between batches; raises to stop (a signal).

    Attributes:
        preprocessings: the distinct ones of the members, in the order in which a batch has its arrays.
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
        """Each batch's probabilities: float32 (members, n, classes) by every member, (n, classes) by their average.

        The networks are in evaluation mode until the last batch is drawn or the iterator closed.

        Args:
            batches: the same n photos for each of `preprocessings`, uint8 (n, *size, 3).
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
            [np.mean([cell(view).asnumpy()[:count] for view in views[shown]], axis=0) for cell, shown in self._cells]
        )
        average = each.mean(axis=0)
        return (softmax(each), softmax(average)) if self._average == "logits" else (each, average)

    def _views(self, images: np.ndarray) -> list[Tensor]:
        if len(images) < self._batch_size:
            filling = np.zeros((self._batch_size - len(images), *images.shape[1:]), images.dtype)
            images = np.concatenate([images, filling])
        return [Tensor(images)] + ([Tensor(mirrored(images))] if self._tta == "hflip" else [])


def mirrored(images: np.ndarray) -> np.ndarray:
    """Each of uint8 (n, height, width, 3), left and right exchanged, as an array of its own.

    By OpenCV: 32 images of 224 pixels take 1 ms, where NumPy's reversed view takes 38 to become an array.
    """
    flipped = np.empty_like(images)
    for image, target in zip(images, flipped, strict=True):
        cv2.flip(image, 1, dst=target)
    return flipped
