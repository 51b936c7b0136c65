"""The tracker against a real sqlite store and a real server."""

import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import mlflow
import psutil
import pytest

from rp2k_lab import PROJECT
from rp2k_lab.core.errors import Interrupted, RequestError
from rp2k_lab.core.redaction import redact
from rp2k_lab.tracking.mlflow_runs import RunStore
from rp2k_lab.tracking.tracker import MemoryTracker, MlflowTracker

pytestmark = pytest.mark.slow


def tracking(folder, **changes):
    settings = {"name": "mlflow", "uri": f"sqlite:///{folder}/mlflow.db", "experiment": "study", "flush_seconds": 3600}
    return SimpleNamespace(**settings | changes)


def read(settings, tracker):
    return mlflow.MlflowClient(settings.uri).get_run(tracker.run_id)


def test_everything_logged_is_in_the_store(tmp_path):
    settings = tracking(tmp_path)
    note = tmp_path / "note.txt"
    note.write_text("伊利 安慕希")
    with MlflowTracker(settings, "run", tmp_path / "run") as tracker:
        tracker.log_params({f"group.key{i}": i for i in range(250)} | {"long": "x" * 7000})
        tracker.set_tags({"task": "train"})
        for step in range(2500):
            tracker.log_metrics({"train/loss": 1 / (step + 1)}, step)
        tracker.log_artifact(note, "notes")
        tracker.log_inputs([{"name": "伊利", "digest": "ab12", "source": "/photos", "context": "train"}])
    run = read(settings, tracker)
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest, data.tags[0].value) == ("伊利", "ab12", "train")
    assert {"mlflow.user", "mlflow.source.name", "host", "pid"} <= run.data.tags.keys()
    assert run.info.status == "FINISHED"
    assert run.data.tags["status"] == "FINISHED"
    assert len(run.data.params) == 251
    assert len(run.data.params["long"]) == 6000
    history = mlflow.MlflowClient(settings.uri).get_metric_history(run.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == tracker.history["train/loss"]
    assert (tmp_path / "artifacts" / tracker.run_id / "artifacts" / "notes" / "note.txt").read_text() == "伊利 安慕希"


def test_metrics_are_uploaded_during_the_run(tmp_path, wait_for):
    settings = tracking(tmp_path, flush_seconds=0.05)
    with MlflowTracker(settings, "run", tmp_path / "run") as tracker:
        tracker.log_metrics({"a": 1}, 1)
        wait_for(lambda: read(settings, tracker).data.metrics == {"a": 1})
        assert read(settings, tracker).info.status == "RUNNING"


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("bad"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (Interrupted(signal.SIGTERM), "KILLED")],
)
@pytest.mark.parametrize("kind", ["memory", "mlflow"])
def test_status_of_a_failed_or_interrupted_run(tmp_path, kind, error, status):
    tracker = MemoryTracker() if kind == "memory" else MlflowTracker(tracking(tmp_path), "run", tmp_path / "run")
    tracker.log_metrics({"a": 1}, 1)
    with pytest.raises(type(error)), tracker:
        raise error
    assert tracker.status == tracker.tags["status"] == status
    if kind == "mlflow":
        run = read(tracking(tmp_path), tracker)
        assert run.info.status == status
        assert run.data.metrics == {"a": 1}


def test_run_of_a_killed_process_is_marked_at_the_next_start(tmp_path):
    program = f"""
import os, signal
from pathlib import Path
from types import SimpleNamespace
from rp2k_lab.tracking.tracker import MlflowTracker
settings = SimpleNamespace(name="mlflow", uri="sqlite:///{tmp_path}/mlflow.db", experiment="study", flush_seconds=1)
tracker = MlflowTracker(settings, "victim", Path("{tmp_path}/victim"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=PROJECT).returncode == -signal.SIGKILL
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (victim,) = client.search_runs(["1"])
    assert victim.info.status == "RUNNING"
    with MlflowTracker(tracking(tmp_path), "next", tmp_path / "next") as tracker:
        statuses = {run.info.run_name: run.info.status for run in client.search_runs(["1"])}
        assert statuses == {"victim": "KILLED", "next": "RUNNING"}
        with MlflowTracker(tracking(tmp_path), "third", tmp_path / "third"):  # live processes keep their status
            assert client.get_run(tracker.run_id).info.status == "RUNNING"


def test_processes_that_create_a_store_at_once_all_get_their_run(tmp_path):
    program = f"""
from pathlib import Path
from types import SimpleNamespace
from rp2k_lab.tracking.tracker import MlflowTracker
settings = SimpleNamespace(name="mlflow", uri="sqlite:///{tmp_path}/mlflow.db", experiment="study", flush_seconds=1)
with MlflowTracker(settings, "run", Path("{tmp_path}/run")) as tracker:
    for step in range(50):
        tracker.log_metrics({{"a": step}}, step)
"""
    processes = [subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT) for _ in range(3)]
    assert [process.wait(300) for process in processes] == [0, 0, 0]
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs(["1"])
    assert len(runs) == 3
    assert all(len(client.get_metric_history(run.info.run_id, "a")) == 50 for run in runs)


def test_everything_is_uploaded_to_a_server_and_read_back(tmp_path, server):
    settings = tracking(tmp_path, uri=server.address)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "note.txt").write_text("kept")
    with MlflowTracker(settings, "run", tmp_path / "run") as tracker:
        tracker.log_artifact(tmp_path / "run" / "note.txt")
        tracker.log_metrics({"a": 1}, 1)
    assert tracker.next_steps() == [f"{server.address}/#/experiments/1/runs/{tracker.run_id}"]
    assert list((tmp_path / "served").rglob("note.txt"))
    store = RunStore(server.address)
    (run,) = store.find(tracker.run_id[:6])
    assert (run.name, run.status, run.metrics) == ("run", "FINISHED", {"a": 1})
    (tmp_path / "downloads").mkdir()
    folder = store.fetch(run, ["note.txt", "folder/absent.txt"], tmp_path / "downloads")
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"note.txt": "kept"}


@pytest.mark.parametrize("uri", ["foo://somewhere", "http://", "http://host:port", "sqlite:////proc/none/mlflow.db"])
def test_impossible_store_is_refused_and_leaves_no_journal(tmp_path, uri):
    with pytest.raises(RequestError, match=rf"^tracking\.uri={uri}: ") as error:
        MlflowTracker(tracking(tmp_path, uri=uri), "run", tmp_path / "run")
    assert len(str(error.value).splitlines()) == 2
    assert list((tmp_path / "run").iterdir()) == []


def test_credentials_are_removed_from_a_uri():
    assert redact("postgresql://me:pw@db/runs") == "postgresql://db/runs"
    assert redact("sqlite:////a/b.db") == "sqlite:////a/b.db"


@pytest.mark.parametrize("kind", ["memory", "mlflow"])
def test_reopened_run_records_each_value_once(tmp_path, kind):
    """Two interruptions; the last step rightly has two scores: the last epoch's and the best weights'."""
    settings = tracking(tmp_path)

    def reopened(former):
        if kind == "mlflow":
            former.close("KILLED")
            return MlflowTracker(settings, "any", tmp_path, former.run_id)
        return former

    def train(tracker, first, last):
        for step in range(first, last + 1):
            tracker.log_metrics({"loss": 1 / step, "rate": 0.1}, step)
            if step % 3 == 0:
                tracker.log_metrics({"top1": step / 10}, step)

    first = MemoryTracker() if kind == "memory" else MlflowTracker(settings, "run", tmp_path)
    train(first, 1, 4)
    checkpoint = first.logged()
    assert checkpoint == {"loss": 4, "rate": 4, "top1": 1}
    train(first, 5, 6)
    first.flush()
    second = reopened(first)
    second.rewind(checkpoint)
    assert second.logged() == checkpoint
    train(second, 5, 6)
    end = second.logged()
    second.flush()
    third = reopened(second)  # killed before the best weights were evaluated
    third.rewind(end)
    with third:
        third.log_metrics({"top1": 0.9}, 6)
    history = third.history
    if kind == "mlflow":
        history = RunStore(settings.uri).history(first.run_id)
        run = read(settings, third)
        assert (run.info.run_name, run.info.status, run.data.tags["status"]) == ("run", "FINISHED", "FINISHED")
        assert run.data.metrics["top1"] == 0.9
        assert third.experiment_id == first.experiment_id
    assert history["loss"] == [(step, 1 / step) for step in range(1, 7)]
    assert history["rate"] == [(step, 0.1) for step in range(1, 7)]
    assert history["top1"] == [(3, 0.3), (6, 0.6), (6, 0.9)]
    assert third.history == history


def test_runs_are_found_by_a_tag_newest_first(tmp_path):
    settings = tracking(tmp_path)
    for name, tags in (("a", {}), ("b", {"config_fingerprint": "x"}), ("c", {"config_fingerprint": "y"})):
        with MlflowTracker(settings, name, tmp_path) as tracker:
            tracker.set_tags(tags)
    assert [run.name for run in RunStore(settings.uri).with_tag("config_fingerprint")] == ["c", "b"]


def listening_addresses(port):
    """Return the addresses on which a process listens at the port."""
    addresses = [c.laddr for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    return {address.ip for address in addresses if address.port == port}


@pytest.mark.parametrize("host", [(), pytest.param(("127.0.0.2",), marks=pytest.mark.soak)], ids=["default", "chosen"])
def test_page_listens_on_this_machine_by_default(tmp_path, wait_for, host):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = f"""
import pathlib, sys
from rp2k_lab.tracking import mlflow_store, server
mlflow_store.STORE = server.STORE = pathlib.Path("{tmp_path}")
sys.exit(server.serve({port}, *{host}))
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    # A separate session, to kill MLflow's worker processes too.
    with subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT, start_new_session=True, **pipes) as process:
        try:
            assert wait_for(lambda: listening_addresses(port)) == {*(host or ("127.0.0.1",))}
        finally:
            os.killpg(process.pid, signal.SIGKILL)
        lines = process.stdout.read().splitlines()
    assert lines[0].startswith(f"the MLflow page: http://{(*host, '127.0.0.1')[0]}:{port} ")
    assert any("there is no login" in line for line in lines) == bool(host)
