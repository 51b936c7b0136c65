"""Check the arguments of a command before Hydra acts on them.

Hydra imports and calls what some of its keys name (`_target_`, callbacks, logging handlers), reads configurations from
other folders and unpickles former jobs.  A request may only use the choices of `conf/` and Hydra's keys for folders
and studies.  The values of all other keys are data, which rp2k_lab/config/schema.py checks.
"""

import re
from collections.abc import Iterable
from typing import NoReturn

from rp2k_lab.config.choices import choices, groups
from rp2k_lab.core.errors import RequestError

# Allowed groups and keys of Hydra.  A launcher (None: any name) must be an installed plugin: Hydra accepts no other.
_HYDRA_GROUPS = {"sweeper": ("basic", "optuna"), "launcher": None}
_HYDRA_KEYS = re.compile(r"hydra\.(run\.dir|sweep\.(dir|subdir)|(sweeper|launcher)\.(?!_)\w+)")
_FLAGS = {"-m", "--multirun", "-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-p", "--package"}
_FLAGS |= {"--resolve", "-i", "--info", "-sc", "--shell-completion"}


def check_arguments(arguments: Iterable[str]) -> None:
    """Raise RequestError for an unknown flag or choice, or a key of Hydra that a request cannot set."""
    for argument in arguments:
        if argument.startswith("-"):
            if argument.partition("=")[0] not in _FLAGS:
                _refuse(f"{argument}: there is no such flag", "use run.py [-m] group=choice key=value …")
        elif "=" in argument or argument.startswith("~"):
            _check_override(argument)


def _check_override(argument: str) -> None:
    name, _, value = argument.partition("=")
    key = name.lstrip("+~")
    if name.startswith("~"):
        _refuse(f"{argument}: keys cannot be removed", "set another value: <key>=<value>")
    if not key or "@" in key:
        _refuse(f"{argument}: there is no such key", "python run.py --help lists them")
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
    """Check one name, or several of a sweep: `a,b`, `choice(a,b)`.  A path could be a file outside of `conf/`."""
    names = [name.strip("'\"") for name in re.split(r"[\s,()]+", value) if name not in ("", "choice", "shuffle")]
    for name in names or [""]:
        if name not in choices(group):
            unknown = f"{group}={name}" if re.fullmatch(r"[\w./-]+", name) else argument
            _refuse(f"{unknown}: there is no such choice", f"choose one of {', '.join(choices(group))}")


def _refuse(what: str, way_out: str) -> NoReturn:
    raise RequestError(f"{what}\n{way_out}")
