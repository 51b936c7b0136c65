"""A cell that was computed before is found in a real store and in committed results."""

import shutil

import pytest
from mlflow import MlflowClient

from rp2k_lab.ablation.results import write_results
from rp2k_lab.task import finished_cell
from rp2k_lab.tracking.mlflow_runs import RunStore
from rp2k_lab.tracking.provenance import ENVIRONMENT, NATIVE, identity
from tests.helpers import synthetic_results
from tests.helpers.tiny_runs import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def own_store(first_run, tmp_path):
    """A copy of the first run's store, without the runs of other tests."""
    shutil.copy(first_run.folder / "mlflow.db", tmp_path)
    return Store(tmp_path)


@pytest.fixture
def request_of(first_request, own_store):
    """request_of(**changes): the first run's configuration, in a copy of its store."""
    config, _ = first_request
    tracking = config.tracking.model_copy(update={"uri": own_store.uri})
    return lambda **changes: config.model_copy(update={"tracking": tracking, **changes})


@pytest.fixture
def stored(own_store):
    """The first run, in the copy of its store."""
    return next(run for run in RunStore(own_store.uri).with_tag("config_fingerprint"))


def test_an_equal_run_is_found_in_the_store(request_of, stored):
    found = finished_cell.find(request_of(), "runs")
    assert (found.run_id, found.val_top1) == (stored.run_id, stored.closing("val", "top1"))
    assert found.origin == f"run {stored.name}"


def test_another_run_is_not_found(request_of, stored, monkeypatch):
    assert finished_cell.find(request_of(seed=77), "runs") is None
    assert finished_cell.find(request_of(batch_size=5), "results") is None
    environment = stored.tags[ENVIRONMENT]
    for change in ('"cores": "99"', '"mindspore": "1.0.0"'):
        name = change.partition(":")[0]
        other = environment.replace(environment[environment.index(name) :].split(",")[0].rstrip("}]"), change)
        assert other != environment
        with monkeypatch.context() as patch:
            patch.setattr(finished_cell, "environment_tag", lambda other=other: other)
            assert finished_cell.find(request_of(), "runs") is None
    monkeypatch.setattr(finished_cell, "native_tag", lambda: "another")
    assert finished_cell.find(request_of(), "runs") is None


@pytest.mark.parametrize(
    "tags", [{"dataset_fingerprint": "other photos"}, {"verifies": "another run"}, {"config_fingerprint": "3:0"}]
)
def test_a_run_with_other_facts_is_not_found(request_of, stored, own_store, tags):
    client = MlflowClient(own_store.uri)
    for name, value in tags.items():
        client.set_tag(stored.run_id, name, value)
    try:
        assert finished_cell.find(request_of(), "runs") is None
    finally:
        for name in tags:
            client.delete_tag(stored.run_id, name)
            if name in stored.tags:
                client.set_tag(stored.run_id, name, stored.tags[name])
    assert finished_cell.find(request_of(), "runs")


def test_a_committed_result_is_found_without_a_store(request_of, stored, tmp_path, monkeypatch):
    known = {"identity": identity(stored.tags), "dataset_fingerprint": stored.tags["dataset_fingerprint"]}
    cells, images = synthetic_results.results({"a": 0.5}, range(2), 90)
    cells = cells.assign(identity=["", known["identity"]], dataset_fingerprint=known["dataset_fingerprint"])
    write_results(tmp_path / "resize" / "shelf", cells, images)
    (tmp_path / "resize" / "damaged").mkdir()
    (tmp_path / "resize" / "damaged" / "results.csv").write_text("level\n")
    monkeypatch.setattr(finished_cell, "EXPERIMENTS", tmp_path)
    request = request_of()
    empty = request.tracking.model_copy(update={"uri": f"sqlite:///{tmp_path}/none.db"})
    found = finished_cell.find(request.model_copy(update={"tracking": empty}), "results")
    assert (found.run_id, found.place) == ("", {"table": "resize/shelf", "level": "a", "seed": 1})
    assert found.origin == "experiments/resize/shelf, a, seed 1"
    assert found.val_top1 == pytest.approx(cells["val_top1"].iloc[1], abs=1e-8)
    assert finished_cell.find(request.model_copy(update={"tracking": empty}), "runs") is None


def test_identity_needs_one_known_environment(stored):
    assert identity(stored.tags).startswith(stored.tags["config_fingerprint"])
    assert f"native={stored.tags[NATIVE]}" in identity(stored.tags)
    two = stored.tags[ENVIRONMENT].replace("]", ', {"cores": "1"}]')
    assert identity(stored.tags | {ENVIRONMENT: two}) == ""
    assert identity({}) == ""
