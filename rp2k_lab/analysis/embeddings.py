"""Files of embeddings: written in blocks, so that no more than one block is in memory, and opened again.

A .parquet has the columns id (path), class and split (null if unknown) and embedding (a fixed-size list of float32).
Its metadata has the embedding of `probe_image`, by which another network's file is noticed.  A .npy has the embeddings
alone, float32 (images, width); the other columns are in `<name>.ids.csv` beside it.
"""

import base64
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rp2k_lab.core.csv_files import UnreadableText, read_csv, write_csv
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.core.files import write_atomically
from rp2k_lab.core.text import escape_controls
from rp2k_lab.train.features import feature_array

_PROBE = b"rp2k_lab.probe"
_SAME = 0.999  # least cosine of two embeddings of the probe image by one network
_BLOCK = 16_384  # images of a row group, or of a block that is read: 34 MB at a width of 512
_WAY_OUT = "use a file that task=embed wrote"


class Block(NamedTuple):
    """Some images: ids, classes (None: unknown) and embeddings, float32 (n, width)."""

    ids: list[str]
    classes: list[str | None]
    vectors: np.ndarray


@dataclass(frozen=True)
class Embeddings:
    """The images of a file.

    Attributes:
        ids: path of each image.
        classes: class of each image, "" if unknown.
        vectors: float32 (images, width), possibly memory-mapped.
    """

    ids: list[str]
    classes: list[str]
    vectors: np.ndarray


def probe_image(size: tuple[int, int]) -> np.ndarray:
    """Return an image of noise, the same for every network of this input (height, width): uint8 (height, width, 3)."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


def write_embeddings(output: Path, blocks: Iterable[Block], probe: np.ndarray, split: str | None) -> list[Path]:
    """Write blocks of images atomically, and return the written files: .parquet, or .npy and its list of ids.

    Without any image nothing is written, and an earlier file stays.

    Args:
        probe: the embedding of `probe_image`, float32 (width,).
        split: of all images; None: unknown.
    """
    blocks = _larger(blocks)
    first = next(blocks, None)
    if first is None:
        return []
    output.parent.mkdir(parents=True, exist_ok=True)
    write = _write_npy if output.suffix == ".npy" else _write_parquet
    return write(output, chain([first], blocks), probe, split)


def _write_parquet(output: Path, blocks: Iterable[Block], probe: np.ndarray, split: str | None) -> list[Path]:
    width = len(probe)
    columns: dict[str, Any] = {"id": pa.string(), "class": pa.string(), "split": pa.string()}
    columns["embedding"] = pa.list_(pa.float32(), width)
    schema = pa.schema(columns, {_PROBE: base64.b64encode(probe.astype("<f4").tobytes())})
    with write_atomically(output) as part, pq.ParquetWriter(part, schema, use_dictionary=["class", "split"]) as writer:
        for ids, classes, vectors in blocks:
            embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
            texts = [pa.array(values, pa.string()) for values in (ids, classes, [split] * len(ids))]
            writer.write_table(pa.Table.from_arrays([*texts, embedding], schema=schema))
    return [output]


def _write_npy(output: Path, blocks: Iterable[Block], probe: np.ndarray, split: str | None) -> list[Path]:
    ids, classes, listed = [], [], ids_file(output)
    with write_atomically(output) as part, part.open("wb") as file:
        _write_header(file, (0, len(probe)))
        for block in blocks:
            file.write(block.vectors.astype("<f4").tobytes())
            ids += block.ids
            classes += block.classes
        file.seek(0)
        _write_header(file, (len(ids), len(probe)))  # as long as the first: NumPy leaves space for the number of rows
    write_csv(pd.DataFrame({"id": ids, "class": [c or "" for c in classes], "split": split or ""}), listed)
    return [output, listed]


def _write_header(file: Any, shape: tuple[int, int]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def ids_file(npy: Path) -> Path:
    """Return the list of the ids of a .npy."""
    return npy.with_name(f"{npy.stem}.ids.csv")


def _larger(blocks: Iterable[Block]) -> Iterator[Block]:
    """Join blocks to at least `_BLOCK` images, but for the last; leave out empty ones."""
    parts: list[Block] = []
    for block in filter(lambda block: block.ids, blocks):
        parts.append(block)
        if sum(len(part.ids) for part in parts) >= _BLOCK:
            yield _joined(parts)
            parts = []
    if parts:
        yield _joined(parts)


def _joined(parts: list[Block]) -> Block:
    ids, classes = [i for part in parts for i in part.ids], [c for part in parts for c in part.classes]
    return Block(ids, classes, np.concatenate([part.vectors for part in parts]))


@contextmanager
def open_embeddings(file: Path, probe: np.ndarray, folder: Path) -> Iterator[Embeddings]:
    """Yield the images of a file of `write_embeddings`.

    Args:
        probe: the embedding of `probe_image` by the network that the file must be of.
        folder: for a temporary file, if the embeddings of a .parquet exceed `features.MAX_BYTES_IN_MEMORY`.

    Raises:
        RequestError: it is of another network.
        DataError: the file is damaged or of another kind.
    """
    name = f"task.against={escape_controls(file)}"
    with ExitStack() as stack:
        try:
            if file.suffix == ".npy":
                opened = _open_npy(file, name)
            else:
                opened = stack.enter_context(_open_parquet(file, name, probe, folder))
            _check(opened.vectors, name, len(probe))
        except (OSError, ValueError, EOFError, pa.ArrowException) as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise DataError(f"{name}: cannot be read ({reason})\n{_WAY_OUT}") from None
        yield opened


def _open_npy(file: Path, name: str) -> Embeddings:
    vectors = np.load(file, mmap_mode="r", allow_pickle=False)
    listed = ids_file(file)
    try:
        table = read_csv(listed)
    except UnreadableText as error:
        raise DataError(f"{escape_controls(listed)}{error}") from None
    if not {"id", "class"} <= set(table) or len(table) != len(vectors):
        raise DataError(f"{name}: {listed.name} has {len(table)} rows for {len(vectors)} embeddings\n{_WAY_OUT}")
    return Embeddings(table["id"].tolist(), table["class"].tolist(), vectors)


@contextmanager
def _open_parquet(file: Path, name: str, probe: np.ndarray, folder: Path) -> Iterator[Embeddings]:
    with pq.ParquetFile(file) as opened:
        schema = opened.schema_arrow
        kind = schema.field("embedding").type if "embedding" in schema.names else pa.null()
        if "id" not in schema.names or kind != pa.list_(pa.float32(), getattr(kind, "list_size", 1)):
            raise DataError(f"{name}: has no columns id and embedding (a fixed-size list of float32)\n{_WAY_OUT}")
        _check_network(name, kind.list_size, (schema.metadata or {}).get(_PROBE), probe)
        ids, classes, first = [], [], 0
        with feature_array(opened.metadata.num_rows, kind.list_size, folder) as vectors:
            for batch in opened.iter_batches(_BLOCK):
                rows = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
                vectors[first : first + len(batch)] = rows.reshape(len(batch), -1)
                first += len(batch)
                ids += batch.column("id").to_pylist()
                known = batch.column("class").to_pylist() if "class" in schema.names else [""] * len(batch)
                classes += [each or "" for each in known]
            yield Embeddings(ids, classes, vectors)


def _check_network(name: str, width: int, recorded: bytes | None, probe: np.ndarray) -> None:
    if width == len(probe) and recorded is not None:
        before = np.frombuffer(base64.b64decode(recorded), "<f4")
        if len(before) != width or float(before @ probe) < _SAME:
            raise RequestError(f"{name}: is of another network or size\n{_WAY_OUT} with this run and this size")


def _check(vectors: np.ndarray, name: str, width: int) -> None:
    """Check shape, type and numbers of the embeddings of a file."""
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not len(vectors):
        raise DataError(f"{name}: has no embeddings, float32 (images, width)\n{_WAY_OUT}")
    if vectors.shape[1] != width:
        raise RequestError(
            f"{name}: its embeddings have a width of {vectors.shape[1]}, those of this run {width}\n"
            f"{_WAY_OUT} with this run"
        )
    if not all(np.isfinite(vectors[i : i + _BLOCK]).all() for i in range(0, len(vectors), _BLOCK)):
        raise DataError(f"{name}: has NaN or infinite numbers\n{_WAY_OUT}")
