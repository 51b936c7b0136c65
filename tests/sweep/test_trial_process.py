"""Protocol between a study and its trial, in real processes."""

import json
import os
import signal

import pytest

from rp2k_lab.sweep import trial_process
from rp2k_lab.sweep.trial_process import TrialFailed, TrialStopped, run_trial

pytestmark = pytest.mark.slow

LINK = {"name": "cutout, seed 1", "tags": {"study": "a", "trial": 3}}


@pytest.fixture
def run(tmp_path):
    """run(on_message, signum, device): run a trial; `signum` gets the list of messages so far."""
    messages = []

    def run(on_message=lambda message: False, signum=lambda messages: None, device=None):
        def receive(message):
            messages.append(message)
            return on_message(message)

        return run_trial(["seed=1"], folder, LINK, device, receive, lambda: signum(messages))

    folder = tmp_path / "o'brien 100%2F [a],b=$c" / "3"
    run.messages, run.folder = messages, folder
    return run


def test_a_trial_reports_its_run_its_epochs_and_its_objective(run, behave):
    behave(("seed=1", "top1:0.75"))
    assert run() == 0.75
    (link, *epochs, last) = run.messages
    assert link["folder"] == str(run.folder)
    assert epochs == [{"top1": 0.75, "epoch": epoch, "epochs": 3} for epoch in (1, 2)]
    assert last == {"objective": 0.75}
    tags = (run.folder / "trial.yaml").read_text()
    assert "study: a" in tags
    assert f"run_id: {link['run_id']}" in tags


def test_hydra_reads_the_folder_of_a_trial(run, behave, compose):
    behave()
    run()
    overrides = json.loads((run.folder / "seen.json").read_text())["overrides"]
    assert compose(f"runs={overrides[-1].removeprefix('hydra.run.dir=')}")["runs"] == str(run.folder)


def test_a_trial_is_pruned(run, behave):
    behave(("", "endless"))
    assert run(on_message=lambda message: message.get("epoch") == 2) is None
    assert run.messages[-1]["epoch"] == 2


@pytest.mark.parametrize(
    ("behavior", "reason"),
    [
        ("nan", "val top-1 is NaN"),
        ("refused", "exit code 2: model=vgg: there is no such choice; choose one of resnet18"),
        ("silent", "exit code 0: no message"),
        ("killed", "killed by SIGKILL (a user, or the out-of-memory killer)"),
        ("killed by a real-time signal", "killed by SIGRTMIN+3"),
        ("killed with an answer unread", "killed by SIGKILL (a user, or the out-of-memory killer)"),
    ],
)
def test_a_failed_trial_has_a_reason(run, behave, behavior, reason):
    behave(("", behavior))
    with pytest.raises(TrialFailed) as caught:
        run()
    assert str(caught.value) == reason
    assert not isinstance(caught.value, TrialStopped)


@pytest.mark.parametrize("behavior", ["endless", "hung up", "fifo"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_signal_of_the_study_stops_the_trial(run, behave, fifo, behavior, signum):
    behave(("", behavior.replace("fifo", fifo.behavior)))
    last_key = "epoch" if behavior == "fifo" else "run_id"
    with pytest.raises(TrialStopped):
        run(signum=lambda messages: signum if any(last_key in message for message in messages) else None)
    if behavior == "fifo":
        assert fifo.read().split()[-1] == signum.name


def test_a_trial_that_ignores_the_signal_is_killed(run, behave, monkeypatch):
    monkeypatch.setattr(trial_process, "_STOP_SECONDS", 0.2)
    behave(("", "deaf"))
    with pytest.raises(TrialStopped):
        run(signum=lambda messages: signal.SIGTERM if messages else None)


@pytest.mark.parametrize("messages", ["read", "unread"])
def test_a_trial_whose_study_is_killed_stops_by_itself(script, behave, fifo, tmp_path, messages):
    """A study that dies with an unread message closes the connection with an error."""
    behave(("", fifo.behavior))
    parent = script("one_fake_trial.py", str(tmp_path / "0"), messages)
    assert fifo.read().split()[1] == str(parent.pid)
    os.kill(parent.pid, signal.SIGKILL)
    assert fifo.read().split() == ["SIGTERM"]
    assert fifo.read() == ""  # its process has ended


def test_a_trial_sees_only_its_device(run, behave, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    run(device=2)
    assert json.loads((run.folder / "seen.json").read_text())["devices"] == ["2", "2"]
    run()
    assert json.loads((run.folder / "seen.json").read_text())["devices"][0] == "5"
