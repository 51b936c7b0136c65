"""Probabilities by one or several networks, with or without test-time augmentation."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from rp2k_lab import native
from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset.image import resized_size
from rp2k_lab.evaluation.metrics import softmax
from rp2k_lab.evaluation.mindir import NotSupported
from rp2k_lab.evaluation.native_network import NativeNetwork
from rp2k_lab.model import OnFeatures, Pooled, WithPreprocessing
from rp2k_lab.native.inference import Refused

log = logging.getLogger(__name__)


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


class TwoParts:
    """A network natively up to its features, and its classifier by MindSpore: uint8 images to float32.

    Args:
        cell: Classifier or Logits of a network.
        images: a batch; all have its shape.

    Raises:
        NotSupported, Refused: the library cannot run the first part.
    """

    def __init__(self, cell: Classifier | Logits, images: np.ndarray):
        self._features = NativeNetwork(Pooled(cell.network).set_train(False), images)
        self._classifier = type(cell)(OnFeatures(cell.network)).set_train(False)

    def refresh(self) -> None:
        """Take over the network's weights."""
        self._features.refresh()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self._classifier(Tensor(self._features(images))).asnumpy()


class Forward:
    """The forward pass of a cell, uint8 images (batch, height, width, 3) to float32; native as far as possible."""

    def __init__(self, cell: nn.Cell):
        self._cell = cell
        self._networks: dict[tuple[int, ...], NativeNetwork | TwoParts | None] = {}  # by the shape of the images

    def refresh(self) -> None:
        """Take over the cell's weights."""
        for network in self._networks.values():
            if network:
                network.refresh()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        if images.shape not in self._networks:
            self._networks[images.shape] = self._compile(images)
        network = self._networks[images.shape]
        return network(images) if network else self._cell(Tensor(images)).asnumpy()

    def _compile(self, images: np.ndarray) -> NativeNetwork | TwoParts | None:
        is_graph = mindspore.get_context("mode") == mindspore.GRAPH_MODE
        is_on_cpu = mindspore.get_context("device_target") == "CPU" and native.state().version is not None
        # Only convolutional networks gain, and to find out that another one cannot be run takes seconds.
        has_norm = any(isinstance(each, nn.BatchNorm2d) for _, each in self._cell.cells_and_names())
        if not (is_graph and is_on_cpu and has_norm):
            return None
        forms: list[Callable[[], NativeNetwork | TwoParts]] = [lambda: NativeNetwork(self._cell, images)]
        if has_classifier_of_cosines(self._cell):
            forms.append(lambda: TwoParts(self._cell, images))
        for form in forms:
            try:
                return form()
            except (NotSupported, Refused) as error:
                log.debug("not by the native library: %s", error)
        return None


def has_classifier_of_cosines(cell: nn.Cell) -> bool:
    """Return whether a cell is Classifier or Logits of a network whose classifier is no dense layer alone."""
    network = cell.network if isinstance(cell, (Classifier, Logits)) else None
    return isinstance(network, WithPreprocessing) and type(network.network.head.fc) is not nn.Dense


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
        self._forwards = [(Forward(cell(m.network)), self.preprocessings.index(m.preprocessing)) for m in members]

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
            for forward, _ in self._forwards:
                forward.refresh()
            for images in batches:
                self._check()
                yield self._predict(images)
        finally:
            for member, mode in zip(self.members, modes, strict=True):
                member.network.set_train(mode)

    def _predict(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        count = len(images[0])
        views = [self._views(part) for part in images]
        each = np.stack([np.mean([run(view)[:count] for view in views[i]], axis=0) for run, i in self._forwards])
        for member, outputs in zip(self.members, each, strict=True):
            if not np.isfinite(outputs).all():  # it would rank the classes by label
                raise DataError(
                    f"{member.name}: the network's output is NaN or infinite\n"
                    "use weights of an earlier epoch, or train again with a smaller optimizer.lr"
                )
        average = each.mean(axis=0)
        return (softmax(each), softmax(average)) if self._average == "logits" else (each, average)

    def _views(self, images: np.ndarray) -> list[np.ndarray]:
        if len(images) < self._batch_size:
            padding = np.zeros((self._batch_size - len(images), *images.shape[1:]), images.dtype)
            images = np.concatenate([images, padding])
        return [images, mirror(images)] if self._tta == "hflip" else [images]


def mirror(images: np.ndarray) -> np.ndarray:
    """Return a contiguous copy of uint8 (n, height, width, 3) with left and right exchanged.

    OpenCV takes 1 ms for 32 images of 224 pixels; copying NumPy's reversed view takes 38 ms.
    """
    flipped = np.empty_like(images)
    for image, target in zip(images, flipped, strict=True):
        cv2.flip(image, 1, dst=target)
    return flipped
