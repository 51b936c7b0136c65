"""The journal and its upload to a local store; test_server.py covers servers."""

import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

from rp2k_lab import PROJECT
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.task import sync
from rp2k_lab.tracking.journal import Journal, JournalNotWritten, read
from rp2k_lab.tracking.mlflow_runs import RunStore
from rp2k_lab.tracking.tracker import MlflowTracker
from rp2k_lab.tracking.upload_state import LOCAL_ID, UploadState, is_uploaded, read_header
from rp2k_lab.tracking.uploader import Uploader


@pytest.fixture
def task_sync(compose):
    """task_sync(*overrides): run `python run.py task=sync …` in this process."""
    return lambda *overrides: sync.run(parse(compose("task=sync", *overrides)), None)


def tracking(uri, name="mlflow"):
    return SimpleNamespace(name=name, uri=uri, experiment="study", flush_seconds=0.05)


def steps(file):
    return [record["step"] for record, _ in read(file) if record["kind"] == "metrics"]


def history(uri, run_id, name="loss"):
    return [(m.step, m.value) for m in mlflow.MlflowClient(uri).get_metric_history(run_id, name)]


@contextmanager
def limited_file_size(size):
    """Limit files to `size` bytes; a write is cut as on a full disk."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_truncated_last_line_is_dropped_and_damaged_line_skipped(tmp_path):
    journal = Journal(tmp_path / "a.journal")
    for step in range(4):
        journal.append("metrics", step=step, metrics={"loss": float("nan")})
    journal.close()
    content = bytearray(journal.file.read_bytes())
    lines = content.split(b"\n")
    content[len(lines[0]) + 20] ^= 1  # within the second line
    journal.file.write_bytes(content[:-3])
    assert steps(journal.file) == [0, 2]
    journal = Journal(journal.file)
    journal.append("metrics", step=9, metrics={})
    assert steps(journal.file) == [0, 2, 9]
    journal.close()


@pytest.mark.slow
def test_journal_has_what_a_killed_process_logged(tmp_path):
    program = f"""
from itertools import count
from pathlib import Path
from rp2k_lab.tracking.journal import Journal
journal = Journal(Path("{tmp_path}/a.journal"))
for step in count():
    journal.append("metrics", step=step, metrics={{"loss": 0.5}})
    print(step, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    for _ in range(1000):
        process.stdout.readline()
    process.kill()
    logged = 1000 + len(process.stdout.read().splitlines())
    process.wait()
    process.stdout.close()
    journaled = steps(tmp_path / "a.journal")
    assert journaled == list(range(len(journaled)))
    assert len(journaled) >= logged


def test_full_disk_is_reported_once_and_loses_nothing_when_space_returns(tmp_path, caplog):
    journal = Journal(tmp_path / "a.journal")
    journal.append("metrics", step=0, metrics={})
    with limited_file_size(100):
        for step in (1, 2, 3):
            journal.append("metrics", step=step, metrics={})
        assert os.path.getsize(journal.file) == 100  # part of a line
        assert steps(journal.file) == [0]
    (message,) = caplog.messages
    assert str(journal.file) in message
    assert "File too large" in message
    journal.append("metrics", step=4, metrics={})
    assert steps(journal.file) == [0, 1, 2, 3, 4]
    journal.close()


def test_disk_that_is_full_at_the_end_is_an_error_and_keeps_what_was_written(tmp_path):
    journal = Journal(tmp_path / "a.journal")
    journal.append("metrics", step=0, metrics={})
    with limited_file_size(100):
        journal.append("metrics", step=1, metrics={})
        with pytest.raises(JournalNotWritten, match="what was written before is whole\n"):
            journal.close()
    assert steps(journal.file) == [0]


def test_run_needs_its_journal(tmp_path):
    with limited_file_size(10), pytest.raises(JournalNotWritten):
        MlflowTracker(tracking(None, "offline"), "run", tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalNotWritten, match="Not a directory"):
        MlflowTracker(tracking(None, "offline"), "run", tmp_path / "file" / "run")


def test_second_process_cannot_write_a_run(tmp_path, store, task_sync, capsys):
    with MlflowTracker(tracking(store), "run", tmp_path / "run") as tracker:
        with pytest.raises(RequestError, match=r"another process writes this run\n"):
            MlflowTracker(tracking(store), "run", tmp_path / "run", tracker.run_id)
        task_sync(f"runs={tmp_path}/run", f"tracking.uri={store}")
        assert "running     run: its own process sends it" in capsys.readouterr().out


def test_reopened_run_has_no_gaps_and_no_duplicates(tmp_path, store):
    """The last epoch and the best weights log val at the same step: the order decides, not the step."""
    whole = [("loss", 1), ("loss", 2), ("top1", 2), ("loss", 3), ("loss", 4), ("top1", 4), ("top1", 4)]
    with suppress(KeyboardInterrupt), MlflowTracker(tracking(store), "run", tmp_path / "run") as tracker:
        tracker.log_params({"lr": 1})
        for number, (name, step) in enumerate(whole[:6]):
            tracker.log_metrics({name: number}, step)
            if number == 2:
                at_checkpoint = tracker.logged()
        raise KeyboardInterrupt
    with MlflowTracker(tracking(store), "another name", tmp_path / "run", tracker.run_id) as reopened:
        assert RunStore(store).get(tracker.run_id).status == "RUNNING"
        reopened.rewind(at_checkpoint)
        reopened.log_params({"lr": 2, "new": 3})  # MLflow refuses another value
        for number, (name, step) in list(enumerate(whole))[3:]:
            reopened.log_metrics({name: number}, step)
    (run,) = RunStore(store).find("run")
    assert (run.run_id, run.status, run.tags["status"]) == (tracker.run_id, "FINISHED", "FINISHED")
    for name in ("loss", "top1"):
        expected = [(step, number) for number, (n, step) in enumerate(whole) if n == name]
        assert history(store, run.run_id, name) == reopened.history[name] == expected
    assert mlflow.MlflowClient(store).get_run(run.run_id).data.params == {"lr": "1", "new": "3"}


def test_run_is_reopened_only_in_its_folder(tmp_path):
    with pytest.raises(RequestError, match="no journal of run abc"):
        MlflowTracker(tracking(None, "offline"), "run", tmp_path, "abc")


def offline_run(folder: Path, uri=None) -> MlflowTracker:
    """Return the tracker of a finished run without a store."""
    folder.mkdir()
    (folder / "note.txt").write_text("kept")
    with MlflowTracker(tracking(uri, "offline"), folder.name, folder) as tracker:
        tracker.log_params({"lr": 1})
        tracker.log_artifact(folder / "note.txt", "notes")
        for step in range(2500):
            tracker.log_metrics({"loss": 1 / (step + 1)}, step)
    return tracker


def test_offline_run_is_synced_later_with_its_times_and_id(tmp_path, store, task_sync, capsys, caplog):
    tracker = offline_run(tmp_path / "run")
    assert caplog.messages == [f"tracking: offline: python run.py task=sync runs={tmp_path}/run"]
    assert tracker.next_steps() == [f"offline: python run.py task=sync runs={tmp_path}/run"]
    local_id = tracker.run_id
    os.rename(tmp_path / "run", tmp_path / "moved")
    task_sync(f"runs={tmp_path}/moved", f"tracking.uri={store}")
    assert "1 sent, 0 sent before" in capsys.readouterr().out
    run = RunStore(store).get(local_id)
    assert [match.run_id for match in RunStore(store).find(local_id[:8])] == [run.run_id]
    assert history(store, run.run_id) == tracker.history["loss"]
    info = mlflow.MlflowClient(store).get_run(run.run_id).info
    (file,) = (tmp_path / "moved").glob("*.journal")
    times = [record["time"] for record, _ in read(file)]
    assert (info.start_time, info.end_time, info.status) == (times[0], times[-1], "FINISHED")
    assert (tmp_path / "store" / "artifacts" / run.run_id / "artifacts" / "notes" / "note.txt").read_text() == "kept"
    task_sync(f"runs={tmp_path}/moved", f"tracking.uri={store}")
    assert "0 sent, 1 sent before" in capsys.readouterr().out


def test_repeated_upload_creates_no_duplicates(tmp_path, store):
    """Any response of the server may be lost, and the upload state too."""
    tracker = offline_run(tmp_path / "run")
    uploader = Uploader(tracker.journal, store)
    uploader.upload()
    run_id = uploader.state.run_id
    mlflow.MlflowClient(store).create_run(
        uploader.state.experiment_id, tags={LOCAL_ID: tracker.journal.stem}
    )  # created twice
    tracker.journal.with_suffix(".sent").unlink()
    again = Uploader(tracker.journal, store)
    again.upload()
    (run,) = RunStore(store).newest(10)
    assert run.run_id == again.state.run_id
    assert history(store, run.run_id) == tracker.history["loss"]
    UploadState(run_id=run_id).save(tracker.journal)
    assert not is_uploaded(tracker.journal)


def test_refused_value_does_not_block_the_rest(tmp_path, store, caplog):
    with MlflowTracker(tracking(store), "run", tmp_path / "run") as tracker:
        for step in range(5):
            tracker.log_metrics({"loss": step, "no name!?": step}, step)
        tracker.log_artifact(tmp_path / "gone.txt")
    assert tracker.is_uploaded
    assert history(store, tracker.run_id) == [(step, step) for step in range(5)]
    (message,) = caplog.messages
    assert "cannot upload no name!?: " in message


@pytest.mark.slow
def test_task_sync_uploads_runs_of_the_store_and_marks_killed_ones(tmp_path, store, task_sync, monkeypatch, capsys):
    monkeypatch.setattr(sync, "OUTPUTS", tmp_path / "outputs")
    (tmp_path / "outputs").mkdir()
    program = f"""
import os, signal
from pathlib import Path
from types import SimpleNamespace
from rp2k_lab.tracking.tracker import MlflowTracker
settings = SimpleNamespace(name="offline", uri="{store}", experiment="study", flush_seconds=1)
tracker = MlflowTracker(settings, "killed", Path("{tmp_path}/outputs/killed"))
tracker.log_metrics({{"loss": 1}}, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=PROJECT).returncode == -signal.SIGKILL
    offline_run(tmp_path / "outputs" / "anywhere")
    elsewhere = offline_run(tmp_path / "outputs" / "elsewhere", "http://127.0.0.1:9")
    task_sync(f"tracking.uri={store}")
    out = capsys.readouterr().out
    assert f"skipped     elsewhere, recorded for http://127.0.0.1:9; add runs={tmp_path}/outputs/elsewhere" in out
    assert "2 sent, 0 sent before" in out
    uploaded = {run.name: (run.status, run.tags["status"]) for run in RunStore(store).newest(10)}
    assert uploaded == {"killed": ("KILLED", "KILLED"), "anywhere": ("FINISHED", "FINISHED")}
    task_sync()  # a record opens no store that the request does not name
    out = capsys.readouterr().out
    assert "elsewhere, recorded for http://127.0.0.1:9; add tracking.uri=http://127.0.0.1:9 to" in out
    with pytest.raises(RequestError, match=r"^tracking\.uri=http://127\.0\.0\.1:9: Connection refused"):
        task_sync("tracking.uri=http://127.0.0.1:9")
    task_sync(f"runs={elsewhere.run_id[:7]}", f"tracking.uri={store}")
    assert len(RunStore(store).newest(10)) == 3
    with pytest.raises(RequestError, match=r"^runs=absent: no run"):
        task_sync("runs=absent")


def test_secret_in_the_uri_is_not_stored(tmp_path, caplog):
    settings = tracking("http://user:hidden-word@127.0.0.1:9")
    with MlflowTracker(settings, "run", tmp_path / "run") as tracker:
        tracker.log_metrics({"loss": 1}, 1)
    assert read_header(tracker.journal)["store"] == "http://127.0.0.1:9"
    printed = " ".join([*caplog.messages, *tracker.next_steps()])
    assert "hidden-word" not in printed
    assert all("hidden-word" not in file.read_text() for file in (tmp_path / "run").iterdir())
