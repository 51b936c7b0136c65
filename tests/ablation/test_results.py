"""results.csv and images.csv: written results are read back, damaged files are refused."""

import numpy as np
import pandas as pd
import pytest

from rp2k_lab import PROJECT
from rp2k_lab.ablation import results as module
from rp2k_lab.ablation.results import (
    COLUMNS,
    IMAGES,
    RESULTS,
    image_row,
    images_digest,
    metric_columns,
    pack,
    read_results,
    unpack,
    write_results,
)
from rp2k_lab.core.errors import DataError
from tests.helpers import synthetic_results


@pytest.fixture
def frames():
    """Return results of three levels, one of them unfinished."""
    cells, images = synthetic_results.results({"none": 0.6, "其他, 'NA'": 0.7}, seeds=(10, 2), images=203)
    more = [
        synthetic_results.unfinished("NA", 2, "failed", 'no\nmemory, "\r\0'),
        synthetic_results.unfinished("NA", 10, "running"),
    ]
    return pd.concat([cells, pd.DataFrame(more)]), images


@pytest.mark.parametrize("images", [1, 7, 8, 9, 203])
def test_unpack_inverts_pack(images):
    correct = np.random.default_rng(images).random(images) < 0.5
    text = pack(correct)
    assert text.isascii()
    np.testing.assert_array_equal(unpack(text, images), correct)
    with pytest.raises(ValueError, match="not the correctness"):
        unpack(text, images + 8)


def test_pack_is_portable():
    assert pack([True, False, False, False, False, False, False, True, True]) == "gYA="
    with pytest.raises(ValueError, match="of 7 images"):
        unpack("gYA=", 7)
    with pytest.raises(ValueError, match=r"base64|padding"):
        unpack("gY*A=", 9)


def test_images_digest_depends_on_paths_classes_and_order():
    digest = images_digest(["a", "b"], ["x", "y"])
    assert digest == "938fbc1003662239"  # sha256 of a\0x\0b\0y\0
    variants = [(["b", "a"], ["x", "y"]), (["a", "b"], ["y", "x"]), (["a"], ["x"]), (["ab", ""], ["x", "y"])]
    assert len({digest, *(images_digest(*variant) for variant in variants)}) == 5


@pytest.mark.parametrize("largest", [3, 70_000])
def test_image_rows_keep_labels_and_groups(tmp_path, largest):
    labels, groups = np.array([0, 2, largest]), np.array([0, 1, 2])
    cells, _ = synthetic_results.results({"a": 0.5}, seeds=[0])
    row = pd.DataFrame([image_row("d" * 16, labels, groups)])
    written = write_results(tmp_path, cells.iloc[:0], row)
    assert written.labels["d" * 16].tolist() == labels.tolist()
    assert written.groups["d" * 16].tolist() == groups.tolist()


def test_written_results_are_read_back(tmp_path, frames):
    cells, images = frames
    written = write_results(tmp_path / "new" / "folder", cells, images)
    read = read_results(tmp_path / "new" / "folder")
    assert [(row.level, row.seed) for row in read.table.itertuples()] == [
        (level, seed) for level in ("none", "其他, 'NA'", "NA") for seed in (2, 10)
    ]
    assert list(read.table.columns) == list(COLUMNS)
    accuracies = list(module.ACCURACIES)
    np.testing.assert_allclose(read.table[accuracies], written.table[accuracies], atol=5e-9)
    pd.testing.assert_frame_equal(read.table.drop(columns=accuracies), written.table.drop(columns=accuracies))
    for level in ("none", "其他, 'NA'"):
        given = cells[cells["level"] == level].set_index("seed")["correct"]
        expected = [unpack(given[seed], 203) for seed in (10, 2)]
        np.testing.assert_array_equal(read.correct(level, (10, 2)), expected)
    failed = read.table[read.table["state"] == "failed"].iloc[0]
    assert failed["reason"] == 'no\\nmemory, "\\r\\x00'
    assert pd.isna(failed["top1"])
    assert pd.isna(failed["dirty"])
    assert not read.table["dirty"].iloc[0]


def test_equal_results_give_equal_bytes(tmp_path, frames):
    cells, images = frames
    write_results(tmp_path / "a", cells, images)
    write_results(tmp_path / "b", cells.iloc[[1, 0, 3, 2, 5, 4]], images)  # other seeds first
    read = read_results(tmp_path / "a")
    write_results(tmp_path / "c", read.table, read.images)
    for name in (RESULTS, IMAGES):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


@pytest.mark.parametrize("folder", sorted(file.parent for file in PROJECT.glob("experiments/*/*/results.csv")), ids=str)
def test_committed_results_are_rewritten_byte_for_byte(tmp_path, folder):
    read = read_results(folder)
    write_results(tmp_path, read.table, read.images)
    for name in (RESULTS, IMAGES):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_unknown_columns_are_kept_as_text(tmp_path, frames):
    """Metrics of a package that is not installed, say; names that the code uses itself are not special."""
    cells, images = frames
    more = {"zeta": ["0.5000", None, "NA", "", "1e400", 'x,"y"'], "rank": range(6), "Index": "a", "two words": 1}
    written = write_results(tmp_path / "a", cells.assign(**more), images)
    assert list(written.table.columns[-6:]) == ["val_top1", "Index", "rank", "two words", "zeta", "correct"]
    read = read_results(tmp_path / "a")
    assert read.table["zeta"].tolist() == ["", "0.5000", "", "NA", "1e400", 'x,"y"']  # seed 2 before 10
    assert read.table["rank"].tolist() == written.table["rank"].tolist() == ["1", "0", "3", "2", "4", "5"]
    write_results(tmp_path / "b", read.table, read.images)
    assert (tmp_path / "a" / RESULTS).read_bytes() == (tmp_path / "b" / RESULTS).read_bytes()
    assert metric_columns(read.table) == list(module.ACCURACIES)


def test_groups_of_the_images_count(frames, caplog):
    """Cells of a version with other borders between head, medium and tail are compared on the same classes."""
    caplog.set_level("INFO")
    cells, images = frames
    before = module.check_results(cells, images, "synthetic").table
    assert not caplog.messages
    assert (before["tail_top1"].dropna() != 0.5).any()
    after = module.check_results(
        cells.assign(tail_top1=cells["tail_top1"].where(cells["tail_top1"].isna(), 0.5)), images, "synthetic"
    ).table
    pd.testing.assert_frame_equal(after, before)
    assert "accuracies of head, medium or tail are computed again" in caplog.text


@pytest.mark.parametrize("change", [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n")])
def test_files_that_a_spreadsheet_saved_are_read(tmp_path, frames, change):
    written = write_results(tmp_path, *frames)
    for name in (RESULTS, IMAGES):
        text = change((tmp_path / name).read_text("utf-8"))
        (tmp_path / name).write_text(text, "utf-8", newline="")
    pd.testing.assert_frame_equal(read_results(tmp_path).table, written.table)


def test_files_are_replaced_atomically(tmp_path, frames, monkeypatch):
    cells, images = frames
    write_results(tmp_path, cells, images)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(before) == {RESULTS, IMAGES}

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(module.Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_results(tmp_path, cells.iloc[:2], images)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_inconsistent_results_are_not_written(tmp_path, frames):
    cells, images = frames
    with pytest.raises(DataError, match=r"not in images\.csv"):
        write_results(tmp_path, cells, images.iloc[:0])
    assert not any(tmp_path.iterdir())


def first_cell(**changes):
    """Return a change of the first row of results.csv."""
    return RESULTS, lambda table: table.assign(**{c: [v, *table[c][1:]] for c, v in changes.items()})


def flipped(table):
    correct = unpack(table["correct"][0], 203)
    return table.assign(correct=[pack(np.r_[~correct[:1], correct[1:]]), *table["correct"][1:]])


def relabeled(table):
    """Change the class of one image: top-1 stays, macro top-1 does not."""
    digest, labels, groups = synthetic_results.split_of(203)
    labels = labels.copy()
    labels[-1] = 0
    return pd.DataFrame([image_row(digest, labels, groups)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param((RESULTS, lambda t: t.drop(columns="seed")), "no column seed", id="column"),
        pytest.param((RESULTS, lambda t: pd.concat([t, t.iloc[:1]])), "duplicate cell: none, seed 2", id="duplicate"),
        pytest.param((RESULTS, flipped), "top1 .* contradicts its images", id="an image flipped"),
        pytest.param((IMAGES, relabeled), "macro_top1 .* contradicts its images", id="another label"),
        pytest.param(first_cell(top1=""), "top1 nan", id="no top-1"),
        pytest.param(first_cell(top1="1.2"), "column top1: a value is not of kind fraction", id="top-1 above 1"),
        pytest.param(first_cell(seed="x"), "column seed", id="seed"),
        pytest.param(first_cell(seed=""), "needs a seed", id="no seed"),
        pytest.param(first_cell(seed="-1"), "column seed", id="negative seed"),
        pytest.param(first_cell(state="done"), "complete, failed, running", id="state"),
        pytest.param(first_cell(dirty="perhaps"), "column dirty: a value is not of kind boolean", id="dirty"),
        pytest.param(first_cell(images="204"), "204 images, but .* has 203", id="images"),
        pytest.param(first_cell(images_digest=""), "blank", id="no digest"),
        pytest.param(first_cell(correct="!"), "base64|padding|discontinuous|alphabet", id="not base64"),
        pytest.param(first_cell(correct=""), "not the correctness", id="no correctness"),
        pytest.param((IMAGES, lambda t: t.assign(images=["204"])), "do not have 204 entries", id="image count"),
        pytest.param((IMAGES, lambda t: t.assign(labels=t["groups"])), "labels or clusters do not have", id="labels"),
        pytest.param((IMAGES, lambda t: t.assign(groups=["eJwDAAAAAAE="])), "groups do not have", id="groups"),
        pytest.param((IMAGES, lambda t: t.assign(groups=["AAAA"])), "results.csv", id="no zlib"),
    ],
)
def test_damaged_results_are_refused_in_two_lines(tmp_path, frames, change, message):
    write_results(tmp_path, *frames)
    name, changed = change
    table = pd.read_csv(tmp_path / name, dtype=str, keep_default_na=False)
    changed(table).to_csv(tmp_path / name, index=False)
    with pytest.raises(DataError, match=message) as error:
        read_results(tmp_path)
    assert len(str(error.value).splitlines()) == 2
    assert str(error.value).startswith(str(tmp_path))


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\0", b'level\n"a', b"a,b\n1,2,3\n1,2,3,4\n"])
@pytest.mark.parametrize("name", [RESULTS, IMAGES])
def test_files_other_than_tables_are_refused(tmp_path, frames, name, content):
    write_results(tmp_path, *frames)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read_results(tmp_path)
    assert len(str(error.value).splitlines()) == 2
    assert str(tmp_path) in str(error.value)


def test_clusters_and_parts_are_read_back(tmp_path):
    cells, images = synthetic_results.results({"a": 0.5}, (0,), 90)
    digest, labels, groups = synthetic_results.split_of(90)
    names = np.array([f"scene {i // 7}" for i in range(90)])
    parts = {"倾斜": np.arange(90) % 3 == 0, "all": np.ones(90, bool)}
    row = image_row(digest, labels, groups, names, parts)
    write_results(tmp_path, cells, pd.DataFrame([row]))
    read = read_results(tmp_path)
    assert read.parts[digest].keys() == parts.keys()
    for name, part in parts.items():
        np.testing.assert_array_equal(read.parts[digest][name], part)
    clusters = read.clusters[digest]
    np.testing.assert_array_equal(clusters[:, None] == clusters, names[:, None] == names)
    write_results(tmp_path, cells, images)
    assert (read_results(tmp_path).clusters, read_results(tmp_path).parts) == ({}, {})
    assert (tmp_path / IMAGES).read_text("utf-8").splitlines()[0] == "digest,images,labels,groups"
    for change in ({"clusters": image_row(digest, labels[:5], groups)["labels"]}, {"parts": "[1]"}, {"parts": "{"}):
        with pytest.raises(DataError):
            write_results(tmp_path, cells, pd.DataFrame([row | change]))
