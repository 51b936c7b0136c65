"""Full disks: a run without space is refused, a disk that fills up is reported, earlier files stay intact."""

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


def test_disk_that_fills_up_ends_the_run_and_keeps_the_last_checkpoint(start, small_disk):
    disk = small_disk("80m")
    command = start(*TINY, "epochs=2000", f"hydra.run.dir={disk}/out")
    for line in command.process.stdout:
        if line.startswith("epoch 1/"):
            break
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
    journal.append("run", name="a")
    fill(disk)
    journal.append("end", status="FAILED")
    journal.close()
    assert [record["kind"] for record, _ in read(disk / "run.journal")] == ["run", "end"]
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
