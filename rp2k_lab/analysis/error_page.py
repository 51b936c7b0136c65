"""The errors' page: one HTML file that holds its data, pictures, charts, styles and script, and asks nothing of a
network.

Names of classes and files come from the data and may hold anything.  They reach the page as JSON in which no `<` is
left, and the script writes them as text alone; the page's policy lets no other script run.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from rp2k_lab.analysis.causes import CAUSES, MEANINGS
from rp2k_lab.analysis.compare import STATES
from rp2k_lab.analysis.label_issue_score import LabelScore, curve_chart
from rp2k_lab.analysis.page_budget import NO_PICTURES, Album, add_pictures
from rp2k_lab.analysis.thumbnails import Thumbnails
from rp2k_lab.core.text import escape_controls, percent
from rp2k_lab.pages.charts import accuracy_chart
from rp2k_lab.pages.images import render

MOST_BYTES = 20_000_000
MOST_ROW_BYTES = 8_000_000  # of the errors' texts and numbers; 39,027 of them take about 6
_MARGIN = 1000  # bytes of the note on what was left out
MEASURES = {
    "train_images": "training images of the class",
    "ratio": "height / width",
    "sharpness": "sharpness (low: blurred)",
    "brightness": "brightness",
}
_PHOTO_MEASURES = ("height", "width", "brightness", "contrast", "sharpness", "glare")


def write_page(
    file: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    cases: pd.DataFrame,
    classes: pd.DataFrame,
    clusters: pd.DataFrame,
    causes: pd.DataFrame,
    curves: pd.DataFrame,
    thumbnails: Thumbnails,
    pairs: pd.DataFrame | None = None,
    label_score: LabelScore | None = None,
    photo_score: pd.DataFrame | None = None,
) -> dict[str, int]:
    """Write the page, at most `MOST_BYTES` long.

    Args:
        title: of the page; facts: names and values below it, such as the run, the split, top-1.
        cases, classes, clusters, causes, curves: the analysis' tables.
        thumbnails: where the pictures come from.
        pairs: against an earlier run, a row a photo that either run has wrong: row, state (fixed, new or kept), and
            top1_first and p1_first, what the earlier run predicted; `cases` is of the later one.
        label_score: of `label_score.score_labels`; photo_score: of `redrawn.photo_score`; where the truth is known.

    Returns:
        What did not fit: rows (errors that are only counted), photos (errors without a picture), explanations (errors
        without the network's view and the nearest training images).
    """
    errors = page_order(cases, pairs)
    names = list(dict.fromkeys([*classes["class"], *_names_in(errors)]))
    ids = {name: i for i, name in enumerate(names)}
    errors = errors.to_dict("records")
    rows = [_row(error, ids) for error in errors]
    kept = int((np.cumsum([len(_json(row).encode()) + 1 for row in rows]) <= MOST_ROW_BYTES).sum()) if rows else 0
    rows, left_out = rows[:kept], {"rows": len(rows) - kept}
    data = {
        "names": [escape_controls(name) for name in names],
        "classes": _classes(classes, ids, len(names)),
        "causes": list(CAUSES),
        "states": list(STATES) if pairs is not None else [],
        "method": thumbnails.method,
        "clusters": [
            [int(c.cluster), [ids[n] for n in c.classes], int(c.images), int(c.errors_within), _thousandths(c.share)]
            for c in clusters.itertuples()
        ],
    }
    values = _values(title, facts, cases, causes, curves, pairs) | _truth(label_score, photo_score)
    frame = len(_page(values, data | {"rows": rows, "pictures": [], "examples": {}}, left_out).encode())
    album = Album(MOST_BYTES - frame - _MARGIN)
    left_out |= add_pictures(album, rows, errors, ids, data["clusters"], names, thumbnails)
    data |= {"rows": rows, "pictures": album.pictures, "examples": album.examples(ids)}
    file.write_text(_page(values, data, left_out), "utf-8")
    return left_out


def page_order(cases: pd.DataFrame, pairs: pd.DataFrame | None = None) -> pd.DataFrame:
    """The errors or, of two runs, what either has wrong: the cases that the page shows, in its first order.

    One of each main cause (of two runs, also of each state) in turn, the most confident first.  In this order pictures
    are given until the page is full, so that no cause is left without.  Arguments as of `write_page`.
    """
    if pairs is None:
        errors = cases[~cases["correct"].to_numpy(bool)].assign(state="", top1_first="", p1_first=np.nan)
    else:
        errors = cases.merge(pairs[["row", "state", "top1_first", "p1_first"]], "inner", on="row")
    errors = errors.sort_values("p1", ascending=False, kind="stable")
    turn = errors.groupby(["state", "cause"], sort=False).cumcount()
    return errors.assign(turn=turn).sort_values("turn", kind="stable", ignore_index=True)


def _page(values: dict, data: dict, left_out: dict[str, int]) -> str:
    here = Path(__file__).parent
    script = (here / "error_page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values = values | {"left_out": {"rows": 0, "photos": 0, "explanations": 0} | left_out, "digest": digest}
    values |= {"script": Markup(script), "style": Markup((here / "error_page.css").read_text("utf-8"))}
    return render(values | {"data": Markup(_json(data))}, here / "error_page.html.jinja")


def _json(value) -> str:
    """JSON that can stand in a script element: without <, > and &."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _names_in(errors: pd.DataFrame) -> list[str]:
    columns = [name for name in errors if name in ("true", "suggested", "top1_first") or name in _tops(errors)]
    return sorted({name for column in columns for name in errors[column].unique() if name})


def _tops(errors) -> list[str]:
    return [f"top{k}" for k in range(1, 6) if f"top{k}" in errors]


def _thousandths(share: float) -> int | None:
    return None if share is None or np.isnan(share) else round(1000 * float(share))


def _short_number(value: float) -> float | None:
    return None if np.isnan(value) else float(f"{float(value):.3g}")


def _row(error: dict, ids: dict[str, int]) -> list:
    """One error as error_page.js reads it; its pictures come later."""
    tops = _tops(error)
    return [
        escape_controls(error["path"]),
        ids[error["true"]],
        [ids[error[top]] for top in tops],
        [_thousandths(error["p" + top[3:]]) for top in tops],
        _thousandths(error["p_true"]),
        sum(1 << i for i, cause in enumerate(CAUSES) if error[f"cause_{cause}"]),
        CAUSES.index(error["cause"]) if error["cause"] else -1,
        [_short_number(error[name]) for name in _PHOTO_MEASURES],
        _thousandths(error["suspicion"]),
        ids.get(error["suggested"], -1),
        STATES.index(error["state"]) if error["state"] else -1,
        ids.get(error["top1_first"], -1),
        _thousandths(error["p1_first"]),
        _short_number(error["nearest_distance"]),
        *NO_PICTURES,
    ]


def _classes(classes: pd.DataFrame, ids: dict[str, int], count: int) -> list:
    """A row a name, in the names' order; null for one that the table lacks."""
    rows: list = [None] * count
    for c in classes.itertuples():
        shares = [_thousandths(value) for value in (c.accuracy, c.low, c.high)]
        confused = [ids.get(c.most_confused_with, -1), int(c.confused_images)]
        rows[ids[c[1 + classes.columns.get_loc("class")]]] = [
            int(c.images), int(c.train_images), *shares, *confused, int(c.cluster)
        ]  # fmt: skip
    return rows


def _values(title, facts, cases, causes, curves, pairs) -> dict:
    """What the template writes itself."""
    charts = [
        {"title": words, "svg": accuracy_chart(curves[curves["measure"] == measure], words)}
        for measure, words in MEASURES.items()
        if (curves["measure"] == measure).any()
    ]
    rows = [
        row | {"means": MEANINGS[row["cause"]], "share": percent(row["share"])} for row in causes.to_dict("records")
    ]
    states = {name: int((pairs["state"] == name).sum()) for name in STATES} if pairs is not None else {}
    wrong = int((~cases["correct"].to_numpy(bool)).sum())
    values = {"title": title, "facts": facts, "causes": rows, "charts": charts, "states": states}
    return values | {"photos": len(cases), "wrong": wrong}


def _truth(label_score: LabelScore | None, photo_score: pd.DataFrame | None) -> dict:
    """What a shelf set's truth says of the causes."""
    labels = None
    if label_score is not None:
        chart = curve_chart(label_score.curve, label_score.wrong / label_score.photos)
        labels = {"score": label_score, "svg": chart}
    photo = [] if photo_score is None else photo_score.to_dict("records")
    return {"label_truth": labels, "photo_truth": photo}
