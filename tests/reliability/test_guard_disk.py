"""Disks without room: refused before a run starts, told when one fills up, and what was there before stays whole."""

import contextlib
import errno

import mindspore
import mlflow
import pytest

from rp2k_lab.core.disk import SpaceNeed, check_disk_space, explain_full_disk
from rp2k_lab.core.errors import RequestError
from rp2k_lab.tracking.journal import Journal, read
from tests.helpers.tiny_runs import TINY


def fill(disk) -> None:
    """Leave no room on a disk."""
    with contextlib.suppress(OSError), (disk / "filler").open("wb") as file:
        while True:
            file.write(bytes(2**16))
            file.flush()


def test_what_a_run_takes_is_refused_with_the_numbers_where_it_cannot_fit(start, small_disk):
    disk = small_disk("12m")
    command = start(*TINY, f"hydra.run.dir={disk}/out")
    code, _, said = command.wait()
    assert code == 2, said
    assert said.startswith(f"{disk}/out: the run needs ")
    assert "checkpoints" in said
    assert "13 MB are free" in said
    assert len(said.splitlines()) == 2
    assert command.store.runs() == []
    assert not (disk / "out").exists()


def test_a_disk_that_fills_up_ends_the_run_and_leaves_its_last_checkpoint_whole(start, small_disk):
    disk = small_disk("80m")
    command = start(*TINY, "epochs=2000", f"hydra.run.dir={disk}/out")
    for line in command.process.stdout:
        if line.startswith("epoch 1/"):
            break
    fill(disk)
    code, _, said = command.wait()
    assert code == 1, said
    assert "no space left on device" in said.lower()
    assert len(said.splitlines()) == 2, said
    assert str(disk / "out") in said
    assert not list((disk / "out" / "checkpoints").glob(".*"))
    assert "step" in mindspore.load_checkpoint(str(disk / "out" / "checkpoints" / "last.ckpt"))
    (run,) = command.store.runs()
    assert run.info.status == "FAILED"


def test_a_full_disk_under_the_store_is_told_and_leaves_its_runs(start, small_disk):
    disk = small_disk("8m")
    uri = f"sqlite:///{disk}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    client.create_run(client.create_experiment("other"), run_name="earlier")
    fill(disk)
    code, _, said = start(*TINY, "epochs=1", uri=uri).wait()
    assert code != 0
    assert len(said.splitlines()) <= 2, said
    (experiment,) = [e for e in client.search_experiments() if e.name == "other"]
    assert [run.info.run_name for run in client.search_runs([experiment.experiment_id])] == ["earlier"]


def test_a_journal_has_room_for_the_last_words(small_disk):
    disk = small_disk("1m")
    journal = Journal(disk / "run.journal")
    journal.append("run", name="a")
    fill(disk)
    journal.append("end", status="FAILED")
    journal.close()
    assert [record["kind"] for record, _ in read(disk / "run.journal")] == ["run", "end"]
    assert sorted(file.name for file in disk.iterdir()) == ["filler", "run.journal"]


class TestCheckRoom:
    def test_needs_on_one_disk_add_up(self, small_disk):
        disk = small_disk("4m")
        check_disk_space([SpaceNeed("a", disk, 2_000_000), SpaceNeed("b", disk / "not" / "there", 2_000_000)])
        with pytest.raises(RequestError, match=r"needs 5\.0 MB \(a 2\.0 MB, b 3\.0 MB\), 4\.2 MB are free"):
            check_disk_space([SpaceNeed("a", disk, 2_000_000), SpaceNeed("b", disk / "not" / "there", 3_000_000)])

    def test_each_disk_has_its_own_room(self, small_disk):
        first, second = small_disk("4m"), small_disk("1m")
        check_disk_space([SpaceNeed("a", first, 3_000_000), SpaceNeed("b", second, 1_000_000)])
        with pytest.raises(RequestError, match=r"disk1: the run needs 3\.0 MB"):
            check_disk_space([SpaceNeed("a", second, 3_000_000), SpaceNeed("b", first, 1_000_000)])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_found_behind_other_errors(number):
    behind = RuntimeError("saving failed")
    behind.__cause__ = OSError(number, "No space left on device", "a\nb.ckpt")
    assert explain_full_disk(behind).startswith("a\\nb.ckpt: no space left on device\n")
    assert explain_full_disk(RuntimeError("(sqlite3.OperationalError) database or disk is full")) is not None
    assert explain_full_disk(OSError(errno.EACCES, "Permission denied")) is None
