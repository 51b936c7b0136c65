"""The frame of every plot: one palette, one style, text, lines and tooltips, for light and dark backgrounds.

Text is escaped.  Pages carry `STYLE` once in base.css; an SVG file carries it itself.
"""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from rp2k_lab.core.text import escape_controls

# Each color of text has a contrast of at least 4.5 : 1 on paper and on tint.
LIGHT = (
    "--ground: #f5f6f8; --paper: #fff; --ink: #1b2430; --quiet: #5d6978; --line: #dfe3e8; --tint: #eef3f9; "
    "--head: #1f5fa8; --medium: #1b7350; --tail: #b93147; --ours: #1f5fa8; --published: #e0a63d; "
    "--good: #1b7350; --warn: #8a5a00; --bad: #b93147;"
)
DARK = (
    "--ground: #12161c; --paper: #1b2129; --ink: #e6eaef; --quiet: #9ba7b5; --line: #313a46; --tint: #222c38; "
    "--head: #6aa5ea; --medium: #51c596; --tail: #f07f8d; --ours: #6aa5ea; --published: #e2b354; "
    "--good: #51c596; --warn: #e2b354; --bad: #f07f8d;"
)
FONTS = (
    'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "PingFang SC", "Microsoft YaHei", '
    '"Noto Sans CJK SC", "Noto Sans SC", sans-serif'
)
STYLE = """
.plot { display: block; width: 100%; height: auto; }
.plot text { fill: var(--ink); } .plot .quiet { fill: var(--quiet); } .plot .paper { fill: var(--paper); }
.plot .grid { stroke: var(--line); } .plot .axis { stroke: var(--quiet); }
.plot .dashed { stroke: var(--quiet); stroke-dasharray: 4 4; }
.plot .head { fill: var(--head); } .plot .medium { fill: var(--medium); } .plot .tail { fill: var(--tail); }
.plot .ours { fill: var(--ours); } .plot .published { fill: var(--published); }
.plot .interval { stroke: var(--ours); stroke-width: 2; }
"""


def palette(selector: str) -> Markup:
    """Return the CSS variables of the colors on the elements of a selector, light and dark."""
    dark = f"@media (prefers-color-scheme: dark) {{ {selector} {{ {DARK} }} }}"
    return Markup(f"{selector} {{ {LIGHT} }}\n{dark}")


def drawing(
    label: str, parts: Sequence[str], width: float | None, height: float, kind: str = "", style: str = ""
) -> Markup:
    """Return a drawing, as a file or inline.

    Args:
        label: what it shows, for a screen reader.
        width, height: of the drawing [pixels, scaled together]; without a width it is as wide as its place, and the
            parts have their positions across it in percent.
        kind: its class beside `plot`, for `style`.
        style: CSS beyond `STYLE`.
    """
    size = f'width="100%" height="{height:g}"' if width is None else f'viewBox="0 0 {width:g} {height:g}"'
    head = (
        f'<svg class="{f"plot {kind}".strip()}" xmlns="http://www.w3.org/2000/svg" {size} role="img" '
        f'aria-label="{_plain(label)}" font-family="{escape(FONTS)}" font-size="13"><style>{palette(".plot")}{STYLE}'
        f'{style}</style><rect class="paper" width="100%" height="{height:g}"/>'
    )
    return Markup("".join([head, *parts, "</svg>\n"]))


def text(x: float | str, y: float, content: str, anchor: str = "middle", tone: str = "") -> str:
    """Return a line of text; `y` is its base, `anchor` is start, middle or end."""
    return f'<text{_class(tone)} x="{_number(x)}" y="{_number(y)}" text-anchor="{anchor}">{_plain(content)}</text>'


def rule(tone: str, x1: float | str, y1: float, x2: float | str, y2: float) -> str:
    """Return a straight line."""
    ends = f'x1="{_number(x1)}" y1="{_number(y1)}" x2="{_number(x2)}" y2="{_number(y2)}"'
    return f"<line{_class(tone)} {ends}/>"


def tooltip(content: str) -> str:
    """Return the tooltip of the element around it."""
    return f"<title>{_plain(content)}</title>"


def round_step(rough: float) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is at least `rough`."""
    power = 10 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def round_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return about so many round numbers, multiples of 1, 2 or 5 times a power of ten, that enclose a range."""
    step = round_step(max(high - low, 1e-3 * max(1.0, abs(high))) / about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, max(last, first + 1) + 1)]


def _plain(content: str) -> Markup:
    return escape(escape_controls(content))


def _class(tone: str) -> str:
    return f' class="{tone}"' if tone else ""


def _number(value: float | str) -> str:
    """Return a coordinate; a text, such as 12.5%, stays as it is."""
    return value if isinstance(value, str) else f"{value:.1f}"
