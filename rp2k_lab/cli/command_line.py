"""Check the arguments of a command before Hydra acts on them.

Hydra imports and calls what some of its keys name (`_target_`, callbacks, logging handlers), reads configurations from
other folders and unpickles former jobs.  A request may only use the choices of `conf/` and Hydra's keys for folders
and studies.  The values of all other keys are data, which rp2k_lab/config/schema.py checks.
"""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from rp2k_lab import COMMAND
from rp2k_lab.config.choices import CHOSEN_AS_LIST, choices, groups
from rp2k_lab.core.errors import RequestError

# Allowed groups and keys of Hydra.  A launcher (None: any name) must be an installed plugin: Hydra accepts no other.
_HYDRA_GROUPS = {"sweeper": ("jobs", "optuna"), "launcher": None}
_HYDRA_KEYS = re.compile(r"hydra\.(run\.dir|sweep\.(dir|subdir)|(sweeper|launcher)\.(?!_)\w+)")
# Allowed flags of Hydra, as for `ArgumentParser.add_argument`.
_SWITCH: dict[str, Any] = {"action": "store_true"}
_FLAGS: dict[tuple[str, ...], dict[str, Any]] = {
    ("-m", "--multirun"): _SWITCH,
    ("-h", "--help"): _SWITCH,
    ("--hydra-help",): _SWITCH,
    ("--version",): _SWITCH,
    ("-c", "--cfg"): {"choices": ["job", "hydra", "all"]},
    ("-p", "--package"): {},
    ("--resolve",): _SWITCH,
    ("-i", "--info"): {
        "nargs": "?",
        "const": "all",
        "choices": ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"],
    },
    ("-sc", "--shell-completion"): _SWITCH,
}
_USAGE = f"use {COMMAND} [-m] group=choice key=value …; --help lists both"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _refuse(message, _USAGE)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (flags, overrides) of a command line; flags may stand before, between and after the overrides.

    A flag without a value has its shortest name, one with a value is `--name=value`.

    Raises:
        RequestError: an unknown flag or choice, or a key of Hydra that a request cannot set.
    """
    parser = _Parser(prog="run.py", add_help=False, allow_abbrev=False)
    for names, options in _FLAGS.items():
        parser.add_argument(*names, **options)
    parser.add_argument("overrides", nargs="*")
    values, unknown = parser.parse_known_intermixed_args(arguments)
    for argument in (*unknown, *(override for override in values.overrides if override.startswith("-"))):
        _refuse(f"{argument}: there is no such flag", _USAGE)
    for override in values.overrides:
        if "=" in override or override.startswith("~"):
            _check_override(override)
    flags = []
    for names, options in _FLAGS.items():
        value = getattr(values, names[-1].strip("-").replace("-", "_"))
        if value:
            flags.append(names[0] if options is _SWITCH else f"{names[-1]}={value}")
    return flags, values.overrides


def _check_override(argument: str) -> None:
    name, _, value = argument.partition("=")
    key = name.lstrip("+~")
    if name.startswith("~"):
        _refuse(f"{argument}: keys cannot be removed", "set another value: <key>=<value>")
    group, _, last = key.rpartition(".")
    plain = re.fullmatch(r"\w[\w,.-]*", value)
    if last == "name" and plain and group.replace(".", "/") in groups():  # the keys would be those of another choice
        _refuse(f"{argument}: a name cannot be set alone", f"use {group.replace('.', '/')}={value}")
    if not key or "@" in key:
        _refuse(f"{argument}: there is no such key", f"{COMMAND} --help lists them")
    if "_target_" in argument:  # Hydra would call what the value of a launcher names
        _refuse(f"{argument}: values cannot name code to call", "leave it out")
    if key.startswith("hydra/"):
        _check_hydra_group(argument, key.removeprefix("hydra/"), value)
    elif key.startswith("hydra") and not _HYDRA_KEYS.fullmatch(key):
        known = "hydra.run.dir, hydra.sweep.dir or hydra.sweeper.<option>"
        _refuse(f"{argument}: a request cannot set this key", f"leave it out, or use {known}")
    elif key in groups():
        if name.startswith("+"):  # it would merge two choices
            _refuse(f"{argument}: the group already has a choice", "leave out the +")
        _check_choices(argument, key, value)


def _check_hydra_group(argument: str, group: str, value: str) -> None:
    if group not in _HYDRA_GROUPS:
        _refuse(f"{argument}: a request cannot set this group", f"use one of {', '.join(groups())}")
    known = _HYDRA_GROUPS[group]
    if (known and value not in known) or not re.fullmatch(r"\w+", value):
        _refuse(f"{argument}: there is no such choice", f"choose one of {', '.join(known or ['basic', 'joblib'])}")


def _check_choices(argument: str, group: str, value: str) -> None:
    """Check one name or several (`a,b`, `choice(a,b)`, `callback=[a,b]`); a path could be a file outside of `conf/`."""
    if group in CHOSEN_AS_LIST:
        value = re.sub(r"[\[\]]", " ", value).strip() or "none"
    names = [name.strip("'\"") for name in re.split(r"[\s,()]+", value) if name not in ("", "choice", "shuffle")]
    for name in names or [""]:
        if name not in choices(group):
            unknown = f"{group}={name}" if re.fullmatch(r"[\w./-]+", name) else argument
            _refuse(f"{unknown}: there is no such choice", f"choose one of {', '.join(choices(group))}")


def _refuse(what: str, way_out: str) -> NoReturn:
    raise RequestError(f"{what}\n{way_out}")
