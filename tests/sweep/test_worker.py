"""Workers of a study: failed, lost and killed trials."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from rp2k_lab.sweep.progress import failure_table
from rp2k_lab.sweep.space import parse_search
from rp2k_lab.sweep.study import PRUNERS, open_study
from rp2k_lab.sweep.worker import StudyWorker, missing

pytestmark = pytest.mark.slow


class RecordingDisplay:
    """A Display that records results and calls `at_start` when a trial starts."""

    def __init__(self):
        self.results, self.at_start = {}, lambda number: None

    def started(self, number, label):
        self.at_start(number)

    def ended(self, number, result, seconds):
        self.results[number] = result

    def reported(self, *arguments):
        pass

    update = reported


@pytest.fixture
def work(tmp_path, opened, behave):
    """work(retries=0): run a worker on a search of four seeds in sqlite."""
    plan = parse_search(OverridesParser.create().parse_overrides(["seed=range(4)"]))
    storage = opened(f"sqlite:///{tmp_path}/optuna.db")
    study = open_study(storage, plan, "a", "none", 0)

    def work(retries=0):
        worker = StudyWorker(
            study, storage, plan, 4, [], tmp_path, retries, lambda *_: {"name": "", "tags": {}}, lambda: None, display
        )
        worker.work()

    work.study, work.plan, work.display, work.folder = study, plan, RecordingDisplay(), tmp_path
    display = work.display
    return work


def states(study):
    return Counter(trial.state.name for trial in study.get_trials())


def test_a_failed_point_is_retried_and_reported_and_the_others_finish(work, behave):
    behave(("seed=2", "refused"))
    work(retries=2)
    assert states(work.study) == {"COMPLETE": 3, "FAIL": 3}
    assert missing(work.study, work.plan, 4) == 1
    failed = [trial for trial in work.study.get_trials() if trial.state == TrialState.FAIL]
    assert {trial.params["seed"] for trial in failed} == {2}
    reason, log = failure_table(work.study, work.plan).splitlines()[1:]
    assert reason.strip() == (
        "seed=2: failed 3 times, the last: exit code 2: model=vgg: there is no such choice; choose one of resnet18"
    )
    assert log.strip() == f"{work.folder / str(failed[-1].number)}/log.txt"
    behave()
    work(retries=3)
    assert missing(work.study, work.plan, 4) == 0
    assert failure_table(work.study, work.plan) == ""


def test_a_killed_trial_is_resumed_and_a_failed_one_restarts(work, behave):
    behave(("task.resume=continue", "top1:0.25"), ("seed=2", "killed with a record"), ("seed=3", "refused"))
    work(retries=1)
    former, trial = (t for t in work.study.get_trials() if t.params["seed"] == 2)
    assert (former.state, former.user_attrs["reason"][:17]) == (TrialState.FAIL, "killed by SIGKILL")
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.25)
    assert trial.user_attrs["resumes"] == former.number
    folder = former.user_attrs["folder"]
    assert trial.user_attrs["folder"] == folder == str(work.folder / str(former.number))
    assert trial.intermediate_values == {1: 0.5, 2: 0.25}  # epoch 1 comes from the killed process
    seen = json.loads((Path(folder) / "seen.json").read_text())["overrides"]
    assert seen == [
        "seed=2",
        "task.test=false",
        f"runs='{folder}'",
        "task.resume=continue",
        f"hydra.run.dir='{folder}'",
    ]
    failed = [t.user_attrs["folder"] for t in work.study.get_trials() if t.params["seed"] == 3]
    assert len(set(failed)) == 2


def test_each_trial_records_its_run_and_folder(work):
    work()
    for trial in work.study.get_trials():
        assert trial.user_attrs["folder"] == str(work.folder / str(trial.number))
        assert trial.user_attrs["run_id"].startswith("run")
        seen = json.loads((work.folder / str(trial.number) / "seen.json").read_text())
        assert seen["overrides"][:2] == [f"seed={trial.params['seed']}", "task.test=false"]


@pytest.mark.parametrize("behavior", ["fine", "quiet", "refused"])
def test_a_trial_taken_by_another_worker_is_dropped(work, behave, behavior):
    """Its heartbeats were lost, it kept running, and its result is ignored."""
    behave(("", behavior))

    def take_away(number):
        behave()
        if number == 0:
            behave(("", behavior))
            work.study.tell(0, state=TrialState.FAIL)

    work.display.at_start = take_away
    work(retries=1)
    assert work.display.results[0].startswith("lost")
    assert states(work.study) == {"COMPLETE": 4, "FAIL": 1}
    assert missing(work.study, work.plan, 4) == 0


@pytest.mark.parametrize(("pruner", "state"), [("median", "PRUNED"), ("halving", "PRUNED"), ("none", "COMPLETE")])
def test_a_search_prunes_a_bad_trial(work, behave, pruner, state):
    study = work.study
    study.pruner = PRUNERS[pruner]()
    work()
    behave(("", "top1:0.1"))
    study.enqueue_trial({"seed": 0})
    work()
    last = study.get_trials()[-1]
    assert last.state.name == state
    assert last.value == 0.1
    assert list(last.intermediate_values) == ([1, 2] if state == "COMPLETE" else [1])


def test_each_device_runs_trials(tmp_path, opened, behave):
    from rp2k_lab.sweep.command import _work

    plan = parse_search(OverridesParser.create().parse_overrides(["seed=range(6)"]))
    storage = opened(f"sqlite:///{tmp_path}/optuna.db")
    study = open_study(storage, plan, "a", "none", 0)
    link = lambda *_: {"name": "", "tags": {}}  # noqa: E731
    _work(StudyWorker(study, storage, plan, 6, [], tmp_path, 0, link, lambda: None, RecordingDisplay()), (1, 3))
    assert states(study) == {"COMPLETE": 6}
    assert len({trial.params["seed"] for trial in study.get_trials()}) == 6
    seen = [json.loads(file.read_text())["devices"] for file in tmp_path.glob("*/seen.json")]
    assert {tuple(devices) for devices in seen} == {("1", "1"), ("3", "3")}


def test_a_killed_worker_and_a_restarted_one_finish_each_cell_once(url, script, opened, behave, fifo, tmp_path):
    """One of two workers is killed during a trial, which then stops by itself; a third worker starts."""
    behave(("aug=cutout", fifo.behavior))
    workers = [script("fill_or_work.py", "work", url, str(tmp_path)) for _ in range(2)]
    _, parent = map(int, fifo.read().split())
    os.kill(parent, signal.SIGKILL)
    assert fifo.read() == "SIGTERM\n"
    assert fifo.read() == ""
    fifo.close()
    again = script("fill_or_work.py", "work", url, str(tmp_path))
    for worker in (*(worker for worker in workers if worker.pid != parent), again):
        _, err = worker.communicate(timeout=300)
        assert worker.returncode == 0, err
    trials = optuna.load_study(study_name="a", storage=opened(url)).get_trials()
    complete = [trial.user_attrs["point"] for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == len(set(complete)) == 4
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": 4, "FAIL": 1}
