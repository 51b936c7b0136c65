"""Documents of a judged table: README.md and report.html (same text), verdict.csv (all numbers), figure.svg."""

from pathlib import Path

from markupsafe import Markup

from rp2k_lab.ablation.judged_table import RP2K_TEST_IMAGES, JudgedTable, Row
from rp2k_lab.ablation.significance import Verdict
from rp2k_lab.ablation.wording import (
    confidence,
    decimals,
    grid,
    half_widths,
    heading,
    margin_text,
    numbers,
    report_command,
    run_command,
    sentence,
    value_text,
)
from rp2k_lab.config.ablation import find_scale
from rp2k_lab.core.csv_files import UnreadableText, decode
from rp2k_lab.core.errors import DataError
from rp2k_lab.core.files import write_text
from rp2k_lab.core.text import counted, escape_controls
from rp2k_lab.dataset.class_groups import HEAD_FRACTION, TAIL_FRACTION
from rp2k_lab.pages.document import (
    Block,
    Code,
    Document,
    Figure,
    Grid,
    Item,
    Items,
    Quote,
    Section,
    Tag,
    Text,
    interval,
    points,
    to_html,
    to_markdown,
)
from rp2k_lab.pages.forest_plot import FILE_WIDTH, Bar, forest

README, PAGE, CSV, FIGURE, NOTES = "README.md", "report.html", "verdict.csv", "figure.svg", "notes.md"
_METHOD = (
    "Each difference is paired by seed and by test image. Its interval includes the spread between seeds, which the "
    "levels of the table estimate together, and between images; {} {} of the time. "
    "Better, worse: the adjusted p is at most {:.2g} %. Equal: the interval lies within {}. Inconclusive: neither. {} "
    "Computation: rp2k_lab/ablation/significance.py."
)
_EXPLAINED = (
    "Accuracies are means over seeds on test; sd (their spread over seeds) and differences are in points; p is "
    "adjusted for all comparisons. ▲ better, ▼ worse, = equal, ○ inconclusive."
)
_GROUPS = (
    "Means over seeds; choices were made on val. Head, medium and tail: about the {:.0%} of the classes with the most "
    "training photos, the rest, and the {:.0%} with the fewest; a data set may have its own limits."
)

_PARTS = (
    "Differences in top-1 points from each level's baseline, on a part of the test photos; a photo may be in several. "
    "The intervals are simultaneous within a part, not over the parts, which are looked at without a plan."
)


def write_documents(table: JudgedTable, folder: Path) -> list[Path]:
    """Write README.md, report.html, verdict.csv and figure.svg to an existing folder and return their paths.

    The documents quote the folder's notes.md.  Equal tables and notes give equal bytes.

    Raises:
        DataError: the notes are no text.
    """
    notes = folder / NOTES
    page = document(table, _read(notes) if notes.is_file() else "")
    texts = {
        README: to_markdown(page),
        PAGE: to_html(page),
        CSV: numbers(table),
        FIGURE: str(figure(table, FILE_WIDTH)),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _read(notes: Path) -> str:
    try:
        return decode(notes.read_bytes(), notes)
    except UnreadableText as error:
        raise DataError(f"{escape_controls(notes)}{error}") from None


def figure(table: JudgedTable, width: int | None = None) -> Markup:
    """Draw the differences with their intervals, and the published differences; `width` as in `forest`."""
    bars = [bar_of(row, row.level) for row in table.rows if row.baseline]
    images = max(row.images for row in table.rows)
    baselines = {row.baseline for row in table.rows if row.baseline}
    baseline = baselines.pop() if len(baselines) == 1 else "its baseline"
    label = f"{heading(table.ablation.metric)}: difference from {baseline}, points"
    return forest(bars, label, decimals(images), width)


def bar_of(row: Row, name: str) -> Bar:
    """Return a level's difference from its baseline for a figure."""
    published, verdict = row.published_difference.difference if row.published_difference else None, row.verdict
    if verdict is None:
        return Bar(name, None, 0, 0, "none", published, "not compared")
    return Bar(name, verdict.value, verdict.low, verdict.high, row.word or "none", published)


def document(table: JudgedTable, notes: str) -> Document:
    """Return the common text of README.md and report.html.

    Args:
        notes: Markdown to quote, or "".
    """
    ablation = table.ablation
    images = max(row.images for row in table.rows)
    lead = (
        f"{ablation.name} at scale {table.scale}: {len(table.rows)} levels, {_seeds(table)}, "
        f"{images:,} test images; {heading(ablation.metric)}. Published: {ablation.source}."
    )
    caption = f"Measured differences with {confidence(table)} intervals, and published differences"
    verdict: list[Block] = [grid(table), Text(_EXPLAINED), *_unjudged(table), Figure(figure(table), FIGURE, caption)]
    if table.scale == "smoke":
        verdict.insert(0, Text("Scale smoke only shows that everything works. Its figures mean nothing."))
    sections = [
        Section("Verdict", verdict),
        *_to_decide(table),
        Section("By class size", [_by_group(table), Text(_GROUPS.format(HEAD_FRACTION, TAIL_FRACTION))]),
        *_by_part(table),
        *_published(table),
        *_missing(table),
        Section("What was run", _runs(table)),
        Section("How to compute it again", _reproduction(table)),
    ]
    if notes.strip():
        sections.append(Section("Notes", [Quote(notes)]))
    return Document(ablation.question, lead, sections)


def _unjudged(table: JudgedTable) -> list[Block]:
    """Return why levels have no verdict, or nothing."""
    items = [sentence(row) for row in table.rows if row.baseline and not row.word]
    return [Items(items)] if items else []


def _seeds(table: JudgedTable) -> str:
    """Return the numbers of seeds of the levels: `5 seeds`, or `5 or 8 seeds`."""
    numbers = sorted({len(row.wanted) for row in table.rows})
    return f"{' or '.join(map(str, numbers))} seed{'s' * (numbers[-1] > 1)}"


def _named_seeds(table: JudgedTable) -> str:
    """Return the seeds of the levels as a sentence."""
    by_seeds = {}
    for row in table.rows:
        by_seeds.setdefault(row.wanted, []).append(row.level)
    texts = [f"{', '.join(map(str, seeds))} of {'; '.join(levels)}" for seeds, levels in by_seeds.items()]
    return f"Seeds {', '.join(map(str, table.rows[0].wanted)) if len(texts) == 1 else ' — '.join(texts)}."


def _to_decide(table: JudgedTable) -> list[Section]:
    """Return what was asked and decided, and what would decide the rest."""
    compared = [row for row in table.rows if row.baseline]
    decided = sum(row.word in ("better", "worse", "equal") for row in compared)
    asked = (
        f"Asked: {counted(len(compared), 'comparison')}; a difference within {margin_text(table.ablation)} is of no "
        f"interest. Decided: {decided}."
    )
    blocks: list[Block] = [Text(asked), Text(_look_text(table))]
    if found := half_widths(table):
        lead, widths = found
        blocks += [Text(lead), widths]
    return [Section("What is decided, and what would decide the rest", blocks)]


def _look_text(table: JudgedTable) -> str:
    """Return which look this is, and the next one if it is planned and needed."""
    look, ablation = table.look, table.ablation
    if not look.is_planned:
        return (
            f"This look was not planned: seeds {', '.join(map(str, look.added))} were added after the first results, "
            "or are not those of the table's file. More than 5 % of such tables err."
        )
    text = f"This is look {look.number} of {look.of} that the table plans."
    if look.number < look.of and any(row.word == "inconclusive" for row in table.rows):
        seeds = sorted({*look.added, *ablation.rounds[look.number - 1]})
        text += f" The next: {run_command(ablation, table.scale, seeds)}"
    return text


def _by_group(table: JudgedTable) -> Grid:
    rows = [[row.level, *(value_text(name, mean) for name, mean in row.means.items())] for row in table.rows]
    counts = {name: f" of {images:,}" for name, images in table.images_of.items()}
    return Grid(["level", *(heading(name) + counts.get(name, "") for name in table.rows[0].means)], rows)


def _by_part(table: JudgedTable) -> list[Section]:
    """Return the comparisons on each part of the test images that the data set knows, or nothing."""
    if not table.parts:
        return []
    levels = list(table.parts[0].verdicts)
    rows = [
        [part.name, f"{part.images:,}", *(_value_and_interval(part.verdicts[name]) for name in levels)]
        for part in table.parts
    ]
    return [Section("By what is known of the photos", [Grid(["part of test", "photos", *levels], rows), Text(_PARTS)])]


def _value_and_interval(verdict: Verdict) -> str | Tag:
    text = f"{points(verdict.value)} {interval(verdict.low, verdict.high, 1, verdict.word)}"
    return Tag(text, verdict.word) if verdict.word in ("better", "worse", "equal") else text


def _published(table: JudgedTable) -> list[Section]:
    rows = [(row, row.published_difference) for row in table.rows if row.published_difference]
    if not rows:
        return []
    items = []
    for row, published in rows:
        texts = [str(published.unknown)]
        if published.accuracy is None:
            texts[0] += " (no accuracy was published; assumed 50 %, where noise is largest)"
        if published.as_measured:
            texts.append(f"with the disagreement measured here, {published.as_measured}")
        items.append(Item(f"{row.level}, {points(published.difference, 2)}", None, "; ".join(texts)))
    intro = (
        f"Each published figure comes from one run on {RP2K_TEST_IMAGES:,} test images. Whether such a difference "
        "exceeds noise depends on how many images the two runs disagree on, which was not published. The disagreement "
        "and the seed spread measured here come from other networks and photos."
    )
    return [Section("Could the published single runs have shown it?", [Text(intro), Items(items)])]


def _missing(table: JudgedTable) -> list[Section]:
    """Return the section on failed, running and missing cells, or nothing if the table is complete."""
    items = []
    for row in table.rows:
        for seed, reason in row.failed.items():
            items.append(Item(f"{row.level}, seed {seed}", Tag("failed", "failed"), reason or "no reason was recorded"))
        for seeds, word in ((row.running, "still running"), (row.missing, "not run")):
            if seeds:
                named = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
                items.append(Item(row.level, Tag(word, "none"), named))
    return [Section("What is missing", [Items(items)])] if items else []


def _runs(table: JudgedTable) -> list[Block]:
    ablation, scale, found = table.ablation, table.scale, find_scale(table.scale)
    levels = {name: ablation.level_overrides(name, scale) for name in ablation.level_names(scale)}
    started = {name: "; ".join(sources) for name in levels if (sources := ablation.source_levels(name, scale))}
    commits = ", ".join(f"{commit} ({counted(cells, 'run')})" for commit, cells in table.commits.items()) or "none"
    natives = ", ".join(f"{tag} ({counted(cells, 'run')})" for tag, cells in table.natives.items())
    facts = [
        Item("compute", None, f"{table.hours:.2f} hours in total"),
        Item("commits", None, commits),
        Item("machines", None, ", ".join(table.hosts) or "unknown"),
        *([Item("native kernels", None, natives)] if natives else []),
        *(
            Item("from another table", None, f"{origin} ({counted(cells, 'run')})")
            for origin, cells in table.origins.items()
        ),
    ]
    facts += [Item(row.level, Tag("note", "none"), note) for row in table.rows for note in row.notes]
    if table.ignored:
        facts.append(Item("left out", None, f"{', '.join(table.ignored)}: in results.csv, but not at this scale"))
    return [
        Text("Settings of all levels, unless a level overrides them:"),
        Code([" ".join([*ablation.common(found), *(f"{key}=${{seed}}" for key in found.by_seed)])]),
        *([Text("A level that starts from other runs keeps their training settings.")] if started else []),
        Grid(
            ["level", "overrides"] + ["starts from"] * bool(started),
            [[name, " ".join(own) or "–"] + [started.get(name, "–")] * bool(started) for name, own in levels.items()],
            numeric=False,
        ),
        Text(f"{_named_seeds(table)} results.csv has the command of every run. To run the table:"),
        Code([run_command(ablation, scale, table.look.added)]),
        Items(facts),
    ]


def _dependence(table: JudgedTable) -> str:
    """Return what the method takes for independent, as a sentence."""
    clustered = [row for row in table.rows if row.verdict and row.verdict.units < row.verdict.images]
    if not clustered:
        return "Images are assumed to be independent."
    fewest = min(clustered, key=lambda row: row.effective_images)
    assert fewest.verdict is not None
    return (
        f"The {fewest.verdict.images:,} test images are in {fewest.verdict.units:,} groups, which are assumed to be "
        f"independent of each other: for {fewest.level}, the images count as {fewest.effective_images:,.0f} "
        "independent ones."
    )


def _reproduction(table: JudgedTable) -> list[Block]:
    one = table.comparisons == 1
    method = _METHOD.format(
        "it covers the difference" if one else f"all {table.comparisons} intervals cover jointly",
        confidence(table),
        100 * table.look.alpha,
        margin_text(table.ablation),
        _dependence(table),
    )
    text = "From results.csv and images.csv (the correctness of every test image), without a run or a tracking store:"
    return [
        Text(text),
        Code([report_command(table.ablation, table.scale)]),
        Text(method),
    ]
