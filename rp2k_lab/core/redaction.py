"""Passwords and tokens in addresses, such as http://user:password@host: never written down.

A command's addresses lose them before anything else sees the command; where a store is opened they are put back.  What
knows them meanwhile is the process's environment, which other users of the machine cannot read, as they can its
command line, and which the runs of a study inherit.
"""

import json
import os
import re
from collections.abc import Iterable
from typing import Any

_VARIABLE = "RP2K_LAB_ADDRESSES"
# A file's path may have an @ in it.
_USER = re.compile(r"(?<=:)(?<!sqlite:)(?<!file:)//[^\s'\"]*@")
_PARAMETER = re.compile(r"([?&;][^=&\s'\"]*(?:pass|pwd|token|secret|key|auth)[^=&\s'\"]*\\?=)[^&\s'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """The text with no user and password in its addresses, and with *** for the tokens in their queries."""
    return _PARAMETER.sub(r"\1***", _USER.sub("//", text))


def redact_tree(tree: Any) -> Any:
    """The same for every text of nested plain containers."""
    if isinstance(tree, dict):
        return {key: redact_tree(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [redact_tree(value) for value in tree]
    return redact(tree) if isinstance(tree, str) else tree


def redact_args(arguments: Iterable[str]) -> list[str]:
    """Return a command line without credentials.

    From now on `restore_uri` knows them, also in processes that this one starts.
    """
    known, shown = _known(), []
    for argument in arguments:
        key, is_set, value = argument.partition("=")
        public = redact(value)
        if is_set and "://" in value and public != value:
            known[_unquoted(public)] = _unquoted(value)
            argument = f"{key}={public}"
        shown.append(argument)
    if known:
        os.environ[_VARIABLE] = json.dumps(known)
    return shown


def restore_uri(address: str) -> str:
    """The address as the command line had it."""
    return _known().get(address, address)


def _known() -> dict[str, str]:
    return json.loads(os.environ.get(_VARIABLE, "{}"))


def _unquoted(value: str) -> str:
    """As Hydra reads it."""
    if value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return re.sub(r"\\(.)", r"\1", value)
