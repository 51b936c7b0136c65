"""Embeddings of images, or of their features, by one network."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from mindspore import Tensor

from rp2k_lab.core.errors import DataError
from rp2k_lab.evaluation.outputs import Embedding
from rp2k_lab.evaluation.predictor import Forward, Member
from rp2k_lab.model import Front


class Embedder:
    """Embeddings of length 1 (`Outputs`), batch by batch; the network stays in evaluation mode.

    Args:
        batch_size: the largest batch; smaller ones are padded to reuse the graphs.
        check: called between batches; raises to stop (a signal).
    """

    def __init__(self, member: Member, batch_size: int, check: Callable[[], None]):
        network = member.network.set_train(False)
        self._name, self._batch_size, self._check = member.name, batch_size, check
        self._features, self._embedding = Forward(Front(network)), Embedding(network).set_train(False)

    def of_images(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the embeddings, float32 (n, width), of batches of images, uint8 (n, height, width, 3).

        Raises:
            DataError: an output is NaN or infinite.
        """
        for images in batches:
            self._check()
            yield self._embed(self._features(self._padded(images)), len(images))

    def of_features(self, features: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the embeddings, float32 (n, width), of features before the classifier, float32 (images, width).

        Raises:
            DataError: an output is NaN or infinite.
        """
        for start in range(0, len(features), self._batch_size):
            self._check()
            batch = np.asarray(features[start : start + self._batch_size])
            yield self._embed(self._padded(batch), len(batch))

    def _embed(self, features: np.ndarray, count: int) -> np.ndarray:
        vectors = self._embedding(Tensor(features)).asnumpy()[:count]
        if not np.isfinite(vectors).all():
            raise DataError(
                f"{self._name}: the network's output is NaN or infinite\n"
                "use weights of an earlier epoch, or train again with a smaller optimizer.lr"
            )
        return vectors

    def _padded(self, batch: np.ndarray) -> np.ndarray:
        missing = self._batch_size - len(batch)
        return np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)]) if missing else batch
