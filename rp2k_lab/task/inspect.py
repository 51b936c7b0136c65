"""task=inspect: a page about the data set, a table of the models, or a filled image cache (`task.what`)."""

import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rp2k_lab import COMMAND
from rp2k_lab.analysis.data_page import Inspection, inspection_page
from rp2k_lab.config.schema import Config
from rp2k_lab.core.errors import RequestError
from rp2k_lab.core.progress import progress
from rp2k_lab.core.text import escape_controls, text_table
from rp2k_lab.dataset.folder_walk import folders_of, kinds
from rp2k_lab.dataset.image_cache import image_bytes
from rp2k_lab.dataset.loader import evaluation_batches
from rp2k_lab.dataset.near_duplicates import find_copies
from rp2k_lab.dataset.photo_index import Index, Listing, build_index, list_images, make_index
from rp2k_lab.dataset.summary import SPLITS, class_table, copies_by_relation
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_origin
from rp2k_lab.model import list_models
from rp2k_lab.model.summary import Summary, summarize
from rp2k_lab.task.record import open_tracker
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.build import build_images, with_normalization


def run(config: Config, folder: Path) -> None:
    """Run the inspection that `config.task.what` names.

    Args:
        config: the whole configuration.
        folder: the run's folder, for the page and its tables.
    """
    {"data": inspect_data, "models": print_models, "cache": fill_cache}[config.task.what](config, folder)


def inspect_data(config: Config, folder: Path) -> None:
    """Record inspection.html, classes.parquet, duplicates.parquet, unreadable.parquet and counts.

    Unreadable images are reported, not raised.

    Raises:
        RequestError, DataError: nothing can be listed.
    """
    listing = list_images(config.dataset, decode=True)
    index = readable_index(listing)
    if len(index.split("train")):
        config = with_normalization(config, index)
    with open_tracker(config, f"inspect_{config.dataset.title}", folder) as tracker:
        record_origin(tracker, config, index, folder)
        inspection = inspect_listing(config, listing)
        tracker.log_metrics(inspection.counts, 0)
        page = folder / "inspection.html"
        page.write_text(inspection_page(config, index, inspection), encoding="utf-8")
        tracker.log_artifact(page)
        record_tables(tracker, inspection, folder)
    print_summary(inspection)
    print(f"\nrun         {escape_controls(tracker.run_name)}, id {tracker.run_id}")
    print(f"page        {page}")
    print("next        open the page in a browser, then the same command without task=inspect")


def readable_index(listing: Listing) -> Index:
    """Return the index of the readable images, for the augmentation sheet and the run's tags."""
    table = listing.table[listing.table["problem"].isna()]
    classes = sorted(table.loc[table["split"] == "train", "class"].unique())
    index = make_index(listing, table, classes, listing.table[listing.table["problem"].notna()])
    return replace(index, classes=[escape_controls(name) for name in classes])


def inspect_listing(config: Config, listing: Listing) -> Inspection:
    """Return the content of the page."""
    images = listing.table
    readable = images[images["problem"].isna()]
    num_threads = config.device.num_threads or os.cpu_count() or 1
    copies = find_copies(listing.root, readable, num_threads).join(images[["path", "class", "split"]])
    return Inspection(listing, class_table(images, listing.long_tail_limits), copies, copies_by_relation(copies))


def record_tables(tracker: MemoryTracker, inspection: Inspection, folder: Path) -> None:
    """Record the tables as parquet; parquet refuses broken UTF-8, so names are escaped as on the page."""
    images = inspection.listing.table
    tables = {
        "classes": inspection.classes,
        "duplicates": inspection.copies,
        "unreadable": images.loc[images["problem"].notna(), ["path", "class", "split", "bytes", "problem"]],
    }
    for name, table in tables.items():
        texts = [column for column in ("path", "class") if column in table]
        file = folder / f"{name}.parquet"
        table.assign(**{column: table[column].map(escape_controls) for column in texts}).to_parquet(file, index=False)
        tracker.log_artifact(file)


def print_summary(inspection: Inspection) -> None:
    """Print the counts."""
    counts, images = inspection.counts, inspection.listing.table
    splits = ", ".join(f"{(images['split'] == split).sum():,} {split}" for split in SPLITS)
    print(f"\nphotos      {len(images):,} of {len(inspection.classes):,} classes ({splits})")
    listing = inspection.listing
    other_kinds = f" ({kinds(listing.other_files)})" if listing.other_files else ""
    print(f"unreadable  {counts['unreadable']:,}; files that are no photos: {counts['not_photos']:,}{other_kinds}")
    if listing.unused_images:
        print(f"not used    {len(listing.unused_images):,} photos of no class: {folders_of(listing.unused_images)}")
    relations = inspection.relations.groupby("relation")[["photos", "exact"]].sum()
    print(f"copies      {len(inspection.copies):,} photos in {counts['copies/groups']:,} groups")
    for relation, (number, exact) in relations.iterrows():
        print(f"            {relation:15} {number:6,} ({exact:,} exact, {number - exact:,} near)")
    for split in SPLITS:
        lacking = (inspection.classes[split] == 0).sum()
        if lacking and (images["split"] == split).any():
            print(f"missing     {lacking:,} classes have no readable photo in {split}")


def fill_cache(config: Config, folder: Path) -> None:
    """Decode and resize every image into the cache for this size and resize.

    Args:
        config: `dataset.cache_gb`, `size`, `resize` and `crop_ratio` determine the cache.
        folder: not used; the cache is in the clone's data folder.

    Raises:
        RequestError: `dataset.cache_gb` is 0.
        DataError: an image cannot be read.
    """
    index = build_index(config.dataset)
    images = build_images(config, index)
    if images.cache is None:
        needed = len(index.table) * image_bytes(images.size) / 1e9
        raise RequestError(
            f"dataset.cache_gb={config.dataset.cache_gb:g}: there is no cache to fill\n"
            f"use dataset.cache_gb={math.ceil(10 * needed) / 10}: {len(index.table):,} photos take {needed:.3g} GB"
        )
    rows = index.table.reset_index(names="row")[: images.cache.capacity]
    batches = evaluation_batches(images, rows, config.size, 64, config.device.num_threads)
    for _ in progress(batches, len(rows), "filling the cache with photos", len):
        pass  # reading an image fills its slot
    print(f"\ncache       {images.cache.folder}: {len(rows):,} photos of {len(index.table):,}")
    print("next        the same command without task=inspect task.what=cache")


def print_models(config: Config, folder: Path) -> None:
    """Print one line a model: parameters, multiply-adds, last width, smallest input, speed here, source.

    Args:
        config: `config.task` names the models and the size.
        folder: not used; nothing is recorded.
    """
    task = config.task
    names = task.models or list_models()
    target.set_up(config.device)
    with tempfile.TemporaryDirectory(prefix="rp2k-lab-") as scratch:
        rows = []
        for name in progress(names, len(names), "measuring models"):
            try:
                rows.append(summarize(name, (task.size, task.size), task.batch_size, task.seconds, Path(scratch)))
            except ValueError as error:
                raise RequestError(f"task=inspect: {error}") from None
    print(models_table(rows, task.size))
    print(f"\n1000 classes; images/s: forward, batch {task.batch_size}, {target.describe(config.device)}, ", end="")
    print(
        f"{os.cpu_count()} cores\nwider: model.final_width (ResNet family, Inception-ResNet-v2), model.head_width (all)"
    )
    print(f"next        {COMMAND} model={rows[-1].name}")


def models_table(rows: Iterable[Summary], size: int) -> str:
    """Return the models as text, one a line."""
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
