"""Cases with known causes, and predictions of any size."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rp2k_lab.config.thresholds import Rules
from rp2k_lab.evaluation.metrics import Predictions

RULES = Rules(
    look_alike_cosine=0.3,
    look_alike_each_way=1,
    look_alike_one_way=0.3,
    suspicion=0.5,
    tail_images=20,
    exposure=2.0,
    blurred=0.25,
    glare=0.25,
    ratio=4.0,
    photo_lost=0.5,
)
GOOD_IMAGE = {"ratio": 2.0, "brightness": 0.5, "sharpness": 0.5, "glare": 0.0}


def typical(classes: Sequence[str]) -> pd.DataFrame:
    """Return GOOD_IMAGE as the typical measures of each class."""
    return pd.DataFrame([GOOD_IMAGE] * len(classes), index=pd.Index(classes, dtype=object)).drop(columns="ratio")


def case(true: str, top1: str, **changes) -> dict:
    """Return a good image of a class with this prediction and these changes."""
    row = {"path": f"{true}/{top1}.jpg", "true": true, "top1": top1, "p1": 0.9, "correct": true == top1}
    return row | {"train_images": 100, "group": "medium", "suspicion": 0.0, "suggested": "", **GOOD_IMAGE} | changes


def cases(*rows: dict) -> pd.DataFrame:
    """Return a table of `case` rows."""
    return pd.DataFrame(rows).assign(row=np.arange(len(rows)))


def predictions(images: int, classes: int, accuracy: float, seed: int = 0) -> Predictions:
    """Return predictions for a long tail of labels; most errors are the neighboring class."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, classes + 1)
    labels = np.concatenate([np.arange(classes), rng.choice(classes, images - classes, p=weights / weights.sum())])
    top = np.stack([labels, *((labels + rng.integers(1, classes, images)) % classes for _ in range(4))], axis=1)
    neighbor = (labels ^ 1) % classes
    wrong = rng.random(images) > accuracy
    top[wrong, 0], top[wrong, 1] = np.where(rng.random(images) < 0.7, neighbor, top[:, 1])[wrong], labels[wrong]
    probabilities = -np.sort(-rng.dirichlet(np.ones(6), images), axis=1)[:, :5]
    return Predictions(labels.astype(np.int32), top.astype(np.int32), probabilities.astype(np.float32))
