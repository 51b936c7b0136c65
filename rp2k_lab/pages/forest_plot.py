"""Forest plot: differences with intervals around zero, inline or as an SVG file, for light and dark backgrounds.

Positions along the axis are percentages: inline, the plot has the width of the page and letters keep their size.
"""

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from rp2k_lab.core.text import escape_controls, shorten_middle
from rp2k_lab.pages.document import GLYPHS, interval, points
from rp2k_lab.pages.svg import drawing, round_step, rule, text, tooltip

FILE_WIDTH = 760  # pixels
_MARGIN, _ROW, _TOP = 5, 52, 6  # percent of the width; pixels
_NAME_CHARACTERS = 33  # of a row's name, so that it stays beside its value on a phone; a Chinese one counts twice
_VALUE_WIDTH = 180  # pixels of a value with its interval
_LEGEND = "published, single runs on RP2K"
_STYLE = """
.forest .zero { stroke: var(--ink); stroke-dasharray: 3 3; } .forest .bar { stroke: var(--tone); stroke-width: 2.5; }
.forest .mark { fill: var(--tone); } .forest .hollow { fill: var(--paper); stroke: var(--tone); stroke-width: 2; }
.forest .single { fill: var(--paper); stroke: var(--ink); stroke-width: 1.5; }
.forest .value { font-variant-numeric: tabular-nums; }
.forest .better { --tone: var(--good); } .forest .worse { --tone: var(--bad); }
.forest .inconclusive, .forest .equal, .forest .none { --tone: var(--quiet); }
@media (max-width: 560px) { .forest .ends { display: none; } }
"""
# The outline of each verdict's mark, around 0: its shape tells the verdict as well as its color.
_MARKS = {
    "better": ("mark", "M-7 6L0 -7L7 6Z"),
    "worse": ("mark", "M-7 -6L0 7L7 -6Z"),
    "equal": ("mark", "M-5 -5H5V5H-5Z"),
    "inconclusive": ("hollow", "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0 -5 0Z"),
    "none": ("mark", "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0 -5 0Z"),
    "published": ("single", "M-6 0L0 -6L6 0L0 6Z"),
}


@dataclass(frozen=True)
class Bar:
    """A row of the plot.

    Attributes:
        value, low, high: difference with its interval, fractions; `value` is None without a comparison.
        word: better, worse, equal, inconclusive, or none: no verdict.
        published: a difference, a fraction, or None.
        text: the reason for no comparison.
    """

    name: str
    value: float | None
    low: float
    high: float
    word: str
    published: float | None = None
    text: str = ""


def forest(bars: Sequence[Bar], label: str, decimals: int = 1, width: int | None = None) -> Markup:
    """Return the plot as SVG.

    Args:
        label: text below the axis.
        decimals: decimals of the values in points.
        width: of a file [pixels]; None: inline, as wide as its place.
    """
    ends = [end for bar in bars if bar.value is not None for end in (bar.low, bar.high)]
    ends += [bar.published for bar in bars if bar.published is not None]
    low, high = 100 * min([0.0, *ends]), 100 * max([0.0, *ends])
    step = _step(high - low)
    low, high = math.floor(low / step) * step, max(math.floor(low / step) + 1, math.ceil(high / step)) * step
    place = lambda p: f"{_MARGIN + (p - low) / (high - low) * (100 - 2 * _MARGIN):.2f}%"  # noqa: E731
    ticks = [low + i * step for i in range(round((high - low) / step) + 1)]
    rules = [("zero" if abs(value) < step / 2 else "grid", place(value)) for value in ticks]
    parts = []
    most = _NAME_CHARACTERS if width is None else (width - _VALUE_WIDTH) // 8
    for i, bar in enumerate(bars):
        parts.append(text("0", _TOP + _ROW * i + 14, _fitting(escape_controls(bar.name), most), "start"))
        top = _TOP + _ROW * i
        parts += [rule(tone, x, top + 20, x, top + _ROW - 4) for tone, x in rules]  # below the text, never across it
        parts += _bar(bar, top, lambda fraction: place(100 * fraction), decimals)
    bottom = _TOP + _ROW * len(bars)
    for value, (tone, x) in zip(ticks, rules, strict=True):
        parts.append(text(x, bottom + 12, "0" if tone == "zero" else f"{value:+.4g}".replace("-", "−"), tone="quiet"))
    parts.append(text("50%", bottom + 34, label))
    height = bottom + 44
    if any(bar.published is not None for bar in bars):
        parts.append(_mark("published", "8", height + 8))
        parts.append(f'<text class="quiet" x="20" y="{height + 12.5}">{_LEGEND}</text>')
        height += 24
    return drawing(label, parts, width, height, "forest", _STYLE)


def _bar(bar: Bar, top: float, x_of: Callable[[float], str], decimals: int) -> list[str]:
    name, y = escape_controls(bar.name), top + 33
    parts = []
    if bar.value is None:
        parts.append(text("100%", top + 14, bar.text, "end", "quiet"))
    else:
        ends = interval(bar.low, bar.high, decimals, bar.word)
        value = f"{GLYPHS.get(bar.word, '')} {points(bar.value, decimals)}".lstrip()
        parts.append(
            f'<text class="value" x="100%" y="{top + 14}" text-anchor="end">{value}'
            f'<tspan class="quiet ends"> {escape(ends)}</tspan></text>'
        )
        low, high = x_of(bar.low), x_of(bar.high)
        parts.append(f'<g class="{bar.word}">{tooltip(f"{name}: {points(bar.value, decimals)} {ends}")}')
        parts.append(rule("bar", low, y, high, y))
        parts += [rule("bar", end, y - 5, end, y + 5) for end in (low, high)]
        parts.append(f"{_mark(bar.word, x_of(bar.value), y)}</g>")
    if bar.published is not None:
        parts.append(_mark("published", x_of(bar.published), y, f"{name}: published {points(bar.published, 2)}"))
    return parts


def _mark(kind: str, x: str, y: float, title: str = "") -> str:
    tone, outline = _MARKS[kind]
    shape = f'<path class="{tone}" d="{outline}">{tooltip(title) if title else ""}</path>'
    return f'<svg class="{kind}" x="{x}" y="{y}" width="1" height="1" overflow="visible">{shape}</svg>'


def _fitting(name: str, most: int) -> str:
    """Return as much of both ends of a name as fits beside its value."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in name)
    return shorten_middle(name, max(12, most - wide)) if len(name) + wide > most else name


def _step(span: float) -> float:
    """Return the tick step, 1, 2 or 5 times a power of ten, for about six ticks."""
    return round_step(max(span, 0.1) / 6)
