"""The checkpoint folder: retention, damage, and a crash at every file operation."""

import json
import os
from dataclasses import replace

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from rp2k_lab.core import files
from rp2k_lab.train import checkpoint
from rp2k_lab.train.checkpoint import CheckpointFolder, TrainingPosition, load_checkpoint

POSITION = TrainingPosition(
    step=3, loss=0.1 + 0.2, epoch_open=True, best=(1 / 3, 3), logged={"train/loss": 3, "val/top1": 1}
)


class Killed(BaseException):
    """Stands for SIGKILL: no clean-up runs."""


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "checkpoints", kept=2)


def net(value=0.0):
    return nn.Dense(2, 3, weight_init=value)


def save(folder, *steps, best=None):
    """Save a checkpoint per step with the step as weights; the steps in `best` are new best ones."""
    known = None
    for step in steps:
        if step in (best or ()):
            folder.save_best(net(step), step)
            known = (step / 100, step)
        folder.save(net(step), replace(POSITION, step=step, best=known))


def names(folder):
    return sorted(file.name for file in folder.folder.iterdir() if file.suffix == ".ckpt")


def weights(file):
    return {float(value) for value in np.unique(mindspore.load_checkpoint(str(file))["weight"].asnumpy())}


def test_position_and_weights_are_restored_bit_for_bit(folder):
    folder.save_best(net(3.0), 3)
    folder.save(net(3.0), POSITION)
    assert folder.newest() == POSITION
    target = net()
    folder.restore(target, POSITION)
    assert (target.weight.asnumpy() == 3).all()


def test_last_two_checkpoints_are_kept_with_their_best_weights(folder):
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
    folder.save(net(5.0), replace(POSITION, step=5, best=(0.04, 4)))
    assert "best-00000001.ckpt" not in names(folder)


@pytest.mark.parametrize("has_links", [True, False])
def test_finished_run_keeps_its_best_weights_alone(folder, has_links, monkeypatch):
    if not has_links:
        monkeypatch.setattr(files, "_linked", lambda link, file: False)
    save(folder, 1, 2, 3, best=(1, 2))
    state = folder.state_files()
    assert {file.name for file in state} >= {"last.ckpt", "step-00000002.ckpt", "step-00000003.json"}
    folder.keep_best()
    assert [file.name for file in folder.folder.iterdir()] == ["best.ckpt"]
    assert weights(folder.best) == {2.0}
    assert folder.state_files() == []
    folder.keep_best()  # as after a kill
    assert weights(folder.best) == {2.0}
    assert folder.newest() is None


def cut(file):
    os.truncate(file, file.stat().st_size - 1)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, os.remove])
@pytest.mark.parametrize("name", ["step-00000002.ckpt", "best-00000002.ckpt", "step-00000002.json"])
def test_damaged_newest_checkpoint_is_reported_and_the_previous_one_used(folder, caplog, name, damage):
    save(folder, 1, 2, best=(1, 2))
    damage(folder.folder / name)
    position = folder.newest()
    assert position.step == 1
    missing = damage is os.remove and name.endswith("json")  # like an unfinished checkpoint
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (0 if missing else 1)
    assert all("step-00000002.ckpt: damaged (" in line and "using the previous checkpoint" in line for line in lines)
    folder.rollback_to(position)
    assert weights(folder.best) == weights(folder.last) == {float(position.step)}


def test_no_valid_checkpoint(folder, caplog):
    assert folder.newest() is None
    folder.rollback_to(None)
    save(folder, 1)
    cut(folder.file(1))
    assert folder.newest() is None
    assert len(caplog.records) == 1
    folder.rollback_to(None)
    assert names(folder) == []


@pytest.mark.parametrize("killed_at", range(1, 12))
def test_kill_at_any_file_operation_leaves_the_previous_or_the_new_checkpoint(folder, monkeypatch, killed_at):
    """Each operation that changes the folder in turn: half a write, a rename, a link, a removal."""
    save(folder, 1, 2, best=(1,))
    operations = 0

    def or_kill(function):
        def call(*arguments, **options):
            nonlocal operations
            operations += 1
            if operations == killed_at:
                raise Killed
            return function(*arguments, **options)

        return call

    def half(parameters, file, **options):
        nonlocal operations
        operations += 1
        mindspore_save(parameters, file, **options)
        if operations == killed_at:
            cut(checkpoint.Path(file))
            raise Killed

    mindspore_save = mindspore.save_checkpoint
    with monkeypatch.context() as patched:
        patched.setattr(mindspore, "save_checkpoint", half)
        for name in ("replace", "unlink", "write_text", "symlink_to"):
            patched.setattr(checkpoint.Path, name, or_kill(getattr(checkpoint.Path, name)))
        try:
            folder.save_best(net(3.0), 3)
            folder.save(net(3.0), replace(POSITION, step=3, best=(0.03, 3)))
        except Killed:
            pass
    assert operations >= killed_at
    again = CheckpointFolder(folder.folder, kept=2)
    position = again.newest()
    assert (position.step, position.best[1]) in ((2, 1), (3, 3))
    again.rollback_to(position)
    assert weights(again.last) == {float(position.step)}
    assert weights(again.best) == {float(position.best[1])}
    assert not list(folder.folder.glob(".*"))
    save(again, 4, best=(4,))
    assert again.newest().step == 4
    assert len(names(again)) == 2 + 2 + 2  # links, checkpoints and their best weights


def test_every_file_is_synced_before_it_is_renamed(folder, monkeypatch):
    synced, renamed = [], []
    monkeypatch.setattr(files, "sync_file", lambda path: synced.append(path.name))
    replace_file = checkpoint.Path.replace

    def rename(path, target):
        if target.suffix != ".ckpt" or not path.is_symlink():
            assert synced[-1] == path.name
            renamed.append(target.name)
        return replace_file(path, target)

    monkeypatch.setattr(checkpoint.Path, "replace", rename)
    save(folder, 1, best=(1,))
    assert renamed == ["best-00000001.ckpt", "best-00000001.sha256", "step-00000001.ckpt", "step-00000001.json"]
    assert synced.count("checkpoints") == len(renamed)  # the folder, too


def test_recorded_hash_equals_the_files_hash(folder):
    import hashlib

    save(folder, 1, best=(1,))
    recorded = json.loads(folder.file(1).with_suffix(".json").read_text())["sha256"]
    assert recorded == {n: hashlib.sha256((folder.folder / n).read_bytes()).hexdigest() for n in recorded}
    assert set(recorded) == {"step-00000001.ckpt", "best-00000001.ckpt"}


def test_optimizer_between_two_updates_resumes_with_its_gradient_sums(folder):
    """The accumulated gradients are in the checkpoint with the weights."""
    from rp2k_lab.config.choices import defaults_of
    from rp2k_lab.train.optimizer.sgd import Sgd
    from rp2k_lab.train.schedule.constant import Constant
    from rp2k_lab.train.updates import Plan, build_optimizer

    options = Sgd.model_validate(defaults_of("optimizer", "sgd") | {"accumulate_steps": 2})
    schedule = Constant(name="constant", warmup_epochs=0.0)
    optimizer, _ = build_optimizer(options, schedule, net(1.0), Plan(1, 4, 8))
    optimizer.sums[0].set_data(Tensor(np.full((3, 2), 7, np.float32)))
    folder.save(optimizer, replace(POSITION, best=None))
    other, _ = build_optimizer(options, schedule, net(), Plan(1, 4, 8))
    assert load_checkpoint(other, folder.last) == 3
    assert (other.sums[0].asnumpy() == 7).all()
