"""Cells of `notebooks/error_cases.py` on synthetic tables, complete and with missing parts."""

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
    """A context with 100 training images in rows 0 to 99 and 100 test images behind them."""
    synthetic = tables(100, NAMES)
    train = pd.DataFrame({"path": [f"train/{i}.png" for i in range(100)], "class": [NAMES[i % 7] for i in range(100)]})
    test = synthetic.cases[["path"]].assign(**{"class": synthetic.cases["true"]})
    photos = pd.concat([train.assign(split="train"), test.assign(split="test")], ignore_index=True)
    photos = photos.assign(width=8, height=12, label=0, bytes=1)
    for path in photos["path"]:
        write_photo(tmp_path / path)
    causes = synthetic.causes.assign(top_classes=synthetic.causes["top_classes"].map("; ".join))
    error_tables = ErrorTables(synthetic.cases, synthetic.classes, synthetic.clusters, causes, synthetic.curves)
    index = Index(tmp_path, photos, NAMES, "", "", photos[:0])
    return ErrorsContext(None, None, index, error_tables, None, None, None)


def page(output) -> str:
    return output._repr_html_()


def with_cases(errors, cases):
    return replace(errors, tables=replace(errors.tables, cases=cases))


def test_causes_show_the_possible_gain(errors):
    html, cases = page(error_cases.causes(errors)), errors.tables.cases
    for cause in CAUSES:
        main = (cases["cause"] == cause).sum()
        assert main > 0
        row = html.split(f"<td>{cause}</td>")[1].split("</tr>")[0]
        assert f'<td class="n">{main}</td>' in row
        assert f"<td>{cases['correct'].sum() + main:.1f} %</td>" in row  # of a hundred photos


def test_examples_are_the_most_confident_errors_of_their_cause(errors):
    cases = errors.tables.cases
    most_confident = cases[cases["cause"] == "photo"].nlargest(3, "p1")
    html = page(error_cases.examples(errors, "photo"))
    assert html.count('<td class="title">') == 3
    assert html.count("<img") == 3 * 6
    positions = [html.index(f"labeled {row.true}, recognized as {row.top1}: {100 * row.p1:.1f} %")
                 for row in most_confident.itertuples()]  # fmt: skip
    assert positions == sorted(positions)
    with pytest.raises(ValueError, match="'blur' is no cause"):
        error_cases.examples(errors, "blur")


def test_a_single_photo_does_not_make_a_class_hard(errors):
    classes = errors.tables.classes.copy()
    classes.loc[0, ["images", "accuracy", "low", "high"]] = [1, 0.0, 0.0, 0.7935]
    classes.loc[1, ["images", "accuracy", "low", "high"]] = [100, 0.1, 0.0552, 0.1744]
    classes.loc[2, ["images", "accuracy", "low", "high"]] = [0, np.nan, 0, 1]
    html = page(error_cases.hardest_classes(replace(errors, tables=replace(errors.tables, classes=classes))))
    assert html.index("<td>class 1</td><td>10.0 % [5.5, 17.4] of 100</td>") < html.index("<td>class 0</td>")
    assert "<td>class 2</td>" not in html


def test_missing_errors_clusters_or_truth_are_reported(errors):
    cases = errors.tables.cases.assign(correct=True, cause="")
    assert "No error of this run has photo" in page(error_cases.examples(with_cases(errors, cases), "photo"))
    none = replace(errors, tables=replace(errors.tables, clusters=errors.tables.clusters[:0]))
    assert "No two classes" in page(error_cases.clusters(none))
    assert "Only a shelf set can be redrawn" in page(error_cases.photo_score(errors))
    assert "label_errors.csv" in page(error_cases.suspected_labels(errors))
    assert "label_errors_curve.csv" in page(error_cases.label_curve(errors))
    empty = pd.DataFrame(columns=["path", "given", "suggested", "score"])
    assert "suspects no label" in page(error_cases.suspected_labels(replace(errors, label_errors=empty)))


def test_clusters_and_charts_are_drawn(errors):
    assert page(error_cases.clusters(errors)).count("<img") == 2 * 3
    assert page(error_cases.accuracy_over_measures(errors)).count("<svg") == 4
