"""Values as text for people: names, percentages, sizes and tables."""

import math
from collections.abc import Sequence
from pathlib import Path

# The space between Chinese words, which Python counts among what is not printable.
_IDEOGRAPHIC_SPACE = "\u3000"


def escape_controls(name: Path | str) -> str:
    """Return a name as one printable line.

    Control characters, marks that turn the direction of writing and bytes that are not UTF-8 become codes: a line
    break becomes the two characters \\n.
    """
    text = str(name)
    return text if text.isprintable() else "".join(map(_escape, text))


def _escape(character: str) -> str:
    if character.isprintable() or character == _IDEOGRAPHIC_SPACE:
        return character
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8, as Python reads it from a file's name
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def shorten(text: str, limit: int) -> str:
    """Return at most `limit` characters; an ellipsis stands for what is cut off."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def percent(fraction: float) -> str:
    """Return 0.623 as 62.3 %, NaN as –."""
    return "–" if math.isnan(fraction) else f"{100 * fraction:.1f} %"


def in_bytes(size: float) -> str:
    """Return a number of bytes with a decimal unit: 1500 is 1.5 kB, 20 · 10⁹ is 20 GB."""
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def text_table(rows: Sequence[Sequence[str]], align: str = "<", rule: bool = True) -> str:
    """Return rows of cells as lines with aligned columns; the first row is the head.

    Args:
        align: one of < and > for each column; the last one holds for all columns after it.
        rule: draw a line below the head.
    """
    columns = range(len(rows[0]))
    sides = align.ljust(len(rows[0]), align[-1])
    widths = [max(len(row[column]) for row in rows) for column in columns]
    lines = ["  ".join(f"{row[i]:{sides[i]}{widths[i]}}" for i in columns).rstrip() for row in rows]
    return "\n".join([lines[0], *(["-" * max(map(len, lines))] if rule else []), *lines[1:]])
