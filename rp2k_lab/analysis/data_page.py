"""The data page: one HTML file about a data set, its problems and its augmentation."""

import os
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.config.choices import flatten
from rp2k_lab.config.schema import Config
from rp2k_lab.core.progress import activity, progress
from rp2k_lab.core.text import escape_controls, in_bytes
from rp2k_lab.dataset.class_groups import class_groups
from rp2k_lab.dataset.image import pad_to_center
from rp2k_lab.dataset.photo_index import Index, Listing
from rp2k_lab.dataset.shelf.distributions import RATIO_COUNTS
from rp2k_lab.dataset.summary import RELATIONS, SPLITS, missing_classes, ratio_counts
from rp2k_lab.pages import charts
from rp2k_lab.pages.images import EmbeddedImage, ImageEmbedder
from rp2k_lab.pages.template import render, script_values
from rp2k_lab.train.build import build_images, training_views

_LISTED, _PAIRS = 60, 12  # names or files in a list; pairs of each relation
_WALL, _WALL_IMAGES = 24, 8000  # most images of a class, and of all: about 10 s on two cores
_SHEET_IMAGES, _SHEET_EPOCHS = 8, 5
_RELATIONS = {  # title, meaning, action
    "within a class": (
        "Within a class",
        "A duplicate photo counts twice in the loss, and the class looks better covered than it is.",
        "Keep one of each; this changes little, but makes the counts correct.",
    ),
    "across classes": (
        "Across classes: label conflicts",
        "The same photo has two labels: one label is wrong, or the classes overlap; no network can get both right.",
        "Look at each pair; correct the label, or remove both.",
    ),
    "train and test": (
        "Across train and test: leakage",
        "The network has memorized these test photos, which makes test accuracy too high.",
        "Remove the copies from train (not from test, which others compare with), or report test without them.",
    ),
    "train and val": (
        "Across train and val",
        "Choices made on val favor memorizing; a random val split separates a photo from its copy.",
        "Remove the copies from train, so that each group of copies is on one side.",
    ),
    "val and test": (
        "Across val and test",
        "Models are chosen on photos that also measure them.",
        "Remove the copies from val.",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Inspection:
    """Results of an inspection.

    Attributes:
        listing: all images with their problems, and all other files.
        classes: from `summary.class_table`.
        copies: from `near_duplicates.find_copies`, with path, class and split.
        relations: from `summary.copies_by_relation`.
    """

    listing: Listing
    classes: pd.DataFrame
    copies: pd.DataFrame
    relations: pd.DataFrame

    @cached_property
    def counts(self) -> dict[str, int]:
        """Metrics of the run, by name."""
        images = self.listing.table
        sums = self.relations.groupby("relation")[["photos", "exact"]].sum().reindex(RELATIONS, fill_value=0)
        counts = {"photos": len(images), "classes": len(self.classes), "copies/groups": self.copies["group"].nunique()}
        counts |= {"unreadable": int(images["problem"].notna().sum()), "not_photos": len(self.listing.other_files)}
        counts |= {"unused_photos": len(self.listing.unused_images)}
        for relation, (number, exact) in sums.iterrows():
            name = "copies/" + relation.replace(" ", "_")
            counts |= {name: int(number), f"{name}_exact": int(exact)}
        return counts | {f"missing_from_{split}": int((self.classes[split] == 0).sum()) for split in SPLITS}


@activity("drawing the page")
def inspection_page(config: Config, index: Index, inspection: Inspection) -> str:
    """Return the page as HTML, below 20 MB.

    Args:
        config: data set, network input and augmentation.
        index: the readable images.
    """
    embedder = ImageEmbedder(index.root)
    sheet = _sheet(config, index, embedder)  # first, so that the budget never leaves it out
    values = {
        "name": config.dataset.title,
        "folder": index.root.name,
        "fingerprint": index.fingerprint,
        "date": f"{datetime.now():%Y-%m-%d %H:%M}",
        "sheet": sheet,
        "copies": _copies(inspection, embedder),
        "class_count": len(inspection.classes),
        **_classes(inspection.classes, index.long_tail_limits),
        **_shapes(config, index.table),
        **_missing(inspection),
        **_files(inspection),
    }
    values["cards"] = _cards(inspection)
    values["charts"] |= {"rank": charts.rank_chart(*_in_train(inspection.classes))}
    values["left_out"] = embedder.left_out
    num_threads = config.device.num_threads or os.cpu_count() or 1
    data = {"splits": SPLITS, "classes": _class_rows(index, inspection.classes, embedder, num_threads)}
    values |= script_values(data, Path(__file__).with_name("data_page.js"))
    return render(values, Path(__file__).with_name("data_page.html.jinja"))


def _class_rows(index: Index, classes: pd.DataFrame, embedder: ImageEmbedder, num_threads: int) -> list[list]:
    """Return a row per class for data_page.js: name, group, images by split, and its wall as [path, WebP] pairs.

    The walls take what the page has left: one training image of each class, then a second, up to `_WALL`.
    """
    train = index.split("train").sample(frac=1, random_state=0)
    train = train.assign(turn=train.groupby("class").cumcount())
    train = train[train["turn"] < _WALL].sort_values("turn", kind="stable")[:_WALL_IMAGES]
    rank = {name: i for i, name in enumerate(classes["class"])}
    rounds = []
    for _, rows in train.groupby("turn"):
        rounds.append(rows.assign(rank=rows["class"].map(rank)).sort_values("rank", kind="stable")["path"].tolist())
    class_of = dict(zip(train["path"], train["class"], strict=True))
    walls: dict[str, list[list[str]]] = {name: [] for name in rank}
    shown = progress(rounds, len(train), "drawing the page, photos", len)
    for images in embedder.rounds(shown, num_threads):
        for path, text in images.items():
            walls[class_of[path]].append([escape_controls(path), text])
    return [
        [escape_controls(name), group, list(counts), walls[name]]
        for name, group, *counts in classes[["class", "group", *SPLITS]].itertuples(index=False)
    ]


def _percent(fraction: float) -> str:
    """Return 0 or at least 9.5 % without decimals, less with one."""
    return f"{100 * fraction:.0f} %" if fraction >= 0.095 or fraction == 0 else f"{100 * fraction:.1f} %"


def _cards(inspection: Inspection) -> list[dict]:
    counts, splits = inspection.counts, _splits(inspection)
    missing = int((inspection.classes[splits] == 0).any(axis=1).sum())
    cards = [
        (counts["photos"], "photos", "classes", ""),
        (counts["classes"], "classes", "classes", ""),
        (counts["unreadable"], "unreadable files", "unreadable", "bad"),
        (counts["copies/train_and_test"], "test photos with a copy in train", "train-and-test", "bad"),
        (counts["copies/train_and_val"], "val photos with a copy in train", "train-and-val", "warn"),
        (counts["copies/across_classes"], "copies under another label", "across-classes", "bad"),
        (counts["copies/within_a_class"], "redundant copies within a class", "within-a-class", "warn"),
        (missing, "classes missing from " + ", ".join(splits), "missing", "warn"),
    ]
    return [
        {"value": f"{n:,}", "title": title, "section": section, "level": level and (level if n else "good")}
        for n, title, section, level in cards
    ]


def _splits(inspection: Inspection) -> list[str]:
    """Return the splits with images."""
    present = set(inspection.listing.table["split"])
    return [split for split in SPLITS if split in present]


def _in_train(classes: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    rows = classes[classes["train"] > 0]
    return rows["train"].to_numpy(), list(rows["group"])


def _classes(classes: pd.DataFrame, limits: tuple[int, int] | None) -> dict:
    counts, _ = _in_train(classes)
    top = max(1, round(0.1 * len(counts)))
    imbalance = {
        "largest": int(counts.max(initial=0)),
        "median": int(np.median(counts)) if len(counts) else 0,
        "smallest": int(counts.min(initial=counts.max(initial=0))),
        "top_tenth": _percent(counts[:top].sum() / max(1, counts.sum())),
        "top_tenth_number": counts[:top].sum() / max(1, counts.sum()),
    }
    return {"imbalance": imbalance, "cuts": class_groups(counts, limits)[1]}


def _shapes(config: Config, images: pd.DataFrame) -> dict:
    """Return aspect ratios, sizes and their charts."""
    width, height, size = (images[name].to_numpy(float) for name in ("width", "height", "bytes"))
    ratio = height / width
    counts, square = ratio_counts(images), (ratio >= 2 / 3) & (ratio <= 1.5)
    compared, drawn = config.dataset.compared_with_rp2k, {"ratio": "", "sizes": "", "bytes": ""}
    if len(images):
        drawn = {"sizes": charts.size_chart(width, height), "bytes": charts.bytes_chart(size)}
        drawn["ratio"] = charts.ratio_chart(counts, RATIO_COUNTS) if compared else charts.shape_chart(ratio)
    levels = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    quantiles = lambda values: np.quantile(values, levels) if len(values) else np.zeros(len(levels))  # noqa: E731
    rows = [
        {"name": "width, pixels", "values": [f"{v:,.0f}" for v in quantiles(width)]},
        {"name": "height, pixels", "values": [f"{v:,.0f}" for v in quantiles(height)]},
        {"name": "height / width", "values": [f"{v:.2f}" for v in quantiles(ratio)]},
        {"name": "file", "values": [in_bytes(v) for v in quantiles(size)]},
    ]
    smaller = (height < config.size[0]) & (width < config.size[1])
    fraction = lambda mask: _percent(mask.mean() if len(mask) else 0)  # noqa: E731
    return {
        "charts": drawn,
        "shapes": {
            "tall": fraction(ratio >= 2),
            "square": fraction(square),
            "nearly_square": len(square) > 0 and square.mean() > 0.95,
            "rows": _ratio_rows(counts),
            "published": compared,
        },
        "sizes": {
            "width": rows[0]["values"][3],
            "height": rows[1]["values"][3],
            "smaller": fraction(smaller),
            "input": "{} × {}".format(*reversed(config.size)),
            "quantiles": ["smallest", "5 %", "25 %", "median", "75 %", "95 %", "largest"],
            "rows": rows,
        },
    }


def _ratio_rows(counts: np.ndarray) -> list[dict]:
    """Return the histogram beside the published one, which lacks the last bin (5 and more)."""
    fractions, published = counts / max(1, counts.sum()), RATIO_COUNTS / RATIO_COUNTS.sum()
    bins = [f"{i / 2:.1f} to {(i + 1) / 2:.1f}" for i in range(len(published))] + ["5 and more"]
    return [
        {
            "bin": name,
            "images": count,
            "fraction": f"{100 * fraction:.1f} %",
            "published": published_count,
            "published_fraction": f"{100 * published_fraction:.1f} %",
        }
        for name, count, fraction, published_count, published_fraction in zip(
            bins, counts.tolist(), fractions, [*RATIO_COUNTS.tolist(), 0], [*published, 0.0], strict=True
        )
    ]


def _spread(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return `count` evenly spaced rows, or all."""
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))]


def _spread_over_classes(train: pd.DataFrame, classes: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return `count` images of as many classes as possible, largest class first; deterministic."""
    rank = train["class"].map({name: i for i, name in enumerate(classes["class"])})
    shuffled = train.assign(rank=rank).sample(frac=1, random_state=0)
    turn = shuffled.groupby("class").cumcount()
    ordered = shuffled.assign(turn=turn).sort_values(["turn", "rank"], kind="stable")
    of_each = max(1, -(-count // max(1, ordered["rank"].nunique())))
    return _spread(ordered[ordered["turn"] < of_each].sort_values(["rank", "turn"], kind="stable"), count)


def _copies(inspection: Inspection, embedder: ImageEmbedder) -> dict:
    relations, copies, kinds = inspection.relations, inspection.copies, []
    shown = [r for r in RELATIONS if r != "val and test" or (relations["relation"] == r).any()]
    for relation in progress(shown, len(shown), "drawing the page, sections"):
        title, meaning, action = _RELATIONS[relation]
        rows = relations[relations["relation"] == relation]
        first = _spread(rows.sort_values("exact", kind="stable"), _PAIRS)
        number, exact = int(rows["photos"].sum()), int(rows["exact"].sum())
        kinds.append(
            {
                "id": relation.replace(" ", "-"),
                "title": title,
                "meaning": meaning,
                "action": action,
                "images": number,
                "exact": exact,
                "near": number - exact,
                "more": len(rows) - len(first),
                "pairs": [_pair(copies.loc[row.first], copies.loc[row.second], embedder) for row in first.itertuples()],
            }
        )
    return {"images": len(copies), "groups": copies["group"].nunique(), "kinds": kinds}


def _pair(a: pd.Series, b: pd.Series, embedder: ImageEmbedder) -> dict:
    sides = [{"image": embedder.thumbnail(p["path"]), "split": p["split"], "name": p["class"]} for p in (a, b)]
    return {"kind": "same bytes" if a["content"] == b["content"] else "near", "sides": sides}


def _missing(inspection: Inspection) -> dict:
    splits = _splits(inspection)
    lists = missing_classes(inspection.classes, splits)
    missing = [
        {"name": split, "count": len(names), "names": names[:_LISTED], "more": len(names[_LISTED:])}
        for split, names in lists.items()
    ]
    return {"missing": missing, "absent": " and no ".join(split for split in SPLITS if split not in splits)}


def _files(inspection: Inspection) -> dict:
    images, other_files = inspection.listing.table, [*inspection.listing.unused_images, *inspection.listing.other_files]
    bad = images[images["problem"].notna()]
    rows = bad.head(_LISTED).to_dict("records")
    return {
        "unreadable": {"count": len(bad), "rows": rows, "more": len(bad) - len(rows)},
        "not_photos": {"count": len(other_files), "rows": other_files[:_LISTED], "more": len(other_files[_LISTED:])},
    }


def _sheet(config: Config, index: Index, embedder: ImageEmbedder) -> dict:
    """Return images as evaluation sees them and as they enter the first epochs of training."""
    train = index.split("train")
    by_size = train["class"].value_counts(sort=True).rename_axis("class").reset_index()
    rows = _spread_over_classes(train, by_size, _SHEET_IMAGES).reset_index(drop=True)
    parts = {key.removesuffix(".name"): value for key, value in flatten(config.aug.model_dump(exclude={"name"}))}
    keys = ", ".join(f"{key}={value}" for key, value in parts.items() if value != "none")
    sheet = {"title": f"aug={config.aug.label} ({keys})", "resize": config.resize, "epochs": _SHEET_EPOCHS}
    sheet |= {"input": "{} × {}".format(*reversed(config.size)), "rows": []}
    if not len(rows):
        return sheet
    resized = build_images(config, index)
    columns = [[pad_to_center(resized(row), resized.size, config.size) for row in rows["row"]]]
    columns += [images for images, _ in training_views(config, index, resized, rows, _SHEET_EPOCHS)]
    sheet["rows"] = [
        [_cell(embedder, image, path, column) for column, image in enumerate(images)]
        for path, images in zip(rows["path"], zip(*columns, strict=True), strict=True)
    ]
    return sheet


def _cell(embedder: ImageEmbedder, image: np.ndarray, path: str, column: int) -> EmbeddedImage:
    title = f"{path}, epoch {column}" if column else path
    return embedder.embed(image, title, ".png" if max(image.shape) <= 64 else ".jpg")
