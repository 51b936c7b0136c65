"""task=ensemble, end to end and in parts."""

import pandas as pd
import pytest

from rp2k_lab.core.errors import RequestError
from rp2k_lab.task import ensemble
from rp2k_lab.tracking.mlflow_runs import CLOSING

RUN = "resnet18_shelf_none_seed0"


@pytest.fixture(scope="module")
def averaged(later_store, second_run, start):
    """The first run beside one of another size and crop."""
    command = start("task=ensemble", f"runs=[{RUN},{second_run}]", uri=later_store.uri)
    command.result = command.wait()
    return command


@pytest.fixture
def record(first_run, later_store, averaged):
    """(the ensemble's run, its parent run)."""
    assert averaged.result[0] == 0, averaged.result[2]
    (parent,) = first_run.store.runs()
    return later_store.run_of(averaged.result[1]), parent


def test_ensemble_is_a_run_with_parents(second_run, averaged, record):
    run, parent = record
    assert averaged.result[2] == ""
    assert run.data.tags["parent"] == f"{parent.info.run_id},{second_run}"
    assert (run.info.status, run.data.tags["task"]) == ("FINISHED", "ensemble")


def test_member_scores_equal_their_runs_and_gain_is_over_the_best_on_val(later_store, record):
    run, parent = record
    members = pd.read_csv(later_store.artifacts(run) / "members.csv")
    assert members["name"][0] == RUN
    assert len(members) == 3
    for split in ("val", "test"):
        for score in ("top1", "macro_top1"):
            assert members[f"{split}_{score}"][0] == pytest.approx(
                parent.data.metrics[f"{CLOSING[split]}/{score}"], abs=1e-12
            )
            assert members[f"{split}_{score}"][2] == pytest.approx(run.data.metrics[f"{split}/{score}"], abs=1e-12)
    best = members.loc[members["val_top1"][:2].idxmax()]
    assert members.loc[members["best_on_val"], "name"].tolist() == [best["name"]] == [run.data.tags["best_member"]]
    gain = run.data.metrics["test/top1"] - best["test_top1"]
    assert run.data.metrics["test/gain"] == pytest.approx(gain, abs=1e-12)
    assert run.data.metrics["test/gain_low"] <= gain <= run.data.metrics["test/gain_high"]


def test_terminal_shows_every_member_with_interval_and_count(averaged, record):
    out = averaged.result[1]
    rows = [line for line in out.splitlines() if line.endswith(" of 80")]
    assert len(rows) == 3
    assert all(line.count("[") == 2 and " of 60" in line for line in rows)
    assert "points [" in out
    assert "at 40×40, letterbox, crop 0.8" in out


def test_average_has_the_tables_of_a_run(later_store, record):
    run, _ = record
    folder = later_store.artifacts(run)
    for split, photos in (("val", 60), ("test", 80)):
        predictions = pd.read_parquet(folder / split / "predictions.parquet")
        assert len(predictions) == photos
        assert predictions["correct"].mean() == run.data.metrics[f"{split}/top1"]


def test_runs_with_other_classes_are_refused(request_of, second_run, tmp_path):
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    (other / "checkpoints" / "best.ckpt").write_bytes(second_run.read_bytes())
    (other / "config.yaml").write_text((second_run.parents[1] / "config.yaml").read_text("utf-8"), "utf-8")
    classes = (second_run.parents[1] / "classes.txt").read_text("utf-8").splitlines()
    (other / "classes.txt").write_text("\n".join(["别的", *classes[1:]]) + "\n", "utf-8")
    runs = [str(second_run), str(other / "checkpoints" / "best.ckpt")]
    config = request_of("task=ensemble", f"runs=[{','.join(runs)}]")
    with pytest.raises(RequestError, match=r"trained on other classes\n.* lacks .*别的.*: leave one out"):
        ensemble.run(config, tmp_path, config)
