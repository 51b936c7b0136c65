"""The cells of `notebooks/error_cases.py` on tables with known contents, and on what a run may lack."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.analysis.causes import CAUSES
from rp2k_lab.analysis.tables import ErrorTables
from rp2k_lab.dataset.photo_index import Index
from rp2k_lab.notebook import error_cases
from rp2k_lab.notebook.run_context import ErrorsContext
from tests.helpers.error_tables import tables

NAMES = [f"class {i}" for i in range(7)]


@pytest.fixture
def errors(tmp_path, write_photo):
    """A hundred photos of test at the rows from 100 on, and 100 rows of train before them."""
    found = tables(100, NAMES)
    train = pd.DataFrame({"path": [f"train/{i}.png" for i in range(100)], "class": [NAMES[i % 7] for i in range(100)]})
    test = found.cases[["path"]].assign(**{"class": found.cases["true"]})
    photos = pd.concat([train.assign(split="train"), test.assign(split="test")], ignore_index=True)
    photos = photos.assign(width=8, height=12, label=0, bytes=1)
    for path in photos["path"]:
        write_photo(tmp_path / path)
    causes = found.causes.assign(top_classes=found.causes["top_classes"].map("; ".join))
    made = ErrorTables(found.cases, found.classes, found.clusters, causes, found.curves)
    index = Index(tmp_path, photos, NAMES, "", "", photos[:0])
    return ErrorsContext(None, None, index, made, None, None, None)


def page(shown) -> str:
    return shown._repr_html_()


def with_cases(errors, cases):
    return replace(errors, tables=replace(errors.tables, cases=cases))


def test_causes_say_what_there_is_to_gain(errors):
    shown, cases = page(error_cases.causes(errors)), errors.tables.cases
    for cause in CAUSES:
        main = (cases["cause"] == cause).sum()
        assert main > 0
        row = shown.split(f"<td>{cause}</td>")[1].split("</tr>")[0]
        assert f'<td class="n">{main}</td>' in row
        assert f"<td>{cases['correct'].sum() + main:.1f} %</td>" in row  # of a hundred photos


def test_examples_are_the_surest_errors_of_their_cause(errors):
    cases = errors.tables.cases
    surest = cases[cases["cause"] == "photo"].nlargest(3, "p1")
    shown = page(error_cases.examples(errors, "photo"))
    assert shown.count('<td class="words">') == 3
    assert shown.count("<img") == 3 * 6
    places = [shown.index(f"labeled {row.true}, recognized as {row.top1}: {100 * row.p1:.1f} %") for row in
              surest.itertuples()]  # fmt: skip
    assert places == sorted(places)
    with pytest.raises(ValueError, match="'blur' is no cause"):
        error_cases.examples(errors, "blur")


def test_one_photo_does_not_make_a_hardest_class(errors):
    classes = errors.tables.classes.copy()
    classes.loc[0, ["images", "accuracy", "low", "high"]] = [1, 0.0, 0.0, 0.7935]
    classes.loc[1, ["images", "accuracy", "low", "high"]] = [100, 0.1, 0.0552, 0.1744]
    classes.loc[2, ["images", "accuracy", "low", "high"]] = [0, np.nan, 0, 1]
    shown = page(error_cases.hardest_classes(replace(errors, tables=replace(errors.tables, classes=classes))))
    assert shown.index("<td>class 1</td><td>10.0 % [5.5, 17.4] of 100</td>") < shown.index("<td>class 0</td>")
    assert "<td>class 2</td>" not in shown


def test_a_run_without_errors_or_clusters_or_truth_says_so(errors):
    cases = errors.tables.cases.assign(correct=True, cause="")
    assert "No error of this run has photo" in page(error_cases.examples(with_cases(errors, cases), "photo"))
    none = replace(errors, tables=replace(errors.tables, clusters=errors.tables.clusters[:0]))
    assert "No two classes" in page(error_cases.clusters(none))
    assert "Only a shelf set can be drawn again" in page(error_cases.photo_score(errors))
    assert "label_errors.csv" in page(error_cases.suspected_labels(errors))
    assert "label_errors_curve.csv" in page(error_cases.label_curve(errors))
    empty = pd.DataFrame(columns=["path", "given", "suggested", "score"])
    assert "doubts no label" in page(error_cases.suspected_labels(replace(errors, label_errors=empty)))


def test_clusters_and_charts_are_drawn(errors):
    assert page(error_cases.clusters(errors)).count("<img") == 2 * 3
    assert page(error_cases.accuracy_over_measures(errors)).count("<svg") == 4
