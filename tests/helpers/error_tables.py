"""Synthetic tables of an analysis, with every column that the errors' page reads."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd

from rp2k_lab.analysis.causes import CAUSES
from rp2k_lab.analysis.compare import STATES
from rp2k_lab.evaluation.intervals import wilson_interval


def tables(images: int, names: list[str], accuracy: float = 0.6, seed: int = 0) -> SimpleNamespace:
    """Return cases, classes, clusters, causes, curves and pairs; rows start at 100."""
    rng = np.random.default_rng(seed)
    count, named = len(names), np.array(names, object)
    true = np.minimum(rng.geometric(3 / count, images) - 1, count - 1)
    correct = rng.random(images) < accuracy
    tops = (true[:, None] + np.arange(5)) % count  # neighbors confuse each other
    tops[~correct, 0], tops[~correct, 1] = tops[~correct, 1], tops[~correct, 0]
    p = -np.sort(-rng.dirichlet(np.ones(6), images).astype(np.float32))[:, :5]
    cases = pd.DataFrame({"path": [f"test/{name}/{i}.jpg" for i, name in enumerate(named[true])], "true": named[true]})
    for k in range(5):
        cases[f"top{k + 1}"], cases[f"p{k + 1}"] = named[tops[:, k]], p[:, k]
    train_images = (1000 / (1 + np.arange(count))).astype(int) + 1
    cases["correct"], cases["row"] = correct, np.arange(images, dtype=np.int32) + 100
    cases["p_true"] = np.where(correct, p[:, 0], p[:, 1]).astype(np.float32)
    cases["train_images"] = train_images[true]
    cases["height"], cases["width"] = rng.integers(20, 900, (2, images))
    cases["ratio"] = cases["height"] / cases["width"]
    for name in ("brightness", "contrast", "sharpness", "glare", "suspicion"):
        cases[name] = rng.random(images)
    cases["class_measured"] = train_images[true]
    for name in ("brightness", "contrast", "sharpness", "glare", "ratio"):
        cases[f"{name}_below"] = rng.random(images).astype(np.float32)
        cases[f"{name}_above"] = 1 - cases[f"{name}_below"]
    holds = (rng.random((images, len(CAUSES))) < 0.3) & ~correct[:, None]
    holds[:, -1] = ~correct & ~holds[:, :-1].any(1)
    for i, name in enumerate(CAUSES):
        cases[f"cause_{name}"] = holds[:, i]
    cases["cause"] = np.where(correct, "", np.array(list(CAUSES), object)[holds.argmax(1)])
    cases["suggested"] = np.where(cases["cause_suspected_label"], cases["top1"], "")
    cases["nearest"] = [[0, 1, 2] if wrong else [] for wrong in ~correct]
    cases["nearest_distance"] = np.where(correct, np.nan, 0.25)
    return SimpleNamespace(
        cases=cases,
        classes=_classes(cases, names, train_images),
        clusters=_clusters(cases, names),
        causes=_causes(cases),
        curves=_curves(cases),
        pairs=_pairs(cases, named, rng),
    )


def _classes(cases: pd.DataFrame, names: list[str], train_images: np.ndarray) -> pd.DataFrame:
    counts = cases.groupby("true")["correct"].agg(["size", "sum"]).reindex(names, fill_value=0)
    bounds = [wilson_interval(int(correct), int(size)) for size, correct in counts.to_numpy()]
    table = pd.DataFrame({"class": names, "images": counts["size"].to_numpy(), "train_images": train_images})
    table["accuracy"] = np.divide(counts["sum"], counts["size"]).to_numpy()
    table["low"], table["high"] = zip(*bounds, strict=True)
    wrong = cases[~cases["correct"]].groupby("true").size().reindex(names, fill_value=0).to_numpy()
    table["most_confused_with"] = [names[(i + 1) % len(names)] if n else "" for i, n in enumerate(wrong)]
    table["confused_images"], table["cluster"] = wrong, np.arange(len(names)) // 3
    table["map_x"], table["map_y"] = np.random.default_rng(0).random((2, len(names)), np.float32)
    return table


def _clusters(cases: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    cluster = {name: i // 3 for i, name in enumerate(names)}
    own, other = (cases[column].map(cluster).to_numpy() for column in ("true", "top1"))
    count = len(names) // 3
    wrong = ~cases["correct"].to_numpy()
    within = np.bincount(own[wrong & (own == other)], minlength=count)[:count]
    table = pd.DataFrame({"cluster": range(count), "classes": [names[3 * i : 3 * i + 3] for i in range(count)]})
    table["images"], table["errors_within"] = np.bincount(own, minlength=count)[:count], within
    return table.assign(share=within / max(1, wrong.sum()))


def _causes(cases: pd.DataFrame) -> pd.DataFrame:
    wrong, rows = cases[~cases["correct"]], []
    for name in CAUSES:
        held, main = wrong[wrong[f"cause_{name}"]], int((wrong["cause"] == name).sum())
        rows.append((name, len(held), main, main / max(1, len(wrong)), list(held["true"].value_counts().index[:5])))
    return pd.DataFrame(rows, columns=["cause", "errors", "main", "share", "top_classes"])


def _curves(cases: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for measure in ("train_images", "ratio", "sharpness", "brightness"):
        edges = np.quantile(cases[measure], np.linspace(0, 1, 9))
        for low, high in pairwise(edges):
            part = cases.loc[cases[measure].between(low, high), "correct"]
            rows.append((measure, low, high, len(part), part.mean(), *wilson_interval(int(part.sum()), len(part))))
    return pd.DataFrame(rows, columns=["measure", "low_edge", "high_edge", "images", "accuracy", "low", "high"])


def _pairs(cases: pd.DataFrame, named: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    before = rng.random(len(cases)) < 0.5
    chosen = ~(cases["correct"].to_numpy() & before)
    table = cases.loc[chosen, ["row"]].reset_index(drop=True)
    now, before = cases["correct"].to_numpy()[chosen], before[chosen]
    table["state"] = np.array(STATES, object)[np.where(now, 0, np.where(before, 1, 2))]
    table["top1_first"] = np.where(before, cases.loc[chosen, "true"], cases.loc[chosen, "top2"])
    table["p1_first"] = rng.random(len(table)).astype(np.float32)
    return table
