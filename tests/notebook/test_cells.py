"""HTML output of cells."""

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from rp2k_lab.notebook.cells import Thumbnail, charts, note, stack, table, thumbnail_rows, thumbnails
from rp2k_lab.pages.charts import bar_chart

EVIL = "<img src=x onerror=alert(1)>\n雪碧"


def html_of(output) -> str:
    return output._repr_html_().split("</style>")[1]


def black(height, width):
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize(
    "output",
    [
        note(EVIL),
        table(pd.DataFrame({EVIL: ["a"], "class": [EVIL]})),
        thumbnails([Thumbnail(black(4, 4), EVIL), Thumbnail(None, EVIL)]),
        thumbnail_rows([EVIL], [(EVIL, [Thumbnail(black(4, 4), EVIL)])]),
        charts({EVIL: bar_chart(EVIL, [(EVIL, 1, EVIL)])}),
    ],
    ids=["note", "table", "thumbnails", "thumbnail_rows", "charts"],
)
def test_untrusted_names_are_escaped(output):
    page = html_of(output)
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_numbers_are_right_aligned_with_thousands_separators():
    page = html_of(table(pd.DataFrame({"photos": [12345], "share": [0.12345], "class": ["1.50"]})))
    assert '<td class="n">12,345</td><td class="n">0.123</td><td>1.50</td>' in page
    assert '<th class="n">photos</th>' in page
    assert "<th>class</th>" in page


@pytest.mark.parametrize(
    ("sides", "shown", "kind", "pixels"),
    [
        ((32, 32), (96, 96), "png", True),
        ((40, 20), (80, 40), "png", True),
        ((50, 104), (50, 104), "jpeg", False),
        ((224, 448), (75, 150), "jpeg", False),
        ((3000, 2), (150, 1), "jpeg", False),
    ],
)
def test_small_images_are_enlarged_by_whole_pixels_and_large_images_reduced(sides, shown, kind, pixels):
    page = html_of(thumbnails([Thumbnail(black(*sides))]))
    assert f'width="{shown[1]}" height="{shown[0]}"' in page
    assert f"data:image/{kind};base64," in page
    assert ('class="pixels"' in page) == pixels


def test_unreadable_image_is_reported():
    assert "not readable" in html_of(thumbnails([Thumbnail(None, "gone.jpg")]))


def test_stack_keeps_the_order():
    page = html_of(stack(note("first"), note("second")))
    assert 0 < page.index("first") < page.index("second")


def test_bar_lengths_are_proportional():
    chart = bar_chart("errors", [("photo", 4, "4"), ("tail", 2, "2"), ("others", 0, "0")])
    assert isinstance(chart, Markup)
    lengths = [float(part.split('"')[0]) for part in chart.split(' width="')[1:]]
    assert lengths[0] == pytest.approx(2 * lengths[1])
    assert lengths[2] == 0
    assert bar_chart("none", []).startswith("<svg")
    assert 'width="0.0"' in bar_chart("zero", [("a", 0, "0")])
