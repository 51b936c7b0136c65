"""Charts as inline SVG in the style of base.css: text escaped, marks with tooltips, letters legible on a phone."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from rp2k_lab.core.text import in_bytes
from rp2k_lab.pages.svg import drawing, round_step, round_ticks, rule, text, tooltip

_WIDTH, _HEIGHT = 400, 280  # at 390 pixels of a phone, a letter of 14 is 11.5 pixels high
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 22, 34, 50
_MOST_TICKS = 7
# Of curves: they differ from both grounds of a page by 3 to 1 or more.
_CURVE_COLORS = ("#3a7fc8", "#b8651b", "#2a9264", "#a35fb0", "#c2485c", "#7c8794")
_RECALL_STYLE = """
.recall .band { fill: var(--ours); opacity: 0.18; } .recall .curve { fill: none; stroke: var(--ours); stroke-width: 2; }
.recall text { stroke: var(--paper); stroke-width: 4; paint-order: stroke; }
"""
_MOST_MARKS = 40  # points of a curve that have a mark

# (step, value) pairs in order.
Curve = Sequence[tuple[int, float]]
_RATIOS = {1 / 8: "1:8", 1 / 4: "1:4", 1 / 2: "1:2", 2 / 3: "2:3", 1: "1", 3 / 2: "3:2", 2: "2", 3: "3", 4: "4", 8: "8"}


def _x(fraction) -> float:
    return _LEFT + fraction * (_WIDTH - _LEFT - _RIGHT)


def _y(fraction) -> float:
    return _HEIGHT - _BOTTOM - fraction * (_HEIGHT - _TOP - _BOTTOM)


def _axes(marks: Sequence[str], x_label: str, y_label: str, x_ticks, y_ticks) -> list[str]:
    """Return marks with axes; ticks are (position on the axis from 0 to 1, label)."""
    parts = []
    for position, label in y_ticks:
        parts.append(rule("grid", _LEFT, _y(position), _x(1), _y(position)))
        parts.append(text(_LEFT - 7, _y(position) + 5, label, "end", "quiet"))
    parts += [*marks, rule("axis", _LEFT, _y(0), _x(1), _y(0))]
    parts += [text(_x(position), _y(0) + 23, label, tone="quiet") for position, label in x_ticks]
    parts.append(text(_x(0.5), _HEIGHT - 6, x_label))
    return [*parts, text(2, 15, y_label, "start")]  # above the ticks, so that it crosses none


def _chart(title: str, marks: Sequence[str], x_label: str, y_label: str, x_ticks, y_ticks) -> Markup:
    return _svg(title, _axes(marks, x_label, y_label, x_ticks, y_ticks), _HEIGHT)


def _svg(title: str, parts: Sequence[str], height: float) -> Markup:
    head = f'<svg class="plot chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return Markup("".join([head, *parts, "</svg>"]))


def _bar(tone: str, left: float, wide: float, height: float, title: str, base: float = 0) -> str:
    """Return a bar with a tooltip; `height` is a fraction of the axis."""
    return (
        f'<rect class="{tone}" x="{left:.1f}" width="{wide:.1f}" y="{_y(height):.1f}" '
        f'height="{_y(base) - _y(height):.1f}">{tooltip(title)}</rect>'
    )


def _dot(x: float, ends: tuple[float, float], y: float, title: str) -> str:
    """Return a point with its interval and a tooltip."""
    mark = f'<circle class="ours" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
    return f"<g>{tooltip(title)}{rule('interval', x, ends[0], x, ends[1])}{mark}</g>"


def _thinned(ticks: Sequence) -> Sequence:
    """Return every nth tick, so that no two labels touch."""
    return ticks[:: -(-len(ticks) // _MOST_TICKS)]


def rank_chart(counts: np.ndarray, groups: Sequence[str]) -> Markup:
    """Return training images per class over its rank, with a logarithmic axis and an area per group.

    Args:
        counts: int (classes,), in descending order.
        groups: head, medium or tail, per class.
    """
    top = max(1.0, np.log10(max(1, counts.max(initial=1)) * 1.15))
    height = np.log10(np.maximum(counts, 0.8)) - np.log10(0.8)
    height = height / (top - np.log10(0.8))
    marks, classes = [], max(1, len(counts))
    for group in ("head", "medium", "tail"):
        rows = np.flatnonzero(np.asarray(groups, object) == group)
        if len(rows):
            steps = "".join(f"H{_x((i + 1) / classes):.1f}V{_y(h):.1f}" for i, h in _steps(rows, height))
            first, last = _x(rows[0] / classes), _x((rows[-1] + 1) / classes)
            area = f"M{first:.1f} {_y(0)}V{_y(height[rows[0]]):.1f}{steps}H{last:.1f}V{_y(0)}Z"
            title = f"{group}: {len(rows)} classes of {counts[rows].min()} to {counts[rows].max()} training photos"
            marks.append(f'<path class="{group}" d="{area}"><title>{title}</title></path>')
    floor = np.log10(0.8)
    values = [m * 10**p for p in range(int(top) + 1) for m in ((1, 2, 5) if top < 2.5 else (1,))]
    y_ticks = [((np.log10(n) - floor) / (top - floor), f"{n:,}") for n in values if np.log10(n) <= top]
    x_ticks = [(rank / classes, f"{rank:,}") for rank in _round_steps(len(counts))]
    return _chart("training photos per class", marks, "class, by rank", "training photos", x_ticks, y_ticks)


def _steps(rows: np.ndarray, height: np.ndarray):
    """Yield (row, next height) where the height changes."""
    for i in rows[:-1]:
        if height[i + 1] != height[i]:
            yield i, height[i + 1]


def _round_steps(most: float, about: int = 5) -> list[int]:
    """Return `about` round numbers from 0 to `most`: multiples of 1, 2 or 5 times a power of ten."""
    return list(range(0, int(most) + 1, int(round_step(max(1, most / about)))))


def shape_chart(ratios: np.ndarray) -> Markup:
    """Return the distribution of height / width in logarithmic bins over the data's range, 3:2 on its side at least.

    Args:
        ratios: float (images,), at least one.
    """
    edge = max(1.5, ratios.max(), 1 / ratios.min()) * 1.02
    edges = np.exp(np.linspace(-np.log(edge), np.log(edge), 33))
    counts = np.histogram(np.clip(ratios, edges[0], edges[-1]), edges)[0]
    top, wide = 1.05 * counts.max(), (_x(1) - _x(0)) / len(counts)
    marks = []
    for i, count in enumerate(counts):
        title = f"{edges[i]:.2f} to {edges[i + 1]:.2f}: {100 * count / len(ratios):.1f} % ({count:,} photos)"
        marks.append(_bar("ours", _x(i / len(counts)) + 0.5, wide - 1, count / top, title))
    place = lambda ratio: 0.5 + 0.5 * np.log(ratio) / np.log(edge)  # noqa: E731
    x_ticks = [(place(ratio), label) for ratio, label in _RATIOS.items() if 1 / edge <= ratio <= edge]
    y_ticks = [(p * len(ratios) / 100 / top, f"{p} %") for p in _round_steps(100 * top / len(ratios))]
    return _chart("height / width", marks, "height / width, logarithmic", "fraction of photos", x_ticks, y_ticks)


def ratio_chart(counts: np.ndarray, published: np.ndarray) -> Markup:
    """Return the distribution of height/width, beside RP2K's published one.

    Args:
        counts: images per bin of width 0.5; the last bin holds 5 and more.
        published: counts of RP2K for all bins but the last.
    """
    bars = [("ours", counts / max(1, counts.sum())), ("published", np.r_[published / published.sum(), 0])]
    measured, width = bars[0][1], 0.84 / len(bars)
    top = max(fractions.max() for _, fractions in bars) * 1.05 or 1.0
    marks = []
    for i in range(len(measured)):
        upper = "5 and more" if i == len(measured) - 1 else f"{i / 2:g} to {(i + 1) / 2:g}"
        for side, (name, fractions) in enumerate(bars):
            left, fraction = _x((i + 0.1 + width * side) / len(measured)), fractions[i]
            wide = (width - 0.04) * (_x(1) - _x(0)) / len(measured)
            title = f"{upper}: {100 * fraction:.1f} %" + (f" ({counts[i]:,} photos)" if not side else " in RP2K")
            marks.append(_bar(name, left, wide, fraction / top, title))
    x_ticks = [(i / len(measured), f"{i / 2:g}") for i in range(0, len(measured), 2)]
    y_ticks = [(p / 100 / top, f"{p} %") for p in _round_steps(100 * top)]
    return _chart("height/width", marks, "height / width", "fraction of photos", x_ticks, y_ticks)


def size_chart(widths: np.ndarray, heights: np.ndarray) -> Markup:
    """Return the density of (width, height) [pixels], both logarithmic over one range; the diagonal marks squares."""
    low, high = 2 ** np.floor(np.log2(min(widths.min(), heights.min()))), max(widths.max(), heights.max())
    high = max(2 * low, 2 ** np.ceil(np.log2(high)))
    span, cells = np.log2(high / low), 36
    edges = np.linspace(0, 1, cells + 1)
    position = lambda pixels: np.log2(pixels / low) / span  # noqa: E731
    density = np.histogram2d(position(widths), position(heights), bins=[edges, edges])[0].astype(int)
    marks = [f'<line class="dashed" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>']
    across, up = (_x(1) - _x(0)) / cells, (_y(0) - _y(1)) / cells
    for i, j in np.argwhere(density):
        opacity = 0.15 + 0.85 * np.log1p(density[i, j]) / np.log1p(density.max())
        pixels = [f"{low * 2 ** (span * edges[k]):.0f} to {low * 2 ** (span * edges[k + 1]):.0f}" for k in (i, j)]
        marks.append(
            f'<rect class="ours" x="{_x(edges[i]):.1f}" y="{_y(edges[j + 1]):.1f}" width="{across:.1f}" '
            f'height="{up:.1f}" opacity="{opacity:.2f}">'
            f"<title>{density[i, j]:,} photos, {pixels[0]} wide, {pixels[1]} high</title></rect>"
        )
    ticks = [(p / span, f"{low * 2**p:.0f}") for p in range(int(span) + 1)]
    ticks = _thinned(ticks)
    return _chart("sizes", marks, "width in pixels", "height in pixels", ticks, ticks)


def bytes_chart(sizes: np.ndarray) -> Markup:
    """Return a histogram of file sizes [bytes] in 30 logarithmic bins."""
    low, high = np.log10(sizes.min()), np.log10(sizes.max())
    low, high = (low - 0.2, high + 0.2) if high - low < 0.4 else (low, high)
    counts, edges = np.histogram(np.log10(sizes), 30, (low, high))
    top = counts.max() * 1.05
    wide = (_x(1) - _x(0)) / 30 - 1
    marks = []
    for i, n in enumerate(counts):
        title = f"{n:,} photos of {in_bytes(10 ** edges[i])} to {in_bytes(10 ** edges[i + 1])}"
        marks.append(_bar("ours", _x(i / 30) + 0.5, wide, n / top, title))
    x_ticks = [(position, in_bytes(10 ** (low + position * (high - low)))) for position in (0.04, 0.35, 0.65, 0.94)]
    y_ticks = [(n / top, f"{n:,}") for n in _round_steps(top)]
    return _chart("file sizes", marks, "file size", "photos", x_ticks, y_ticks)


def bar_chart(title: str, bars: Sequence[tuple[str, float, str]]) -> Markup:
    """Return horizontal bars, the first on top.

    Args:
        bars: (name, length from 0, label beside the bar).
    """
    row, left, right = 30, 120, 108
    top = max([length for _, length, _ in bars], default=0) or 1
    parts = []
    for i, (name, length, label) in enumerate(bars):
        y, end = 4 + row * i, left + (_WIDTH - left - right) * length / top
        parts.append(text(left - 9, y + 19, name, "end"))
        parts.append(f'<rect class="ours" x="{left}" y="{y + 4}" width="{end - left:.1f}" height="{row - 8}"/>')
        parts.append(text(end + 7, y + 19, label, "start", "quiet"))
    return _svg(title, parts, row * len(bars) + 8)


def accuracy_chart(curve: pd.DataFrame, label: str) -> Markup:
    """Return the accuracy with its interval in each quantile bin of a measure; all bins have the same width.

    Args:
        curve: low_edge, high_edge, images, accuracy, low, high; one row per bin, ascending, at least one.
        label: name of the measure.
    """
    filled = curve[curve["images"] > 0]
    bottom = np.floor(10 * filled["low"].min()) / 10 if len(filled) else 0.0
    top = max(np.ceil(10 * filled["high"].max()) / 10 if len(filled) else 1.0, bottom + 0.1)
    y_of = lambda accuracy: _y((accuracy - bottom) / (top - bottom))  # noqa: E731
    marks = []
    for i, bin_ in enumerate(curve.itertuples()):
        if not bin_.images:
            continue
        x, ends = _x((i + 0.5) / len(curve)), (y_of(bin_.low), y_of(bin_.high))
        accuracy, low, high = (f"{100 * value:.1f}" for value in (bin_.accuracy, bin_.low, bin_.high))
        edges = f"{_edge(bin_.low_edge)} to {_edge(bin_.high_edge)}"
        title = f"{edges}: {accuracy} % [{low}, {high}] of {bin_.images:,} photos"
        marks.append(_dot(x, ends, y_of(bin_.accuracy), title))
    edges = [*curve["low_edge"], *curve["high_edge"].iloc[-1:]]
    x_ticks = _thinned([(i / len(curve), _edge(edge)) for i, edge in enumerate(edges)])
    percents = range(round(100 * bottom), round(100 * top) + 1, 10 if top - bottom < 0.65 else 20)
    y_ticks = [((p / 100 - bottom) / (top - bottom), f"{p} %") for p in percents]
    return _chart(f"accuracy over {label}", marks, label, "accuracy", x_ticks, y_ticks)


def share_chart(title: str, points: Sequence[tuple[str, float, float, float]], x_label: str, y_label: str) -> Markup:
    """Return fractions with their intervals on an axis from 0 to 100 %, side by side.

    Args:
        points: (name below the axis, fraction, low, high), at least one.
    """
    marks = []
    for i, (name, value, low, high) in enumerate(points):
        x = _x((i + 0.5) / len(points))
        tip = f"{name}: {100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        marks += [_dot(x, (_y(low), _y(high)), _y(value), tip), text(x, _y(high) - 8, f"{100 * value:.0f} %")]
    x_ticks = [((i + 0.5) / len(points), name) for i, (name, *_) in enumerate(points)]
    y_ticks = [(percent / 100, f"{percent} %") for percent in range(0, 101, 20)]
    return _chart(title, marks, x_label, y_label, x_ticks, y_ticks)


def recall_chart(curve: pd.DataFrame, best: tuple[float, float, str], chance: float) -> Markup:
    """Return precision over recall with its interval, for a file or a page.

    Args:
        curve: recall, precision, low, high (0 to 1), ascending recall.
        best: recall and precision of a marked point, and its label.
        chance: precision of a random order.
    """
    upper, lower, line = (
        [f"{_x(row.recall):.1f} {_y(getattr(row, name)):.1f}" for row in curve.itertuples()]
        for name in ("high", "low", "precision")
    )
    recall, precision, label = best
    marks = [
        f"<g>{tooltip('random order')}{rule('dashed', _x(0), _y(chance), _x(1), _y(chance))}</g>",
        f'<path class="band" d="M{"L".join([*upper, *lower[::-1]])}Z"/>',
        f'<path class="curve" d="M{"L".join(line)}"/>',
        f'<circle class="ours" cx="{_x(recall):.1f}" cy="{_y(precision):.1f}" r="5">{tooltip(label)}</circle>',
        text(_x(recall), _y(precision / 2), label),  # well below the falling curve
    ]
    ticks = [(tenth / 10, f"{tenth / 10:.1f}") for tenth in range(0, 11, 2)]
    parts = _axes(marks, "recall: fraction of the wrong labels in the list", "precision", ticks, ticks)
    return drawing("precision over recall of suspected labels", parts, _WIDTH, _HEIGHT, "recall", _RECALL_STYLE)


def _edge(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def curve_chart(curves: Mapping[str, Curve], label: str, unit: str = "") -> Markup:
    """Return curves over training steps, with their names below; nothing without a point.

    Args:
        label: of the vertical axis.
        unit: behind its numbers.
    """
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return Markup("")
    last = max(step for step, _ in points)
    levels = round_ticks(min(value for _, value in points), max(value for _, value in points))
    position = lambda value: (value - levels[0]) / (levels[-1] - levels[0])  # noqa: E731
    marks, names = [], []
    for color, (name, curve) in zip(_CURVE_COLORS, curves.items(), strict=False):
        path = " ".join(f"{_x(step / last):.1f},{_y(position(value)):.1f}" for step, value in curve)
        marks.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for step, value in curve if len(curve) <= _MOST_MARKS else ():
            circle = f'<circle cx="{_x(step / last):.1f}" cy="{_y(position(value)):.1f}" r="3.5" fill="{color}">'
            marks.append(f"{circle}{tooltip(f'{name}, step {step:,}: {value:.4g}{unit}')}</circle>")
        names.append(f'<span style="white-space: nowrap"><b style="color: {color}">●</b> {escape(name)}</span>')
    x_ticks = [(step / last, f"{step:,.0f}") for step in round_ticks(0, last) if step <= last]
    y_ticks = [(position(level), f"{level:g}{unit}") for level in levels]
    chart = _chart(", ".join(curves), marks, "training steps", label, x_ticks, y_ticks)
    return chart + Markup(f"<p>{' &ensp; '.join(names)}</p>")
