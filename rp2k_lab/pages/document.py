"""Documents of sections, written as Markdown and as one HTML file that needs no network.

Content is plain text from data (names, reasons); both formats escape it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rp2k_lab.core.text import escape_controls, text_table
from rp2k_lab.pages.template import render

GLYPHS = {"better": "▲", "worse": "▼", "equal": "=", "inconclusive": "○"}
"""A sign for each verdict, so that color alone tells none."""


@dataclass(frozen=True)
class Tag:
    """A highlighted word; its tone is better, worse, equal, inconclusive, failed or none."""

    word: str
    tone: str

    @property
    def signed(self) -> str:
        """The word behind the sign of its tone."""
        return f"{GLYPHS[self.tone]} {self.word}" if self.tone in GLYPHS else self.word


@dataclass(frozen=True)
class Item:
    """A list item: subject (linked to the file `link`, if any), tag, text."""

    lead: str
    tag: Tag | None
    text: str
    link: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind = "text"


@dataclass(frozen=True)
class Items:
    """A list."""

    items: Sequence[Item]
    kind = "items"


@dataclass(frozen=True)
class Grid:
    """A table whose first column names the row; `numeric` aligns the others right, but for verdicts."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Tag]]
    numeric: bool = True
    kind = "grid"

    @property
    def numbers(self) -> set[int]:
        """The columns that are aligned right."""
        tags = {i for row in self.rows for i, cell in enumerate(row) if isinstance(cell, Tag)}
        return set(range(1, len(self.head))) - tags if self.numeric else set()


@dataclass(frozen=True)
class Code:
    """A block of commands."""

    lines: Sequence[str]
    kind = "code"


@dataclass(frozen=True)
class Figure:
    """An SVG inline in HTML, and in Markdown a link to `file`, which the caller writes."""

    svg: Markup
    file: str
    caption: str
    kind = "figure"


@dataclass(frozen=True)
class Shot:
    """An image (`pages.images.EmbeddedImage`) with lines of text below it, the first of them bold."""

    image: Any
    lines: Sequence[str]


@dataclass(frozen=True)
class Images:
    """Images in a grid; Markdown has their texts as a list."""

    shots: Sequence[Shot]
    kind = "images"


@dataclass(frozen=True)
class Quote:
    """Quoted Markdown: unchanged in Markdown, rendered in HTML (tables too; tags and images stay text)."""

    text: str
    kind = "quote"


Block = Text | Items | Grid | Code | Figure | Images | Quote


@dataclass(frozen=True)
class Section:
    """A titled part of a document."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """Title, lead (the line below it), sections."""

    title: str
    lead: str
    sections: Sequence[Section]


def to_html(document: Document) -> str:
    """Return the document as one HTML page, for phones and dark backgrounds too."""
    return render({"document": document}, Path(__file__).with_name("document.html.jinja"))


def to_markdown(document: Document) -> str:
    """Return the document as GitHub Markdown."""
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
    tag = f" *{_escaped(item.tag.signed)}*:" if item.tag else ":"
    return f"- {lead}{tag} {_escaped(item.text)}"


def _grid(grid: Grid) -> str:
    texts = lambda row: [_escaped(cell if isinstance(cell, str) else cell.signed) for cell in row]  # noqa: E731
    cells = lambda row: "| " + " | ".join(texts(row)) + " |"  # noqa: E731
    rule = ["---"] + ["---:" if grid.numeric else "---"] * (len(grid.head) - 1)
    return "\n".join([cells(grid.head), "| " + " | ".join(rule) + " |", *map(cells, grid.rows)])


_MARKDOWN = {
    "text": lambda block: _escaped(block.text),
    "items": lambda block: "\n".join(map(_item, block.items)),
    "grid": _grid,
    "code": lambda block: "\n".join(f"    {escape_controls(line)}" for line in block.lines),
    "figure": lambda block: f"![{_escaped(block.caption)}]({block.file})",
    "images": lambda block: "\n".join(f"- {_escaped('; '.join(shot.lines))}" for shot in block.shots),
    "quote": lambda block: "\n".join(f"> {line}".rstrip() for line in block.text.strip().split("\n")),
}


def grid_text(grid: Grid) -> str:
    """Return a table as text for a terminal."""
    rows = [[escape_controls(plain(cell)) for cell in row] for row in (grid.head, *grid.rows)]
    return text_table(rows, "<>" if grid.numeric else "<")


def plain(cell: str | Tag) -> str:
    """Return the text of a cell."""
    return cell.word if isinstance(cell, Tag) else cell


def points(difference: float, decimals: int = 1) -> str:
    """Return a difference of fractions in points with its sign: +1.2.

    The last digits of a sum depend on the processor: they must not decide how a tie is rounded.
    """
    text = f"{round(100 * difference, 9):+.{decimals}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def points_above(bound: float, decimals: int = 1) -> str:
    """Return a bound in points, rounded up so that it still holds."""
    return f"{math.ceil(bound * 100 * 10**decimals - 1e-9) / 10**decimals:.{decimals}f}"


def interval(low: float, high: float, decimals: int = 1, word: str = "") -> str:
    """Return [−0.4, +2.1]; an end of a better or worse row that rounds to 0 becomes >0 or <0."""
    ends = [points(low, decimals), points(high, decimals)]
    if word == "better" and not ends[0].strip("0."):
        ends[0] = ">0"
    if word == "worse" and not ends[1].strip("0."):
        ends[1] = "<0"
    return f"[{ends[0]}, {ends[1]}]"
