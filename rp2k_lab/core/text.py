"""Values as text for people: names, percentages, sizes and tables."""

import math
import unicodedata
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

# The space between Chinese words; str.isprintable() is False for it.
_IDEOGRAPHIC_SPACE = "\u3000"


def escape_controls(name: Path | str) -> str:
    """Return a name as one printable line.

    Control characters, direction marks and bytes that are not UTF-8 become escape codes: a line break becomes the two
    characters \\n.
    """
    text = str(name)
    return text if text.isprintable() else "".join(map(_escape, text))


def escape_lines(text: str) -> str:
    """Return a text of several lines for a terminal: control characters other than line breaks become escape codes.

    Names from a store, a disk or a command line could otherwise clear the screen or forge lines.
    """
    return "\n".join(map(escape_controls, text.split("\n")))


def _escape(character: str) -> str:
    if character.isprintable() or character == _IDEOGRAPHIC_SPACE:
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8, as Python reads it from a file name
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def shorten(text: str, limit: int) -> str:
    """Return at most `limit` characters of a text; an ellipsis replaces the rest."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def shorten_middle(text: str, limit: int) -> str:
    """Return at most `limit` characters of a text; an ellipsis replaces the middle, since a reason is at the end."""
    half = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"


def percent(fraction: float) -> str:
    """Return a fraction in percent: 0.623 is 62.3 %, NaN is –."""
    return "–" if math.isnan(fraction) else f"{100 * fraction:.1f} %"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 photo, 2 photos."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds: 4015 is 1:06:55."""
    return str(timedelta(seconds=round(seconds)))


def fit_columns(text: str, columns: int) -> str:
    """Return the beginning of a text that fits into columns of a terminal; Chinese characters take two."""
    width = 0
    for position, character in enumerate(text):
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if width > columns:
            return text[:position]
    return text


def in_bytes(size: float) -> str:
    """Return a number of bytes with a decimal unit: 1500 is 1.5 kB, 64 000 is 64 kB, 2 · 10¹⁰ is 20.0 GB."""
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def text_table(rows: Sequence[Sequence[str]], align: str = "<", rule: bool = True) -> str:
    """Return rows of cells as lines with aligned columns; the first row is the head.

    Args:
        align: < or > for each column; the last one also applies to all further columns.
        rule: draw a line below the head.
    """
    rows = [[escape_controls(cell) for cell in row] for row in rows]
    columns = range(len(rows[0]))
    sides = align.ljust(len(rows[0]), align[-1])
    widths = [max(len(row[column]) for row in rows) for column in columns]
    lines = ["  ".join(f"{row[i]:{sides[i]}{widths[i]}}" for i in columns).rstrip() for row in rows]
    return "\n".join([lines[0], *(["-" * max(map(len, lines))] if rule else []), *lines[1:]])
