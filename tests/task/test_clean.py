"""task=clean on real run folders and a real store."""

import io
import os
import pty
import subprocess
import sys
import time
from types import SimpleNamespace

import mlflow
import pytest

from rp2k_lab.core.errors import Interrupted
from rp2k_lab.dataset import photo_index
from rp2k_lab.task import clean
from rp2k_lab.tracking.tracker import MlflowTracker

pytestmark = pytest.mark.slow
DAYS = 86_400


@pytest.fixture
def lab(tmp_path, empty_store, monkeypatch):
    """lab(name, error): record a run with two checkpoints and their best weights, which ends with an error or not."""
    monkeypatch.setattr(clean, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setattr(photo_index, "DATA_FOLDER", tmp_path / "data")
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    settings = {"name": "mlflow", "uri": uri, "experiment": "study", "flush_seconds": 3600}

    def record(name, error=None):
        folder = tmp_path / "outputs" / name
        checkpoints = folder / "checkpoints"
        checkpoints.mkdir(parents=True)
        for file in ("step-00000001.ckpt", "step-00000001.json", "step-00000002.ckpt", "best-00000001.ckpt"):
            (checkpoints / file).write_bytes(os.urandom(2_000_000))
        (checkpoints / "best.ckpt").symlink_to("best-00000001.ckpt")
        (checkpoints / "last.ckpt").symlink_to("step-00000002.ckpt")
        try:
            with MlflowTracker(SimpleNamespace(**settings), name, folder) as tracker:
                tracker.log_artifact(checkpoints / "best.ckpt", "checkpoints")
                if error:
                    raise error
        except type(error or ValueError()):
            pass
        return folder, tracker.run_id

    record.uri, record.folder = uri, tmp_path
    return record


def run(lab, ask=False, unused_days=30.0):
    task = SimpleNamespace(ask=ask, unused_days=unused_days)
    clean.run(SimpleNamespace(task=task, tracking=SimpleNamespace(uri=lab.uri)), lab.folder)


def test_finished_run_keeps_its_best_weights_and_a_killed_one_everything(lab, capsys):
    finished, _ = lab("finished")
    killed, _ = lab("killed", Interrupted(15))
    best = (finished / "checkpoints" / "best.ckpt").read_bytes()
    run(lab, ask=True)
    assert len(list((finished / "checkpoints").iterdir())) == 6  # a question without a terminal is answered by no
    shown = capsys.readouterr().out
    assert "6.0 MB  training states of finished runs\n" in shown
    assert str(killed) not in shown
    assert shown.endswith("nothing removed: add task.ask=false\n")
    run(lab)
    assert capsys.readouterr().out.endswith("removed     6.0 MB\n")
    assert [file.name for file in (finished / "checkpoints").iterdir()] == ["best.ckpt"]
    assert (finished / "checkpoints" / "best.ckpt").read_bytes() == best
    assert len(list((killed / "checkpoints").iterdir())) == 6
    run(lab)
    assert capsys.readouterr().out == "nothing to remove\n"


def test_folder_of_a_run_that_is_deleted_in_mlflow(lab, capsys):
    kept, _ = lab("kept", Interrupted(15))
    deleted, run_id = lab("deleted", Interrupted(15))
    mlflow.MlflowClient(lab.uri).delete_run(run_id)
    run(lab)
    assert "folders of runs that are deleted in MLflow" in capsys.readouterr().out
    assert kept.exists()
    assert not deleted.exists()


def test_run_that_another_process_writes_is_left_alone(lab, capsys):
    folder, _ = lab("finished")
    (journal,) = folder.glob("*.journal*")
    program = f"""
import sys
from pathlib import Path
from rp2k_lab.tracking.journal import Journal
journal = Journal(Path({str(journal)!r}))
print("open", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"open\n"
        run(lab)
        other.stdin.close()
    assert capsys.readouterr().out == "nothing to remove\n"


def test_kept_photos_and_features_that_nothing_reads(lab, capsys):
    old, new = lab.folder / "data" / "cache" / "photos-1", lab.folder / "data" / "features" / "a.npy"
    for file in (old / "images.bin", new):
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(100_000))
    os.utime(old / "images.bin", (time.time() - 31 * DAYS,) * 2)
    run(lab)
    assert "resized photos and features, unread for 30 days" in capsys.readouterr().out
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize(("answer", "is_removed"), [(b"y\n", True), (b"n\n", False), (b"\n", False), (b"\x04", False)])
def test_the_question_in_a_terminal(lab, capsys, monkeypatch, answer, is_removed):
    folder, _ = lab("finished")
    control, terminal = pty.openpty()
    os.write(control, answer)
    with open(terminal, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        run(lab, ask=True)
    os.close(control)
    assert (len(list((folder / "checkpoints").iterdir())) == 1) is is_removed
    assert ("nothing removed" in capsys.readouterr().out) is not is_removed


def test_large_artifact_shares_its_disk_blocks_with_the_run(lab):
    folder, run_id = lab("finished")
    artifact = lab.folder / "artifacts" / run_id / "artifacts" / "checkpoints" / "best.ckpt"
    assert artifact.samefile(folder / "checkpoints" / "best.ckpt")
    assert not artifact.is_symlink()
    run(lab)
    assert artifact.samefile(folder / "checkpoints" / "best.ckpt")


def test_output_without_a_question_for_a_closed_input(lab, capsys, monkeypatch):
    lab("finished")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    run(lab, ask=True)
    assert "nothing removed: add task.ask=false" in capsys.readouterr().out
