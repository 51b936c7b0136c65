import os
from pathlib import Path

import pytest

from rp2k_lab.core.text import escape_controls


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
    ],
)
def test_names_are_one_line_of_text(name, text):
    assert escape_controls(name) == text
    assert len(escape_controls(name).splitlines()) == 1
