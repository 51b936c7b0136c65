"""Synthetic results of ablation tables with a known truth."""

from functools import cache

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from rp2k_lab import PROJECT
from rp2k_lab.ablation.results import COLUMNS, accuracies, image_row, images_digest, pack
from rp2k_lab.config.ablation import Ablation


@cache
def ablation(name: str) -> Ablation:
    """Return an ablation of `conf/ablation/`."""
    folder = PROJECT / "conf" / "ablation"
    files = [OmegaConf.load(folder / f"{stem}.yaml") for stem in ("_common", name)]
    merged = OmegaConf.to_container(OmegaConf.merge(*files))
    merged.pop("defaults")
    return Ablation.model_validate(merged)


def table_of(*levels: str, **changes) -> Ablation:
    """Return a table of these levels; the first is the baseline."""
    settings = ablation("attention").model_dump() | {
        "name": "synthetic",
        "baseline": levels[0],
        "question": "Does it help?",
    }
    settings["levels"] = {level: {"overrides": ["aug=none"]} for level in levels}
    return Ablation.model_validate(settings | changes)


def split_of(images: int, classes: int = 30, salt: str = "") -> tuple[str, np.ndarray, np.ndarray]:
    """Return (digest, labels, groups) of a long-tailed test split."""
    rng = np.random.default_rng(0)
    labels = np.sort(np.minimum(rng.geometric(0.12, images) - 1, classes - 1))
    groups = np.where(labels < 6, 0, np.where(labels < 14, 1, 2)).astype(np.uint8)
    return images_digest([f"{salt}{i}.jpg" for i in range(images)], [f"c{label}" for label in labels]), labels, groups


def cell(level: str, seed: int, correct: np.ndarray, where, **changes) -> dict:
    """Return a complete cell; `where` is the result of `split_of`."""
    digest, labels, groups = where
    overall = accuracies(correct, labels) | {"top5": min(1.0, correct.mean() + 0.1), "val_top1": correct.mean()}
    by_group = {f"{name}_top1": correct[groups == i].mean() for i, name in enumerate(("head", "medium", "tail"))}
    row = {
        "level": level, "seed": seed, "state": "complete", "reason": "", "run_id": f"{seed:032x}", "trial": seed,
        "commit": "c" * 40, "dirty": False, "command": f"aug=none seed={seed}", "started": "2026-11-20T08:00:00Z",
        "seconds": 60.0, "epochs": 4, "host": "bench", "dataset_fingerprint": "f" * 16, "images_digest": digest,
        "images": len(labels), **overall, **by_group, "correct": pack(correct),
    }  # fmt: skip
    assert set(row) == set(COLUMNS)
    return row | changes


def unfinished(level: str, seed: int, state: str, reason: str = "") -> dict:
    """Return a cell without a result."""
    return dict.fromkeys(COLUMNS) | {"level": level, "seed": seed, "state": state, "reason": reason, "seconds": 5.0}


def results(truth: dict[str, float], seeds=range(5), images: int = 2000, random_seed: int = 1):
    """Return (cells, image rows) as frames, from the accuracy of each level (`truth`, 0 to 1).

    The seed spread is 0.4 points; in each run, half of the images have the same hardness as in all others.
    """
    rng = np.random.default_rng(random_seed)
    where = split_of(images)
    hardness = rng.random(images)
    rows = []
    for level, accuracy in truth.items():
        for seed in seeds:
            drawn = np.where(rng.random(images) < 0.5, hardness, rng.random(images))
            rows.append(cell(level, seed, drawn < accuracy + 0.004 * rng.standard_normal(), where))
    return pd.DataFrame(rows), pd.DataFrame([image_row(*where)])
