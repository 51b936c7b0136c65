"""The choices of each group of the configuration: our own and those of installed packages.

What is installed decides, never a value.  A package declares an entry point of the group `rp2k_lab.plugins` that names
a module; the module registers option classes, and a folder `conf/` beside it has their YAML files.  Our own choices use
the same decorator.  docs/extending.md walks through one choice of each group.
"""

import importlib
import importlib.metadata
import importlib.util
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args

from pydantic import Discriminator, Field, Tag

from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.options import Group

ENTRY_POINTS = "rp2k_lab.plugins"
# Modules and packages that register our own choices.  All are quick to import.
_OURS = (
    "rp2k_lab.aug.options",
    "rp2k_lab.aug.policy",
    "rp2k_lab.aug.erase",
    "rp2k_lab.aug.mix",
    "rp2k_lab.dataset.source",
    "rp2k_lab.model.family",
    "rp2k_lab.train.loss",
    "rp2k_lab.train.optimizer",
    "rp2k_lab.train.schedule",
    "rp2k_lab.train.optional_callbacks",
    "rp2k_lab.tracking.options",
)
GROUPS = (
    "aug", "aug/policy", "aug/erase", "aug/mix", "callback", "dataset", "loss", "model", "optimizer", "schedule",
    "tracking",
)  # fmt: skip
# Key of the option class that a group has for all names without one, as `name: str` states it.
_ANY = "*"
_registered: dict[str, dict[str, type[Group]]] = {group: {} for group in GROUPS}
Options = TypeVar("Options", bound=type[Group])


def register(group: str) -> Callable[[Options], Options]:
    """Return a class decorator that registers an option class under its names in a group of the configuration.

    Args:
        group: one of `GROUPS`.

    Raises:
        RequestError: no such group, a class without `name` or a method of its base, or a name that another class has.
    """

    def add(options: Options) -> Options:
        where = f"{options.__module__}.{options.__qualname__}"
        if group not in _registered:
            raise RequestError(f"{where}: there is no group {group}\nregister one of {', '.join(GROUPS)}")
        annotation = options.model_fields["name"].annotation if "name" in options.model_fields else None
        names = (_ANY,) if annotation is str else get_args(annotation)
        if not names:
            raise RequestError(f'{where}: has no names\nadd name: Literal["…"], the names of its choices')
        if missing := sorted(getattr(options, "__abstractmethods__", ())):
            raise RequestError(f"{where}: has no {missing[0]}()\nwrite it, as docs/extending.md shows")
        for name in names:
            other = _registered[group].setdefault(name, options)
            # A module that failed half-way is imported again, with new classes of the same places.
            if f"{other.__module__}.{other.__qualname__}" != where:
                raise RequestError(
                    f"{group}={name}: both {other.__module__} and {options.__module__} register it\n"
                    "uninstall one of the two packages"
                )
            _registered[group][name] = options
        return options

    return add


def options_of(group: str) -> dict[str, type[Group]]:
    """Return the option class of each choice of a group, by name.

    Raises:
        RequestError: a package cannot be imported, or two register the same name.
    """
    load()
    return dict(_registered[group])


def union(group: str) -> Any:
    """Return the type of a group's value for pydantic: one of its option classes, chosen by `name`."""
    by_name = options_of(group)
    classes = tuple(dict.fromkeys(by_name.values()))
    if len(classes) == 1:
        return classes[0]
    if _ANY not in by_name:
        return Annotated[Union[classes], Field(discriminator="name")]  # noqa: UP007 (a tuple)

    def tag(value: Any) -> str:
        name = value.get("name") if isinstance(value, dict) else value.name
        return name if name in by_name else _ANY

    tagged = tuple(Annotated[options, Tag(name)] for name, options in by_name.items())
    return Annotated[Union[tagged], Discriminator(tag)]  # noqa: UP007


@cache
def load() -> None:
    """Import all modules that register choices, once.

    Raises:
        RequestError: see `options_of`.
    """
    for name in _OURS:
        module = importlib.import_module(name)
        for part in pkgutil.iter_modules(getattr(module, "__path__", ())):
            importlib.import_module(f"{name}.{part.name}")
    for point in _entry_points():
        try:
            point.load()
        except RequestError:
            raise
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise RequestError(
                f"package {_package(point)}: cannot be imported ({type(error).__name__}: {reason})\n"
                "correct or uninstall it"
            ) from error


@cache
def conf_folders() -> tuple[Path, ...]:
    """Return the existing folders `conf/` of installed packages, without importing the packages."""
    folders = []
    for point in _entry_points():
        top, *inner = point.module.split(".")
        spec = importlib.util.find_spec(top)
        if spec is None:
            continue
        roots = [Path(folder) for folder in spec.submodule_search_locations or [Path(spec.origin or "").parent]]
        # `my_parts.plugin` has its conf/ beside it or at the top of the package.
        for root in roots:
            folders += [root.joinpath(*inner[:depth]) / "conf" for depth in range(len(inner) + 1)]
    return tuple(folder for folder in dict.fromkeys(folders) if folder.is_dir())


@cache
def _entry_points() -> tuple[importlib.metadata.EntryPoint, ...]:
    return tuple(
        sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda point: (point.name, point.value))
    )


def _package(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else point.value
