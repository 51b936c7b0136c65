"""Documents as Markdown, HTML and terminal tables; formats of numbers."""

import re
from html.parser import HTMLParser

import pytest
from markupsafe import Markup

from rp2k_lab.pages.document import (
    Code,
    Document,
    Figure,
    Grid,
    Images,
    Item,
    Items,
    Quote,
    Section,
    Shot,
    Tag,
    Text,
    grid_text,
    interval,
    points,
    points_above,
    to_html,
    to_markdown,
)
from rp2k_lab.pages.images import EmbeddedImage

HOSTILE = "<script>alert(1)</script> | **b** `c` [d](e) \n# f & &lt; \u202e \"'{{ 7*7 }}"


def document(text: str) -> Document:
    """Return a document with this text in every kind of block."""
    blocks = [
        Text(text),
        Items([Item(text, Tag(text, "better"), text, "folder/README.md"), Item(text, None, text)]),
        Grid([text, "n"], [[text, Tag(text, "worse")]]),
        Code([text]),
        Figure(Markup("<svg></svg>"), "figure.svg", text),
        Images([Shot(EmbeddedImage("data:image/png;base64,AA", text, 4, 4), [text, text])]),
    ]
    return Document(text, text, [Section(text, [*blocks, Quote("typed *here*\n\n- so\n")])])


class Parsed(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, tuple(name for name, _ in attributes)))

    def handle_data(self, data):
        self.text += data


def test_text_cannot_change_html():
    page, plain = Parsed(to_html(document(HOSTILE))), Parsed(to_html(document("words")))
    assert page.tags == plain.tags
    assert "script" not in {tag for tag, _ in page.tags}
    shown = HOSTILE.replace("\n", "\\n").replace("\u202e", "\\u202e")
    assert page.text.count(shown) == plain.text.count("words") == 17


def test_text_cannot_change_markdown():
    shape = lambda text: [re.sub(r"\w", "", line)[:3] for line in to_markdown(document(text)).split("\n")]  # noqa: E731
    text = to_markdown(document(HOSTILE))
    assert len(shape(HOSTILE)) == len(shape("words"))
    outside = [line for line in text.split("\n") if not line.startswith("    ")]
    assert not any(re.search(r"<(?!folder)\w|(?<!\\)`|(?<!\\)\[d|\*\*b", line) for line in outside)
    rows = [line for line in outside if line.startswith("| ")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3, 3, 3]


def test_markdown_of_plain_text():
    assert to_markdown(document("words")) == (
        "# words\n\nwords\n\n## words\n\nwords\n\n"
        "- [**words**](<folder/README.md>) *▲ words*: words\n- **words**: words\n\n"
        "| words | n |\n| --- | ---: |\n| words | ▼ words |\n\n"
        "    words\n\n![words](figure.svg)\n\n- words; words\n\n> typed *here*\n>\n> - so\n"
    )


NOTES = """\
| level | `top-1` |
|---|---:|
| none | 61.4 % |
| Cutout | **61.4** % |

- one
- two, [a table](../README.md)

```
python run.py -m ablation=resize
```
"""


def test_notes_are_rendered_in_html():
    html = to_html(Document("t", "l", [Section("Notes", [Quote(NOTES)])]))
    quote = html[html.index("<blockquote>") : html.index("</blockquote>")]
    tags = [tag for tag, _ in Parsed(quote).tags]
    assert (tags.count("table"), tags.count("tr"), tags.count("td"), tags.count("li")) == (1, 3, 4, 2)
    assert "<strong>61.4</strong> %" in quote
    assert '<a href="../README.md">a table</a>' in quote
    assert "<pre><code>python run.py -m ablation=resize\n</code></pre>" in quote
    assert "|" not in quote


@pytest.mark.parametrize(
    "note",
    [
        "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))",
        "[a](data:text/html;base64,PHNjcmlwdD4=)", "![a](http://elsewhere/x.png)", "| <b> |\n|---|\n| <i> |",
        "`</blockquote><script>`", "```x\" onclick=\"alert(1)\n```", "\u202e\x1b[31m", "[a]: javascript:alert(1)\n[a]",
    ],
)  # fmt: skip
def test_notes_cannot_add_tags_scripts_or_images(note):
    html = to_html(Document("t", "l", [Section("Notes", [Quote(note)])]))
    parser = Parsed(html[html.index("<blockquote>") :])
    allowed = {"blockquote", "p", "a", "code", "pre", "table", "thead", "tbody", "tr", "th", "td"}
    assert {tag for tag, _ in parser.tags} <= allowed
    assert {name for _, names in parser.tags for name in names} <= {"href", "class"}
    assert not re.search(r'href="\s*(javascript|data):', html)
    assert "\u202e" not in html
    assert "\x1b" not in html


def test_grid_text_aligns_columns():
    lines = grid_text(Grid(["a", "long head"], [["name\n", Tag("1", "worse")], ["b", "22"]])).splitlines()
    assert lines == ["a       long head", "-----------------", "name\\n          1", "b              22"]


@pytest.mark.parametrize(
    ("difference", "decimals", "text"),
    [
        (0.0123, 1, "+1.2"),
        (-0.0123, 2, "−1.23"),
        (0.0, 1, "0.0"),
        (-0.0001, 1, "0.0"),
        (0.1, 1, "+10.0"),
        (0.001, 1, "+0.1"),
    ],
)
def test_points_have_a_sign_and_round(difference, decimals, text):
    assert points(difference, decimals) == text


@pytest.mark.parametrize(("bound", "decimals", "text"), [(0.0241, 1, "2.5"), (0.024, 1, "2.4"), (0.00001, 2, "0.01")])
def test_bounds_are_rounded_up(bound, decimals, text):
    assert points_above(bound, decimals) == text


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
def test_intervals_do_not_round_to_zero_on_decided_rows(low, high, word, text):
    assert interval(low, high, 1, word) == text
