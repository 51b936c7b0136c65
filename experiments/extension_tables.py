"""Tables of new products without retraining: accuracy of new, old and unknown products by head and number of photos.

    python experiments/extension_tables.py shelf
    python experiments/extension_tables.py grozi ../grozi120
    python experiments/extension_tables.py grozi_frozen ../grozi120
    python experiments/extension_tables.py grocery_iconic <its folder dataset> <folder of the iconic photos>
    python experiments/extension_tables.py features ../grozi120

Add `val` to ask the photos of val instead of test: settings are chosen on them (`choices.csv`).  Trainings and features
are kept under data/extension/, finished cells in experiments/extension/<table>/cells.csv: a stopped command continues
where it was.  docs: experiments/extension/README.md.
"""

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from extension_features import Photos, all_photos, grocery_table, photos_by, with_brand
from extension_report import RESULTS, write_reports
from extension_sets import (
    LITE0,
    LOGISTIC,
    RIDGE,
    SPLITS,
    TRAINED_HEADS,
    Division,
    grozi,
    grozi_frozen,
    grozi_projected,
    shelf,
)

from rp2k_lab.core.csv_files import write_csv
from rp2k_lab.enrollment import heads
from rp2k_lab.enrollment.protocol import (
    Base,
    ClassSplit,
    build_base,
    class_folds,
    draw_photos,
    measure,
)

DRAWS, PHOTOS = 10, (1, 2, 5, 10, 20, None)  # None: all photos of train


def main() -> None:
    table, *arguments = sys.argv[1:] or [""]
    asked = "val" if "val" in arguments else "test"
    folders = [Path(argument).resolve() for argument in arguments if argument != "val"]
    if table not in TABLES:
        sys.exit(f"usage: python experiments/extension_tables.py {'|'.join(TABLES)} <folders of the photos> [val]")
    start = time.process_time()
    (RESULTS / table).mkdir(parents=True, exist_ok=True)
    if asked == "val":
        choose(table, folders)
    else:
        TABLES[table](folders)
        write_reports(table)
    print(f"{table}: {(time.process_time() - start) / 60:.1f} core-minutes without trainings, in {RESULTS / table}")


# Cells


def heads_of(base: Base, head: heads.Linear) -> dict[str, Callable[[], heads.Enroll]]:
    """Return the heads of the table by name; each is built when its cells are computed."""
    return {
        "prototype, cosine": partial(heads.prototype, base, whitened=False),
        "prototype, whitened": partial(heads.prototype, base),
        "centers, whitened": partial(heads.centers, base),
        "centers, old by the trained head": lambda: heads.with_trained_head(heads.centers(base), base, head),
        "nearest photo, whitened": partial(heads.nearest_photo, base),
        "ridge, class-balanced": partial(heads.ridge, base, RIDGE),
        "untouched head": partial(heads.untouched, base, head),
        "head tuned on the new photos": partial(heads.fine_tuned, base, head),
        "head retrained": partial(heads.retrained, base, LOGISTIC),
    }


def draws_of(head: str, photos: int | None) -> int:
    """Return how many draws a cell has: trained heads take minutes."""
    if photos is None:
        return 1
    return {"head retrained": 2 if photos == 5 else 1, "head tuned on the new photos": 3}.get(head, DRAWS)


def cells(base: Base, enroll: heads.Enroll, head: str, split: int) -> Iterator[dict]:
    """Yield the measures of each number of photos and draw."""
    before = enroll(base.new.at(np.zeros(0, int)))
    for photos in PHOTOS:
        for draw in range(draws_of(head, photos)):
            after = enroll(draw_photos(base.new, photos, [split, draw]))
            named = {"head": head, "photos": photos or "all", "split": split, "draw": draw}
            yield named | measure(before, after, base)


def fill(file: Path, division: Callable[[int], Division]) -> None:
    """Append the missing (split, head) blocks of the table of heads × photos, and of the stream of ten weeks."""
    stream_file = file.with_name("stream.csv")
    for split in range(SPLITS):
        done, streamed = blocks_of(file), blocks_of(stream_file)
        divided = division(split)
        base = divided.base()
        trained_head = divided.head(base)
        for name, build in heads_of(base, trained_head).items():
            if (name, split) not in done:
                append(file, cells(base, build(), name, split))
            if name in STREAMED and (name, split) not in streamed and len(divided.classes.new) >= 10:
                append(stream_file, stream(base, build, trained_head, name, split))


def append(file: Path, rows: Iterator[dict]) -> None:
    """Add rows to a CSV, all or none."""
    start, added = time.perf_counter(), pd.DataFrame(rows)
    table = pd.concat([pd.read_csv(file, dtype={"photos": str}), added]) if file.is_file() else added
    write_csv(table.round(5), file)
    head, split = added.iloc[0][["head", "split"]]
    print(f"{file.parent.name}: {head}, split {split}: {time.perf_counter() - start:.0f} s", flush=True)


def blocks_of(file: Path) -> set[tuple[str, int]]:
    """Return the (head, split) that a CSV has."""
    if not file.is_file():
        return set()
    return set(pd.read_csv(file)[["head", "split"]].itertuples(index=False, name=None))


# The stream of ten weeks

WEEKS, WEEKLY_PHOTOS, WEEKLY_DRAWS = 10, 5, 3
STREAMED = ("centers, whitened", "centers, old by the trained head", "ridge, class-balanced",
            "head tuned on the new photos")  # fmt: skip


def stream(base: Base, build: Callable, trained_head: heads.Linear, head: str, split: int) -> Iterator[dict]:
    """Yield old and new top-1 after each of ten weeks, in which the new products arrive in ten parts.

    The tuned head goes through each week's photos alone, starting from the week before.
    """
    enroll, labels = build(), base.test.labels
    last_labels = np.array([part[-1] for part in np.array_split(np.unique(base.new.labels), WEEKS)])
    for draw in range(WEEKLY_DRAWS):
        images, current = draw_photos(base.new, WEEKLY_PHOTOS, [split, draw]), trained_head
        for week in range(WEEKS + 1):
            last = last_labels[week - 1] if week else base.old - 1
            if head == "head tuned on the new photos":
                first = last_labels[week - 2] if week > 1 else base.old - 1
                rows = (images.labels > first) & (images.labels <= last)
                current = heads.descend(current, images.at(rows), 100, 0.05, 0.9)
                answers = current(base.test.features).argmax(axis=1)
            else:
                answers = enroll(images.at(images.labels <= last)).test.argmax(axis=1)
            old, new = (labels >= 0) & (labels < base.old), (labels >= base.old) & (labels <= last)
            early = new & (labels <= last_labels[0])
            top1 = lambda rows, right=answers == labels: right[rows].mean() if rows.any() else np.nan  # noqa: E731
            yield {
                "head": head, "split": split, "draw": draw, "week": week, "old_top1": top1(old), "new_top1": top1(new),
                "first_week_top1": top1(early), "stolen": int((answers[old] >= base.old).sum()),
            }  # fmt: skip


# Grocery Store: enrolled from one catalog photo


def fill_grocery(folders: list[Path]) -> None:
    """Fill the table of products enrolled from their iconic photo, and from shop photos for comparison."""
    file = RESULTS / "grocery_iconic" / "cells.csv"
    keys = ["dataset=table", f"dataset.table={grocery_table(*folders)}"]
    index = all_photos(keys)
    table = with_brand(index)
    photos = photos_by(index, table, None, [*keys, *LITE0], "grocery_lite0")
    labels, splits = table["class"].astype("category").cat.codes.to_numpy(int), table["split"].to_numpy(str)
    # The iconic photos are val in that table; val here is a tenth of train.
    iconic, rng = splits == "val", np.random.default_rng(0)
    splits = np.where(iconic, "iconic", np.where((splits == "train") & (rng.random(len(splits)) < 0.1), "val", splits))
    for split, classes in enumerate(class_folds(labels.max() + 1, SPLITS)):
        base = build_base(photos.features, labels, splits, classes)
        catalog = build_base(photos.features, labels, np.where(iconic, "train", ""), classes).new
        head = heads.fit_logistic(base.train, LOGISTIC)
        for name, build in heads_of(base, head).items():
            if (name, split) in blocks_of(file):
                continue
            enroll = build()
            before, named = enroll(base.new.at(np.zeros(0, int))), {"head": name, "photos": "iconic", "split": split}
            from_catalog = named | {"draw": 0} | measure(before, enroll(catalog), base)
            append(file, iter([from_catalog, *cells(base, enroll, name, split)]))
    catalog_alone(photos, labels, splits)


def catalog_alone(photos: Photos, labels: np.ndarray, splits: np.ndarray) -> None:
    """Write top-1 of heads that know each product from its iconic photo, or from all shop photos of train."""
    everything = ClassSplit(np.arange(labels.max() + 1), np.empty(0, int), np.empty(0, int))
    rows = []
    for known, asked in (("iconic", ("train", "val", "test")), ("iconic", ("test",)), ("train", ("test",))):
        renamed = np.where(splits == known, "train", np.where(np.isin(splits, asked), "test", "val"))
        if known == "train":
            renamed[splits == "val"] = "train"
            renamed[splits == "iconic"] = "val"
        base = build_base(photos.features, labels, renamed, everything)
        for name in ("prototype, cosine", "ridge, class-balanced") if known == "train" else ("prototype, cosine",):
            answers = heads_of(base, heads.Linear(np.empty(0), np.empty(0)))[name]()(base.new).test.argmax(axis=1)
            right = answers == base.test.labels
            named = {"known_from": known, "asked": " ".join(asked), "head": name}
            rows.append(named | {"top1": right.mean(), "photos": len(right)})
    write_csv(pd.DataFrame(rows).round(5), RESULTS / "grocery_iconic" / "all_products.csv")


# Features: what the head of the training does to them


def fill_features(folders: list[Path]) -> None:
    """Fill the table of trained heads, judged by five photos a new product and by unknown products."""
    file = RESULTS / "features" / "cells.csv"
    sets = {"shelf": (shelf, SPLITS), "grozi": (partial(grozi, folders[0]), SPLITS),
            "grozi, frozen": (partial(grozi_projected, folders[0]), SPLITS)}  # fmt: skip
    for photos_of, (division, splits) in sets.items():
        for head in TRAINED_HEADS:
            for split in range(splits):
                if (f"{photos_of}, {head}", split) not in blocks_of(file):
                    append(file, feature_cells(division(split, head), f"{photos_of}, {head}", split))


def feature_cells(divided: Division, name: str, split: int) -> Iterator[dict]:
    """Yield the measures of prototypes and centers on the features of a trained head."""
    base = divided.base()
    is_old = divided.photos.table["split"].eq("test") & divided.photos.table["class"].isin(divided.photos.classes)
    true = pd.Index(divided.photos.classes).get_indexer(divided.photos.table.loc[is_old, "class"])
    top1 = (divided.photos.logits[is_old.to_numpy()].argmax(axis=1) == true).mean()
    for extended, whitened in (("prototype, cosine", False), ("centers, whitened", True)):
        enroll = heads.centers(base) if whitened else heads.prototype(base, whitened=False)
        before = enroll(base.new.at(np.zeros(0, int)))
        for draw in range(DRAWS):
            after = enroll(draw_photos(base.new, 5, [split, draw]))
            named = {"head": name, "extended_by": extended, "split": split, "draw": draw, "trained_top1": top1}
            yield named | measure(before, after, base)


# Settings chosen on val


def choose(table: str, folders: list[Path]) -> None:
    """Write choices.csv: measures of settings on the photos of val, five photos a new product."""
    rows = []
    for split in range(SPLITS):
        divided = {"shelf": shelf, "grozi": partial(grozi, *folders), "grozi_frozen": partial(grozi_frozen, *folders)}[
            table
        ](split)
        base = divided.base("val")
        for name, build in settings(base, divided.head(base)).items():
            enroll = build()
            before = enroll(base.new.at(np.zeros(0, int)))
            for draw in range(5):
                after = enroll(draw_photos(base.new, 5, [split, draw]))
                rows.append({"setting": name, "split": split, "draw": draw, **measure(before, after, base)})
        print(f"{table}: settings of split {split}", flush=True)
    measured = pd.DataFrame(rows).groupby(["setting", "split"], sort=False).mean(numeric_only=True)
    chosen = measured.groupby("setting", sort=False)[["new_top1", "old_after", "harmonic", "auroc", "ece"]].mean()
    write_csv(chosen.round(5).reset_index(), RESULTS / table / "choices.csv")
    print(chosen.round(4).to_string())


def settings(base: Base, head: heads.Linear) -> dict[str, Callable[[], heads.Enroll]]:
    """Return the settings to choose from: shrinkage × centers, old classes by head, penalties."""
    chosen = {}
    for shrinkage in (0.02, 0.1, 0.3, 0.6, 1.0):
        for most in (5, 10):
            name = f"shrinkage {shrinkage:g}, {most} centers"
            chosen[name] = partial(heads.centers, base, most, shrinkage)
        chosen[f"shrinkage {shrinkage:g}, prototype"] = partial(heads.prototype, base, True, shrinkage)
        chosen[f"shrinkage {shrinkage:g}, nearest photo"] = partial(heads.nearest_photo, base, True, shrinkage)
    chosen["old by the trained head"] = lambda: heads.with_trained_head(heads.centers(base), base, head)
    for penalty in (0.01, 0.1, 1.0, 10.0):
        chosen[f"ridge {penalty:g}"] = partial(heads.ridge, base, penalty)
    return chosen


TABLES = {
    "shelf": lambda folders: fill(RESULTS / "shelf" / "cells.csv", shelf),
    "grozi": lambda folders: fill(RESULTS / "grozi" / "cells.csv", partial(grozi, folders[0])),
    "grozi_frozen": lambda folders: fill(RESULTS / "grozi_frozen" / "cells.csv", partial(grozi_frozen, folders[0])),
    "grocery_iconic": fill_grocery,
    "features": fill_features,
}

if __name__ == "__main__":
    main()
