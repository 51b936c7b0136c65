"""Figures of a run, as PNG files."""

import importlib.util
from itertools import cycle
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager

from rp2k_lab.core.text import escape_controls, shorten
from rp2k_lab.dataset.image import letterbox, read_image
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.evaluation.metric_registry import metrics

matplotlib.use("Agg")
CURVE_COLORS = ("#1f5fa8", "#9aa5b1", "#d1495b", "#2a9d6f", "#e9a03b", "#7b5ea7")
GROUP_COLORS = {"head": "#1f5fa8", "medium": "#2a9d6f", "tail": "#d1495b"}
IMAGE_SIDE = 96  # pixels
MOST_CONFUSED = 20  # pairs


def _use_readable_fonts() -> None:
    """Add Noto Sans SC (from the package zhplot): matplotlib's default font lacks Chinese class names."""
    package = importlib.util.find_spec("zhplot")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("zhplot is not installed")
    font_manager.fontManager.addfont(Path(package.origin).parent / "fonts" / "NotoSansSC-Regular.ttf")
    plt.rcParams.update({"font.family": ["DejaVu Sans", "Noto Sans SC"], "figure.dpi": 110, "savefig.bbox": "tight"})
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25})


_use_readable_fonts()


def plot_curves(history: dict[str, list[tuple[int, float]]], file: Path) -> Path:
    """Plot loss and learning rate by step, and the fractions among the metrics of val by epoch; return the file."""
    figure, (loss, rate, accuracy) = plt.subplots(1, 3, figsize=(13, 3.6))
    steps, losses = np.array(history["train/loss"]).T
    loss.plot(steps, losses, color="#9aa5b1", linewidth=0.6, label="each step")
    window = max(1, len(losses) // 50)
    smooth = np.convolve(losses, np.ones(window) / window, "valid")
    loss.plot(steps[window - 1 :], smooth, color=GROUP_COLORS["head"], label=f"mean of {window}")
    loss.set(xlabel="step", ylabel="training loss")
    loss.legend(frameon=False)
    rate.plot(*np.array(history["train/lr"]).T, color=GROUP_COLORS["medium"])
    rate.set(xlabel="step", ylabel="learning rate")
    shown = [metric.name for metric in metrics().values() if metric.in_curves and metric.kind == "fraction"]
    shown = [name for name in shown if history.get(f"val/{name}")]
    for name, color in zip(shown, cycle(CURVE_COLORS), strict=False):
        values = np.array(history[f"val/{name}"]).T
        accuracy.plot(*values, marker="o", markersize=3, color=color, label=f"val {name}")
    accuracy.set(xlabel="step", ylabel="accuracy", ylim=(0, 1))
    accuracy.legend(frameon=False)
    return _save(figure, file)


def plot_accuracy_over_class_size(table: pd.DataFrame, split: str, file: Path) -> Path:
    """Plot each class's accuracy over its training images; a dot's area shows its images; return the file."""
    figure, axes = plt.subplots(figsize=(7, 4.2))
    seen = table[table["images"] > 0]
    for group, color in GROUP_COLORS.items():
        part = seen[seen["group"] == group]
        if part.empty:
            continue
        accuracy = part["correct"].sum() / part["images"].sum()
        label = f"{group}: {len(part)} classes, {100 * accuracy:.1f} % of {part['images'].sum()} images"
        size = 8 + 60 * np.sqrt(part["images"] / seen["images"].max())
        axes.scatter(part["train_images"], part["accuracy"], s=size, color=color, alpha=0.65, linewidths=0, label=label)
    axes.set(xscale="log", xlabel="training images of the class", ylabel=f"accuracy on {split}", ylim=(-0.03, 1.03))
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 1.2))
    return _save(figure, file)


def plot_confused_pairs(predictions: pd.DataFrame, index: Index, split: str, file: Path) -> Path | None:
    """Draw the most confused pairs of classes, both directions added; return the file, or None without errors.

    The left image of a pair is a misclassified one, the right a training image of the predicted class.
    """
    wrong = predictions[~predictions["correct"]]
    if wrong.empty:
        return None
    key = [" ⇄ ".join(sorted(pair)) for pair in zip(wrong["true"], wrong["top1"], strict=True)]
    groups = sorted(wrong.groupby(key), key=lambda item: (-len(item[1]), item[0]))[:MOST_CONFUSED]
    columns = 4 if len(groups) > 3 else len(groups)
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.1 * columns, 2.3 * rows), squeeze=False)
    train = index.split("train").groupby("class")["path"].first()
    for axis in axes.flat:
        axis.axis("off")
    for axis, (_, errors) in zip(axes.flat, groups, strict=False):
        first = errors.iloc[0]
        other = train.get(first["top1"])  # None: an enrolled product, whose photos are elsewhere
        sides = [_thumbnail(index.root / first["path"]), _blank() if other is None else _thumbnail(index.root / other)]
        axis.imshow(np.concatenate([sides[0], np.full((IMAGE_SIDE, 6, 3), 255, np.uint8), sides[1]], axis=1))
        count = int((errors["true"] == first["true"]).sum())
        names = f"{_short(first['true'])}\nread as {_short(first['top1'])}"
        axis.set_title(f"{names}\n{count} times, {len(errors) - count} the other way", fontsize=7.5)
    title = f"The {len(groups)} most confused pairs on {split}"
    figure.suptitle(f"{title}: a misread photo beside a training photo of the predicted class")
    figure.tight_layout()
    return _save(figure, file)


def _thumbnail(path: Path) -> np.ndarray:
    return letterbox(read_image(path), (IMAGE_SIDE, IMAGE_SIDE))


def _blank() -> np.ndarray:
    return np.full((IMAGE_SIDE, IMAGE_SIDE, 3), 230, np.uint8)


def _short(name: str) -> str:
    """Return a class name that fits above a thumbnail; `$` would start a formula in matplotlib."""
    return shorten(escape_controls(name), 22).replace("$", r"\$")


def _save(figure, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    plt.close(figure)
    return file
