import numpy as np
import pandas as pd
import pytest

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.dataset.photo_index import build_index
from rp2k_lab.dataset.relabel import read_relabels, relabel, write_relabels
from tests.helpers.dataset_options import dataset

CLASSES = ["NA", "红枣", "椰子"]
TABLE = pd.DataFrame(
    [
        ("train/NA/1.jpg", "NA", "train"), ("train/NA/2.jpg", "NA", "train"), ("train/红枣/1.jpg", "红枣", "train"),
        ("train/红枣/2.jpg", "红枣", "train"), ("train/椰子/1.jpg", "椰子", "train"),
        ("train/椰子/2.jpg", "椰子", "val"),
        ("test/NA/1.jpg", "NA", "test"),
    ],
    columns=["path", "class", "split"],
)  # fmt: skip
HEAD = "path,given,suggested,score"
GOOD = "train/NA/2.jpg,NA,红枣,0.9"


@pytest.fixture
def reviewed(tmp_path):
    """Return reviewed(*lines, head), which writes a list."""

    def write(*lines, head=HEAD, encoding="utf-8"):
        file = tmp_path / "reviewed.csv"
        file.write_text("\n".join([head, *lines]) + "\n", encoding)
        return file

    return write


def labels(file, table=TABLE):
    return relabel(table, TABLE, CLASSES, file).tolist()


def test_only_the_listed_images_change(reviewed):
    assert labels(reviewed(GOOD)) == ["NA", "红枣", *TABLE["class"][2:]]


def test_the_given_table_does_not_change(reviewed):
    before = TABLE.copy()
    labels(reviewed(GOOD))
    pd.testing.assert_frame_equal(TABLE, before)


@pytest.mark.parametrize(("decision", "new"), [("yes", "红枣"), (" Yes", "红枣"), ("no", "NA"), ("", "NA")])
def test_a_decision_accepts_or_rejects_a_line(reviewed, decision, new):
    assert labels(reviewed(f"{GOOD},{decision}", head=f"{HEAD},decision"))[1] == new


@pytest.mark.parametrize("column", ["Decision", " decision", "DECISION ", "\ufeffdecision"])
def test_a_rejected_line_is_not_followed_however_its_column_is_written(reviewed, column, caplog):
    caplog.set_level("INFO")
    lines = (f"{GOOD},no", "train/红枣/1.jpg,红枣,NA,0.7, YES", "train/红枣/2.jpg,红枣,NA,0.7,")
    assert labels(reviewed(*lines, head=f"{HEAD},{column}"))[:4] == ["NA", "NA", "NA", "红枣"]
    assert "1 of 3 lines are applied (1 yes, 1 no, 1 without a decision)" in caplog.text


def test_without_a_decision_all_lines_are_followed_and_that_is_said(reviewed, caplog):
    caplog.set_level("INFO")
    labels(reviewed(GOOD))
    assert "all 1 lines are applied, since there is no column decision" in caplog.text


@pytest.mark.parametrize("encoding", ["gbk", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_list_reviewed_in_excel_is_read(reviewed, encoding, separator):
    file = reviewed(f"{GOOD},yes".replace(",", separator), head=f"{HEAD},Decision".replace(",", separator),
                    encoding=encoding)  # fmt: skip
    assert labels(file)[1] == "红枣"


def test_names_with_spaces_around_them_are_found(reviewed):
    assert labels(reviewed('"train/NA/2.jpg ",NA ,红枣\u3000,0.9'))[1] == "红枣"


@pytest.mark.parametrize(
    ("line", "changed"), [("train/007/1.jpg,7,红枣,1", "7"), ("train/007/1.jpg,007,6.90123E+12,1", "6.90123E\\+12")]
)
def test_names_that_a_spreadsheet_changed_are_explained(reviewed, line, changed):
    table = pd.DataFrame([("train/007/1.jpg", "007", "train"), *TABLE.to_numpy().tolist()], columns=TABLE.columns)
    with pytest.raises(
        RequestError, match=rf"line 2: {changed} is not what was typed: a spreadsheet changed it\nformat the column"
    ):
        relabel(table, table, ["007", *CLASSES], reviewed(line))


def test_a_spreadsheets_list_is_read(reviewed):
    """A byte order mark, other columns, another order, an empty line."""
    file = reviewed('x,红枣,NA,"train/NA/2.jpg"', "", head="note,suggested,given,path", encoding="utf-8-sig")
    assert labels(file)[1] == "红枣"


def test_a_written_list_is_read_back(tmp_path):
    suspects = pd.DataFrame(
        {
            "path": ['train/a, "b"/1.jpg', "train/NA/截屏.png"],
            "row": [4, 2],
            "given": ['a, "b"', "NA"],
            "suggested": ["555（冰炫）", "001"],
            "score": np.float32([0.98765, 0.5]),
        }
    )
    write_relabels(suspects, tmp_path / "list.csv")
    assert (tmp_path / "list.csv").read_text("utf-8-sig").splitlines()[0] == "path,given,suggested,score"
    read = read_relabels(tmp_path / "list.csv")
    assert read.to_numpy().tolist() == suspects[["path", "given", "suggested"]].to_numpy().tolist()


def test_a_class_may_be_called_na(reviewed):
    assert labels(reviewed("train/红枣/1.jpg,红枣,NA,0.7"))[2] == "NA"


def test_listed_images_outside_of_the_run_have_no_effect(reviewed):
    assert labels(reviewed(GOOD), TABLE.iloc[2:]) == TABLE["class"][2:].tolist()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "train/NA/3.jpg,NA,红枣,1",
            r"line 3: train/NA/3.jpg is no photo of this data set\nuse paths below dataset.root",
        ),
        ("train/椰子/2.jpg,椰子,NA,1", r"line 3: train/椰子/2.jpg is not in train: .*\nleave it out"),
        ("test/NA/1.jpg,NA,红枣,1", r"line 3: test/NA/1.jpg is not in train: .*\nleave it out"),
        ("train/NA/1.jpg,椰子,红枣,1", r"line 3: train/NA/1.jpg has another label than in the list's column given\n"),
        ("train/NA/1.jpg,NA,葡萄,1", r"line 3: 葡萄 is no class of this data set\n"),
        ("train/NA/2.jpg,NA,椰子,1", r"line 3: train/NA/2.jpg is a duplicate of an earlier line\n"),
        ("train/NA/1.jpg,NA,椰子,1", r"leaves no training photo of the class NA\n"),
    ],
)
def test_wrong_lines_are_refused(reviewed, line, reason):
    with pytest.raises(RequestError, match=rf"^dataset\.relabel=.*reviewed\.csv.*{reason}"):
        labels(reviewed(GOOD, line))


def test_more_errors_of_a_kind_are_counted(reviewed):
    with pytest.raises(RequestError, match=r"train/a is no photo .* \(and 1 more\)\n"):
        labels(reviewed("train/a,NA,红枣,1", "train/b,NA,红枣,1"))


def test_an_unknown_decision_is_refused(reviewed):
    with pytest.raises(RequestError, match=r"line 2: maybe is no decision\nwrite yes, no or nothing$"):
        read_relabels(reviewed(f"{GOOD},maybe", head=f"{HEAD},decision"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"path,given\n", "has no column suggested"),
        (b"", "is empty\nsave it"),
        (b"\xff\xfe\xfd", "neither UTF-8 nor"),
        (None, "cannot be read"),
        (b"path,given,suggested,descision\n", "has an unknown column descision\ncall it decision if it accepts"),
        (b"path,given,suggested,\na,b,c,no\n", "has an unknown column column 4"),
        (b"path,given,suggested,decision, Decision\n", "has two columns decision"),
    ],
)
def test_other_files_are_refused(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(RequestError, match=rf"^dataset\.relabel=.*list\.csv: {reason}") as error:
        read_relabels(tmp_path / "list.csv")
    assert str(error.value).count("\n") == 1


class TestIndex:
    @pytest.fixture
    def root(self, tmp_path, write_photo, data_folder):
        for name in "ab":
            for i in range(6):
                write_photo(tmp_path / "set" / "train" / name / f"{i}.png", seed=i)
            write_photo(tmp_path / "set" / "test" / name / "t.png")
        return tmp_path / "set"

    @pytest.fixture
    def index(self, root, reviewed):
        """Return index(*lines), which builds the index with a list of these lines, or without a list."""

        def index(*lines, **changes):
            return build_index(dataset(root, relabel=reviewed(*lines) if lines else None, **changes))

        return index

    def test_the_label_changes_and_the_images_stay(self, index):
        before = index()
        path = before.split("train")["path"].iloc[0]
        after = index(f"{path},a,b,1")
        changed = before.table["label"] != after.table["label"]
        assert before.table.loc[changed, "path"].tolist() == [path]
        assert after.table.loc[changed, "class"].tolist() == ["b"]
        pd.testing.assert_series_equal(before.table["path"], after.table["path"])

    def test_is_part_of_the_fingerprint_but_not_of_the_version(self, index):
        before = index()
        one, other = (f"{path},a,b,1" for path in before.split("train")["path"].iloc[:2])
        indices = [before, index(one), index(other), index(one, other)]
        assert len({i.fingerprint for i in indices}) == 4
        assert len({i.version for i in indices}) == 1  # the image cache holds no labels

    def test_a_list_without_changes_keeps_the_fingerprint(self, index):
        path = index().split("train")["path"].iloc[0]
        assert index(f"{path},a,a,1").fingerprint == index().fingerprint

    def test_with_a_fraction_the_same_images_are_used(self, index):
        paths = index(fraction=0.5).split("train")["path"]
        whole = index().split("train")["path"]
        for path in (paths.iloc[0], next(p for p in whole if p not in set(paths))):
            given = path.split("/")[1]
            after = index(f"{path},{given},{'ab'.replace(given, '')},1", fraction=0.5)
            assert after.split("train")["path"].tolist() == paths.tolist()

    def test_a_missing_list_is_refused_before_anything_is_read(self, compose):
        with pytest.raises(RequestError, match=r"^dataset\.relabel=.*/nowhere\.csv: there is no such file$"):
            parse(compose("dataset.relabel=nowhere.csv"))
