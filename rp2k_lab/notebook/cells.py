"""What a cell shows, as HTML that needs nothing but itself.

Names of classes and files come from the data and may hold anything; they are escaped here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from rp2k_lab.core.text import escape_controls
from rp2k_lab.pages.images import in_base64, short

# Light on every page: a live notebook may be dark, and photos are judged best on white.
_STYLE = Markup("""<style>
.lab { --ink: #1b2430; --quiet: #5d6978; --line: #dfe3e8; --head: #1f5fa8; --medium: #23855e; --tail: #c43d50;
  --ours: #1f5fa8; --published: #e0a63d; background: #fff; color: var(--ink); padding: 6px 2px; font: 14px/1.45
  system-ui, "Segoe UI", Roboto, "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; }
.lab p { margin: 4px 0; } .lab .quiet { color: var(--quiet); }
.lab .grid, .lab .charts { display: flex; flex-wrap: wrap; gap: 14px 16px; align-items: flex-start; }
.lab .charts { gap: 18px 34px; } .lab .charts figure { flex: 0 1 460px; min-width: 300px; }
.lab > * + * { margin-top: 14px; } .lab figure { margin: 0; }
.lab .shot figcaption { color: var(--quiet); font-size: 12px; line-height: 1.3; overflow-wrap: anywhere;
  margin-top: 3px; max-width: 150px; }
.lab .charts figcaption { font-weight: 600; margin: 0 0 4px; }
.lab img { display: block; margin: 0; max-width: none; border-radius: 3px; }
.lab .pixels { image-rendering: pixelated; }
.lab .none { width: 72px; padding: 26px 6px; background: #eef1f4; color: var(--quiet); font-size: 12px; }
.lab table { border-collapse: collapse; margin: 0; font-size: 13px; border: 0; }
.lab th { text-align: left; color: var(--quiet); font-weight: 500; }
.lab th, .lab td { padding: 4px 16px 4px 0; border: 0; border-bottom: 1px solid var(--line); white-space: normal;
  max-width: 26em; }
/* Against Jupyter's own tables: stripes, and everything to the right. */
.lab tr { background: none !important; }
.lab th, .lab td { text-align: left !important; vertical-align: top !important; }
.lab .n { text-align: right !important; font-variant-numeric: tabular-nums; white-space: nowrap; }
.lab .rows td { padding: 8px 14px 8px 0; } .lab .rows .words { width: 15em; } .lab .scroll { overflow-x: auto; }
.lab svg.chart { width: 100%; height: auto; display: block; font-size: 13px; }
.lab svg.chart text { fill: var(--quiet); stroke: none; } .lab svg.chart .label { fill: var(--ink); }
.lab svg .grid { stroke: var(--line); } .lab svg .axis { stroke: var(--quiet); }
.lab svg .diagonal { stroke: var(--quiet); stroke-dasharray: 4 4; }
.lab svg .head { fill: var(--head); } .lab svg .medium { fill: var(--medium); } .lab svg .tail { fill: var(--tail); }
.lab svg .ours { fill: var(--ours); } .lab svg .published { fill: var(--published); }
.lab svg .interval { stroke: var(--ours); stroke-width: 2; opacity: .55; }
</style>""")
# Pixels on the screen of a picture's longer side: a small one is shown at a whole multiple of its own up to the first,
# a larger one at the second.
_ENLARGED, _LARGEST = 96, 150


@dataclass(frozen=True)
class Shown:
    """HTML that a notebook shows as a cell's result."""

    html: Markup

    def _repr_html_(self) -> str:
        return f'{_STYLE}<div class="lab">{self.html}</div>'


@dataclass(frozen=True)
class Shot:
    """A picture, uint8 RGB (height, width, 3) or None where it cannot be read, with the words below it."""

    image: np.ndarray | None
    words: str = ""


def note(text: str) -> Shown:
    """A sentence."""
    return Shown(Markup("<p>{}</p>").format(escape_controls(text)))


def charts(drawn: Mapping[str, Markup]) -> Shown:
    """Charts of `rp2k_lab.pages.charts` beside one another, by title."""
    figure = Markup("<figure><figcaption>{}</figcaption>{}</figure>")
    return Shown(Markup('<div class="charts">{}</div>').format(_joined(figure.format(*each) for each in drawn.items())))


def table(frame: pd.DataFrame) -> Shown:
    """A table as it stands: numbers to the right with separators of thousands, texts escaped."""
    right = [Markup(' class="n"') if pd.api.types.is_numeric_dtype(kind) else "" for kind in frame.dtypes]
    head = _joined(Markup("<th{}>{}</th>").format(*cell) for cell in zip(right, frame.columns, strict=True))
    rows = [
        _joined(Markup("<td{}>{}</td>").format(*cell) for cell in zip(right, map(_text, row), strict=True))
        for row in frame.itertuples(index=False)
    ]
    body = _joined(Markup("<tr>{}</tr>").format(row) for row in rows)
    return Shown(Markup('<div class="scroll"><table><tr>{}</tr>{}</table></div>').format(head, body))


def photos(shots: Iterable[Shot]) -> Shown:
    """Pictures with their words, as many in a line as there is room for."""
    return Shown(Markup('<div class="grid">{}</div>').format(_joined(map(_figure, shots))))


def photo_rows(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[Shot]]]) -> Shown:
    """Pictures in lines: the words of a line, then its pictures below the names of the columns."""
    head = _joined(Markup("<th>{}</th>").format(name) for name in ("", *columns))
    body = _joined(
        Markup('<tr><td class="words">{}</td>{}</tr>').format(
            escape_controls(words), _joined(Markup("<td>{}</td>").format(_figure(shot)) for shot in shots)
        )
        for words, shots in rows
    )
    return Shown(Markup('<div class="scroll"><table class="rows"><tr>{}</tr>{}</table></div>').format(head, body))


def together(*parts: Shown) -> Shown:
    """One below the other."""
    return Shown(_joined(part.html for part in parts))


def _figure(shot: Shot) -> Markup:
    caption = Markup("<figcaption>{}</figcaption>").format(short(escape_controls(shot.words))) if shot.words else ""
    if shot.image is None:
        return Markup('<figure class="shot"><div class="none">not readable</div>{}</figure>').format(caption)
    longer = max(shot.image.shape[:2])
    times = max(1, _ENLARGED // longer) if longer <= _LARGEST else _LARGEST / longer
    height, width = (max(1, round(side * times)) for side in shot.image.shape[:2])
    kind, suffix = ("png", ".png") if longer <= 64 else ("jpeg", ".jpg")
    uri = f"data:image/{kind};base64,{in_base64(shot.image, suffix)}"
    return Markup('<figure class="shot"><img class="{}" src="{}" alt="{}" width="{}" height="{}">{}</figure>').format(
        "pixels" if times > 1 else "", uri, escape_controls(shot.words) or "photo", width, height, caption
    )


def _text(value) -> str:
    if isinstance(value, str):
        return escape_controls(value)
    return f"{value:,}" if isinstance(value, (int, np.integer)) else f"{value:.3g}"


def _joined(parts: Iterable) -> Markup:
    return Markup("").join(map(escape, parts))
