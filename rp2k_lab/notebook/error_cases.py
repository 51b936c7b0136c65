"""Cells of `notebooks/error_cases.py`: a task=errors run."""

import numpy as np
import pandas as pd

from rp2k_lab.analysis.causes import CAUSES, MEANINGS
from rp2k_lab.analysis.error_page import MEASURES
from rp2k_lab.analysis.label_issue_score import curve_chart
from rp2k_lab.analysis.redraw_check import NAMES
from rp2k_lab.core.text import percent
from rp2k_lab.evaluation.intervals import wilson_interval
from rp2k_lab.notebook.cells import CellOutput, Thumbnail, charts, note, stack, table, thumbnail_rows
from rp2k_lab.notebook.run_context import ErrorsContext
from rp2k_lab.pages.charts import accuracy_chart, bar_chart

_NEAREST = 3
_CLUSTER_CLASSES = 8


def summary(errors: ErrorsContext) -> CellOutput:
    """Return the run, the analyzed run and the number of errors."""
    cases, run = errors.tables.cases, errors.run
    correct, count = int(cases["correct"].sum()), len(cases)
    facts = {
        "run": f"{run.name} ({run.run_id[:8]}, {run.started:%Y-%m-%d %H:%M})",
        "analyzed run": run.tags.get("parent", ""),
        "network": errors.config.model.name,
        "data set": f"{errors.config.dataset.title}, {len(errors.index.classes):,} classes",
        "photos": f"{count:,} of {errors.split}",
        "errors": f"{count - correct:,}",
        "top-1": _rate(correct, count),
    }
    return table(pd.DataFrame({"": facts.keys(), "this run": facts.values()}))


def causes(errors: ErrorsContext) -> CellOutput:
    """Return the errors by cause, and top-1 without them."""
    by_cause, correct = errors.tables.causes, errors.tables.cases["correct"]
    bars = [(row.cause, row.main, f"{row.main:,} ({percent(row.share)})") for row in by_cause.itertuples()]
    details = pd.DataFrame(
        {
            "cause": by_cause["cause"],
            "meaning": by_cause["cause"].map(MEANINGS),
            "main cause of": by_cause["main"],
            "cause of": by_cause["errors"],
            "top-1 without them": [percent((correct.sum() + main) / len(correct)) for main in by_cause["main"]],
            "most in": by_cause["top_classes"].fillna("").str.split("; ").str[:3].str.join(", "),
        }
    )
    return stack(charts({"errors by main cause": bar_chart("errors by main cause", bars)}), table(details))


def examples(errors: ErrorsContext, cause: str, count: int = 3) -> CellOutput:
    """Return the most confident errors of a main cause, with both classes and the nearest training photos.

    Args:
        cause: one of `analysis.causes.CAUSES`.
    """
    if cause not in CAUSES:
        raise ValueError(f"{cause!r} is no cause\nuse one of {', '.join(CAUSES)}")
    cases, thumbnails = errors.tables.cases, errors.thumbnails
    chosen = cases[cases["cause"] == cause].sort_values("p1", ascending=False, kind="stable")[:count]
    if chosen.empty:
        return note(f"No error of this run has {cause} as its main cause.")
    rows = []
    for case in chosen.to_dict("records"):
        neighbors = [int(row) for row in case["nearest"][:_NEAREST]]
        title = f"labeled {case['true']}, recognized as {case['top1']}: {percent(case['p1'])}, "
        title += f"its label: {percent(case['p_true'])}"
        images = [Thumbnail(thumbnails.image(case["row"]))]
        images += [Thumbnail(thumbnails.example(name), name) for name in (case["true"], case["top1"])]
        images += [Thumbnail(thumbnails.image(row), thumbnails.class_of(row)) for row in neighbors]
        rows.append((title, images))
    return thumbnail_rows(["photo", "true class", "predicted class", "nearest in train", "", ""], rows)


def accuracy_over_measures(errors: ErrorsContext) -> CellOutput:
    """Return accuracy with its interval by class size, shape, sharpness and brightness."""
    curves = errors.tables.curves
    return charts({title: accuracy_chart(curves[curves["measure"] == name], title) for name, title in MEASURES.items()})


def hardest_classes(errors: ErrorsContext, count: int = 10) -> CellOutput:
    """Return the hardest classes by the upper end of their interval, which one wrong photo hardly lowers."""
    classes = errors.tables.classes
    hard = classes[classes["images"] > 0].sort_values(["high", "class"], kind="stable")[:count]
    hits = (hard["accuracy"] * hard["images"]).round().astype(int)
    confusions = zip(hard["most_confused_with"], hard["confused_images"], strict=True)
    return table(
        pd.DataFrame(
            {
                "class": hard["class"],
                "accuracy": [_rate(*each) for each in zip(hits, hard["images"], strict=True)],
                "photos in train": hard["train_images"],
                "most often predicted": [f"{name} ({times} times)" if times else "–" for name, times in confusions],
            }
        )
    )


def clusters(errors: ErrorsContext, count: int = 4) -> CellOutput:
    """Return the look-alike clusters with the most internal errors, with a training photo of each class."""
    largest = errors.tables.clusters[:count]
    if largest.empty:
        return note("No two classes of this run are look-alikes.")
    rows = []
    for cluster in largest.itertuples():
        names = list(cluster.classes)[:_CLUSTER_CLASSES]
        title = f"{len(cluster.classes)} classes: {cluster.errors_within} errors within, "
        title += f"{cluster.images} photos, {percent(cluster.share)} of all errors"
        rows.append((title, [Thumbnail(errors.thumbnails.example(name), name) for name in names]))
    return thumbnail_rows([""] * max(len(images) for _, images in rows), rows)


def photo_score(errors: ErrorsContext) -> CellOutput:
    """Return precision and recall of the cause `photo` against a shelf set's truth."""
    score = errors.photo_score
    if score is None:
        return note("Only a shelf set can be redrawn: for this data set, the photos' faults are unknown.")
    return table(
        pd.DataFrame(
            {
                "the photo": score["left_out"].map(NAMES),
                "errors": score["errors"],
                "recognized (photo at fault)": score["fault"],
                "cause photo": score["flagged"],
                "precision": [_rate(*each) for each in zip(score["both"], score["flagged"], strict=True)],
                "recall": [_rate(*each) for each in zip(score["both"], score["fault"], strict=True)],
            }
        )
    )


def suspected_labels(errors: ErrorsContext, count: int = 6) -> CellOutput:
    """Return the most suspicious labels, with examples of the given and the suggested class."""
    listed = errors.label_errors
    if listed is None:
        return note("This run ranked no labels: label_errors.csv is missing.")
    if listed.empty:
        return note("This run suspects no label.")
    row_of, thumbnails = pd.Series(errors.index.table.index, errors.index.table["path"]), errors.thumbnails
    rows = []
    for line in listed[:count].itertuples():
        images = [Thumbnail(thumbnails.image(int(row_of[line.path])))]
        images += [Thumbnail(thumbnails.example(name), name) for name in (line.given, line.suggested)]
        rows.append((f"{line.path}: suspicion {line.score:.2f}", images))
    output = thumbnail_rows(["photo", "label", "suggested"], rows)
    return stack(note(f"{len(listed):,} labels are suspected; the first {len(rows)}:"), output)


def label_curve(errors: ErrorsContext) -> CellOutput:
    """Return precision over recall of the ranked labels of a shelf set with wrong labels."""
    curve = errors.label_curve
    if curve is None:
        return note("The wrong labels are unknown: label_errors_curve.csv is missing.")
    full_list = curve.iloc[-1]
    return charts({"precision over recall": curve_chart(curve, full_list["found"] / full_list["listed"])})


def _rate(hits: int, count: int) -> str:
    """Return a percentage with its 95 % interval (Wilson) and count."""
    if not count:
        return "–"
    low, high = 100 * np.array(wilson_interval(int(hits), int(count)))
    return f"{percent(hits / count)} [{low:.1f}, {high:.1f}] of {count:,}"
