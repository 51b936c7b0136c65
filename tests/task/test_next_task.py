"""`task.then`: a task that starts from a finished training."""

import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import DataError, Interrupted, RequestError
from rp2k_lab.core.quoting import hydra_value
from rp2k_lab.task import next_task, train
from rp2k_lab.tracking import trial_client
from tests.helpers.tiny_runs import TINY


@pytest.fixture(scope="module")
def chain(start, tmp_path_factory):
    """A training followed by its FixRes, and the same command again with a task that fails."""
    folder = f"hydra.run.dir={tmp_path_factory.mktemp('next')}"
    fixres = f"task.then={hydra_value(['task=fixres', 'size=40', 'epochs=1', 'task.test=false', folder])}"
    command = start(*TINY, "epochs=1", "task.test=false", fixres)
    command.result = command.wait()
    wrong = f"task.then={hydra_value(['task=fixres', 'size=31', folder])}"
    again = start(*TINY, "epochs=1", "task.test=false", "task.resume=auto", wrong, uri=command.store.uri)
    command.again = again.wait()
    return command


@pytest.mark.slow
def test_a_task_follows_its_training(chain):
    code, out, err = chain.result
    assert (code, err) == (0, "")
    first, second = sorted(chain.store.runs(), key=lambda run: run.info.start_time)
    assert (first.data.tags["task"], second.data.tags["task"]) == ("train", "fixres")
    assert second.data.tags["parent"] == first.info.run_id
    assert "then        task=fixres size=40 epochs=1 task.test=false hydra.run.dir=" in out
    assert f" runs={first.info.run_id}\n" in out
    assert {key for key in second.data.metrics if key.startswith("val/gain_over_")} == {
        f"val/gain_over_{name}{part}" for name in ("old", "new") for part in ("", "_low", "_high")
    }
    assert not any(key.startswith("test") for key in second.data.metrics)


@pytest.mark.slow
def test_the_same_command_repeats_the_task_alone_and_names_its_failure(chain):
    code, out, err = chain.again
    assert code == 2
    assert "nothing to do: run " in out
    lines = err.splitlines()
    assert lines[0].startswith("size=31: needs one side in pixels")
    assert lines[-2:] == [
        "task.then: the task after the training ended with exit code 2, its reason is above",
        "add task.resume=auto to repeat that task alone: the training is finished",
    ]


@pytest.mark.slow
def test_a_signal_ends_the_task_in_order(compose, monkeypatch, tmp_path):
    """The task gets SIGTERM, and is waited for."""
    ended = tmp_path / "ended"
    program = f"""
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), pathlib.Path({str(ended)!r}).touch(), sys.exit(75)))
pathlib.Path({str(tmp_path / "started")!r}).touch()
time.sleep(60)
"""
    monkeypatch.setattr(next_task, "python_command", lambda entry: [sys.executable, "-c", program])

    def stop(signum, frame):
        raise Interrupted(signum)

    def stop_once_started():
        while not (tmp_path / "started").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)

    former = signal.signal(signal.SIGUSR1, stop)
    threading.Thread(target=stop_once_started).start()
    try:
        with pytest.raises(Interrupted):
            next_task.run_next(parse(compose("task.then=['task=fixres']")), "a", tmp_path)
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert ended.exists()


def test_no_task_follows_a_trial(compose, monkeypatch, tmp_path):
    monkeypatch.setattr(train, "earlier_run", lambda config: None)
    monkeypatch.setattr(trial_client.Trial, "from_environment", lambda: SimpleNamespace(name="a trial"))
    config = parse(compose("task.then=['task=fixres']"))
    with pytest.raises(RequestError, match=r"^task\.then: no task follows the trials of a study\nadd task\.then=null$"):
        train.run(config, tmp_path)


@pytest.mark.slow
def test_a_task_after_workers_is_one_process(compose, monkeypatch, tmp_path):
    """Variables of msrun would make it a worker; those of the user stay."""
    program = f"import os, pathlib; pathlib.Path({str(tmp_path / 'seen')!r}).write_text(' '.join(os.environ))"
    monkeypatch.setattr(next_task, "python_command", lambda entry: [sys.executable, "-c", program])
    launcher = {"MS_ROLE", "MS_NODE_ID", "MS_SCHED_HOST", "MS_WORKER_NUM", "MS_NODE_TIMEOUT"}
    for name in (*launcher, "MS_ALLOC_CONF"):
        monkeypatch.setenv(name, "1")
    next_task.run_next(parse(compose("task.then=['task=fixres']")), "a", tmp_path)
    assert launcher.isdisjoint(seen := (tmp_path / "seen").read_text().split())
    assert "MS_ALLOC_CONF" in seen


def test_a_finished_run_is_not_resumed_with_other_photos(compose, monkeypatch, tmp_path):
    run = SimpleNamespace(name="a run", status="FINISHED", tags={"dataset_fingerprint": "of then"})
    monkeypatch.setattr(train, "earlier_run", lambda config: run)
    monkeypatch.setattr(train, "build_index", lambda dataset: SimpleNamespace(root=tmp_path, fingerprint="of now"))
    reason = (
        r"not the photos of run a run \(fingerprint of now, was of then\)\nrestore the photos .* task\.resume=never"
    )
    with pytest.raises(DataError, match=reason):
        train.run(parse(compose("task.resume=auto")), tmp_path)
