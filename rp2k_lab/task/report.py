"""task=report: the verdict of one table or of all tables, a search, or a comparison of two runs, as documents."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rp2k_lab import COMMAND, PROJECT
from rp2k_lab.ablation import claims, compare_runs
from rp2k_lab.ablation.judged_table import JudgedTable
from rp2k_lab.ablation.report import FIGURE, PAGE, README, write_documents
from rp2k_lab.ablation.results import EXPERIMENTS, RESULTS, Results, read_results, write_results
from rp2k_lab.ablation.verdict import judge_table
from rp2k_lab.ablation.wording import grid, run_command, sentence, summary
from rp2k_lab.config.ablation import Ablation, names
from rp2k_lab.config.choices import choices, defaults_of
from rp2k_lab.config.migrations import parse_record
from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.files import write_text
from rp2k_lab.core.text import escape_controls
from rp2k_lab.pages.document import Code, Document, Item, Items, Section, grid_text, to_html, to_markdown
from rp2k_lab.pages.forest_plot import FILE_WIDTH
from rp2k_lab.pages.images import ImageEmbedder

log = logging.getLogger(__name__)

_LEAD = "Each table is a question, its levels and several seeds; a link leads to its results and its verdict."


def run(config: Config, folder: Path) -> None:
    """Write the documents and print a summary.

    Args:
        config: the whole configuration.
        folder: the run's folder, for two runs, a search, or a table at scale smoke.

    Raises:
        RequestError: no results, no such run or search, or two runs that were tested on different images.
        DataError: damaged results.
    """
    # Figures of smoke mean nothing: they stay out of the repository.
    tables = folder if config.scale.name == "smoke" else EXPERIMENTS
    if config.runs:
        report_pair(config, config.task.output or folder)
    elif config.ablation.name == "none":
        report_search(config.task.study, config.task.storage, config.task.output or folder)
    elif config.ablation.name == "all":
        report_all(config, config.task.output or tables)
    else:
        ablation, scale = config.ablation, config.scale.name
        report_one(config, config.task.output or (folder if tables == folder else tables / ablation.name / scale))


def report_one(config: Config, folder: Path) -> None:
    """Write the documents of one table and print its verdict."""
    ablation, scale = config.ablation, config.scale.name
    table = judge(config, ablation, folder)
    if table is None:
        raise RequestError(
            f"ablation={ablation.name} scale={scale}: no results, in a study or in {folder / RESULTS}\n"
            f"make them: {run_command(ablation, scale)}"
        )
    files = write_documents(table, folder)
    print(f"\n{ablation.question}\n\n{grid_text(grid(table))}\n")
    for item in (sentence(row) for row in table.rows if row.baseline):
        assert item.tag is not None
        print(f"{item.lead}: {item.tag.word}: {item.text}")
    print(f"\nverdict     {summary(table)}")
    print(f"documents   {', '.join(file.name for file in files)} in {folder}")
    more = "open report.html in a browser"
    if table.missing_cells:
        more = f"{run_command(ablation, scale, table.look.added)} runs the {table.missing_cells} that lack a result"
    print(f"next        {more}")


def report_all(config: Config, folder: Path) -> None:
    """Write the documents of the tables at the scale, an overview of all scales, and the page of published claims.

    Tables of the scale are collected from their studies, if there are any; those of others are read as committed.
    """
    shown = config.scale.name
    tables = {name: Ablation.model_validate(defaults_of("ablation", name)) for name in names()}
    scales = sorted(choices("scale"), key=lambda name: (name != "paper", name != shown, name))
    found = {scale: _judge_scale(config, tables, scale, folder) for scale in scales}
    every = [table for judged in found.values() for table in judged]
    if not every:
        raise RequestError(f"ablation=all: no table has results\nmake the first: {COMMAND} -m ablation=resize")
    for table in found[shown]:
        write_documents(table, folder / table.ablation.name / shown)
    sections = [
        Section(f"Scale {scale}", [Items([_overview_item(table) for table in judged])])
        for scale, judged in found.items()
        if judged
    ]
    known = {table.ablation.name for table in found[shown]}
    asked = {name: table for name, table in tables.items() if len(table.level_names(shown)) > 1}
    without = [Item(name, None, run_command(table, shown)) for name, table in asked.items() if name not in known]
    sections += [Section(f"Without results at scale {shown}", [Items(without)])] if without else []
    again = Section("How to compute it again", [Code([f"{COMMAND} task=report ablation=all scale={shown}"])])
    write_text(folder / README, to_markdown(Document("Experiments", _LEAD, [*sections, again])))
    for section in sections:
        print(f"\n{section.title}")
        for item in (item for block in section.blocks if isinstance(block, Items) for item in block.items):
            print(f"  {item.lead:14} {item.text}")
    print(f"\noverview    {folder / README}")
    if claims_page := write_claims(folder, every):
        print(f"claims      {claims_page}")
    first = (found[shown] or every)[0]
    print(f"next        open {folder / first.ablation.name / first.scale / PAGE}")


def _judge_scale(config: Config, tables: Mapping[str, Ablation], scale: str, folder: Path) -> list[JudgedTable]:
    """Judge the tables with results at a scale: from their studies at the scale of the request, else committed ones."""
    if scale == config.scale.name:
        judged = [judge(config, ablation, folder / name / scale) for name, ablation in tables.items()]
    else:
        judged = [judge_committed(ablation, scale, folder) for ablation in tables.values()]
    return [table for table in judged if table]


def write_claims(folder: Path, tables: Sequence[JudgedTable]) -> Path | None:
    """Write the page of published claims and its figure; return the page, or None if the folder has no claims.

    The committed experiments have their page in docs/, any other folder in itself.
    """
    listed = claims.read_claims(folder)
    if not listed:
        return None
    place, image = (PROJECT / "docs", f"images/{claims.FIGURE}") if folder == EXPERIMENTS else (folder, claims.FIGURE)
    write_text(place / image, str(claims.figure(listed, tables)))
    write_text(place / claims.PAGE, to_markdown(claims.document(listed, tables, image)))
    return place / claims.PAGE


def _overview_item(table: JudgedTable) -> Item:
    name, rest = table.ablation.name, ""
    if table.missing_cells:
        rest = f"; to run them: {run_command(table.ablation, table.scale, table.look.added)}"
    return Item(name, None, f"{table.ablation.question} {summary(table)}{rest}", f"{name}/{table.scale}/{README}")


def judge_committed(ablation: Ablation, scale: str, folder: Path) -> JudgedTable | None:
    """Judge the committed results in `folder`/<name>/<scale>; return None without results."""
    folder = folder / ablation.name / scale
    return judge_table(ablation, scale, read_results(folder)) if (folder / RESULTS).is_file() else None


def judge(config: Config, ablation: Ablation, folder: Path) -> JudgedTable | None:
    """Judge a table's results from its study, or else from `folder`; return None without results."""
    results = collect_results(config, ablation, folder)
    if results is None and (folder / RESULTS).is_file():
        log.info("%s: no study; reading %s", ablation.name, folder / RESULTS)
        results = read_results(folder)
    return results and judge_table(ablation, config.scale.name, results)


def collect_results(config: Config, ablation: Ablation, folder: Path) -> Results | None:
    """Write the study's results into `folder` and return them; None without a study."""
    from rp2k_lab.sweep.collect import collect

    task = config.task
    results = collect(ablation, config.scale.name, task.study, task.storage, config.tracking)
    if results is None:
        return None
    table, images = results
    rank = {level: i for i, level in enumerate(ablation.levels)}
    order = table["level"].map(rank).fillna(len(rank)).argsort(kind="stable")
    return write_results(folder, table.iloc[order], images)


def report_pair(config: Config, folder: Path) -> None:
    """Compare two runs: write README.md, report.html and the figure, and print the table."""
    with TemporaryDirectory(prefix="rp2k-lab-") as downloads:
        first, second = (compare_runs.load_run(config.tracking.uri, run, Path(downloads)) for run in config.runs)
    pair = compare_runs.compare(first, second)
    root = _root_of(first)
    document = compare_runs.pair_document(pair, FIGURE, ImageEmbedder(root) if root else None)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {README: to_markdown(document), PAGE: to_html(document), FIGURE: str(compare_runs.figure(pair, FILE_WIDTH))}
    for name, text in texts.items():
        write_text(folder / name, text)
    print(f"\nfirst       {escape_controls(first.name)}\nsecond      {escape_controls(second.name)}\n")
    print(f"{grid_text(compare_runs.grid(pair))}\n")
    for key, values in pair.differing.items():
        print(escape_controls(f"{key}: {values[0]} → {values[1]}"))
    print(f"\nresult      {escape_controls(compare_runs.summary(pair))}")
    print("            one run of each: the spread between seeds is not in it")
    print(f"documents   {', '.join(texts)} in {folder}")
    print("next        open report.html in a browser")


def _root_of(run: compare_runs.TestedRun) -> Path | None:
    """Return the folder of a run's images, or None: it is not here, or the record is of no use today."""
    try:
        return parse_record(run.settings).dataset.find_root()
    except (RequestError, DataError, KeyError, TypeError, AttributeError) as error:
        log.info("%s: no photos: %s", escape_controls(run.name), escape_controls(str(error).splitlines()[0]))
        return None


def report_search(study: str, storage: str | None, folder: Path) -> None:
    """Write README.md, report.html and the figures of a search, and print its winner."""
    from rp2k_lab.analysis.search_report import count_text, search_document, winner_text
    from rp2k_lab.sweep.search_results import read_search

    search = read_search(study, storage)
    if not search.points:
        raise RequestError(f"task.study={study}: no trial is complete\nrun the command of the search again")
    document, figures = search_document(search)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {README: to_markdown(document), PAGE: to_html(document)} | {name: str(svg) for name, svg in figures.items()}
    for name, text in texts.items():
        write_text(folder / name, text)
    print(f"\nsearch      {escape_controls(study)}, trials: {count_text(search)}")
    print(f"winner      {escape_controls(winner_text(search))}")
    print(f"documents   {', '.join(texts)} in {folder}")
    print("next        open report.html in a browser")
