"""Tables end to end: the study's runs, and the report of them.  Two in the tests, all of them in `make soak`."""

import pandas as pd
import pytest

from rp2k_lab import ablation

QUICK = ("epochs", "tail")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.soak) for n in ablation.names()])
def test_a_table_runs_at_smoke_and_is_reported(start, name, compose):
    table = [f"ablation={name}", "scale=smoke", "seed=0"]
    command = start("-m", *table)
    code, out, err = command.wait(3600)
    assert code == 0, out + err
    report = start("task=report", *table, f"task.output={command.folder}/report", folder=command.folder)
    code, out, err = report.wait()
    assert code == 0, out + err
    levels = ablation.Ablation.model_validate(compose(*table)["ablation"]).level_names("smoke")
    results = pd.read_csv(command.folder / "report" / "results.csv")
    assert list(results["level"]) == levels
    assert set(results["state"]) == {"complete"}
    assert set(results["images"]) == {80}
    verdict = pd.read_csv(command.folder / "report" / "verdict.csv")
    assert list(verdict["level"]) == levels
    page = (command.folder / "report" / "report.html").read_text()
    assert all(level in page for level in levels)
    assert all(level in out for level in levels)
