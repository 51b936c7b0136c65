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
    tiny = [override for override in FEW_PHOTOS if not override.startswith("epochs")]
    extra = [*tiny, "epochs=4", "dataset.label_noise=0.1", "model.width_multiplier=0.125"]
    command = [sys.executable, str(tmp_path / "experiments" / "label_errors.py"), *extra]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "experiments" / "label_errors"
    assert {file.name for file in results.iterdir()} == {"results.csv", "label_errors_curve.svg"}
    both = pd.read_csv(results / "results.csv")
    assert both["measure"].tolist() == ["top1"] * 4 + ["macro_top1"] * 4
    table = both[both["measure"] == "top1"].set_index("level")
    assert list(table.index) == ["labels as given", "list, unseen", "list, reviewed", "truth"]
    assert table.loc["labels as given", "wrong_labels"] == 30
    assert table.loc["list, reviewed", "wrong_labels"] == 30 - table.loc["list, reviewed", "labels_changed"]
    assert table.loc["truth", ["labels_changed", "wrong_labels"]].tolist() == [30, 0]
    assert (table["low"][1:] <= table["gain"][1:]).all()
    assert (table["gain"][1:] <= table["high"][1:]).all()
