"""Charts as inline SVG, with the colors of the page's CSS variables (light and dark).

Text is escaped, marks have a tooltip, and the drawing is narrow enough for a phone.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from rp2k_lab.core.text import in_bytes

_WIDTH, _HEIGHT = 540, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 26, 40, 52


def _x(fraction) -> float:
    return _LEFT + fraction * (_WIDTH - _LEFT - _RIGHT)


def _y(fraction) -> float:
    return _HEIGHT - _BOTTOM - fraction * (_HEIGHT - _TOP - _BOTTOM)


def _text(x: float, y: float, text: str, anchor: str = "middle", attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {attributes}>{escape(text)}</text>'


def _chart(title: str, marks: Sequence[str], x_label: str, y_label: str, x_ticks, y_ticks) -> Markup:
    """Return marks with axes; ticks are (position on the axis from 0 to 1, label)."""
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    for position, label in y_ticks:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_x(1)}" y1="{_y(position):.1f}" y2="{_y(position):.1f}"/>')
        parts.append(_text(_LEFT - 7, _y(position) + 4.5, label, "end"))
    parts += marks
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_x(1)}" y1="{_y(0)}" y2="{_y(0)}"/>')
    parts += [_text(_x(position), _y(0) + 25, label) for position, label in x_ticks]
    parts.append(_text(_x(0.5), _HEIGHT - 6, x_label, attributes='class="label"'))
    # Above the axis: beside it, the title would cross the numbers of some axis.
    parts.append(_text(4, 16, y_label, "start", 'class="label"'))
    return Markup("".join([*parts, "</svg>"]))


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
    rough = max(1, most / about)
    power = 10 ** int(np.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return list(range(0, int(most) + 1, step))


def ratio_chart(counts: np.ndarray, published: np.ndarray | None) -> Markup:
    """Return the distribution of height/width, beside RP2K's published one.

    Args:
        counts: images per bin of width 0.5; the last bin holds 5 and more.
        published: counts of RP2K for all bins but the last; None: draw the data's alone.
    """
    bars = [("ours", counts / max(1, counts.sum()))]
    if published is not None:
        bars.append(("published", np.r_[published / published.sum(), 0]))
    measured, width = bars[0][1], 0.84 / len(bars)
    top = max(fractions.max() for _, fractions in bars) * 1.05 or 1.0
    marks = []
    for i in range(len(measured)):
        upper = "5 and more" if i == len(measured) - 1 else f"{i / 2:g} to {(i + 1) / 2:g}"
        for side, (name, fractions) in enumerate(bars):
            left, fraction = _x((i + 0.1 + width * side) / len(measured)), fractions[i]
            wide = (width - 0.04) * (_x(1) - _x(0)) / len(measured)
            title = f"{upper}: {100 * fraction:.1f} %" + (f" ({counts[i]:,} photos)" if not side else " in RP2K")
            marks.append(
                f'<rect class="{name}" x="{left:.1f}" width="{wide:.1f}" y="{_y(fraction / top):.1f}" '
                f'height="{_y(0) - _y(fraction / top):.1f}"><title>{title}</title></rect>'
            )
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
    marks = [f'<line class="diagonal" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>']
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
    return _chart("sizes", marks, "width in pixels", "height in pixels", ticks, ticks)


def bytes_chart(sizes: np.ndarray) -> Markup:
    """Return a histogram of file sizes [bytes] in 30 logarithmic bins."""
    low, high = np.log10(sizes.min()), np.log10(sizes.max())
    low, high = (low - 0.2, high + 0.2) if high - low < 0.4 else (low, high)
    counts, edges = np.histogram(np.log10(sizes), 30, (low, high))
    top = counts.max() * 1.05
    marks = [
        f'<rect class="ours" x="{_x(i / 30) + 0.5:.1f}" width="{(_x(1) - _x(0)) / 30 - 1:.1f}" '
        f'y="{_y(n / top):.1f}" height="{_y(0) - _y(n / top):.1f}">'
        f"<title>{n:,} photos of {in_bytes(10 ** edges[i])} to {in_bytes(10 ** edges[i + 1])}</title></rect>"
        for i, n in enumerate(counts)
    ]
    x_ticks = [
        (position, in_bytes(10 ** (low + position * (high - low)))) for position in (0.02, 0.25, 0.5, 0.75, 0.96)
    ]
    y_ticks = [(n / top, f"{n:,}") for n in _round_steps(top)]
    return _chart("file sizes", marks, "file size", "photos", x_ticks, y_ticks)


def bar_chart(title: str, bars: Sequence[tuple[str, float, str]]) -> Markup:
    """Return horizontal bars, the first on top.

    Args:
        bars: (name, length from 0, label beside the bar).
    """
    row, left, right = 30, 130, 100
    top = max([length for _, length, _ in bars], default=0) or 1
    height = row * len(bars) + 8
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">']
    for i, (name, length, label) in enumerate(bars):
        y, end = 4 + row * i, left + (_WIDTH - left - right) * length / top
        parts.append(_text(left - 9, y + 19, name, "end", 'class="label"'))
        parts.append(f'<rect class="ours" x="{left}" y="{y + 4}" width="{end - left:.1f}" height="{row - 8}"/>')
        parts.append(_text(end + 7, y + 19, label, "start"))
    return Markup("".join([*parts, "</svg>"]))


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
        marks.append(
            f'<g><title>{title}</title><line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" '
            f'y2="{ends[1]:.1f}"/><circle class="ours" cx="{x:.1f}" cy="{y_of(bin_.accuracy):.1f}" r="5"/></g>'
        )
    edges = [*curve["low_edge"], *curve["high_edge"].iloc[-1:]]
    every = -(-len(edges) // 6)  # more labels would touch each other on a phone
    x_ticks = [(i / len(curve), _edge(edges[i])) for i in range(0, len(edges), every)]
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
        marks.append(
            f'<g><title>{escape(tip)}</title><line class="interval" x1="{x:.1f}" x2="{x:.1f}" y1="{_y(low):.1f}" '
            f'y2="{_y(high):.1f}"/><circle class="ours" cx="{x:.1f}" cy="{_y(value):.1f}" r="5"/></g>'
        )
        marks.append(_text(x, _y(high) - 8, f"{100 * value:.0f} %"))
    x_ticks = [((i + 0.5) / len(points), name) for i, (name, *_) in enumerate(points)]
    y_ticks = [(percent / 100, f"{percent} %") for percent in range(0, 101, 20)]
    return _chart(title, marks, x_label, y_label, x_ticks, y_ticks)


def _edge(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
