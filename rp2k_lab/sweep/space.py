"""Points of a table, of a search or of its confirmation, and the command line of each."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rp2k_lab import COMMAND
from rp2k_lab.config.ablation import Ablation, Scale, experiment_overrides
from rp2k_lab.core.errors import RequestError
from rp2k_lab.tracking.trial_client import Reuse

Params = Mapping[str, Any]
_LAST_SEED = 2**32 - 1
# A mean of fewer fresh seeds says little about a point.
_MIN_FRESH_SEEDS = 3


@dataclass(frozen=True)
class AblationGrid:
    """Levels × seeds: a fixed grid; each cell is run once, without pruning.

    Attributes:
        seeds: of every level; None: those of the table.
        extra: overrides of the command line.
    """

    ablation: Ablation
    scale: Scale
    seeds: tuple[int, ...] | None
    extra: tuple[str, ...]

    prunes = False
    trial_seeds = ()
    metrics = ("test/top1", "val_best/top1", "val/top1", "train/loss")
    factor = "level"

    @property
    def name(self) -> str:
        return f"{self.ablation.name}_{self.scale.name}"

    @property
    def space(self) -> dict[str, BaseDistribution]:
        # All possible seeds, so that a table can get more of them later.
        levels = self.ablation.level_names(self.scale.name)
        return {"level": CategoricalDistribution(levels), "seed": IntDistribution(0, _LAST_SEED)}

    @property
    def points(self) -> list[Params]:
        """All cells, seed by seed, so that an unfinished table compares all levels."""
        levels = self.ablation.level_names(self.scale.name)
        seeds = {level: self.seeds or self.ablation.seeds_of(level, self.scale) for level in levels}
        ordered = dict.fromkeys(seed for level in levels for seed in seeds[level])
        return [{"level": level, "seed": seed} for seed in ordered for level in levels if seed in seeds[level]]

    def sources(self, point: Params) -> list[Params]:
        """Return the points whose runs are the input of a point's run."""
        return [{**point, "level": level} for level in self.ablation.source_levels(point["level"], self.scale.name)]

    def overrides(self, point: Params, runs: Sequence[str] = ()) -> list[str]:
        """Return the command line of a point's run.

        Args:
            runs: run ids of its `sources`, in order.
        """
        started = [f"runs=[{','.join(runs)}]"] if runs else []
        overrides = self.ablation.run_overrides(point["level"], self.scale, self.extra)
        by_seed = [] if self.ablation.levels[point["level"]].runs else self.scale.by_seed
        return [*overrides, *started, *(f"{key}={point['seed']}" for key in ("seed", *by_seed))]

    def reuse(self, point: Params) -> Reuse:
        """Return what may replace a point's training; the levels that start from it need its run."""
        levels = self.ablation.level_names(self.scale.name)
        sources = {source for name in levels for source in self.ablation.source_levels(name, self.scale.name)}
        return "runs" if point["level"] in sources else "results"

    def label(self, point: Params) -> str:
        """Return a short name of a point."""
        return f"{point['level']}, seed {point['seed']}"

    def definition(self) -> dict[str, Any]:
        """Return what must not change during a study."""
        levels = self.ablation.level_names(self.scale.name)
        by_seed = [f"{key}=${{seed}}" for key in self.scale.by_seed]  # as a command of Hydra has it
        overrides = {
            n: self.ablation.run_overrides(n, self.scale, self.extra) + by_seed * (not self.ablation.levels[n].runs)
            for n in levels
        }
        commands = {n: " ".join(experiment_overrides(own)) for n, own in overrides.items()}
        sources = {n: ", ".join(self.ablation.source_levels(n, self.scale.name)) for n in levels}
        return commands | {f"{n} starts from": names for n, names in sources.items() if names}


@dataclass(frozen=True)
class Search:
    """Keys with ranges, from which a sampler draws points; trials use val only.

    Attributes:
        fixed: the other overrides.
        trial_seeds: run seeds of each trial, two or more; empty: one run, with the seed of the command.
    """

    space: dict[str, BaseDistribution]
    fixed: tuple[str, ...]
    trial_seeds: tuple[int, ...] = ()

    prunes = True
    metrics = ("val_best/top1", "val/top1", "train/loss")

    @property
    def name(self) -> str:
        return "-".join(self.space)

    @property
    def factor(self) -> str | None:
        """The first categorical dimension, by which a page can group the runs."""
        return next((key for key, d in self.space.items() if isinstance(d, CategoricalDistribution)), None)

    @property
    def points(self) -> list[Params]:
        """Empty: the sampler draws them."""
        return []

    @property
    def size(self) -> float:
        """Number of points; may be infinite."""
        return math.prod(_count(distribution) for distribution in self.space.values())

    def sources(self, point: Params) -> list[Params]:
        """Return nothing: each run is trained from the start."""
        return []

    def overrides(self, point: Params, runs: Sequence[str] = ()) -> list[str]:
        """Return the command line of a point's run, which does not read test."""
        return [*self.fixed, *(f"{key}={value}" for key, value in point.items()), "task.test=false"]

    def reuse(self, point: Params) -> Reuse:
        """Return that nothing replaces a trial."""
        return ""

    def label(self, point: Params) -> str:
        """Return a short name of a point."""
        texts = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in point.items()}
        return " ".join(f"{key}={text}" for key, text in texts.items())

    def definition(self) -> dict[str, Any]:
        """Return what must not change during a study."""
        # Without a space: another order is another definition, since trials are compared seed by seed.
        seeds = {"seeds": ",".join(map(str, self.trial_seeds))} if self.trial_seeds else {}
        return {k: str(d) for k, d in self.space.items()} | {"fixed": self._experiment} | seeds

    @property
    def _experiment(self) -> str:
        return " ".join(experiment_overrides(self.fixed))


@dataclass(frozen=True)
class Confirmation:
    """The best points of a search × fresh seeds: a fixed grid, without pruning.

    Its study is not the search's: neither the sampler nor the pruner sees its trials, and a search's value is never
    mixed with a fresh one.

    Attributes:
        study: name of the search's study.
        best: points of the search.
    """

    search: Search
    study: str
    best: tuple[Params, ...]
    seeds: tuple[int, ...]

    prunes = False
    trial_seeds = ()
    metrics = Search.metrics
    factor = None

    @property
    def name(self) -> str:
        return confirmation_name(self.study)

    @property
    def space(self) -> dict[str, BaseDistribution]:
        return {**self.search.space, "seed": IntDistribution(0, _LAST_SEED)}

    @property
    def points(self) -> list[Params]:
        """All cells, seed by seed, so that an unfinished confirmation compares all points."""
        return [{**point, "seed": seed} for seed in self.seeds for point in self.best]

    def sources(self, point: Params) -> list[Params]:
        """Return nothing: each run is trained from the start."""
        return []

    def overrides(self, point: Params, runs: Sequence[str] = ()) -> list[str]:
        """Return the command line of a point's run, which does not read test."""
        fixed = tuple(override for override in self.search.fixed if not override.startswith("seed="))
        return Search(self.search.space, fixed).overrides(point)

    def reuse(self, point: Params) -> Reuse:
        """Return that nothing replaces a trial."""
        return ""

    def label(self, point: Params) -> str:
        """Return a short name of a point."""
        return self.search.label(point)

    def definition(self) -> dict[str, Any]:
        """Return what must not change during a study; a longer search may add points."""
        return self.search.definition() | {"confirms": self.study}


Plan = AblationGrid | Search | Confirmation


def confirmation_name(study: str) -> str:
    """Return the name of the study that confirms a search."""
    return f"{study}.confirm"


def fresh_seeds(used: Sequence[int]) -> tuple[int, ...]:
    """Return as many seeds as a search used, at least three: the next integers that it did not use."""
    following = (seed % (_LAST_SEED + 1) for seed in count(max(used) + 1))
    unused = (seed for seed in following if seed not in used)
    return tuple(islice(unused, max(_MIN_FRESH_SEEDS, len(used))))


def parse_search(overrides: list[Override], seeds: tuple[int, ...] | None = None) -> Search:
    """Return the search of a command line: `key=a,b`, `choice(…)`, `range(…)` and `interval(…)` are its dimensions.

    `tag(log, …)` makes an interval logarithmic.

    Args:
        seeds: of each trial (`hydra.sweeper.seeds`); None: one, the command's.

    Raises:
        RequestError: there is no dimension, one without points, a `glob`, or a seed beside `seeds`.
    """
    swept = {o.get_key_element(): _distribution(o) for o in overrides if o.is_sweep_override()}
    if "ablation" in swept:
        raise RequestError(f"ablation: a study runs one table\nname it: {COMMAND} -m ablation=resize")
    if not swept:
        raise RequestError(
            "hydra/sweeper=optuna: nothing to search\ngive a key several values, for example aug=none,cutout or "
            "optimizer.lr=interval(0.01,0.2)"
        )
    fixed = tuple(o.input_line for o in overrides if o.input_line and not o.is_sweep_override())
    if seeds is None:
        return Search(swept, fixed)
    for override in overrides:
        if override.get_key_element() == "seed":
            raise RequestError(
                f"{override.input_line}: hydra.sweeper.seeds has the seeds of each trial\nleave out one of the two"
            )
    return Search(swept, (*fixed, f"seed={seeds[0]}")) if len(seeds) == 1 else Search(swept, fixed, seeds)


def parse_seeds(override: Override) -> tuple[int, ...]:
    """Return the seeds of `seed=0,1,2`, `seed=range(5)` or `seed=7` of a table.

    Raises:
        RequestError: a seed is not a whole number below 2³², or is a duplicate.
    """
    listed = override.is_choice_sweep() or override.is_range_sweep()
    seeds = list(override.sweep_string_iterator()) if listed else [str(override.value())]
    if not all(seed.isdecimal() and int(seed) <= _LAST_SEED for seed in seeds) or len(set(seeds)) < len(seeds):
        raise RequestError(
            f"{override.input_line}: needs different whole numbers below 2³²\n"
            "use for example seed=0,1,2,3,4 or seed=range(5)"
        )
    return tuple(map(int, seeds))


def point_key(point: Params) -> str:
    """Return a point as JSON text; equal points have equal texts."""
    return json.dumps(dict(point), sort_keys=True, ensure_ascii=False)


def _distribution(override: Override) -> BaseDistribution:
    try:
        return _parse_distribution(override)
    except ValueError as error:  # from Optuna, for example if the first bound is larger
        raise RequestError(f"{override.input_line}: {' '.join(str(error).split())[:200]}") from None


def _parse_distribution(override: Override) -> BaseDistribution:
    swept = override.value()
    if isinstance(swept, IntervalSweep):
        low, high, log = swept.start, swept.end, "log" in swept.tags
        assert low is not None
        assert high is not None
        return IntDistribution(low, int(high), log) if isinstance(low, int) else FloatDistribution(low, high, log)
    if isinstance(swept, RangeSweep):
        # Sorted, because it may be shuffled or descend; twelve digits round 0.30000000000000004.
        values = sorted(_number(f"{float(text):.12g}") for text in override.sweep_string_iterator())
        if not values:
            raise ValueError("no value in the range")
        low, high, step = values[0], values[-1], abs(swept.step)
        if all(isinstance(value, int) for value in values):
            return IntDistribution(int(low), int(high), step=int(step))
        return FloatDistribution(low, high, step=step)
    if isinstance(swept, ChoiceSweep):
        return CategoricalDistribution(list(dict.fromkeys(map(_choice, override.sweep_string_iterator()))))
    raise RequestError(f"{override.input_line}: not a dimension of a search\nuse a list, choice, range or interval")


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _choice(text: str) -> int | float | str:
    try:
        return _number(text)
    except ValueError:
        return text


def _count(distribution: BaseDistribution) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    if distribution.step is None:
        return math.inf
    return round((distribution.high - distribution.low) / distribution.step) + 1
