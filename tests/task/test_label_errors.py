"""experiments/label_errors.py from the command line."""

import shutil
import subprocess
import sys

import pandas as pd
import pytest

from rp2k_lab import PROJECT
from tests.helpers.tiny_runs import FEW_PHOTOS


@pytest.mark.soak
def test_reviewed_list_reduces_wrong_labels(tmp_path):
    """Runs in a copy of the scripts, which keeps the clone's results."""
    for folder in ("experiments", "conf", "rp2k_lab", "hydra_plugins"):
        shutil.copytree(PROJECT / folder, tmp_path / folder)
    shutil.copy(PROJECT / "run.py", tmp_path)
    shutil.rmtree(tmp_path / "experiments" / "label_errors", ignore_errors=True)
    script = tmp_path / "experiments" / "label_errors.py"
    script.write_text(script.read_text("utf-8").replace("SEEDS = (0, 1, 2, 3, 4)", "SEEDS = (0, 1)"), "utf-8")
    tiny = [override for override in FEW_PHOTOS if not override.startswith("epochs")]
    extra = [*tiny, "epochs=4", "model.width_multiplier=0.125", "dataset.test_images=80"]
    command = [sys.executable, str(script), *extra]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "experiments" / "label_errors").exists()  # for the command without keys
    results = tmp_path / "outputs" / "label_errors"
    assert {file.name for file in results.iterdir()} >= {"results.csv", "scores.csv", "label_errors_curve.svg"}
    both = pd.read_csv(results / "results.csv")
    assert both["measure"].tolist() == ["top1"] * 4 + ["macro_top1"] * 4
    table = both[both["measure"] == "top1"].set_index("level")
    assert list(table.index) == ["as given", "list reviewed", "truth", "no wrong labels"]
    assert table.loc["as given", "wrong_labels"] == 30
    assert table.loc["list reviewed", "wrong_labels"] == 30 - table.loc["list reviewed", "labels_changed"]
    assert table.loc["truth", ["labels_changed", "wrong_labels"]].tolist() == [30, 0]
    assert (table["low"][1:] <= table["gain"][1:]).all()
    assert (table["gain"][1:] <= table["high"][1:]).all()
    scores = pd.read_csv(results / "scores.csv")
    assert scores.groupby("split")["wrong_labels"].unique().map(list).to_dict() == {"test": [8], "val": [6]}
    assert (scores["top1_given"] - scores["top1_true"]).abs().le(scores["wrong_labels"] / scores["images"]).all()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("nothing to do: run ") == 8
