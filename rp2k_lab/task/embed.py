"""task=embed: embeddings of any images or of a split by one earlier run, and the nearest images of each."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rp2k_lab.analysis.embedder import Embedder
from rp2k_lab.analysis.embeddings import Block, Embeddings, open_embeddings, probe_image, write_embeddings
from rp2k_lab.analysis.subject import Subject
from rp2k_lab.analysis.vector_search import Search, build_search
from rp2k_lab.config.schema import Config
from rp2k_lab.core.csv_files import write_csv_parts
from rp2k_lab.core.disk import SpaceNeed, check_disk_space
from rp2k_lab.core.errors import DataError
from rp2k_lab.core.progress import progress
from rp2k_lab.core.signals import StopSignal
from rp2k_lab.core.text import escape_controls
from rp2k_lab.dataset.folder_walk import kinds
from rp2k_lab.dataset.loader import view_batches
from rp2k_lab.dataset.photo_index import Index, build_index
from rp2k_lab.device import target
from rp2k_lab.evaluation.artifacts import record_origin, record_request
from rp2k_lab.evaluation.predictor import Member
from rp2k_lab.task.evaluate import check_splits
from rp2k_lab.task.inputs import Input, find_images, readable_views, storable, unreadable_file, write_list
from rp2k_lab.task.record import open_tracker
from rp2k_lab.tracking.run_lookup import EarlierRun
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.features import feature_array
from rp2k_lab.train.trained_models import load_members, parents

log = logging.getLogger(__name__)

MAX_ARTIFACT_BYTES = 100_000_000  # larger files stay where they were written; a tag names them
_QUERIES = 16_384  # images whose neighbors are searched and written at once


@dataclass(frozen=True)
class Embedding:
    """The collaborators of one request.

    Attributes:
        index: the data set; None if the request needs none.
        probe: the embedding of `probe_image`, float32 (width,).
    """

    config: Config
    run: EarlierRun
    member: Member
    embedder: Embedder
    index: Index | None
    probe: np.ndarray
    check: Callable[[], None]


@dataclass(frozen=True)
class Others:
    """The images that may be neighbors, and the search among them."""

    images: Embeddings
    search: Search


def run(config: Config, folder: Path) -> None:
    """Embed, and write the embeddings, the list of unreadable images and the nearest images.

    Args:
        config: the earlier run's restored configuration.  Needs the data set for a split, and for neighbors in train.
        folder: the run's folder, for neighbors.csv, and for the embeddings if `config.task.output` is not set.

    Raises:
        RequestError: weights do not fit, the data set lacks the split, a list has no paths, or `task.against` is of
            another network.
        DataError: no image, no readable one, or an unusable file of `task.against`.
    """
    task = config.task
    found = find_images(task.input) if task.input else Input(Path(), [], [])
    if found.unused:
        log.info("no photos, not used: %s", kinds(path for path, _ in found.unused))
    output = task.output or folder / "embeddings.parquet"
    if found.names:
        config = config.model_copy(update={"batch_size": min(config.batch_size, len(found.names))})
    target.set_up(config.device)
    index = build_index(config.dataset) if task.reads_images else None
    with StopSignal() as signals:
        request = prepare(config, index, signals.check)
        with open_tracker(config, f"embed_{request.member.name}", folder) as tracker:
            record_origin(tracker, config, index, folder) if index else record_request(tracker, config, folder)
            tracker.set_tags(parents([request.run]))
            images = len(index.split(task.split)) if index and task.split else len(found.names)
            log.info("%d photos, on %s", images, target.describe(config.device))
            check_disk_space([SpaceNeed("embeddings", output.parent, images * request.probe.nbytes)])
            started, problems = time.monotonic(), {}
            blocks = split_blocks(request, task.split) if task.split else input_blocks(request, found, problems)
            with open_others(request, folder) as others:
                written = write_embeddings(output, blocks, request.probe, task.split)
                lists = write_lists(output, found, problems)
                record_files(tracker, written + lists)
                tracker.set_tags({"photos": images, "unreadable_photos": len(problems)})
                if not written:
                    first = escape_controls(os.path.join(found.root, found.names[0]))
                    raise DataError(f"{first}: {problems[0]}; none of {images} photos can be read\nsee {lists[0]}")
                if others:
                    file = folder / "neighbors.csv"
                    write_neighbors(file, request, output, others)
                    record_files(tracker, [file])
    print(f"\n{images - len(problems)} photos embedded in {time.monotonic() - started:.0f} s, including compilation")
    print_lists(output, found, problems)
    print(f"\nrun         {escape_controls(tracker.run_name)}, id {tracker.run_id}\nembeddings  {output}")
    if task.neighbors:
        print(f"neighbors   {folder / 'neighbors.csv'}")


def prepare(config: Config, index: Index | None, check: Callable[[], None]) -> Embedding:
    """Load the run's network, and embed the probe image.

    Raises:
        RequestError: weights do not fit, or the data set lacks a split that the request needs.
    """
    (run,), (member,) = load_members([config])
    if index:
        check_splits(
            config, index, ["train"] * config.task.is_against_train + [config.task.split] * bool(config.task.split)
        )
    embedder = Embedder(member, config.batch_size, check)
    (probe,) = embedder.of_images([probe_image(config.size)[None]])
    return Embedding(config, run, member, embedder, index, probe[0], check)


def input_blocks(request: Embedding, found: Input, problems: dict[int, str]) -> Iterator[Block]:
    """Yield the readable images of `task.input`; fill `problems` with those of the others, by position."""
    preprocessing, config = request.member.preprocessing, request.config
    paths = [os.path.join(found.root, name) for name in found.names]
    views = readable_views(paths, [(preprocessing.resized, preprocessing.resize)], problems)
    crops = [(preprocessing.resized, preprocessing.size)]
    batches = view_batches(views, range(len(paths)), crops, config.batch_size, config.device.num_threads)
    first = 0
    shown = progress((images for (images,) in batches), len(paths), "embedding photos", len)
    for vectors in request.embedder.of_images(shown):
        readable = [i for i in range(len(vectors)) if first + i not in problems]
        ids = storable(found.names[first + i] for i in readable)
        yield Block(ids, [None] * len(ids), vectors[readable])
        first += len(vectors)


def split_blocks(request: Embedding, split: str) -> Iterator[Block]:
    """Yield the images of a split, by features that other tasks may have computed already."""
    assert request.index is not None
    rows, first = request.index.split(split), 0
    subject = Subject(request.config, request.index, request.run, request.member, request.check)
    for vectors in request.embedder.of_features(subject.features(split)):
        part = rows.iloc[first : first + len(vectors)]
        yield Block(storable(part["path"]), part["class"].tolist(), vectors)
        first += len(vectors)


@contextmanager
def open_others(request: Embedding, folder: Path) -> Iterator[Others | None]:
    """Yield the images that may be neighbors; None without `task.neighbors`.

    They are opened before any image is embedded, so that a wrong file ends the request at once.
    """
    task = request.config.task
    if not task.neighbors:
        yield None
        return
    opened = open_embeddings(task.against, request.probe, folder) if task.against else _embed_train(request, folder)
    with opened as images:
        yield Others(images, build_search(task.index, images.vectors, request.check))


@contextmanager
def _embed_train(request: Embedding, folder: Path) -> Iterator[Embeddings]:
    assert request.index is not None
    ids, classes, first = [], [], 0
    with feature_array(len(request.index.split("train")), len(request.probe), folder) as vectors:
        for block in split_blocks(request, "train"):
            vectors[first : first + len(block.ids)] = block.vectors
            first += len(block.ids)
            ids += block.ids
            classes += block.classes
        yield Embeddings(ids, classes, vectors)


def write_neighbors(file: Path, request: Embedding, output: Path, others: Others) -> None:
    """Write the nearest images of each embedded image: path, rank (from 1), neighbor, class and cosine.

    The images of train are no neighbors of themselves.
    """
    task = request.config.task
    is_itself = task.split == "train" and task.is_against_train
    with open_embeddings(output, request.probe, file.parent) as embedded:

        def parts() -> Iterator[pd.DataFrame]:
            starts = range(0, len(embedded.ids), _QUERIES)
            for start in progress(starts, len(starts), "searching neighbors, blocks"):
                part = slice(start, start + _QUERIES)
                positions, cosines = others.search(np.asarray(embedded.vectors[part]), task.neighbors + is_itself)
                if is_itself:
                    positions, cosines = without_itself(positions, cosines, start)
                yield neighbor_table(embedded.ids[part], positions, cosines, others.images)

        is_ascii = all(
            text.isascii() for texts in (embedded.ids, others.images.ids, others.images.classes) for text in texts
        )
        write_csv_parts(parts(), file, is_ascii, float_format="%.6f")


def without_itself(positions: np.ndarray, cosines: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Return neighbors, (n, count + 1) to (n, count), without the images themselves, at positions from `start`."""
    own = positions == np.arange(start, start + len(positions))[:, None]
    order = np.argsort(own, axis=1, kind="stable")[:, :-1]  # a copy of an image may come before it
    return np.take_along_axis(positions, order, 1), np.take_along_axis(cosines, order, 1)


def neighbor_table(ids: list[str], positions: np.ndarray, cosines: np.ndarray, known: Embeddings) -> pd.DataFrame:
    """Return rows of neighbors.csv; positions int (n, count), -1 where an index that is not exact found no more."""
    found = positions.ravel() >= 0
    chosen = positions.ravel()[found].tolist()
    rank = np.tile(np.arange(1, positions.shape[1] + 1), len(positions))
    return pd.DataFrame(
        {
            "path": np.repeat(np.array(ids, object), positions.shape[1])[found],
            "rank": rank[found],
            "neighbor": [known.ids[i] for i in chosen],
            "class": [known.classes[i] for i in chosen],
            "cosine": cosines.ravel()[found],
        }
    )


def write_lists(output: Path, found: Input, problems: dict[int, str]) -> list[Path]:
    """Write the lists of unreadable and of unused files beside the output, and return their paths."""
    unreadable = [(found.names[position], problem) for position, problem in sorted(problems.items())]
    return [
        *write_list(unreadable, "problem", unreadable_file(output)),
        *write_list(found.unused, "reason", output.with_name(f"{output.stem}.unused.csv")),
    ]


def print_lists(output: Path, found: Input, problems: dict[int, str]) -> None:
    """Print how many files were not embedded, and where they are listed."""
    if problems:
        print(f"{len(problems)} of {len(found.names)} cannot be read and are listed in {unreadable_file(output)}")
    if found.unused:
        unused = output.with_name(f"{output.stem}.unused.csv")
        print(f"{len(found.unused)} other files and folders are listed in {unused}")


def record_files(tracker: MemoryTracker, files: list[Path]) -> None:
    """Log files as artifacts; those of more than `MAX_ARTIFACT_BYTES` only as a tag, `file_<name>`."""
    for file in files:
        if file.stat().st_size <= MAX_ARTIFACT_BYTES:
            tracker.log_artifact(file)
        else:
            tracker.set_tags({f"file_{file.name}": file})
