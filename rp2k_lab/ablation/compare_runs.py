"""Comparison of two runs on the same test images: accuracies, fixed and broken images, different settings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from rp2k_lab import COMMAND
from rp2k_lab.ablation.significance import Verdict, judge_single_runs
from rp2k_lab.ablation.verdict import class_weights
from rp2k_lab.ablation.wording import decimals
from rp2k_lab.config.ablation import MACHINE_KEYS
from rp2k_lab.config.choices import flatten
from rp2k_lab.config.migrations import migrate
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.text import counted, percent
from rp2k_lab.dataset.class_groups import GROUPS
from rp2k_lab.evaluation.metric_registry import metrics
from rp2k_lab.evaluation.metrics import units_of_single_runs
from rp2k_lab.pages.document import (
    Block,
    Code,
    Document,
    Figure,
    Grid,
    Images,
    Item,
    Items,
    Section,
    Shot,
    Text,
    interval,
    points,
)
from rp2k_lab.pages.forest_plot import Bar, forest
from rp2k_lab.pages.images import ImageEmbedder
from rp2k_lab.tracking.run_files import CONFIG, damage_named, read_settings
from rp2k_lab.tracking.run_lookup import locate

PREDICTIONS, PER_CLASS = "test/predictions.parquet", "test/per_class.parquet"
_COLUMNS = ("path", "true", "correct", "top1", "p1", "group")
_SHOWN = 24  # images of each kind
_NOT_COMPARED = ("task", "runs")  # besides the keys of the machine
# Metrics whose difference has an interval, from the pairs of images.
_PAIRED = ("top1", "macro_top1", *(f"{group}_top1" for group in GROUPS))
_ONE_SEED = (
    "One run of each: the intervals hold for these two on new photos of the same kind, each at 95 % by itself. The "
    "spread between seeds is not in them, so they do not compare the two configurations. For that, run both with "
    "several seeds (a table: -m ablation=…)."
)


@dataclass(frozen=True)
class TestedRun:
    """Test predictions and configuration of one run.

    Attributes:
        reference: the id, name or checkpoint file that selected the run.
        name: run name, followed by its id in MLflow.
        config: flat keys to recorded values.
        predictions: path, true (class name), correct and, where recorded, top1, p1 and group; one row per test image.
        groups: class name to head, medium or tail.
        metrics: each metric to its recorded value on test; empty for a checkpoint file.
        settings: configuration as recorded.
    """

    __test__ = False  # for pytest: not a test class

    reference: str
    name: str
    config: dict[str, Any]
    predictions: pd.DataFrame
    groups: dict[str, str]
    metrics: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparedAccuracy:
    """One accuracy (0 to 1) of both runs on `images` test images, with the single-seed verdict on their difference."""

    name: str
    images: int
    first: float
    second: float
    verdict: Verdict | None


@dataclass(frozen=True)
class Pair:
    """Comparison of the second run with the first.

    Attributes:
        accuracies: top-1, macro top-1, head, medium, tail.
        fixed, broken: number of test images that only the second, or only the first, run has right.
        differing: differing configuration keys to their two values.
        recorded: each other metric of both runs to its two values.
    """

    first: TestedRun
    second: TestedRun
    accuracies: tuple[ComparedAccuracy, ...]
    fixed: int
    broken: int
    differing: dict[str, tuple[str, str]]
    recorded: dict[str, tuple[float, float]]

    @property
    def images(self) -> int:
        """Number of test images."""
        return len(self.first.predictions)


def load_run(uri: str | None, reference: str, downloads: Path) -> TestedRun:
    """Load a run by id, name or checkpoint file; `uri` and `downloads` as in `run_lookup.find_run`.

    Raises:
        RequestError: there is no such run, or it was not tested.
        DataError: its files cannot be read.
    """
    run, folder = locate(uri, reference, (CONFIG, PREDICTIONS, PER_CLASS), downloads)
    for file in (CONFIG, PREDICTIONS, PER_CLASS):
        if not (folder / file).is_file():
            raise RequestError(f"runs={reference}: the run has no {file}\nchoose a FINISHED run that evaluated test")
    with damage_named(folder / PREDICTIONS):
        predictions = pd.read_parquet(folder / PREDICTIONS)
        predictions = predictions[[name for name in _COLUMNS if name in predictions]]
    with damage_named(folder / PER_CLASS):
        classes = pd.read_parquet(folder / PER_CLASS, columns=["class", "group"])
        groups = dict(zip(classes["class"], classes["group"], strict=True))
    settings = read_settings(folder)
    with damage_named(folder / CONFIG):
        config = dict(flatten(migrate(settings)))
    name = f"{run.name} ({run.run_id[:8]})" if run else reference
    recorded = run.metrics if run else {}
    values = {metric: recorded[f"test/{metric}"] for metric in metrics() if f"test/{metric}" in recorded}
    return TestedRun(reference, name, config, predictions, groups, values, settings)


def compare(first: TestedRun, second: TestedRun) -> Pair:
    """Compare the second run with the first, image by image.

    Raises:
        RequestError: they were tested on different images, or on fewer than two.
    """
    candidate = second.predictions.set_index("path")
    baseline = first.predictions.set_index("path")
    same = (
        len(baseline) == len(candidate) > 1 and baseline.index.is_unique and set(baseline.index) == set(candidate.index)
    )
    if not same or not (candidate.loc[baseline.index, "true"] == baseline["true"]).all():
        raise RequestError(
            f"runs={first.reference},{second.reference}: tested on different photos ({len(baseline):,} and "
            f"{len(candidate):,}, paired by path and class)\ncompare runs of one data set and test split"
        )
    correct = baseline["correct"].to_numpy(bool), candidate.loc[baseline.index, "correct"].to_numpy(bool)
    labels = np.unique(baseline["true"].to_numpy(object), return_inverse=True)[1]
    group = baseline["true"].map(first.groups).to_numpy(object)
    grouped = baseline if "group" in baseline else candidate.loc[baseline.index]  # earlier records lack the groups
    all_images = _Correct(*correct, units_of_single_runs(grouped.reset_index()))
    accuracies = [_compared("top-1", all_images), _compared("macro top-1", all_images, class_weights(labels))]
    accuracies += [_compared(name, all_images.part(group == name)) for name in GROUPS if (group == name).any()]
    others = [name for name in first.metrics if name in second.metrics and name not in _PAIRED]
    return Pair(
        first=first,
        second=second,
        accuracies=tuple(accuracies),
        fixed=int((correct[1] & ~correct[0]).sum()),
        broken=int((correct[0] & ~correct[1]).sum()),
        differing=_differing(first.config, second.config),
        recorded={name: (first.metrics[name], second.metrics[name]) for name in others},
    )


@dataclass(frozen=True)
class _Correct:
    """Whether each run is right, bool (images,); what counts as one image, object (images,), None: each does."""

    first: np.ndarray
    second: np.ndarray
    units: np.ndarray | None

    def part(self, mask: np.ndarray) -> "_Correct":
        return _Correct(self.first[mask], self.second[mask], None if self.units is None else self.units[mask])


def _compared(name: str, correct: _Correct, weights: np.ndarray | None = None) -> ComparedAccuracy:
    first, second, verdict = correct.first, correct.second, None
    if len(first if correct.units is None else np.unique(correct.units)) > 1:
        [verdict] = judge_single_runs([first, second], [(1, 0)], weights, correct.units)
    baseline, candidate = (float(np.average(run, weights=weights)) for run in (first, second))
    return ComparedAccuracy(name, len(first), baseline, candidate, verdict)


def _differing(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[str, str]]:
    keys = [key for key in dict.fromkeys([*first, *second]) if not MACHINE_KEYS.fullmatch(key)]
    keys = [key for key in keys if key.partition(".")[0] not in _NOT_COMPARED]
    text = lambda config, key: str(config[key]) if key in config else "–"  # noqa: E731
    both = {key: (text(first, key), text(second, key)) for key in keys}
    return {key: values for key, values in both.items() if values[0] != values[1]}


def grid(pair: Pair) -> Grid:
    """Return the accuracies of both runs side by side."""
    places = decimals(pair.images)
    rows = []
    for row in pair.accuracies:
        verdict = row.verdict
        difference = [points(row.second - row.first, places)]
        difference.append(interval(verdict.low, verdict.high, places) if verdict else "–")
        rows.append([row.name, f"{row.images:,}", percent(row.first), percent(row.second), *difference])
    return Grid(["", "images", "first", "second", "difference, points", "95 % interval"], rows)


def summary(pair: Pair) -> str:
    """Return the comparison in one line."""
    top1, places = pair.accuracies[0], decimals(pair.images)
    verdict = top1.verdict
    assert verdict is not None  # `compare` needs two images
    size = f"{points(top1.second - top1.first, places)} points {interval(verdict.low, verdict.high, places)}"
    images = f"{pair.fixed:,} images fixed, {pair.broken:,} broken, of {pair.images:,}"
    images += f" in {verdict.units:,} independent groups" if verdict.units < verdict.images else ""
    return f"top-1 {size} between these two runs: {images}"


def figure(pair: Pair, width: int | None = None) -> Markup:
    """Draw the differences with their intervals; `width` as in `forest`."""
    bars = []
    for each in pair.accuracies:
        verdict = each.verdict
        if verdict is None:
            bars.append(Bar(each.name, None, 0, 0, "none", text="one group" if each.images > 1 else "one image"))
        else:
            bars.append(Bar(each.name, verdict.value, verdict.low, verdict.high, "none"))
    return forest(bars, "second run − first run, points", decimals(pair.images), width)


def changed_images(pair: Pair) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the fixed and the broken test images, the second run's most confident first.

    Columns: path, true, and the predictions of both runs as first, first_p, second, second_p where they are recorded.
    """
    columns = {"top1": "", "p1": "_p", "correct": "_correct"}
    named = lambda run, side: run.predictions.rename(  # noqa: E731
        columns={name: side + suffix for name, suffix in columns.items()}
    )
    both = named(pair.first, "first").merge(named(pair.second, "second").drop(columns="true"), on="path")
    if "second_p" in both:
        both = both.sort_values("second_p", ascending=False, kind="stable")
    first, second = both["first_correct"].astype(bool), both["second_correct"].astype(bool)
    return both[second & ~first], both[first & ~second]


def _changed(pair: Pair, embedder: ImageEmbedder | None) -> list[Section]:
    """Return the sections with the fixed and the broken images, or one on why there are none."""
    if embedder is None:
        missing = "The photos of the first run are not on this machine."
        return [Section("Fixed and broken photos", [Text(missing)])]
    sections = []
    titles = {"Fixed": "Only the second run is right.", "Broken": "Only the first run is right."}
    for (title, meaning), rows in zip(titles.items(), changed_images(pair), strict=True):
        text = f"{meaning} The second run's most confident come first."
        if len(rows) > _SHOWN:
            text += f" {_SHOWN} of {len(rows):,} are shown."
        shots = [_shot(row, embedder) for row in rows.head(_SHOWN).to_dict("records")]
        blocks = [Text(text), Images(shots)] if shots else [Text("None.")]
        sections.append(Section(f"{title}: {counted(len(rows), 'photo')}", blocks))
    return sections


def _shot(row: dict[str, Any], embedder: ImageEmbedder) -> Shot:
    lines = [row["true"]]
    if {"first", "first_p", "second", "second_p"} <= set(row):
        lines += [f"{side}: {row[side]}, {percent(row[f'{side}_p'])}" for side in ("first", "second")]
    return Shot(embedder.thumbnail(row["path"]), lines)


def pair_document(pair: Pair, file: str, embedder: ImageEmbedder | None) -> Document:
    """Return the document of a comparison.

    Args:
        file: name of its figure.
        embedder: of the test images; None: they are not there.
    """
    differing = [[key, *values] for key, values in pair.differing.items()]
    config = Grid(["key", "first", "second"], differing, numeric=False) if differing else Text("No key differs.")
    names = [Item("first", None, pair.first.name), Item("second", None, pair.second.name)]
    return Document(
        f"{pair.second.name} against {pair.first.name}",
        summary(pair),
        [
            Section("Test", [Items(names), grid(pair), Figure(figure(pair), file, _ONE_SEED), *_recorded(pair)]),
            *_changed(pair, embedder),
            Section("Configuration", [config]),
            Section("How to compute it again", [Code([report_command(pair)])]),
        ],
    )


def _recorded(pair: Pair) -> list[Block]:
    if not pair.recorded:
        return []
    known = metrics()
    rows = [[known[name].heading, *map(known[name].text, values)] for name, values in pair.recorded.items()]
    return [Text("Other metrics, as the runs recorded them:"), Grid(["", "first", "second"], rows)]


def report_command(pair: Pair) -> str:
    """Return the command that writes the documents."""
    return f"{COMMAND} task=report 'runs=[{pair.first.reference},{pair.second.reference}]'"
