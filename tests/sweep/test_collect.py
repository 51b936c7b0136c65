"""Times of a study's trials; tests/task/test_tables.py covers the rest of collect."""

from contextlib import nullcontext
from datetime import datetime, timedelta
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest

from rp2k_lab.ablation.results import COLUMNS, read_results, write_results
from rp2k_lab.evaluation import metric_registry
from rp2k_lab.evaluation.metric_registry import metric, metrics
from rp2k_lab.sweep import collect as module
from rp2k_lab.sweep.collect import _time_taken, collect
from rp2k_lab.tracking.mlflow_runs import RunInfo, RunStore
from tests.helpers import synthetic_results

NOON = datetime(2026, 1, 1, 12).astimezone()


def trial(minute, seconds, **attributes):
    started = NOON + timedelta(minutes=minute)
    ended = started + timedelta(seconds=seconds) if seconds else None
    return SimpleNamespace(datetime_start=started, datetime_complete=ended, user_attrs=attributes)


def test_time_of_a_resumed_run_adds_all_its_trials():
    trials = [trial(0, 10), trial(1, 50), trial(2, 20, goes_on_with=0), trial(5, 30.25, resumes=2)]
    taken = _time_taken(trials[3], trials)
    assert (datetime.fromisoformat(taken["started"]), taken["seconds"]) == (NOON, 60.2)
    taken = _time_taken(trials[1], trials)
    assert (datetime.fromisoformat(taken["started"]), taken["seconds"]) == (NOON + timedelta(minutes=1), 50)
    running = trial(6, None, resumes=0)
    assert _time_taken(running, trials)["seconds"] != _time_taken(running, trials)["seconds"]  # NaN


class Store(RunStore):
    """A store of one run, without MLflow."""

    def __init__(self, run):
        self._run = run

    def get(self, run_id):
        return self._run if self._run.run_id == run_id else None

    def fetch(self, run, files, downloads):
        return run.artifact_folder


def collected(monkeypatch, run, *states):
    """Return what `collect` gives for a study with a trial of each state, seeds 0, 1, …; all have the same run."""
    study = optuna.create_study()
    space = {
        "level": optuna.distributions.CategoricalDistribution(["a"]),
        "seed": optuna.distributions.IntDistribution(0, 9),
    }
    for seed, state in enumerate(states):
        point = {"level": "a", "seed": seed}
        value = 0.5 if state == "COMPLETE" else None
        attributes = {"run_id": run.run_id, "reason": ""}
        study.add_trial(
            optuna.trial.create_trial(
                params=point,
                distributions=space,
                user_attrs=attributes,
                state=optuna.trial.TrialState[state],
                value=value,
            )
        )
    opened = SimpleNamespace(user_attrs={"definition": {"a": "aug=none"}}, get_trials=study.get_trials)
    monkeypatch.setattr(module, "read_study", lambda storage, name: nullcontext(opened))
    monkeypatch.setattr(module, "RunStore", lambda uri: Store(run))
    return collect(synthetic_results.table_of("a"), "laptop", None, None, SimpleNamespace(uri=None))


@pytest.fixture
def run(tmp_path):
    """Return a run that was tested on two images; it has the metrics of `metrics` and two more of a package."""
    (tmp_path / "test").mkdir()
    pd.DataFrame({"path": ["1.jpg", "2.jpg"], "true": ["x", "y"], "correct": [True, False]}).to_parquet(
        tmp_path / "test" / "predictions.parquet"
    )
    pd.DataFrame({"class": ["x", "y"], "label": [0, 1], "group": ["head", "tail"]}).to_parquet(
        tmp_path / "test" / "per_class.parquet"
    )
    values = {"test/top1": 0.5, "test/top5": 1.0, "test/macro_top1": 0.5, "test/head_top1": 1.0, "test/tail_top1": 0.0}
    values |= {"test/top1_without_others": 0.5, "test/error": 3.25, "test/gain": 0.1, "val/top1": 0.25, "epoch": 3}
    return RunInfo("0" * 32, "0", "a", "FINISHED", NOON, "", str(tmp_path), {}, values)


def test_a_table_has_the_registered_metrics_of_its_runs(monkeypatch, run, tmp_path):
    ours = metrics()
    table, images = collected(monkeypatch, run, "COMPLETE", "FAIL")
    assert list(table.columns) == list(COLUMNS)
    monkeypatch.setattr(metric_registry, "_registered", ours)
    metric("error", "error", kind="number")(lambda result: None)
    metric("absent", "absent")(lambda result: None)
    table, images = collected(monkeypatch, run, "COMPLETE", "FAIL")
    write_results(tmp_path, table, images)
    read = read_results(tmp_path).table
    assert list(read.columns) == [*list(COLUMNS)[:-1], "error", "correct"]
    first = read.iloc[0]
    assert (first["top1"], first["val_top1"], first["error"], first["epochs"]) == (0.5, 0.25, 3.25, 3)
    assert pd.isna(first["medium_top1"])
    assert read["state"].tolist() == ["complete", "failed"]


def test_a_study_without_a_complete_trial_has_results(monkeypatch, run, tmp_path):
    written = write_results(tmp_path, *collected(monkeypatch, run, "FAIL"))
    assert written.table["state"].tolist() == ["failed"]
    assert read_results(tmp_path).table["top1"].isna().all()


def test_a_committed_result_stands_for_a_trial(monkeypatch, tmp_path):
    """Its columns and test images are those of the other table; only its time is no longer spent."""
    cells, images = synthetic_results.results({"x": 0.5}, (0,), 90)
    write_results(tmp_path / "resize" / "shelf", cells.assign(identity="4:0 native=2"), images)
    monkeypatch.setattr(module, "EXPERIMENTS", tmp_path)
    place = {"table": "resize/shelf", "level": "x", "seed": 0}
    attributes = {"place": place, "origin": "experiments/resize/shelf, x, seed 0"}
    found = SimpleNamespace(number=7, user_attrs=attributes)
    row, image = module._committed_cell(found, "tail/shelf")
    assert (row["state"], row["trial"], row["origin"], row["seconds"]) == ("complete", 7, attributes["origin"], 0)
    assert (row["correct"], row["identity"]) == (cells["correct"].iloc[0], "4:0 native=2")
    assert image["labels"] == images["labels"].iloc[0]
    row, _ = module._committed_cell(found, "resize/shelf")  # the table's, on another machine
    assert (row["seconds"], "origin" in row) == (60.0, False)
    gone = SimpleNamespace(number=7, user_attrs=attributes | {"place": place | {"seed": 1}})
    row, image = module._committed_cell(gone, "tail/shelf")
    assert (row["state"], row["reason"], image) == ("failed", "experiments/resize/shelf, x, seed 0 is gone", None)
    (tmp_path / "resize" / "shelf" / "results.csv").unlink()
    assert module._committed_cell(found, "tail/shelf")[0]["state"] == "failed"
