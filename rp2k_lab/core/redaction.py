"""Credentials in addresses (http://user:password@host): kept out of logs, records and process lists.

`redact_args` strips them from the command line at the start; `restore_uri` puts them back where a store is opened.
In between they live in the process's environment: other users of the machine can read a command line, but not the
environment, and the runs of a study inherit it.
"""

import json
import os
import re
from collections.abc import Iterable
from typing import Any

_VARIABLE = "RP2K_LAB_ADDRESSES"
# A path may contain an @.
_USER = re.compile(r"(?<=:)(?<!sqlite:)(?<!file:)//[^\s'\"]*@")
_PARAMETER = re.compile(r"([?&;][^=&\s'\"]*(?:pass|pwd|token|secret|key|auth)[^=&\s'\"]*\\?=)[^&\s'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Return text without users and passwords in its addresses, and with *** for tokens in their queries."""
    return _PARAMETER.sub(r"\1***", _USER.sub("//", text))


def redact_tree(tree: Any) -> Any:
    """Return nested plain containers with every string redacted."""
    if isinstance(tree, dict):
        return {key: redact_tree(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [redact_tree(value) for value in tree]
    return redact(tree) if isinstance(tree, str) else tree


def redact_args(arguments: Iterable[str]) -> list[str]:
    """Return a command line without credentials, and keep them for `restore_uri`, also in child processes."""
    known, redacted = _known(), []
    for argument in arguments:
        key, is_set, value = argument.partition("=")
        public = redact(value)
        if is_set and "://" in value and public != value:
            known[_unquoted(public)] = _unquoted(value)
            argument = f"{key}={public}"
        redacted.append(argument)
    if known:
        os.environ[_VARIABLE] = json.dumps(known)
    return redacted


def restore_uri(address: str) -> str:
    """Return the address with the credentials that the command line gave."""
    return _known().get(address, address)


def _known() -> dict[str, str]:
    return json.loads(os.environ.get(_VARIABLE, "{}"))


def _unquoted(value: str) -> str:
    """Return a value without Hydra's quotes and escapes."""
    if value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return re.sub(r"\\(.)", r"\1", value)
