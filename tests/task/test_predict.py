"""task=predict, end to end, and its inputs."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.evaluation.open_set import OpenSet
from rp2k_lab.evaluation.predictor import Answers
from rp2k_lab.task import inputs, predict

RUN = "resnet18_shelf_none_seed0"


# Photos that were not found: by other suffixes, without one, in a linked folder.
KINDS = {"a.jfif": "JPEG", "b.tiff": "TIFF", "c.AVIF": "AVIF", "d.jp2": "JPEG2000", "截屏2019-12-09下午7.49": "PNG"}


@pytest.fixture(scope="module")
def recorded(first_run):
    """The predictions that the training recorded for test."""
    return pd.read_parquet(first_run.folder / "out" / "test" / "predictions.parquet")


@pytest.fixture(scope="module")
def folder(recorded, first_request, tmp_path_factory):
    """Forty images of test under their paths, six of other kinds, a broken one, and files to ignore."""
    folder = tmp_path_factory.mktemp("input") / "照片"
    root = first_request[1].root
    for path in recorded["path"][:40]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, folder / path)
    (folder / "broken, 坏.JPG").write_bytes(b"\xff\xd8\xff")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with Image.open(root / recorded["path"][0]) as photo:
        for name, kind in KINDS.items():
            photo.save(elsewhere / name, kind)
    (folder / "more").symlink_to(elsewhere)
    (folder / "up").symlink_to(folder)
    (folder / "notes.md").write_text("no photo")
    (folder / ".hidden.jpg").write_text("no photo")
    return folder


@pytest.fixture(scope="module")
def predicted(later_store, folder, start, tmp_path_factory):
    output = tmp_path_factory.mktemp("output") / "new" / "found.parquet"
    options = [f"task.input='{folder}'", f"task.output={output}", "task.top_k=3"]
    command = start("task=predict", f"runs={RUN}", *options, uri=later_store.uri)
    command.result, command.output = command.wait(), output
    return command


def test_predictions_equal_the_evaluation_at_the_temperature(predicted, recorded, first_run):
    code, out, err = predicted.result
    assert (code, err) == (0, "")
    found = pd.read_parquet(predicted.output)
    more = found["path"].str.startswith("more/")
    assert found.loc[more, "path"].tolist() == [f"more/{name}" for name in KINDS]
    found = found[~more].reset_index(drop=True)
    assert list(found) == ["path", "top1", "p1", "top2", "p2", "top3", "p3", "known", "score", "p_value"]
    expected = recorded[:40].sort_values("path", ignore_index=True)
    names = ["path", "top1", "top2", "top3"]
    pd.testing.assert_frame_equal(found[names], expected[names])
    open_set = OpenSet.from_text((first_run.folder / "out" / "open_set.json").read_text("utf-8"))
    for lower in ("p2", "p3"):  # a temperature divides the logits, and so the logarithms of ratios
        ratios, raw = np.log(found["p1"] / found[lower]), np.log(expected["p1"] / expected[lower])
        np.testing.assert_allclose(ratios, raw / open_set.temperature, atol=1e-4)
    np.testing.assert_allclose(found["score"], found["p1"], atol=1e-6)
    np.testing.assert_array_equal(found["known"], found["p_value"] > 0.05)
    assert f"predictions {predicted.output}" in out


def test_unreadable_images_are_listed(predicted):
    bad = pd.read_csv(predicted.output.with_name("found.unreadable.csv"))
    assert bad["path"].tolist() == ["broken, 坏.JPG"]
    assert "damaged JPEG of 3 bytes" in bad["problem"][0]
    assert "1 of 46 cannot be read" in predicted.result[1]


def test_what_is_no_photo_is_listed(predicted):
    unused = pd.read_csv(predicted.output.with_name("found.unused.csv"))
    reasons = {".hidden.jpg": "a hidden file", "notes.md": "no photo", "up/": "a link to a folder above it"}
    assert dict(zip(unused["path"], unused["reason"], strict=True)) == reasons
    assert "3 other files and folders are listed in" in predicted.result[1]


def test_prediction_is_a_run_with_parent_and_files(first_run, later_store, predicted):
    run, (parent,) = later_store.run_of(predicted.result[1]), first_run.store.runs()
    assert run.data.tags["parent"] == parent.info.run_id
    assert (run.data.tags["photos"], run.data.tags["unreadable_photos"]) == ("46", "1")
    files = {path.name for path in later_store.artifacts(run).iterdir()}
    assert files == {"config.yaml", "environment.txt", "found.parquet", "found.unreadable.csv", "found.unused.csv"}


def test_only_unreadable_images_keep_an_earlier_table(tmp_path):
    output = tmp_path / "found.csv"
    output.write_text("earlier")
    columns = {"top1": np.array(["x"]), "p1": np.zeros(1)}
    written = predict.write_predictions(output, ["a.jpg"], columns, {0: "empty"})
    assert written == [tmp_path / "found.unreadable.csv"]
    assert output.read_text() == "earlier"


def test_no_readable_image_is_unusable_data_and_a_failed_run(request_of, later_store, tmp_path):
    (tmp_path / "a.jpg").write_text("no photo")
    (tmp_path / "list.txt").write_text("a.jpg\ngone.jpg\n")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError) as error:  # which ends the process with 3
        predict.run(request_of("task=predict", f"task.input={tmp_path}/list.txt"), tmp_path / "out")
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{tmp_path}/a.jpg: ")
    assert "none of 2 photos" in first
    listed = pd.read_csv(second.removeprefix("see "))
    assert listed["path"].tolist() == ["a.jpg", "gone.jpg"]
    assert "No such file" in listed["problem"][1]
    assert not (tmp_path / "out" / "predictions.csv").exists()
    newest = max(later_store.runs(), key=lambda run: run.info.start_time)
    assert (newest.info.status, newest.data.tags["unreadable_photos"]) == ("FAILED", "2")


def test_readable_images_remove_an_earlier_list_of_unreadable_ones(tmp_path):
    output = tmp_path / "found.csv"
    (tmp_path / "found.unreadable.csv").write_text("earlier")
    labels, probabilities = np.array([[1, 0], [0, 1]]), np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)
    names = ["a, b.jpg", "\udcff.jpg"]  # a name that is no UTF-8, as Python gives it
    columns = predict.answer_columns(Answers(labels, probabilities, np.ones(2)), ["甲", "乙"])
    assert predict.write_predictions(output, names, columns, {}) == [output]
    assert not (tmp_path / "found.unreadable.csv").exists()
    assert output.read_bytes().startswith(b"\xef\xbb\xbf")  # for Excel
    expected = 'path,top1,p1,top2,p2\n"a, b.jpg",乙,0.75,甲,0.25\n\\xff.jpg,甲,0.5,乙,0.5\n'
    assert output.read_text("utf-8-sig") == expected


def test_only_readable_images_have_rows(tmp_path):
    columns = {"top1": np.array(["x", "y", "z"], object)}
    files = predict.write_predictions(tmp_path / "f.csv", ["a", "b", "c"], columns, {1: "bad"})
    assert pd.read_csv(files[0])["top1"].tolist() == ["x", "z"]


def test_unreadable_image_is_black_in_every_preprocessing_and_reported(tmp_path, write_photo):
    problems = {}
    paths = [str(write_photo(tmp_path / "good.png", 20, 30)), str(tmp_path / "gone.png")]
    views = inputs.readable_views(paths, [((32, 32), "letterbox"), ((16, 16), "stretch")], problems)
    assert [view.shape for view in views(0)] == [(32, 21, 3), (16, 16, 3)]
    assert all(not view.any() for view in views(1))
    assert len(views(1)) == 2
    assert problems == {1: "No such file or directory"}


@pytest.mark.parametrize("name", ["pipe.jpg", "folder.jpg", "nul\0.jpg"])
def test_irregular_files_are_reported_without_blocking(tmp_path, name):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    problems = {}
    inputs.readable_views([str(tmp_path / name)], [((32, 32), "letterbox")], problems)(0)
    assert problems == {0: "embedded null byte" if "\0" in name else "no regular file"}


def test_folder_gives_all_images_below_it_sorted(folder, recorded):
    root, names, _ = inputs.find_images(folder)
    assert root == folder
    assert names == sorted(["broken, 坏.JPG", *recorded["path"][:40], *(f"more/{name}" for name in KINDS)])


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.jpg").touch()
    scandir = os.scandir

    def closed(folder):
        if os.fspath(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    unused = [("closed/", "the folder cannot be listed (Permission denied)")]
    assert inputs.find_images(tmp_path) == (tmp_path, ["a.jpg"], unused)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", "\ufeffa b.jpg\r\n\r\n/abs/伊利\u2028.jpg\n"),
        ("list.csv", "\ufefftrue,path\n1,a b.jpg\n2,/abs/伊利\u2028.jpg\n"),
    ],
)
def test_list_gives_its_paths_unchanged(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    assert inputs.find_images(tmp_path / name) == (tmp_path, ["a b.jpg", "/abs/伊利\u2028.jpg"], [])


def test_single_image(tmp_path):
    assert inputs.find_images(tmp_path / "a.webp") == (tmp_path, ["a.webp"], [])


@pytest.mark.parametrize("name", ["empty", "list.txt"])
def test_no_image_is_unusable_data(tmp_path, name):
    (tmp_path / "empty" / "below").mkdir(parents=True)
    (tmp_path / "empty" / "below" / "x.txt").touch()
    (tmp_path / "list.txt").write_text("\n\n")
    with pytest.raises(DataError, match=r"names no photo(, only 1 \.txt)?\nuse JPEG, "):
        inputs.find_images(tmp_path / name)


@pytest.mark.parametrize("encoding", ["gbk", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize(("name", "content"), [("a.csv", "Path ;n\r\n红枣/1.jpg;1\r\n"), ("a.txt", "红枣/1.jpg\r\n")])
def test_lists_of_spreadsheets_and_other_editors_are_read(tmp_path, encoding, name, content):
    (tmp_path / name).write_text(content, encoding, newline="")
    assert inputs.find_images(tmp_path / name).names == ["红枣/1.jpg"]


@pytest.mark.parametrize(("name", "content"), [("a.csv", b"file\na.jpg\n"), ("a.csv", b""), ("a.txt", b"\xff\xfe\n")])
def test_invalid_list_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=r"\.(csv|txt): (has no column path|is empty|neither UTF-8)") as error:
        inputs.find_images(tmp_path / name)
    assert len(str(error.value).splitlines()) == 2


def test_a_few_predictions_are_printed():
    columns = {
        "top1": np.array(["伊利 纯牛奶", "b\x1b[2J", "c"], object),
        "p1": np.array([0.932, 0.5, 1]),
        "top2": np.array(["d", "e" * 100, "f"], object),
        "p2": np.array([0.041, 0.25, 0]),
        "known": np.array([True, False, True]),
    }
    lines = predict.predicted_lines(["a.jpg", "坏/b.jpg", "c.jpg"], columns, {2: "damaged"}).splitlines()
    assert lines[:4] == ["", "a.jpg", "   93.2 %  伊利 纯牛奶", "    4.1 %  d"]
    assert lines[4:7] == ["", "坏/b.jpg (unknown)", "   50.0 %  b\\x1b[2J"]
    assert lines[7].startswith("   25.0 %  eeee")
    assert len(lines[7]) < 85
    assert len(lines) == 8
