import math
import os
from pathlib import Path

import pytest

from rp2k_lab.core.text import escape_controls, in_bytes, percent, shorten, text_table


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("555（冰炫）/a b.jpg", "555（冰炫）/a b.jpg"),
        ("two\nlines", r"two\nlines"),
        ("\x1b[31m\t", r"\x1b[31m\t"),
        ("\u202egpj", r"\u202egpj"),
        ("a\u2028b\x85c", r"a\u2028b\x85c"),
        ("全角\u3000空", "全角\u3000空"),
        (os.fsdecode(b"\xba\xec.jpg"), r"\xba\xec.jpg"),
        (Path("/a/b"), "/a/b"),
        ("\ud800", r"\ud800"),
        ("", ""),
    ],
)
def test_escaped_names_are_one_encodable_line(name, text):
    assert escape_controls(name) == text
    assert len(escape_controls(name).splitlines()) <= 1
    escape_controls(name).encode()


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (9, "9 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1500, "1.5 kB"),
        (64_000, "64 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (5_000_000, "5.0 MB"),
        (20 * 10**9, "20.0 GB"),
    ],
)
def test_bytes_have_decimal_units(size, text):
    assert in_bytes(size) == text


@pytest.mark.parametrize(("fraction", "text"), [(0.623, "62.3 %"), (1, "100.0 %"), (0.0, "0.0 %"), (math.nan, "–")])
def test_percent(fraction, text):
    assert percent(fraction) == text


@pytest.mark.parametrize(("text", "limit", "short"), [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("", 3, "")])
def test_shortened_text_has_at_most_the_limit(text, limit, short):
    assert shorten(text, limit) == short


def test_table_aligns_columns_and_repeats_the_last_side():
    rows = [("name", "top-1", "n"), ("a", "9.5 %", "12"), ("longer", "100.0 %", "3")]
    assert text_table(rows, "<>").splitlines() == [
        "name      top-1   n",
        "-------------------",
        "a         9.5 %  12",
        "longer  100.0 %   3",
    ]


def test_table_without_rule_has_no_trailing_spaces():
    assert text_table([("a", "bb"), ("ccc", "")], rule=False).splitlines() == ["a    bb", "ccc"]
