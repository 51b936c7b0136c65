"""The groups of `conf/`, the choices of each, and the defaults of each choice, read from the files."""

import copy
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from rp2k_lab import CLONE

CONF = CLONE / "conf" if CLONE else Path(__file__).parents[1] / "conf"  # a wheel carries it in the package


def groups() -> list[str]:
    """Return the names of the groups: the folders of `conf/` without conf/hydra, whose groups are Hydra's."""
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra")


def choices(group: str) -> list[str]:
    """Return the names of the choices of a group."""
    return sorted(file.stem for file in (CONF / group).glob("[!_]*.yaml"))


def defaults_of(group: str, choice: str) -> dict[str, Any]:
    """Return the keys of a choice as Hydra composes them, in plain containers and without Hydra.

    Raises:
        FileNotFoundError: the group has no such choice.
    """
    own = _read(CONF / group / f"{choice}.yaml")
    merged: dict[str, Any] = {}
    bases = own.pop("defaults", [])
    for base in bases if "_self_" in bases else [*bases, "_self_"]:
        merged = with_defaults(merged, own if base == "_self_" else defaults_of(group, base))
    return merged


def root_defaults() -> dict[str, Any]:
    """Return the composed `conf/config.yaml`: the root keys, and each group with its default choice."""
    chosen = chosen_by_default()
    keys = {key: value for key, value in _read(CONF / "config.yaml").items() if key not in ("defaults", "hydra")}
    recipe = {"recipe": chosen.pop("recipe")}
    return {group: defaults_of(group, choice) for group, choice in chosen.items()} | keys | recipe


def chosen_by_default() -> dict[str, str]:
    """Return the default choice of each group, from the defaults list of `conf/config.yaml`."""
    entries = _read(CONF / "config.yaml")["defaults"]
    pairs = [pair for entry in entries if entry != "_self_" for pair in entry.items()]
    return {group: choice for group, choice in pairs if not group.startswith("override")}


def _read(file: Path) -> dict[str, Any]:
    """Return a file of `conf/` as plain containers, which the caller may change."""
    return copy.deepcopy(_parsed(file))


@cache
def _parsed(file: Path) -> dict[str, Any]:
    """Parse each file once: `task.resume=auto` may compare hundreds of earlier runs."""
    from omegaconf import OmegaConf

    return plain(OmegaConf.load(file))


def plain(config: Any, resolve: bool = False) -> dict[str, Any]:
    """Return an OmegaConf mapping as plain containers.

    Args:
        resolve: replace interpolations by their values.

    Raises:
        TypeError: it is no mapping.
    """
    from omegaconf import OmegaConf

    container = OmegaConf.to_container(config, resolve=resolve)
    if not isinstance(container, dict):
        raise TypeError(f"{type(container).__name__}: not a mapping")
    return cast(dict[str, Any], container)


def with_defaults(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `defaults` with `values` on top, nested groups merged key by key."""
    merged = dict(defaults) | dict(values)
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(key), Mapping):
            merged[key] = with_defaults(defaults[key], value)
    return merged


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (`group.key`, value) of a nested configuration."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
