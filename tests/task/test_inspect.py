"""task=inspect: the real command, and its refusals."""

import pytest

from rp2k_lab.config import parse
from rp2k_lab.errors import RequestError
from rp2k_lab.task import inspect


def test_the_zoo_is_printed_and_nothing_is_kept(start):
    command = start("task=inspect", "task.models=[resnet18]", "task.size=64", "task.seconds=0.1")
    code, out, err = command.wait()
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("resnet18"))
    parameters, multiply_adds, unit, width, smallest, speed, *source = line.split()[1:]
    assert (parameters, multiply_adds, unit, width, smallest) == ("11,689,512", "0.15", "G", "512", "32")
    assert float(speed) > 0
    assert source[-2:] == ["timm", "resnet18"]
    assert "next        python run.py model=resnet18" in out
    assert command.store.runs() == []
    assert list((command.folder / "out").iterdir()) == []


@pytest.mark.parametrize(("models", "size", "word"), [("resnet19", 224, "resnet19"), ("inception_resnet_v2", 64, "75")])
def test_what_cannot_be_built_is_refused(compose, tmp_path, models, size, word):
    config = parse(compose("task=inspect", f"task.models=[{models}]", f"task.size={size}"))
    with pytest.raises(RequestError, match=word):
        inspect.run(config, tmp_path)
