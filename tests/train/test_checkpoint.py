import os
import stat

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from rp2k_lab.train.checkpoint import load_checkpoint, save_checkpoint


def net(outputs=3, value=0.0):
    return nn.SequentialCell([nn.Dense(2, outputs, weight_init=value), nn.BatchNorm1d(outputs)])


def test_restores_parameters_statistics_and_step(tmp_path):
    source, target = net(), net()
    source[0].weight.set_data(Tensor(np.arange(6, dtype=np.float32).reshape(3, 2)))
    source[1].moving_mean.set_data(Tensor(np.float32([1, 2, 3])))
    save_checkpoint(source, tmp_path / "a.ckpt", 123_456)
    assert load_checkpoint(target, tmp_path / "a.ckpt") == 123_456
    for one, other in zip(source.get_parameters(), target.get_parameters(), strict=True):
        np.testing.assert_array_equal(one.asnumpy(), other.asnumpy(), err_msg=one.name)


def test_save_creates_the_folder_and_no_other_file(tmp_path):
    save_checkpoint(net(), tmp_path / "new" / "最好.ckpt", 1)
    assert os.listdir(tmp_path / "new") == ["最好.ckpt"]
    assert stat.S_IMODE((tmp_path / "new" / "最好.ckpt").stat().st_mode) == 0o644


def test_save_replaces_an_older_file(tmp_path):
    file = tmp_path / "a.ckpt"
    save_checkpoint(net(value=1.0), file, 1)
    save_checkpoint(net(value=2.0), file, 2)
    target = net()
    assert load_checkpoint(target, file) == 2
    assert (target[0].weight.asnumpy() == 2).all()


def test_a_failed_save_keeps_the_older_file(tmp_path, monkeypatch):
    file = tmp_path / "a.ckpt"
    save_checkpoint(net(value=1.0), file, 1)

    def half(_, name, **__):
        with open(name, "wb") as part:
            part.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(mindspore, "save_checkpoint", half)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(net(value=2.0), file, 2)
    target = net()
    assert load_checkpoint(target, file) == 1
    assert (target[0].weight.asnumpy() == 1).all()


def test_missing_parameters_are_named(tmp_path):
    save_checkpoint(nn.SequentialCell([nn.Dense(2, 3)]), tmp_path / "a.ckpt", 1)
    with pytest.raises(ValueError, match=r"a\.ckpt: lacks 4 parameters of the network, the first is 1\."):
        load_checkpoint(net(), tmp_path / "a.ckpt")


def test_another_number_of_classes_is_refused(tmp_path):
    save_checkpoint(net(outputs=3), tmp_path / "a.ckpt", 1)
    with pytest.raises(ValueError, match=r"0\.weight has shape \(3, 2\), but \(4, 2\) in the network"):
        load_checkpoint(net(outputs=4), tmp_path / "a.ckpt")


def test_a_file_of_another_program_is_refused(tmp_path):
    mindspore.save_checkpoint(net(), str(tmp_path / "a.ckpt"))
    with pytest.raises(ValueError, match="no step count"):
        load_checkpoint(net(), tmp_path / "a.ckpt")
