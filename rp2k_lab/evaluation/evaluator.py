"""From a split's photos to predictions and scores."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd

from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.device.workers import ALONE, Workers
from rp2k_lab.evaluation.metrics import Predictions, Score, per_class, scores, top_k
from rp2k_lab.evaluation.predictor import Predictor

Evaluation = tuple[Predictions, pd.DataFrame, dict[str, Score]]


class Evaluator:
    """Predicts one split; a network's compiled graph is kept from one call to the next.

    Args:
        predictor: what predicts; may be shared by several splits.
        index: the data set.
        split: train, val or test.
        batches: makes an iterator over the split's images as the predictor takes them, in the index's order; over this
            worker's share of them.
        workers: who have the other shares; the predictions are of all.
    """

    def __init__(
        self,
        predictor: Predictor,
        index: Index,
        split: str,
        batches: Callable[[], Iterable[Sequence[np.ndarray]]],
        workers: Workers = ALONE,
    ):
        self.predictor, self.index, self.split, self.rows = predictor, index, split, index.split(split)
        self._batches, self._workers = batches, workers

    def predict(self) -> Predictions:
        """Top 5 of every photo, by the average of the members."""
        return self._collected([average] for _, average in self.predictor(self._batches()))[0]

    def predict_each(self) -> list[Predictions]:
        """The same by every member, and by their average as the last, in one pass over the photos."""
        return self._collected([*each, average] for each, average in self.predictor(self._batches()))

    def evaluate(self, others: str | None) -> Evaluation:
        """Predictions by the average of the members, the table per class, and the scores."""
        return self.judge(self.predict(), others)

    def judge(self, predictions: Predictions, others: str | None) -> Evaluation:
        """The same for predictions that were made before."""
        table = per_class(predictions, self.index.classes, self.index.train_counts())
        return predictions, table, scores(predictions, table, others)

    def _collected(self, batches: Iterable[Sequence[np.ndarray]]) -> list[Predictions]:
        """From batches of one array of probabilities a predictor."""
        tops = [[top_k(probabilities) for probabilities in batch] for batch in batches]
        labels = self.rows["label"].to_numpy(np.int32)
        return [
            Predictions(
                labels,
                *(self._workers.gather_shards(np.concatenate(p), len(labels)) for p in zip(*parts, strict=True)),
            )
            for parts in zip(*tops, strict=True)
        ]
