"""What a command line may say, looked at before Hydra acts on it.

Hydra imports and calls what some of its own keys name (`_target_`, callbacks, logging handlers), reads configurations
from other folders, and unpickles a former job.  Of all that, a request can use the choices of `conf/` and the few keys
that say where files go and how a study is run; the values of our own keys are data, which
rp2k_lab/config/schema.py checks.
"""

import re
from collections.abc import Iterable
from typing import NoReturn

from rp2k_lab.config.choices import choices, groups
from rp2k_lab.core.errors import RequestError

# Of Hydra's own groups and keys; its launcher and its sweeper are plugins, and of another module Hydra takes none.
_HYDRA_GROUPS = {"sweeper": ("basic", "optuna"), "launcher": None}
_HYDRA_KEYS = re.compile(r"hydra\.(run\.dir|sweep\.(dir|subdir)|(sweeper|launcher)\.(?!_)\w+)")
_FLAGS = {"-m", "--multirun", "-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-p", "--package"}
_FLAGS |= {"--resolve", "-i", "--info", "-sc", "--shell-completion"}


def check_arguments(arguments: Iterable[str]) -> None:
    """Raise RequestError for a flag, a key of Hydra's or a choice that no request has."""
    for argument in arguments:
        if argument.startswith("-"):
            if argument.partition("=")[0] not in _FLAGS:
                _refuse(f"{argument}: there is no such flag", "the form is run.py [-m] group=choice key=value …")
        elif "=" in argument or argument.startswith("~"):
            _check_override(argument)


def _check_override(argument: str) -> None:
    name, _, value = argument.partition("=")
    key = name.lstrip("+~")
    if name.startswith("~"):
        _refuse(f"{argument}: every key has a value, and none is left out", "name another value")
    if not key or "@" in key:
        _refuse(f"{argument}: there is no such key", "python run.py --help lists them")
    if "_target_" in argument:  # of a launcher Hydra would call what a value names
        _refuse(f"{argument}: no value names something to call", "leave it out")
    if key.startswith("hydra/"):
        _check_hydra_group(argument, key.removeprefix("hydra/"), value)
    elif key.startswith("hydra") and not _HYDRA_KEYS.fullmatch(key):
        known = "hydra.run.dir, hydra.sweep.dir, hydra.sweeper.<option>"
        _refuse(f"{argument}: not a key that a request can set", f"of Hydra's own there are {known}")
    elif key in groups():
        if name.startswith("+"):  # it would lay one choice over another, where Hydra does not refuse it itself
            _refuse(f"{argument}: the group has its choice already", "leave out the +")
        _check_choices(argument, key, value)


def _check_hydra_group(argument: str, group: str, value: str) -> None:
    if group not in _HYDRA_GROUPS:
        _refuse(f"{argument}: not a group that a request can choose from", f"there is {' and '.join(groups())}")
    known = _HYDRA_GROUPS[group]
    if (known and value not in known) or not re.fullmatch(r"\w+", value):
        _refuse(f"{argument}: there is no such choice", f"choose one of {', '.join(known or ['basic', 'joblib'])}")


def _check_choices(argument: str, group: str, value: str) -> None:
    """A name, or of a sweep several: `a,b`, `choice(a,b)`.  A path would be a file outside of `conf/`."""
    names = [word.strip("'\"") for word in re.split(r"[\s,()]+", value) if word not in ("", "choice", "shuffle")]
    for name in names or [""]:
        if name not in choices(group):
            wrong = f"{group}={name}" if re.fullmatch(r"[\w./-]+", name) else argument
            _refuse(f"{wrong}: there is no such choice", f"choose one of {', '.join(choices(group))}")


def _refuse(what: str, way_out: str) -> NoReturn:
    raise RequestError(f"{what}\n{way_out}")
