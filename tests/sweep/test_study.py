"""Queue of a study in a real database."""

import warnings
from collections import Counter
from types import SimpleNamespace

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from rp2k_lab.config.ablation import Ablation, Scale
from rp2k_lab.core.errors import RequestError
from rp2k_lab.sweep.space import AblationGrid, parse_search, point_key
from rp2k_lab.sweep.study import (
    check_same_study,
    claim,
    count_failures,
    finished_points,
    open_study,
    refill,
    trials_by_point,
)

pytestmark = pytest.mark.slow

LEVELS = {"none": ["aug=none"], "cutout": ["aug=cutout"], "cutmix": ["aug=cutmix"], "mixup": ["aug=mixup"]}


def table(seeds=(0, 1, 2), levels=LEVELS, extra=()):
    levels = {name: {"overrides": overrides} for name, overrides in levels.items()}
    facts = {
        "name": "a",
        "question": "?",
        "source": "",
        "metric": "top1",
        "margin": 1.0,
        "baseline": "none",
        "seeds": [0],
        "baseline_seeds": None,
        "rounds": [],
    }
    facts |= {"overrides": [], "at": {}}
    scale = Scale(name="smoke", settings={"epochs": 1})
    return AblationGrid(Ablation(**facts, levels=levels), scale, tuple(seeds), tuple(extra))


def search(*overrides):
    return parse_search(OverridesParser.create().parse_overrides(list(overrides)))


@pytest.fixture
def open_plan(tmp_path, opened):
    """open_plan(plan): its study in a sqlite database."""
    storage = opened(f"sqlite:///{tmp_path}/optuna.db")

    def open_plan(plan):
        study = open_study(storage, plan, "a", "none", 0)
        return SimpleNamespace(
            study=study,
            refill=lambda retries=0: refill(study, plan, retries),
            claim=lambda: claim(study, storage, plan),
            trials=lambda: study.get_trials(deepcopy=False),
            states=lambda: Counter(trial.state.name for trial in study.get_trials(deepcopy=False)),
            storage=storage,
        )

    return open_plan


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        (table(), table(extra=["epochs=2"]), "none has epochs=1 in the study, epochs=2 in this command"),
        (table(), table(levels=LEVELS | {"erase": ["aug=random_erasing"]}), "erase is new"),
        (table(levels=LEVELS | {"erase": ["aug=random_erasing"]}), table(), "erase is missing in this command"),
        (search("seed=range(3)"), search("seed=range(4)"), "high=2"),
        (
            search("seed=range(3)", "size=32"),
            search("seed=range(3)"),
            "fixed has size=32 in the study, nothing in this command",
        ),
    ],
)
def test_a_different_definition_is_refused(open_plan, first, second, difference):
    opened = open_plan(first)
    check_same_study(opened.storage, first, "a")
    check_same_study(opened.storage, second, "b")
    with pytest.raises(RequestError) as caught:
        check_same_study(opened.storage, second, "a")
    assert difference in str(caught.value)
    assert "hydra.sweeper.study=NAME" in str(caught.value)
    assert opened.study.user_attrs["definition"] == first.definition()


def test_more_seeds_and_machine_keys_keep_the_definition(open_plan):
    opened = open_plan(table())
    check_same_study(opened.storage, table(seeds=range(5), extra=["device.num_threads=3", "dataset.cache_gb=2"]), "a")


@pytest.mark.parametrize(
    "dimensions", [("aug=none,cutout,mixup", "seed=range(4)"), ("aug=none,cutout,mixup", "drop=range(0.1,1.0,0.3)")]
)
def test_a_search_of_twelve_points_takes_twelve_trials(open_plan, dimensions):
    plan = search(*dimensions)
    assert plan.size == 12
    opened = open_plan(plan)
    for number in range(12):
        trial, point = opened.claim()
        assert trial.user_attrs["point"] == point_key(point)
        opened.study.tell(trial, number / 12)
    assert len(finished_points(opened.trials(), plan)) == 12


def test_a_reopened_search_draws_new_points(open_plan):
    """With a fixed seed the sampler would repeat them."""
    plan = search("lr=interval(0,1)")
    points = [open_plan(plan).claim()[1]["lr"] for _ in range(4)]
    assert len(set(points)) == 4


def test_a_failed_point_is_retried_up_to_the_limit(open_plan):
    opened = open_plan(table(seeds=[0]))
    for attempt in range(3):
        opened.refill(retries=2)
        assert opened.states()["WAITING"] == (4 if attempt == 0 else 1)
        trial, point = opened.claim()
        while point["level"] != "cutout":
            opened.study.tell(trial, 0.5)
            trial, point = opened.claim()
        opened.study.tell(trial, state=TrialState.FAIL)
        opened.refill(retries=attempt)
        if attempt == 0:
            [opened.study.tell(opened.claim()[0], 0.5) for _ in range(2)]
        assert opened.states()["WAITING"] == 0
    opened.refill(retries=2)
    assert opened.states() == {"COMPLETE": 3, "FAIL": 3}
    opened.refill(retries=3)
    assert opened.states()["WAITING"] == 1


def test_a_failed_point_of_a_search_is_retried_unchanged(open_plan):
    opened = open_plan(search("lr=interval(0,1)"))
    trial, point = opened.claim()
    opened.study.tell(trial, state=TrialState.FAIL)
    opened.refill(retries=1)
    assert opened.claim()[1] == point


def test_stopped_trials_do_not_count_as_failures(open_plan):
    opened = open_plan(table(seeds=[0], levels={"none": ["aug=none"]}))
    for _ in range(4):
        opened.refill(retries=0)
        trial, _ = opened.claim()
        trial.set_user_attr("stopped", True)
        opened.study.tell(trial, state=TrialState.FAIL)
    opened.refill(retries=0)
    assert opened.states() == {"FAIL": 4, "WAITING": 1}


def test_a_trial_whose_worker_died_while_claiming_is_replaced(open_plan):
    """Optuna never marks a trial without a first heartbeat as lost: it would run forever."""
    opened = open_plan(table(seeds=[0], levels={"none": ["aug=none"]}))
    opened.refill()
    with warnings.catch_warnings(action="ignore"):
        opened.study.ask()
    assert opened.states() == {"RUNNING": 1}
    opened.refill()
    assert opened.states() == {"FAIL": 1, "WAITING": 1}
    trial, _ = opened.claim()
    opened.refill()  # keeps the claimed trial
    assert opened.states() == {"FAIL": 1, "RUNNING": 1}
    assert count_failures(opened.trials()) == 0
    opened.study.tell(trial, 0.5)


def test_a_claimed_trial_has_a_heartbeat_at_once(open_plan, monkeypatch):
    opened = open_plan(search("seed=0,1"))
    monkeypatch.setattr(opened.storage, "grace_period", -10)
    opened.claim()
    opened.refill(retries=1)
    assert opened.states() == {"FAIL": 1, "WAITING": 1}


def test_two_simultaneous_workers_enqueue_each_cell_once(url, script, opened):
    """Both also create the tables of the new database at the same time."""
    workers = [script("fill_or_work.py", "refill", url) for _ in range(2)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        _, err = worker.communicate(timeout=300)
        assert worker.returncode == 0, err
    storage = opened(url)
    trials = optuna.load_study(study_name="a", storage=storage).get_trials()
    assert Counter(trial.state.name for trial in trials) == {"WAITING": 4}
    assert len(trials_by_point(trials)) == 4
