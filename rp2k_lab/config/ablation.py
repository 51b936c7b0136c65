"""An ablation: a question, its levels, and the runs that answer it.  `conf/ablation/` has one file each."""

import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rp2k_lab import PROJECT
from rp2k_lab.core.errors import RequestError

Scale = Literal["paper", "laptop", "smoke"]
Overrides = Annotated[tuple[str, ...], Field(strict=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# Of the machine, not of the experiment: they may differ between two cells of one table.
MACHINE_KEYS = re.compile(r"tracking(\..*)?|dataset\.(root|cache_gb)|device\.num_threads|debug")
# Of a training alone, which comes out the same whatever they are.
_CHECKPOINT_KEYS = re.compile(r"task\.checkpoint\w+")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Level(_Part):
    """One answer that is tried."""

    overrides: Overrides = Field(description="group=choice and key=value")
    at: dict[Scale, Overrides | None] = Field({}, description="others at a scale; null: not run there")
    runs: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="levels above, whose runs of the same seed it starts from; those not run at a scale are left out",
    )
    against: str | None = Field(None, description="the level it is compared with; null: the table's baseline")
    published: float | None = Field(None, description="top-1 in percent")
    published_difference: float | None = Field(None, description="in points, where no top-1 was published")


class Ablation(_Part):
    """A table: levels × seeds, a run a cell."""

    name: str
    question: str
    source: str = Field(description="of the published figures")
    metric: Literal["top1", "macro_top1"] = Field(description="what the verdict is about, on test")
    baseline: str | None = Field(description="the level that the others are compared with")
    levels: dict[str, Level]
    seeds: tuple[Seed, ...] = Field(strict=False, min_length=1)
    scales: dict[Scale, dict[str, Any]] = Field(description="key or group to value: what all cells have, by scale")

    @model_validator(mode="after")
    def _compares_what_is_there(self):
        if self.levels and self.baseline is None:
            raise ValueError("baseline: the table needs one of its levels")
        for name in filter(None, [self.baseline, *(level.against for level in self.levels.values())]):
            if name not in self.levels:
                raise ValueError(f"levels: there is no {name}, which others are compared with")
        above: list[str] = []
        for name, level in self.levels.items():
            if unknown := [source for source in level.runs if source not in above]:
                raise ValueError(f"levels: {name} starts from {unknown[0]}, which is none of those above it")
            above.append(name)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)}: one stands twice")
        return self

    def level_names(self, scale: Scale) -> list[str]:
        """The levels that are run at a scale, in the file's order."""
        return [name for name, level in self.levels.items() if level.at.get(scale, ()) is not None]

    def starts_from(self, name: str, scale: Scale) -> list[str]:
        """The levels whose runs a level's run takes as `runs=`, in order."""
        there = self.level_names(scale)
        return [source for source in self.levels[name].runs if source in there]

    def compared_with(self, name: str) -> str | None:
        """The level's baseline, or None where it is the table's own or, at its scale, another's."""
        level = self.levels[name]
        if level.against:
            return level.against
        others = {other.against for other in self.levels.values()}
        return None if name == self.baseline or name in others else self.baseline

    def overrides(self, name: str, scale: Scale, extra: Iterable[str] = ()) -> list[str]:
        """What a level's runs are started with, but for the seed; of two values of a key the later one counts.

        A run that starts from others has from them what the scale and the command line say of the experiment.

        Args:
            extra: the command line's own.

        Raises:
            RequestError: the command line sets what the level is about.
        """
        level, extra = self.levels[name], list(extra)
        own = level.at.get(scale) or level.overrides
        for override in extra:
            if _key(override) in map(_key, own):
                raise RequestError(f"{override}: {_key(override)} is what ablation={self.name} varies\nleave it out")
        if self.levels[name].runs:
            return [*own, *(override for override in extra if MACHINE_KEYS.fullmatch(_key(override)))]
        return list({_key(override): override for override in (*self.common(scale), *own, *extra)}.values())

    def common(self, scale: Scale) -> list[str]:
        """What all levels have at a scale, but for what is their own."""
        return [f"{key}={_text(value)}" for key, value in self.scales[scale].items()]


def names() -> list[str]:
    """Every table there is."""
    files = (PROJECT / "conf" / "ablation").glob("[!_]*.yaml")
    return sorted(file.stem for file in files if file.stem not in ("none", "all"))


def of_the_experiment(overrides: Iterable[str]) -> list[str]:
    """Those that decide what comes out, sorted: without paths, tracking and checkpoints."""
    without_effect = (MACHINE_KEYS, _CHECKPOINT_KEYS)
    return sorted(o for o in overrides if not any(keys.fullmatch(_key(o)) for keys in without_effect))


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def _text(value: Any) -> str:
    """As it would stand on the command line."""
    return value if isinstance(value, str) else json.dumps(value)
