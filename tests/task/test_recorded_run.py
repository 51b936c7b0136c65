"""`rp2k_lab.open_run`: a recorded run as DataFrames."""

import subprocess
import sys

import pandas as pd
import pytest

import rp2k_lab
from rp2k_lab import PROJECT
from rp2k_lab.core.errors import RequestError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(first_run):
    (run,) = first_run.store.runs()
    return run


def test_a_cell_opens_the_last_run(first_run, trained):
    run = rp2k_lab.open_run("last", first_run.store.uri)
    assert run.run.run_id == trained.info.run_id
    assert run.index["split"].value_counts().to_dict() == {"train": 300, "test": 80, "val": 60}
    predictions = run.predictions("test")
    assert predictions["correct"].mean() == pytest.approx(run.metrics["test/top1"])
    test = run.index[run.index["split"] == "test"]
    assert predictions["path"].tolist() == test["path"].tolist()
    assert predictions["true"].tolist() == test["class"].tolist()
    assert len(run.predictions("val")) == 60
    assert run.config.dataset.classes == 8


def test_features_tell_the_classes_apart_as_the_network_does(first_run, monkeypatch, tmp_path):
    monkeypatch.setattr("rp2k_lab.analysis.subject.FEATURES", tmp_path)
    run = rp2k_lab.open_run("last", first_run.store.uri)
    features = run.features("test")
    assert features.index.tolist() == run.predictions("test")["path"].tolist()
    assert list(features.columns[:2]) == ["f0", "f1"]
    assert set(features.dtypes) == {pd.Series([1], dtype="float32").dtype}
    assert features.to_numpy().std() > 0
    pd.testing.assert_frame_equal(run.features("test"), features)


@pytest.mark.parametrize("reference", ["first", "id"])
def test_a_run_is_found_by_id_and_name(first_run, trained, reference):
    name = {"first": trained.info.run_name, "id": trained.info.run_id[:8]}[reference]
    assert rp2k_lab.open_run(name, first_run.store.uri).run.run_id == trained.info.run_id


@pytest.mark.parametrize(
    ("ask", "first_line"),
    [
        (lambda uri: rp2k_lab.open_run("nope", uri), "runs=nope: there is no such run"),
        (lambda uri: rp2k_lab.open_run("last", uri).predictions("train"), "split=train: "),
        (lambda uri: rp2k_lab.open_run("last", uri).features("elsewhere"), "split=elsewhere: the data set has no"),
    ],
    ids=["run", "predictions", "features"],
)
def test_refusals_have_two_lines(first_run, ask, first_line):
    with pytest.raises(RequestError) as error:
        ask(first_run.store.uri)
    first, second = str(error.value).splitlines()
    assert first.startswith(first_line)
    assert second.split()[0] in ("give", "use")


def test_importing_the_package_loads_neither_pandas_nor_mlflow():
    code = "import rp2k_lab, sys; print(sorted({'pandas', 'mlflow', 'mindspore'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
