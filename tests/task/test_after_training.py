"""experiments/after_training.py as a user runs it."""

import re
import subprocess
import sys

import mlflow
import pytest

from rp2k_lab import PROJECT
from tests.helpers.tiny_runs import FEW_PHOTOS


@pytest.mark.soak
def test_table_has_all_runs_and_store_has_their_parents(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tiny = [override for override in FEW_PHOTOS if not override.startswith("epochs")]
    extra = [*tiny, "epochs=1", "model.width_multiplier=0.125", f"tracking.uri={uri}"]
    command = [sys.executable, str(PROJECT / "experiments" / "after_training.py"), *extra]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("\ntop-1 ")[-1].splitlines()
    rows = [line for line in table if re.fullmatch(r".+ of 60 .+ of 80", line)]
    assert len(rows) == 5
    assert all(len(re.findall(r"%  \[ *\d+\.\d, +\d+\.\d\] of \d+", row)) == 2 for row in rows)

    client = mlflow.MlflowClient(uri)
    runs = {run.info.run_id: run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])}
    by_task = {task: [r for r in runs.values() if r.data.tags["task"] == task] for task in ("train", "fixres")}
    (average,) = [run for run in runs.values() if run.data.tags["task"] == "ensemble"]
    assert len(runs) == 5
    assert set(average.data.tags["parent"].split(",")) == {run.info.run_id for run in by_task["fixres"]}
    parents = {run.data.tags["parent"] for run in by_task["fixres"]}
    assert parents == {run.info.run_id for run in by_task["train"]}
