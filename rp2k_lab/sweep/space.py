"""What a study runs: the points of a table or of a search space, and the command of each."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rp2k_lab.config.ablation import Ablation, Scale, of_the_experiment
from rp2k_lab.core.errors import RequestError

Params = Mapping[str, Any]
_LAST_SEED = 2**32 - 1


@dataclass(frozen=True)
class AblationGrid:
    """Levels × seeds: a fixed grid, each cell run once and to its end."""

    ablation: Ablation
    scale: Scale
    seeds: tuple[int, ...]
    extra: tuple[str, ...]

    prunes = False
    metrics = ("test/top1", "val/top1", "train/loss")
    factor = "level"

    @property
    def name(self) -> str:
        return f"{self.ablation.name}_{self.scale}"

    @property
    def space(self) -> dict[str, BaseDistribution]:
        # Every possible seed, so that a table can be given more of them later.
        levels = self.ablation.level_names(self.scale)
        return {"level": CategoricalDistribution(levels), "seed": IntDistribution(0, _LAST_SEED)}

    @property
    def points(self) -> list[Params]:
        """Seed by seed, so that a table that is stopped early compares all levels."""
        return [{"level": level, "seed": s} for s in self.seeds for level in self.ablation.level_names(self.scale)]

    def sources(self, point: Params) -> list[Params]:
        """The points whose runs a point's run starts from."""
        return [point | {"level": level} for level in self.ablation.starts_from(point["level"], self.scale)]

    def overrides(self, point: Params, runs: Sequence[str] = ()) -> list[str]:
        """The command line of a point's run.

        Args:
            runs: the ids of the runs of its `sources`, in order.
        """
        started = [f"runs=[{','.join(runs)}]"] if runs else []
        return [*self.ablation.overrides(point["level"], self.scale, self.extra), *started, f"seed={point['seed']}"]

    def label(self, point: Params) -> str:
        """A point in a few words."""
        return f"{point['level']}, seed {point['seed']}"

    def definition(self) -> dict[str, Any]:
        """What may not change while the study lasts."""
        levels = self.ablation.level_names(self.scale)
        commands = {n: " ".join(of_the_experiment(self.ablation.overrides(n, self.scale, self.extra))) for n in levels}
        sources = {n: ", ".join(self.ablation.starts_from(n, self.scale)) for n in levels}
        return commands | {f"{n} starts from": names for n, names in sources.items() if names}


@dataclass(frozen=True)
class Search:
    """Keys with ranges: points drawn by a sampler, on val alone."""

    space: dict[str, BaseDistribution]
    fixed: tuple[str, ...]

    prunes = True
    metrics = ("val/top1", "train/loss")

    @property
    def name(self) -> str:
        return "-".join(self.space)

    @property
    def factor(self) -> str | None:
        """The first dimension that is a list: what a page can show the runs by."""
        return next((key for key, d in self.space.items() if isinstance(d, CategoricalDistribution)), None)

    @property
    def points(self) -> list[Params]:
        """None are set beforehand."""
        return []

    @property
    def size(self) -> float:
        """How many points there are."""
        return math.prod(_count(distribution) for distribution in self.space.values())

    def sources(self, point: Params) -> list[Params]:
        """None: each run is trained anew."""
        return []

    def overrides(self, point: Params, runs: Sequence[str] = ()) -> list[str]:
        """The command line of a point's run, which leaves test alone."""
        return [*self.fixed, *(f"{key}={value}" for key, value in point.items()), "task.test=false"]

    def label(self, point: Params) -> str:
        """A point in a few words."""
        shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in point.items()}
        return " ".join(f"{key}={value}" for key, value in shown.items())

    def definition(self) -> dict[str, Any]:
        """What may not change while the study lasts."""
        return {k: str(d) for k, d in self.space.items()} | {"fixed": " ".join(of_the_experiment(self.fixed))}


def parse_search(overrides: list[Override]) -> Search:
    """The search of a command line, each `key=a,b`, `choice(…)`, `range(…)`, `interval(…)` a dimension.

    `tag(log, …)` makes an interval logarithmic.

    Raises:
        RequestError: nothing to search, a dimension without points, or `glob`.
    """
    swept = {o.get_key_element(): _distribution(o) for o in overrides if o.is_sweep_override()}
    if "ablation" in swept:
        raise RequestError("ablation: tables are run one by one\nexample: python run.py -m ablation=resize")
    if not swept:
        raise RequestError(
            "hydra/sweeper=optuna: nothing to search\ngive a key several values: aug=none,cutout or "
            "optimizer.lr=interval(0.01,0.2)"
        )
    return Search(swept, tuple(o.input_line for o in overrides if not o.is_sweep_override()))


def parse_seeds(override: Override) -> tuple[int, ...]:
    """The seeds of `seed=0,1,2`, `seed=range(5)` or `seed=7` beside an ablation."""
    listed = override.is_choice_sweep() or override.is_range_sweep()
    seeds = list(override.sweep_string_iterator()) if listed else [str(override.value())]
    if not all(seed.isdecimal() and int(seed) <= _LAST_SEED for seed in seeds) or len(set(seeds)) < len(seeds):
        raise RequestError(
            f"{override.input_line}: needs different whole numbers below 2³²\nexample: seed=0,1,2,3,4 or seed=range(5)"
        )
    return tuple(map(int, seeds))


def point_key(point: Params) -> str:
    """A point as text: equal points, equal texts."""
    return json.dumps(dict(point), sort_keys=True, ensure_ascii=False)


def _distribution(override: Override) -> BaseDistribution:
    try:
        return _parse_distribution(override)
    except ValueError as error:  # Optuna's words, such as that the first bound is the larger one
        raise RequestError(f"{override.input_line}: {' '.join(str(error).split())[:200]}") from None


def _parse_distribution(override: Override) -> BaseDistribution:
    value = override.value()
    if override.is_interval_sweep():
        kind = IntDistribution if isinstance(value.start, int) else FloatDistribution
        return kind(value.start, value.end, log="log" in value.tags)
    if override.is_range_sweep():
        # Sorted, since it may be shuffled or descend; in twelve digits, which rounds 0.30000000000000004.
        values = sorted(_number(f"{float(text):.12g}") for text in override.sweep_string_iterator())
        if not values:
            raise ValueError("no value is in it")
        kind = IntDistribution if all(isinstance(v, int) for v in values) else FloatDistribution
        return kind(values[0], values[-1], step=abs(value.step))
    if override.is_choice_sweep():
        return CategoricalDistribution(list(dict.fromkeys(map(_number, override.sweep_string_iterator()))))
    raise RequestError(f"{override.input_line}: a search takes a list, choice, range or interval")


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _count(distribution: BaseDistribution) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if distribution.step is None:
        return math.inf
    return round((distribution.high - distribution.low) / distribution.step) + 1
