"""A document of sections, as Markdown and as one HTML file that asks nothing of a network.

What it holds is plain text: names and reasons come from data and may hold anything, and both forms escape them.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from rp2k_lab.core.text import escape_controls, text_table


@dataclass(frozen=True)
class Tag:
    """A word with a tone: better, worse, open or none."""

    word: str
    tone: str


@dataclass(frozen=True)
class Item:
    """A line of a list: what it is about, a verdict, the rest; `link` leads from the first to another file."""

    lead: str
    tag: Tag | None
    text: str
    link: str = ""


@dataclass(frozen=True)
class Text:
    text: str
    kind = "text"


@dataclass(frozen=True)
class Items:
    items: Sequence[Item]
    kind = "items"


@dataclass(frozen=True)
class Grid:
    """A table whose first column names the row; the others stand right where `numeric`."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Tag]]
    numeric: bool = True
    kind = "grid"


@dataclass(frozen=True)
class Code:
    lines: Sequence[str]
    kind = "code"


@dataclass(frozen=True)
class Figure:
    """An SVG, which HTML holds and Markdown links to as `file`."""

    svg: Markup
    file: str
    words: str
    kind = "figure"


@dataclass(frozen=True)
class Quote:
    """Someone else's Markdown, which Markdown takes as it is and HTML shows as it was typed."""

    text: str
    kind = "quote"


Block = Text | Items | Grid | Code | Figure | Quote


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """Title, a line below it, sections."""

    title: str
    lead: str
    sections: Sequence[Section]


def to_html(document: Document) -> str:
    """The page, readable on a phone and on a dark background."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["escape_controls"] = escape_controls
    return environment.get_template("document.html.jinja").render(document=document)


def to_markdown(document: Document) -> str:
    """The same for a repository's page."""
    parts = [f"# {_escaped(document.title)}", _escaped(document.lead)]
    for section in document.sections:
        parts += [f"## {_escaped(section.title)}", *(_MARKDOWN[block.kind](block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    text = escape_controls(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#~!])", r"\\\1", text)


def _item(item: Item) -> str:
    lead = f"**{_escaped(item.lead)}**"
    lead = f"[{lead}](<{item.link}>)" if item.link else lead
    tag = f" *{_escaped(item.tag.word)}*:" if item.tag else ":"
    return f"- {lead}{tag} {_escaped(item.text)}"


def _grid(grid: Grid) -> str:
    cells = lambda row: "| " + " | ".join(_escaped(plain(cell)) for cell in row) + " |"  # noqa: E731
    rule = ["---"] + ["---:" if grid.numeric else "---"] * (len(grid.head) - 1)
    return "\n".join([cells(grid.head), "| " + " | ".join(rule) + " |", *map(cells, grid.rows)])


_MARKDOWN = {
    "text": lambda block: _escaped(block.text),
    "items": lambda block: "\n".join(map(_item, block.items)),
    "grid": _grid,
    "code": lambda block: "\n".join(f"    {escape_controls(line)}" for line in block.lines),
    "figure": lambda block: f"![{_escaped(block.words)}]({block.file})",
    "quote": lambda block: "\n".join(f"> {line}".rstrip() for line in block.text.strip().split("\n")),
}


def grid_text(grid: Grid) -> str:
    """Return a grid for a terminal."""
    rows = [[escape_controls(plain(cell)) for cell in row] for row in (grid.head, *grid.rows)]
    return text_table(rows, "<>" if grid.numeric else "<")


def plain(cell: str | Tag) -> str:
    """A cell's text."""
    return cell.word if isinstance(cell, Tag) else cell


def points(share: float, decimals: int = 1) -> str:
    """A difference in points with its sign: +1.2."""
    text = f"{100 * share:+.{decimals}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def points_above(share: float, decimals: int = 1) -> str:
    """A bound in points, rounded up so that it stays true."""
    return f"{math.ceil(share * 100 * 10**decimals - 1e-9) / 10**decimals:.{decimals}f}"


def interval(low: float, high: float, decimals: int = 1, word: str = "") -> str:
    """[−0.4, +2.1]; of a decided row an end that rounds to 0 is said to be beyond it."""
    ends = [points(low, decimals), points(high, decimals)]
    if word == "better" and not ends[0].strip("0."):
        ends[0] = ">0"
    if word == "worse" and not ends[1].strip("0."):
        ends[1] = "<0"
    return f"[{ends[0]}, {ends[1]}]"
