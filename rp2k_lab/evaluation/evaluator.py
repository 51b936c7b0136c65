"""Predict and score a split."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd

from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.device.workers import ALONE, Workers
from rp2k_lab.evaluation.metric_registry import Predictions, Score
from rp2k_lab.evaluation.metrics import per_class, scores, top_k
from rp2k_lab.evaluation.predictor import Predictor

Evaluation = tuple[Predictions, pd.DataFrame, dict[str, Score]]


class Evaluator:
    """Predictions and scores of one split.

    Args:
        predictor: may be shared by several splits; its compiled graphs are reused.
        index: the data set.
        split: train, val or test.
        batches: returns an iterator over this rank's shard of the split, in index order, as the predictor takes it.
        workers: the ranks that hold the other shards; the predictions cover all.
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
        """Return the top 5 of each image by the members' average."""
        return self._collect([average] for _, average in self.predictor(self._batches()))[0]

    def predict_each(self) -> list[Predictions]:
        """Return the predictions of each member, then of their average, from one pass over the images."""
        return self._collect([*each, average] for each, average in self.predictor(self._batches()))

    def evaluate(self, catch_all_class: str | None) -> Evaluation:
        """Return the average's predictions, the table per class and the scores."""
        return self.score(self.predict(), catch_all_class)

    def score(self, predictions: Predictions, catch_all_class: str | None) -> Evaluation:
        """Return given predictions with their table per class and scores."""
        index = self.index
        table = per_class(predictions, index.classes, index.train_counts(), index.long_tail_limits)
        if index.coarse_classes:
            table["coarse"] = [index.coarse_classes.get(name, name) for name in index.classes]
        return predictions, table, scores(predictions, table, catch_all_class)

    def _collect(self, batches: Iterable[Sequence[np.ndarray]]) -> list[Predictions]:
        """Return one Predictions for each position in the batches of probabilities."""
        tops = [[top_k(probabilities) for probabilities in batch] for batch in batches]
        labels = self.rows["label"].to_numpy(np.int32)
        return [
            Predictions(
                labels,
                *(self._workers.gather_shards(np.concatenate(p), len(labels)) for p in zip(*parts, strict=True)),
            )
            for parts in zip(*tops, strict=True)
        ]
