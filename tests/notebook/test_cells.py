"""What a cell shows, as HTML."""

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from rp2k_lab.notebook.cells import Shot, charts, note, photo_rows, photos, table, together
from rp2k_lab.pages.charts import bar_chart

EVIL = "<img src=x onerror=alert(1)>\n雪碧"


def html_of(shown) -> str:
    return shown._repr_html_().split("</style>")[1]


def picture(height, width):
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize(
    "shown",
    [
        note(EVIL),
        table(pd.DataFrame({EVIL: ["a"], "class": [EVIL]})),
        photos([Shot(picture(4, 4), EVIL), Shot(None, EVIL)]),
        photo_rows([EVIL], [(EVIL, [Shot(picture(4, 4), EVIL)])]),
        charts({EVIL: bar_chart(EVIL, [(EVIL, 1, EVIL)])}),
    ],
    ids=["note", "table", "photos", "photo_rows", "charts"],
)
def test_names_from_the_data_are_text_and_never_markup(shown):
    page = html_of(shown)
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


def test_numbers_stand_right_with_thousands_and_texts_as_they_are():
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
def test_small_pictures_are_enlarged_by_whole_pixels_and_large_ones_fit(sides, shown, kind, pixels):
    page = html_of(photos([Shot(picture(*sides))]))
    assert f'width="{shown[1]}" height="{shown[0]}"' in page
    assert f"data:image/{kind};base64," in page
    assert ('class="pixels"' in page) == pixels


def test_a_photo_that_cannot_be_read_says_so():
    assert "not readable" in html_of(photos([Shot(None, "gone.jpg")]))


def test_together_keeps_the_order():
    page = html_of(together(note("first"), note("second")))
    assert 0 < page.index("first") < page.index("second")


def test_bars_are_as_long_as_their_numbers():
    chart = bar_chart("errors", [("photo", 4, "4"), ("tail", 2, "2"), ("others", 0, "0")])
    assert isinstance(chart, Markup)
    lengths = [float(part.split('"')[0]) for part in chart.split(' width="')[1:]]
    assert lengths[0] == pytest.approx(2 * lengths[1])
    assert lengths[2] == 0
    assert bar_chart("none", []).startswith("<svg")
    assert 'width="0.0"' in bar_chart("zero", [("a", 0, "0")])
