"""The classifier of an extended network: centers of all classes, and the trained head among the old ones."""

from collections.abc import Sequence

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from rp2k_lab.model.network import unit


class ExtendedClassifier(nn.Cell):
    """Features (batch, width) to log-probabilities (batch, classes).

    A class's score is the largest cosine of the whitened features with its centers.  The softmax of `scale` × score
    gives the probabilities.  With `temperature`, the old classes' sum is shared among them as the head does: an old
    image's answer among them stays, and changes only where a new class is likelier.

    Args:
        head: the trained classifier, (batch, width) to logits.
        whitening: mean and matrix, float32 (width,), (width, width).
        centers: float32 (classes, most, width), of length 1; a class with fewer repeats its first.
        scale: factor of the cosines, > 0.
        head_labels: for each class, in order, its label in `head`, -1: none; the classes with one come first.
        temperature: divisor of the head's logits, > 0; None: centers alone, without the head.
    """

    def __init__(
        self,
        head: nn.Cell,
        whitening: tuple[np.ndarray, np.ndarray],
        centers: np.ndarray,
        scale: float,
        head_labels: Sequence[int],
        temperature: float | None,
    ):
        super().__init__(auto_prefix=False)
        (mean, matrix), (self.out_channels, _, self.in_channels) = whitening, centers.shape
        self.mean, self.matrix = _constant(mean, "mean"), _constant(matrix, "matrix")
        # All first centers, then all second ones: a class's largest is then the largest of equal parts.
        parts = np.pad(centers.transpose(1, 0, 2), ((0, 0), (0, -self.out_channels % _TILE), (0, 0)))
        self.scale, self.part = scale, parts.shape[1]
        self.centers = _constant(np.ascontiguousarray(parts.reshape(-1, self.in_channels).T), "centers")
        self.head, self.temperature = head, temperature
        columns = [label for label in head_labels if label >= 0]
        self.old, self.columns = len(columns), Tensor(np.array(columns, np.int32))
        self.keeps_all = columns == list(range(head.out_channels))

    def embed_and_score(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return whitened features of length 1, (batch, width), and the largest cosines, (batch,)."""
        vectors = self._embed(features)
        return vectors, self._cosines(vectors).max(axis=1)

    def construct(self, features):
        return self.with_scores(features)[0]

    def with_scores(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (batch, classes) and the largest cosines, (batch,)."""
        features = features.astype("float32")
        cosines = self._cosines(self._embed(features))
        return self._log_probabilities(features, cosines), cosines.max(axis=1)

    def _log_probabilities(self, features: Tensor, cosines: Tensor) -> Tensor:
        logits = ops.log_softmax(self.scale * cosines, -1)
        if self.temperature is None or self.old == 0:
            return logits
        has_new = self.old < self.out_channels
        old = logits[:, : self.old] if has_new else logits
        head = self.head(features).astype("float32") / self.temperature
        if not self.keeps_all:
            head = ops.gather(head, self.columns, 1)
        highest = old.max(axis=1, keepdims=True)
        total = highest + ops.log(ops.exp(old - highest).sum(1, keepdims=True))
        shared = total + ops.log_softmax(head, -1)
        return ops.cat((shared, logits[:, self.old :]), 1) if has_new else shared

    def _embed(self, features: Tensor) -> Tensor:
        return unit(ops.matmul(features - self.mean, self.matrix))

    def _cosines(self, vectors: Tensor) -> Tensor:
        """Return each class's largest cosine, (batch, classes)."""
        is_single = vectors.shape[0] == 1
        cosines = ops.matmul(ops.cat((vectors, vectors)) if is_single else vectors, self.centers)
        parts = ops.split(cosines, self.part, 1)
        largest = parts[0]
        for each in parts[1:]:  # less time than a maximum over an axis
            largest = ops.maximum(largest, each)
        # Only where needed: a slice of everything takes four times as long as the product in MindSpore 2.10.
        if self.out_channels < self.part:
            largest = largest[:, : self.out_channels]
        return largest[:1] if is_single else largest


# The centers of a part are padded to full tiles of a matrix product, and a single image is computed twice: MindSpore
# 2.10 then gives a cosine the same bits whatever the number of centers.
_TILE = 64


def _constant(values: np.ndarray, name: str) -> Parameter:
    """Return values as a parameter that is never trained: a large constant in the graph slows compilation."""
    return Parameter(Tensor(values), name=f"extension.{name}", requires_grad=False)
