"""What `notebooks/error_cases.py` shows of a task=errors run."""

import numpy as np
import pandas as pd

from rp2k_lab.analysis.causes import CAUSES, MEANINGS
from rp2k_lab.analysis.error_page import MEASURES
from rp2k_lab.analysis.label_issue_score import curve_chart
from rp2k_lab.core.text import percent
from rp2k_lab.evaluation.intervals import wilson_interval
from rp2k_lab.notebook.cells import Shot, Shown, charts, note, photo_rows, table, together
from rp2k_lab.notebook.run_context import ErrorsContext
from rp2k_lab.pages.charts import accuracy_chart, bar_chart

_NEAREST = 3
_CLUSTER_CLASSES = 8


def summary(errors: ErrorsContext) -> Shown:
    """Which run it is, and how often it was wrong."""
    cases, run = errors.tables.cases, errors.run
    right, count = int(cases["correct"].sum()), len(cases)
    facts = {
        "run": f"{run.name} ({run.run_id[:8]}, {run.started:%Y-%m-%d %H:%M})",
        "it looked at": run.tags.get("parent", ""),
        "network": errors.config.model.name,
        "data set": f"{errors.config.dataset.name}, {len(errors.index.classes):,} classes",
        "photos": f"{count:,} of {errors.split}",
        "errors": f"{count - right:,}",
        "top-1": _share(right, count),
    }
    return table(pd.DataFrame({"": facts.keys(), "this run": facts.values()}))


def causes(errors: ErrorsContext) -> Shown:
    """How many errors each cause explains, and what top-1 would be without them."""
    found, correct = errors.tables.causes, errors.tables.cases["correct"]
    bars = [(row.cause, row.main, f"{row.main:,} ({percent(row.share)})") for row in found.itertuples()]
    details = pd.DataFrame(
        {
            "cause": found["cause"],
            "what it means": found["cause"].map(MEANINGS),
            "main cause of": found["main"],
            "found in": found["errors"],
            "top-1 without them": [percent((correct.sum() + main) / len(correct)) for main in found["main"]],
            "most in": found["top_classes"].fillna("").str.split("; ").str[:3].str.join(", "),
        }
    )
    return together(charts({"errors by main cause": bar_chart("errors by main cause", bars)}), table(details))


def examples(errors: ErrorsContext, cause: str, count: int = 3) -> Shown:
    """Errors of a main cause beside both classes and the nearest training photos, those the network was surest of.

    Args:
        cause: one of `analysis.causes.CAUSES`.
    """
    if cause not in CAUSES:
        raise ValueError(f"{cause!r} is no cause; there are {', '.join(CAUSES)}")
    cases, thumbnails = errors.tables.cases, errors.thumbnails
    chosen = cases[cases["cause"] == cause].sort_values("p1", ascending=False, kind="stable")[:count]
    if chosen.empty:
        return note(f"No error of this run has {cause} as its main cause.")
    rows = []
    for case in chosen.to_dict("records"):
        near = [int(row) for row in case["nearest"][:_NEAREST]]
        words = f"labeled {case['true']}, recognized as {case['top1']}: {percent(case['p1'])} sure of it, "
        words += f"{percent(case['p_true'])} of its label"
        shots = [Shot(thumbnails.photo(case["row"])), Shot(thumbnails.example(case["true"]), case["true"])]
        shots.append(Shot(thumbnails.example(case["top1"]), case["top1"]))
        shots += [Shot(thumbnails.photo(row), thumbnails.class_of(row)) for row in near]
        rows.append((words, shots))
    return photo_rows(["the photo", "its class", "what it was taken for", "nearest in train", "", ""], rows)


def accuracy_over_measures(errors: ErrorsContext) -> Shown:
    """Accuracy with its interval over class size, shape, sharpness and brightness."""
    curves = errors.tables.curves
    return charts({words: accuracy_chart(curves[curves["measure"] == name], words) for name, words in MEASURES.items()})


def hardest_classes(errors: ErrorsContext, count: int = 10) -> Shown:
    """Classes that are surely hard: in the order of their interval's upper end, so that one photo proves nothing."""
    classes = errors.tables.classes
    hard = classes[classes["images"] > 0].sort_values(["high", "class"], kind="stable")[:count]
    hits = (hard["accuracy"] * hard["images"]).round().astype(int)
    others = zip(hard["most_confused_with"], hard["confused_images"], strict=True)
    return table(
        pd.DataFrame(
            {
                "class": hard["class"],
                "accuracy": [_share(*each) for each in zip(hits, hard["images"], strict=True)],
                "photos in train": hard["train_images"],
                "most often taken for": [f"{name} ({times} times)" if times else "–" for name, times in others],
            }
        )
    )


def clusters(errors: ErrorsContext, count: int = 4) -> Shown:
    """The families of look-alikes with the most errors among themselves, a training photo of each class."""
    found = errors.tables.clusters[:count]
    if found.empty:
        return note("No two classes of this run are near in feature space and confused in both directions.")
    rows = []
    for cluster in found.itertuples():
        names = list(cluster.classes)[:_CLUSTER_CLASSES]
        words = f"{len(cluster.classes)} classes: {cluster.errors_within} errors among themselves, of "
        words += f"{cluster.images} photos, {percent(cluster.share)} of all errors"
        rows.append((words, [Shot(errors.thumbnails.example(name), name) for name in names]))
    return photo_rows([""] * max(len(shots) for _, shots in rows), rows)


def photo_score(errors: ErrorsContext) -> Shown:
    """Whether the photo was at fault, against a shelf set's truth."""
    score = errors.photo_score
    if score is None:
        return note("Only a shelf set can be drawn again: of this data set nobody knows whose fault an error was.")
    what = {"measured": "blur, exposure, reflections", "all": "every nuisance"}
    return table(
        pd.DataFrame(
            {
                "drawn again without": score["left_out"].map(what),
                "errors": score["errors"],
                "then recognized: the photo's fault": score["fault"],
                "blamed on the photo": score["flagged"],
                "rightly": [_share(*each) for each in zip(score["both"], score["flagged"], strict=True)],
                "found of its faults": [_share(*each) for each in zip(score["both"], score["fault"], strict=True)],
            }
        )
    )


def suspected_labels(errors: ErrorsContext, count: int = 6) -> Shown:
    """The labels that are doubted most, beside the class that is given and the one that is suggested."""
    listed = errors.label_errors
    if listed is None:
        return note("This run ranked no labels: it left no label_errors.csv.")
    if listed.empty:
        return note("This run doubts no label.")
    row_of, thumbnails = pd.Series(errors.index.table.index, errors.index.table["path"]), errors.thumbnails
    rows = []
    for line in listed[:count].itertuples():
        shots = [Shot(thumbnails.photo(int(row_of[line.path]))), Shot(thumbnails.example(line.given), line.given)]
        shots.append(Shot(thumbnails.example(line.suggested), line.suggested))
        rows.append((f"{line.path}: suspicion {line.score:.2f}", shots))
    shown = photo_rows(["the photo", "its label", "suggested"], rows)
    return together(note(f"{len(listed):,} labels are doubted; the first {len(rows)}:"), shown)


def label_curve(errors: ErrorsContext) -> Shown:
    """Precision over recall of the ranked labels, where a shelf set knows which are wrong."""
    curve = errors.label_curve
    if curve is None:
        return note("No truth to hold the ranking against: this run left no label_errors_curve.csv.")
    everything = curve.iloc[-1]  # the list of all ranked photos
    return charts({"precision over recall": curve_chart(curve, everything["found"] / everything["listed"])})


def _share(hits: int, count: int) -> str:
    """Percent with its 95 % interval (Wilson) and count."""
    if not count:
        return "–"
    low, high = 100 * np.array(wilson_interval(int(hits), int(count)))
    return f"{percent(hits / count)} [{low:.1f}, {high:.1f}] of {count:,}"
