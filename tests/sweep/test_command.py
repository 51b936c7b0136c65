"""`run.py -m …` from the command to the closing lines: Hydra, MLflow and databases are real, trials are stand-ins."""

import json
import os
import pty
import re
import select
import shutil
import signal
import sys

import mlflow
import optuna
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from rp2k_lab import PROJECT
from rp2k_lab.cli.app import register_resolvers, report_error
from rp2k_lab.core.errors import RequestError, StudyIncomplete
from rp2k_lab.sweep.command import run_study


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An MLflow database without a run; to make one takes three seconds."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments(max_results=1)
    return file


@pytest.fixture
def sweep(tmp_path, empty_store, behave, monkeypatch):
    """sweep(*arguments): a study of the test's own folder, in this process."""
    register_resolvers()
    (tmp_path / "store").mkdir()
    shutil.copy(empty_store, tmp_path / "store")
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()

        def sweep(*arguments, storage=f"sqlite:///{tmp_path}/optuna.db"):
            uri = f"tracking.uri=sqlite:///{tmp_path}/store/mlflow.db"
            arguments = [uri, *arguments] if not any(a.startswith("tracking.uri") for a in arguments) else arguments
            hydra = ["hydra/sweeper=optuna", f"hydra.sweep.dir={tmp_path}/out"]
            if not any(argument.startswith("hydra.sweeper.storage") for argument in arguments):
                hydra.append(f"hydra.sweeper.storage='{storage}'")
            monkeypatch.setattr(sys, "argv", ["run.py", "-m", *arguments, *hydra])
            config = loader.load_configuration("config", [*arguments, *hydra], RunMode.MULTIRUN)
            options = OmegaConf.to_container(config.hydra.sweeper)
            ours = [argument for argument in arguments if not argument.startswith("hydra.")]
            options.pop("_target_")
            run_study(list(ours), options, config, loader)

        sweep.folder = tmp_path
        yield sweep


def study_of(sweep, name):
    return optuna.load_study(study_name=name, storage=f"sqlite:///{sweep.folder}/optuna.db")


def runs(sweep):
    client = mlflow.MlflowClient(f"sqlite:///{sweep.folder}/store/mlflow.db")
    return [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]


def overrides(sweep):
    return [json.loads(file.read_text())["overrides"] for file in sorted(sweep.folder.glob("out/*/seen.json"))]


def test_runs_that_start_from_others_wait_for_them_and_name_them(sweep, capsys):
    sweep("ablation=ensemble", "scale=smoke", "seed=0,1")
    trials = study_of(sweep, "ensemble_smoke").get_trials()
    by_cell = {(trial.params["level"], trial.params["seed"]): trial for trial in trials}
    assert len(by_cell) == len(trials) == 14
    for (level, seed), trial in by_cell.items():
        seen = json.loads((sweep.folder / "out" / str(trial.number) / "seen.json").read_text())["overrides"]
        given = [override for override in seen if override.startswith("runs=")]
        sources = {"ResNet50-BAM": [], "ResNet18": [], "ResNet50-BAM, flip": ["ResNet50-BAM"]}
        sources |= {"ResNet18, flip": ["ResNet18"]}
        runs = [by_cell[name, seed] for name in sources.get(level, ["ResNet50-BAM", "ResNet18"])]
        assert given == ([f"runs=[{','.join(run.user_attrs['run_id'] for run in runs)}]"] if runs else [])
        assert all(run.datetime_complete <= trial.datetime_start for run in runs)
        assert trial.user_attrs.get("runs", []) == [run.user_attrs["run_id"] for run in runs]


def test_without_its_earlier_run_a_cell_is_not_begun_and_named(sweep, behave, capsys):
    behave(("model=resnet18", "refused"))
    with pytest.raises(StudyIncomplete, match="5 of 7 are not finished"):
        sweep("ablation=ensemble", "scale=smoke", "seed=0", "hydra.sweeper.retries=0")
    out = capsys.readouterr().out
    assert "  ResNet18, seed 0: failed 1 times" in out
    assert "  ResNet18, flip, seed 0: not begun, it starts from ResNet18, seed 0" in out
    assert out.count("not begun") == 4


def test_a_table_its_resume_and_more_seeds(sweep, capsys):
    table = ("ablation=resize", "scale=smoke")
    sweep(*table, "seed=0")
    first = capsys.readouterr().out
    assert len(overrides(sweep)) == 4
    assert "trial 0 starts: stretch, seed 0" in first
    assert re.search(r"trial 3 ended after \d+ s: val top-1 50.0 %; 4 of 4 done, best so far 50.0 %", first)
    assert "task=report ablation=resize scale=smoke" in first
    (parent,) = runs(sweep)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["kind"] == "study"
    assert parent.info.run_id in first
    sweep(*table, "seed=0")
    again = capsys.readouterr().out
    assert "nothing to run, all 4 are finished" in again
    assert "starts" not in again
    sweep(*table, "seed=0,1")
    assert "trial 7 ended" in capsys.readouterr().out
    assert all("tracking.experiment=resize_smoke" in o for o in overrides(sweep))
    assert (
        sorted(next(x for x in o if x.startswith("seed=")) for o in overrides(sweep)) == ["seed=0"] * 4 + ["seed=1"] * 4
    )
    assert not any("task.test=false" in o for o in overrides(sweep))
    assert [run.info.run_id for run in runs(sweep)] == [parent.info.run_id]


def test_a_search_leaves_test_alone_and_says_how_to_run_the_best(sweep, behave, capsys):
    behave(("seed=2", "top1:0.875"))
    sweep("seed=range(3)", "model=resnet18")
    assert all("task.test=false" in o for o in overrides(sweep))
    assert len(overrides(sweep)) == 3
    out = capsys.readouterr().out
    assert "best        val top-1 87.5 %" in out
    assert "seed=2" in next(line for line in out.splitlines() if line.startswith("next"))
    tags = (sweep.folder / "out" / "0" / "trial.yaml").read_text()
    assert f"mlflow.parentRunId: {runs(sweep)[0].info.run_id}" in tags


def test_a_point_that_fails_ends_the_study_with_its_name(sweep, behave, capsys):
    behave(("seed=1", "killed"))
    with pytest.raises(StudyIncomplete, match="1 of 2 are not finished"):
        sweep("seed=0,1", "hydra.sweeper.retries=1", "hydra.sweeper.study=b")
    assert StudyIncomplete.exit_code == 1
    assert "seed=1: failed 2 times, the last: killed by SIGKILL" in capsys.readouterr().out
    assert runs(sweep)[0].info.status == "FAILED"


REFUSED = [
    (["optimizer.lrr=0.1,0.2"], ["optimizer.lrr", "optimizer.lr"]),
    (["aug=none,cutut"], ["aug=cutut", "cutout"]),
    (["optimizer.momentum=interval(0.5,1.5)"], ["optimizer.momentum=1.5", "less than 1"]),
    (["optimizer.lr=interval(0.2,0.1)"], ["optimizer.lr=interval(0.2,0.1)"]),
    (["epochs=3"], ["nothing to search"]),
    (["seed=0,1", "task=inspect"], ["task=inspect"]),
    (["task=train,inspect"], ["task=train,inspect"]),
    (["ablation=nosuch"], ["ablation=nosuch", "resize"]),
    (["ablation=all"], ["ablation=all", "one by one"]),
    (["ablation=resize,tail"], ["one by one"]),
    (["ablation=resize", "scale=smoke", "aug=none,cutout"], ["aug=none,cutout", "levels of its own"]),
    (["ablation=resize", "scale=smoke", "resize=stretch"], ["resize=stretch", "ablation=resize"]),
    (["ablation=resize", "scale=smoke", "seed=a"], ["seed=a", "integer"]),
    (["ablation=resize", "scale=smoke", "seed=0,a"], ["seed=0,a", "whole numbers"]),
    (["ablation=resize", "scale=tiny"], ["scale=tiny", "smoke"]),
    (["seed=0,1", "hydra.sweeper.pruner=x"], ["hydra.sweeper.pruner=x", "median"]),
    (["seed=0,1", "hydra.sweeper.n_trials=0"], ["hydra.sweeper.n_trials=0", "greater"]),
    (["seed=0,1", "hydra.sweeper.devices=0"], ["hydra.sweeper.devices=0"]),
    (["seed=0,1", "hydra.sweeper.study='a b'"], ["hydra.sweeper.study=a b"]),
    (["seed=0,1", "hydra.sweeper.nosuch=1"], ["hydra.sweeper.nosuch"]),
    (["seed=0,1", "hydra.sweeper.storage='mysql://host/a'"], ["mysql://host/a", "postgresql"]),
    (["seed=0,1", "hydra.sweeper.storage='postgresql+psycopg://127.0.0.1:9/a'"], ["127.0.0.1:9"]),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=lambda value: " ".join(value)[:50])
def test_a_wrong_request_gets_two_lines_and_leaves_nothing(sweep, capsys, arguments, words):
    with pytest.raises((RequestError, HydraException)) as caught:
        sweep(*arguments)
    assert report_error(caught.value) == 2
    err = capsys.readouterr().err
    assert 1 <= len(err.strip().splitlines()) <= 2, err
    for word in words:
        assert word in err
    assert not (sweep.folder / "optuna.db").exists()
    assert runs(sweep) == []
    assert not (sweep.folder / "out").exists()


def test_an_unreachable_store_leaves_no_study(sweep):
    with pytest.raises(RequestError, match=r"tracking\.uri"):
        sweep("seed=0,1", "tracking.uri=http://user:secret@127.0.0.1:9")
    storage = f"sqlite:///{sweep.folder}/optuna.db"
    assert optuna.get_all_study_names(storage) == []


def test_another_question_leaves_the_study_and_its_run_alone(sweep):
    sweep("seed=0,1", "hydra.sweeper.study=a")
    (before,) = runs(sweep)
    with pytest.raises(RequestError, match="epochs=7"):
        sweep("seed=0,1", "epochs=7", "hydra.sweeper.study=a")
    assert [run.data.tags for run in runs(sweep)] == [before.data.tags]
    assert len(study_of(sweep, "a").trials) == 2


def test_the_databases_password_is_not_recorded(sweep, postgresql):
    url = postgresql.new_database().replace("postgres@", "postgres:secret@")
    sweep("seed=0,1", storage=url)
    (parent,) = runs(sweep)
    assert "secret" not in json.dumps(parent.data.tags)
    assert "hydra.sweeper.storage=" in parent.data.tags["command"]


def test_in_a_terminal_a_table_and_ctrl_c(sweep, script, behave, fifo, capsys):
    """The real command in a pseudo-terminal, then the same study again."""
    behave(("seed=1", fifo.behavior))
    study = ("seed=0,1", "hydra.sweeper.study=a", "hydra.sweeper.n_trials=2")
    options = [f"tracking.uri=sqlite:///{sweep.folder}/store/mlflow.db", f"hydra.sweep.dir={sweep.folder}/out"]
    options += ["hydra/sweeper=optuna", f"hydra.sweeper.storage=sqlite:///{sweep.folder}/optuna.db"]
    ours, theirs = pty.openpty()
    terminal = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    process = script("study_of_fake_runs.py", "-m", *study, *options, **terminal)
    fifo.read(120)
    os.close(theirs)
    process.send_signal(signal.SIGINT)
    assert fifo.read() == "SIGINT\n"
    shown = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # nobody has the terminal open any more
            break
    os.close(ours)
    assert process.wait() == 130
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "┃ trial ┃ point" in shown
    assert re.search(r"seed=1 .*running", shown)
    assert "stopped" in shown
    (parent,) = runs(sweep)
    assert parent.info.status == "KILLED"
    fifo.close()
    sweep(*study, "hydra.sweeper.retries=0")
    assert "┃" not in capsys.readouterr().out
    states = [trial.state.name for trial in study_of(sweep, "a").trials]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert runs(sweep)[0].info.status == "FINISHED"
