"""Results of tables that were never run, with a known truth, and the ablations they are of."""

from functools import cache

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from rp2k_lab import PROJECT
from rp2k_lab.ablation.results import COLUMNS, accuracies, image_row, images_digest, pack
from rp2k_lab.config.ablation import Ablation


@cache
def ablation(name: str) -> Ablation:
    """As `conf/ablation/` has it."""
    folder = PROJECT / "conf" / "ablation"
    files = [OmegaConf.load(folder / f"{stem}.yaml") for stem in ("_common", name)]
    merged = OmegaConf.to_container(OmegaConf.merge(*files))
    merged.pop("defaults")
    return Ablation.model_validate(merged)


def table_of(*levels: str, **changes) -> Ablation:
    """A table of these levels, the first the baseline."""
    settings = ablation("attention").model_dump() | {"name": "made", "baseline": levels[0], "question": "Does it help?"}
    settings["levels"] = {level: {"overrides": ["aug=none"]} for level in levels}
    return Ablation.model_validate(settings | changes)


def split_of(images: int, classes: int = 30, salt: str = "") -> tuple[str, np.ndarray, np.ndarray]:
    """(digest, labels, groups) of a test split with a tail."""
    rng = np.random.default_rng(0)
    labels = np.sort(np.minimum(rng.geometric(0.12, images) - 1, classes - 1))
    groups = np.where(labels < 6, 0, np.where(labels < 14, 1, 2)).astype(np.uint8)
    return images_digest([f"{salt}{i}.jpg" for i in range(images)], [f"c{label}" for label in labels]), labels, groups


def cell(level: str, seed: int, correct: np.ndarray, where, **changes) -> dict:
    """A complete cell."""
    digest, labels, groups = where
    shares = accuracies(correct, labels) | {"top5": min(1.0, correct.mean() + 0.1), "val_top1": correct.mean()}
    kinds = {f"{name}_top1": correct[groups == i].mean() for i, name in enumerate(("head", "medium", "tail"))}
    row = {
        "level": level, "seed": seed, "state": "complete", "reason": "", "run_id": f"{seed:032x}", "trial": seed,
        "commit": "c" * 40, "dirty": False, "command": f"aug=none seed={seed}", "started": "2026-11-20T08:00:00Z",
        "seconds": 60.0, "epochs": 4, "host": "bench", "dataset_fingerprint": "f" * 16, "images_digest": digest,
        "images": len(labels), **shares, **kinds, "correct": pack(correct),
    }  # fmt: skip
    assert set(row) == set(COLUMNS)
    return row | changes


def unfinished(level: str, seed: int, state: str, reason: str = "") -> dict:
    """A cell without a result."""
    return dict.fromkeys(COLUMNS) | {"level": level, "seed": seed, "state": state, "reason": reason, "seconds": 5.0}


def results(truth: dict[str, float], seeds=range(5), images: int = 2000, random_seed: int = 1):
    """(cells, image rows) as frames: each level has `truth` of the images right, with a spread over seeds of 0.4 points
    and half of the images as hard for every run."""
    rng = np.random.default_rng(random_seed)
    where = split_of(images)
    hardness = rng.random(images)
    rows = []
    for level, accuracy in truth.items():
        for seed in seeds:
            own = np.where(rng.random(images) < 0.5, hardness, rng.random(images))
            rows.append(cell(level, seed, own < accuracy + 0.004 * rng.standard_normal(), where))
    return pd.DataFrame(rows), pd.DataFrame([image_row(*where)])
