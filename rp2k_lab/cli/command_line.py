"""Check the flags and overrides of a command before Hydra acts on them."""

import argparse
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from rp2k_lab import COMMAND
from rp2k_lab.config.overrides import check_overrides, check_syntax
from rp2k_lab.core.errors import RequestError

# Allowed flags of Hydra, as for `ArgumentParser.add_argument`.
_SWITCH: dict[str, Any] = {"action": "store_true"}
FLAGS: dict[tuple[str, ...], dict[str, Any]] = {
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
# Flags that each ask for something else.
_MODES = ("-m", "--cfg", "--info", "-sc")
_SHELLS = ("bash", "fish", "zsh")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}\n{_USAGE}")


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (flags, overrides) of a command line; flags may stand before, between and after the overrides.

    A flag without a value has its shortest name, one with a value is `--name=value`.  `-h` replaces all others.

    Raises:
        RequestError: an unknown flag or choice, flags that contradict each other, or a key of Hydra that a request
            cannot set.
    """
    parser = _Parser(prog="run.py", add_help=False, allow_abbrev=False)
    for names, options in FLAGS.items():
        parser.add_argument(*names, **options)
    parser.add_argument("overrides", nargs="*")
    values, unknown = parser.parse_known_intermixed_args(arguments)
    for argument in (*unknown, *(override for override in values.overrides if override.startswith("-"))):
        raise RequestError(f"{argument}: there is no such flag\n{_USAGE}")
    flags = {}
    for names, options in FLAGS.items():
        value = getattr(values, names[-1].strip("-").replace("-", "_"))
        if value is not None and value is not False:
            is_switch = options is _SWITCH
            flags[names[0] if is_switch else names[-1]] = None if is_switch else value
    if "--hydra-help" in flags or "--version" in flags:
        return [flag for flag in flags if flag in ("--hydra-help", "--version")], []  # Hydra would override its help
    if "-sc" in flags:
        _check_completion(values.overrides)
    else:
        check_overrides(values.overrides)
        check_syntax(values.overrides)
    if "-h" in flags:
        return ["-h"], values.overrides
    _check_flags(flags)
    return [name if value is None else f"{name}={value}" for name, value in flags.items()], values.overrides


def _check_flags(flags: dict[str, Any]) -> None:
    """Refuse flags that Hydra would answer with a traceback."""
    modes = [flag for flag in flags if flag in _MODES]
    if len(modes) > 1:
        raise RequestError(f"{' '.join(modes)}: each asks for something else\nuse one of them")
    for flag in ("--package", "--resolve"):
        if flag in flags and "--cfg" not in flags:
            raise RequestError(f"{flag}: has no effect without --cfg\nadd --cfg job")


def _check_completion(overrides: Sequence[str]) -> None:
    """Refuse everything but what a shell asks for (query) or a person sets up (install)."""
    command, _, shell = "".join(overrides[:1]).partition("=")
    install = f'use eval "$({COMMAND} -sc install={shell if shell in _SHELLS else "bash"})"'
    if len(overrides) != 1 or command not in ("install", "uninstall", "query") or shell not in _SHELLS:
        wanted = f"install=, uninstall= or query= with one of {', '.join(_SHELLS)}"
        raise RequestError(f"{' '.join(['-sc', *overrides])}: needs {wanted}\n{install}")
    if command == "query" and not os.environ.get("COMP_LINE"):
        raise RequestError(f"-sc {overrides[0]}: is for the shell, which sets COMP_LINE\n{install}")
