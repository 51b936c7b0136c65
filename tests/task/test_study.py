"""A study whose trials are real runs."""

import optuna
import psutil
import pytest
import yaml

from tests.helpers.tiny_runs import TINY


@pytest.fixture(scope="module")
def searched(start, tmp_path_factory):
    """A finished search of two points."""
    storage = f"sqlite:///{tmp_path_factory.mktemp('study')}/optuna.db"
    tiny = [override for override in TINY if not override.startswith("epochs")]
    sweeper = ["hydra/sweeper=optuna", f"hydra.sweeper.storage={storage}", "hydra.sweeper.study=two"]
    sweeper.append("hydra.sweeper.confirm=0")
    command = start("-m", *sweeper, "optimizer.lr=0.05,0.1", "epochs=1", "schedule.warmup_epochs=0", *tiny)
    command.result = command.wait()
    command.trials = lambda: optuna.load_study(study_name="two", storage=storage).get_trials()
    return command


def test_search_is_a_run_with_its_trials_as_children(searched):
    code, out, err = searched.result
    assert code == 0, err
    assert err == ""
    assert "trial 1 ended" in out
    runs = searched.store.runs()
    (parent,) = [run for run in runs if run.data.tags.get("kind") == "study"]
    children = [run for run in runs if run is not parent]
    assert len(children) == 2
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.info.experiment_id for run in runs} == {parent.info.experiment_id}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.data.tags["study"] for run in children} == {"two"}
    assert sorted(run.data.tags["trial"] for run in children) == ["0", "1"]
    assert sorted(run.data.params["optimizer.lr"] for run in children) == ["0.05", "0.1"]
    for run in children:
        assert run.data.metrics["val_best/top1"] >= 0
        assert not any(name.startswith("test/") for name in run.data.metrics)


def test_trial_run_and_folder_are_linked(searched):
    children = {run.info.run_id: run for run in searched.store.runs() if "trial" in run.data.tags}
    trials = searched.trials()
    assert {trial.user_attrs["run_id"] for trial in trials} == set(children)
    for trial in trials:
        run, folder = children[trial.user_attrs["run_id"]], searched.folder / "out" / str(trial.number)
        assert trial.user_attrs["folder"] == str(folder)
        assert trial.value == run.data.metrics["val_best/top1"]
        assert run.data.params["optimizer.lr"] == str(trial.params["optimizer.lr"])
        link = yaml.safe_load((folder / "trial.yaml").read_text("utf-8"))
        assert (link["study"], link["trial"], link["run_id"]) == ("two", trial.number, run.info.run_id)
        assert (folder / "checkpoints" / "best.ckpt").exists()


def test_killed_trial_is_resumed_in_the_same_run(start, tmp_path, wait_for):
    """Killed as by the out-of-memory killer: the study retries the point from the first epoch's checkpoint."""
    storage = f"sqlite:///{tmp_path}/optuna.db"
    sweeper = ["hydra/sweeper=optuna", f"hydra.sweeper.storage={storage}", "hydra.sweeper.study=killed"]
    command = start("-m", *sweeper, "hydra.sweeper.n_trials=1", "seed=0,1", *TINY)
    log = command.folder / "out" / "0" / "log.txt"
    saved = log.with_name("checkpoints") / "step-00000009.json"
    wait_for(saved.exists)  # a thread writes it, after the epoch's line
    (process,) = psutil.Process(command.process.pid).children()
    process.kill()
    code, _, err = command.wait()
    assert code == 0, err
    former, trial = optuna.load_study(study_name="killed", storage=storage).get_trials()
    assert former.state.name == "FAIL"
    (run,) = [run for run in command.store.runs() if "trial" in run.data.tags]
    assert trial.user_attrs["run_id"] == former.user_attrs["run_id"] == run.info.run_id
    assert (run.info.status, run.data.tags["trial"], run.data.tags["resumed_from"]) == ("FINISHED", "1", "9")
    assert [step for step, _ in command.store.history(run)["train/loss"]] == list(range(1, 19))
    assert trial.intermediate_values == former.intermediate_values
    assert trial.value == run.data.metrics["val_best/top1"]
    assert log.read_text().count("resumes from step 9") == 1
    assert [file.name for file in (command.folder / "out").iterdir() if file.is_dir()] == ["0"]
