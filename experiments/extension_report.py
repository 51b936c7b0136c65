"""README.md and figure.svg of the tables of `extension_tables.py`, from their committed cells."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from after_training import PROJECT  # also puts the project on sys.path
from markupsafe import Markup

from rp2k_lab.core.files import write_text
from rp2k_lab.enrollment.protocol import interval_over_splits
from rp2k_lab.pages.document import Code, Document, Figure, Grid, Item, Items, Quote, Section, Text, to_markdown
from rp2k_lab.pages.line_plot import Line, Panel, Point, line_plot

RESULTS = PROJECT / "experiments" / "extension"
FULL = "head retrained"
NOT_DRAWN = ("untouched head", "head tuned on the new photos")  # one learns nothing new, one forgets all old ones
TRAINED = ("linear", "cosine", "arcface", "subcenter_arcface")  # model.head=
SHIPPED = "centers, whitened"
DIFFERENCES = ("old_change", "difference")
# Hand-made features on GroZi-120 (nearest photo, K = 5), without intervals: the numbers to beat.
HAND_MADE = {"new_top1": 0.685, "old_after": 0.903}
QUESTIONS = {
    "shelf": "How many photos does a new product need? Embedded photos, a ResNet-18 of quarter width",
    "grozi": "How many photos does a new product need? GroZi-120, a ResNet-18 of quarter width",
    "grozi_frozen": "How many photos does a new product need? GroZi-120, ImageNet features of EfficientNet-Lite0",
    "grocery_iconic": "Is one catalog photo enough? Grocery Store, ImageNet features of EfficientNet-Lite0",
    "features": "Do heads with a margin give better features for new and unknown products?",
}
METHOD = (
    "Each class split trains on the old products alone; K photos of each new product are drawn from train (fewer where "
    "it has fewer) and enrolled; all test photos are asked, and all listed products compete. Values are percent with a "
    "95 % interval: Student's t of the means of the class splits. It contains the variance of the draws, which are "
    "nested in splits. ± is the sd between draws within a split: what another team's K photos would change."
)


def write_reports(table: str) -> None:
    """Write README.md, and for tables of heads figure.svg, to the folder of a table."""
    for name, text in documents(RESULTS / table).items():
        write_text(RESULTS / table / name, text)
    write_text(RESULTS / "README.md", overview())


def documents(folder: Path) -> dict[str, str]:
    """Return the texts of README.md and figure.svg of a folder, from its cells.csv and notes.md alone."""
    frame, texts = cells_of(folder), {}
    if folder.name == "features":
        sections = features_sections(frame)
    else:
        svg = figure(frame)
        texts["figure.svg"] = str(svg)
        sections = sections_of(frame, folder, svg)
    notes = folder / "notes.md"
    if notes.is_file():
        sections.append(Section("Notes", [Quote(notes.read_text("utf-8"))]))
    lead = f"{frame['split'].nunique()} class splits, up to {frame['draw'].nunique()} draws of the photos. {METHOD}"
    return texts | {"README.md": to_markdown(Document(QUESTIONS[folder.name], lead, sections))}


def overview() -> str:
    """Return the text of README.md of all tables."""
    tables = {name: RESULTS / name / "cells.csv" for name in QUESTIONS if (RESULTS / name / "cells.csv").is_file()}
    measures = {
        "new": "new_top1", "old before": "old_before", "old after": "old_after", "AUROC, unknown": "auroc",
        "old refused": "old_refused", "unknown accepted": "unknown_accepted", "unknown accepted, FPR95": "fpr95",
    }  # fmt: skip
    rows = []
    for name, file in tables.items():
        frame = cells_of(file.parent)
        if name != "features":
            rows.append((name, *(cell(at(frame, SHIPPED, "5"), measure) for measure in measures.values())))
    links = [Item(name, None, QUESTIONS[name], f"{name}/README.md") for name in tables]
    files = [
        Item("cells.csv", None, "an episode a row: head, photos of a new product, class split, draw, measures"),
        Item("stream.csv", None, "top-1 after each of ten weeks"),
        Item("choices.csv", None, "settings measured on the photos of val"),
        Item("README.md, figure.svg", None, "made from these and from notes.md by experiments/extension_tables.py"),
    ]
    lead = "New products are learned from a few photos by a network that never saw them; old ones must not suffer."
    five = Text(f"Head: {SHIPPED}, as task=extend task.old=centers. {METHOD}")
    sections = [
        Section("Five photos of each new product", [Grid(("table", *measures), rows), five]),
        Section("Tables", [Items(links)]),
        Section("Files", [Items(files)]),
    ]
    return to_markdown(Document("New products without retraining", lead, sections))


def cells_of(folder: Path) -> pd.DataFrame:
    """Return cells.csv with categories, which are compared faster than text."""
    kinds = {name: "category" for name in ("head", "photos", "extended_by")}
    return pd.read_csv(folder / "cells.csv", dtype=kinds)


def value(frame: pd.DataFrame, measure: str) -> tuple[float, float, float, float]:
    """Return (mean, low, high, sd between draws) of a measure."""
    return interval_over_splits(frame[measure].to_numpy(float), frame["split"].to_numpy())


def cell(frame: pd.DataFrame, measure: str, with_draws: bool = False) -> str:
    """Return a value as text: 68.5 [60.1, 76.9], with ± 2.1 for the draws; a share's interval ends at 0 and 100."""
    if frame.empty or frame[measure].isna().all():
        return "–"
    mean, low, high, sd = value(frame, measure)
    if np.isnan(low):
        return f"{number(mean)} (one split)"
    if measure not in DIFFERENCES:
        low, high = max(low, 0.0), min(high, 1.0)
    text = "{} [{}, {}]".format(*(number(each) for each in (mean, low, high)))
    return f"{text} ± {number(sd)}" if with_draws and frame["draw"].nunique() > 1 else text


def number(fraction: float) -> str:
    """Return a fraction in percent: −1.5."""
    return f"{round(100 * fraction, 1) + 0.0:.1f}".replace("-", "−")


def at(frame: pd.DataFrame, head: str, photos: str) -> pd.DataFrame:
    """Return the cells of a head and a number of photos."""
    return frame[(frame["head"] == head) & (frame["photos"] == photos)]


def grid(frame: pd.DataFrame, columns: Sequence[str], text: Callable[[str, str], str], head: str = "head") -> Grid:
    """Return a table of heads by columns."""
    names = frame["head"].drop_duplicates()
    return Grid((head, *columns), [(name, *(text(name, column) for column in columns)) for name in names])


def sections_of(frame: pd.DataFrame, folder: Path, svg: Markup) -> list[Section]:
    """Return the sections of a table of heads and numbers of photos."""
    counts = frame["photos"].drop_duplicates().tolist()
    learning = frame[frame["head"] != "untouched head"]
    at_five = {
        "old before": "old_before", "old after": "old_after", "change": "old_change", "stolen, %": "stolen_share",
        "harmonic mean": "harmonic",
    }  # fmt: skip
    unknown = {
        "AUROC": "auroc", "AUROC predicted on val": "auroc_predicted", "FPR95": "fpr95", "ECE": "ece",
        "old refused": "old_refused", "new refused": "new_refused", "unknown accepted": "unknown_accepted",
        "open-set accuracy": "open_set",
    }  # fmt: skip
    five = frame[frame["photos"] == "5"]
    by = lambda measures: lambda name, column: cell(five[five["head"] == name], measures[column])  # noqa: E731
    sections = [
        Section("New products, top-1 among all listed", [
            Figure(svg, "figure.svg", "Top-1 of new and of old products by the number of photos"),
            grid(learning, counts, lambda name, k: cell(at(frame, name, k), "new_top1", True), "head, photos"),
        ]),
        Section("Old products, five photos a new product", [
            grid(five, list(at_five), by(at_five)),
            Text("The change is paired over the same photos. Stolen: old photos answered by a new product."),
        ]),
        Section("Unknown products, five photos a new product", [
            grid(five, list(unknown), by(unknown)),
            Text(
                "Known are old and new products. The threshold asks 5 % of known photos to be refused; it comes from "
                "val. FPR95 is the share of unknown photos accepted where 5 % of the known test photos are "
                "refused. The prediction hides each val photo's own class."
            ),
        ]),
        Section("Photos needed", [grid(learning, [*counts, "within 2 points of retraining with all"], needed(frame))]),
    ]  # fmt: skip
    if folder.name.startswith("grozi"):
        sections.append(Section("Against hand-made features", [Text(against_hand_made(five))]))
    if (folder / "stream.csv").is_file():
        sections.append(weeks(pd.read_csv(folder / "stream.csv")))
    if (folder / "all_products.csv").is_file():
        sections.append(all_products(pd.read_csv(folder / "all_products.csv")))
    if (folder / "choices.csv").is_file():
        sections.append(choices(pd.read_csv(folder / "choices.csv")))
    again = Code([f"python experiments/extension_tables.py {folder.name} <folders of the photos>"])
    return [*sections, Section("How to compute it again", [again])]


def needed(frame: pd.DataFrame) -> Callable[[str, str], str]:
    """Return the texts of the table of harmonic means."""
    full = at(frame, FULL, "all")
    wanted = value(full, "harmonic")[0] - 0.02 if len(full) else np.nan

    def text(name: str, column: str) -> str:
        if column in set(frame["photos"]):
            return cell(at(frame, name, column), "harmonic")
        enough = [k for k in frame.loc[frame["head"] == name, "photos"].drop_duplicates() if k != "iconic"]
        enough = [k for k in enough if value(at(frame, name, k), "harmonic")[0] >= wanted]
        return enough[0] if enough else "never"

    return text


def against_hand_made(five: pd.DataFrame) -> str:
    """Return which heads beat the hand-made features, by the mean and by the whole interval."""
    parts = []
    for name in five["head"].drop_duplicates():
        rows = five[five["head"] == name]
        means, lows = ({key: value(rows, key)[i] for key in HAND_MADE} for i in (0, 1))
        if all(means[key] > HAND_MADE[key] for key in HAND_MADE):
            sure = all(lows[key] > HAND_MADE[key] for key in HAND_MADE)
            parts.append(f"{name}{' (whole intervals)' if sure else ' (means)'}")
    beaten = ", ".join(parts) or "no head"
    return (
        f"Hand-made features reach 68.5 % of new and 90.3 % of old photos with five photos (nearest photo, whitened, "
        f"no interval). Better on both: {beaten}."
    )


def weeks(stream: pd.DataFrame) -> Section:
    """Return the stream of ten weeks."""
    rows = []
    for name in stream["head"].drop_duplicates():
        for measure, title in (("old_top1", "old"), ("new_top1", "new so far"), ("first_week_top1", "first week's")):
            texts = [
                cell(stream[(stream["head"] == name) & (stream["week"] == week)], measure) for week in (0, 1, 2, 5, 10)
            ]
            rows.append((f"{name}: {title}", *texts))
    heading = ("top-1", "before", "week 1", "week 2", "week 5", "week 10")
    text = Text("The new products arrive in ten parts of two or three, with five photos each.")
    return Section("A stream of ten weeks", [text, Grid(heading, rows)])


def all_products(table: pd.DataFrame) -> Section:
    """Return the accuracies of heads that know every product."""
    rows = [
        (f"{each.head}, from {each.known_from}", each.asked, f"{100 * each.top1:.1f} of {each.photos:,}")
        for each in table.itertuples()
    ]
    return Section("Every product known", [Grid(("head, known from", "asked", "top-1"), rows)])


def choices(table: pd.DataFrame) -> Section:
    """Return the settings measured on val."""
    keys = ("new_top1", "old_after", "harmonic", "auroc", "ece")
    rows = [(each["setting"], *(f"{100 * each[key]:.1f}" for key in keys)) for _, each in table.iterrows()]
    text = Text("Means over class splits and draws, five photos a new product; photos of val are asked.")
    return Section("Settings on val", [text, Grid(("setting", "new", "old", "harmonic mean", "AUROC", "ECE"), rows)])


def features_sections(frame: pd.DataFrame) -> list[Section]:
    """Return the table of trained heads."""
    measures = {
        "trained head, old": "trained_top1", "new": "new_top1", "old after": "old_after", "AUROC": "auroc",
        "FPR95": "fpr95", "unknown accepted": "unknown_accepted",
    }  # fmt: skip
    sections, order = [], {head: place for place, head in enumerate(TRAINED)}
    places = frame["head"].astype(str).str.rsplit(", ", n=1).str[1].map(order)
    photos_of = frame["head"].astype(str).str.rsplit(", ", n=1).str[0]
    frame = frame.assign(place=places, photos_of=photos_of).sort_values(["photos_of", "place", "split", "draw"])
    for extended in frame["extended_by"].drop_duplicates():
        part = frame[frame["extended_by"] == extended]
        text = lambda name, column, part=part: cell(part[part["head"] == name], measures[column])  # noqa: E731
        cells = grid(part, list(measures), text, "photos, head")
        sections.append(Section(f"Extended by {extended}, five photos", [cells]))
        sections.append(Section(f"Difference from linear, {extended}", [differences(part)]))
    again = Code(["python experiments/extension_tables.py features <folder of GroZi-120>"])
    return [*sections, Section("How to compute it again", [again])]


def differences(part: pd.DataFrame) -> Grid:
    """Return the paired differences of each trained head from the linear one of the same set, over splits."""
    rows = []
    for name in part["head"].drop_duplicates():
        photos_of, head = name.rsplit(", ", 1)
        if head == "linear":
            continue
        keys = ["split", "draw"]
        linear = part[part["head"] == f"{photos_of}, linear"]
        both = part[part["head"] == name].merge(linear, on=keys, suffixes=("", "_0"))
        texts = []
        for measure in ("trained_top1", "new_top1", "old_after", "auroc", "fpr95"):
            texts.append(cell(both.assign(difference=both[measure] - both[f"{measure}_0"]), "difference"))
        rows.append((name, *texts))
    return Grid(("photos, head", "trained head, old", "new", "old after", "AUROC", "FPR95"), rows)


def figure(frame: pd.DataFrame) -> Markup:
    """Draw top-1 of new and old products over the number of photos."""
    counts = [k for k in frame["photos"].drop_duplicates() if k != "iconic"]
    panels = []
    for measure, title in (("new_top1", "new products, top-1 among all listed"), ("old_after", "old products, top-1")):
        lines = []
        for name in frame["head"].drop_duplicates():
            if name in NOT_DRAWN:
                continue
            points = [Point(i, *value(at(frame, name, k), measure)[:3]) for i, k in enumerate(counts)]
            lines.append(Line(name, points, name == FULL))
        panels.append(Panel(title, lines))
    return line_plot(panels, counts, "photos of each new product")
