import importlib
from types import SimpleNamespace

import mindspore
import pytest

from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import RequestError
from rp2k_lab.device import target


def options(**changes):
    default = {"name": "cpu", "precision": "float32", "loss_scale": 1, "deterministic": False}
    return SimpleNamespace(**default | changes)


def test_set_up_selects_graph_mode(pynative, capsys):
    assert "PyNative" in target.describe(options())
    target.set_up(options())
    assert mindspore.get_context("mode") == mindspore.GRAPH_MODE
    assert target.describe(options()) == "CPU, graph mode, float32"
    assert capsys.readouterr() == ("", "")


def test_set_up_can_be_repeated():
    """A sweep runs its jobs in one process."""
    for _ in range(2):
        target.set_up(options())


def test_missing_device_is_refused(monkeypatch):
    monkeypatch.setattr(target.gpu_libraries, "load", lambda: "")
    monkeypatch.setattr(target, "_is_available", lambda target: False)
    with pytest.raises(RequestError, match="device=gpu") as error:
        target.set_up(options(name="gpu"))
    assert str(error.value).splitlines()[1] == "use device=cpu"


def test_available_devices_are_suggested(monkeypatch):
    monkeypatch.setattr(target, "_is_available", lambda target: target == "GPU")
    with pytest.raises(RequestError, match="use device=cpu or gpu"):
        target.set_up(options(name="ascend"))


def test_cuda_of_the_user_that_mindspore_cannot_use_is_named(monkeypatch):
    monkeypatch.setenv("CUDA_HOME", "/usr/local/cuda-12.8")
    monkeypatch.setattr(target.gpu_libraries, "load", lambda: "")  # with a driver
    monkeypatch.setattr(target, "_is_available", lambda target: False)
    with pytest.raises(RequestError) as error:
        target.set_up(options(name="gpu"))
    what, way_out = str(error.value).splitlines()
    assert what == (
        "device=gpu: MindSpore cannot use CUDA_HOME=/usr/local/cuda-12.8: it needs CUDA 11.6 or 11.8, and cuDNN 8"
    )
    assert way_out.startswith("unset CUDA_HOME")


def test_device_check_keeps_the_log_level():
    import logging

    logger = logging.getLogger("MindSpore")
    before = logger.level
    target._is_available("GPU")
    assert logger.level == before


@pytest.mark.parametrize("task", ["train", "evaluate", "ensemble"])
def test_missing_device_is_refused_before_images_are_listed(monkeypatch, compose, tmp_path, task):
    monkeypatch.setattr(target, "_is_available", lambda target: False)
    module = importlib.import_module(f"rp2k_lab.task.{task}")
    monkeypatch.setattr(module, "build_index", lambda dataset: pytest.fail("listed the images first"))
    config = parse(compose("device=gpu"))
    with pytest.raises(RequestError, match="device=gpu"):
        module.run(config, tmp_path)
