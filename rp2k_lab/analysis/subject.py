"""An earlier run's network on a data set: features of a split, and probabilities from them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from rp2k_lab.config.schema import Config
from rp2k_lab.core.progress import progress
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.predictor import Member, Predictor
from rp2k_lab.model import Rest
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.train.build import batches_for, build_views
from rp2k_lab.train.feature_cache import FEATURES, cached_features, features_name
from rp2k_lab.train.features import compute_features


@dataclass(frozen=True)
class Subject:
    """An earlier run's network, and the data set that it is applied to.

    Attributes:
        config: the run's restored configuration, with the keys of the task; of two runs, the first one's.
        check: called between batches; raises to stop (a signal).
    """

    config: Config
    index: Index
    run: EarlierRun
    member: Member
    check: Callable[[], None] = lambda: None

    def predictor(self) -> Predictor:
        return Predictor([self.member], self.config.batch_size, check=self.check)

    def features(self, split: str) -> np.ndarray:
        """Return what the network gives to its classifier, float32 (images, width), cached on disk.

        Raises:
            DataError: an image cannot be read, or the disk is full.
        """
        config, rows = self.config, self.index.split(split)["row"].tolist()

        def compute(target: np.ndarray) -> None:
            predictor = self.predictor()
            views = build_views(predictor, self.index, config.dataset.cache_gb)
            batches = batches_for(predictor, views, rows, config, f"computing features of {split}")
            compute_features(self.member.front, batches, config.batch_size, target, self.check)

        file = FEATURES / features_name(self.run.checkpoint, self.index, split, self.member.preprocessing)
        return cached_features(file, (len(rows), self.member.network.network.head.fc.in_channels), compute)

    def probabilities(self, features: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the probabilities that the network's classifier gives to features: batches of float32 (n, classes)."""
        size = self.config.batch_size
        predictor = Predictor([replace(self.member, network=Rest(self.member.network))], size, check=self.check)
        parts = (np.asarray(features[i : i + size]) for i in range(0, len(features), size))
        batches = ([part] for part in progress(parts, len(features), "classifying photos by their features", len))
        return (average for _, average in predictor(batches))
