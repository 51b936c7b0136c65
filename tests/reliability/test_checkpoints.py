"""The folder of checkpoints: what is kept, what damage does, and what dies in between."""

import json
import os
from dataclasses import replace

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from rp2k_lab.train import checkpoint
from rp2k_lab.train.checkpoint import CheckpointFolder, TrainingPosition, load_checkpoint

POINT = TrainingPosition(
    step=3, loss=0.1 + 0.2, epoch_open=True, best=(1 / 3, 3), logged={"train/loss": 3, "val/top1": 1}
)


class Dead(BaseException):
    """In place of SIGKILL: nothing is cleaned up."""


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "checkpoints", kept=2)


def net(value=0.0):
    return nn.Dense(2, 3, weight_init=value)


def save(folder, *steps, best=None):
    """A checkpoint a step, its weights the step; at the steps of `best` a new best."""
    known = None
    for step in steps:
        if step in (best or ()):
            folder.save_best(net(step), step)
            known = (step / 100, step)
        folder.save(net(step), replace(POINT, step=step, best=known))


def names(folder):
    return sorted(file.name for file in folder.folder.iterdir() if file.suffix == ".ckpt")


def weights(file):
    return {float(value) for value in np.unique(mindspore.load_checkpoint(str(file))["weight"].asnumpy())}


def test_a_point_comes_back_bit_for_bit_with_its_weights(folder):
    folder.save_best(net(3.0), 3)
    folder.save(net(3.0), POINT)
    assert folder.newest() == POINT
    target = net()
    folder.restore(target, POINT)
    assert (target.weight.asnumpy() == 3).all()


def test_the_last_two_are_kept_with_the_best_weights_that_each_of_them_knows(folder):
    save(folder, 1, 2, 3, 4, best=(1, 4))
    assert names(folder) == [
        "best-00000001.ckpt",
        "best-00000004.ckpt",
        "best.ckpt",
        "last.ckpt",
        "step-00000003.ckpt",
        "step-00000004.ckpt",
    ]
    assert weights(folder.best) == weights(folder.last) == {4.0}
    folder.save(net(5.0), replace(POINT, step=5, best=(0.04, 4)))
    assert "best-00000001.ckpt" not in names(folder)


def cut(file):
    os.truncate(file, file.stat().st_size - 1)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, os.remove])
@pytest.mark.parametrize("name", ["step-00000002.ckpt", "best-00000002.ckpt", "step-00000002.json"])
def test_a_damaged_newest_one_is_reported_and_the_one_before_it_used(folder, caplog, name, damage):
    save(folder, 1, 2, best=(1, 2))
    damage(folder.folder / name)
    point = folder.newest()
    assert point.step == 1
    gone = damage is os.remove and name.endswith("json")  # as if it had never been finished
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (0 if gone else 1)
    assert all("step-00000002.ckpt: damaged (" in line and "using the previous checkpoint" in line for line in lines)
    folder.rollback_to(point)
    assert weights(folder.best) == weights(folder.last) == {float(point.step)}


def test_nothing_to_go_on_from(folder, caplog):
    assert folder.newest() is None
    folder.rollback_to(None)
    save(folder, 1)
    cut(folder.file(1))
    assert folder.newest() is None
    assert len(caplog.records) == 1
    folder.rollback_to(None)
    assert names(folder) == []


@pytest.mark.parametrize("dies_at", range(1, 12))
def test_death_at_any_file_operation_leaves_the_former_point_or_the_new_one(folder, monkeypatch, dies_at):
    """Every operation that changes the folder, in turn: half a write, a rename, a link, a removal."""
    save(folder, 1, 2, best=(1,))
    operations = 0

    def or_die(function):
        def call(*arguments, **options):
            nonlocal operations
            operations += 1
            if operations == dies_at:
                raise Dead
            return function(*arguments, **options)

        return call

    def half(parameters, file, **options):
        nonlocal operations
        operations += 1
        mindspore_save(parameters, file, **options)
        if operations == dies_at:
            cut(checkpoint.Path(file))
            raise Dead

    mindspore_save = mindspore.save_checkpoint
    with monkeypatch.context() as patched:
        patched.setattr(mindspore, "save_checkpoint", half)
        for name in ("replace", "unlink", "write_text", "symlink_to"):
            patched.setattr(checkpoint.Path, name, or_die(getattr(checkpoint.Path, name)))
        try:
            folder.save_best(net(3.0), 3)
            folder.save(net(3.0), replace(POINT, step=3, best=(0.03, 3)))
        except Dead:
            pass
    assert operations >= dies_at
    again = CheckpointFolder(folder.folder, kept=2)
    point = again.newest()
    assert (point.step, point.best[1]) in ((2, 1), (3, 3))
    again.rollback_to(point)
    assert weights(again.last) == {float(point.step)}
    assert weights(again.best) == {float(point.best[1])}
    assert not list(folder.folder.glob(".*"))
    save(again, 4, best=(4,))
    assert again.newest().step == 4
    assert len(names(again)) == 2 + 2 + 2  # links, points and their best weights


def test_every_file_is_on_the_disk_before_it_has_its_name(folder, monkeypatch):
    synced, renamed = [], []
    monkeypatch.setattr(checkpoint, "_sync", lambda path: synced.append(path.name))
    replace_file = checkpoint.Path.replace

    def rename(path, target):
        if target.suffix != ".ckpt" or not path.is_symlink():
            assert synced[-1] == path.name
            renamed.append(target.name)
        return replace_file(path, target)

    monkeypatch.setattr(checkpoint.Path, "replace", rename)
    save(folder, 1, best=(1,))
    assert renamed == ["best-00000001.ckpt", "best-00000001.sha256", "step-00000001.ckpt", "step-00000001.json"]
    assert synced.count("checkpoints") == len(renamed)  # the names too


def test_the_hash_is_that_of_the_file(folder):
    import hashlib

    save(folder, 1, best=(1,))
    recorded = json.loads(folder.file(1).with_suffix(".json").read_text())["sha256"]
    assert recorded == {n: hashlib.sha256((folder.folder / n).read_bytes()).hexdigest() for n in recorded}
    assert set(recorded) == {"step-00000001.ckpt", "best-00000001.ckpt"}


def test_an_optimizer_between_two_updates_goes_on_with_its_sums(folder):
    """Of what is accumulated: in one checkpoint with the weights."""
    from rp2k_lab.train.optimizer import Sgd

    cell = net(1.0)
    optimizer = Sgd([{"params": cell.trainable_params()}], [0.1] * 4, 0.9, accumulate_steps=2)
    optimizer.sums[0].set_data(Tensor(np.full((3, 2), 7, np.float32)))
    folder.save(optimizer, replace(POINT, best=None))
    other = Sgd([{"params": net().trainable_params()}], [0.1] * 4, 0.9, accumulate_steps=2)
    assert load_checkpoint(other, folder.last) == 3
    assert (other.sums[0].asnumpy() == 7).all()
