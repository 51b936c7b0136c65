"""Lines with intervals over a few named positions, as an SVG file or inline, for light and dark backgrounds."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rp2k_lab.core.text import percent
from rp2k_lab.pages.svg import drawing, round_ticks, rule, text, tooltip

_WIDTH, _LEFT, _RIGHT, _TOP, _PANEL, _GAP, _ROW = 640, 58, 16, 34, 230, 82, 21
_TONES = ("#1f5fa8", "#1b7350", "#b93147", "#8a5a00", "#6f4fa0", "#0f7c8a", "#5d6978", "#9a4f7c", "#3d4854")
_DARK = ("#6aa5ea", "#51c596", "#f07f8d", "#e2b354", "#b79be6", "#5cc7d6", "#9ba7b5", "#dd9cc2", "#c3ccd6")
_VARIABLES = "".join(f"--tone{i}: {tone}; " for i, tone in enumerate(_TONES))
_DARK_VARIABLES = "".join(f"--tone{i}: {tone}; " for i, tone in enumerate(_DARK))
_STYLE = f"""
.lines {{ {_VARIABLES}}} @media (prefers-color-scheme: dark) {{ .lines {{ {_DARK_VARIABLES}}} }}
.lines .curve {{ fill: none; stroke: var(--tone); stroke-width: 2; }} .lines .mark {{ fill: var(--tone); }}
.lines .interval {{ stroke: var(--tone); stroke-width: 1.5; opacity: .45; }} .lines .dashed {{ stroke-dasharray: 5 4; }}
"""
MOST_LINES = len(_TONES)


@dataclass(frozen=True)
class Point:
    """A value with its interval, fractions, at a position of the axis from 0."""

    position: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """A named line; a reference is dashed."""

    name: str
    points: Sequence[Point]
    is_reference: bool = False


@dataclass(frozen=True)
class Panel:
    """A titled part of the plot; the same place in `lines` has the same color in every panel."""

    title: str
    lines: Sequence[Line]


def line_plot(panels: Sequence[Panel], ticks: Sequence[str], label: str) -> Markup:
    """Return the panels below each other, and the names of the lines below them.

    Args:
        panels: at least one, with the same names; at most MOST_LINES lines each.
        ticks: names of the positions.
        label: text below each axis.
    """
    parts, top = [], 0
    for panel in panels:
        parts += _panel(panel, top + _TOP, ticks, label)
        top += _PANEL + _GAP
    for i, line in enumerate(panels[0].lines):
        x, y = _LEFT + (i % 2) * (_WIDTH - _LEFT) / 2, top + 14 + _ROW * (i // 2)
        parts.append(f'<g style="--tone: var(--tone{i})">{rule(_tone(line), x, y, x + 24, y)}</g>')
        parts.append(text(x + 31, y + 4.5, line.name, "start"))
    height = top + 14 + _ROW * (len(panels[0].lines) + 1) // 2
    return drawing(panels[0].title, parts, _WIDTH, height, "lines", _STYLE)


def _panel(panel: Panel, top: float, ticks: Sequence[str], label: str) -> list[str]:
    points = [point for line in panel.lines for point in line.points]
    levels = round_ticks(100 * min(p.low for p in points), min(100.0, 100 * max(p.high for p in points)))
    levels = [level for level in levels if 0 <= level <= 100]
    bottom, step = top + _PANEL, (_WIDTH - _LEFT - _RIGHT) / len(ticks)
    y_of = lambda value: bottom - (100 * value - levels[0]) / (levels[-1] - levels[0]) * _PANEL  # noqa: E731
    clipped = lambda value: y_of(min(max(value, levels[0] / 100), levels[-1] / 100))  # noqa: E731
    parts = [text(_LEFT, top - 14, panel.title, "start")]
    for level in levels:
        y = y_of(level / 100)
        parts.append(rule("grid", _LEFT, y, _WIDTH - _RIGHT, y))
        parts.append(text(_LEFT - 8, y + 4.5, f"{level:g} %", "end", "quiet"))
    parts.append(rule("axis", _LEFT, bottom, _WIDTH - _RIGHT, bottom))
    parts += [text(_LEFT + (i + 0.5) * step, bottom + 18, tick, tone="quiet") for i, tick in enumerate(ticks)]
    parts.append(text((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 37, label, tone="quiet"))
    for i, line in enumerate(panel.lines):
        shift = (i + 0.5) / len(panel.lines) * 0.56 + 0.22  # beside each other, so that no interval hides another
        x_of = lambda position, shift=shift: _LEFT + (position + shift) * step  # noqa: E731
        path = "L".join(f"{x_of(p.position):.1f} {clipped(p.value):.1f}" for p in line.points)
        parts.append(f'<g style="--tone: var(--tone{i})"><path class="{_tone(line)}" d="M{path}"/>')
        for p in line.points:
            tip = f"{line.name}, {ticks[p.position]}: {percent(p.value)} [{percent(p.low)}, {percent(p.high)}]"
            x = x_of(p.position)
            parts.append(rule("interval", x, clipped(p.low), x, clipped(p.high)))
            mark = f'<circle class="mark" cx="{x:.1f}" cy="{clipped(p.value):.1f}" r="3.2">'
            parts.append(f"{mark}{tooltip(tip)}</circle>")
        parts.append("</g>")
    return parts


def _tone(line: Line) -> str:
    return "curve dashed" if line.is_reference else "curve"
