"""Both ends between a study and its trial, in real processes."""

import json
import os
import signal

import pytest

from rp2k_lab.sweep import trial_process
from rp2k_lab.sweep.trial_process import TrialFailed, TrialStopped, run_trial

LINK = {"name": "cutout, seed 1", "tags": {"study": "a", "trial": 3}}


@pytest.fixture
def run(tmp_path):
    """run(heard, signum, device): a trial; `heard` takes what it says, `signum` the list of it."""
    said = []

    def run(heard=lambda message: False, signum=lambda said: None, device=None):
        def listen(message):
            said.append(message)
            return heard(message)

        return run_trial(["seed=1"], tmp_path / "3", LINK, device, listen, lambda: signum(said))

    run.said, run.folder = said, tmp_path / "3"
    return run


def test_a_trial_says_who_it_is_how_it_does_and_what_it_came_to(run, behave):
    behave(("seed=1", "top1:0.75"))
    assert run() == 0.75
    (who, *epochs, last) = run.said
    assert who["folder"] == str(run.folder)
    assert epochs == [{"top1": 0.75, "epoch": epoch, "epochs": 3} for epoch in (1, 2)]
    assert last == {"objective": 0.75}
    tags = (run.folder / "trial.yaml").read_text()
    assert "study: a" in tags
    assert f"run_id: {who['run_id']}" in tags


def test_a_trial_is_told_to_stop_early(run, behave):
    behave(("", "endless"))
    assert run(heard=lambda message: message.get("epoch") == 2) is None
    assert run.said[-1]["epoch"] == 2


@pytest.mark.parametrize(
    ("behavior", "reason"),
    [
        ("nan", "val top-1 is no number"),
        ("refused", "exit code 2: model=vgg: there is no such choice; choose one of resnet18"),
        ("silent", "exit code 0: without a word"),
        ("killed", "killed by SIGKILL (by someone, or for want of memory)"),
        ("killed with an answer unread", "killed by SIGKILL (by someone, or for want of memory)"),
    ],
)
def test_a_trial_that_comes_to_nothing_says_why(run, behave, behavior, reason):
    behave(("", behavior))
    with pytest.raises(TrialFailed) as caught:
        run()
    assert str(caught.value) == reason
    assert not isinstance(caught.value, TrialStopped)


@pytest.mark.parametrize("behavior", ["endless", "hung up", "fifo"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_signal_that_stops_the_study_stops_the_trial(run, behave, fifo, behavior, signum):
    behave(("", behavior.replace("fifo", fifo.behavior)))
    last_words = "epoch" if behavior == "fifo" else "run_id"
    with pytest.raises(TrialStopped):
        run(signum=lambda said: signum if any(last_words in message for message in said) else None)
    if behavior == "fifo":
        assert fifo.read().split()[-1] == signum.name


def test_a_trial_that_hears_no_signal_is_killed(run, behave, monkeypatch):
    monkeypatch.setattr(trial_process, "_STOP_SECONDS", 0.2)
    behave(("", "deaf"))
    with pytest.raises(TrialStopped):
        run(signum=lambda said: signal.SIGTERM if said else None)


@pytest.mark.parametrize("what_is_said", ["read", "deaf"])
def test_a_trial_whose_study_is_killed_stops_by_itself(script, behave, fifo, tmp_path, what_is_said):
    """Also where the study dies with a message unread, which ends the connection with an error."""
    behave(("", fifo.behavior))
    parent = script("one_fake_trial.py", str(tmp_path / "0"), what_is_said)
    assert fifo.read().split()[1] == str(parent.pid)
    os.kill(parent.pid, signal.SIGKILL)
    assert fifo.read().split() == ["SIGTERM"]
    assert fifo.read() == ""  # its process has ended


def test_a_trial_sees_its_device_alone(run, behave, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    run(device=2)
    assert json.loads((run.folder / "seen.json").read_text())["devices"] == ["2", "2"]
    run()
    assert json.loads((run.folder / "seen.json").read_text())["devices"][0] == "5"
