"""A real `mlflow server` that is killed, paused and restarted during a run."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import mlflow
import pytest

from rp2k_lab import PROJECT
from rp2k_lab.config.schema import parse
from rp2k_lab.task import sync
from rp2k_lab.tracking.mlflow_runs import RunStore
from rp2k_lab.tracking.tracker import MlflowTracker
from rp2k_lab.tracking.upload_thread import STOP_SECONDS
from tests.helpers.forked_run import start_run
from tests.helpers.tiny_runs import KILL_AT_EVENT, TINY


@pytest.fixture(scope="module")
def server(new_server, tmp_path_factory):
    """One server for all tests of the file: it takes seconds to start."""
    with new_server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture
def paused(server):
    """paused(): stop the server's processes until the end of the test or `server.send(SIGCONT)`."""
    yield lambda: server.send(signal.SIGSTOP)
    server.send(signal.SIGCONT)


def tracking(server):
    uri = server.address.replace("http://", "http://user:hidden-word@")
    return SimpleNamespace(name="mlflow", uri=uri, experiment="study", flush_seconds=0.05)


def history(server, run_id, name="loss"):
    return mlflow.MlflowClient(server.address).get_metric_history(run_id, name)


def log_steps(tracker, steps):
    """Log a loss at each step; return the longest time of a call [s]."""
    longest = 0.0
    for step in steps:
        started = time.perf_counter()
        tracker.log_metrics({"loss": 1 / (step + 1)}, step)
        longest = max(longest, time.perf_counter() - started)
    return longest


def test_hanging_and_dying_server_never_blocks_and_receives_everything(
    server, tmp_path, monkeypatch, caplog, capfd, wait_for
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    caplog.set_level(logging.WARNING)
    (tmp_path / "note.txt").write_text("kept")
    with MlflowTracker(tracking(server), "run", tmp_path) as tracker:
        log_steps(tracker, range(100))
        server.send(signal.SIGSTOP)
        longest = log_steps(tracker, range(100, 200))
        tracker.set_tags({"while": "hung"})
        tracker.log_artifact(tmp_path / "note.txt", "notes")
        wait_for(lambda: caplog.messages)  # the uploader has waited for a response
        longest = max(longest, log_steps(tracker, range(200, 300)))
        server.send(signal.SIGCONT)
        wait_for(lambda: len(history(server, tracker.run_id)) == 300)
        server.stop()
        longest = max(longest, log_steps(tracker, range(300, 400)))
        server.start()
        wait_for(lambda: len(history(server, tracker.run_id)) == 400)
        log_steps(tracker, range(400, 500))
    assert longest < 2  # a call to the server would take its time-out of three seconds
    (warning,) = caplog.messages
    assert "the store does not answer; the upload continues later (" in warning
    assert tracker.is_uploaded
    assert tracker.next_steps() == [f"{server.address}/#/experiments/{tracker.experiment_id}/runs/{tracker.run_id}"]
    assert [(m.step, m.value) for m in history(server, tracker.run_id)] == tracker.history["loss"]
    (run,) = RunStore(server.address).find("run")
    assert (run.status, run.tags["while"]) == ("FINISHED", "hung")
    (tmp_path / "downloads").mkdir()
    folder = RunStore(server.address).fetch(run, ["notes/note.txt"], tmp_path / "downloads")
    assert (folder / "notes" / "note.txt").read_text() == "kept"
    texts = [warning, str(run), *capfd.readouterr(), *(file.read_text() for file in tmp_path.glob("*.*"))]
    assert not any("hidden-word" in text for text in texts)


@pytest.mark.soak
def test_server_that_hangs_at_the_end_delays_by_seconds_and_is_synced_later(server, paused, tmp_path, compose, capsys):
    program = f"""
import logging, sys
from pathlib import Path
from types import SimpleNamespace
from rp2k_lab.tracking.tracker import MlflowTracker
logging.basicConfig(format="%(message)s", stream=sys.stdout)
settings = SimpleNamespace(name="mlflow", uri="{server.address}", experiment="study", flush_seconds=0.05)
tracker = MlflowTracker(settings, "stopped", Path("{tmp_path}/run"))
for step in range(200):
    tracker.log_metrics({{"loss": step}}, step)
    if step == 100:
        print(tracker.run_id, flush=True)
        sys.stdin.readline()
tracker.close("KILLED")
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT, **pipes) as process:
        run_id = process.stdout.readline().strip()
        paused()
        stopped = time.monotonic()
        output, _ = process.communicate("\n")
        assert time.monotonic() - stopped < 3 * STOP_SECONDS  # a call would have taken its time-out, twenty seconds
    assert output.strip().endswith(f": python run.py task=sync runs={tmp_path}/run tracking.uri={server.address}")
    server.send(signal.SIGCONT)
    sync.run(parse(compose("task=sync", f"runs={tmp_path}/run", f"tracking.uri={server.address}")), None)
    assert f"sent        stopped: {server.address}/#/experiments/1/runs/{run_id}" in capsys.readouterr().out
    assert [(m.step, m.value) for m in history(server, run_id)] == [(step, step) for step in range(200)]
    (run,) = RunStore(server.address).find("stopped")
    assert run.status == run.tags["status"] == "KILLED"


@pytest.mark.soak
def test_training_before_its_server_starts_is_uploaded_later(server, tmp_path, compose, wait_for):
    """With the real command; the server starts during the training."""
    server.stop()
    overrides = [*TINY, "epochs=1000", f"tracking.uri={server.address}", "tracking.flush_seconds=0.2"]
    command = [sys.executable, str(PROJECT / "run.py"), *overrides, f"hydra.run.dir={tmp_path}/out"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    store, lines = RunStore(server.address), []
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as process:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("epoch 2/"):
                server.start()
                (run,) = wait_for(lambda: [run for run in store.newest(1) if run.metrics.get("epoch", 0) >= 2])
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 75, "".join(lines)
    assert sum("the store does not answer" in line for line in lines) == 1
    # On a busy machine the last seconds may not be uploaded yet.
    sync.run(parse(compose("task=sync", f"runs={tmp_path}/out")), None)
    assert store.get(run.run_id).status == "KILLED"
    steps = [metric.step for metric in history(server, run.run_id, "train/loss")]
    assert steps == list(range(1, len(steps) + 1))
    (journal,) = (tmp_path / "out").glob("*.journal")
    assert store.get(journal.stem).run_id == run.run_id


@pytest.mark.soak
def test_killed_offline_training_resumes_and_is_synced_by_the_printed_command(server, tmp_path):
    """With real commands; without a store, no file of one is created."""

    def run_py(failure, *arguments):
        process = start_run([failure, *arguments], tmp_path, KILL_AT_EVENT)
        out, _ = process.communicate(300)
        return process.returncode, out

    minutes = "task.checkpoint_minutes=0.000001"
    code, _ = run_py("step 4 KILL", *TINY, "tracking=offline", "epochs=1", minutes, f"hydra.run.dir={tmp_path}/out")
    assert code == -signal.SIGKILL
    code, out = run_py("- 0 -", f"runs={tmp_path}/out", "task.resume=continue", "tracking=offline")
    assert code == 0, out
    (step,) = re.findall(r"resumes from step (\d)", out)
    assert 1 <= int(step) <= 3  # a busy machine writes the last checkpoint too late
    (command,) = re.findall(r"next +offline: python run\.py (task=sync runs=\S+)", out)
    assert not list(tmp_path.rglob("*.db"))
    code, out = run_py("- 0 -", *command.split(), f"tracking.uri={server.address}")
    (page,) = re.findall(r"sent        resnet18_shelf\S*_[0-9a-f]{4}: (\S+)", out)
    run = RunStore(server.address).get(page.rpartition("/")[2])
    assert (run.status, run.tags["resumed_from"]) == ("FINISHED", step)
    assert [step for step, _ in RunStore(server.address).history(run.run_id)["train/loss"]] == list(range(1, 10))
    (tmp_path / "downloads").mkdir()
    folder = RunStore(server.address).fetch(run, ["checkpoints/best.ckpt"], tmp_path / "downloads")
    best = tmp_path / "out" / "checkpoints" / "best.ckpt"
    assert (folder / "checkpoints" / "best.ckpt").read_bytes() == best.read_bytes()
