"""The groups of `conf/`, the choices of each, and the defaults of each choice, read from the files."""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from rp2k_lab import CLONE
from rp2k_lab.core.errors import RequestError
from rp2k_lab.plugins import conf_folders

CONF = CLONE / "conf" if CLONE else Path(__file__).parents[1] / "conf"  # a wheel carries it in the package
# Groups of which a run chooses several: each choice's keys are under its name (`# @package` in its file).
CHOSEN_AS_LIST = ("callback",)
CORRECT_FILE = "correct the file, or uninstall the package that it belongs to"


def groups() -> list[str]:
    """Return the names of the groups, also inner ones (`aug/erase`); conf/hydra is left out, its groups are Hydra's."""
    top = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra")
    return [name for group in top for name in (group, *(f"{group}/{inner}" for inner in inner_groups(group)))]


def inner_groups(group: str) -> list[str]:
    """Return the groups within a group: policy, erase and mix of aug."""
    folder = CONF / group
    return sorted(inner.name for inner in folder.iterdir() if inner.is_dir()) if folder.is_dir() else []


def choices(group: str) -> list[str]:
    """Return the names of the choices of a group, with those of installed packages.

    Raises:
        RequestError: two folders have a choice of the same name.
    """
    return sorted(_files(group))


def defaults_of(group: str, choice: str, overridden: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the keys of a choice as Hydra composes them, in plain containers and without Hydra.

    Args:
        overridden: inner group to its choice, as a file that builds on this one sets it.

    Raises:
        FileNotFoundError: the group has no such choice.
    """
    own = _read(_file(group, choice))
    entries = own.pop("defaults", [])
    inner = {k.rpartition("/")[2]: v for k, v in _pairs(entries, overrides=True)} | dict(overridden or {})
    if group in CHOSEN_AS_LIST and own:
        own = {choice: own}
    merged: dict[str, Any] = {}
    for entry in entries if "_self_" in entries else [*entries, "_self_"]:
        if entry == "_self_":
            merged = with_defaults(merged, own)
        elif isinstance(entry, str):
            merged = with_defaults(merged, defaults_of(group, entry, inner))
        for key, nested in _pairs([entry], overrides=False):
            merged = with_defaults(merged, {key: defaults_of(f"{group}/{key}", inner.get(key, nested))})
    return merged


def complete(group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a choice with today's defaults for those that `values` (with its name) lacks.

    Raises:
        RequestError: no such choice is installed.
    """
    if "name" not in values:
        return dict(values)
    try:
        merged = with_defaults(defaults_of(group, values["name"]), values)
    except FileNotFoundError:
        raise RequestError(
            f"{group}={values['name']}: no installed package has this choice\n"
            f"install the package that has it; installed are {', '.join(choices(group))}"
        ) from None
    for key in inner_groups(group):
        if isinstance(values.get(key), Mapping) and "name" in values[key]:
            merged[key] = complete(f"{group}/{key}", values[key])
    return merged


def _pairs(entries: Iterable[Any], overrides: bool) -> Iterator[tuple[str, str]]:
    """Yield (group, choice) of a defaults list: of its entries `override group`, or of the others."""
    for entry in entries:
        for key, choice in entry.items() if isinstance(entry, Mapping) else ():
            if key.startswith("override ") == overrides:
                yield key.removeprefix("override "), choice


def _files(group: str) -> dict[str, Path]:
    """Return the file of each choice of a group."""
    files: dict[str, Path] = {}
    for folder in (CONF, *conf_folders()):
        for file in (folder / group).glob("[!_]*.yaml"):
            if file.stem in files:
                raise RequestError(
                    f"{group}={file.stem}: both {files[file.stem]} and {file} are this choice\n"
                    "uninstall the package of one of the two, or rename its choice"
                )
            files[file.stem] = file
    return files


def _file(group: str, choice: str) -> Path:
    if "/" in choice:  # records name choices, never files
        raise FileNotFoundError(choice)
    own = CONF / group / f"{choice}.yaml"
    return own if own.exists() else _files(group).get(choice, own)


def root_defaults() -> dict[str, Any]:
    """Return the composed `conf/config.yaml`: the root keys, and each group with its default choice."""
    chosen = chosen_by_default()
    keys = {key: value for key, value in _read(CONF / "config.yaml").items() if key not in ("defaults", "hydra")}
    recipe = {"recipe": chosen.pop("recipe")}
    return {group: defaults_of(group, choice) for group, choice in chosen.items()} | keys | recipe


def recipe_settings(name: str) -> dict[str, Any]:
    """Return what a recipe sets, flat (`group.key`), with its choices as `<group>.name`; nothing for none."""
    own = _read(_file("recipe", name))
    choices = dict(_pairs(own.pop("defaults", []), overrides=True))
    return {f"{group.removeprefix('/')}.name": choice for group, choice in choices.items()} | dict(flatten(own))


def chosen_by_default() -> dict[str, str]:
    """Return the default choice of each group, from the defaults list of `conf/config.yaml`."""
    entries = _read(CONF / "config.yaml")["defaults"]
    pairs = [pair for entry in entries if entry != "_self_" for pair in entry.items()]
    return {group: choice for group, choice in pairs if not group.startswith("override")}


def _read(file: Path) -> dict[str, Any]:
    """Return a file of `conf/` as plain containers, which the caller may change."""
    return copy.deepcopy(_parsed(file))


def yaml_problem(error: Exception) -> str:
    """Return why a file is no configuration, with its line."""
    mark = getattr(error, "problem_mark", None)
    place = f" in line {mark.line + 1}" if mark else ""
    return f"no valid configuration{place} ({getattr(error, 'problem', None) or str(error).splitlines()[0]})"


@cache
def _parsed(file: Path) -> dict[str, Any]:
    """Parse each file once: `task.resume=auto` may compare hundreds of earlier runs."""
    import yaml
    from omegaconf import OmegaConf

    try:
        return plain(OmegaConf.load(file))
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise RequestError(f"{file}: {yaml_problem(error)}\n{CORRECT_FILE}") from None


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


def keys_of_request(arguments: Iterable[str]) -> list[str]:
    """Return the root keys, the groups and the keys of the choices among overrides, or of the default choices.

    They are read from the files, because the request may be incomplete or wrong.
    """
    given = {key: value for key, _, value in (argument.partition("=") for argument in arguments)}
    keys = set(root_defaults()) | set(groups())
    for group, choice in chosen_by_default().items():
        inner = {key.removeprefix(f"{group}/"): value for key, value in given.items() if key.startswith(f"{group}/")}
        for name in re.findall(r"[^\s,\[\]]+", given.get(group, choice)):
            keys |= keys_of(group, name, inner)
    return sorted(keys)


def keys_of(group: str, choice: str, inner: Mapping[str, str] | None = None) -> set[str]:
    """Return the keys of a choice (`aug.erase.length` and others for aug=cutout); none if there is no such choice.

    Args:
        inner: the choices of groups within the group.
    """
    try:
        keys = [key for key, _ in flatten(defaults_of(group.replace(".", "/"), choice, inner))]
    except OSError:
        return set()
    prefix = group.replace("/", ".")
    return {f"{prefix}.{key}" for key in keys if key.rpartition(".")[2] not in ("name", "_target_")}
