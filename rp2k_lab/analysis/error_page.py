"""The errors' page: one HTML file with its data, thumbnails, charts, styles and script, for use without a network.

Names of classes and files are untrusted data.  They reach the page as JSON without `<`, the script writes them as text,
and the page's content security policy blocks all other scripts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from rp2k_lab.analysis.causes import CAUSES, MEANINGS
from rp2k_lab.analysis.class_map import ACCURACIES, class_map_chart
from rp2k_lab.analysis.compare import STATES
from rp2k_lab.analysis.label_issue_score import LabelScore, curve_chart
from rp2k_lab.analysis.page_budget import NO_THUMBNAILS, PageBudget, add_large, add_thumbnails
from rp2k_lab.analysis.redraw_check import NAMES
from rp2k_lab.analysis.tables import ErrorTables
from rp2k_lab.analysis.thumbnails import Thumbnails
from rp2k_lab.core.text import escape_controls, percent, shorten_middle
from rp2k_lab.pages.charts import accuracy_chart
from rp2k_lab.pages.template import render, script_json, script_values

MAX_BYTES = 20_000_000
MAX_ROW_BYTES = 8_000_000  # for the errors' texts and numbers; 39,027 errors take about 6 MB
_MARGIN = 1000  # bytes for the note on omissions
MEASURES = {
    "train_images": "training photos of the class",
    "ratio": "height / width",
    "sharpness": "sharpness (low: blurred)",
    "brightness": "brightness",
}
_IMAGE_MEASURES = ("height", "width", "brightness", "contrast", "sharpness", "glare")
# Sentences about a photo against its class: a column of `photo_quality.class_ranks`, and its words.
_SENTENCES = {
    "sharpness_above": "blurrier than",
    "brightness_above": "darker than",
    "brightness_below": "brighter than",
    "contrast_above": "lower in contrast than",
    "glare_below": "more reflecting than",
    "ratio_below": "taller, for its width, than",
    "ratio_above": "wider, for its height, than",
}
_UNUSUAL = 0.95  # of the class, for a sentence
_LEAST_MEASURED = 10  # other photos of the class, for a sentence
_MOST_SENTENCES = 3
_NAME = 34  # characters of a class name in a table
REVIEWED = "reviewed_labels.csv"  # the downloaded list


@dataclass(frozen=True)
class Review:
    """What the page's decisions about labels belong to.

    Attributes:
        key: names them in the browser's storage: the same for every page about the same labels.
        split: of the photos.
        command: trains on the downloaded list; "" if `dataset.relabel` refuses photos of this split.
        earlier: (path, given, suggested) of the lines that `dataset.relabel` follows already; the photos have the
            suggested labels, and the downloaded list includes the lines.
    """

    key: str
    split: str
    command: str
    earlier: Sequence[tuple[str, str, str]] = ()


@dataclass(frozen=True)
class Content:
    """What the page shows.

    Attributes:
        facts: names and values below the heading: the run, the split, top-1.
        tables: of the analysis.
        review: of the suspected labels.
        pairs: from `compare.pair_table` of an earlier run and the cases; None: no comparison.
        label_score: from `label_issue_score.score_labels`, if the truth is known.
        photo_score: from `redraw_check.photo_score`, if the truth is known.
    """

    facts: Mapping[str, str]
    tables: ErrorTables
    review: Review
    pairs: pd.DataFrame | None = None
    label_score: LabelScore | None = None
    photo_score: pd.DataFrame | None = None


def write_page(file: Path, content: Content, thumbnails: Thumbnails) -> dict[str, int]:
    """Write the page, at most `MAX_BYTES` long, and return what did not fit.

    Args:
        thumbnails: source of the images.

    Returns:
        Errors left out as rows (only counted), images (without a thumbnail) and explanations (without the heat map and
        the nearest training images).
    """
    tables, errors = content.tables, page_order(content.tables.cases, content.pairs)
    names = list(dict.fromkeys([*tables.classes["class"], *_names_in(errors)]))
    ids = {name: i for i, name in enumerate(names)}
    errors = errors.to_dict("records")
    rows = [_row(error, ids) for error in errors]
    lengths = np.cumsum([len(script_json(row).encode()) + 1 for row in rows])
    fitting = int((lengths <= MAX_ROW_BYTES).sum())
    rows, errors, left_out = rows[:fitting], errors[:fitting], {"rows": len(rows) - fitting}
    suspected = sum(error["suggested"] != "" for error in errors)
    values = _values(content) | {"suspected": suspected, "method": thumbnails.method}
    data = _data(content, errors, ids)
    data["method"] = thumbnails.method
    empty = {"rows": rows, "thumbnails": [], "examples": {}, "large": [{}, {}]}
    frame = len(_page(values, data | empty, left_out).encode())
    budget = PageBudget(MAX_BYTES - frame - _MARGIN)
    left_out |= add_thumbnails(budget, rows, errors, ids, data["clusters"], thumbnails)
    budget.begin_large()
    large = add_large(budget, errors, ids, thumbnails)
    data |= {"rows": rows, "thumbnails": budget.thumbnails, "examples": budget.examples(ids), "large": large}
    file.write_text(_page(values, data, left_out), "utf-8")
    return left_out


def page_order(cases: pd.DataFrame, pairs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the cases of the page in its default order: the errors or, with `pairs`, the errors of either run.

    Main causes (with `pairs`, also states) take turns, the most confident error first.  Thumbnails are added in this
    order until the page is full, so that every cause has some.  `pairs` as in `Content`.
    """
    if pairs is None:
        errors = cases[~cases["correct"].to_numpy(bool)].assign(state="", top1_first="", p1_first=np.nan)
    else:
        errors = cases.merge(pairs[["row", "state", "top1_first", "p1_first"]], "inner", on="row")
    errors = errors.sort_values("p1", ascending=False, kind="stable")
    turn = errors.groupby(["state", "cause"], sort=False).cumcount()
    return errors.assign(turn=turn).sort_values("turn", kind="stable", ignore_index=True)


def _page(values: dict, data: dict, left_out: dict[str, int]) -> str:
    folder = Path(__file__).parent
    values = values | {"left_out": {"rows": 0, "images": 0, "explanations": 0} | left_out}
    values |= script_values(data, folder / "error_page.js", folder / "error_review.js")
    values |= {"style": Markup((folder / "error_page.css").read_text("utf-8")), "shorten_middle": shorten_middle}
    return render(values, folder / "error_page.html.jinja")


def _data(content: Content, errors: Sequence[dict], ids: dict[str, int]) -> dict[str, Any]:
    """Return the script's data without rows and images.

    Args:
        errors: that fit.
        ids: class name to its position among the names.
    """
    in_list = [error["path"] if error["suggested"] else "" for error in errors]
    return {
        "names": [escape_controls(name) for name in ids],
        "exact": {"names": _exact(list(ids)), "paths": _exact(in_list)},
        "key": content.review.key,
        "file": REVIEWED,
        "earlier": {path: [given, suggested] for path, given, suggested in content.review.earlier},
        "sentences": list(_SENTENCES.values()),
        "classes": _classes(content.tables.classes, ids),
        "causes": list(CAUSES),
        "states": list(STATES) if content.pairs is not None else [],
        "clusters": [
            [int(c.cluster), [ids[n] for n in c.classes], int(c.images), int(c.errors_within), _thousandths(c.share)]
            for c in content.tables.clusters.itertuples()
        ],
    }


def _exact(texts: list[str]) -> dict[int, str]:
    """Return the texts that the page shows with escape codes, by position; a list of labels needs them as they are.

    Text that is no UTF-8 is left out: a CSV cannot have it.
    """
    is_utf8 = lambda text: text == text.encode("utf-8", "ignore").decode()  # noqa: E731
    return {i: text for i, text in enumerate(texts) if escape_controls(text) != text and is_utf8(text)}


def _names_in(errors: pd.DataFrame) -> list[str]:
    columns = [name for name in errors if name in ("true", "suggested", "top1_first") or name in _tops(errors)]
    return sorted({name for column in columns for name in errors[column].unique() if name})


def _tops(errors) -> list[str]:
    return [f"top{k}" for k in range(1, 6) if f"top{k}" in errors]


def _thousandths(fraction: float) -> int | None:
    return None if fraction is None or np.isnan(fraction) else round(1000 * float(fraction))


def _short_number(value: float) -> float | None:
    return None if np.isnan(value) else float(f"{float(value):.3g}")


def _sentences(error: dict) -> list[int]:
    """Return the number of photos that this one is compared with, then (sentence, thousandths of them) in turn.

    The most unusual first; with the cause photo at least one.  Nothing if the class has too few photos.
    """
    if not error["class_measured"] >= _LEAST_MEASURED:
        return []
    found = sorted(((error[column], i) for i, column in enumerate(_SENTENCES)), key=lambda each: -each[0])
    count = sum(value >= _UNUSUAL - 1e-6 for value, _ in found)  # float32 of 19 / 20 is less than 0.95
    unusual = found[: min(_MOST_SENTENCES, max(count, error["cause_photo"]))]
    pairs = ((i, int(1000 * value + 1e-3)) for value, i in unusual)
    return [int(error["class_measured"]), *(number for pair in pairs for number in pair)]


def _row(error: dict, ids: dict[str, int]) -> list:
    """Return one error in the format of error_page.js, without its thumbnails."""
    tops = _tops(error)
    return [
        escape_controls(error["path"]),
        ids[error["true"]],
        [ids[error[top]] for top in tops],
        [_thousandths(error["p" + top[3:]]) for top in tops],
        _thousandths(error["p_true"]),
        sum(1 << i for i, cause in enumerate(CAUSES) if error[f"cause_{cause}"]),
        CAUSES.index(error["cause"]) if error["cause"] else -1,
        [_short_number(error[name]) for name in _IMAGE_MEASURES],
        _thousandths(error["suspicion"]),
        ids.get(error["suggested"], -1),
        STATES.index(error["state"]) if error["state"] else -1,
        ids.get(error["top1_first"], -1),
        _thousandths(error["p1_first"]),
        _short_number(error["nearest_distance"]),
        _sentences(error),
        *NO_THUMBNAILS,
    ]


def _classes(classes: pd.DataFrame, ids: dict[str, int]) -> list:
    """Return one row for each name, in the names' order; None for names without a row in the table."""
    rows: list = [None] * len(ids)
    for c in classes.itertuples():
        accuracy = [_thousandths(value) for value in (c.accuracy, c.low, c.high)]
        confused = [ids.get(c.most_confused_with, -1), int(c.confused_images)]
        rows[ids[c[1 + classes.columns.get_loc("class")]]] = [
            int(c.images), int(c.train_images), *accuracy, *confused, int(c.cluster)
        ]  # fmt: skip
    return rows


def _values(content: Content) -> dict[str, object]:
    """Return the values of the template that the script does not use."""
    tables, pairs = content.tables, content.pairs
    charts = [
        {"title": caption, "svg": accuracy_chart(tables.curves[tables.curves["measure"] == measure], caption)}
        for measure, caption in MEASURES.items()
        if (tables.curves["measure"] == measure).any()
    ]
    causes = [
        row | {"meaning": MEANINGS[row["cause"]], "share": percent(row["share"]), "most_in": row["top_classes"][:3]}
        for row in tables.causes.to_dict("records")
    ]
    states = {name: int((pairs["state"] == name).sum()) for name in STATES} if pairs is not None else {}
    wrong = int((~tables.cases["correct"].to_numpy(bool)).sum())
    values = {"facts": content.facts, "causes": causes, "charts": charts, "states": states, "review": content.review}
    values |= {"images": len(tables.cases), "wrong": wrong, "name_length": _NAME, "accuracies": ACCURACIES}
    return values | {"map": class_map_chart(tables.classes, tables.cases)} | _truth(content)


def _truth(content: Content) -> dict[str, object]:
    """Return the scores of the causes against a shelf set's truth, as values of the template."""
    labels, photos, score = None, [], content.label_score
    if score is not None:
        labels = {"score": score, "svg": curve_chart(score.curve, score.wrong / score.images)}
    if content.photo_score is not None:
        photos = content.photo_score.assign(name=content.photo_score["left_out"].map(NAMES)).to_dict("records")
    return {"label_truth": labels, "photo_truth": photos}
