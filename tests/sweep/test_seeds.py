"""Trials of several seeds: fake runs in a real database."""

import json
import os
import signal
import statistics
import warnings
from types import SimpleNamespace

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from rp2k_lab.core.errors import RequestError
from rp2k_lab.sweep.command import _pruner
from rp2k_lab.sweep.seed_runs import read_seed_runs
from rp2k_lab.sweep.space import parse_search
from rp2k_lab.sweep.study import build_pruner, check_same_study, open_study
from rp2k_lab.sweep.worker import StudyWorker, missing

pytestmark = pytest.mark.slow


def search(*overrides, seeds=(0, 1, 2)):
    return parse_search(OverridesParser.create().parse_overrides(list(overrides)), seeds)


@pytest.fixture
def work(tmp_path, opened, behave):
    """work(n_trials=1, pruner="none", retries=0): run a worker on a search with three seeds; return its trials."""
    plan, storage, labels = search("aug=none,cutout,mixup"), opened(f"sqlite:///{tmp_path}/optuna.db"), []
    ignore = lambda *_: None  # noqa: E731
    started = lambda number, label: labels.append(label)  # noqa: E731
    display = SimpleNamespace(started=started, ended=ignore, reported=ignore, update=ignore)
    link = lambda trial, point: {"name": "", "tags": {**point, "trial": trial.number}}  # noqa: E731

    def work(n_trials=1, pruner="none", retries=0):
        study = open_study(storage, plan, "a", pruner, 0)
        StudyWorker(study, storage, plan, n_trials, [], tmp_path, retries, link, lambda: None, display).work()
        work.missing = missing(study, plan, n_trials)
        return study.get_trials()

    work.folder, work.labels = tmp_path, labels
    return work


def folders(work):
    return sorted(file.parent.name for file in work.folder.glob("*/seen.json"))


def test_a_trial_runs_its_seeds_in_order_and_its_value_is_their_mean(work, behave):
    behave(("seed=0", "top1:0.25"), ("seed=1", "top1:0.5"), ("seed=2", "top1:0.875"))
    (trial,) = work()
    assert folders(work) == ["0-seed0", "0-seed1", "0-seed2"]
    assert trial.state == TrialState.COMPLETE
    assert trial.intermediate_values == {0: 0.25, 1: 0.5, 2: 0.875}
    assert trial.value == statistics.fmean([0.25, 0.5, 0.875])
    runs = read_seed_runs(trial)
    assert {seed: run.top1 for seed, run in runs.items()} == {0: 0.25, 1: 0.5, 2: 0.875}
    assert len({run.run_id for run in runs.values()}) == 3
    for seed, run in runs.items():
        assert run.folder == str(work.folder / f"0-seed{seed}")
        assert 0 < run.seconds < 60
        seen = json.loads((work.folder / run.folder / "seen.json").read_text())["overrides"]
        assert seen[:3] == [f"aug={trial.params['aug']}", f"seed={seed}", "task.test=false"]
        assert f"seed: {seed}\n" in (work.folder / run.folder / "trial.yaml").read_text()
    assert work.labels == [f"aug={trial.params['aug']} seed={seed}" for seed in (0, 1, 2)]


def test_wilcoxon_prunes_after_two_worse_seeds_but_not_after_a_better_one(work, behave):
    work()
    behave(("seed=0", "top1:0.75"), ("", "top1:0.25"))
    mixed = work(2, "wilcoxon")[-1]
    assert (mixed.state, list(mixed.intermediate_values.values())) == (TrialState.COMPLETE, [0.75, 0.25, 0.25])
    behave(("", "top1:0.125"))
    worse = work(3, "wilcoxon")[-1]
    assert (worse.state, list(worse.intermediate_values.values())) == (TrialState.PRUNED, [0.125, 0.125])
    assert list(read_seed_runs(worse)) == [0, 1]


def test_an_interrupted_seed_is_resumed_and_finished_ones_are_not_repeated(work, behave):
    behave(("task.resume=continue", "top1:0.25"), ("seed=1", "killed with a record"))
    former, trial = work(retries=1)
    assert (former.state, trial.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert trial.intermediate_values == {0: 0.5, 1: 0.25, 2: 0.5}
    runs = read_seed_runs(trial)
    assert [run.folder.rpartition("/")[2] for run in runs.values()] == ["0-seed0", "0-seed1", "1-seed2"]
    assert (runs[0], runs[1].seconds) == (read_seed_runs(former)[0], None)
    assert folders(work) == ["0-seed0", "0-seed1", "1-seed2"]
    resumed = json.loads((work.folder / "0-seed1" / "seen.json").read_text())["overrides"]
    assert f"runs='{runs[1].folder}'" in resumed


def test_a_seed_that_fails_by_itself_restarts_and_finished_ones_are_kept(work, behave):
    behave(("seed=1", "refused"))
    work()
    assert work.missing == 1
    behave(("seed=0", "top1:0.125"))  # would show a repeated seed
    former, trial = work(retries=1)
    assert (former.state, trial.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert trial.intermediate_values == {0: 0.5, 1: 0.5, 2: 0.5}
    assert folders(work) == ["0-seed0", "0-seed1", "1-seed1", "1-seed2"]


def test_a_killed_search_does_not_repeat_the_finished_seed(opened, script, behave, fifo, tmp_path):
    """The worker is killed by SIGKILL during its second seed; the fake run has no record to resume."""
    url = f"sqlite:///{tmp_path}/optuna.db"
    behave(("seed=1", fifo.behavior))
    worker = script("fill_or_work.py", "search", url, str(tmp_path))
    _, parent = map(int, fifo.read().split())
    os.kill(parent, signal.SIGKILL)
    assert fifo.read() == "SIGTERM\n"
    assert fifo.read() == ""
    fifo.close()
    worker.wait()
    again = script("fill_or_work.py", "search", url, str(tmp_path))
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    lost, resumed = optuna.load_study(study_name="a", storage=opened(url)).get_trials()
    assert (lost.state, resumed.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert [seed for seed, run in read_seed_runs(lost).items() if run.top1 is not None] == [0]
    assert read_seed_runs(resumed)[0] == read_seed_runs(lost)[0]
    assert not (tmp_path / "1-seed0").exists()
    assert resumed.intermediate_values == {0: 0.5, 1: 0.5, 2: 0.5}


def test_one_seed_is_the_command_with_that_seed():
    plan = search("aug=none,cutout", "epochs=2", seeds=(7,))
    assert (plan.trial_seeds, plan.fixed) == ((), ("epochs=2", "seed=7"))
    assert plan.definition() == search("aug=none,cutout", "epochs=2", "seed=7", seeds=None).definition()


def test_seeds_and_their_order_are_part_of_the_definition(opened, tmp_path):
    storage = opened(f"sqlite:///{tmp_path}/optuna.db")
    open_study(storage, search("aug=none,cutout"), "a", "none", 0)
    check_same_study(storage, search("aug=none,cutout"), "a")
    for seeds in ((0, 1), (2, 1, 0), None):
        with pytest.raises(RequestError, match="definition: seeds"):
            check_same_study(storage, search("aug=none,cutout", seeds=seeds), "a")


@pytest.mark.parametrize("override", ["seed=3", "seed=3,4", "seed=range(3)"])
def test_a_seed_beside_the_seeds_of_each_trial_is_refused(override):
    with pytest.raises(RequestError, match=r"^seed=.*: hydra\.sweeper\.seeds has the seeds of each trial\nleave out"):
        search("aug=none,cutout", override)


@pytest.mark.parametrize(
    ("seeds", "pruner", "p_threshold", "chosen"),
    [
        (None, None, 0.3, "median"),
        ((4,), None, 0.3, "median"),
        ((0, 1), None, 0.3, "none"),
        ((0, 1, 2), None, 0.3, "wilcoxon"),
        ((0, 1), "none", 0.3, "none"),
        (range(5), "wilcoxon", 0.1, "wilcoxon"),  # 1/16 after four of five seeds
        (None, "wilcoxon", 0.3, r"pruner=wilcoxon: needs two seeds .* have 1\nuse hydra\.sweeper\.seeds=\[0,1,2\]"),
        ((0, 1), "wilcoxon", 0.3, r"pruner=wilcoxon: .*; the trials have 2\n"),
        ((0, 1, 2), "median", 0.3, r"pruner=median: compares epochs, but a trial of 3 seeds .*\nuse wilcoxon or none"),
        ((0, 1), "halving", 0.3, r"pruner=halving: compares epochs"),
        ((0, 1, 2), "wilcoxon", 0.25, r"p_threshold=0.25: prunes nothing before the last of 3 seeds, .* 0\.25\nuse"),
    ],
)
def test_the_pruner_fits_the_seeds_or_is_refused(seeds, pruner, p_threshold, chosen):
    options = SimpleNamespace(pruner=pruner, p_threshold=p_threshold)
    plan = search("aug=none,cutout", seeds=seeds and tuple(seeds))
    if chosen.isalpha():
        assert _pruner(options, plan) == chosen
        return
    with pytest.raises(RequestError, match=f"^hydra\\.sweeper\\.{chosen}") as caught:
        _pruner(options, plan)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("seeds", [3, 4, 5])
def test_the_smallest_p_before_the_last_seed_is_what_the_refusal_says(seeds):
    """All seeds worse than the best trial's: prunes just above 2^-k, and not at it."""
    smallest = 0.5 ** (seeds - 1)
    for p_threshold, prunes in ((smallest, False), (1.01 * smallest, True)):
        study = optuna.create_study(direction="maximize", pruner=build_pruner("wilcoxon", p_threshold))
        for level in (0.5, 0.25):
            trial = study.ask()
            for index in range(seeds - (level < 0.5)):
                with warnings.catch_warnings(action="ignore"):
                    trial.report(level + 0.01 * index**2 * (level == 0.5), index)
            if level == 0.5:
                study.tell(trial, level)
        assert trial.should_prune() is prunes
