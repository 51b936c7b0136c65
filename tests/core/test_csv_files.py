"""CSV files as spreadsheets save them, and as they open them."""

import csv

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.core.csv_files import (
    UnreadableText,
    csv_text,
    decode,
    is_changed_number,
    is_damaged,
    read_csv,
    read_written,
    write_csv,
)

TEXT = "path,label\na/1.jpg,红枣\nb/2.jpg,可口可乐（罐装）\n"
ROWS = [["a/1.jpg", "红枣"], ["b/2.jpg", "可口可乐（罐装）"]]


@pytest.fixture
def file(tmp_path):
    """file(content), which writes bytes, or text as UTF-8."""

    def write(content):
        path = tmp_path / "list.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gbk", "gb18030"]
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_encodings_and_separators_of_spreadsheets(file, encoding, separator):
    table = read_csv(file(TEXT.replace(",", separator).replace("\n", "\r\n").encode(encoding)))
    assert table.columns.tolist() == ["path", "label"]
    assert table.to_numpy().tolist() == ROWS
    assert table.index.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("encoding", "guessed"), [("gbk", "GB18030"), ("utf-16-le", "UTF-16"), ("utf-8", ""), ("utf-16", "")]
)
def test_a_guessed_encoding_is_said_with_an_example(file, caplog, encoding, guessed):
    read_csv(file(TEXT.encode(encoding)))
    if guessed:
        (line,) = caplog.messages
        assert f"read as {guessed}" in line
        assert "红枣" in line
    else:
        assert not caplog.messages


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path,label\na,Käse\nb,Crème brûlée\nc,Maß\n", "cp1252"),
        ("path,label\na,巧克力餅乾\nb,鮮奶綠茶與咖啡\n", "big5"),
        ("path,label\na,おーいお茶\nb,カルピスウォーター\n", "shift_jis"),
    ],
)
def test_other_encodings_are_not_taken_for_chinese(file, text, encoding):
    with pytest.raises(UnreadableText, match=r"^: neither UTF-8 nor UTF-16 nor GB18030\nsave it as UTF-8$"):
        read_csv(file(text.encode(encoding)))


def test_a_damaged_mark_is_refused(tmp_path):
    with pytest.raises(UnreadableText, match="neither UTF-8"):
        decode(b"\xff\xfe\xfd", tmp_path / "x.csv")


def test_names_of_columns_are_folded(file):
    text = '\ufeff Path ,"LABEL",\u200bSplit\xa0, Größe\n1,2,3,4\n'
    assert read_csv(file(text)).columns.tolist() == ["path", "label", "split", "grösse"]
    assert read_csv(file("Two words,B\n1,2\n"), fold=False).columns.tolist() == ["Two words", "B"]


def test_cells_stay_as_written(file):
    table = read_csv(file('path,label\nNA,007\nnull,"x, ""y"" "\n1e3, true\n-,"a\nb"\n'))
    assert table.to_numpy().tolist() == [["NA", "007"], ["null", 'x, "y" '], ["1e3", "true"], ["-", "a\nb"]]


def test_lines_are_those_of_an_editor(file):
    assert read_csv(file('\n\npath,label\n"a\nb",x\n,\n\nc,y\n')).index.tolist() == [4, 8]
    assert read_csv(file("sep=;\npath;label\na,b;c\n")).to_numpy().tolist() == [["a,b", "c"]]
    assert read_csv(file("sep=;\npath;label\na,b;c\n")).index.tolist() == [3]


def test_short_lines_and_empty_columns_of_excel(file):
    table = read_csv(file("path,label,split,,\na,x,,,\nb,y\nc,z,val,,,,\n"))
    assert table.columns.tolist() == ["path", "label", "split"]
    assert table.to_numpy().tolist() == [["a", "x", ""], ["b", "y", ""], ["c", "z", "val"]]


def test_a_filled_column_without_a_name_stays(file):
    assert read_csv(file(",path\n0,a\n")).columns.tolist() == ["column 1", "path"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": is empty\n"),
        (b"\n \n", ": is empty\n"),
        (b"a,b\n1,2,3\n", ", line 2: has 3 cells, more than the header's 2\n"),
        (b"a,b\n1,2\n\n1;2,3,4\n", ", line 4: has 3 cells"),
        (b'a,b\n1,2\n"1,2\n3,4\n', ", line 3: unexpected end of data\n"),
        (b"Path, path\n1,2\n", ": has two columns path\n"),
        (b"PK\x03\x04...", ": a workbook, no CSV\nsave it"),
        (b"PAR1....", ": a parquet file, no CSV\n"),
    ],
)
def test_what_is_no_table_is_refused_in_two_lines(file, content, message):
    with pytest.raises(UnreadableText) as error:
        read_csv(file(content))
    assert str(error.value).startswith(message)
    assert str(error.value).count("\n") == 1


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UnreadableText, match=r"^: cannot be read \(No such file or directory\)\n"):
        read_csv(tmp_path / "list.csv")


@pytest.mark.parametrize("value", ["6.90123E+12", "6,90123E+12", "1E+05", "#NAME?", "#N/A", "#REF!"])
def test_what_a_spreadsheet_makes_of_names_is_known(value):
    assert is_damaged(value)


@pytest.mark.parametrize("value", ["1e3", "6901234567892", "E+", "#1", "7", "1E5", "NA"])
def test_names_are_not_taken_for_damaged(value):
    assert not is_damaged(value)


def test_a_changed_number_is_known():
    assert is_changed_number("7", "007")
    assert is_changed_number("1.0", "1")
    assert is_changed_number("100000", "1e5")
    assert not is_changed_number("7", "7")
    assert not is_changed_number("7", "8")
    assert not is_changed_number("seven", "7")


FORMULAS = ["=cmd|' /C calc'!A0", "+1", "-196 Lemon", "@SUM(1)", "\tx", "'=1", "''@x", "'t Smeets", "a=b"]


def test_formulas_are_text_for_spreadsheets_and_unchanged_when_read(tmp_path):
    table = pd.DataFrame({"path": FORMULAS, "n": np.arange(-4, 5), "label": "红枣"})
    write_csv(table, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(encoding="utf-8-sig", newline="") as opened:
        cells = [row["path"] for row in csv.DictReader(opened)]
    assert not any(cell[0] in "=+-@\t" for cell in cells)
    assert cells[-2:] == ["'t Smeets", "a=b"]
    assert read_csv(tmp_path / "t.csv")["path"].tolist() == FORMULAS
    read = read_written(tmp_path / "t.csv", ("label",))
    assert read["path"].tolist() == FORMULAS
    assert read["n"].tolist() == list(range(-4, 5))


def test_a_mark_comes_before_text_beyond_ascii_alone(tmp_path):
    """Excel on a Chinese Windows reads a file without a mark as GBK."""
    write_csv(pd.DataFrame({"label": ["红枣"]}), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == b"\xef\xbb\xbflabel\n" + "红枣\n".encode()
    assert pd.read_csv(tmp_path / "t.csv").columns.tolist() == ["label"]  # as other programs read it
    assert csv_text(pd.DataFrame({"label": ["tea"]})) == "label\ntea\n"


def test_own_tables_keep_their_types(tmp_path):
    table = pd.DataFrame({"given": ["007", "NA", ""], "score": [0.5, None, 1], "other": ["x", None, "y"]})
    write_csv(table, tmp_path / "t.csv")
    read = read_written(tmp_path / "t.csv", ("given", "absent"))
    assert read["given"].tolist() == ["007", "NA", ""]
    assert read["score"].dtype == float
    assert read["other"].isna().tolist() == [False, True, False]
