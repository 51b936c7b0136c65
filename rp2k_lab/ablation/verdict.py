"""From the results of a table's runs to what may be said of each level.  Pure: nothing is read, drawn or written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from rp2k_lab.ablation.results import SHARES, Results
from rp2k_lab.ablation.significance import (
    Difference,
    Verdict,
    images_to_settle,
    judge,
    paired_difference,
    seeds_to_settle,
)
from rp2k_lab.ablation.single_run import SingleRun, single_run_resolution
from rp2k_lab.config.ablation import Ablation, Scale
from rp2k_lab.dataset.class_groups import GROUPS

RP2K_TEST_IMAGES = 39_027  # of the published entry, after its cleaning
# Holds the place of a comparison that cannot be made yet: `judge` makes no test of one seed, but counts it, so that no
# word is taken back when the missing cells arrive.
_NOT_MADE = Difference(0.0, math.nan, 1, 1, 2, math.nan, 1.0, math.nan)


@dataclass(frozen=True)
class Published:
    """A published difference, and whether one run of each could have shown it on RP2K's test images.

    Attributes:
        difference: a share.
        accuracy: the baseline's, a share; None where none was published, and 0.5, where noise is largest, is taken.
        unknown: with the disagreement of the two runs unknown.
        as_ours: with our disagreement, and our spread over seeds where there are two or more; None without ours.
    """

    difference: float
    accuracy: float | None
    unknown: SingleRun
    as_ours: SingleRun | None


@dataclass(frozen=True)
class Row:
    """A level.

    Attributes:
        baseline: the level that it is compared with, or None.
        seeds: those of its complete cells; missing, running: those without a result; failed: seed to reason.
        mean, sd: of the table's metric over seeds, shares; nan without, or with one, seed.
        means: each metric's mean over seeds, a share; nan where no test image is of the kind.
        images: test images.
        seconds: of all its cells.
        published: top-1, a share, or None.
        verdict: None where no comparison is made; `not_compared` says why, and is "" where none is meant.
        seeds_needed, images_needed: for an open row, how many in total would settle a difference of the observed size;
            None where no number does, or the row is not open.
        published_difference: None where there is none.
        notes: what a reader has to know about where the cells are from.
    """

    level: str
    baseline: str | None
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    running: tuple[int, ...]
    failed: dict[int, str]
    mean: float
    sd: float
    means: dict[str, float]
    images: int
    seconds: float
    published: float | None
    verdict: Verdict | None = None
    not_compared: str = ""
    seeds_needed: int | None = None
    images_needed: int | None = None
    published_difference: Published | None = None
    notes: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """better, worse or open; with one seed, from which nothing follows about another, or uncompared, ""."""
        return self.verdict.word if self.verdict and self.verdict.difference.seeds > 1 else ""


@dataclass(frozen=True)
class JudgedTable:
    """A judged table.

    Attributes:
        seeds: that each level should have.
        comparisons: how many, made or not, share the table's 5 %.
        commits: commit to how many cells were run from it, the dirty ones named so.
        hosts: where cells were run.
        ignored: levels of the results that are not run at this scale.
        images_of: top1, head_top1, medium_top1 and tail_top1 to the test images they are counted on; empty unless all
            cells share their images.
    """

    ablation: Ablation
    scale: Scale
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    comparisons: int
    commits: dict[str, int]
    hosts: tuple[str, ...]
    ignored: tuple[str, ...]
    images_of: dict[str, int]

    @property
    def hours(self) -> float:
        """Of all cells, one after another."""
        return sum(row.seconds for row in self.rows) / 3600

    @property
    def missing_cells(self) -> int:
        """Cells without a result: missing, running or failed."""
        return sum(len(row.missing) + len(row.running) + len(row.failed) for row in self.rows)


def judge_table(ablation: Ablation, scale: Scale, results: Results) -> JudgedTable:
    """Every level of a scale, each with a baseline compared with it on the seeds and images that both have.

    Comparisons that lack their results count in Holm's correction all the same.
    """
    names = ablation.level_names(scale)
    cells = results.table[results.table["level"].isin(names)]
    seeds = tuple(sorted({*ablation.seeds, *cells["seed"].tolist()}))
    rows = [_row(ablation, name, cells[cells["level"] == name], seeds) for name in names]
    compared = [row for row in rows if row.baseline is not None]
    by_name = {row.level: row for row in rows}
    made = [_compare(ablation, row, by_name[row.baseline], results) for row in compared]
    verdicts = judge([_NOT_MADE if isinstance(one, str) else one for one in made])
    for row, one, verdict in zip(compared, made, verdicts, strict=True):
        by_name[row.level] = _judged(row, one, verdict, len(made))
        published = _published(ablation, row, by_name[row.baseline], results, one)
        notes = (*row.notes, *_differing(cells, row.level, row.baseline))
        by_name[row.level] = replace(by_name[row.level], published_difference=published, notes=notes)
    return JudgedTable(
        ablation=ablation,
        scale=scale,
        rows=tuple(by_name.values()),
        seeds=seeds,
        comparisons=len(compared),
        commits=_commits(cells),
        hosts=tuple(sorted({host for host in cells["host"] if host})),
        ignored=tuple(dict.fromkeys(level for level in results.table["level"] if level not in names)),
        images_of=_images_of(results, sorted({digest for digest in cells["images_digest"] if digest})),
    )


def _row(ablation: Ablation, name: str, cells: pd.DataFrame, seeds: Sequence[int]) -> Row:
    states = {state: cells[cells["state"] == state] for state in ("complete", "failed", "running")}
    done = states["complete"]
    values = done[ablation.metric]
    published = ablation.levels[name].published
    return Row(
        level=name,
        baseline=ablation.compared_with(name),
        seeds=tuple(done["seed"].tolist()),
        missing=tuple(seed for seed in seeds if seed not in set(cells["seed"])),
        running=tuple(states["running"]["seed"].tolist()),
        failed=dict(zip(states["failed"]["seed"].tolist(), states["failed"]["reason"], strict=True)),
        mean=float(values.mean()),
        sd=float(values.std()),
        means={metric: float(done[metric].mean()) for metric in SHARES},
        images=int(done["images"].max()) if len(done) else 0,
        seconds=float(cells["seconds"].sum()),
        published=None if published is None else published / 100,
        notes=_own_notes(cells),
    )


def _compare(ablation: Ablation, row: Row, baseline: Row, results: Results) -> Difference | str:
    """The difference, or why there is none."""
    seeds = sorted(set(row.seeds) & set(baseline.seeds))
    if not seeds:
        lacking = [one.level for one in (row, baseline) if not one.seeds]
        return f"no finished run of {' nor of '.join(lacking)}" if lacking else "no seed is finished in both"
    table = results.table
    both = table[table["level"].isin([row.level, baseline.level]) & table["seed"].isin(seeds)]
    digests = sorted(set(both["images_digest"]))
    if len(digests) > 1:
        return f"the runs were tested on different photos ({', '.join(digests)})"
    weights = class_weights(results.labels[digests[0]]) if ablation.metric == "macro_top1" else None
    return paired_difference(results.correct(row.level, seeds), results.correct(baseline.level, seeds), weights)


def class_weights(labels: np.ndarray) -> np.ndarray:
    """float (images,), whose weighted mean of correctness is the macro accuracy."""
    images = np.bincount(labels)
    return 1 / ((images > 0).sum() * images[labels])


def _judged(row: Row, one: Difference | str, verdict: Verdict, comparisons: int) -> Row:
    if isinstance(one, str):
        return replace(row, not_compared=one)
    if verdict.word != "open":
        return replace(row, verdict=verdict)
    return replace(
        row,
        verdict=verdict,
        seeds_needed=seeds_to_settle(one, comparisons),
        images_needed=images_to_settle(one, comparisons),
    )


def _published(ablation: Ablation, row: Row, baseline: Row, results: Results, one: Difference | str):
    """The row's published difference, or None."""
    if row.published is not None and baseline.published is not None:
        difference, accuracy = row.published - baseline.published, baseline.published
    elif ablation.levels[row.level].published_difference is not None:
        difference, accuracy = ablation.levels[row.level].published_difference / 100, None
    else:
        return None
    single = lambda **ours: single_run_resolution(difference, accuracy or 0.5, RP2K_TEST_IMAGES, **ours)  # noqa: E731
    as_ours = None
    if isinstance(one, Difference):
        seeds = sorted(set(row.seeds) & set(baseline.seeds))
        runs = [results.correct(level, seeds) for level in (row.level, baseline.level)]
        spread = [run.mean(axis=1).var(ddof=1) for run in runs] if len(seeds) > 1 else [0.0]
        as_ours = single(disagreement=float((runs[0] != runs[1]).mean()), seed_sd=math.sqrt(np.mean(spread)))
    return Published(difference, accuracy, single(), as_ours)


def _own_notes(cells: pd.DataFrame) -> tuple[str, ...]:
    notes = []
    for column, words in (("commit", "commits"), ("dataset_fingerprint", "data sets")):
        found = sorted({value for value in cells[column] if value})
        if len(found) > 1:
            notes.append(f"its cells are of {len(found)} {words}: {', '.join(value[:10] for value in found)}")
    dirty = cells.loc[cells["dirty"].fillna(False).astype(bool), "seed"].tolist()
    if dirty:
        notes.append(f"run with uncommitted changes: seed {', '.join(map(str, dirty))}")
    return tuple(notes)


def _differing(cells: pd.DataFrame, level: str, baseline: str) -> list[str]:
    """What the two do not share though they should."""
    notes = []
    for column, words in (("commit", "another commit"), ("dataset_fingerprint", "another data set")):
        ours, theirs = ({v for v in cells.loc[cells["level"] == name, column] if v} for name in (level, baseline))
        if ours and theirs and ours != theirs:
            notes.append(f"{words} than {baseline}'s")
    return notes


def _commits(cells: pd.DataFrame) -> dict[str, int]:
    dirty = np.where(cells["dirty"].fillna(False).astype(bool), " with uncommitted changes", "")
    names = [(commit[:10] or "unknown") + more for commit, more in zip(cells["commit"], dirty, strict=True)]
    return {name: names.count(name) for name in sorted(set(names))}


def _images_of(results: Results, digests: Sequence[str]) -> dict[str, int]:
    if len(digests) != 1:
        return {}
    counts = np.bincount(results.groups[digests[0]], minlength=len(GROUPS)).tolist()
    return {"top1": sum(counts), **{f"{group}_top1": count for group, count in zip(GROUPS, counts, strict=True)}}
