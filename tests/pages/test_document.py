"""One text as Markdown, HTML and terminal table; numbers in words."""

import re
from html.parser import HTMLParser

import pytest
from markupsafe import Markup

from rp2k_lab.pages.document import (
    Code,
    Document,
    Figure,
    Grid,
    Item,
    Items,
    Quote,
    Section,
    Tag,
    Text,
    grid_text,
    interval,
    points,
    points_above,
    to_html,
    to_markdown,
)

HOSTILE = "<script>alert(1)</script> | **b** `c` [d](e) \n# f & &lt; \u202e \"'{{ 7*7 }}"


def document(words: str) -> Document:
    """Every kind of block, each with these words."""
    blocks = [
        Text(words),
        Items([Item(words, Tag(words, "better"), words, "there/README.md"), Item(words, None, words)]),
        Grid([words, "n"], [[words, Tag(words, "worse")]]),
        Code([words]),
        Figure(Markup("<svg></svg>"), "figure.svg", words),
    ]
    return Document(words, words, [Section(words, [*blocks, Quote("typed *here*\n\n- so\n")])])


class Parsed(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, tuple(name for name, _ in attributes)))

    def handle_data(self, data):
        self.text += data


def test_words_change_no_html():
    page, plain = Parsed(to_html(document(HOSTILE))), Parsed(to_html(document("words")))
    assert page.tags == plain.tags
    assert "script" not in {tag for tag, _ in page.tags}
    shown = HOSTILE.replace("\n", "\\n").replace("\u202e", "\\u202e")
    assert page.text.count(shown) == plain.text.count("words") == 15


def test_words_change_no_markdown():
    shape = lambda text: [re.sub(r"\w", "", line)[:3] for line in to_markdown(document(text)).split("\n")]  # noqa: E731
    text = to_markdown(document(HOSTILE))
    assert len(shape(HOSTILE)) == len(shape("words"))
    outside = [line for line in text.split("\n") if not line.startswith("    ")]
    assert not any(re.search(r"<(?!there)\w|(?<!\\)`|(?<!\\)\[d|\*\*b", line) for line in outside)
    rows = [line for line in outside if line.startswith("| ")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3, 3, 3]


def test_markdown_of_plain_words():
    assert to_markdown(document("words")) == (
        "# words\n\nwords\n\n## words\n\nwords\n\n"
        "- [**words**](<there/README.md>) *words*: words\n- **words**: words\n\n"
        "| words | n |\n| --- | ---: |\n| words | words |\n\n"
        "    words\n\n![words](figure.svg)\n\n> typed *here*\n>\n> - so\n"
    )


def test_grid_text():
    lines = grid_text(Grid(["a", "long head"], [["name\n", Tag("1", "worse")], ["b", "22"]])).splitlines()
    assert lines == ["a       long head", "-----------------", "name\\n          1", "b              22"]


@pytest.mark.parametrize(
    ("share", "decimals", "text"),
    [
        (0.0123, 1, "+1.2"),
        (-0.0123, 2, "−1.23"),
        (0.0, 1, "0.0"),
        (-0.0001, 1, "0.0"),
        (0.1, 1, "+10.0"),
        (0.001, 1, "+0.1"),
    ],
)
def test_points(share, decimals, text):
    assert points(share, decimals) == text


@pytest.mark.parametrize(("share", "decimals", "text"), [(0.0241, 1, "2.5"), (0.024, 1, "2.4"), (0.00001, 2, "0.01")])
def test_bounds_are_rounded_up(share, decimals, text):
    assert points_above(share, decimals) == text


@pytest.mark.parametrize(
    ("low", "high", "word", "text"),
    [
        (-0.004, 0.021, "open", "[−0.4, +2.1]"),
        (0.0, 0.021, "better", "[>0, +2.1]"),
        (0.0004, 0.021, "better", "[>0, +2.1]"),
        (0.0104, 0.021, "better", "[+1.0, +2.1]"),
        (-0.1, -0.0001, "worse", "[−10.0, <0]"),
        (0.0, 0.1, "open", "[0.0, +10.0]"),
    ],
)
def test_intervals(low, high, word, text):
    assert interval(low, high, 1, word) == text
