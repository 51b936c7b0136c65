"""Forest plot: differences with intervals around zero, as an SVG file or inline, for light and dark backgrounds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from rp2k_lab.core.text import escape_controls, shorten
from rp2k_lab.pages.document import interval, points

_WIDTH, _MARGIN, _ROW, _TOP = 460, 16, 44, 10
_STYLE = """
.forest { --paper: #fff; --ink: #1b2430; --quiet: #5d6978; --line: #dfe3e8; --better: #1b7350; --worse: #b93147; }
@media (prefers-color-scheme: dark) { .forest { --paper: #1b2129; --ink: #e6eaef; --quiet: #9ba7b5; --line: #313a46;
--better: #51c596; --worse: #f07f8d; } }
.forest { font: 13px system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans SC", "Microsoft YaHei", sans-serif; }
.forest text { fill: var(--ink); stroke: var(--paper); stroke-width: 4; paint-order: stroke; }
.forest .paper { fill: var(--paper); } .forest .quiet { fill: var(--quiet); }
.forest .grid { stroke: var(--line); } .forest .zero { stroke: var(--ink); stroke-dasharray: 3 3; }
.forest .bar { stroke: var(--tone); stroke-width: 2.5; } .forest .mark { fill: var(--tone); }
.forest .published { fill: var(--paper); stroke: var(--ink); stroke-width: 1.5; }
.forest .better { --tone: var(--better); } .forest .worse { --tone: var(--worse); }
.forest .inconclusive, .forest .equal { --tone: var(--quiet); }
"""


@dataclass(frozen=True)
class Bar:
    """A row of the plot.

    Attributes:
        value, low, high: difference with its interval, fractions; `value` is None without a comparison.
        word: better, worse, equal or inconclusive.
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


def forest(bars: Sequence[Bar], label: str, decimals: int = 1, width: int = _WIDTH) -> Markup:
    """Return the plot as SVG.

    Args:
        label: text below the axis.
        decimals: decimals of the values in points.
        width: of the plot [pixels].
    """
    ends = [end for bar in bars if bar.value is not None for end in (bar.low, bar.high)]
    ends += [bar.published for bar in bars if bar.published is not None]
    low, high = 100 * min([0.0, *ends]), 100 * max([0.0, *ends])
    step = _step(high - low)
    low, high = math.floor(low / step) * step, max(math.floor(low / step) + 1, math.ceil(high / step)) * step
    x_of = lambda p: _MARGIN + (p - low) / (high - low) * (width - 2 * _MARGIN)  # noqa: E731
    bottom = _TOP + _ROW * len(bars)
    height = bottom + 56 + 20 * any(bar.published is not None for bar in bars)
    parts = [
        f'<svg class="forest" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(escape_controls(label))}"><style>{_STYLE}</style>'
        f'<rect class="paper" width="{width}" height="{height}"/>'
    ]
    for i in range(round((high - low) / step) + 1):
        value = low + i * step
        x = x_of(value)
        kind = "zero" if abs(value) < step / 2 else "grid"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        tick = "0" if kind == "zero" else f"{value:+.4g}".replace("-", "−")
        parts.append(f'<text class="quiet" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{tick}</text>')
    for i, bar in enumerate(bars):
        parts += _bar(bar, _TOP + _ROW * i, lambda fraction: x_of(100 * fraction), decimals, width)
    parts.append(
        f'<text x="{width / 2}" y="{bottom + 39}" text-anchor="middle">{escape(escape_controls(label))}</text>'
    )
    if any(bar.published is not None for bar in bars):
        parts.append(_diamond(width / 2 - 118, bottom + 55, ""))
        legend = "published, single runs on RP2K"
        parts.append(f'<text class="quiet" x="{width / 2 - 106}" y="{bottom + 59.5}">{legend}</text>')
    return Markup("".join([*parts, "</svg>\n"]))


def _bar(bar: Bar, top: float, x_of: Callable[[float], float], decimals: int, width: int) -> list[str]:
    name = shorten(escape_controls(bar.name), 34 + (width - _WIDTH) // 8)
    parts = [f'<text x="{_MARGIN}" y="{top + 14}">{escape(name)}</text>']
    if bar.value is None:
        text = bar.text
    else:
        text = f"{points(bar.value, decimals)} {interval(bar.low, bar.high, decimals, bar.word)}"
        ends = [f"{x_of(end):.1f}" for end in (bar.low, bar.high)]
        y = top + 28
        parts.append(
            f'<g class="{bar.word}"><title>{escape(f"{name}: {text}")}</title>'
            f'<line class="bar" x1="{ends[0]}" x2="{ends[1]}" y1="{y}" y2="{y}"/>'
            + "".join(f'<line class="bar" x1="{end}" x2="{end}" y1="{y - 4}" y2="{y + 4}"/>' for end in ends)
            + f'<circle class="mark" cx="{x_of(bar.value):.1f}" cy="{y}" r="5"/></g>'
        )
    if bar.published is not None:
        parts.append(_diamond(x_of(bar.published), top + 28, f"{name}: published {points(bar.published, 2)}"))
    x = width - _MARGIN
    return [
        *parts,
        f'<text class="quiet" x="{x}" y="{top + 14}" text-anchor="end">{escape(escape_controls(text))}</text>',
    ]


def _diamond(x: float, y: float, title: str) -> str:
    d = f"M{x - 6:.1f} {y}L{x:.1f} {y - 6}L{x + 6:.1f} {y}L{x:.1f} {y + 6}Z"
    return f'<path class="published" d="{d}">{f"<title>{escape(title)}</title>" if title else ""}</path>'


def _step(span: float) -> float:
    """Return the tick step, 1, 2 or 5 times a power of ten, for about six ticks."""
    return round_step(max(span, 0.1) / 6)


def round_step(rough: float) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is at least `rough`."""
    power = 10 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
