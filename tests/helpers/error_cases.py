"""Cases whose causes are known, and predictions of any size."""

import numpy as np
import pandas as pd

from rp2k_lab.config.thresholds import Rules
from rp2k_lab.evaluation.metrics import Predictions

RULES = Rules(
    look_alike_cosine=0.3,
    look_alike_each_way=1,
    suspicion=0.5,
    tail_images=20,
    exposure=2.0,
    blurred=0.25,
    glare=0.25,
    ratio=4.0,
)
GOOD_PHOTO = {"ratio": 2.0, "brightness": 0.5, "sharpness": 0.5, "glare": 0.0}


def usual(classes) -> pd.DataFrame:
    """What the photos of each class measure, GOOD_PHOTO in all."""
    return pd.DataFrame([GOOD_PHOTO] * len(classes), index=pd.Index(classes, dtype=object)).drop(columns="ratio")


def case(true: str, top1: str, **changes) -> dict:
    """A photo with nothing wrong but what is said."""
    row = {"path": f"{true}/{top1}.jpg", "true": true, "top1": top1, "p1": 0.9, "correct": true == top1}
    return row | {"train_images": 100, "group": "medium", "suspicion": 0.0, "suggested": "", **GOOD_PHOTO} | changes


def cases(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame(rows).assign(row=np.arange(len(rows)))


def predictions(photos: int, classes: int, accuracy: float, seed: int = 0) -> Predictions:
    """A long tail of labels; a wrong photo is mostly taken for a neighbor among the classes."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, classes + 1)
    labels = np.concatenate([np.arange(classes), rng.choice(classes, photos - classes, p=weights / weights.sum())])
    top = np.stack([labels, *((labels + rng.integers(1, classes, photos)) % classes for _ in range(4))], axis=1)
    neighbor = (labels ^ 1) % classes
    wrong = rng.random(photos) > accuracy
    top[wrong, 0], top[wrong, 1] = np.where(rng.random(photos) < 0.7, neighbor, top[:, 1])[wrong], labels[wrong]
    probabilities = -np.sort(-rng.dirichlet(np.ones(6), photos), axis=1)[:, :5]
    return Predictions(labels.astype(np.int32), top.astype(np.int32), probabilities.astype(np.float32))
