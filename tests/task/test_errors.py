"""task=errors, end to end, and what it refuses."""

import numpy as np
import pandas as pd
import pytest

from rp2k_lab.analysis.causes import CAUSES
from rp2k_lab.errors import RequestError

RUN = "resnet18_shelf_none_seed0"
TABLES = {"cases.parquet", "classes.parquet", "clusters.parquet", "causes.csv", "curves.csv"}


@pytest.fixture(scope="module")
def of_one(later_store, start):
    command = start("task=errors", f"runs={RUN}", "task.split=test", uri=later_store.uri)
    command.result = command.wait()
    return command


@pytest.fixture(scope="module")
def of_two(later_store, second_run, start):
    """The first run beside its own last weights at another size and crop."""
    command = start("task=errors", f"runs=[{RUN},{second_run}]", uri=later_store.uri)
    command.result = command.wait()
    return command


def test_it_is_a_run_with_its_parent_tables_and_counts(first_run, later_store, of_one):
    code, out, err = of_one.result
    assert (code, err) == (0, "")
    run, (parent,) = later_store.run_of(out), first_run.store.runs()
    assert (run.data.tags["parent"], run.info.status) == (parent.info.run_id, "FINISHED")
    folder = later_store.artifacts(run)
    files = {path.name for path in folder.iterdir()}
    assert files >= TABLES | {"photo_score.csv", "config.yaml", "classes.txt"}
    assert {f.name for f in (of_one.folder / "out").iterdir()} >= TABLES
    causes = pd.read_csv(folder / "causes.csv").set_index("cause")
    assert list(causes.index) == list(CAUSES)
    assert run.data.metrics["test/errors"] == causes["main"].sum()
    assert {c: run.data.metrics[f"test/errors_{c}"] for c in CAUSES} == causes["main"].to_dict()


def test_the_cases_are_the_runs_own_predictions(first_run, later_store, of_one):
    recorded = pd.read_parquet(first_run.folder / "out" / "test" / "predictions.parquet")
    cases = pd.read_parquet(later_store.artifacts(later_store.run_of(of_one.result[1])) / "cases.parquet")
    same = ["path", "true", "correct", *(f"top{i + 1}" for i in range(5))]
    pd.testing.assert_frame_equal(cases[same], recorded[same])
    for i in range(5):
        np.testing.assert_allclose(cases[f"p{i + 1}"], recorded[f"p{i + 1}"], atol=1e-5)
        chosen = recorded[f"top{i + 1}"] == recorded["true"]
        np.testing.assert_allclose(cases.loc[chosen, "p_true"], recorded.loc[chosen, f"p{i + 1}"], atol=1e-5)
    assert cases["p_true"].between(0, 1).all()


def test_errors_alone_have_their_nearest_training_photos(later_store, of_one):
    cases = pd.read_parquet(later_store.artifacts(later_store.run_of(of_one.result[1])) / "cases.parquet")
    wrong = ~cases["correct"]
    assert 0 < wrong.sum() < len(cases)
    assert cases["nearest"].map(len).tolist() == (3 * wrong).tolist()
    assert (cases["nearest_distance"].notna() == wrong).all()
    rows = np.concatenate(cases.loc[wrong, "nearest"].tolist())
    assert not set(rows) & set(cases["row"])  # train's, not the split's
    assert ((cases["cause"] != "") == wrong).all()


def test_the_terminal_shows_every_cause_and_the_score_against_the_truth(of_one):
    out = of_one.result[1]
    assert all(any(line.startswith(cause) for line in out.splitlines()) for cause in CAUSES)
    assert "of 80 photos" in out
    assert "drawn without what it measures " in out
    assert "drawn without any nuisance " in out


def test_features_are_computed_once(later_store, of_one, of_two):
    """By `of_one` or by a former run of these tests, and by nobody a second time."""
    assert of_one.result[0] == 0
    out = of_two.result[1]
    assert out.count("features of 300 photos, kept in ") >= 1


def test_two_runs_give_the_errors_that_were_fixed_that_are_new_and_that_stay(later_store, of_two):
    code, out, err = of_two.result
    assert (code, err) == (0, "")
    folder = later_store.artifacts(later_store.run_of(out))
    assert {path.name for path in folder.iterdir()} >= TABLES | {"pairs.parquet", "pair_classes.csv"}
    pairs, cases = pd.read_parquet(folder / "pairs.parquet"), pd.read_parquet(folder / "cases.parquet")
    assert len(cases) == 60  # val, the default
    counts = pairs["state"].value_counts()
    assert counts.reindex(["new", "kept"], fill_value=0).sum() == (~cases["correct"]).sum()
    for state in ("fixed", "new", "kept"):
        assert f"{counts.get(state, 0)} errors {state}" in out
    second = cases.set_index("row").loc[pairs["row"]]
    assert second["top1"].tolist() == pairs["top1_second"].tolist()
    assert second["cause"].tolist() == pairs["cause_second"].tolist()


@pytest.mark.parametrize("runs", ["null", "[a,b,c]"])
def test_another_number_of_runs_is_refused(compose, runs):
    from rp2k_lab.config import parse

    with pytest.raises(RequestError, match=r"^runs=.*: task=errors takes 1 or 2 earlier runs\nname it: .*, or two"):
        parse(compose("task=errors", f"runs={runs}"))
