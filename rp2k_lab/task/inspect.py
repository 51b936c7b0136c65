"""task=inspect: what there is.  `task.what=data` makes a page about the data set, `task.what=models` prints the zoo."""

import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from rp2k_lab.analysis.data_page import Inspection, inspection_page
from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.text import escape_controls, text_table
from rp2k_lab.dataset.image_cache import photo_bytes
from rp2k_lab.dataset.loader import evaluation_batches
from rp2k_lab.dataset.near_duplicates import find_copies
from rp2k_lab.dataset.photo_index import Index, Listing, build_index, index_of, list_photos
from rp2k_lab.dataset.summary import SPLITS, class_table, copies_by_relation
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_origin
from rp2k_lab.model import list_models
from rp2k_lab.model.summary import Summary, summarize
from rp2k_lab.task.train import open_tracker
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.build import build_photos


def run(config: Config, folder: Path) -> None:
    """Show what `config.task.what` names.

    Args:
        config: the whole request.
        folder: the run's own folder, for the page and its tables.
    """
    {"data": inspect_data, "models": print_models, "cache": fill_cache}[config.task.what](config, folder)


def inspect_data(config: Config, folder: Path) -> None:
    """A run that leaves inspection.html, classes.parquet, duplicates.parquet, unreadable.parquet and counts.

    Photos that cannot be read are reported, not raised.

    Raises:
        RequestError, DataError: nothing can be listed.
    """
    listing = list_photos(config.dataset, decode=True)
    index = readable_index(listing)
    with open_tracker(config, f"inspect_{config.dataset.name}", folder) as tracker:
        record_origin(tracker, config, index, folder)
        inspection = look(config, listing)
        tracker.log_metrics(inspection.counts, 0)
        page = folder / "inspection.html"
        page.write_text(inspection_page(config, index, inspection), encoding="utf-8")
        tracker.log_artifact(page)
        record_tables(tracker, inspection, folder)
    print_summary(inspection)
    print(f"\nrun         {tracker.run_name}, id {tracker.run_id}")
    print(f"page        {page}")
    print(f"next        open the page in a browser, then python run.py dataset={config.dataset.name}", end="")
    print("" if config.dataset.name == "shelf" else f" dataset.root={config.dataset.root}")


def readable_index(listing: Listing) -> Index:
    """The index of the photos that can be read, for the augmented sheet and the run's tags."""
    table = listing.table[listing.table["problem"].isna()]
    classes = sorted(table.loc[table["split"] == "train", "class"].unique())
    index = index_of(listing.root, table, classes, listing.table[listing.table["problem"].notna()])
    return replace(index, classes=[escape_controls(name) for name in classes])


def look(config: Config, listing: Listing) -> Inspection:
    """Everything that the page tells, before it is drawn."""
    photos = listing.table
    readable = photos[photos["problem"].isna()]
    workers = config.device.num_threads or os.cpu_count() or 1
    copies = find_copies(listing.root, readable, workers).join(photos[["path", "class", "split"]])
    return Inspection(listing, class_table(photos), copies, copies_by_relation(copies))


def record_tables(tracker: MemoryTracker, inspection: Inspection, folder: Path) -> None:
    """The tables as parquet, in the run's folder and in the tracker; parquet holds no broken UTF-8, so names are shown
    as on the page."""
    photos = inspection.listing.table
    tables = {
        "classes": inspection.classes,
        "duplicates": inspection.copies,
        "unreadable": photos.loc[photos["problem"].notna(), ["path", "class", "split", "bytes", "problem"]],
    }
    for name, table in tables.items():
        texts = [column for column in ("path", "class") if column in table]
        file = folder / f"{name}.parquet"
        table.assign(**{column: table[column].map(escape_controls) for column in texts}).to_parquet(file, index=False)
        tracker.log_artifact(file)


def print_summary(inspection: Inspection) -> None:
    """A few lines for the terminal."""
    counts, photos = inspection.counts, inspection.listing.table
    splits = ", ".join(f"{(photos['split'] == split).sum():,} {split}" for split in SPLITS)
    print(f"\nphotos      {len(photos):,} of {len(inspection.classes):,} classes ({splits})")
    print(f"unreadable  {counts['unreadable']:,}; files that are no photos: {counts['not_photos']:,}")
    relations = inspection.relations.groupby("relation")[["photos", "exact"]].sum()
    print(f"copies      {len(inspection.copies):,} photos in {counts['copies/groups']:,} groups")
    for relation, (number, exact) in relations.iterrows():
        print(f"            {relation:15} {number:6,} ({exact:,} exact, {number - exact:,} near)")
    for split in SPLITS:
        lacking = (inspection.classes[split] == 0).sum()
        if lacking and (photos["split"] == split).any():
            print(f"missing     {lacking:,} classes have no readable photo in {split}")


def fill_cache(config: Config, folder: Path) -> None:
    """Decode and resize every photo into the cache that runs with this size and resize read.

    Args:
        config: `dataset.cache_gb`, `size`, `resize` and `crop_ratio` say what is kept.
        folder: not used; the cache lies in the clone's data folder.

    Raises:
        RequestError: `dataset.cache_gb` is 0.
        DataError: a photo cannot be read.
    """
    index = build_index(config.dataset)
    photos = build_photos(config, index)
    if photos.cache is None:
        needed = len(index.table) * photo_bytes(photos.size) / 1e9
        raise RequestError(
            f"dataset.cache_gb={config.dataset.cache_gb:g}: there is no cache to fill\n"
            f"{len(index.table):,} photos take at most {needed:.3g} GB: dataset.cache_gb={math.ceil(10 * needed) / 10}"
        )
    rows = index.table.reset_index(names="row")[: photos.cache.room]
    with tqdm(total=len(rows), desc="cache", unit=" photos", leave=False, disable=None) as bar:
        for batch in evaluation_batches(photos, rows, config.size, 64, config.device.num_threads):
            bar.update(len(batch))
    print(f"\ncache       {photos.cache.folder}: {len(rows):,} photos of {len(index.table):,}")
    print("next        the same words without task=inspect task.what=cache")


def print_models(config: Config, folder: Path) -> None:
    """Print one line a model: parameters, multiply-adds, last width, smallest input, speed here, source.

    Args:
        config: `config.task` says which models, at what size.
        folder: not used; nothing is kept.
    """
    task = config.task
    names = task.models or list_models()
    target.set_up(config.device)
    with tempfile.TemporaryDirectory(prefix="rp2k-lab-") as scratch:
        bar = tqdm(names, unit="model", leave=False, disable=None)
        rows = []
        for name in bar:
            bar.set_description(name)
            try:
                rows.append(summarize(name, (task.size, task.size), task.batch_size, task.seconds, Path(scratch)))
            except ValueError as error:
                bar.close()
                raise RequestError(f"task=inspect: {error}") from None
    print(table(rows, task.size))
    print(f"\n1000 classes; images/s: forward, batch {task.batch_size}, {target.describe(config.device)}, ", end="")
    print(
        f"{os.cpu_count()} cores\nwider: model.final_width (ResNet family, Inception-ResNet-v2), model.head_width (all)"
    )
    print(f"next        python run.py model={rows[-1].name}")


def table(rows: Iterable[Summary], size: int) -> str:
    """The zoo as text."""
    head = ("model", "parameters", f"multiply-adds at {size}", "last width", "smallest input", "images/s", "source")
    lines = [
        (
            row.name,
            f"{row.parameters:,}",
            f"{row.multiply_adds / 1e9:.2f} G",
            f"{row.last_width}",
            f"{row.smallest_input}",
            "–" if row.images_per_second is None else f"{row.images_per_second:.1f}",
            row.source,
        )
        for row in rows
    ]
    return text_table([head, *lines], "<" + ">" * (len(head) - 2) + "<", rule=False)
