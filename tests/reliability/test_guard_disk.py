"""Full disks and disks without a feature: a run is refused, or does without; earlier files stay intact."""

import contextlib
import errno
import logging
import os
from pathlib import Path

import mindspore
import mlflow
import pytest

from rp2k_lab.core.disk import SpaceNeed, check_disk_features, check_disk_space, explain_full_disk
from rp2k_lab.core.errors import RequestError
from rp2k_lab.tracking.journal import Journal, read
from tests.helpers.forked_run import start_run
from tests.helpers.tiny_runs import POOR_DISK, TINY


def fill(disk) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb") as file:
        while True:
            file.write(bytes(2**16))
            file.flush()


def test_run_that_does_not_fit_is_refused_with_its_sizes(start, small_disk):
    disk = small_disk("12m")
    command = start(*TINY, f"hydra.run.dir={disk}/out")
    code, _, message = command.wait()
    assert code == 2, message
    assert message.startswith(f"{disk}/out: the run needs ")
    assert "checkpoints" in message
    assert "13 MB are free" in message
    assert len(message.splitlines()) == 2
    assert command.store.runs() == []
    assert not (disk / "out").exists()


def test_disk_that_fills_up_ends_the_run_and_keeps_the_last_checkpoint(start, small_disk, wait_for):
    disk = small_disk("80m")
    command = start(*TINY, "epochs=2000", f"hydra.run.dir={disk}/out")
    wait_for((disk / "out" / "checkpoints" / "last.ckpt").exists)
    fill(disk)
    code, _, message = command.wait()
    assert code == 1, message
    assert "no space left on device" in message.lower()
    assert len(message.splitlines()) == 2, message
    assert str(disk / "out") in message
    assert not list((disk / "out" / "checkpoints").glob(".*"))
    assert "step" in mindspore.load_checkpoint(str(disk / "out" / "checkpoints" / "last.ckpt"))
    (run,) = command.store.runs()
    assert run.info.status == "FAILED"


def test_full_disk_of_the_store_is_reported_and_keeps_earlier_runs(start, small_disk):
    disk = small_disk("8m")
    uri = f"sqlite:///{disk}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    client.create_run(client.create_experiment("other"), run_name="earlier")
    fill(disk)
    code, _, message = start(*TINY, "epochs=1", uri=uri).wait()
    assert code != 0
    assert len(message.splitlines()) <= 2, message
    (experiment,) = [e for e in client.search_experiments() if e.name == "other"]
    assert [run.info.run_name for run in client.search_runs([experiment.experiment_id])] == ["earlier"]


def test_journal_reserves_space_for_its_last_records(small_disk):
    disk = small_disk("1m")
    journal = Journal(disk / "run.journal")
    journal.append("tags", tags={"a": "b"})
    fill(disk)
    journal.append("end", status="FAILED")
    journal.close()
    assert [record["kind"] for record, _ in read(disk / "run.journal")] == ["tags", "end"]
    assert sorted(file.name for file in disk.iterdir()) == ["filler", "run.journal"]


class TestCheckDiskSpace:
    def test_needs_on_one_disk_are_added(self, small_disk):
        disk = small_disk("4m")
        check_disk_space([SpaceNeed("a", disk, 2_000_000), SpaceNeed("b", disk / "not" / "there", 2_000_000)])
        with pytest.raises(RequestError, match=r"needs 5\.0 MB \(a 2\.0 MB, b 3\.0 MB\), 4\.2 MB are free"):
            check_disk_space([SpaceNeed("a", disk, 2_000_000), SpaceNeed("b", disk / "not" / "there", 3_000_000)])

    def test_disks_are_checked_separately(self, small_disk):
        first, second = small_disk("4m"), small_disk("1m")
        check_disk_space([SpaceNeed("a", first, 3_000_000), SpaceNeed("b", second, 1_000_000)])
        with pytest.raises(RequestError, match=r"disk1: the run needs 3\.0 MB"):
            check_disk_space([SpaceNeed("a", second, 3_000_000), SpaceNeed("b", first, 1_000_000)])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_found_in_the_chain_of_causes(number):
    error = RuntimeError("saving failed")
    error.__cause__ = OSError(number, "No space left on device", "a\nb.ckpt")
    assert explain_full_disk(error).startswith("a\\nb.ckpt: no space left on device\n")
    assert explain_full_disk(RuntimeError("(sqlite3.OperationalError) database or disk is full")) is not None
    assert explain_full_disk(OSError(errno.EACCES, "Permission denied")) is None


class TestDiskWithoutFeatures:
    """exFAT has no links and no permissions, NFS may have no locks, and others cannot flush folders."""

    @pytest.mark.slow
    def test_run_does_without_and_says_so(self, tmp_path):
        arguments = [*TINY, "epochs=1", "task.keep_state=true", "tracking=offline", f"hydra.run.dir={tmp_path}/out"]
        process = start_run(arguments, tmp_path, POOR_DISK)
        out, err = process.communicate(300)
        assert (process.returncode, err) == (0, "")
        assert f"{tmp_path}/out: the disk has no links, best.ckpt and last.ckpt are copies\n" in out
        assert f"{tmp_path}/out: the disk has no locks, files named .owner replace them\n" in out
        folder = tmp_path / "out" / "checkpoints"
        last, (saved,) = folder / "last.ckpt", folder.glob("step-*.ckpt")
        assert not last.is_symlink()
        assert last.read_bytes() == saved.read_bytes()
        assert "step" in mindspore.load_checkpoint(str(folder / "best.ckpt"))
        assert not [file for file in (tmp_path / "out").rglob(".*")]

    @pytest.mark.soak
    def test_killed_run_is_resumed_and_a_living_one_is_not(self, tmp_path):
        arguments = [*TINY, "epochs=2000", "tracking=offline"]
        process = start_run([*arguments, f"hydra.run.dir={tmp_path}/out"], tmp_path, POOR_DISK)
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                break
        resume = [*arguments, "task.resume=continue", f"runs={tmp_path}/out"]
        second = start_run(resume, tmp_path, POOR_DISK)
        _, err = second.communicate(300)
        assert second.returncode == 2
        marker = f"{tmp_path}/out/.lock.owner"
        assert err.splitlines() == [
            f"{tmp_path}/out: another process trains this run",
            f"wait for it, or stop it first; if its machine is gone, delete {marker}",
        ]
        process.kill()
        process.wait(60)
        process.communicate(60)
        third = start_run(resume, tmp_path, POOR_DISK)
        for line in third.stdout:
            if line.startswith("epoch "):
                break
        third.send_signal(2)
        third.communicate(300)
        assert third.returncode == 130
        assert not [file for file in (tmp_path / "out").rglob(".*")]

    def test_disk_that_cannot_replace_a_file_is_refused_in_two_lines(self, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(RequestError) as error:
            check_disk_features(tmp_path)
        assert str(error.value).splitlines() == [
            f"{tmp_path}: its disk cannot keep a run (operation not permitted)",
            "use a folder on another disk: hydra.run.dir=<folder>",
        ]
        assert list(tmp_path.iterdir()) == []

    def test_disk_with_all_features_is_silent(self, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        assert check_disk_features(tmp_path)
        assert (caplog.messages, list(tmp_path.iterdir())) == ([], [])
