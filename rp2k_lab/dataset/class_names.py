"""Class names that look alike: é is one character or two (Unicode NFC and NFD), and a space may stand at an end."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from rp2k_lab.core.text import escape_controls


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of names that look alike, each sorted."""
    groups = defaultdict(list)
    for name in sorted(set(names)):
        groups[_look(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def look_alike(name: str, names: Iterable[str]) -> str | None:
    """Return another name that looks like `name`; or None."""
    return next((other for other in names if other != name and _look(other) == _look(name)), None)


def near_twin(name: str, names: Iterable[str]) -> str | None:
    """Return another name that differs from `name` in case, width (Ａ and A), form of accents or spaces; or None."""
    wanted = _folded(name)
    return next((other for other in names if other != name and _folded(other) == wanted), None)


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).split())


def spelled_out(name: str) -> str:
    """Return a name with codes for what looks alike: accents, apart or with their letter, and spaces at its ends."""
    start, end = len(name) - len(name.lstrip(" ")), len(name.rstrip(" "))
    return "".join(
        _code(character) if _is_accented(character) or not start <= at < end else escape_controls(character)
        for at, character in enumerate(name)
    )


def _look(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _is_accented(character: str) -> bool:
    return bool(unicodedata.combining(character)) or unicodedata.normalize("NFD", character) != character


def _code(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
