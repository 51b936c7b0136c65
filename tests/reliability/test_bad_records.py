"""Damaged, lost and hostile records: named in one line, never sent twice, and the others go on."""

import json
import os
import shutil
import socket
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.task import sync
from rp2k_lab.tracking import local_runs
from rp2k_lab.tracking.journal import Journal, read
from rp2k_lab.tracking.mlflow_runs import RunStore
from rp2k_lab.tracking.run_lookup import lookup_run
from rp2k_lab.tracking.tracker import MlflowTracker
from rp2k_lab.tracking.upload_state import LOCAL_ID, UploadState, is_uploaded
from rp2k_lab.tracking.upload_thread import UploadThread
from rp2k_lab.tracking.uploader import Uploader


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """The folder that stands for outputs/."""
    for module in (local_runs, sync):
        monkeypatch.setattr(module, "OUTPUTS", tmp_path / "outputs")
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs"


@pytest.fixture
def task_sync(compose, capsys):
    """task_sync(*overrides): run `python run.py task=sync …` in this process; return the printed text."""

    def task_sync(*overrides):
        sync.run(parse(compose("task=sync", *overrides)), None)
        return capsys.readouterr().out

    return task_sync


def settings(uri, name="mlflow", experiment="study"):
    return SimpleNamespace(name=name, uri=uri, experiment=experiment, flush_seconds=3600)


def history(uri, run_id, name="loss"):
    return [(m.step, m.value) for m in mlflow.MlflowClient(uri).get_metric_history(run_id, name)]


def killed_run(folder, steps, store=None, experiment="study"):
    """Write the journal of a run that was killed after a number of steps; return its file."""
    name = folder.name.encode().hex().rjust(32, "0")
    journal = Journal(folder / f"{name}.journal")
    journal.append("run", local_id=name, name=folder.name, experiment=experiment, store=store, tags={})
    for step in range(1, steps + 1):
        journal.append("metrics", step=step, metrics={"loss": 1 / step})
    journal.close()
    return journal.file


def flip(file, line):
    """Flip one bit in the middle of a line of a file."""
    lines = file.read_bytes().splitlines(keepends=True)
    damaged = bytearray(lines[line])
    damaged[len(damaged) // 2] ^= 4
    lines[line] = bytes(damaged)
    file.write_bytes(b"".join(lines))


def resume(file, uri, logged, last):
    """Resume a run at a checkpoint after `logged` steps and train to the last step; return the tracker."""
    with MlflowTracker(settings(uri), "any", file.parent, file.stem) as tracker:
        tracker.rewind({"loss": logged}, logged)
        for step in range(logged + 1, last + 1):
            tracker.log_metrics({"loss": 1 / step}, step)
    return tracker


@pytest.mark.parametrize("synced", [10, 8])
def test_steps_that_only_the_store_has_are_not_sent_twice(tmp_path, store, synced):
    """A disk lost lines that the store had; the resumed run repeats them at other times, and is killed once more."""
    file = killed_run(tmp_path / "run", 12)
    Uploader(file, store).upload()
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: 1 + synced]))
    with suppress(KeyboardInterrupt), MlflowTracker(settings(store), "any", file.parent, file.stem) as tracker:
        tracker.rewind({"loss": 8}, 8)
        for step in range(9, 12):
            tracker.log_metrics({"loss": 1 / step}, step)
        raise KeyboardInterrupt
    tracker = resume(file, store, 8, 14)
    assert history(store, tracker.run_id) == [(step, 1 / step) for step in range(1, 15)] == tracker.history["loss"]
    assert tracker.is_uploaded


def test_journal_that_grew_again_beyond_the_sent_part_is_sent_whole(tmp_path, store):
    file = killed_run(tmp_path / "run", 12)
    Uploader(file, store).upload()
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:5]))
    with MlflowTracker(settings(store, "offline"), "any", file.parent, file.stem) as tracker:
        tracker.rewind({"loss": 4}, 4)
        for step in range(5, 41):
            tracker.log_metrics({"loss": 1 / step}, step)
    assert file.stat().st_size > UploadState.load(file).offset
    Uploader(file, store).upload()
    assert history(store, UploadState.load(file).run_id) == [(step, 1 / step) for step in range(1, 41)]


def test_what_is_not_synced_is_not_sent(tmp_path, store):
    """The training appends a line between the sync and the upload."""
    journal = Journal(killed_run(tmp_path / "run", 3))
    sync_only = journal.sync

    def sync_and_append():
        size = sync_only()
        journal.append("metrics", step=journal.file.stat().st_size, metrics={"late": 1.0})
        return size

    journal.sync = sync_and_append
    uploader = Uploader(journal.file, store)
    thread = UploadThread(journal, uploader, 3600)
    thread._upload()
    assert thread.problem is None
    assert history(store, uploader.run_id, "late") == []
    assert len(history(store, uploader.run_id)) == 3
    thread._upload()  # the first late line is synced now
    assert len(history(store, uploader.run_id, "late")) == 1
    journal.close()


@pytest.mark.parametrize("step", [2, 5])
@pytest.mark.parametrize("is_sent", [True, False], ids=["sent", "unsent"])
def test_flipped_bit_costs_a_warning_and_repeats_no_step(tmp_path, store, caplog, step, is_sent):
    """The checkpoint is of step 4, so step 5 is trained again."""
    file = killed_run(tmp_path / "run", 6)
    if is_sent:
        Uploader(file, store).upload()
    flip(file, step)
    tracker = resume(file, store, 4, 8)
    expected = [(s, 1 / s) for s in range(1, 9)]
    lost = [] if is_sent or step == 5 else [expected[1]]
    assert sorted(history(store, tracker.run_id)) == [value for value in expected if value not in lost]
    recorded = [record["step"] for record, _ in read(file) if record["kind"] == "metrics"]
    assert sorted(recorded) == [s for s in range(1, 9) if s != 2 or step != 2]
    (message,) = [message for message in caplog.messages if "damaged" in message]
    assert message.startswith(f"{file}: 1 damaged line is left out (the first at byte ")


@pytest.mark.parametrize(
    "change",
    [{"offset": 10**6}, {"offset": True}, {"offset": -1}, {"offset": "9"}, {"run_id": "' OR 1=1"}, {"run_id": 5},
     {"ended": "yes"}, {"surprise": 1}, "whole line", "garbage", "nested", "pipe", "link"],
    ids=str,
)  # fmt: skip
def test_damaged_upload_state_sends_everything_again(tmp_path, store, change):
    file = killed_run(tmp_path / "run", 5)
    uploader = Uploader(file, store)
    journal = Journal(file)
    uploader.upload()
    for step in (6, 7, 8):
        journal.append("metrics", step=step, metrics={"loss": 1 / step})
    journal.append("end", status="FINISHED")
    journal.close()
    state = file.with_suffix(".sent")
    content = json.loads(state.read_text()) | {"ended": True}
    if change == "whole line":  # with the seal of another offset
        content["offset"] = file.stat().st_size
    elif isinstance(change, dict):
        content |= change
    texts = {"garbage": "\0\xff", "nested": "[" * 30_000}
    state.write_text(texts.get(str(change), json.dumps(content)))
    if change == "pipe":
        state.unlink()
        os.mkfifo(state)
    elif change == "link":
        shutil.move(state, tmp_path / "elsewhere")
        state.symlink_to(tmp_path / "elsewhere")
    assert not is_uploaded(file)
    again = Uploader(file, store)
    again.upload()
    assert again.run_id == uploader.run_id
    assert history(store, again.run_id) == [(step, 1 / step) for step in range(1, 9)]
    assert is_uploaded(file)


def test_foreign_upload_state_changes_no_other_run(tmp_path, store):
    client = mlflow.MlflowClient(store)
    victim = client.create_run("0", run_name="victim").info
    file = killed_run(tmp_path / "run", 2)
    UploadState(run_id=victim.run_id, experiment_id="0", checksum=0).save(file)
    uploader = Uploader(file, store)
    uploader.upload(is_over=True)
    assert uploader.run_id != victim.run_id
    untouched = client.get_run(victim.run_id)
    assert (untouched.data.metrics, untouched.info.status, untouched.data.tags.get(LOCAL_ID)) == ({}, "RUNNING", None)


def test_one_bad_record_never_stops_the_others(outputs, store, task_sync, caplog):
    """A run deleted in MLflow, a deleted experiment, and files that are no records, among good runs."""
    client = mlflow.MlflowClient(store)
    deleted = killed_run(outputs / "b_deleted", 3)
    uploader = Uploader(deleted, store)
    uploader.upload()
    with closing(Journal(deleted)) as journal:
        journal.append("metrics", step=9, metrics={"loss": 0.5})
    client.delete_run(uploader.run_id)
    client.delete_experiment(client.create_experiment("gone"))
    killed_run(outputs / "c_gone", 1, experiment="gone")
    flip(killed_run(outputs / "d_flipped", 3), 0)
    (outputs / "e").mkdir()
    os.mkfifo(outputs / "e" / "pipe.journal")
    (outputs / "e" / "folder.journal").mkdir()
    (outputs / "e" / "link.journal").symlink_to(killed_run(outputs.parent / "secret", 1))
    (outputs / "e" / "empty.journal").touch()
    good = [killed_run(outputs / name, 3) for name in ("a", "z")]
    with pytest.raises(RequestError, match="gone"):
        task_sync(f"tracking.uri={store}")
    assert {run.name for run in RunStore(store).newest(10)} == {"a", "z"}
    assert all(map(is_uploaded, good))
    (named,) = [message for message in caplog.messages if message.startswith("left out: ")]
    for name, reason in (("d_flipped", "first line"), ("pipe.journal", "no regular file"), ("link.journal", "a link")):
        assert name in named
        assert reason in named
    shutil.rmtree(outputs / "c_gone")
    out = task_sync(f"tracking.uri={store}")
    assert f"skipped     b_deleted, run {uploader.run_id} is deleted in the store" in out
    with pytest.raises(RequestError, match=r"^runs=.*b_deleted: run .* is deleted in the store\nrestore it: "):
        task_sync(f"tracking.uri={store}", f"runs={deleted.parent}")
    assert lookup_run(store, "z").name == "z"  # every other `runs=` works, too
    with pytest.raises(DataError, match=r"d_flipped/.*: no run's record \(its first line is damaged\)\n") as error:
        lookup_run(store, str(outputs / "d_flipped"))
    assert len(str(error.value).splitlines()) == 2
    assert RunStore(store).get(uploader.run_id) is None  # not made again


def test_journal_is_no_link_and_no_pipe(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("a line\nand a half")
    (tmp_path / "x.journal").symlink_to(precious)
    os.mkfifo(tmp_path / "y.journal")
    for name in ("x", "y"):
        with pytest.raises(DataError, match="no regular file") as error:
            Journal(tmp_path / f"{name}.journal")
        assert len(str(error.value).splitlines()) == 2
    assert precious.read_text() == "a line\nand a half"  # opening a journal cuts off half of a line


def test_only_files_of_the_run_folder_are_sent(tmp_path, store, task_sync, caplog):
    """A stranger's run folder names files elsewhere, and a server and a file as its store."""
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "stranger"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        journal = Journal(killed_run(folder, 1, address))
        (folder / "own.txt").write_text("own")
        (folder / "link.txt").symlink_to("../secret.txt")
        (folder / "within.txt").symlink_to("own.txt")
        (folder / "linked").symlink_to(tmp_path)
        os.mkfifo(folder / "pipe.txt")
        names = ["own.txt", "within.txt", str(tmp_path / "secret.txt"), "../secret.txt", "link.txt"]
        for name in [*names, "linked/secret.txt", "pipe.txt", "a\0b", "x" * 5000]:
            journal.append("artifact", file=name, folder="")
        journal.append("artifact", file="own.txt", folder="../..")
        journal.append("end", status="FINISHED")
        journal.close()
        with pytest.raises(RequestError, match=rf"recorded for {address}\nadd tracking\.uri="):
            task_sync(f"runs={folder}")
        with pytest.raises(TimeoutError):
            server.accept()  # nothing was connected to
    task_sync(f"runs={folder}", f"tracking.uri={store}")
    run = RunStore(store).find("stranger")[0]
    assert {file.name for file in run.artifact_folder.iterdir()} == {"own.txt", "within.txt"}
    assert not list((tmp_path / "store").rglob("*secret*"))
    assert "cannot upload" in caplog.text
    assert is_uploaded(journal.file)


def test_run_recorded_for_a_file_elsewhere_makes_no_store_there(outputs, task_sync, tmp_path, store):
    killed_run(outputs / "run", 1, f"sqlite:///{tmp_path}/made.db")
    out = task_sync(f"tracking.uri={store}")
    assert f"skipped     run, recorded for sqlite:///{tmp_path}/made.db; add runs={outputs}/run to send it here" in out
    assert not (tmp_path / "made.db").exists()


@pytest.mark.parametrize("kind", ["mlflow", "offline"])
def test_removed_folder_costs_no_record(outputs, store, task_sync, kind, caplog):
    """Someone removes outputs/ under way: the store learns the rest, and the printed way out works."""
    with MlflowTracker(settings(store, kind), "run", outputs / "run") as tracker:
        tracker.log_metrics({"loss": 1.0}, 1)
        tracker.deliver()
        shutil.rmtree(outputs)
        tracker.log_metrics({"loss": 0.5}, 2)
        tracker.deliver()
        tracker.log_metrics({"loss": 0.25}, 3)
    assert "outputs/run: was removed or moved; the run's record is written there again" in caplog.text
    if kind == "offline":
        (hint,) = tracker.next_steps()
        task_sync(*hint.partition("task=sync ")[2].split())
    (run,) = RunStore(store).find("run")
    assert run.status == "FINISHED"
    assert history(store, run.run_id) == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert is_uploaded(tracker.journal)


def test_file_from_elsewhere_is_copied_into_the_run_folder(tmp_path, store):
    (tmp_path / "note.txt").write_text("kept")
    with MlflowTracker(settings(store), "run", tmp_path / "run") as tracker:
        tracker.log_artifact(tmp_path / "note.txt", "notes")
    assert (tmp_path / "run" / "notes" / "note.txt").read_text() == "kept"
    (run,) = RunStore(store).find("run")
    assert (run.artifact_folder / "notes" / "note.txt").read_text() == "kept"


def test_folder_of_a_tag_counts_only_with_the_journal_of_the_run(tmp_path, store):
    """Whoever may write to a store may set the tag `folder`."""
    with MlflowTracker(settings(store), "run", tmp_path / "run") as tracker:
        tracker.set_tags({"folder": tmp_path / "run"})
    (run,) = RunStore(store).find("run")
    assert run.own_folder == tmp_path / "run"
    client = mlflow.MlflowClient(store)
    for tag, value in (("folder", str(tmp_path)), (LOCAL_ID, "../run/" + tracker.journal.stem), ("folder", "/")):
        client.set_tag(run.run_id, tag, value)
        assert RunStore(store).find("run")[0].own_folder is None


def test_search_of_a_folder_is_bounded(tmp_path, store, monkeypatch, caplog):
    file = killed_run(tmp_path / "runs" / "run", 1)
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    os.mkfifo(tmp_path / "runs" / "x.journal")
    assert lookup_run(store, str(tmp_path / "runs")).local_id == file.stem
    monkeypatch.setenv("HOME", str(tmp_path / "runs"))
    assert lookup_run(store, "~/run").local_id == file.stem
    for number in range(30):
        (tmp_path / "runs" / str(number)).touch()
    monkeypatch.setattr(local_runs, "_MAX_FILES", 20)
    with pytest.raises(RequestError, match=r"/runs: has more than 20 files and folders, or .*\nuse the run's own"):
        lookup_run(store, str(tmp_path / "runs"))
    for name in ("x" * 5000, "a\0b", "~nobody-here", "x" * 300 + ".ckpt"):
        with pytest.raises(RequestError, match="there is no such run"):
            lookup_run(store, name)


@pytest.mark.soak
def test_root_folder_is_refused_in_seconds(store):
    """The disk of this machine has more files than a folder of runs, or it is searched at once."""
    with suppress(RequestError, DataError):
        local_runs.find_journals(Path("/"))
