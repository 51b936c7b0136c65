"""task=embed end to end: photos and splits, neighbors, and what is refused."""

import base64
import os
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from mindspore import Tensor

from rp2k_lab.analysis.embeddings import Embeddings
from rp2k_lab.analysis.neighbors import nearest
from rp2k_lab.analysis.subject import Subject
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.evaluation.outputs import Outputs
from rp2k_lab.evaluation.predictor import Predictor
from rp2k_lab.task import embed
from rp2k_lab.tracking.tracker import MemoryTracker
from rp2k_lab.train.build import batches_for, build_views
from rp2k_lab.train.trained_models import load_members

RUN = "resnet18_shelf_none_seed0"


@pytest.fixture(scope="module")
def split_run(later_store, start):
    """The embeddings of test, and the three nearest images of train."""
    command = start("task=embed", f"runs={RUN}", "task.split=test", "task.neighbors=3", uri=later_store.uri)
    command.result = command.wait()
    return command


@pytest.fixture(scope="module")
def folder(first_request, tmp_path_factory):
    """Thirty images of test under their paths, a broken one, and a file to ignore."""
    folder = tmp_path_factory.mktemp("input") / "照片"
    index = first_request[1]
    for path in index.split("test")["path"][:30]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(index.root / path, folder / path)
    (folder / "broken, 坏.JPG").write_bytes(b"\xff\xd8\xff")
    (folder / "notes.md").write_text("no photo")
    return folder


def read(file) -> tuple[pd.DataFrame, np.ndarray]:
    table = pd.read_parquet(file)
    return table, np.stack(table["embedding"])


def test_a_split_has_ids_classes_and_embeddings_of_length_1(split_run, first_request):
    code, _, err = split_run.result
    assert (code, err) == (0, "")
    table, vectors = read(split_run.folder / "out" / "embeddings.parquet")
    rows = first_request[1].split("test")
    assert table["id"].tolist() == rows["path"].tolist()
    assert table["class"].tolist() == rows["class"].tolist()
    assert set(table["split"]) == {"test"}
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_neighbors_are_the_training_images_of_largest_cosine(split_run, first_request, request_of):
    """The features of train have been computed by now; faiss and NumPy take the same vectors."""
    table, vectors = read(split_run.folder / "out" / "embeddings.parquet")
    found = pd.read_csv(split_run.folder / "out" / "neighbors.csv", encoding="utf-8-sig", dtype={"class": str})
    assert list(found) == ["path", "rank", "neighbor", "class", "cosine"]
    assert found["path"].tolist() == np.repeat(table["id"], 3).tolist()
    assert found["rank"].tolist() == [1, 2, 3] * len(table)
    config, index = request_of("task=embed", "task.split=test"), first_request[1]
    (run,), (member,) = load_members([config])
    known, train = Subject(config, index, run, member).features("train"), index.split("train")
    positions, distances = nearest(vectors, known, 3)
    assert found["neighbor"].tolist() == train["path"].to_numpy()[positions].ravel().tolist()
    assert found["class"].tolist() == train["class"].to_numpy()[positions].ravel().tolist()
    np.testing.assert_allclose(found["cosine"], 1 - distances.ravel(), atol=2e-6)


@pytest.mark.soak
def test_embeddings_equal_the_outputs_of_the_network(split_run, first_request, request_of):
    _, vectors = read(split_run.folder / "out" / "embeddings.parquet")
    config, index = request_of("task=embed", "task.split=test", batch_size=80), first_request[1]
    _, (member,) = load_members([config])
    predictor = Predictor([member], 80)
    views, rows = build_views(predictor, index, 0), index.split("test")["row"].tolist()
    (images,) = next(batches_for(predictor, views, rows, config))
    expected = Outputs(member.network).set_train(False)(Tensor(images))[2].asnumpy()
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.soak
def test_an_image_of_train_is_no_neighbor_of_itself(embed_here):
    out = embed_here("task.split=train", "task.neighbors=1")
    found = pd.read_csv(out / "neighbors.csv", encoding="utf-8-sig")
    assert len(found) == 300
    assert (found["path"] != found["neighbor"]).all()


def test_the_embedding_is_a_run_with_parent_and_files(first_run, later_store, split_run):
    run, (parent,) = later_store.run_of(split_run.result[1]), first_run.store.runs()
    assert run.data.tags["parent"] == parent.info.run_id
    assert (run.data.tags["task"], run.data.tags["photos"]) == ("embed", "80")
    files = {path.name for path in later_store.artifacts(run).iterdir()}
    assert files == {"config.yaml", "environment.txt", "classes.txt", "embeddings.parquet", "neighbors.csv"}
    assert f"neighbors   {split_run.folder}/out/neighbors.csv" in split_run.result[1]


@pytest.fixture
def embed_here(request_of, tmp_path):
    """embed_here(*overrides): run the task in this process; returns the run's folder."""

    def run(*overrides: str):
        (tmp_path / "out").mkdir(exist_ok=True)
        embed.run(request_of("task=embed", *overrides), tmp_path / "out")
        return tmp_path / "out"

    return run


@pytest.mark.slow
def test_photos_have_the_embeddings_of_the_split_and_problems_are_listed(
    embed_here, folder, split_run, tmp_path, capsys
):
    against = split_run.folder / "out" / "embeddings.parquet"
    output = tmp_path / "new" / "photos.npy"
    out = embed_here(f"task.input='{folder}'", f"task.output={output}", "task.neighbors=1", f"task.against={against}")
    vectors, ids = np.load(output), pd.read_csv(output.with_name("photos.ids.csv"), encoding="utf-8-sig")
    table, expected = read(against)
    assert vectors.shape == (30, expected.shape[1])
    np.testing.assert_allclose(vectors, expected[table["id"].isin(ids["id"])], atol=1e-5)
    assert pd.read_csv(output.with_name("photos.unreadable.csv"))["path"].tolist() == ["broken, 坏.JPG"]
    assert pd.read_csv(output.with_name("photos.unused.csv"))["path"].tolist() == ["notes.md"]
    found = pd.read_csv(out / "neighbors.csv", encoding="utf-8-sig")
    assert (found["path"] == found["neighbor"]).all()
    assert found["cosine"].min() > 0.9999
    printed = capsys.readouterr().out
    assert "30 photos embedded in " in printed
    assert "1 of 31 cannot be read and are listed in" in printed


@pytest.mark.soak
def test_no_readable_photo_is_unusable_data_and_keeps_an_earlier_file(embed_here, later_store, tmp_path):
    (tmp_path / "list.txt").write_text("gone.jpg\n")
    (tmp_path / "e.parquet").write_text("earlier")
    with pytest.raises(
        DataError, match=r"gone\.jpg: No such file .*; none of 1 photos can be read\nsee .*unreadable\.csv$"
    ):
        embed_here(f"task.input={tmp_path}/list.txt", f"task.output={tmp_path}/e.parquet")
    assert (tmp_path / "e.parquet").read_text() == "earlier"
    newest = max(later_store.runs(), key=lambda run: run.info.start_time)
    assert (newest.info.status, newest.data.tags["unreadable_photos"]) == ("FAILED", "1")


@pytest.mark.soak
def test_a_file_of_another_network_is_refused_before_photos_are_read(embed_here, split_run, folder, tmp_path):
    file = tmp_path / "other.parquet"
    table = pq.read_table(split_run.folder / "out" / "embeddings.parquet")
    probe = np.frombuffer(base64.b64decode(table.schema.metadata[b"rp2k_lab.probe"]), "<f4")[::-1]
    pq.write_table(table.replace_schema_metadata({"rp2k_lab.probe": base64.b64encode(probe.tobytes())}), file)
    with pytest.raises(RequestError, match=r"other\.parquet: is of another network or size\n"):
        embed_here(f"task.input='{folder}'", "task.neighbors=1", f"task.against={file}")
    assert not os.path.exists(tmp_path / "out" / "embeddings.parquet")


def test_large_files_are_named_by_a_tag_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "MAX_ARTIFACT_BYTES", 3)
    for name, text in (("large.npy", "1234"), ("small.csv", "123")):
        (tmp_path / name).write_text(text)
    tracker = MemoryTracker()
    embed.record_files(tracker, [tmp_path / "large.npy", tmp_path / "small.csv"])
    assert [os.path.basename(path) for path in tracker.artifacts] == ["small.csv"]
    assert tracker.tags == {"file_large.npy": str(tmp_path / "large.npy")}


def test_an_image_is_not_its_own_neighbor_even_behind_its_copy():
    positions, cosines = np.array([[0, 2], [3, 0], [4, 5]]), np.array([[1.0, 0.9], [1.0, 0.8], [0.7, 0.6]])
    others, values = embed.without_itself(positions, cosines, 0)
    assert others.tolist() == [[2], [3], [4]]  # the second has equal copies before it, and does not appear
    assert values.tolist() == [[0.9], [1.0], [0.7]]


def test_positions_that_an_index_did_not_find_have_no_row():
    known = Embeddings(["a", "b"], ["x", ""], np.zeros((2, 1), np.float32))
    table = embed.neighbor_table(["p", "q"], np.array([[1, -1], [0, 1]]), np.array([[0.5, -9], [0.4, 0.3]]), known)
    assert table.to_numpy().tolist() == [["p", 1, "b", "", 0.5], ["q", 1, "a", "x", 0.4], ["q", 2, "b", "", 0.3]]
