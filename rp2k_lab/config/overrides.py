"""The overrides that a request may have: the choices of `conf/`, and Hydra's keys for folders, studies and launchers.

Hydra imports and calls what some of its keys name (`_target_`, callbacks, logging handlers), sets variables of the
environment, reads configurations from other folders and unpickles former jobs.  All of its keys that a request can set
are listed here.  The values of all other keys are data, which rp2k_lab/config/schema.py checks.
"""

import re
import shutil
from collections.abc import Iterable
from functools import cache
from typing import NoReturn

from rp2k_lab import COMMAND
from rp2k_lab.config.choices import CHOSEN_AS_LIST, CONF, choices, groups
from rp2k_lab.core.errors import RequestError

SWEEPERS = ("jobs", "optuna")
# Options of the launchers in rp2k_lab's documents.  Left out: those that name shell commands (setup, srun_args,
# additional_parameters).
_LAUNCHER_KEYS = {
    "joblib": "n_jobs backend prefer require verbose timeout pre_dispatch batch_size temp_folder max_nbytes mmap_mode",
    "submitit": "submitit_folder timeout_min cpus_per_task gpus_per_node tasks_per_node mem_gb nodes name "
    "stderr_to_stdout partition qos comment constraint exclude gres cpus_per_gpu gpus_per_task mem_per_gpu mem_per_cpu "
    "account signal_delay_s max_num_timeout array_parallelism",
}
# The package of each launcher that is not part of Hydra.
_LAUNCHER_PACKAGES = {
    "joblib": "hydra-joblib-launcher",
    "submitit_local": "hydra-submitit-launcher",
    "submitit_slurm": "hydra-submitit-launcher",
}
_FOLDER_KEYS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
_MAX_VALUES = 100_000
# Hydra's grammar of keys without `group@package`, which would put a choice under another name.
_KEY = re.compile(r"[A-Za-z_][\w-]*([./][\w-]+)*", re.ASCII)


def check_overrides(arguments: Iterable[str]) -> None:
    """Raise an error if an override may not be part of a request, whether typed, of a job of `-m` or of a level.

    Raises:
        RequestError: an unknown choice, or a key of Hydra that a request cannot set.
    """
    for argument in arguments:
        if "=" in argument or argument.startswith("~"):  # Hydra refuses all others
            _check_override(argument)


def check_syntax(arguments: Iterable[str]) -> None:
    """Raise an error if Hydra cannot read an override, or would list the values of an endless range.

    Raises:
        RequestError: Hydra 1.3 would end with a ValueError (an integer of 5,000 digits) or a RecursionError.
        OverrideParseException: it is no override.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import RangeSweep
    from hydra.errors import OverrideParseException

    parser = OverridesParser.create()
    for argument in arguments:
        try:
            value = parser.parse_overrides([argument])[0].value()
            is_range = isinstance(value, RangeSweep)
            if is_range and (value.stop - value.start) / value.step > _MAX_VALUES:  # pyright: ignore
                _refuse(f"{argument}: more than {_MAX_VALUES:,} values", "use a larger step: range(first,end,step)")
        except OverrideParseException:
            raise
        except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            _refuse(f"{argument}: cannot be parsed ({reason})", "use another value")


def _check_override(argument: str) -> None:
    name, _, value = argument.partition("=")
    key = name.removeprefix("+").removeprefix("+")
    if name.startswith("~"):
        _refuse(f"{argument}: keys cannot be removed", "set another value: <key>=<value>")
    group, _, last = key.rpartition(".")
    plain = re.fullmatch(r"\w[\w,.-]*", value)
    if last == "name" and plain and group.replace(".", "/") in groups():  # the keys would be those of another choice
        _refuse(f"{argument}: a name cannot be set alone", f"use {group.replace('.', '/')}={value}")
    if not _KEY.fullmatch(key):
        _refuse(f"{argument}: there is no such key", f"use a key that {COMMAND} --help lists")
    if "_target_" in argument:  # Hydra would call what the value of a launcher names
        _refuse(f"{argument}: values cannot name code to call", "leave it out")
    if re.match(r"hydra\b", key):
        _check_hydra(argument, name, value)
    elif key in groups():
        if name.startswith("+"):  # it would merge two choices
            _refuse(f"{argument}: the group already has a choice", "leave out the +")
        _check_choices(argument, key, value)


def _check_hydra(argument: str, name: str, value: str) -> None:
    """Check an override of Hydra's own configuration, without a plus: it would add a key that nothing reads."""
    if name == "hydra/sweeper":
        if value not in SWEEPERS:
            _refuse(f"{argument}: there is no such choice", f"choose one of {', '.join(SWEEPERS)}")
    elif name == "hydra/launcher":
        if not re.fullmatch(r"\w+", value) or value not in launchers():
            package = _LAUNCHER_PACKAGES.get(value)
            reason = "is not installed" if package else "there is no such choice"
            install = f", or install it: pip install {package}" if package else ""
            _refuse(f"{argument}: {reason}", f"use hydra/launcher={' or '.join(launchers())}{install}")
    elif "/" in name:
        _refuse(f"{argument}: a request cannot set this group", f"use one of {', '.join(groups())}")
    elif name not in hydra_keys():
        if re.fullmatch(r"hydra\.(sweeper|launcher)\.[a-z]\w*", name):
            _refuse(f"{argument}: there is no such key", f"use one of {', '.join(_keys_beside(name))}")
        if name.startswith("+") and name.lstrip("+") in hydra_keys():
            _refuse(f"{argument}: the key already exists", "leave out the +")
        _refuse(
            f"{argument}: a request cannot set this key",
            "leave it out, or use hydra.run.dir, hydra.sweep.dir or hydra.sweeper.<option>",
        )


def _keys_beside(key: str) -> list[str]:
    parent = key.rpartition(".")[0]
    return sorted(known for known in hydra_keys() if known.rpartition(".")[0] == parent)


def explain_hydra_key(key: str) -> str:
    """Return two lines for a key that the chosen sweeper or launcher does not have."""
    kind, name = key.split(".")[1:3]
    if key not in hydra_keys():
        return f"{key}: there is no such key\nuse one of {', '.join(_keys_beside(key))}"
    if kind == "launcher":
        owners = [package for package, keys in _LAUNCHER_KEYS.items() if name in keys.split()]
        return f"{key}: the launcher of this request has no such key\nleave it out, or use {' or '.join(owners)}"
    owner = next(name for name in SWEEPERS if key in _sweeper_keys(name))
    return f"{key}: the sweeper of this request has no such key\nadd -m hydra/sweeper={owner}, or leave it out"


def _sweeper_keys(sweeper: str) -> list[str]:
    from omegaconf import OmegaConf

    options = OmegaConf.load(CONF / "hydra" / "sweeper" / f"{sweeper}.yaml")
    return [f"hydra.sweeper.{key}" for key in options if not str(key).startswith("_")]


@cache
def hydra_keys() -> frozenset[str]:
    """Return the keys of Hydra that a request may set: folders, and options of sweepers and launchers."""
    launcher_options = {key for keys in _LAUNCHER_KEYS.values() for key in keys.split()}
    return frozenset(
        {key for name in SWEEPERS for key in _sweeper_keys(name)}
        | {f"hydra.launcher.{key}" for key in launcher_options}
        | set(_FOLDER_KEYS)
    )


@cache
def launchers() -> list[str]:
    """Return the names of the installed launchers."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # finds the plugins, which then register their configurations
    return sorted(name.removesuffix(".yaml") for name in ConfigStore.instance().list("hydra/launcher"))


def check_programs(launcher: str) -> None:
    """Raise a RequestError if this machine cannot submit the jobs of `hydra/launcher`."""
    missing = [name for name in ("sbatch", "srun") if shutil.which(name) is None]  # submitit 1.5 needs both
    if launcher == "submitit_slurm" and missing:
        _refuse(
            f"hydra/launcher={launcher}: {missing[0]} is not on this machine",
            "run the command on a login node of the cluster, or use hydra/launcher=submitit_local",
        )


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
