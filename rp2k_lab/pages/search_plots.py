"""Plots of a search as SVG, a file or inline, for light and dark backgrounds."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rp2k_lab.core.text import escape_controls, percent, shorten
from rp2k_lab.pages.svg import drawing, round_ticks, rule, text, tooltip

_WIDTH, _HEIGHT = 540, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 22, 34, 46
_PIXELS_A_CHARACTER = 7
_STYLE = """
.search text { stroke: var(--paper); stroke-width: 4; paint-order: stroke; }
.search .bar, .search .front { fill: var(--good); } .search .other { fill: var(--quiet); opacity: .55; }
.search .steps { fill: none; stroke: var(--good); } .search .trial { fill: none; stroke: var(--quiet); opacity: .3; }
.search .top { stroke: var(--good); opacity: .75; } .search .first { stroke-width: 3; opacity: 1; }
"""


@dataclass(frozen=True)
class Mark:
    """A point of a search.

    Attributes:
        seconds: of one training.
        top1: val top-1, 0 to 1.
        name: shown in a tooltip.
        is_best: no other point is both more accurate and faster.
    """

    seconds: float
    top1: float
    name: str
    is_best: bool


@dataclass(frozen=True)
class Axis:
    """A vertical axis; ticks are (position from 0 to 1, label)."""

    name: str
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Line:
    """A point of a search as a line across the axes.

    Attributes:
        positions: on each axis, 0 to 1.
        name: shown in a tooltip.
        rank: 0 is the best.
    """

    positions: Sequence[float]
    name: str
    rank: int


def pareto_plot(marks: Sequence[Mark]) -> Markup:
    """Return val top-1 over the seconds of a training, with a stair through the points that no other dominates.

    Args:
        marks: at least one.
    """
    seconds, tops = [mark.seconds for mark in marks], [100 * mark.top1 for mark in marks]
    x_ticks, y_ticks = round_ticks(0, max(seconds)), round_ticks(min(tops), max(tops))
    x_of = lambda value: _LEFT + value / x_ticks[-1] * (_WIDTH - _LEFT - _RIGHT)  # noqa: E731
    y_of = lambda value: _scale(value, y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)  # noqa: E731
    parts = []
    for tick in y_ticks:
        parts.append(rule("grid", _LEFT, y_of(tick), _WIDTH - _RIGHT, y_of(tick)))
        parts.append(text(_LEFT - 8, y_of(tick) + 4.5, f"{tick:g} %", "end", "quiet"))
    parts.append(rule("axis", _LEFT, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM))
    parts += [text(x_of(tick), _HEIGHT - _BOTTOM + 18, f"{tick:g}", "middle", "quiet") for tick in x_ticks]
    front = sorted((mark for mark in marks if mark.is_best), key=lambda mark: mark.seconds)
    stair = "".join(f"H{x_of(mark.seconds):.1f}V{y_of(100 * mark.top1):.1f}" for mark in front[1:])
    start = f"M{x_of(front[0].seconds):.1f} {y_of(100 * front[0].top1):.1f}"
    parts.append(f'<path class="steps" d="{start}{stair}H{_WIDTH - _RIGHT}"/>')
    for mark in sorted(marks, key=lambda mark: mark.is_best):  # the best ones on top
        title = f"{mark.name}: {percent(mark.top1)}, {mark.seconds:.0f} s"
        parts.append(
            f'<circle class="{"front" if mark.is_best else "other"}" cx="{x_of(mark.seconds):.1f}" '
            f'cy="{y_of(100 * mark.top1):.1f}" r="{5 if mark.is_best else 4}">{tooltip(title)}</circle>'
        )
    parts.append(text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, "seconds of a training"))
    parts.append(text(_LEFT - 50, 13, "val top-1", "start"))
    return drawing("val top-1 and seconds of each point", parts, _WIDTH, _HEIGHT, "search", _STYLE)


def parallel_plot(axes: Sequence[Axis], lines: Sequence[Line]) -> Markup:
    """Return a line per point across the axes; the best quarter is highlighted, the best point is thick.

    Args:
        axes: at least two.
    """
    top, bottom, right = 52, _HEIGHT - 14, 60
    gap = (_WIDTH - 20 - right) / (len(axes) - 1)
    x_of = lambda i: 20 + gap * i  # noqa: E731
    y_of = lambda position: bottom - position * (bottom - top)  # noqa: E731
    parts = []
    for line in sorted(lines, key=lambda line: -line.rank):
        tone = "trial" + " top" * (line.rank < max(1, len(lines) / 4)) + " first" * (line.rank == 0)
        ends = "L".join(f"{x_of(i):.1f} {y_of(position):.1f}" for i, position in enumerate(line.positions))
        parts.append(f'<path class="{tone}" d="M{ends}">{tooltip(line.name)}</path>')
    for i, axis in enumerate(axes):
        parts.append(rule("axis", x_of(i), top, x_of(i), bottom))
        # Names of neighbors stand in two rows.
        anchor = "start" if i == 0 else "end" if i == len(axes) - 1 else "middle"
        x = _WIDTH - 8 if anchor == "end" else x_of(i) - 12 * (anchor == "start")
        name = shorten(escape_controls(axis.name), max(6, int(1.6 * gap / _PIXELS_A_CHARACTER)))
        parts.append(text(x, 16 + 20 * (i % 2), name, anchor))
        room = max(4, int(gap / _PIXELS_A_CHARACTER) - 2) if i < len(axes) - 1 else right // _PIXELS_A_CHARACTER
        for position, label in axis.ticks:
            parts.append(rule("axis", x_of(i) - 3, y_of(position), x_of(i) + 3, y_of(position)))
            label = shorten(escape_controls(label), room)
            parts.append(text(x_of(i) + 6, y_of(position) + 4.5, label, "start", "quiet"))
    return drawing("the points of a search across its dimensions", parts, _WIDTH, _HEIGHT, "search", _STYLE)


def importance_plot(importances: Sequence[tuple[str, float]]) -> Markup:
    """Return bars of (name, fraction of the variance), in the given order."""
    row, left = 30, 190
    height, most = row * len(importances) + 12, max(value for _, value in importances) or 1.0
    parts = []
    for i, (name, value) in enumerate(importances):
        y, width = 6 + row * i, (_WIDTH - left - 80) * value / most
        parts.append(text(left - 10, y + 19, shorten(escape_controls(name), 26), "end"))
        parts.append(f'<rect class="bar" x="{left}" y="{y + 5}" width="{width:.1f}" height="{row - 10}"/>')
        parts.append(text(left + width + 8, y + 19, f"{100 * value:.0f} %", "start", "quiet"))
    return drawing("importance of each dimension", parts, _WIDTH, height, "search", _STYLE)


def _scale(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (value - low) / (high - low) * (end - start)
