"""Probabilities by one or several networks, with or without test-time augmentation."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from rp2k_lab import native
from rp2k_lab.core.errors import DataError
from rp2k_lab.dataset.image import resized_size
from rp2k_lab.evaluation.metrics import softmax, top_k
from rp2k_lab.evaluation.mindir import NotSupported
from rp2k_lab.evaluation.native_network import NativeNetwork
from rp2k_lab.evaluation.open_set import OpenSet
from rp2k_lab.model import Front, Rest, WithPreprocessing
from rp2k_lab.model.extended_classifier import ExtendedClassifier
from rp2k_lab.native.inference import Refused

log = logging.getLogger(__name__)


class Logits(nn.Cell):
    """A network that maps uint8 images (batch, height, width, 3) to logits, float32 (batch, classes).

    Args:
        network: images, or for `Rest` a front's outputs, to logits.
        is_scored: of an extended network: a last column has its score, the largest cosine with a center.
    """

    def __init__(self, network: nn.Cell, is_scored: bool = False):
        super().__init__(auto_prefix=False)  # keep the parameter names of the checkpoint
        self.network, self.is_scored = network, is_scored

    def construct(self, images):
        if self.is_scored:
            logits, scores = self.network.with_scores(images)
            return ops.cat((self.output(logits), scores.reshape(-1, 1)), 1)
        return self.output(self.network(images))

    def output(self, logits: Tensor) -> Tensor:
        """Return the outputs for logits, both (batch, classes)."""
        return logits.astype("float32")


class Classifier(Logits):
    """A network that maps uint8 images (batch, height, width, 3) to probabilities, float32 (batch, classes)."""

    def output(self, logits: Tensor) -> Tensor:
        """Return the probabilities for logits, both (batch, classes)."""
        return ops.softmax(logits.astype("float32"), -1)


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

    Its weights may change between calls.  `open_set` says which of its scores are those of known images, None: unknown.
    """

    name: str
    network: nn.Cell
    preprocessing: Preprocessing
    open_set: OpenSet | None = None

    @cached_property
    def front(self) -> Front:
        """The network up to its features, compiled once for all that embed images."""
        return Front(self.network).set_train(False)


class TwoParts:
    """A network natively up to its features, and its classifier by MindSpore: uint8 images to float32.

    Args:
        cell: Classifier or Logits of a network.
        images: a batch; all have its shape.

    Raises:
        NotSupported, Refused: the library cannot run the first part.
    """

    def __init__(self, cell: Logits, images: np.ndarray):
        self._features = NativeNetwork(Front(cell.network).set_train(False), images)
        self._classifier = type(cell)(Rest(cell.network), cell.is_scored).set_train(False)

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
        if images.dtype != np.uint8:  # a front's outputs: the library starts from images
            return None
        is_graph = mindspore.get_context("mode") == mindspore.GRAPH_MODE
        is_on_cpu = mindspore.get_context("device_target") == "CPU" and native.state().version is not None
        # Only convolutional networks gain, and to find out that another one cannot be run takes seconds.
        has_norm = any(isinstance(each, nn.BatchNorm2d) for _, each in self._cell.cells_and_names())
        if not (is_graph and is_on_cpu and has_norm):
            return None
        forms: list[Callable[[], NativeNetwork | TwoParts]] = [lambda: NativeNetwork(self._cell, images)]
        cell = self._cell
        is_whole = isinstance(cell, Logits) and isinstance(cell.network, WithPreprocessing)
        if is_whole and type(classifier_of(cell.network)) is not nn.Dense:  # a classifier of cosines
            forms.append(lambda: TwoParts(cell, images))
        for form in forms:
            try:
                return form()
            except (NotSupported, Refused) as error:
                log.debug("not by the native library: %s", error)
        return None


def classifier_of(network: nn.Cell) -> nn.Cell | None:
    """Return the classifier of a network or of its second part; None for another cell."""
    if isinstance(network, Rest):
        network = network.network
    return network.network.head.fc if isinstance(network, WithPreprocessing) else None


class Answers(NamedTuple):
    """A network's answers for images, in order.

    Attributes:
        labels: the most probable ones first, int32 (images, k).
        probabilities: float32 (images, k).
        scores: of being known, see `Predictor.scored`, float32 (images,).
    """

    labels: np.ndarray
    probabilities: np.ndarray
    scores: np.ndarray


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
        self._is_scored = [isinstance(classifier_of(m.network), ExtendedClassifier) for m in members]
        self._forwards = [
            (Forward(cell(member.network, is_scored)), self.preprocessings.index(member.preprocessing))
            for member, is_scored in zip(members, self._is_scored, strict=True)
        ]

    def __call__(self, batches: Iterable[Sequence[np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each batch's probabilities, float32: (members, n, classes) and, averaged, (n, classes).

        The networks are in evaluation mode until the iterator ends or is closed.

        Args:
            batches: the same n images for each of `preprocessings`, uint8 (n, *size, 3).

        Raises:
            DataError: an output is NaN or infinite.
        """
        for each, average, _ in self._outputs(batches):
            yield each, average

    def scored(self, batches: Iterable[Sequence[np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each batch's averaged probabilities, float32 (n, classes), and scores of being known, float32 (n,).

        The score of an extended network is its largest cosine with a center, of any other its largest calibrated
        probability; with several members or views their mean.
        """
        for _, average, scores in self._outputs(batches):
            yield average, scores

    def answers(
        self,
        batches: Iterable[Sequence[np.ndarray]],
        k: int = 5,
        is_calibrated: bool = False,
    ) -> Answers:
        """Return the k most probable labels, their probabilities and the scores of all images.

        Args:
            is_calibrated: give a single member's probabilities at its temperature.
        """
        parts = []
        for average, scores in self.scored(batches):
            if is_calibrated and len(self.members) == 1:
                average = _calibrated(average, self.members[0])
            parts.append((*top_k(average, k), scores))
        return Answers(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _outputs(self, batches: Iterable[Sequence[np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
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

    def _predict(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count = len(images[0])
        views = [self._views(part) for part in images]
        outputs = [np.mean([run(view)[:count] for view in views[i]], axis=0) for run, i in self._forwards]
        for member, output in zip(self.members, outputs, strict=True):
            if not np.isfinite(output).all():  # it would rank the classes by label
                raise DataError(
                    f"{member.name}: the network's output is NaN or infinite\n"
                    "use weights of an earlier epoch, or train again with a smaller optimizer.lr"
                )
        each = np.stack([output[:, :-1] if s else output for output, s in zip(outputs, self._is_scored, strict=True)])
        average = each.mean(axis=0)
        if self._average == "logits":
            each, average = softmax(each), softmax(average)
        scores = [
            output[:, -1] if is_scored else _calibrated(own, member).max(axis=1)
            for output, own, is_scored, member in zip(outputs, each, self._is_scored, self.members, strict=True)
        ]
        return each, average, np.mean(scores, axis=0)

    def _views(self, images: np.ndarray) -> list[np.ndarray]:
        if len(images) < self._batch_size:
            padding = np.zeros((self._batch_size - len(images), *images.shape[1:]), images.dtype)
            images = np.concatenate([images, padding])
        return [images, mirror(images)] if self._tta == "hflip" else [images]


def _calibrated(probabilities: np.ndarray, member: Member) -> np.ndarray:
    """Return the probabilities, float32 (images, classes), at the member's temperature, if it has one."""
    if member.open_set is None or member.open_set.temperature == 1:
        return probabilities
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return softmax(logits / np.float32(member.open_set.temperature))


def mirror(images: np.ndarray) -> np.ndarray:
    """Return a contiguous copy of uint8 (n, height, width, 3) with left and right exchanged.

    OpenCV takes 1 ms for 32 images of 224 pixels; copying NumPy's reversed view takes 38 ms.
    """
    flipped = np.empty_like(images)
    for image, target in zip(images, flipped, strict=True):
        cv2.flip(image, 1, dst=target)
    return flipped
