"""The display of a study, on real trials of an in-memory study."""

from datetime import datetime, timedelta

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState, create_trial
from rich.console import Console

from rp2k_lab.core import progress as signs
from rp2k_lab.sweep.progress import Display
from rp2k_lab.sweep.space import parse_search
from rp2k_lab.sweep.study import claim, open_study, refill


@pytest.fixture
def study_of_four(opened, tmp_path):
    """(study, storage, plan, display) of a search of four seeds, no trial yet."""
    plan = parse_search(OverridesParser.create().parse_overrides(["seed=range(4)"]))
    storage = opened(f"sqlite:///{tmp_path}/optuna.db")
    study = open_study(storage, plan, "a", "none", 0)
    refill(study, plan, 0)
    return study, storage, plan, Display(study, plan, 4)


def start(study, storage, plan):
    trial, _ = claim(study, storage, plan)
    return trial


def shown(display) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(display._renderable())
    return capture.get()


def test_a_running_trial_has_its_epoch(study_of_four):
    study, storage, plan, display = study_of_four
    with display:
        trial = start(study, storage, plan)
        display.reported(trial.number, 0, 5, None)
        assert "epoch 1/5" in shown(display)
        display.reported(trial.number, 2, 5, 0.6)
        assert "epoch 3/5, 60.0 %" in shown(display)
        display.ended(trial.number, 0.7, 10.0)
        assert "epoch" not in shown(display)


def test_without_a_terminal_the_sign_of_life_has_the_epochs(study_of_four, capsys):
    study, storage, plan, display = study_of_four
    with display:
        trial = start(study, storage, plan)
        display.started(trial.number, "seed 0")
        display.reported(trial.number, 1, 5, 0.6)
        (work,) = signs._display._activities
        assert work.what.startswith(f"trial {trial.number} epoch 2/5, 60.0 %; 0 of 4 done, about ")
    assert signs._display._activities == []
    assert capsys.readouterr().out == f"trial {trial.number} starts: seed 0\n"


def trial_of(state, start_seconds_ago, seconds=None):
    """A trial without parameters."""
    trial = create_trial(state=state, value=0.5 if state == TrialState.COMPLETE else None)
    trial.datetime_start = datetime.now() - timedelta(seconds=start_seconds_ago)
    trial.datetime_complete = None if seconds is None else trial.datetime_start + timedelta(seconds=seconds)
    return trial


def test_the_remaining_time_of_a_study(study_of_four):
    display = study_of_four[3]
    running, done = trial_of(TrialState.RUNNING, 30), trial_of(TrialState.COMPLETE, 200, 100)
    running.number = 7
    assert display._seconds_left([], 4) is None
    assert display._seconds_left([running], 4) is None
    display._epochs[7] = 1, 4, 0.5  # a quarter in 30 s: 120 s a trial
    assert display._seconds_left([running], 4) == pytest.approx(90 + 3 * 120, abs=2)
    assert display._seconds_left([done, running], 3) == pytest.approx(70 + 2 * 100, abs=2)
    assert display._seconds_left([done, running, running], 3) == pytest.approx((70 + 70 + 100) / 2, abs=2)
    assert display._seconds_left([done], 0) is None
