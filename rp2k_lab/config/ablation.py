"""Ablations: a question, its levels, and the runs that answer it.

Each is a file of `conf/ablation/`, and each size of its runs a file of `conf/scale/`.
"""

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rp2k_lab.config.choices import choices, defaults_of
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.options import Seed

Overrides = Annotated[tuple[str, ...], Field(strict=False)]
Seeds = Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)]
MOST_LOOKS = 3
# Keys of the machine, not of the experiment: they may differ between the cells of a table.
MACHINE_KEYS = re.compile(
    r"tracking(\..*)?|dataset\.((\w+_)?root|table|(\w+_)?annotations|cache_gb)|device\.num_threads|debug"
)
# Of these, keys that only some data sets have: a run that starts from others does not name its data set again.
_FILES_OF_SOME = re.compile(r"dataset\.(table|\w+_root|(\w+_)?annotations)")
# Keys of a training that do not change its result.
_CHECKPOINT_KEYS = re.compile(r"task\.checkpoint\w+")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Spread(_Part):
    """The spread between seeds of earlier tables with the same network, epochs and size."""

    points: Annotated[float, Field(gt=0)] = Field(description="standard deviation of a cell [percentage points]")
    degrees_of_freedom: Annotated[float, Field(gt=0)] = Field(description="what it counts for")
    source: str = Field(description="the tables")


class Scale(_Part):
    """The size of an ablation's runs."""

    name: str = Field(description="name of the scale, as in `at` of ablations and levels")
    about: str = Field("", description="network and photos, for reports")
    settings: dict[str, Any] = Field(description="what the runs of every table share: key or group to value")
    by_seed: Overrides = Field((), description="keys that have the run's seed as their value")
    seeds: Seeds | None = Field(None, description="seeds of every level; null: those of the table")
    spread: Spread | None = Field(None, description="spread between seeds that earlier tables found")


class Level(_Part):
    """One level of an ablation."""

    overrides: Overrides = Field(description="overrides of the level: group=choice or key=value")
    at: dict[str, Overrides | None] = Field(
        {}, description="more overrides at a scale; the last value of a key counts; null: the level is not run there"
    )
    scales: Overrides | None = Field(None, description="scales that the level is run at; null: all")
    runs: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="levels above: it starts from their runs of the same seed; levels not run at a scale are left out",
    )
    against: str | None = Field(None, description="baseline of this level; null: the baseline of the table")
    published: float | None = Field(None, description="published top-1 [percent]")
    published_difference: float | None = Field(
        None, description="published difference [percentage points], if no top-1 was published"
    )


class Ablation(_Part):
    """A table of levels × seeds with one run per cell."""

    name: str
    question: str = Field(description="question that the table answers")
    source: str = Field(description="source of the published figures")
    metric: Literal["top1", "macro_top1"] = Field(description="metric of the verdict, on test")
    margin: Annotated[float, Field(gt=0)] | None = Field(
        description="smallest difference of interest [percentage points]: a level whose interval lies within is equal",
    )
    baseline: str | None = Field(description="level that the others are compared with")
    overrides: Overrides = Field(description="overrides that all levels share")
    at: dict[str, Overrides] = Field(description="more overrides that all levels share at a scale")
    levels: dict[str, Level] = Field(description="levels by name, in the order of the table")
    seeds: Seeds = Field(description="seeds of each level, all different")

    baseline_seeds: Seeds | None = Field(description="seeds of levels that others are compared with; null: `seeds`")

    rounds: tuple[Seeds, ...] = Field(
        strict=False,
        max_length=MOST_LOOKS - 1,
        description="further seeds of every level, if the first leave rows open; all looks share the 5 % equally",
    )

    @model_validator(mode="after")
    def _check_level_names(self):
        if self.levels and self.baseline is None:
            raise ValueError("baseline: the table needs one of its levels as baseline")
        for name in filter(None, [self.baseline, *(level.against for level in self.levels.values())]):
            if name not in self.levels:
                raise ValueError(f"levels: the baseline {name} is not one of them")
        above: list[str] = []
        for name, level in self.levels.items():
            if unknown := [source for source in level.runs if source not in above]:
                raise ValueError(f"levels: {name} starts from {unknown[0]}, which is not above it")
            above.append(name)
        added = [seed for seeds in self.rounds for seed in seeds]
        for key, seeds in (("seeds", [*self.seeds, *added]), ("baseline_seeds", self.baseline_seeds or ())):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{key}={list(seeds)}: duplicate seed")
        return self

    @model_validator(mode="after")
    def _check_scale_names(self):
        named = {name for part in (self, *self.levels.values()) for name in part.at}
        named |= {name for level in self.levels.values() for name in level.scales or ()}
        if named and (unknown := sorted(named - set(choices("scale")))):
            raise ValueError(f"at: there is no scale {unknown[0]}; choose one of {', '.join(choices('scale'))}")
        return self

    def level_names(self, scale: str) -> list[str]:
        """Return the levels that are run at a scale (its name), in the order of the file."""
        return [
            name
            for name, level in self.levels.items()
            if level.at.get(scale, ()) is not None and (level.scales is None or scale in level.scales)
        ]

    def seeds_of(self, name: str, scale: Scale) -> tuple[int, ...]:
        """Return the seeds of a level at a scale, without those of `rounds`."""
        if scale.seeds is not None:
            return scale.seeds
        is_baseline = self.baseline_of(name) is None
        return self.baseline_seeds if is_baseline and self.baseline_seeds else self.seeds

    def earlier_spread(self, scale: Scale) -> Spread | None:
        """Return the spread that earlier tables of a scale found, if this table has their network and length, or None.

        None for a table of macro accuracy, and for one with levels that start from other runs.
        """
        varied = {
            _key(each) for name in self.level_names(scale.name) for each in self.level_overrides(name, scale.name)
        }
        varied |= {_key(each) for each in (*self.overrides, *self.at.get(scale.name, ()))}
        is_another = {key.partition(".")[0] for key in varied} & {"model", "epochs", "size", "runs", "task"}
        return None if self.metric != "top1" or is_another else scale.spread

    def source_levels(self, name: str, scale: str) -> list[str]:
        """Return the levels whose runs a level takes as `runs=`, in order."""
        run_levels = self.level_names(scale)
        return [source for source in self.levels[name].runs if source in run_levels]

    def baseline_of(self, name: str) -> str | None:
        """Return the baseline of a level, or None if the level is itself a baseline."""
        level = self.levels[name]
        if level.against:
            return level.against
        baselines = {self.baseline, *(other.against for other in self.levels.values())}
        return None if name in baselines else self.baseline

    def level_overrides(self, name: str, scale: str) -> list[str]:
        """Return the overrides that make the level, at a scale (its name)."""
        level = self.levels[name]
        return _last_values([*level.overrides, *(level.at.get(scale) or ())])

    def run_overrides(self, name: str, scale: Scale, extra: Iterable[str] = ()) -> list[str]:
        """Return the overrides of a level's runs, without the seed; the last value of a key counts.

        A run that starts from others inherits their scale and their overrides from the command line.

        Args:
            extra: overrides of the command line.

        Raises:
            RequestError: the command line sets a key that the level varies.
        """
        varied, extra = self.level_overrides(name, scale.name), list(extra)
        for override in extra:
            if _key(override) in map(_key, varied):
                raise RequestError(f"{override}: ablation={self.name} varies {_key(override)}\nleave it out")
        if self.levels[name].runs:
            machine = (override for override in extra if MACHINE_KEYS.fullmatch(_key(override)))
            return [*varied, *(override for override in machine if not _FILES_OF_SOME.fullmatch(_key(override)))]
        return _last_values([*self.common(scale), *varied, *extra])

    def common(self, scale: Scale) -> list[str]:
        """Return the overrides that all levels share at a scale."""
        settings = (f"{key}={_text(value)}" for key, value in scale.settings.items())
        return _last_values([*settings, *self.overrides, *self.at.get(scale.name, ())])


def find_scale(name: str) -> Scale:
    """Return the scale of this name.

    Raises:
        FileNotFoundError: there is none.
    """
    return Scale.model_validate(defaults_of("scale", name))


def names() -> list[str]:
    """Return the names of all tables."""
    return [name for name in choices("ablation") if name not in ("none", "all")]


def experiment_overrides(overrides: Iterable[str]) -> list[str]:
    """Return the overrides that change results, sorted: without paths, tracking and checkpoints."""
    without_effect = (MACHINE_KEYS, _CHECKPOINT_KEYS)
    return sorted(o for o in overrides if not any(keys.fullmatch(_key(o)) for keys in without_effect))


def _last_values(overrides: Iterable[str]) -> list[str]:
    """Return the last override of each key, at the place of its first."""
    return list({_key(override): override for override in overrides}.values())


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def _text(value: Any) -> str:
    """Return a value in the command line's syntax."""
    is_plain = isinstance(value, str) and re.fullmatch(r"[\w./:+-]+", value)
    return value if is_plain else json.dumps(value, ensure_ascii=False)
