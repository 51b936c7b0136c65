"""What is to be done, kept in a real database."""

import warnings
from collections import Counter
from types import SimpleNamespace

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from rp2k_lab.config.ablation import Ablation
from rp2k_lab.core.errors import RequestError
from rp2k_lab.sweep.space import AblationGrid, parse_search, point_key
from rp2k_lab.sweep.study import by_point, claim, failures, finished_points, open_study, refill, refuse_another

LEVELS = {"none": ["aug=none"], "cutout": ["aug=cutout"], "cutmix": ["aug=cutmix"], "mixup": ["aug=mixup"]}


def table(seeds=(0, 1, 2), levels=LEVELS, extra=()):
    levels = {name: {"overrides": overrides} for name, overrides in levels.items()}
    about = {"name": "a", "question": "?", "source": "", "metric": "top1", "baseline": "none", "seeds": [0]}
    return AblationGrid(
        Ablation(**about, levels=levels, scales={"smoke": {"epochs": 1}}), "smoke", tuple(seeds), tuple(extra)
    )


def search(*overrides):
    return parse_search(OverridesParser.create().parse_overrides(list(overrides)))


@pytest.fixture
def begin(tmp_path, opened):
    """begin(plan): its study in a sqlite database."""
    storage = opened(f"sqlite:///{tmp_path}/optuna.db")

    def begin(plan):
        study = open_study(storage, plan, "a", "none", 0)
        return SimpleNamespace(
            study=study,
            refill=lambda retries=0: refill(study, plan, retries),
            claim=lambda: claim(study, storage, plan),
            trials=lambda: study.get_trials(deepcopy=False),
            states=lambda: Counter(trial.state.name for trial in study.get_trials(deepcopy=False)),
            storage=storage,
        )

    return begin


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        (table(), table(extra=["epochs=2"]), "none has epochs=1 there and epochs=2 here"),
        (table(), table(levels=LEVELS | {"erase": ["aug=random_erasing"]}), "erase is new"),
        (table(levels=LEVELS | {"erase": ["aug=random_erasing"]}), table(), "erase is not in this command"),
        (search("seed=range(3)"), search("seed=range(4)"), "high=2"),
        (search("seed=range(3)", "size=32"), search("seed=range(3)"), "fixed has size=32 there and nothing here"),
    ],
)
def test_a_study_that_asks_something_else_is_refused(begin, first, second, difference):
    begun = begin(first)
    refuse_another(begun.storage, first, "a")
    refuse_another(begun.storage, second, "b")
    with pytest.raises(RequestError) as caught:
        refuse_another(begun.storage, second, "a")
    assert difference in str(caught.value)
    assert "hydra.sweeper.study=NAME" in str(caught.value)
    assert begun.study.user_attrs["definition"] == first.definition()


def test_more_seeds_and_another_machine_are_the_same_table(begin):
    begun = begin(table())
    refuse_another(begun.storage, table(seeds=range(5), extra=["device.num_threads=3", "dataset.cache_gb=2"]), "a")


@pytest.mark.parametrize(
    "dimensions", [("aug=none,cutout,mixup", "seed=range(4)"), ("aug=none,cutout,mixup", "drop=range(0.1,1.0,0.3)")]
)
def test_a_grid_of_twelve_is_searched_in_twelve_trials(begin, dimensions):
    plan = search(*dimensions)
    assert plan.size == 12
    begun = begin(plan)
    for number in range(12):
        trial, point = begun.claim()
        assert trial.user_attrs["point"] == point_key(point)
        begun.study.tell(trial, number / 12)
    assert len(finished_points(begun.trials(), plan)) == 12


def test_a_search_begun_again_does_not_repeat_itself(begin):
    """A fixed seed of the sampler would."""
    plan = search("lr=interval(0,1)")
    points = [begin(plan).claim()[1]["lr"] for _ in range(4)]
    assert len(set(points)) == 4


def test_a_point_is_tried_again_as_often_as_asked(begin):
    begun = begin(table(seeds=[0]))
    for attempt in range(3):
        begun.refill(retries=2)
        assert begun.states()["WAITING"] == (4 if attempt == 0 else 1)
        trial, point = begun.claim()
        while point["level"] != "cutout":
            begun.study.tell(trial, 0.5)
            trial, point = begun.claim()
        begun.study.tell(trial, state=TrialState.FAIL)
        begun.refill(retries=attempt)
        if attempt == 0:
            [begun.study.tell(begun.claim()[0], 0.5) for _ in range(2)]
        assert begun.states()["WAITING"] == 0
    begun.refill(retries=2)
    assert begun.states() == {"COMPLETE": 3, "FAIL": 3}
    begun.refill(retries=3)
    assert begun.states()["WAITING"] == 1


def test_a_searchs_point_that_failed_is_tried_again_as_it_was(begin):
    begun = begin(search("lr=interval(0,1)"))
    trial, point = begun.claim()
    begun.study.tell(trial, state=TrialState.FAIL)
    begun.refill(retries=1)
    assert begun.claim()[1] == point


def test_trials_that_were_stopped_do_not_count(begin):
    begun = begin(table(seeds=[0], levels={"none": ["aug=none"]}))
    for _ in range(4):
        begun.refill(retries=0)
        trial, _ = begun.claim()
        trial.set_user_attr("stopped", True)
        begun.study.tell(trial, state=TrialState.FAIL)
    begun.refill(retries=0)
    assert begun.states() == {"FAIL": 4, "WAITING": 1}


def test_a_worker_killed_while_it_takes_a_trial_costs_nothing(begin):
    """Without a first heartbeat Optuna takes no trial for lost: it would be running for ever."""
    begun = begin(table(seeds=[0], levels={"none": ["aug=none"]}))
    begun.refill()
    with warnings.catch_warnings(action="ignore"):
        begun.study.ask()
    assert begun.states() == {"RUNNING": 1}
    begun.refill()
    assert begun.states() == {"FAIL": 1, "WAITING": 1}
    trial, _ = begun.claim()
    begun.refill()  # this one was taken, and is left alone
    assert begun.states() == {"FAIL": 1, "RUNNING": 1}
    assert failures(begun.trials()) == 0
    begun.study.tell(trial, 0.5)


def test_a_trial_has_a_heartbeat_as_soon_as_it_is_taken(begin, monkeypatch):
    begun = begin(search("seed=0,1"))
    monkeypatch.setattr(begun.storage, "grace_period", -10)
    begun.claim()
    begun.refill(retries=1)
    assert begun.states() == {"FAIL": 1, "WAITING": 1}


def test_two_workers_that_start_at_once_queue_each_cell_once(url, script, opened):
    """On a database that neither has seen: they also make its tables at once."""
    workers = [script("fill_or_work.py", "refill", url) for _ in range(2)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        _, err = worker.communicate(timeout=60)
        assert worker.returncode == 0, err
    storage = opened(url)
    trials = optuna.load_study(study_name="a", storage=storage).get_trials()
    assert Counter(trial.state.name for trial in trials) == {"WAITING": 4}
    assert len(by_point(trials)) == 4
