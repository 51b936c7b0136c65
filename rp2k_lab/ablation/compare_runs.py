"""Two runs compared on the test images that both have read: what the second has right that the first has wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from rp2k_lab.ablation.significance import Verdict, judge, paired_difference
from rp2k_lab.ablation.verdict import class_weights
from rp2k_lab.ablation.wording import decimals
from rp2k_lab.config.choices import flatten
from rp2k_lab.config.migrations import migrate
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.text import percent
from rp2k_lab.dataset.class_groups import GROUPS
from rp2k_lab.pages.document import (
    Code,
    Document,
    Figure,
    Grid,
    Item,
    Items,
    Section,
    Text,
    interval,
    points,
)
from rp2k_lab.pages.forest_plot import Bar, forest
from rp2k_lab.tracking.run_lookup import CONFIG, locate

PREDICTIONS, PER_CLASS = "test/predictions.parquet", "test/per_class.parquet"
_NOT_COMPARED = ("task", "tracking", "runs", "debug", "dataset.root", "dataset.cache_gb")
_ONE_SEED = (
    "One run of each: the intervals hold for these two on new photos of the same kind, each at 95 % by itself. The "
    "spread between seeds is not in them, so they say nothing of how the two configurations compare; for that, run "
    "both with several seeds (a table: -m ablation=…)."
)


@dataclass(frozen=True)
class TestedRun:
    """What a run left of its test.

    Attributes:
        name: with its id where it has one.
        config: flat keys to recorded values.
        predictions: path, true (class name) and correct, a row a test image.
        groups: class name to head, medium or tail.
    """

    __test__ = False  # no test class

    reference: str
    name: str
    config: dict[str, Any]
    predictions: pd.DataFrame
    groups: dict[str, str]


@dataclass(frozen=True)
class Part:
    """One of the accuracies: of both runs, shares, over `images`; the verdict is of its own and has one seed."""

    name: str
    images: int
    first: float
    second: float
    verdict: Verdict | None


@dataclass(frozen=True)
class Pair:
    """The second run against the first.

    Attributes:
        parts: top-1, macro top-1, head, medium, tail.
        fixed, broken: test images that only the second, and only the first, has right.
        differing: configuration keys that differ, with both values.
    """

    first: TestedRun
    second: TestedRun
    parts: tuple[Part, ...]
    fixed: int
    broken: int
    differing: dict[str, tuple[str, str]]

    @property
    def images(self) -> int:
        """Test images."""
        return len(self.first.predictions)


def load_run(uri: str | None, reference: str, downloads: Path) -> TestedRun:
    """A run by id, name or checkpoint file; `uri` and `downloads` as `runs.find_run`.

    Raises:
        RequestError: no such run, or it was not tested.
        DataError: what it left cannot be read.
    """
    run, folder = locate(uri, reference, (CONFIG, PREDICTIONS, PER_CLASS), downloads)
    for file in (CONFIG, PREDICTIONS, PER_CLASS):
        if not (folder / file).is_file():
            raise RequestError(f"runs={reference}: the run left no {file}\nchoose a run that is FINISHED and read test")
    try:
        predictions = pd.read_parquet(folder / PREDICTIONS, columns=["path", "true", "correct"])
        classes = pd.read_parquet(folder / PER_CLASS, columns=["class", "group"])
        config = dict(flatten(migrate(yaml.safe_load((folder / CONFIG).read_text("utf-8")))))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{folder}: {str(error).splitlines()[0][:160]}\nrun it again") from None
    name = f"{run.name} ({run.run_id[:8]})" if run else reference
    return TestedRun(reference, name, config, predictions, dict(zip(classes["class"], classes["group"], strict=True)))


def compare(first: TestedRun, second: TestedRun) -> Pair:
    """The second against the first, image by image.

    Raises:
        RequestError: they were tested on other images, or on fewer than two.
    """
    theirs = second.predictions.set_index("path")
    ours = first.predictions.set_index("path")
    same = len(ours) == len(theirs) > 1 and ours.index.is_unique and set(ours.index) == set(theirs.index)
    if not same or not (theirs.loc[ours.index, "true"] == ours["true"]).all():
        raise RequestError(
            f"runs={first.reference},{second.reference}: tested on different photos ({len(ours):,} and "
            f"{len(theirs):,}, paired by path and class)\ncompare runs of one data set and test split"
        )
    correct = ours["correct"].to_numpy(bool), theirs.loc[ours.index, "correct"].to_numpy(bool)
    labels = np.unique(ours["true"].to_numpy(object), return_inverse=True)[1]
    group = ours["true"].map(first.groups).to_numpy(object)
    everything = np.ones(len(ours), bool)
    parts = [_part("top-1", *correct, everything, None)]
    parts.append(_part("macro top-1", *correct, everything, class_weights(labels)))
    parts += [_part(name, *correct, group == name, None) for name in GROUPS if (group == name).any()]
    return Pair(
        first=first,
        second=second,
        parts=tuple(parts),
        fixed=int((correct[1] & ~correct[0]).sum()),
        broken=int((correct[0] & ~correct[1]).sum()),
        differing=_differing(first.config, second.config),
    )


def _part(name: str, first: np.ndarray, second: np.ndarray, where: np.ndarray, weights: np.ndarray | None) -> Part:
    first, second = first[where], second[where]
    verdict = None
    if len(first) > 1:
        [verdict] = judge([paired_difference(second[None], first[None], weights)])
    shares = (float(np.average(run, weights=weights)) for run in (first, second))
    return Part(name, len(first), *shares, verdict)


def _differing(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[str, str]]:
    keys = [key for key in dict.fromkeys([*first, *second]) if key not in _NOT_COMPARED]
    keys = [key for key in keys if key.partition(".")[0] not in _NOT_COMPARED]
    said = lambda config, key: str(config[key]) if key in config else "–"  # noqa: E731
    both = {key: (said(first, key), said(second, key)) for key in keys}
    return {key: values for key, values in both.items() if values[0] != values[1]}


def grid(pair: Pair) -> Grid:
    """Both runs side by side."""
    places = decimals(pair.images)
    rows = []
    for part in pair.parts:
        found = part.verdict
        difference = [points(part.second - part.first, places)]
        difference.append(interval(found.low, found.high, places) if found else "–")
        rows.append([part.name, f"{part.images:,}", percent(part.first), percent(part.second), *difference])
    return Grid(["", "images", "first", "second", "difference, points", "95 % interval"], rows)


def summary(pair: Pair) -> str:
    """One line."""
    top1, places = pair.parts[0], decimals(pair.images)
    size = f"{points(top1.second - top1.first, places)} points {interval(top1.verdict.low, top1.verdict.high, places)}"
    images = f"{pair.fixed:,} images fixed, {pair.broken:,} broken, of {pair.images:,}"
    return f"top-1 {size} between these two runs: {images}"


def figure(pair: Pair):
    """The differences with their intervals."""
    bars = [Bar(p.name, p.verdict.difference.value, p.verdict.low, p.verdict.high, "open")
            if p.verdict else Bar(p.name, None, 0, 0, "open", words="one image") for p in pair.parts]  # fmt: skip
    return forest(bars, "second run − first run, points", decimals(pair.images))


def pair_document(pair: Pair, file: str) -> Document:
    """The text; `file` is the figure's name."""
    differing = [[key, *values] for key, values in pair.differing.items()]
    config = Grid(["key", "first", "second"], differing, numeric=False) if differing else Text("No key differs.")
    names = [Item("first", None, pair.first.name), Item("second", None, pair.second.name)]
    return Document(
        f"{pair.second.name} against {pair.first.name}",
        summary(pair),
        [
            Section("Test", [Items(names), grid(pair), Figure(figure(pair), file, _ONE_SEED)]),
            Section("Configuration", [config]),
            Section("How to compute it again", [Code([report_command(pair)])]),
        ],
    )


def report_command(pair: Pair) -> str:
    """What makes the documents."""
    return f"python run.py task=report 'runs=[{pair.first.reference},{pair.second.reference}]'"
