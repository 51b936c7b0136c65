"""From photos to predictions and scores."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from mindspore import Tensor, nn, ops

from rp2k_lab.dataset.index import Index
from rp2k_lab.metrics import Predictions, Score, per_class, scores, top_k


class Classifier(nn.Cell):
    """uint8 images (batch, height, width, 3) to probabilities, float32 (batch, classes)."""

    def __init__(self, network: nn.Cell):
        super().__init__(auto_prefix=False)  # the checkpoint's names are the network's
        self.network = network

    def construct(self, images):
        return ops.softmax(self.network(images).astype("float32"), -1)


class Evaluator:
    """Predicts one split with one network; the compiled graph is kept from one call to the next.

    Args:
        network: uint8 images to logits; its weights may change between calls.
        index: the data set.
        split: val or test.
        batches: makes an iterator over the split's images, uint8 (n, height, width, 3), in the index's order.
        batch_size: the largest n.
        check: called between batches; raises to stop (a signal).
    """

    def __init__(
        self,
        network: nn.Cell,
        index: Index,
        split: str,
        batches: Callable[[], Iterable[np.ndarray]],
        batch_size: int,
        check: Callable[[], None] = lambda: None,
    ):
        self.split, self.rows = split, index.split(split)
        self.index, self._network = index, network
        self._batches, self._batch_size, self._check = batches, batch_size, check
        self._classifier = Classifier(network)

    def predict(self) -> Predictions:
        """Top 5 of every photo."""
        self._network.set_train(False)
        parts = []
        for images in self._batches():
            self._check()
            parts.append(top_k(self._probabilities(images)))
        self._network.set_train(True)
        labels, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Predictions(self.rows["label"].to_numpy(np.int32), labels, probabilities)

    def evaluate(self, others: str | None) -> tuple[Predictions, pd.DataFrame, dict[str, Score]]:
        """Predictions, the table per class, and the scores."""
        predictions = self.predict()
        table = per_class(predictions, self.index.classes, self.index.train_counts())
        return predictions, table, scores(predictions, table, others)

    def _probabilities(self, images: np.ndarray) -> np.ndarray:
        """The last, smaller batch is filled up with black images, so that one graph serves all; the filling is cut."""
        count = len(images)
        if count < self._batch_size:
            filling = np.zeros((self._batch_size - count, *images.shape[1:]), np.uint8)
            images = np.concatenate([images, filling])
        return self._classifier(Tensor(images)).asnumpy()[:count]
