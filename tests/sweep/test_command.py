"""`run.py -m …` from the command to the closing lines, with real Hydra, MLflow and databases, and fake trials."""

import json
import os
import pty
import re
import select
import signal

import mlflow
import optuna
import pytest
from hydra.errors import HydraException

from rp2k_lab.cli.app import report_error
from rp2k_lab.core.errors import RequestError, StudyIncomplete

pytestmark = pytest.mark.slow


def study_of(sweep, name):
    return optuna.load_study(study_name=name, storage=f"sqlite:///{sweep.folder}/optuna.db")


def runs(sweep):
    client = mlflow.MlflowClient(f"sqlite:///{sweep.folder}/store/mlflow.db")
    return [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]


def overrides(sweep):
    return [json.loads(file.read_text())["overrides"] for file in sorted(sweep.folder.glob("out/**/seen.json"))]


def test_cells_wait_for_their_source_runs_and_get_their_ids(sweep, capsys):
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


def test_a_cell_without_its_source_run_is_not_started_and_reported(sweep, behave, capsys):
    behave(("model=resnet18", "refused"))
    with pytest.raises(StudyIncomplete, match="5 of 7 are not finished"):
        sweep("ablation=ensemble", "scale=smoke", "seed=0", "hydra.sweeper.retries=0")
    out = capsys.readouterr().out
    assert "  ResNet18, seed 0: failed 1 times" in out
    assert "  ResNet18, flip, seed 0: not started, waits for ResNet18, seed 0" in out
    assert out.count("not started") == 4


def test_a_table_is_resumed_and_extended_by_seeds(sweep, capsys):
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


def test_a_search_does_not_read_test_and_prints_the_best_command(sweep, behave, capsys):
    behave(("seed=2", "top1:0.875"))
    sweep("seed=range(3)", "model=resnet18")
    assert all("task.test=false" in o for o in overrides(sweep))
    assert len(overrides(sweep)) == 3
    out = capsys.readouterr().out
    assert "best        val top-1 87.5 %" in out
    assert "seed=2" in next(line for line in out.splitlines() if line.startswith("next"))
    tags = (sweep.folder / "out" / "0" / "trial.yaml").read_text()
    assert f"mlflow.parentRunId: {runs(sweep)[0].info.run_id}" in tags


# The best value of the search belongs to cutout; on fresh seeds mixup is better.
LUCKY = [
    *((f"aug=cutout seed={seed}", f"top1:{top1}") for seed, top1 in ((1, 0.25), (2, 0.5), (3, 0.75))),
    *((f"aug=mixup seed={seed}", f"top1:{top1}") for seed, top1 in ((1, 0.5), (2, 0.625), (3, 0.75))),
    ("aug=cutout", "top1:0.875"),
    ("aug=mixup", "top1:0.8125"),
    ("aug=none", "top1:0.125"),
]


def test_fresh_seeds_confirm_the_best_points_and_name_the_winner(sweep, behave, capsys):
    """A confirmation that fails halfway is completed by the same command, which repeats nothing."""
    search = ("aug=none,cutout,mixup", "hydra.sweeper.study=a", "hydra.sweeper.confirm=2", "hydra.sweeper.retries=0")
    behave(("aug=mixup seed=2", "refused"), *LUCKY)
    with pytest.raises(StudyIncomplete, match=r"^study a\.confirm: 1 of 6 are not finished\nrun the same command"):
        sweep(*search)
    out = capsys.readouterr().out
    assert "study a.confirm: the best 2 points again, seeds 1, 2, 3" in out
    assert "aug=mixup seed=2: failed 1 times" in out
    assert "best        val top-1 50.0 ± 25.0 % on fresh seeds, 87.5 % in the search" in out  # mixup lacks a seed
    assert runs(sweep)[0].info.status == "FAILED"

    behave(*LUCKY)
    sweep(*search[:-1], "hydra.sweeper.retries=1")
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if "starts" in line] == ["trial 6 starts: aug=mixup seed=2"]
    assert re.search(r"best +val top-1 62.5 ± 12.5 % on fresh seeds, 81.2 % in the search, trial \d\n", out)
    assert next(line for line in out.splitlines() if line.startswith("next")).endswith(" aug=mixup")
    rows = [line.split() for line in out.splitlines() if line.endswith(("aug=cutout", "aug=mixup")) and " ± " in line]
    assert [row[0] for row in rows] == ["81.2", "87.5"]

    searched, fresh = study_of(sweep, "a").get_trials(), study_of(sweep, "a.confirm").get_trials()
    assert len(searched) == 3  # the sampler and the pruner never see the others
    assert study_of(sweep, "a").best_trial.params == {"aug": "cutout"}
    assert {(t.params["aug"], t.params["seed"]) for t in fresh} == {
        (a, s) for a in ("cutout", "mixup") for s in (1, 2, 3)
    }
    assert all("task.test=false" in command for command in overrides(sweep))
    tags = (sweep.folder / "out" / "confirm" / "0" / "trial.yaml").read_text()
    assert "study: a.confirm\n" in tags
    assert "seed: '1'\n" in tags
    assert f"mlflow.parentRunId: {runs(sweep)[0].info.run_id}" in tags


def test_a_study_with_a_failed_point_names_it(sweep, behave, capsys):
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
    (["ablation=all"], ["ablation=all", "one table"]),
    (["ablation=resize,tail"], ["one table"]),
    (["ablation=resize", "scale=smoke", "aug=none,cutout"], ["aug=none,cutout", "its own levels"]),
    (["ablation=resize", "scale=smoke", "resize=stretch"], ["resize=stretch", "ablation=resize"]),
    (["ablation=resize", "scale=smoke", "seed=a"], ["seed=a", "integer"]),
    (["ablation=resize", "scale=smoke", "seed=0,a"], ["seed=0,a", "whole numbers"]),
    (["ablation=resize", "scale=tiny"], ["scale=tiny", "smoke"]),
    (["seed=0,1", "hydra.sweeper.pruner=x"], ["hydra.sweeper.pruner=x", "median"]),
    (["seed=0,1", "hydra.sweeper.n_trials=0"], ["hydra.sweeper.n_trials=0", "greater"]),
    (["seed=0,1", "hydra.sweeper.devices=0"], ["hydra.sweeper.devices=0"]),
    (["seed=0,1", "hydra.sweeper.study='a b'"], ["hydra.sweeper.study=a b"]),
    (["seed=0,1", "hydra.sweeper.nosuch=1"], ["hydra.sweeper.nosuch"]),
    (["aug=none,cutout", "hydra.sweeper.seeds=[0,0]"], ["hydra.sweeper.seeds=[0, 0]: seeds must be different"]),
    (["ablation=resize", "scale=smoke", "hydra.sweeper.seeds=[0,1]"], ["hydra.sweeper.seeds=[0,1]", "use seed=0,1"]),
    (["seed=0,1", "hydra.sweeper.storage='mysql://host/a'"], ["mysql://host/a", "postgresql"]),
    (["seed=0,1", "hydra.sweeper.storage='postgresql+psycopg://127.0.0.1:9/a'"], ["127.0.0.1:9"]),
]


@pytest.mark.parametrize(("arguments", "texts"), REFUSED, ids=lambda value: " ".join(value)[:50])
def test_a_wrong_request_prints_two_lines_and_writes_nothing(sweep, capsys, arguments, texts):
    with pytest.raises((RequestError, HydraException)) as caught:
        sweep(*arguments)
    assert report_error(caught.value) == 2
    err = capsys.readouterr().err
    assert 1 <= len(err.strip().splitlines()) <= 2, err
    for text in texts:
        assert text in err
    assert not (sweep.folder / "optuna.db").exists()
    assert runs(sweep) == []
    assert not (sweep.folder / "out").exists()


def test_an_unreachable_store_creates_no_study(sweep):
    with pytest.raises(RequestError, match=r"tracking\.uri"):
        sweep("seed=0,1", "tracking.uri=http://user:secret@127.0.0.1:9")
    storage = f"sqlite:///{sweep.folder}/optuna.db"
    assert optuna.get_all_study_names(storage) == []


def test_a_different_definition_does_not_change_the_study_and_its_run(sweep):
    sweep("seed=0,1", "hydra.sweeper.study=a")
    (before,) = runs(sweep)
    with pytest.raises(RequestError, match="epochs=7"):
        sweep("seed=0,1", "epochs=7", "hydra.sweeper.study=a")
    assert [run.data.tags for run in runs(sweep)] == [before.data.tags]
    assert len(study_of(sweep, "a").trials) == 2


def test_database_password_is_not_recorded(sweep, postgresql):
    url = postgresql.new_database().replace("postgres@", "postgres:secret@")
    sweep("seed=0,1", storage=url)
    (parent,) = runs(sweep)
    assert "secret" not in json.dumps(parent.data.tags)
    assert "hydra.sweeper.storage=" in parent.data.tags["command"]


def test_a_terminal_shows_a_table_and_ctrl_c_stops_the_study(sweep, script, behave, fifo, capsys):
    """Run the command in a pseudo-terminal, stop it, and resume the study."""
    behave(("seed=1", fifo.behavior))
    study = ("seed=0,1", "hydra.sweeper.study=a", "hydra.sweeper.n_trials=2")
    options = [f"tracking.uri=sqlite:///{sweep.folder}/store/mlflow.db", f"hydra.sweep.dir={sweep.folder}/out"]
    options += ["hydra/sweeper=optuna", f"hydra.sweeper.storage=sqlite:///{sweep.folder}/optuna.db"]
    terminal, child_end = pty.openpty()
    pipes = {"stdin": child_end, "stdout": child_end, "stderr": child_end, "start_new_session": True}
    process = script("study_of_fake_runs.py", "-m", *study, *options, **pipes)
    fifo.read(120)
    os.close(child_end)
    process.send_signal(signal.SIGINT)
    assert fifo.read() == "SIGINT\n"
    output = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            output += os.read(terminal, 65536)
        except OSError:  # the other end of the terminal is closed
            break
    os.close(terminal)
    assert process.wait() == 130
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.decode())
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


def test_a_study_whose_output_is_not_read_goes_on_and_a_scheduler_stops_it(sweep, script, behave, fifo):
    """Its trial gets the signal, too; the study prints before and after."""
    behave(("seed=0", fifo.behavior))
    options = [f"tracking.uri=sqlite:///{sweep.folder}/store/mlflow.db", f"hydra.sweep.dir={sweep.folder}/out"]
    options += ["hydra/sweeper=optuna", f"hydra.sweeper.storage=sqlite:///{sweep.folder}/optuna.db"]
    reading, writing = os.pipe()
    os.close(reading)
    pipes = {"stdout": writing, "stderr": writing}
    process = script("study_of_fake_runs.py", "-m", "seed=0,1", "hydra.sweeper.study=a", *options, **pipes)
    os.close(writing)
    fifo.read()  # of the second trial
    process.send_signal(signal.SIGUSR1)
    assert fifo.read() == "SIGUSR1\n"
    assert process.wait(60) == 75
    assert runs(sweep)[0].info.status == "KILLED"
    assert [trial.state.name for trial in study_of(sweep, "a").trials] == ["COMPLETE", "FAIL"]
