"""Verdicts on a table of levels × seeds × test images, with the seed spread borrowed over its rows.

Model: y[level, seed, image] = mean[level] + a[seed] + e[level, seed] + b[image] + g[level, image] + rest; a, b cancel
in differences.  Their variance has a seed part and an image part:
- A cell's variance is moderated: a level's own mean square is pooled with the table's, which counts as up to six
  degrees of freedom (Smyth, Statistical Applications in Genetics 3, 2004).  From 3 seeds alone, t(2) is 10.9 at the
  level of six rows; borrowed, t(8) is 3.5.
- The image part is the covariance of the levels' mean correctness over images, less what the rest puts into it, which
  the cells' variance holds already.  Images that belong together (a scene, a shelf) count as one: see `Runs`.
Intervals are simultaneous, from the distribution of max |t| with the rows' correlation (they share a baseline), by
20,000 draws; p by the step-down test of the same maxima (Westfall and Young 1993).

Where levels have unequal seeds, their means are the least squares fit under a seed effect whose variance is estimated:
extra seeds of the baseline count fully if seeds do not matter, and not at all if they do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from rp2k_lab.core.errors import DataError

BORROWED = 6  # degrees of freedom that the spread of all levels counts for, at most
_DRAWS = 20_000
_MANY = 1e9  # degrees of freedom, as good as infinity
_NONE = 1e-12  # a smaller variance of a difference is float64 rounding of equal numbers


@dataclass(frozen=True)
class Runs:
    """The finished runs of a level.

    Attributes:
        seeds: one for each run.
        accuracies: float (seeds,).
        values: float (seeds, units) whose mean over units is the accuracy: the correctness of images, or what stands
            for it with weights and clusters; None if each seed has its own test images, and the spread of the
            accuracies therefore contains the images'.
        images: number of test images.
    """

    seeds: tuple[int, ...]
    accuracies: np.ndarray
    values: np.ndarray | None
    images: int

    @classmethod
    def of(
        cls,
        seeds: Sequence[int],
        correct: np.ndarray,
        weights: np.ndarray | None = None,
        clusters: np.ndarray | None = None,
    ) -> "Runs":
        """Return the runs of a level on one set of test images.

        With weights or clusters a unit has the accuracy plus its part of the deviation, the linearization of a ratio.

        Args:
            correct: bool or float (seeds, images).
            weights: float (images,) >= 0; for macro accuracy 1 / (classes * images of the class).  None: a plain mean.
            clusters: (images,), equal for images that are not independent of each other.  None: all are.

        Raises:
            DataError: shapes differ, or there are no seeds or fewer than two units of weight above 0.
        """
        correct = np.asarray(correct, float)
        if correct.ndim != 2 or correct.shape[0] != len(seeds):
            raise DataError(f"results of {correct.shape}, not ({len(seeds)} seeds, images)")
        images = correct.shape[1]
        weights = np.ones(images) if weights is None else np.asarray(weights, float)
        if weights.shape != (images,) or not (np.isfinite(weights) & (weights >= 0)).all():
            raise DataError(
                f"weights: {weights.shape} for {images} images, or some negative or not finite\n"
                "give each image a finite weight >= 0"
            )
        units = np.arange(images) if clusters is None else np.unique(clusters, return_inverse=True)[1]
        kept = weights > 0
        units = np.unique(units[kept], return_inverse=True)[1]
        count = int(units.max(initial=-1)) + 1
        if not len(seeds) or count < 2:
            raise DataError(f"results: {len(seeds)} seeds and {count} independent images\ngive one seed and two images")
        leverage, correct = weights[kept] / weights.sum(), correct[:, kept]
        accuracies = correct @ leverage
        deviations = (correct - accuracies[:, None]) * leverage
        values = np.stack([np.bincount(units, row, count) for row in deviations]) * count + accuracies[:, None]
        return cls(tuple(seeds), accuracies, values, int(kept.sum()))


@dataclass(frozen=True)
class Block:
    """Levels that were tested on the same images, and the rows to judge: (level, baseline), indices of `levels`.

    Where `is_paired`, each level starts from the runs of its baseline, so that the two share what their runs have in
    common: then rows borrow the spread of the differences from each other, not the spread of the cells.
    """

    levels: tuple[Runs, ...]
    rows: tuple[tuple[int, int], ...]
    is_paired: bool = False

    def differences(self) -> "Block":
        """Return a paired block as one whose levels are the differences, on the seeds of both, from a baseline 0."""
        found = []
        for level, baseline in ((self.levels[i], self.levels[j]) for i, j in self.rows):
            seeds = tuple(seed for seed in level.seeds if seed in baseline.seeds)
            places = [[runs.seeds.index(seed) for seed in seeds] for runs in (level, baseline)]
            values = None
            if level.values is not None and baseline.values is not None:
                values = level.values[places[0]] - baseline.values[places[1]]
            accuracies = level.accuracies[places[0]] - baseline.accuracies[places[1]]
            found.append(Runs(seeds, accuracies, values, level.images))
        return Block(tuple(found), tuple((i, i) for i, _ in enumerate(found)), is_paired=True)


@dataclass(frozen=True)
class Verdict:
    """Verdict on one row among all rows of a table; differences are level - baseline, fractions.

    Attributes:
        value: the difference.
        low, high: its simultaneous interval over the table.
        p: adjusted for the rows of the table, two-sided; NaN without a test (one seed, or no variance at all).
        word: "" if a level has one seed, which decides nothing; without more seeds of other levels its interval holds
            for these runs on new images.
        standard_error, degrees_of_freedom: the latter the smallest of the table.
        seeds: of the level and of the baseline.
        images, units: test images, and how many independent units they are counted as.
        cell_variance: of one run's accuracy, mean of both levels; NaN with one seed.
        image_variance: divided by `units` it is the image part of the difference's variance.
        rest_variance: divided by `units` it is the part of `cell_variance` that more images shrink.
    """

    value: float
    low: float
    high: float
    p: float
    word: Literal["better", "worse", "equal", "inconclusive", ""]
    standard_error: float
    degrees_of_freedom: float
    seeds: tuple[int, int]
    images: int
    units: int
    cell_variance: float
    image_variance: float
    rest_variance: float

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    @property
    def bound(self) -> float:
        """The x of "no difference larger than x shown"."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class _Cells:
    """The finished cells of a block.

    Attributes:
        level, seed: indices of each cell.
        weights: (levels, cells); levels' means are weights @ accuracies.
        variance: of a cell of each level; 0 if there is no estimate.
        freedom: degrees of freedom of it.
        covariance: (levels, levels) of the means, without the images' part.
    """

    level: np.ndarray
    seed: np.ndarray
    weights: np.ndarray
    variance: np.ndarray
    freedom: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class _Residuals:
    """What neither the level nor the seed explains, of the cells of a block.

    Attributes:
        level, seed: indices of each cell.
        accuracies: of each cell.
        squares: sum of squares of each level.
        weight: degrees of freedom of each level.
    """

    level: np.ndarray
    seed: np.ndarray
    accuracies: np.ndarray
    squares: np.ndarray
    weight: np.ndarray


def _residuals(block: Block) -> _Residuals:
    levels = block.levels
    level = np.repeat(np.arange(len(levels)), [len(runs.seeds) for runs in levels])
    seed = np.unique([s for runs in levels for s in runs.seeds], return_inverse=True)[1]
    accuracies = np.concatenate([runs.accuracies for runs in levels])
    of_level = np.eye(len(levels))[level]
    design = of_level if block.is_paired else np.hstack([of_level, np.eye(seed.max() + 1)[seed]])
    hat = design @ np.linalg.pinv(design)
    residuals, free = accuracies - hat @ accuracies, 1 - np.diag(hat)
    squares, weight = np.bincount(level, residuals**2, len(levels)), np.bincount(level, free, len(levels))
    return _Residuals(level, seed, accuracies, squares, weight)


def _pool(residuals: Sequence[_Residuals]) -> tuple[float, float]:
    """Return (degrees of freedom, mean square) of all cells."""
    total = float(sum(each.weight.sum() for each in residuals))
    return total, sum(each.squares.sum() for each in residuals) / total if total > 1e-9 else 0.0


def _analyze_cells(block: Block, found: _Residuals, pool: tuple[float, float], prior: tuple[float, float]) -> _Cells:
    levels, (total, pooled) = block.levels, pool
    level, seed, accuracies, squares, weight = found.level, found.seed, found.accuracies, found.squares, found.weight
    of_level, of_seed = np.eye(len(levels))[level], np.eye(seed.max() + 1)[seed]
    own_freedom = weight if block.is_paired else weight * len(levels) / max(1, len(levels) - 1)
    borrowed = np.clip(total - own_freedom, 0, BORROWED)
    freedom = borrowed + prior[0] + own_freedom
    own = np.divide(squares, weight, out=np.zeros(len(levels)), where=weight > 1e-9)
    sums = borrowed * pooled + prior[0] * prior[1] + own_freedom * own
    variance = np.divide(sums, freedom, out=np.zeros(len(levels)), where=freedom > 1e-9)
    shared = 0.0 if block.is_paired else _seed_variance(accuracies, of_level, of_seed, pooled)
    covariance = np.diag(np.maximum(variance[level], _NONE)) + shared * (seed[:, None] == seed)
    fitted = np.linalg.solve(covariance, of_level)
    weights = np.linalg.solve(of_level.T @ fitted, fitted.T)
    return _Cells(level, seed, weights, variance, freedom, weights @ covariance @ weights.T)


def _seed_variance(accuracies: np.ndarray, of_level: np.ndarray, of_seed: np.ndarray, pooled: float) -> float:
    """Return the variance of the seeds' effects; it matters only where levels have unequal seeds."""
    cells = of_seed.sum(axis=0)
    if (cells > 1).sum() < 2:
        return 0.0
    design = np.hstack([of_level, of_seed])
    effects = (np.linalg.pinv(design) @ accuracies)[of_level.shape[1] :][cells > 1]
    return max(0.0, float(effects.var(ddof=1) - pooled * (1 / cells[cells > 1]).mean()))


def _image_covariance(levels: Sequence[Runs], cells: _Cells) -> tuple[np.ndarray, np.ndarray]:
    """Return (covariance over units of the levels' means, positive semi-definite; each level's rest variance)."""
    values = np.concatenate([runs.values for runs in levels if runs.values is not None])
    units = values.shape[1]
    rest = np.full(len(levels), np.nan)
    for k, runs in enumerate(levels):
        if len(runs.seeds) > 1:
            own = values[cells.level == k]
            centered = own - own.mean(axis=1, keepdims=True) - own.mean(axis=0) + own.mean()
            rest[k] = (centered**2).sum() / ((len(own) - 1) * (units - 1))
    rest = np.where(np.isnan(rest), np.nanmean(rest), rest) if not np.isnan(rest).all() else np.zeros(len(levels))
    covariance = np.atleast_2d(np.cov(cells.weights @ values))
    eigenvalues, vectors = np.linalg.eigh(covariance - (cells.weights * rest[cells.level]) @ cells.weights.T)
    return (vectors * np.maximum(eigenvalues, 0)) @ vectors.T, rest


@dataclass(frozen=True)
class _Estimates:
    """Of the rows of a block: differences, their covariance, degrees of freedom, and the parts for `Verdict`."""

    values: np.ndarray
    covariance: np.ndarray
    freedom: np.ndarray
    cell_variance: np.ndarray
    image_variance: np.ndarray
    rest_variance: np.ndarray


def _estimate(block: Block, found: _Residuals, pool: tuple[float, float], prior: tuple[float, float]) -> _Estimates:
    """Return the estimates of a block, with `Block.differences` of a paired one."""
    cells = _analyze_cells(block, found, pool, prior)
    contrasts = np.zeros((len(block.rows), len(block.levels)))
    for k, (level, baseline) in enumerate(block.rows):
        contrasts[k, baseline] = -1
        contrasts[k, level] = 1
    pairs = np.array(block.rows)
    values = contrasts @ cells.weights @ np.concatenate([runs.accuracies for runs in block.levels])
    seeds = contrasts @ cells.covariance @ contrasts.T
    freedom = cells.freedom[pairs].min(axis=1)
    if (freedom < 1e-9).all():
        seeds = np.zeros_like(seeds)  # one seed each
    variance = np.where(freedom > 1e-9, cells.variance[pairs].mean(axis=1), np.nan)
    if block.is_paired:
        variance = variance / 2  # of a cell, as `half_width` takes it
    if block.levels[0].values is None:
        none = np.zeros(len(pairs))
        return _Estimates(values, seeds, np.where(freedom > 1e-9, freedom, _MANY), variance, none, none)
    images, rest = _image_covariance(block.levels, cells)
    images = contrasts @ images @ contrasts.T
    units = block.levels[0].values.shape[1]
    parts, total = np.diag(seeds), np.diag(seeds) + np.diag(images) / units
    spread = parts**2 / np.maximum(freedom, 1e-9) + (np.diag(images) / units) ** 2 / (units - 1)
    return _Estimates(
        values=values,
        covariance=seeds + images / units,
        freedom=np.where(total > _NONE, total**2 / (spread + 1e-30), _MANY),  # rows without a variance limit none
        cell_variance=variance,
        image_variance=np.diag(images),
        rest_variance=rest[pairs].mean(axis=1) / (2 if block.is_paired else 1),
    )


def judge(
    blocks: Sequence[Block],
    margin: float | None = None,
    alpha: float = 0.05,
    prior: tuple[float, float] = (0.0, 0.0),
    pending: int = 0,
) -> list[list[Verdict]]:
    """Judge all rows of a table, in the order of the blocks and of their rows.

    better or worse: adjusted p <= alpha; equal: the interval lies within ± margin; inconclusive: none of these.  The
    interval of a row that only the step-down test decides is cut at 0.  A row whose runs agree on every image is not
    tested; its half width is the largest disagreement that is compatible with none in all units,
    1 - (alpha / rows)^(1 / units) (Clopper and Pearson, Biometrika 26, 1934; about 3 / units for one row).

    Args:
        margin: the smallest difference of interest, a fraction; None: no row is equal.
        prior: degrees of freedom and mean square of cells of earlier tables.
        pending: further rows, without results yet: verdicts then hold when these arrive.
    """
    judged = [block for block in blocks if block.rows]
    if not judged:
        return [[] for _ in blocks]
    blocks_of_cells = [block.differences() if block.is_paired else block for block in judged]
    found = [_residuals(block) for block in blocks_of_cells]
    pools = {
        is_paired: _pool([each for each, block in zip(found, judged, strict=True) if block.is_paired == is_paired])
        for is_paired in (False, True)
    }
    estimates = [
        _estimate(block, each, pools[block.is_paired], prior)
        for block, each in zip(blocks_of_cells, found, strict=True)
    ]
    values = np.concatenate([each.values for each in estimates])
    errors = np.sqrt(np.maximum(np.concatenate([np.diag(each.covariance) for each in estimates]), _NONE))
    freedom = min(float(each.freedom.min()) for each in estimates)
    maxima = _draw(estimates, errors, freedom, pending)
    table = _Table(float(np.quantile(maxima.max(axis=0), 1 - alpha)), freedom, len(values) + pending, margin, alpha)
    p = iter(_step_down(np.abs(values) / errors, maxima))
    verdicts = iter(
        [
            _verdict(block, each, k, next(p), table)
            for block, each in zip(judged, estimates, strict=True)
            for k, _ in enumerate(block.rows)
        ]
    )
    return [list(islice(verdicts, len(block.rows))) for block in blocks]


@dataclass(frozen=True)
class _Table:
    """What all rows share: the quantile of max |t|, its degrees of freedom, the number of rows, `judge`'s arguments."""

    quantile: float
    freedom: float
    rows: int
    margin: float | None
    alpha: float


def _verdict(block: Block, each: _Estimates, k: int, p: float, table: _Table) -> Verdict:
    """Return the verdict on row `k` of a block."""
    level, baseline = (block.levels[i] for i in block.rows[k])
    units = level.images if level.values is None else level.values.shape[1]
    value, variance = float(each.values[k]), float(each.covariance[k, k])
    is_constant = variance < _NONE
    half = 1 - (table.alpha / table.rows) ** (1 / units) if is_constant else table.quantile * math.sqrt(variance)
    low, high = max(-1.0, value - half), min(1.0, value + half)
    has_seeds = min(len(level.seeds), len(baseline.seeds)) > 1 and not math.isnan(each.cell_variance[k])
    p = math.nan if is_constant or not has_seeds else float(p)
    word = _word(value, low, high, p, table) if has_seeds else ""
    return Verdict(
        value=value,
        low=max(0.0, low) if word == "better" else low,
        high=min(0.0, high) if word == "worse" else high,
        p=p,
        word=word,
        standard_error=math.sqrt(variance) if has_seeds else math.nan,
        degrees_of_freedom=table.freedom,
        seeds=(len(level.seeds), len(baseline.seeds)),
        images=level.images,
        units=units,
        cell_variance=float(each.cell_variance[k]),
        image_variance=float(each.image_variance[k]),
        rest_variance=float(each.rest_variance[k]),
    )


def judge_single_runs(
    runs: Sequence[np.ndarray],
    rows: Sequence[tuple[int, int]],
    weights: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
) -> list[Verdict]:
    """Return the differences of single runs on the same images, with intervals that hold for these runs on new images.

    Args:
        runs: correctness of each run, bool or float (images,).
        rows: (run, baseline), indices of `runs`.
        weights, clusters: see `Runs.of`.
    """
    levels = tuple(Runs.of([0], np.asarray(run)[None], weights, clusters) for run in runs)
    return judge([Block(levels, tuple(rows))])[0]


def _draw(estimates: Sequence[_Estimates], errors: np.ndarray, freedom: float, pending: int) -> np.ndarray:
    """Return |t| of rows without a difference, (rows, draws), with the rows' correlation."""
    rows = sum(len(each.values) for each in estimates)
    correlation, first = np.eye(rows + pending), 0
    for each in estimates:
        own = slice(first, first + len(each.values))
        correlation[own, own] = each.covariance / np.outer(errors[own], errors[own])
        first = own.stop
    eigenvalues, vectors = np.linalg.eigh(correlation)
    rng = np.random.default_rng(0)
    normal = (vectors * np.sqrt(np.maximum(eigenvalues, 0))) @ rng.standard_normal((rows + pending, _DRAWS))
    return np.abs(normal) / np.sqrt(rng.chisquare(freedom, _DRAWS) / freedom)


def _step_down(t: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """Return adjusted p of the first rows of `maxima`, whose further rows always stay in the comparison."""
    order, worst = np.argsort(-t), 0.0
    left = [*order, *range(len(t), len(maxima))]
    p = np.ones(len(t))
    for row in order:
        exceeded = (maxima[left].max(axis=0) >= t[row]).sum()
        worst = p[row] = max(worst, (1 + exceeded) / (1 + maxima.shape[1]))
        left.remove(row)
    return p


def _word(
    value: float, low: float, high: float, p: float, table: _Table
) -> Literal["better", "worse", "equal", "inconclusive"]:
    if p <= table.alpha:  # not NaN
        return "better" if value > 0 else "worse"
    margin = table.margin
    return "equal" if margin is not None and -margin < low and high < margin else "inconclusive"


def half_width(verdict: Verdict, rows: int, seeds: int, units: int, alpha: float = 0.05) -> float:
    """Return about the half width of a row's interval with as many seeds of each level and independent images.

    From the estimated variances and Bonferroni's quantile over the rows: a rough guess.
    """
    from scipy.special import stdtrit

    rest = verdict.rest_variance
    between = max(0.0, verdict.cell_variance - rest / verdict.units) if rest else verdict.cell_variance
    variance = 2 * (between + rest / units) / seeds + verdict.image_variance / units
    freedom = min(BORROWED, (rows - 1) * (seeds - 1)) + seeds - 1
    return float(-stdtrit(freedom, alpha / 2 / rows) * math.sqrt(variance))
