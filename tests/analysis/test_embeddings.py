"""Files of embeddings: content, blocks, and what is refused."""

import tracemalloc

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from rp2k_lab.analysis import embeddings
from rp2k_lab.analysis.embeddings import Block, open_embeddings, write_embeddings
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.train import features

WIDTH = 8
PROBE = np.eye(1, WIDTH, dtype=np.float32)[0]


def unit_rows(count: int, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def blocks(vectors: np.ndarray, size: int = 4, classes: bool = True):
    for start in range(0, len(vectors), size):
        part = vectors[start : start + size]
        ids = [f"照片/{i}, a.jpg" for i in range(start, start + len(part))]
        yield Block(ids, ["007" if i % 2 else "=NA" for i in range(len(ids))] if classes else [None] * len(ids), part)


@pytest.fixture(params=["e.parquet", "e.npy"])
def file(request, tmp_path):
    return tmp_path / "new" / request.param


def test_embeddings_are_read_as_written(file, monkeypatch, tmp_path):
    monkeypatch.setattr(embeddings, "_BLOCK", 5)  # joined and split at other borders than the batches
    vectors = unit_rows(11)
    written = write_embeddings(file, blocks(vectors), PROBE, "val")
    assert written[0] == file
    assert [path.name for path in sorted(file.parent.iterdir())] == sorted(path.name for path in written)
    with open_embeddings(file, PROBE, tmp_path) as opened:
        np.testing.assert_array_equal(opened.vectors, vectors)
        assert opened.ids == [f"照片/{i}, a.jpg" for i in range(11)]
        assert opened.classes == ["=NA", "007"] * 4 + ["=NA", "007", "=NA"]


def test_a_parquet_has_one_column_of_fixed_width_for_other_programs(tmp_path):
    write_embeddings(tmp_path / "e.parquet", blocks(unit_rows(6), classes=False), PROBE, None)
    schema = pq.read_schema(tmp_path / "e.parquet")
    assert schema.names == ["id", "class", "split", "embedding"]
    assert str(schema.field("embedding").type).startswith("fixed_size_list<")
    assert schema.field("embedding").type.list_size == WIDTH
    table = pd.read_parquet(tmp_path / "e.parquet")
    assert table["class"].isna().all()
    assert np.stack(table["embedding"]).dtype == np.float32


def test_a_npy_is_a_plain_array_with_a_list_of_its_rows(tmp_path):
    vectors = unit_rows(6)
    write_embeddings(tmp_path / "e.npy", blocks(vectors), PROBE, "test")
    np.testing.assert_array_equal(np.load(tmp_path / "e.npy"), vectors)
    table = pd.read_csv(tmp_path / "e.ids.csv", encoding="utf-8-sig", dtype=str)
    assert table["split"].tolist() == ["test"] * 6


def test_without_images_an_earlier_file_stays(file):
    file.parent.mkdir()
    file.write_text("earlier")
    assert write_embeddings(file, iter([Block([], [], unit_rows(0))]), PROBE, None) == []
    assert file.read_text() == "earlier"


def test_a_failure_leaves_the_earlier_file_and_no_part(file):
    def failing():
        yield from blocks(unit_rows(40_000), size=20_000)
        raise DataError("the disk of the photos is gone")

    file.parent.mkdir()
    file.write_text("earlier")
    with pytest.raises(DataError, match="is gone"):
        write_embeddings(file, failing(), PROBE, None)
    assert file.read_text() == "earlier"
    assert list(file.parent.iterdir()) == [file]


def test_writing_needs_the_memory_of_a_few_blocks(file, monkeypatch):
    """39 MB of embeddings in blocks of 2 MB; an array of all would show."""
    monkeypatch.setattr(embeddings, "_BLOCK", 2048)
    width = 256
    part = unit_rows(1024, width)
    many = (Block([str(i) for i in range(len(part))], [None] * len(part), part) for _ in range(38))
    tracemalloc.start()
    try:
        write_embeddings(file, many, np.eye(1, width, dtype=np.float32)[0], None)
        assert tracemalloc.get_traced_memory()[1] < 15e6
    finally:
        tracemalloc.stop()


def test_large_embeddings_are_opened_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "MAX_BYTES_IN_MEMORY", 10)
    vectors = unit_rows(6)
    write_embeddings(tmp_path / "e.parquet", blocks(vectors), PROBE, None)
    with open_embeddings(tmp_path / "e.parquet", PROBE, tmp_path) as opened:
        assert isinstance(opened.vectors, np.memmap)
        np.testing.assert_array_equal(opened.vectors, vectors)


def test_embeddings_of_another_network_are_refused(tmp_path):
    write_embeddings(tmp_path / "e.parquet", blocks(unit_rows(6)), PROBE, None)
    with (
        pytest.raises(RequestError, match=r"e\.parquet: is of another network or size\nuse a file") as error,
        open_embeddings(tmp_path / "e.parquet", PROBE[::-1].copy(), tmp_path),
    ):
        pass
    assert len(str(error.value).splitlines()) == 2


def test_another_width_is_refused(file, tmp_path):
    write_embeddings(file, blocks(unit_rows(6)), PROBE, None)
    with (
        pytest.raises(RequestError, match="have a width of 8, those of this run 4\nuse a file"),
        open_embeddings(file, PROBE[:4], tmp_path),
    ):
        pass


def damage(kind: str, folder):
    vectors = unit_rows(6)
    file = folder / ("e.npy" if kind in ("objects", "rows", "text", "three") else "e.parquet")
    write_embeddings(file, blocks(vectors), PROBE, None)
    match kind:
        case "objects":
            np.save(file, np.array([{}], object), allow_pickle=True)
        case "rows":
            np.save(file, vectors[:5])
        case "three":
            np.save(file, vectors[:, :, None])
        case "text":
            file.write_text("no array")
        case "cut":
            file.write_bytes(file.read_bytes()[:-30])
        case "columns":
            pd.DataFrame({"id": ["a"], "vector": [[1.0]]}).to_parquet(file)
        case "lists":
            pd.DataFrame({"id": ["a"], "embedding": [[1.0] * WIDTH]}).to_parquet(file)
        case "nan":
            vectors[3, 2] = np.nan
            write_embeddings(file, blocks(vectors), PROBE, None)
    return file


@pytest.mark.parametrize("kind", ["objects", "rows", "three", "text", "cut", "columns", "lists", "nan"])
def test_an_unusable_file_is_named_in_two_lines(tmp_path, kind):
    file = damage(kind, tmp_path)
    with (
        pytest.raises(DataError, match=r"use a file that task=embed wrote$") as error,
        open_embeddings(file, PROBE, tmp_path),
    ):
        pass
    first, _ = str(error.value).splitlines()
    assert first.startswith(f"task.against={file}: ")
