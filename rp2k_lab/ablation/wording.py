"""Sentences, tables and commands that describe a judged table, for documents and the terminal."""

import math
from collections.abc import Sequence

import pandas as pd

from rp2k_lab import COMMAND
from rp2k_lab.ablation.judged_table import JudgedTable, Row
from rp2k_lab.ablation.significance import Verdict, half_width
from rp2k_lab.config.ablation import Ablation, find_scale
from rp2k_lab.core.csv_files import csv_text
from rp2k_lab.core.text import percent
from rp2k_lab.evaluation.metric_registry import metrics
from rp2k_lab.pages.document import Grid, Item, Tag, interval, points, points_above


def heading(column: str) -> str:
    """Return the heading of a metric's column of results.csv."""
    return "val top-1" if column == "val_top1" else metrics()[column].heading


def value_text(column: str, value: float) -> str:
    """Return a value of a metric's column of results.csv for a page."""
    return percent(value) if column == "val_top1" else metrics()[column].text(value)


def run_command(ablation: Ablation, scale: str, added: Sequence[int] = ()) -> str:
    """Return the command that runs a table; it runs missing cells only.

    Args:
        added: seeds beyond those of the table's first look.
    """
    found = find_scale(scale)
    planned = {seed for name in ablation.level_names(scale) for seed in ablation.seeds_of(name, found)}
    seed = f" seed={','.join(map(str, sorted({*planned, *added})))}" if added else ""
    common = dict(override.split("=", 1) for override in ablation.common(found))
    dataset = common.get("dataset", "shelf")
    places = {"shelf": "", "table": " dataset=table dataset.table=FILE"}  # Hydra wants the choice with its keys
    place = "" if "dataset.root" in common else places.get(dataset, " dataset.root=FOLDER")
    return f"{COMMAND} -m ablation={ablation.name} scale={scale}{seed}{place}"


def report_command(ablation: Ablation, scale: str) -> str:
    """Return the command that writes the documents of a table."""
    return f"{COMMAND} task=report ablation={ablation.name} scale={scale}"


def decimals(images: int) -> int:
    """Return the number of decimals of a value in points: about the weight of one test image."""
    return 2 if images >= 10_000 else 1


def summary(table: JudgedTable) -> str:
    """Return one line: levels that are better, worse or equal, number of inconclusive ones, missing runs."""
    compared = [row for row in table.rows if row.baseline]
    parts = []
    for word in ("better", "worse", "equal"):
        if named := [row.level for row in compared if row.word == word]:
            names = [f'"{name}"' if "," in name else name for name in named]
            parts.append(f"{word}: {', '.join(names)}")
    if undecided := sum(row.word == "inconclusive" for row in compared):
        parts.append(f"inconclusive: {undecided} of {table.comparisons}")
    if single := sum(row.verdict is not None and not row.word for row in compared):
        parts.append(f"one seed, so no verdict: {single} of {table.comparisons}")
    if uncompared := sum(row.verdict is None for row in compared):
        parts.append(f"not compared: {uncompared} of {table.comparisons}")
    if table.missing_cells:
        parts.append(f"{table.missing_cells} of {table.cells} runs have no result")
    return "; ".join(parts)


def sentence(row: Row) -> Item:
    """Return the verdict on a level with a baseline, as an item of a list."""
    lead = f"{row.level} against {row.baseline}"
    if row.verdict is None:
        return Item(lead, Tag("not compared", "none"), row.not_compared)
    verdict, places = row.verdict, decimals(row.verdict.images)
    size = f"{points(verdict.value, places)} points {interval(verdict.low, verdict.high, places, verdict.word)}"
    count = f"{_seeds(verdict)}, {verdict.images:,} test images"
    if not row.word:
        spread = "not in it" if math.isnan(verdict.cell_variance) else "the other levels'"
        text = f"{size} for these two runs on new photos ({count}); the spread between seeds is {spread}"
        return Item(lead, Tag("one seed, so no verdict", "none"), text)
    if row.word != "inconclusive":
        p = "" if row.word == "equal" else f", p {_p(verdict.p)}"
        return Item(lead, Tag(row.word, row.word), f"{size}{p} ({count})")
    tag = Tag(f"inconclusive (±{points_above(verdict.half_width, places)})", "inconclusive")
    return Item(lead, tag, f"{size} ({count})")


def _seeds(verdict: Verdict) -> str:
    level, baseline = verdict.seeds
    if level == baseline:
        return f"{level} seed{'s' * (level > 1)}"
    return f"{level} and {baseline} seeds"


def confidence(table: JudgedTable) -> str:
    """Return the confidence of a look's intervals: 95 %, or more if the table plans several looks."""
    return f"{100 * (1 - table.look.alpha):.3g} %"


def margin_text(ablation: Ablation) -> str:
    """Return the margin of a table for a sentence."""
    return (
        "no margin is stated"
        if ablation.margin is None
        else f"± {ablation.margin:g} point{'s' * (ablation.margin != 1)}"
    )


_MORE_SEEDS, _MORE_IMAGES = (3, 5, 8, 12, 20), (1, 3, 10)


def half_widths(table: JudgedTable) -> tuple[str, Grid] | None:
    """Return a sentence and a table: the half width that seeds × test images would give the widest inconclusive level.

    None if no level is inconclusive, or its runs agree on every image.
    """
    undecided = [row for row in table.rows if row.word == "inconclusive" and row.verdict and row.verdict.standard_error]
    if not undecided:
        return None
    widest = max(undecided, key=lambda row: row.verdict.half_width if row.verdict else 0)
    verdict = widest.verdict
    assert verdict is not None
    factors = (1,) if verdict.image_variance == verdict.rest_variance == 0 else _MORE_IMAGES
    rows = []
    for seeds in _MORE_SEEDS:
        widths = [
            half_width(verdict, table.comparisons, seeds, verdict.units * factor, table.look.alpha)
            for factor in factors
        ]
        rows.append([str(seeds), *(f"±{points_above(width)}" for width in widths)])
    lead = (
        f"Estimated half width of the interval of {widest.level}, the widest, in points, by seeds of each level and "
        "test images. A level is decided where it is below the size of its difference, or "
        f"equal where the whole interval lies within the margin ({margin_text(table.ablation)})."
    )
    return lead, Grid(["seeds", *(f"{_rough(verdict.images * factor):,} images" for factor in factors)], rows)


def _rough(number: int) -> int:
    """Round up to two digits."""
    unit = 10 ** max(0, int(math.log10(number)) - 1)
    return -(-number // unit) * unit


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def grid(table: JudgedTable) -> Grid:
    """Return published and measured results side by side."""
    metric = heading(table.ablation.metric)
    head = [
        "level",
        "verdict",
        "difference",
        f"{confidence(table)} interval",
        "p",
        f"{metric}, measured",
        "sd",
        "seeds",
    ]
    has_published = any(row.published is not None or row.published_difference for row in table.rows)
    if has_published:
        head += ["top-1, published", "difference, published"]
    rows = []
    for row in table.rows:
        sd = "–" if len(row.seeds) < 2 else f"{100 * row.sd:.1f}"
        cells: list[str | Tag] = [row.level, *difference_cells(row)]
        cells += [percent(row.mean), sd, f"{len(row.seeds)} of {len(row.wanted)}"]
        if has_published:
            cells.append("–" if row.published is None else f"{100 * row.published:.2f} %")
            cells.append(points(row.published_difference.difference, 2) if row.published_difference else "–")
        rows.append(cells)
    return Grid(head, rows)


def difference_cells(row: Row) -> list[str | Tag]:
    """Return the verdict of a level, its difference, interval and adjusted p, as cells of a table."""
    if row.baseline is None:
        return ["baseline", "–", "–", "–"]
    if row.verdict is None:
        return [Tag("not compared", "none"), "–", "–", "–"]
    verdict = row.verdict
    places = decimals(verdict.images)
    texts = {"": "one seed", "inconclusive": f"inconclusive (±{points_above(verdict.half_width, places)})"}
    tag = Tag(texts.get(row.word, row.word), row.word or "none")
    p = _p(verdict.p) if row.word else "–"
    return [tag, points(verdict.value, places), interval(verdict.low, verdict.high, places, verdict.word), p]


def numbers(table: JudgedTable) -> str:
    """Return verdict.csv: one row per level with unrounded fractions and variances."""
    rows = []
    for row in table.rows:
        verdict, published = row.verdict, row.published_difference
        judged = {} if verdict is None else vars(verdict) | {"difference": verdict.value, "bound": verdict.bound}
        seeds = verdict.seeds if verdict else (None, None)
        parts = ("difference", "low", "high", "p", "bound", "standard_error", "degrees_of_freedom")
        variances = ("cell_variance", "image_variance", "rest_variance")
        rows.append(
            {"level": row.level, "baseline": row.baseline, "word": row.word, "metric": table.ablation.metric,
             "margin": table.ablation.margin, "seeds_done": len(row.seeds), "seeds_wanted": len(row.wanted),
             "mean": row.mean, "sd": row.sd, **{name: judged.get(name) for name in parts},
             "seeds_level": seeds[0], "seeds_baseline": seeds[1], "images": row.images or None,
             "units": judged.get("units"), **{name: judged.get(name) for name in variances},
             **row.means, "published": row.published,
             "published_difference": published and published.difference,
             "published_shown": published and published.unknown.answer,
             "published_shown_as_ours": published and published.as_measured and published.as_measured.answer,
             "seeds_failed": len(row.failed), "seeds_running": len(row.running), "seeds_missing": len(row.missing),
             "seconds": round(row.seconds, 1), "not_compared": row.not_compared, "notes": "; ".join(row.notes)}
        )  # fmt: skip
    return csv_text(pd.DataFrame(rows, dtype=object))


def gain_text(gain: Verdict, split: str = "test") -> str:
    """Return a gain with its interval: +1.2 points [+0.3, +2.1] on 400 test photos, with groups also their number."""
    ends = f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
    groups = f" of {gain.units} independent groups" if gain.units < gain.images else ""
    return f"{100 * gain.value:+.1f} points {ends} on {gain.images} {split} photos{groups}"
