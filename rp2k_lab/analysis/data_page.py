"""From what was found in a data set to the values of its page."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from rp2k_lab.config.schema import Config
from rp2k_lab.core.text import in_bytes
from rp2k_lab.dataset.class_groups import class_groups
from rp2k_lab.dataset.image import pad_to_center
from rp2k_lab.dataset.photo_index import Index, Listing
from rp2k_lab.dataset.shelf.distributions import RATIO_COUNTS
from rp2k_lab.dataset.summary import RELATIONS, SPLITS, missing_classes, ratio_counts
from rp2k_lab.pages import charts
from rp2k_lab.pages.images import Pictures, Shot, render
from rp2k_lab.train.build import build_photos, training_views

_CLASS_ROWS, _LISTED, _WALL, _PAIRS = 7, 60, 50, 12  # of each end, names or files, photos, pairs of each relation
_SHEET_PHOTOS, _SHEET_EPOCHS = 8, 5
_RELATIONS = {  # title, what it means, what to do
    "within a class": (
        "Within a class",
        "A photo that is there twice counts twice in the loss, and the class looks better covered than it is.",
        "Keep one of each; it changes little, but the counts become honest.",
    ),
    "across classes": (
        "Across classes: label conflicts",
        "The same picture under two names: one label is wrong, or the classes overlap; no network can get both right.",
        "Look at each pair and correct the label, or take both out.",
    ),
    "train and test": (
        "Across train and test: leakage",
        "These test photos were learned by heart, so that test accuracy is too high.",
        "Take the copies out of train (not out of test, which others compare with), or report test without them.",
    ),
    "train and val": (
        "Across train and val",
        "Choices made on val lean towards memorizing; a val held out of train at random parts a photo from its copy.",
        "Take the copies out of train, so that each group of copies is on one side.",
    ),
    "val and test": (
        "Across val and test",
        "Models are chosen on photos that they are later measured on.",
        "Take the copies out of val.",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        listing: every photo with its problem, and the files that are none.
        classes: `inspection.class_table`.
        copies: `duplicates.find_copies` with path, class and split.
        relations: `inspection.copies_by_relation`.
    """

    listing: Listing
    classes: pd.DataFrame
    copies: pd.DataFrame
    relations: pd.DataFrame

    @cached_property
    def counts(self) -> dict[str, int]:
        """The run's metrics."""
        photos = self.listing.table
        sums = self.relations.groupby("relation")[["photos", "exact"]].sum().reindex(RELATIONS, fill_value=0)
        counts = {"photos": len(photos), "classes": len(self.classes), "copies/groups": self.copies["group"].nunique()}
        counts |= {"unreadable": int(photos["problem"].notna().sum()), "not_photos": len(self.listing.not_photos)}
        for relation, (number, exact) in sums.iterrows():
            name = "copies/" + relation.replace(" ", "_")
            counts |= {name: int(number), f"{name}_exact": int(exact)}
        return counts | {f"missing_from_{split}": int((self.classes[split] == 0).sum()) for split in SPLITS}


def inspection_page(config: Config, index: Index, inspection: Inspection) -> str:
    """The page as HTML, under 20 MB.

    Args:
        config: data set, network input and augmentation.
        index: the readable photos.
    """
    pictures = Pictures(index.root)
    sheet = _sheet(config, index, pictures)  # first: it must not be what the budget leaves out
    values = {
        "name": config.dataset.name,
        "folder": index.root.name,
        "fingerprint": index.fingerprint,
        "date": f"{datetime.now():%Y-%m-%d %H:%M}",
        "sheet": sheet,
        "copies": _copies(inspection, pictures),
        "wall": _wall(index, inspection.classes, pictures),
        "class_count": len(inspection.classes),
        **_classes(inspection.classes),
        **_shapes(config, index.table),
        **_missing(inspection),
        **_files(inspection),
    }
    values["cards"] = _cards(inspection)
    values["charts"] |= {"rank": charts.rank_chart(*_in_train(inspection.classes))}
    values["left_out"] = pictures.left_out
    return render(values, Path(__file__).with_name("data_page.html.jinja"))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 or share == 0 else f"{100 * share:.1f} %"


def _cards(inspection: Inspection) -> list[dict]:
    counts, has = inspection.counts, set(inspection.listing.table["split"])
    there = [split for split in SPLITS if split in has]
    missing = int((inspection.classes[there] == 0).any(axis=1).sum())
    cards = [
        (counts["photos"], "photos", "classes", ""),
        (counts["classes"], "classes", "classes", ""),
        (counts["unreadable"], "unreadable files", "unreadable", "bad"),
        (counts["copies/train_and_test"], "test photos with a copy in train", "train-and-test", "bad"),
        (counts["copies/train_and_val"], "val photos with a copy in train", "train-and-val", "warn"),
        (counts["copies/across_classes"], "copies under another label", "across-classes", "bad"),
        (counts["copies/within_a_class"], "superfluous copies within a class", "within-a-class", "warn"),
        (missing, "classes missing from " + ", ".join(there), "missing", "warn"),
    ]
    return [
        {"value": f"{n:,}", "words": words, "section": section, "level": level and (level if n else "good")}
        for n, words, section, level in cards
    ]


def _in_train(classes: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    rows = classes[classes["train"] > 0]
    return rows["train"].to_numpy(), list(rows["group"])


def _classes(classes: pd.DataFrame) -> dict:
    counts, _ = _in_train(classes)
    top = max(1, round(0.1 * len(counts)))
    imbalance = {
        "largest": int(counts.max(initial=0)),
        "median": int(np.median(counts)) if len(counts) else 0,
        "smallest": int(counts.min(initial=counts.max(initial=0))),
        "top_tenth": _percent(counts[:top].sum() / max(1, counts.sum())),
        "top_tenth_number": counts[:top].sum() / max(1, counts.sum()),
    }
    between = len(classes) - 2 * _CLASS_ROWS
    all_fit = between <= 0
    records = classes.to_dict("records")
    return {
        "imbalance": imbalance,
        "cuts": class_groups(counts)[1],
        "largest": records if all_fit else records[:_CLASS_ROWS],
        "smallest": [] if all_fit else records[-_CLASS_ROWS:],
        "classes_between": None if all_fit else between,
    }


def _shapes(config: Config, photos: pd.DataFrame) -> dict:
    """Ratios, sizes and their charts."""
    width, height, size = (photos[name].to_numpy(float) for name in ("width", "height", "bytes"))
    ratio = height / width
    counted, square = ratio_counts(photos), (ratio >= 2 / 3) & (ratio <= 1.5)
    drawn = {"ratio": charts.ratio_chart(counted, RATIO_COUNTS)}
    drawn |= {"sizes": charts.size_chart(width, height), "bytes": charts.bytes_chart(size)} if len(photos) else {}
    drawn = {"sizes": "", "bytes": ""} | drawn
    shares = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    quantiles = lambda values: np.quantile(values, shares) if len(values) else np.zeros(len(shares))  # noqa: E731
    rows = [
        {"name": "width, pixels", "values": [f"{v:,.0f}" for v in quantiles(width)]},
        {"name": "height, pixels", "values": [f"{v:,.0f}" for v in quantiles(height)]},
        {"name": "height / width", "values": [f"{v:.2f}" for v in quantiles(ratio)]},
        {"name": "file", "values": [in_bytes(v) for v in quantiles(size)]},
    ]
    smaller = (height < config.size[0]) & (width < config.size[1])
    share = lambda mask: _percent(mask.mean() if len(mask) else 0)  # noqa: E731
    return {
        "charts": drawn,
        "shapes": {
            "share_tall": share(ratio >= 2),
            "share_square": share(square),
            "nearly_square": len(square) > 0 and square.mean() > 0.95,
            "rows": _ratio_rows(counted),
        },
        "sizes": {
            "width": rows[0]["values"][3],
            "height": rows[1]["values"][3],
            "smaller": share(smaller),
            "input": "{} × {}".format(*reversed(config.size)),
            "quantiles": ["smallest", "5 %", "25 %", "median", "75 %", "95 %", "largest"],
            "rows": rows,
        },
    }


def _ratio_rows(counts: np.ndarray) -> list[dict]:
    """The histogram beside the published one; its last bin, 5 and more, was not published."""
    ours, theirs = counts / max(1, counts.sum()), RATIO_COUNTS / RATIO_COUNTS.sum()
    rows = [
        {"bin": f"{i / 2:.1f} to {(i + 1) / 2:.1f}", "published": int(RATIO_COUNTS[i]), "published_share": theirs[i]}
        for i in range(len(theirs))
    ]
    rows.append({"bin": "5 and more", "published": 0, "published_share": 0.0})
    for row, number, share in zip(rows, counts.tolist(), ours, strict=True):
        row |= {"photos": number, "share": f"{100 * share:.1f} %"}
        row["published_share"] = f"{100 * row['published_share']:.1f} %"
    return rows


def _spread(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """`count` of the rows (or all) at even distances."""
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))]


def _one_a_class(train: pd.DataFrame, classes: pd.DataFrame, count: int) -> pd.DataFrame:
    """Photos of as many classes as possible, from the largest class to the smallest; the same ones every time."""
    rank = train["class"].map({name: i for i, name in enumerate(classes["class"])})
    shuffled = train.assign(rank=rank).sample(frac=1, random_state=0)
    turn = shuffled.groupby("class").cumcount()
    ordered = shuffled.assign(turn=turn).sort_values(["turn", "rank"], kind="stable")
    of_each = max(1, -(-count // max(1, ordered["rank"].nunique())))
    return _spread(ordered[ordered["turn"] < of_each].sort_values(["rank", "turn"], kind="stable"), count)


def _wall(index: Index, classes: pd.DataFrame, pictures: Pictures) -> list[dict]:
    rows = _one_a_class(index.split("train"), classes, _WALL)
    return [
        {"shot": pictures.photo(path), "name": name} for path, name in zip(rows["path"], rows["class"], strict=True)
    ]


def _copies(inspection: Inspection, pictures: Pictures) -> dict:
    relations, photos, kinds = inspection.relations, inspection.copies, []
    shown = [r for r in RELATIONS if r != "val and test" or (relations["relation"] == r).any()]
    for relation in tqdm(shown, "page", unit=" sections", leave=False, disable=None):
        title, means, action = _RELATIONS[relation]
        rows = relations[relations["relation"] == relation]
        first = _spread(rows.sort_values("exact", kind="stable"), _PAIRS)
        number, exact = int(rows["photos"].sum()), int(rows["exact"].sum())
        kinds.append(
            {
                "id": relation.replace(" ", "-"),
                "title": title,
                "means": means,
                "action": action,
                "photos": number,
                "exact": exact,
                "near": number - exact,
                "more": len(rows) - len(first),
                "pairs": [_pair(photos.loc[row.first], photos.loc[row.second], pictures) for row in first.itertuples()],
            }
        )
    return {"photos": len(photos), "groups": photos["group"].nunique(), "kinds": kinds}


def _pair(a: pd.Series, b: pd.Series, pictures: Pictures) -> dict:
    sides = [{"shot": pictures.photo(p["path"]), "split": p["split"], "name": p["class"]} for p in (a, b)]
    return {"words": "same bytes" if a["content"] == b["content"] else "near", "sides": sides}


def _missing(inspection: Inspection) -> dict:
    there = [split for split in SPLITS if (inspection.listing.table["split"] == split).any()]
    lists = missing_classes(inspection.classes, there)
    missing = [
        {"name": split, "count": len(names), "names": names[:_LISTED], "more": len(names[_LISTED:])}
        for split, names in lists.items()
    ]
    return {"missing": missing, "absent": " and no ".join(split for split in SPLITS if split not in there)}


def _files(inspection: Inspection) -> dict:
    photos, others = inspection.listing.table, inspection.listing.not_photos
    bad = photos[photos["problem"].notna()]
    rows = bad.head(_LISTED).to_dict("records")
    return {
        "unreadable": {"count": len(bad), "rows": rows, "more": len(bad) - len(rows)},
        "not_photos": {"count": len(others), "rows": others[:_LISTED], "more": len(others[_LISTED:])},
    }


def _sheet(config: Config, index: Index, pictures: Pictures) -> dict:
    """Photos as evaluation sees them and as they enter the first epochs of training."""
    train = index.split("train")
    by_size = train["class"].value_counts(sort=True).rename_axis("class").reset_index()
    rows = _one_a_class(train, by_size, _SHEET_PHOTOS).reset_index(drop=True)
    keys = ", ".join(f"{key}={value}" for key, value in config.aug.model_dump(exclude={"name"}).items())
    sheet = {"title": f"aug={config.aug.name} ({keys})", "resize": config.resize, "epochs": _SHEET_EPOCHS}
    sheet |= {"input": "{} × {}".format(*reversed(config.size)), "rows": []}
    if not len(rows):
        return sheet
    photos = build_photos(config, index)
    columns = [[pad_to_center(photos(row), photos.size, config.size) for row in rows["row"]]]
    columns += [images for images, _ in training_views(config, index, photos, rows, _SHEET_EPOCHS)]
    sheet["rows"] = [
        [_cell(pictures, image, path, column) for column, image in enumerate(images)]
        for path, images in zip(rows["path"], zip(*columns, strict=True), strict=True)
    ]
    return sheet


def _cell(pictures: Pictures, image: np.ndarray, path: str, column: int) -> Shot:
    words = f"{path}, epoch {column}" if column else path
    return pictures.array(image, words, ".png" if max(image.shape) <= 64 else ".jpg")
