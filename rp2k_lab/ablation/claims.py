"""Published claims beside what the tables measured: docs/tables.md and its figure."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rp2k_lab import COMMAND
from rp2k_lab.ablation.judged_table import RP2K_TEST_IMAGES, JudgedTable, Row
from rp2k_lab.ablation.report import bar_of
from rp2k_lab.ablation.wording import difference_cells
from rp2k_lab.config.ablation import find_scale
from rp2k_lab.core.errors import DataError
from rp2k_lab.core.text import escape_controls
from rp2k_lab.pages.document import (
    Block,
    Code,
    Document,
    Figure,
    Grid,
    Section,
    Tag,
    Text,
    points,
)
from rp2k_lab.pages.forest_plot import forest

_FIGURE_WIDTH = 680
CLAIMS, PAGE, FIGURE = "claims.yaml", "tables.md", "tables.svg"
_TITLE = "Published and measured"
_LEAD = (
    "After this page you know what the tables of this repository say of each published claim (docs/published.md), at "
    "which scale and on which photos, and whether one run could have shown it."
)
_METHOD = (
    "Differences are in points, each from the level's baseline. The intervals of a table cover jointly 95 % of the "
    "time, over seeds and test photos; docs/studies.md explains the words. Whether one run of each level could have "
    f"shown a published difference on {RP2K_TEST_IMAGES:,} photos depends on how many photos the two runs disagree "
    "on, which was not published: yes and no hold for every possible number; depends means that it decides."
)


class Claim(BaseModel):
    """A published claim.

    Attributes:
        claim: what was published.
        table: the table that tests it; "" for a claim that no table tests.
        levels: levels of the table that belong to the claim; empty: all that are compared.
        conclusion: what is to be made of it, by the results that are committed with it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    claim: str
    table: str = ""
    levels: tuple[str, ...] = ()
    conclusion: str = Field(min_length=1)

    def rows(self, tables: Sequence[JudgedTable]) -> list[tuple[JudgedTable, Row]]:
        """Return the compared levels of the claim, of all scales."""
        return [
            (table, row)
            for table in tables
            if table.ablation.name == self.table
            for row in table.rows
            if row.baseline and (not self.levels or row.level in self.levels)
        ]


def read_claims(folder: Path) -> list[Claim]:
    """Return the claims of a folder's claims.yaml, or none without the file.

    Raises:
        DataError: the file is not a list of claims.
    """
    file = folder / CLAIMS
    if not file.is_file():
        return []
    try:
        return [Claim.model_validate(each) for each in yaml.safe_load(file.read_text("utf-8"))]
    except (ValidationError, yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{escape_controls(file)}: not a list of claims ({reason})\nrestore it from git") from None


def document(claims: Sequence[Claim], tables: Sequence[JudgedTable], image: str) -> Document:
    """Return the page.

    Args:
        tables: judged tables of all scales.
        image: path of the figure from the page.
    """
    caption = "Published differences (diamonds) and ours with their intervals"
    overview = Grid(["claim", "conclusion"], [[each.claim, each.conclusion] for each in claims], numeric=False)
    sections = [Section("Conclusions", [overview, Figure(figure(claims, tables), image, caption), Text(_METHOD)])]
    for claim in claims:
        if rows := claim.rows(tables):
            sections.append(Section(claim.claim, _details(rows)))
    scales = {table.scale: find_scale(table.scale).about for table in tables}
    about = Grid(["scale", "network and photos"], [[name, text] for name, text in scales.items()], numeric=False)
    again = [Text("From the committed results, without a training:"), Code([f"{COMMAND} task=report ablation=all"])]
    return Document(_TITLE, _LEAD, [*sections, Section("Scales", [about]), Section("How to compute it again", again)])


def _details(rows: Sequence[tuple[JudgedTable, Row]]) -> list[Block]:
    head = ["level against baseline", "published", "shown by one run?", "scale", "verdict", "measured", "interval", "p"]
    return [
        Text(rows[0][0].ablation.question),
        Grid(head, [_detail(table, row) for table, row in rows], numeric=False),
    ]


def _detail(table: JudgedTable, row: Row) -> list[str | Tag]:
    published = row.published_difference
    cells: list[str | Tag] = [f"{row.level} against {row.baseline}"]
    cells += [points(published.difference, 2), published.unknown.answer] if published else ["–", "–"]
    return [*cells, table.scale, *difference_cells(row)]


def figure(claims: Sequence[Claim], tables: Sequence[JudgedTable]) -> Markup:
    """Draw the published differences of all claims, and ours with their intervals, on one axis."""
    bars = [
        bar_of(row, f"{table.ablation.name}: {row.level} ({table.scale})")
        for claim in claims
        for table, row in claim.rows(tables)
    ]
    return forest(bars, "difference from the baseline, points", 1, _FIGURE_WIDTH)
