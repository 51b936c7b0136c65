"""The metrics of a split: what a run logs after each epoch and at its end, prints, and hands to tables of levels.

A metric is a function with the decorator `metric`; nothing else names it.  Ours are below.  An installed package uses
the same decorator in the module of its entry point (`rp2k_lab.plugins`).
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from rp2k_lab import plugins
from rp2k_lab.core.errors import RequestError
from rp2k_lab.evaluation.intervals import macro_interval, wilson_interval

if TYPE_CHECKING:
    import pandas as pd

# The other columns of an ablation's results.csv and verdict.csv.
RESERVED = frozenset({
    "level", "seed", "state", "reason", "run_id", "trial", "commit", "dirty", "command", "started", "seconds",
    "epochs", "host", "dataset_fingerprint", "images_digest", "images", "val_top1", "correct", "baseline", "word",
    "metric", "margin", "seeds_done", "seeds_wanted", "mean", "sd", "difference", "low", "high", "p", "bound",
    "standard_error", "degrees_of_freedom", "seeds_level", "seeds_baseline", "units", "cell_variance",
    "image_variance", "rest_variance", "published", "published_difference", "published_shown",
    "published_shown_as_ours", "seeds_failed", "seeds_running", "seeds_missing", "not_compared", "notes", "native",
})  # fmt: skip
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_ROUNDING = 1e-9  # a mean of ones may be a little more than 1


@dataclass(frozen=True)
class Predictions:
    """A network's predictions for a split, one row an image, in the split's order.

    Attributes:
        labels: the true ones, int32 (images,).
        top_labels: int32 (images, k), most probable first, k = min(5, classes).
        top_probabilities: float32 (images, k).
    """

    labels: np.ndarray
    top_labels: np.ndarray
    top_probabilities: np.ndarray


@dataclass(frozen=True)
class Score:
    """A metric's value with the number of images it was measured on and its 95 % interval (NaN: unknown)."""

    value: float
    count: int
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class SplitResult:
    """What a metric is computed from.

    Attributes:
        predictions: of all images of the split, one or more.
        table: one row a class, in label order: class (name), group (head, medium, tail), train_images, images, correct,
            accuracy (NaN without images); see `metrics.per_class`.  And coarse (name), if the data set has kinds of
            products (`Scan.coarse_classes`).
        catch_all_class: name of the class of everything else, or None; the data set may lack it.
    """

    predictions: Predictions
    table: "pd.DataFrame"
    catch_all_class: str | None

    def top1(self, classes: "pd.Series | slice" = slice(None)) -> Score | None:
        """Return the fraction of images that are right, of all classes or those of a mask, bool (classes,)."""
        part = self.table[classes]
        return fraction(part["correct"].sum(), part["images"].sum())


def fraction(correct: int, count: int) -> Score | None:
    """Return correct / count with Wilson's interval; None for a count of 0."""
    correct, count = int(correct), int(count)  # NumPy's
    return Score(correct / count, count, *wilson_interval(correct, count)) if count else None


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: val/<name> and test/<name> are a run's metrics, <name> is a column of results.csv.
        label: its row in the closing table.
        heading: its column in the pages of tables.
        kind: fraction: from 0 to 1, printed in percent; number: any finite value.
        in_tables: tables of levels collect and show it.
        in_curves: the run's figure of curves shows it, if it is a fraction.
        higher_is_better: whether early stopping maximizes it.
        compute: returns the score, or None where the split has none.
    """

    name: str
    label: str
    heading: str
    kind: Literal["fraction", "number"]
    in_tables: bool
    in_curves: bool
    higher_is_better: bool
    compute: Callable[[SplitResult], Score | None]

    def measure(self, result: SplitResult) -> Score | None:
        """Return the score of a split; a fraction is within [0, 1].

        Raises:
            RequestError: the value is out of range, NaN or infinite.
        """
        score = self.compute(result)
        if score is None:
            return None
        if self.kind == "fraction" and -_ROUNDING <= score.value <= 1 + _ROUNDING:
            return replace(score, value=min(max(float(score.value), 0.0), 1.0))
        if self.kind == "number" and math.isfinite(score.value):
            return replace(score, value=float(score.value))
        needed = "a fraction from 0 to 1" if self.kind == "fraction" else "a finite number"
        raise RequestError(
            f"metric {self.name}: {score.value} is not {needed}\ncorrect or uninstall {self.compute.__module__}"
        )

    def text(self, value: float) -> str:
        """Return a value for a page: 62.3 %, 0.0413; NaN is –."""
        if math.isnan(value):
            return "–"
        return f"{100 * value:.1f} %" if self.kind == "fraction" else f"{value:.4g}"


_registered: dict[str, Metric] = {}
Compute = Callable[[SplitResult], Score | None]


def metric(
    name: str,
    label: str,
    *,
    heading: str = "",
    kind: Literal["fraction", "number"] = "fraction",
    in_tables: bool = True,
    in_curves: bool = True,
    higher_is_better: bool = True,
) -> Callable[[Compute], Compute]:
    """Return a decorator that registers a function as a metric; the arguments are described at `Metric`.

    Args:
        heading: "" is the label.

    Raises:
        RequestError: an impossible name, or one that another function has.
    """

    def add(compute: Compute) -> Compute:
        where = f"{compute.__module__}.{compute.__qualname__}"
        if not _NAME.fullmatch(name) or name in RESERVED:
            raise RequestError(
                f"{where}: a metric cannot have the name {name}\n"
                "use lower-case letters, digits and _, and no name of another column of results.csv or verdict.csv"
            )
        other = _registered.get(name)
        # A module that failed half-way is imported again, with new functions of the same places.
        if other and where != f"{other.compute.__module__}.{other.compute.__qualname__}":
            raise RequestError(
                f"metric {name}: both {other.compute.__module__} and {compute.__module__} register it\n"
                "uninstall one of the two packages"
            )
        _registered[name] = Metric(name, label, heading or label, kind, in_tables, in_curves, higher_is_better, compute)
        return compute

    return add


def metrics() -> dict[str, Metric]:
    """Return all metrics by name: ours, then those of installed packages.

    Raises:
        RequestError: a package cannot be imported, or two register the same name.
    """
    plugins.load()
    return dict(_registered)


@metric("top1", "top-1")
def top1(result: SplitResult) -> Score | None:
    """Return the fraction of images whose most probable class is right."""
    return result.top1()


@metric("top5", "top-5")
def top5(result: SplitResult) -> Score | None:
    """Return the fraction of images whose class is among the five most probable."""
    predictions = result.predictions
    right = (predictions.top_labels == predictions.labels[:, None]).any(1)
    return fraction(right.sum(), len(right))


@metric("macro_top1", "macro top-1")
def macro_top1(result: SplitResult) -> Score | None:
    """Return the mean accuracy of the classes with images."""
    seen = result.table[result.table["images"] > 0]
    interval = macro_interval(seen["correct"].to_numpy(), seen["images"].to_numpy())
    return Score(float(seen["accuracy"].mean()), len(result.predictions.labels), *interval)


@metric("coarse_top1", "coarse top-1", in_tables=False, in_curves=False)
def coarse_top1(result: SplitResult) -> Score | None:
    """Return the fraction of images whose most probable class is of the right kind; None if there are no kinds."""
    if "coarse" not in result.table:
        return None
    kinds, predictions = result.table["coarse"].to_numpy(object), result.predictions
    right = kinds[predictions.top_labels[:, 0]] == kinds[predictions.labels]
    return fraction(right.sum(), len(right))


@metric("head_top1", "head top-1", heading="head", in_curves=False)
def head_top1(result: SplitResult) -> Score | None:
    """Return the fraction of right images of the classes with many training images (`dataset.class_groups`)."""
    return result.top1(result.table["group"] == "head")


@metric("medium_top1", "medium top-1", heading="medium", in_curves=False)
def medium_top1(result: SplitResult) -> Score | None:
    """Return the fraction of right images of the classes between head and tail."""
    return result.top1(result.table["group"] == "medium")


@metric("tail_top1", "tail top-1", heading="tail", in_curves=False)
def tail_top1(result: SplitResult) -> Score | None:
    """Return the fraction of right images of the classes with few training images."""
    return result.top1(result.table["group"] == "tail")


@metric("top1_without_others", "top-1 without catch-all", in_tables=False, in_curves=False)
def top1_without_others(result: SplitResult) -> Score | None:
    """Return the fraction of right images without the catch-all class; None if the data set has no such class."""
    ordinary = result.table["class"] != result.catch_all_class
    return None if ordinary.all() else result.top1(ordinary)
