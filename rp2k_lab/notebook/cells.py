"""Self-contained HTML output of notebook cells.

Names of classes and files are untrusted data and are escaped here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from rp2k_lab.core.text import escape_controls
from rp2k_lab.pages.images import in_base64
from rp2k_lab.pages.svg import DARK, FONTS, LIGHT, STYLE
from rp2k_lab.pages.template import short

# Light or dark as Jupyter's theme says; without one (an exported page), as the browser prefers.
_COLORS = f"""
.lab {{ {LIGHT} }} body[data-jp-theme-light="false"] .lab {{ {DARK} }}
@media (prefers-color-scheme: dark) {{ body:not([data-jp-theme-light]) .lab {{ {DARK} }} }}
.lab {{ background: var(--paper); color: var(--ink); padding: 6px 2px; font: 14px/1.45 {FONTS}; }}
{STYLE}"""
_STYLE = Markup("<style>{}").format(Markup(_COLORS)) + Markup("""
.lab p { margin: 4px 0; } .lab .quiet { color: var(--quiet); }
.lab .grid, .lab .charts { display: flex; flex-wrap: wrap; gap: 14px 16px; align-items: flex-start; }
.lab .charts { gap: 18px 34px; } .lab .charts figure { flex: 0 1 460px; min-width: 300px; }
.lab > * + * { margin-top: 14px; } .lab figure { margin: 0; }
.lab .thumbnail figcaption { color: var(--quiet); font-size: 12px; line-height: 1.3; overflow-wrap: anywhere;
  margin-top: 3px; max-width: 150px; }
.lab .charts figcaption { font-weight: 600; margin: 0 0 4px; }
.lab img { display: block; margin: 0; max-width: none; border-radius: 3px; }
.lab .pixels { image-rendering: pixelated; }
.lab .none { width: 72px; padding: 26px 6px; background: var(--tint); color: var(--quiet); font-size: 12px; }
.lab table { border-collapse: collapse; margin: 0; font-size: 13px; border: 0; }
.lab th { text-align: left; color: var(--quiet); font-weight: 500; }
.lab th, .lab td { padding: 4px 16px 4px 0; border: 0; border-bottom: 1px solid var(--line); white-space: normal;
  max-width: 26em; }
/* Override Jupyter's striped and right-aligned tables. */
.lab tr { background: none !important; }
.lab th, .lab td { text-align: left !important; vertical-align: top !important; }
.lab .n { text-align: right !important; font-variant-numeric: tabular-nums; white-space: nowrap; }
.lab .rows td { padding: 8px 14px 8px 0; } .lab .rows .title { width: 15em; } .lab .scroll { overflow-x: auto; }
.lab svg.chart { font-size: 14px; } .lab svg.chart text { stroke: none; }
</style>""")
# Displayed size of an image's longer side [pixels]: small images are enlarged by a whole factor up to the first value,
# large ones reduced to the second.
_ENLARGED, _LARGEST = 96, 150


@dataclass(frozen=True)
class CellOutput:
    """HTML output of a cell."""

    html: Markup

    def _repr_html_(self) -> str:
        return f'{_STYLE}<div class="lab">{self.html}</div>'


@dataclass(frozen=True)
class Thumbnail:
    """An image, uint8 RGB (height, width, 3) or None if unreadable, with a caption."""

    image: np.ndarray | None
    caption: str = ""


def note(text: str) -> CellOutput:
    """Return a sentence as output."""
    return CellOutput(Markup("<p>{}</p>").format(escape_controls(text)))


def charts(by_title: Mapping[str, Markup]) -> CellOutput:
    """Return charts from `rp2k_lab.pages.charts` side by side, by title."""
    figure = Markup("<figure><figcaption>{}</figcaption>{}</figure>")
    figures = _joined(figure.format(*each) for each in by_title.items())
    return CellOutput(Markup('<div class="charts">{}</div>').format(figures))


def table(frame: pd.DataFrame) -> CellOutput:
    """Return a table with right-aligned numbers, thousands separators and escaped texts."""
    right = [Markup(' class="n"') if pd.api.types.is_numeric_dtype(kind) else "" for kind in frame.dtypes]
    head = _joined(Markup("<th{}>{}</th>").format(*cell) for cell in zip(right, frame.columns, strict=True))
    rows = [
        _joined(Markup("<td{}>{}</td>").format(*cell) for cell in zip(right, map(_text, row), strict=True))
        for row in frame.itertuples(index=False)
    ]
    body = _joined(Markup("<tr>{}</tr>").format(row) for row in rows)
    return CellOutput(Markup('<div class="scroll"><table><tr>{}</tr>{}</table></div>').format(head, body))


def thumbnails(images: Iterable[Thumbnail]) -> CellOutput:
    """Return thumbnails with captions in a wrapping row."""
    return CellOutput(Markup('<div class="grid">{}</div>').format(_joined(map(_figure, images))))


def thumbnail_rows(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[Thumbnail]]]) -> CellOutput:
    """Return a table of thumbnails: each row has a title and one image per column."""
    head = _joined(Markup("<th>{}</th>").format(name) for name in ("", *columns))
    body = _joined(
        Markup('<tr><td class="title">{}</td>{}</tr>').format(
            escape_controls(title), _joined(Markup("<td>{}</td>").format(_figure(image)) for image in images)
        )
        for title, images in rows
    )
    return CellOutput(Markup('<div class="scroll"><table class="rows"><tr>{}</tr>{}</table></div>').format(head, body))


def stack(*parts: CellOutput) -> CellOutput:
    """Return outputs one below the other."""
    return CellOutput(_joined(part.html for part in parts))


def _figure(thumbnail: Thumbnail) -> Markup:
    image, title = thumbnail.image, escape_controls(thumbnail.caption)
    caption = Markup("<figcaption>{}</figcaption>").format(short(title)) if title else ""
    if image is None:
        return Markup('<figure class="thumbnail"><div class="none">not readable</div>{}</figure>').format(caption)
    longer = max(image.shape[:2])
    scale = max(1, _ENLARGED // longer) if longer <= _LARGEST else _LARGEST / longer
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    kind, suffix = ("png", ".png") if longer <= 64 else ("jpeg", ".jpg")
    uri = f"data:image/{kind};base64,{in_base64(image, suffix)}"
    html = Markup('<figure class="thumbnail"><img class="{}" src="{}" alt="{}" width="{}" height="{}">{}</figure>')
    return html.format("pixels" if scale > 1 else "", uri, title or "photo", width, height, caption)


def _text(value) -> str:
    if isinstance(value, str):
        return escape_controls(value)
    return f"{value:,}" if isinstance(value, (int, np.integer)) else f"{value:.3g}"


def _joined(parts: Iterable) -> Markup:
    return Markup("").join(map(escape, parts))
