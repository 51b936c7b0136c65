"""What a shell may complete: groups, choices, keys and the values that can be listed."""

import re
from collections.abc import Sequence
from pathlib import Path

from rp2k_lab.cli.command_line import FLAGS
from rp2k_lab.config.choices import choices, groups, keys_of_request, root_defaults
from rp2k_lab.config.overrides import SWEEPERS, hydra_keys, launchers

_SEPARATORS = {"bash": " ", "zsh": " ", "fish": "\n"}


def complete_line(line: str, shell: str) -> str:
    """Return the candidates for the last word of a command, as the shell reads them.

    Args:
        line: the command up to the cursor.
        shell: bash, zsh or fish.
    """
    words = line.split(" ")
    return _SEPARATORS[shell].join(candidates(words[-1], words[:-1]))


def candidates(word: str, others: Sequence[str]) -> list[str]:
    """Return the completions of a word.

    Args:
        others: the other words of the command; the keys of the choices among them are offered.
    """
    key, is_value, value = word.partition("=")
    if is_value:
        prefix, last = re.fullmatch(r"(.*[,\[])?(.*)", value, re.DOTALL).groups()  # pyright: ignore
        taken = (prefix or "").strip("[").split(",")
        fitting = (each for each in _values(key) if each.startswith(last) and each not in taken)
        return [f"{key}={prefix or ''}{each}" for each in fitting] or _paths(key, value)
    if word.startswith("-"):
        return sorted(flag for names in FLAGS for flag in names if flag.startswith(word))
    if word.startswith("hydra"):
        names = [*hydra_keys(), "hydra/launcher", "hydra/sweeper"]
        return sorted(f"{name}=" for name in names if name.startswith(word))
    known = keys_of_request(others)
    offered = {f"{name}=" for name in (*groups(), *root_defaults(), "help")}
    if "." in word:
        offered = {f"{name}=" for name in known}
    else:
        offered |= {f"{name.partition('.')[0]}." for name in known if "." in name}
        offered = {each for each in offered if "/" in word or "/" not in each}
    return sorted(each for each in offered if each.startswith(word))


def _values(key: str) -> list[str]:
    """Return the values of a key that can be listed."""
    if key in groups():
        return choices(key)
    fixed = {
        "help": list(dict.fromkeys([*groups(), *root_defaults()])),
        "runs": ["last", "best"],
        "hydra/sweeper": list(SWEEPERS),
    }
    if key in fixed:
        return fixed[key]
    if key == "hydra/launcher":
        return launchers()
    from rp2k_lab.config.reference import choices_of_key  # pydantic and the option classes

    return choices_of_key(key)


def _paths(key: str, value: str) -> list[str]:
    """Return the files and folders that begin like a value."""
    if not value.startswith(("/", ".", "~")) or "\0" in value:
        return []
    path = Path(value).expanduser()
    folder, start = (path, "") if value.endswith("/") else (path.parent, path.name)
    head = value[: len(value) - len(start)]
    try:
        entries = [entry for entry in sorted(folder.iterdir()) if entry.name.startswith(start)]
    except OSError:
        return []
    return [f"{key}={head}{entry.name}{'/' * entry.is_dir()}" for entry in entries if " " not in entry.name]
