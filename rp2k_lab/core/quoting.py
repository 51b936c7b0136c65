"""Text of one language within another: values in Hydra's overrides and in shell commands, files in addresses.

A path may have every character but NUL.  No other module writes a path into one of these languages by hand.
"""

import os
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import unquote

# An absolute path or address of characters that neither Hydra nor a shell has a meaning for.
_PLAIN = re.compile(r"(\w+(\+\w+)?:/)?/[\w./+@:-]*", re.ASCII)
_HOME = re.compile(r"((?:^|[\[,])['\"]?(?:sqlite:///)?)(~[\w.-]*)(?=[/,'\"\]]|$)")
_SQLITE = re.compile(r"sqlite(\+pysqlite)?:///(?P<file>[^?]*)(?P<query>\?.*)?", re.DOTALL)


def hydra_value(value: Any) -> str:
    """Return a value (text, number, boolean, None, or a list of them) in the syntax of Hydra's command line.

    Text is quoted, and `${` in it is no interpolation.
    """
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(hydra_value, value))}]"
    if isinstance(value, (str, Path)):
        # OmegaConf halves the backslashes before an interpolation; an odd one escapes it.
        text = re.sub(r"(\\*)\$\{", r"\1\1\\${", str(value))
        return QuotedString(text, Quote.single).with_quotes()
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def expand_home(argument: str) -> str:
    """Return an override with the home folder for ~ at the start of its value, of a list's, or of an SQLite file.

    Hydra's grammar has no unquoted ~, and a shell expands none behind an equals sign.
    """
    key, is_set, value = argument.partition("=")
    expanded = _HOME.sub(lambda match: match[1] + os.path.expanduser(match[2]), value)
    if expanded == value:
        return argument
    is_plain = _PLAIN.fullmatch(expanded) or re.search(r"[\[,'\"]", value)
    return f"{key}{is_set}{expanded if is_plain else hydra_value(expanded)}"


def shell_override(key: str, value: Path | str) -> str:
    """Return `key=value` of a path or an address for a command to copy, quoted for Hydra and the shell where needed."""
    text = str(value)
    return f"{key}={text}" if _PLAIN.fullmatch(text) else shlex.quote(f"{key}={hydra_value(text)}")


def sqlite_url(file: Path, query: str = "") -> str:
    """Return the address of an SQLite file: sqlite:////absolute/path, with % and ? percent-encoded.

    Args:
        query: SQLAlchemy's options, with the question mark.
    """
    return f"sqlite:///{str(file.absolute()).replace('%', '%25').replace('?', '%3F')}{query}"


def sqlite_file(address: str) -> Path | None:
    """Return the absolute path of the file that an address of SQLite names, None for every other address.

    A relative path starts at the shell's folder, and ~ is the home folder.
    """
    match = _SQLITE.fullmatch(address)
    if not match or match["file"] in ("", ":memory:"):
        return None
    return Path(os.path.abspath(os.path.expanduser(unquote(match["file"]))))


def sqlite_query(address: str) -> str:
    """Return SQLAlchemy's options in an address of SQLite, with the question mark, or an empty text."""
    match = _SQLITE.fullmatch(address)
    return (match["query"] or "") if match else ""
