"""Tables end to end: the study and its report; tests/compat has a table in `make test`."""

import pandas as pd
import pytest

from rp2k_lab.config import ablation


@pytest.mark.soak
@pytest.mark.parametrize("name", ablation.names())
def test_table_runs_at_smoke_scale_and_is_reported(start, name, compose, tmp_path):
    table = [f"ablation={name}", "scale=smoke", "seed=0"]
    storage = f"sqlite:///{tmp_path}/optuna.db"
    command = start("-m", *table, f"hydra.sweeper.storage={storage}")
    code, out, err = command.wait(3600)
    assert code == 0, out + err
    outputs = [f"task.storage={storage}", f"task.output={tmp_path}/report"]
    code, out, err = start("task=report", *table, *outputs, uri=command.store.uri).wait()
    assert code == 0, out + err
    levels = ablation.Ablation.model_validate(compose(*table)["ablation"]).level_names("smoke")
    results = pd.read_csv(tmp_path / "report" / "results.csv", keep_default_na=False, dtype={"level": str})
    assert list(results["level"]) == levels
    assert set(results["state"]) == {"complete"}
    assert set(results["images"]) == {80}
    verdict = pd.read_csv(tmp_path / "report" / "verdict.csv", keep_default_na=False, dtype={"level": str})
    assert list(verdict["level"]) == levels
    page = (tmp_path / "report" / "report.html").read_text()
    assert all(level in page for level in levels)
    assert all(level in out for level in levels)
