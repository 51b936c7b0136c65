"""One entry makes a metric: it appears in scores, closing table, tags, curves, results.csv and pages.

tests/sweep/test_collect.py has its way from the runs into a table.
"""

import math

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.ablation.compare_runs import TestedRun, compare, pair_document
from rp2k_lab.ablation.report import CSV, README, document, write_documents
from rp2k_lab.ablation.results import COLUMNS, RESULTS, metric_columns, read_results, write_results
from rp2k_lab.ablation.verdict import judge_table
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.evaluation import figures, metric_registry
from rp2k_lab.evaluation.artifacts import _counts
from rp2k_lab.evaluation.console import closing_table
from rp2k_lab.evaluation.metric_registry import RESERVED, Predictions, Score, SplitResult, fraction, metric, metrics
from rp2k_lab.evaluation.metrics import per_class, scores
from rp2k_lab.pages.document import to_markdown
from tests.helpers import synthetic_results

PREDICTIONS = Predictions(
    np.array([0, 0, 1, 1], np.int32),
    np.array([[0, 1], [1, 0], [1, 0], [1, 0]], np.int32),
    np.float32([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.7, 0.3]]),
)
TABLE = per_class(PREDICTIONS, ["others", "tea"], np.array([9, 3]))


@pytest.fixture
def registry(monkeypatch):
    """Forget the metrics that a test registers."""
    monkeypatch.setattr(metric_registry, "_registered", metrics())


@pytest.fixture
def extra(registry):
    """Register a fraction of a part of the images, and a number without an interval."""

    @metric("confident_top1", "confident top-1", heading="confident")
    def confident_top1(result: SplitResult) -> Score | None:
        confident = result.predictions.top_probabilities[:, 0] >= 0.65
        right = result.predictions.top_labels[:, 0] == result.predictions.labels
        return fraction(right[confident].sum(), confident.sum())

    @metric("calibration_error", "calibration error", kind="number")
    def calibration_error(result: SplitResult) -> Score | None:
        right = result.predictions.top_labels[:, 0] == result.predictions.labels
        gap = result.predictions.top_probabilities[:, 0].mean() - right.mean()
        return Score(abs(gap), len(right))


def test_coarse_top1_counts_the_kind_of_the_answer():
    assert "coarse_top1" not in scores(PREDICTIONS, TABLE, None)
    kinds = scores(PREDICTIONS, TABLE.assign(coarse=["drink", "drink"]), None)["coarse_top1"]
    assert (kinds.value, kinds.count) == (1.0, 4)
    apart = scores(PREDICTIONS, TABLE.assign(coarse=["other", "drink"]), None)
    assert apart["coarse_top1"] == apart["top1"]


@pytest.fixture
def cells(extra):
    """Return results with both metrics, as `sweep.collect` gives them, and their images."""
    cells, images = synthetic_results.results({"a": 0.5, "b": 0.6}, range(2), 200)
    failed = synthetic_results.unfinished("b", 2, "failed", "x")
    cells = cells.assign(confident_top1=[0.5, 2 / 3, 0.75, 1.0], calibration_error=[0.0123456789, 2.5, 0.0, 1e-7])
    return pd.concat([cells, pd.DataFrame([failed])]), images


def test_a_run_has_its_scores_rows_and_counts(extra):
    measured = scores(PREDICTIONS, TABLE, None)
    assert (measured["confident_top1"].value, measured["confident_top1"].count) == (1.0, 3)
    assert measured["calibration_error"].value == pytest.approx(0)
    assert type(measured["calibration_error"].value) is float
    lines = closing_table({"val": measured, "test": {"top1": measured["top1"]}}).splitlines()
    assert lines[-2].split("  ")[0] == "confident top-1"
    assert "100.0 %  [43.9, 100.0] of 3" in lines[-2]
    assert lines[-2].endswith("–")
    assert lines[-1].startswith("calibration error")
    assert lines[-1].split()[-4:] == [f"{measured['calibration_error'].value:.4g}", "of", "4", "–"]
    assert _counts(measured)["confident_count"] == 3
    assert "calibration_error_count" not in _counts(measured)  # the whole split


def test_counts_of_our_metrics():
    counts = _counts(scores(PREDICTIONS, TABLE, "others"))
    assert counts == {"count": 4, "head_count": 2, "tail_count": 2, "count_without_others": 2}
    assert _counts({}) == {}


def test_the_curves_have_a_fraction_and_no_number(extra, tmp_path, monkeypatch):
    labels = []
    monkeypatch.setattr(
        figures, "_save", lambda figure, file: labels.extend(figure.axes[2].get_legend_handles_labels()[1])
    )
    history = {"train/loss": [(1, 1.0), (2, 0.5)], "train/lr": [(1, 0.1), (2, 0.1)]}
    history |= {f"val/{name}": [(2, 0.5)] for name in metrics()}
    figures.plot_curves(history, tmp_path / "curves.png")
    assert labels == ["val top1", "val top5", "val macro_top1", "val confident_top1"]


def test_a_table_has_its_columns(cells, tmp_path):
    written = write_results(tmp_path, *cells)
    assert metric_columns(written.table)[-3:] == ["val_top1", "calibration_error", "confident_top1"]
    read = read_results(tmp_path).table
    np.testing.assert_allclose(read["calibration_error"], [0.012345679, 2.5, 0, 1e-7, np.nan])
    np.testing.assert_allclose(read["confident_top1"], [0.5, 2 / 3, 0.75, 1, np.nan], atol=5e-9)
    table = judge_table(synthetic_results.table_of("a", "b"), "laptop", read_results(tmp_path))
    write_documents(table, tmp_path)
    text = (tmp_path / README).read_text("utf-8")
    assert "| val top-1 | calibration error | confident |" in text
    assert "| 1.256 | 58.3 % |" in text
    assert "calibration_error,confident_top1,published" in (tmp_path / CSV).read_text("utf-8").splitlines()[0]


def test_results_stay_readable_without_its_package(cells, tmp_path, monkeypatch):
    write_results(tmp_path / "with", *cells)
    ours = {name: entry for name, entry in metrics().items() if entry.compute.__module__ == metric_registry.__name__}
    monkeypatch.setattr(metric_registry, "_registered", ours)
    read = read_results(tmp_path / "with")
    assert read.table["confident_top1"].tolist() == ["0.50000000", "0.66666667", "0.75000000", "1.00000000", ""]
    write_results(tmp_path / "without", read.table, read.images)
    assert (tmp_path / "without" / RESULTS).read_bytes() == (tmp_path / "with" / RESULTS).read_bytes()
    table = judge_table(synthetic_results.table_of("a", "b"), "laptop", read)
    assert "confident" not in to_markdown(document(table, ""))


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("confident_top1", "1.5", "fraction"),
        ("confident_top1", "x", "fraction"),
        ("calibration_error", "inf", "number"),
    ],
)
def test_damaged_values_are_refused(cells, tmp_path, column, value, kind):
    write_results(tmp_path, *cells)
    table = pd.read_csv(tmp_path / RESULTS, dtype=str, keep_default_na=False)
    table.assign(**{column: value}).to_csv(tmp_path / RESULTS, index=False)
    with pytest.raises(DataError, match=f"column {column}: a value is not of kind {kind}"):
        read_results(tmp_path)


def test_two_runs_are_compared(extra):
    predictions = pd.DataFrame({"path": ["a", "b"], "true": ["x", "x"], "correct": [True, False]})
    values = {"top1": 0.5, "top5": 0.75, "calibration_error": 0.012345, "confident_top1": 1.0}
    first, second = (TestedRun(name, name, {}, predictions, {"x": "head"}, values) for name in "ab")
    text = to_markdown(pair_document(compare(first, second), "figure.svg", None))
    assert "| top-5 | 75.0 % | 75.0 % |" in text
    assert "| calibration error | 0.01235 | 0.01235 |" in text
    assert "| confident | 100.0 % | 100.0 % |" in text
    assert "Other metrics" not in to_markdown(
        pair_document(compare(first, TestedRun("b", "b", {}, predictions, {})), "", None)
    )


def make(module):
    def ours(result):
        return result.top1()

    ours.__module__ = module
    return ours


def test_a_second_package_with_the_same_name_is_refused(registry):
    metric("mine", "mine")(make("first"))
    metric("mine", "mine")(make("first"))  # imported again after an error
    with pytest.raises(RequestError, match=r"^metric mine: both first and second register it\nuninstall one"):
        metric("mine", "mine")(make("second"))
    with pytest.raises(RequestError, match=r"metric top1: both rp2k_lab\.evaluation\.metric_registry and second"):
        metric("top1", "mine")(make("second"))


@pytest.mark.parametrize("name", ["", "Top1", "top-1", "test/top1", "1st", "correct", "p", "x" * 65])
def test_impossible_names_are_refused(registry, name):
    with pytest.raises(RequestError, match="a metric cannot have the name") as error:
        metric(name, "mine")(make("first"))
    assert len(str(error.value).splitlines()) == 2
    assert metrics().keys() == metric_registry._registered.keys()


def test_reserved_are_the_other_columns(cells, tmp_path):
    table = judge_table(synthetic_results.table_of("a", "b"), "laptop", write_results(tmp_path, *cells))
    write_documents(table, tmp_path)
    columns = {*COLUMNS, *pd.read_csv(tmp_path / CSV).columns}
    assert columns - metrics().keys() == RESERVED - {"native"}  # a column of newer results only


@pytest.mark.parametrize(
    ("kind", "value", "measured"),
    [("fraction", 1 + 2e-16, 1.0), ("fraction", -1e-12, 0.0), ("number", np.float32(-7.5), -7.5)],
)
def test_values_in_range(registry, kind, value, measured):
    metric("mine", "mine", kind=kind)(lambda result: Score(value, 4))
    assert scores(PREDICTIONS, TABLE, None)["mine"].value == measured


@pytest.mark.parametrize(
    ("kind", "value"), [("fraction", 1.01), ("fraction", -0.1), ("fraction", math.nan), ("number", math.inf)]
)
def test_impossible_values_are_refused(registry, kind, value):
    metric("mine", "mine", kind=kind)(lambda result: Score(value, 4))
    with pytest.raises(
        RequestError, match=f"^metric mine: {value} is not a f.*\ncorrect or uninstall tests.evaluation"
    ):
        scores(PREDICTIONS, TABLE, None)


def test_a_metric_may_have_no_score(registry):
    metric("mine", "mine")(lambda result: None)
    assert "mine" not in scores(PREDICTIONS, TABLE, None)
